"""The command line: `uss-bench run`, `import`, `fit` and `suggest`."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__, config, fit, pipeline, suggest
from .data import cohort, datasets
from .request import Run
from .runtime import stopping
from .runtime.exits import exit_code
from .runtime.team import local_rank
from .study.strategies import FEATURED, STRATEGIES

PROGRAM = "uss-bench"
MOST_NAMED = 10  # seeds in the name of a folder
RUN_HELP: dict[str, Any] = {
    "description": "Simulate the annotation workflow with several query strategies and write a report.",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "epilog": "settings for --set, with the values of the preset paper:\n" + "\n".join(config.describe()),
}
FIT_HELP = {
    "description": "Train one network on all that a manifest's pool has annotated, single slices included.\n"
    "With validation cases, training ends by training.patience or after training.converged_max_steps, with\n"
    "the best validated state (where training.anneal is set, with the last); without, it ends after\n"
    "training.max_steps or training.max_epochs with the last. The same command continues a stopped training.",
    "epilog": RUN_HELP["epilog"],
    "formatter_class": argparse.RawDescriptionHelpFormatter,
}
SUGGEST_HELP = {
    "description": "Choose the slices of CTs that are worth annotating next, and write label files with a "
    "proposal on these slices and the ignore code elsewhere, for an annotator to correct.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; `arguments` are those of the command line by default."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Reproducible benchmark of uncertainty slice sampling."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run_arguments(commands.add_parser("run", help="run the benchmark, or continue it", **RUN_HELP))
    datasets.add_arguments(
        commands.add_parser("import", help="write the manifest of a public dataset", **datasets.HELP)
    )
    _add_fit_arguments(
        commands.add_parser("fit", help="train one network on all that is annotated", **FIT_HELP)
    )
    _add_suggest_arguments(
        commands.add_parser("suggest", help="choose the slices to annotate next", **SUGGEST_HELP)
    )
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    if command == "run":
        return _run(PROGRAM, options)
    if command == "import":
        return exit_code(PROGRAM, partial(datasets.run, **options))
    stopping.install()
    if command == "fit":
        return exit_code(PROGRAM, partial(fit.fit, fit.Fit(**options)))
    return exit_code(PROGRAM, partial(suggest.suggest, suggest.Suggest(**options)))


def run_main(arguments: Sequence[str], program: str) -> int:
    """Run `uss-bench run` as a program of its own, and return its exit code."""
    parser = argparse.ArgumentParser(prog=program, **RUN_HELP)
    _add_run_arguments(parser)
    return _run(program, vars(parser.parse_args(arguments)))


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--strategy",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="all (the paper's four, the default), extended (all that ship), any of "
        f"{', '.join(STRATEGIES)}, or FILE.py:NAME for one of your own",
    )
    add(
        "--queries", nargs="+", action="extend", default=[], metavar="LABEL=FILE.csv",
        help="lists of queries, as results/queries.csv has them, to train and evaluate as further strategies",
    )  # fmt: skip
    add("--manifest", type=Path, help=f"CSV of cases ({cohort.FILE}, the embedded phantoms)")
    _add_settings(parser, "quick")
    add(
        "--seed", type=int, nargs="+", action="extend", metavar="N",
        help="seed of all random draws; several seeds add a report across them (0)",
    )  # fmt: skip
    _add_place(parser)
    add("--reports", type=Path, default=Path("reports"), help="folder for reports (reports)")
    add("--name", help="name of the run and its report (PRESET-seedN); of several seeds, NAME-seedN")
    add(
        "--workers", type=int, metavar="N",
        help="processes that share the work, which changes no result "
        "(one per GPU, or one per core and at most 4)",
    )  # fmt: skip
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--dry-run",
        action="store_true",
        help="check all but voxels, print the plan and its cost, run nothing",
    )
    only.add_argument(
        "--status", action="store_true", help="say how a run is doing, for example from another terminal"
    )
    only.add_argument(
        "--report-only", action="store_true", help="rebuild the report from its results, run nothing"
    )


def _add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", type=Path, help="CSV of cases")
    parser.add_argument("--output", type=Path, required=True, help="model file to write")
    _add_settings(parser, "real")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random draws (0)")
    _add_place(parser)
    parser.add_argument("--name", help="name of the training's folder in --runs (fit-OUTPUT)")


def _add_suggest_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, help="model file that `uss-bench fit` wrote")
    add(
        "images", type=Path, nargs="+", metavar="CT",
        help="NIfTI file; with SimpleITK also DICOM folder, MetaImage or NRRD file",
    )  # fmt: skip
    add(
        "--slices",
        type=int,
        required=True,
        metavar="N",
        help="how many slices of the model's working grid to ask for",
    )
    add("--output", type=Path, required=True, help="new folder to write")
    add(
        "--strategy",
        default=FEATURED,
        metavar="NAME",
        help=f"one that asks for slices, or FILE.py:NAME ({FEATURED})",
    )
    add(
        "--annotated", type=Path, metavar="MANIFEST",
        help="CSV of what is annotated already, as `uss-bench fit` was given it; what is annotated is not "
        "suggested, and the new manifest holds both",
    )  # fmt: skip
    _add_place(parser)


def _add_settings(parser: argparse.ArgumentParser, preset: str) -> None:
    parser.add_argument(
        "--preset", choices=list(config.PRESETS), default=preset,
        help="settings to start from: quick, study and smoke are for the phantoms, real and real-smoke for a "
        f"handful of real CTs on a CPU, paper is the paper's protocol ({preset})",
    )  # fmt: skip
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[],
        help="change a setting; may be repeated. Lengths and sizes are z,y,x",
    )  # fmt: skip


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto",
        help="where networks run (auto: CUDA if there is one)",
    )  # fmt: skip
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"),
        help="folder for models and stages, from which work continues (runs)",
    )  # fmt: skip


def _run(program: str, options: dict[str, Any]) -> int:
    actions = [name for name in ("dry_run", "status", "report_only") if options.pop(name)]
    runs = runs_asked_for(**options)
    stopping.install()
    work = partial(pipeline.perform, actions[0] if actions else "run", runs, program)
    return exit_code(program, work, local_rank())


def runs_asked_for(
    seed: Sequence[int] | None,
    name: str | None,
    manifest: Path | None,
    strategy: Sequence[str] | None,
    overrides: Sequence[str],
    queries: Sequence[str],
    **options: Any,
) -> list[Run]:
    """One run per seed, each of them once, from the options of the command line."""
    seeds = list(dict.fromkeys(seed or [0]))
    title = name or options["preset"]
    shared = Run(
        manifest=manifest or cohort.FILE, make_manifest=manifest is None,
        strategies=tuple(strategy or ["all"]), queries=tuple(queries), overrides=tuple(overrides),
        seed=seeds[0],
        name=name or f"{title}-seed{seeds[0]}",
        across_name=f"{title}-seeds{_seeds_text(sorted(seeds))}", **options,
    )  # fmt: skip
    if len(seeds) == 1:
        return [shared]
    return [replace(shared, seed=number, name=f"{title}-seed{number}") for number in seeds]


def _seeds_text(seeds: Sequence[int]) -> str:
    """Seeds as part of a folder's name, which must stay short.

    >>> _seeds_text([0, 1, 5]), _seeds_text(range(40))
    ('0-1-5', '0-to-39-f7192e2c')
    """
    if len(seeds) <= MOST_NAMED:
        return "-".join(map(str, seeds))
    which = zlib.crc32(",".join(map(str, sorted(seeds))).encode())
    return f"{min(seeds)}-to-{max(seeds)}-{which:08x}"
