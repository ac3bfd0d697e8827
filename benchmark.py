#!/usr/bin/env python
"""Benchmark of uncertainty slice sampling (USS) against UVS, RVS and RSS: simulates the annotation workflow, writes a report."""

import argparse
import sys
from pathlib import Path

from uss_bench import config, pipeline, stopping
from uss_bench.strategies import STRATEGIES


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings for --set (with the paper's values):\n" + "\n".join(config.describe()),
    )
    parser.add_argument("--strategy", choices=["all", *(name.lower() for name in STRATEGIES)], default="all", help="what to run (all)")
    parser.add_argument(
        "--manifest", type=Path, default=Path(__file__).parent / "data_manifest.csv", help="CSV of cases (synthetic phantoms)"
    )
    parser.add_argument("--preset", choices=list(config.PRESETS), default="quick", help="settings to start from (quick)")
    parser.add_argument(
        "--seed", type=int, nargs="+", action="extend", help="names every random draw; several give a report across them (0)"
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="where networks run (auto: CUDA where there is one)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for models and stages, from which a run continues (runs)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder for reports (reports)")
    parser.add_argument("--name", help="name of the run and its report (PRESET-seedN)")
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help="change a setting; may be repeated"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that share the work, which changes no result (one a GPU, or one a core and at most 4)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan and its cost, run nothing")
    parser.add_argument("--status", action="store_true", help="tell how a run is getting on, for example from another terminal")
    parser.add_argument("--report-only", action="store_true", help="rebuild the report from its results, run nothing")
    options = vars(parser.parse_args(arguments))
    strategy = options.pop("strategy")
    options["seeds"] = list(dict.fromkeys(options.pop("seed") or [0]))
    options["strategies"] = STRATEGIES if strategy == "all" else (strategy.upper(),)
    return options


def main(arguments=None):
    options = parse_arguments(arguments)
    stopping.install()
    return pipeline.exit_code(pipeline.run_seeds, **options)


if __name__ == "__main__":
    sys.exit(main())
