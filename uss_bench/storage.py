"""Files: atomic writes, the formats of results, and the names of everything a run leaves on disk.

A file either exists whole or not at all: it is written under a temporary name in the same folder, flushed to the disk and renamed.
"""

import csv
import gzip
import hashlib
import io
import json
import os
import re
import secrets
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import torch

CASES, ANNOTATION, QUERIES, TRAINING, VOLUMES, TIMING = (
    f"results/{name}.csv" for name in ("cases", "annotation", "queries", "training", "volumes", "timing")
)
PROVENANCE = "results/provenance.json"
SLICES = "results/slices.npz"


def model_folder(run, model, strategy, iteration):
    """Folder of a model inside a run: `initial`, `USS/iter-1`, `USS/converged`, `data-pool`."""
    names = {
        "initial": "initial",
        "iteration": f"{strategy}/iter-{iteration}",
        "converged": f"{strategy}/converged",
        "data pool": "data-pool",
    }
    return Path(run) / names[model]


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path` (same suffixes) that replaces it when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{secrets.token_hex(6)}-{path.name}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path, columns, rows):
    """Write dictionaries as CSV. Floats keep six significant digits, None becomes an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _cell(row[column]) for column in columns} for row in rows)
    write_text(path, buffer.getvalue())


def _cell(value):
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def read_csv(path):
    """Rows of a CSV file as dictionaries of strings."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save_checkpoint(path, value):
    with atomic_path(path) as temporary:
        torch.save(value, temporary)


def load_checkpoint(path, device="cpu"):
    return torch.load(path, map_location=device, weights_only=True)


def write_nifti(path, array, affine):
    """Write a `.nii.gz` whose bytes depend on the content alone: no time, no file name in the gzip header."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def natural_key(path):
    """Sorting key by which `slice-2` comes before `slice-10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def file_digest(path):
    """SHA-256 of a file's bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
