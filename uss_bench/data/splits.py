"""Splits for the cases of an imported dataset: by patient, site and seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..runtime.errors import InputError
from ..runtime.seeding import generator
from ..runtime.storage import natural_key
from .manifest import SPLITS, Case


def assign_splits(
    existing: Sequence[Case], new: Sequence[Case], shares: Sequence[float], seed: int
) -> list[Case]:
    """Draw splits for new cases.

    Within each site, patients are shared out as near to `shares` as whole patients can be. Those of
    `existing` keep their split and are counted in. A patient with scans at several sites counts at the first.
    Partly annotated cases can be trained on alone, so their patients are in the pool.

    Parameters
    ----------
    existing, new : sequence of Case
        Cases with and without splits.
    shares : sequence of float
        Shares of the pool, validation and test patients; they sum to 1.
    seed : int
        Names the draw, which does not depend on the order of the cases.

    Returns
    -------
    list of Case
        The new cases with their splits, in their order.
    """
    split_of = {case.patient_id: "pool" for case in new if case.ignore_value is not None}
    split_of |= {case.patient_id: case.split for case in existing}
    site_of = {}
    for case in (*existing, *new):
        site_of.setdefault(case.patient_id, case.site)
    for site in dict.fromkeys(site_of.values()):
        patients = sorted((patient for patient in site_of if site_of[patient] == site), key=natural_key)
        fresh = [patient for patient in patients if patient not in split_of]
        if not fresh:
            continue
        taken = Counter(split_of[patient] for patient in patients if patient in split_of)
        lacking = [
            max(0, quota - taken[split])
            for split, quota in zip(SPLITS, _apportion(len(patients), shares), strict=True)
        ]
        splits = np.repeat(SPLITS, _apportion(len(fresh), lacking))
        order = generator(seed, purpose="split", case=site).permutation(len(fresh))
        split_of.update((fresh[index], str(split)) for index, split in zip(order, splits, strict=True))
    return [replace(case, split=split_of[case.patient_id]) for case in new]


def parse_shares(text: str) -> list[float]:
    """Shares of pool, validation and test from the argument of `--split`.

    >>> parse_shares("pool=0.6,test=0.4")
    [0.6, 0.0, 0.4]
    """
    try:
        shares = {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        shares = {}
    if (
        not shares
        or not {*shares} <= {*SPLITS}
        or min(shares.values()) < 0
        or not abs(sum(shares.values()) - 1) <= 1e-6  # of which NaN is neither
    ):
        raise InputError(
            f"--split {text}: not shares of {', '.join(SPLITS)} that sum to 1; "
            "write them as pool=0.5,val=0.05,test=0.45"
        )
    return [shares.get(split, 0.0) for split in SPLITS]


def _apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in the ratio of `weights` that sum to `total`; the largest remainders are rounded up.

    >>> _apportion(7, (0.5, 0.05, 0.45))
    [4, 0, 3]
    """
    shares = np.array(weights) * total / np.sum(weights)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()
