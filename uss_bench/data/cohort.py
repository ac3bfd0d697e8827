"""The embedded cohort: which variant of patient lies at which site and in which split.

The pool is what an archive is: most patients are alike, and what is rare is there once. The test split holds
enough of every variant to speak about it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from ..runtime.storage import csv_text, write_csv
from .variants import COMMON, RARE

FILE = Path("data_manifest.csv")  # in the working folder

# Cases by site and by variant. Both columns of a split have the same sum.
MIX = {
    "pool": (
        {"north": 15, "east": 8, "south": 6, "west": 5, "island": 2},
        {"normal": 25, "lesions": 2, "fatty": 2, "cysts": 1} | dict.fromkeys(RARE, 1),
    ),
    "val": (
        {"north": 3, "east": 2, "south": 1, "west": 1, "island": 1},
        {"normal": 4, "lesions": 1, "resected": 1, "cirrhotic": 1, "ascites": 1},
    ),
    "test": (
        {"north": 13, "east": 10, "south": 9, "west": 8, "island": 5},
        {"normal": 18} | dict.fromkeys(COMMON[1:] + RARE, 3),
    ),
}
COLUMNS = ("case_id", "site", "split", "image", "label", "phantom")


def spread(counts: Mapping[str, int], stagger: float) -> list[str]:
    """Each name as often as `counts` says, spread over the list, so that any stretch of it is a mix too."""
    starts = {name: (number + 1) * stagger % 1 for number, name in enumerate(counts)}
    places = [
        ((index + starts[name]) / count, name) for name, count in counts.items() for index in range(count)
    ]
    return [name for _, name in sorted(places)]


def default_cohort(folder: str | Path = "data/phantoms") -> list[dict[str, str]]:
    """Rows of the embedded manifest: one dict a case, keys as in `COLUMNS`, paths in `folder`."""
    rows, seen = [], dict.fromkeys(MIX["pool"][0], 0)
    for split, (sites, variants) in MIX.items():
        # A stretch of sites for each variant, so that sites do not differ by their variants.
        remaining = iter(spread(sites, 0.618))
        sites_of = {variant: [next(remaining) for _ in range(count)] for variant, count in variants.items()}
        for variant in spread(variants, 0.82):
            site = sites_of[variant].pop(0)
            seen[site] += 1
            case_id = f"{site}-{seen[site]:02d}"
            paths = f"{folder}/{case_id}.nii.gz", f"{folder}/{case_id}_liver.nii.gz"
            rows.append(dict(zip(COLUMNS, (case_id, site, split, *paths, variant), strict=True)))
    return rows


def is_default_manifest(digest: str) -> bool:
    """Whether a SHA-256 is that of the embedded manifest, all of whose cases are phantoms."""
    return digest == hashlib.sha256(csv_text(COLUMNS, default_cohort()).encode()).hexdigest()


def write_default_manifest(path: str | Path, folder: str | Path = "data/phantoms") -> bool:
    """Write the embedded manifest to `path`, unless something is there; returns whether it was written.

    Paths in `folder` are relative to the manifest, as in any other.
    """
    if os.path.lexists(path):
        return False
    write_csv(path, COLUMNS, default_cohort(folder))
    return True
