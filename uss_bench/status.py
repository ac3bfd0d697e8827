"""What a run folder tells of a run from outside, while it runs or afterwards."""

import time
from pathlib import Path

from . import InputError, lock
from .progress import STATUS
from .storage import CURVE, RUN, model_folder, read_csv, read_json
from .strategies import STRATEGIES


def describe_run(folder):
    """Text for `--status`: what is done, what each process does, how trainings go, who holds the folder.

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
    models = [("initial", "", 0), ("data pool", "", None)]
    for strategy in STRATEGIES:
        if strategy not in origin["strategies"] and not (folder / strategy).exists():
            continue
        iterations = origin["config"]["query"]["iterations"]
        models += [("iteration", strategy, number) for number in range(1, iterations + 1)] + [("converged", strategy, iterations)]
    folders = [model_folder(folder, *key) for key in models]
    done = {stage: [path for path in folders if (path / f"{stage}.json").exists()] for stage in ("training", "evaluation")}
    lines = [
        f"{folder}: {len(done['training'])} of {len(models)} models trained, {len(done['evaluation'])} evaluated",
        f"held by {holder}" if (holder := lock.describe(folder)) else "not running",
    ]
    for path in sorted((folder / STATUS).glob("[0-9]*.json"), key=lambda path: int(path.stem)):
        note = read_json(path)
        lines.append(f"process {path.stem}, {max(0, time.time() - note['time']):.0f} s ago: {note['text']}")
    for path in folders:
        if (path / CURVE).exists() and path not in done["training"]:
            last = read_csv(path / CURVE)[-1]
            lines.append(f"{path.relative_to(folder)}: step {last['step']}, loss {last['loss']}, validation Jaccard {last['jaccard']}")
    return "\n".join(lines)
