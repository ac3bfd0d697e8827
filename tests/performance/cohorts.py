"""What a pool's properties do to random and to uncertainty sampling: USS and RSS on four pools of phantoms.

    python tests/performance/cohorts.py FOLDER [--seed 0 1] [--set KEY=VALUE ...]

Validation and test cases are those of the embedded cohort. Runs and reports go to FOLDER, and a second call
continues them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from uss_bench.commands import run_main
from uss_bench.data.cohort import COLUMNS, default_cohort
from uss_bench.data.variants import RARE
from uss_bench.report.results import read_results
from uss_bench.report.words import markdown_table
from uss_bench.runtime.storage import write_csv
from uss_bench.study.keys import DATA_POOL, INITIAL

SLICES = 18  # that USS and RSS get per iteration: about what UVS gives them in `quick`
MODELS = ("initial", "data pool", "RSS", "USS")


def pools():
    """Rows of each pool: `{name: [(case_id, site, variant), ...]}`."""
    embedded = [
        (row["case_id"], row["site"], row["phantom"]) for row in default_cohort() if row["split"] == "pool"
    ]
    normal = [case_id for case_id, _, variant in embedded if variant == "normal"]
    mirrored = normal[::2]
    return {
        "embedded": embedded,
        "redundant: as many normal cases of one site again": embedded
        + [(f"north-{100 + number}", "north", "normal") for number in range(len(embedded))],
        "rare modes missing": [
            (case_id, site, "normal" if variant in RARE else variant) for case_id, site, variant in embedded
        ],
        "honeypot: every second normal case mirrored": [
            (case_id, site, "mirrored" if case_id in mirrored else variant)
            for case_id, site, variant in embedded
        ],
    }


def write_manifest(path, pool):
    """Write a manifest with this pool; files are named by variant too, so that pools share them."""
    rest = [
        (row["case_id"], row["site"], row["phantom"], row["split"])
        for row in default_cohort()
        if row["split"] != "pool"
    ]
    rows = []
    for case_id, site, variant, split in [(*case, "pool") for case in pool] + rest:
        stem = f"phantoms/{case_id}-{variant}"
        values = (case_id, site, split, f"{stem}.nii.gz", f"{stem}_liver.nii.gz", variant)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_csv(path, COLUMNS, rows)


def scores(report):
    """Mean DICE of each of `MODELS` over all test cases / over those of rare variants, as a table's cells.

    Of a strategy, that of two trainings on its last annotations: the iteration's model and the final one.
    """
    results = read_results(report)
    rare = np.isin(results.variants, RARE)
    found = {"initial": [INITIAL], "data pool": [DATA_POOL]}
    found |= {name: [results.curve(name)[-1], results.final_models[name]] for name in results.strategies}
    dice = [np.mean([results.scores[key]["DICE"] for key in found[name]], axis=0) for name in MODELS]
    return [f"{values.mean():.3f} / {values[rare].mean():.3f}" for values in dice]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = [f"query.slices_per_iteration={SLICES}", "query.twins=0", *options.overrides]
    table = []
    for number, (name, pool) in enumerate(pools().items()):
        manifest = options.folder / f"pool-{number}.csv"
        write_manifest(manifest, pool)
        for seed in options.seed:
            run = f"pool-{number}-seed{seed}"
            code = run_main(
                [
                    *("--manifest", str(manifest), "--strategy", "uss", "rss", "--seed", str(seed)),
                    *(word for setting in settings for word in ("--set", setting)),
                    *("--name", run, "--runs", str(options.folder / "runs")),
                    *("--reports", str(options.folder / "reports")),
                ],
                "cohorts.py",
            )
            if code:
                return code
            table.append([name, seed, *scores(options.folder / "reports" / run)])
    print("\nMean DICE over all test cases / over those of rare variants.\n")
    print(markdown_table(["pool", "seed", *MODELS], table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
