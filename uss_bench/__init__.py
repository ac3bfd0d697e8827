"""uss-bench: a reproducible benchmark of uncertainty slice sampling for 3D CT segmentation.

The public names are loaded when they are first asked for: `import uss_bench` alone loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .data.manifest import Case, read_manifest
    from .network.aunet import AUNet
    from .network.inference import predict, predict_mc
    from .network.uncertainty import predictive_entropy, slice_profile, volume_uncertainty
    from .runtime.errors import InputError
    from .study.metrics import segmentation_metrics
    from .study.strategies import Pool, Query, Strategy, slice_candidates

_HOMES = {
    "data.manifest": ("Case", "read_manifest"),
    "network.aunet": ("AUNet",),
    "network.inference": ("predict", "predict_mc"),
    "network.uncertainty": ("predictive_entropy", "slice_profile", "volume_uncertainty"),
    "runtime.errors": ("InputError",),
    "study.metrics": ("segmentation_metrics",),
    "study.strategies": ("Pool", "Query", "Strategy", "slice_candidates"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AUNet",
    "Case",
    "InputError",
    "Pool",
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
