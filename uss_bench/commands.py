"""The command line: `uss-bench run` and `uss-bench import`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__, config, pipeline
from .data import cohort, datasets
from .request import Run
from .runtime import stopping
from .runtime.exits import exit_code

PROGRAM = "uss-bench"
RUN_HELP: dict[str, Any] = {
    "description": "Simulate the annotation workflow with several query strategies and write a report.",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "epilog": "settings for --set (with the paper's values):\n" + "\n".join(config.describe()),
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
    options = vars(parser.parse_args(arguments))
    if options.pop("command") == "import":
        return exit_code(PROGRAM, partial(datasets.run, **options))
    return _run(PROGRAM, options)


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
        default=["all"],
        metavar="NAME",
        help="all (the paper's four, the default), extended (all that ship), names, "
        "or FILE.py:NAME for one of your own",
    )
    add(
        "--queries", nargs="+", action="extend", default=[], metavar="LABEL=FILE.csv",
        help="lists of queries, as results/queries.csv has them, to train and evaluate as further strategies",
    )  # fmt: skip
    add("--manifest", type=Path, help=f"CSV of cases ({cohort.FILE}, the embedded phantoms)")
    add("--preset", choices=list(config.PRESETS), default="quick", help="settings to start from (quick)")
    add(
        "--seed", type=int, nargs="+", action="extend", metavar="N",
        help="names every random draw; several give a report across them (0)",
    )  # fmt: skip
    add(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where networks run (auto: CUDA if there is one)",
    )
    add(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="folder for models and stages, from which a run continues (runs)",
    )
    add("--reports", type=Path, default=Path("reports"), help="folder for reports (reports)")
    add("--name", help="name of the run and its report (PRESET-seedN)")
    add(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[],
        help="change a setting; may be repeated",
    )  # fmt: skip
    add(
        "--workers", type=int, metavar="N",
        help="processes that share the work, which changes no result "
        "(one per GPU, or one per core and at most 4)",
    )  # fmt: skip
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--dry-run", action="store_true", help="check everything, print the plan and its cost, run nothing"
    )
    only.add_argument(
        "--status", action="store_true", help="say how a run is doing, for example from another terminal"
    )
    only.add_argument(
        "--report-only", action="store_true", help="rebuild the report from its results, run nothing"
    )


def _run(program: str, options: dict[str, Any]) -> int:
    actions = [name for name in ("dry_run", "status", "report_only") if options.pop(name)]
    runs = runs_asked_for(**options)
    stopping.install()
    work = partial(pipeline.perform, actions[0] if actions else "run", runs, program)
    return exit_code(program, work, pipeline.torchrun_rank())


def runs_asked_for(
    seed: Sequence[int] | None,
    name: str | None,
    manifest: Path | None,
    strategy: Sequence[str],
    overrides: Sequence[str],
    queries: Sequence[str],
    **options: Any,
) -> list[Run]:
    """One run per seed, each of them once, from the options of the command line."""
    seeds = list(dict.fromkeys(seed or [0]))
    title = name or options["preset"]
    shared = Run(
        manifest=manifest or cohort.FILE, make_manifest=manifest is None, strategies=tuple(strategy),
        queries=tuple(queries), overrides=tuple(overrides), seed=seeds[0],
        name=name or f"{title}-seed{seeds[0]}",
        across_name=name or f"{title}-seeds{'-'.join(map(str, seeds))}", **options,
    )  # fmt: skip
    if len(seeds) == 1:
        return [shared]
    return [replace(shared, seed=number, name=f"{title}-seed{number}") for number in seeds]
