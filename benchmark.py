#!/usr/bin/env python
"""The benchmark: `uss-bench run`, on the phantoms of this folder unless told otherwise."""

import sys
from pathlib import Path

from uss_bench.commands import run_main


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_main(
        ["--manifest", str(Path(__file__).with_name("data_manifest.csv")), *arguments], "benchmark.py"
    )


if __name__ == "__main__":
    sys.exit(main())
