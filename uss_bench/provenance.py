"""Where a run's numbers come from: what a citation needs, and what a continued run must agree with."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from . import __version__, config
from .data.manifest import SPLITS
from .request import Checked
from .runtime import storage
from .runtime.machine import device_name
from .study.strategies import Strategy

LIBRARIES = ("torch", "numpy", "scipy", "nibabel", "statsmodels")
SHAPES_NUMBERS = (
    *("config.py", "runtime/seeding.py", "runtime/machine.py"),
    *("data/*.py", "network/*.py", "study/*.py"),
)


def provenance(checked: Checked, manifest: str | Path, seed: int) -> dict[str, Any]:
    """What a citation needs, without times, paths or host names."""
    settings = checked.settings
    return {
        "uss_bench": __version__,
        "git": _git_state(),
        "code_sha256": code_digest(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "device": device_name(checked.device),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "seed": seed,
        "strategies": [strategy.name for strategy in checked.strategies],
        "further_strategies": {
            strategy.name: _origin(strategy) for strategy in checked.strategies if strategy.origin
        },
        "config": config.as_dict(settings),
        "paper_config": config.as_dict(config.Config()),
        "config_sha256": settings.digest(),
        "manifest": Path(manifest).name,
        "manifest_sha256": storage.file_digest(manifest),
        "manifest_cases": {
            split: sum(case.split == split for case in checked.manifest_cases) for split in SPLITS
        },
    }


def _origin(strategy: Strategy) -> dict[str, str]:
    """File and digest of a strategy that does not ship; what it says, unless it is a list of queries."""
    origin = strategy.origin
    known = {"file": origin.file, "sha256": origin.digest}
    return {**known, **({"replays": strategy.replays} if strategy.replays else {"source": origin.text})}


def code_digest(package: Path = Path(__file__).parent) -> str:
    """SHA-256 over the modules that shape numbers; report, plan and messages may be corrected."""
    modules = sorted(path for pattern in SHAPES_NUMBERS for path in package.glob(pattern))
    lines = [f"{path.relative_to(package).as_posix()} {storage.file_digest(path)}\n" for path in modules]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _git_state() -> dict[str, Any] | None:
    """Commit of the code and whether it was changed since, or None outside a checkout."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # fails in the repository of another project
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "uss_bench", "benchmark.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "changed": bool(changes)}
