"""uss-bench: a reproducible benchmark of uncertainty slice sampling for 3D CT segmentation.

The public names are loaded when they are first asked for: `import uss_bench` alone loads nothing else.

>>> import numpy as np
>>> import torch
>>> from uss_bench import AUNet, predict, predict_mc, predictive_entropy
>>> from uss_bench import slice_candidates, slice_profile, volume_uncertainty
>>> AUNet().halo  # that of the paper
(20, 92, 92)
>>> model = AUNet(widths=(4, 8), flat_levels=1)
>>> model.draw_weights(torch.Generator().manual_seed(0))
>>> volume = np.random.default_rng(0).normal(size=(8, 16, 16))  # scaled intensities, (z, y, x)
>>> scored = predict_mc(model, volume, samples=3)
>>> scored.mean.shape == scored.entropy.shape == predict(model, volume).shape == volume.shape
True
>>> candidates = slice_candidates(slice_profile(scored.entropy), min_distance=2)  # slices worth annotating
>>> bool(0 < volume_uncertainty(scored.entropy, scored.mean >= 0.5) <= predictive_entropy(0.5))
True

Masks are compared by `segmentation_metrics`, and `read_manifest` lists the cases of a data manifest:

>>> from uss_bench import InputError, read_manifest, segmentation_metrics
>>> reference = np.zeros((4, 4, 4), bool)
>>> reference[1:3, 1:3, 1:3] = True
>>> segmentation_metrics(np.roll(reference, 1, axis=0), reference, spacing=(1.5, 1.0, 1.0))["DICE"]
0.5
>>> try:
...     read_manifest("absent.csv")
... except InputError as error:
...     print(error)
absent.csv: cannot read the manifest (No such file or directory); give an existing CSV file

A strategy is a function that chooses queries from a pool:

>>> from uss_bench import Pool, Query, Strategy
>>> def first_open_slices(pool, count, generator):
...     return [Query(case.case_id, case.open_slices[0]) for case in pool.cases if case.open_slices][:count]
>>> Strategy("FST", "slices", first_open_slices).choose(Pool([]), 5, None)
[]
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .data.manifest import Case, read_manifest
    from .network.aunet import AUNet
    from .network.inference import predict, predict_mc
    from .network.uncertainty import predictive_entropy, slice_profile, volume_uncertainty
    from .runtime.errors import InputError
    from .study.metrics import segmentation_metrics
    from .study.pool import Pool, PoolCase, Query
    from .study.rules import slice_candidates
    from .study.strategies import Strategy

_HOMES = {
    "data.manifest": ("Case", "read_manifest"),
    "network.aunet": ("AUNet",),
    "network.inference": ("predict", "predict_mc"),
    "network.uncertainty": ("predictive_entropy", "slice_profile", "volume_uncertainty"),
    "runtime.errors": ("InputError",),
    "study.metrics": ("segmentation_metrics",),
    "study.pool": ("Pool", "PoolCase", "Query"),
    "study.rules": ("slice_candidates",),
    "study.strategies": ("Strategy",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AUNet",
    "Case",
    "InputError",
    "Pool",
    "PoolCase",
    "Query",
    "Strategy",
    "predict",
    "predict_mc",
    "predictive_entropy",
    "read_manifest",
    "segmentation_metrics",
    "slice_candidates",
    "slice_profile",
    "volume_uncertainty",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
