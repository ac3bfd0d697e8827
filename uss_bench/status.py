"""How a run is doing, seen from outside by its folder, while it runs or afterwards."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from .runtime import lock
from .runtime.errors import InputError
from .runtime.paths import ASKED_FOR, CURVE, RUN, STATUS
from .runtime.storage import read_csv, read_json
from .study.keys import FITTED, of_run


def describe_run(folder: str | Path) -> str:
    """Text for `--status`: what is done, what each process is doing, and who holds the folder.

    Raises
    ------
    InputError
        No run has been begun there.
    """
    folder = Path(folder)
    if not (folder / RUN).exists():
        raise InputError(
            f"{folder}: no run has been begun here, or its cases are still being read; "
            "name another with --name or --preset, --seed and --runs"
        )
    origin = read_json(folder / RUN)
    strategies = origin["strategies"]
    with suppress(FileNotFoundError):  # of `uss-bench fit`, or an earlier version
        strategies = read_json(folder / ASKED_FOR)
    query = origin["config"]["query"]
    # Without strategies it is a training by `uss-bench fit`.
    keys = of_run(strategies, query["iterations"], query["twins"]) if strategies else [FITTED]
    folders = [folder / key.folder for key in keys]
    done = {
        stage: [path for path in folders if (path / f"{stage}.json").exists()]
        for stage in ("training", "evaluation")
    }
    lines = [
        f"{folder}: {len(done['training'])} of {len(keys)} models trained, "
        f"{len(done['evaluation'])} evaluated",
        f"held by {holder}" if (holder := lock.describe(folder)) else "not running",
    ]
    for path in sorted((folder / STATUS).glob("[0-9]*.json"), key=lambda path: int(path.stem)):
        with suppress(FileNotFoundError):  # it has just ended
            note = read_json(path)
            ago = max(0, time.time() - note["time"])
            lines.append(f"process {path.stem}, {ago:.0f} s ago: {note['text']}")
    for path in folders:
        if (path / CURVE).exists() and path not in done["training"]:
            row = read_csv(path / CURVE)[-1]
            lines.append(
                f"{path.relative_to(folder)}: step {row['step']}, loss {row['loss']}, "
                f"validation Jaccard {row['jaccard']}"
            )
    return "\n".join(lines)
