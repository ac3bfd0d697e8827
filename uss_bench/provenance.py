"""Where a run's numbers come from: what a citation needs, and what a continued run must agree with."""

import hashlib
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from . import __version__, config
from .data.manifest import SPLITS
from .runtime import storage

LIBRARIES = ("torch", "numpy", "scipy", "nibabel", "statsmodels")
SHAPES_NUMBERS = ("config.py", "runtime/seeding.py", "data/*.py", "network/*.py", "study/*.py")


def provenance(checked, manifest, seed):
    """What a citation needs, without times, paths or host names; `checked` is a `pipeline.Checked`."""
    settings, device = checked.settings, checked.device
    return {
        "uss_bench": __version__,
        "git": _git_state(),
        "code_sha256": code_digest(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "seed": seed,
        "strategies": [strategy.name for strategy in checked.strategies],
        "config": config.as_dict(settings),
        "config_sha256": settings.digest(),
        "manifest": Path(manifest).name,
        "manifest_sha256": storage.file_digest(manifest),
        "manifest_cases": {
            split: sum(case.split == split for case in checked.manifest_cases) for split in SPLITS
        },
    }


def code_digest(package=Path(__file__).parent):
    """SHA-256 over the modules that shape numbers: not the report, the plan or the messages, which may be corrected."""
    modules = sorted(path for pattern in SHAPES_NUMBERS for path in package.glob(pattern))
    lines = [f"{path.relative_to(package).as_posix()} {storage.file_digest(path)}\n" for path in modules]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _git_state():
    """Commit of the code and whether it was changed since, or None outside a checkout."""
    root = Path(__file__).parent.parent
    try:
        _, commit, changes = (
            subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (
                [
                    "ls-files",
                    "--error-unmatch",
                    __file__,
                ],  # fails where the repository around is another project's
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "--", "uss_bench", "benchmark.py"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "changed": bool(changes)}
