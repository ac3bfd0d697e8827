"""What the active-learning loop costs beside its trainings and inferences, each timed in a real run.

    python tests/performance/loop.py [--set KEY=VALUE ...]

The rest of the run's wall time is the loop's own: queries, annotations, checkpoints, curves, stage files.
Scoring against the reference and the results at the end are named beside it, since a bare script would want
them too. One process does all the work.
"""

import argparse
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from _timing import machine

from uss_bench import pipeline
from uss_bench.network import training
from uss_bench.study import models, simulation
from uss_bench.study.strategies import PAPER

STEPS, WAITING, PREDICTION, SCORING, EVALUATION, VALIDATION, RUN = (
    "training steps",
    "waiting for mini-batches",
    "predictions",
    "Monte Carlo scoring",
    "scores on the native grid",
    "scores of validations",
    "the whole simulation",
)
# The function that each calls; the last holds all the others.
PARTS = {
    STEPS: (training.Training, "update"),
    PREDICTION: (models, "predict"),
    SCORING: (models, "predict_mc"),
    EVALUATION: (models, "evaluate_case"),
    VALIDATION: (models, "validation_jaccard"),
    RUN: (simulation.Simulation, "run"),
}
DEFAULTS = [
    "data.pool=8",
    "data.val=2",
    "data.test=4",
    "query.iterations=1",
    "training.max_steps=80",
    "training.converged_max_steps=160",
]


@contextmanager
def timed():
    """Lists of wall seconds, one entry a call, of every part that is called while the block runs."""
    seconds = {part: [] for part in (*PARTS, WAITING)}

    def ahead(items):
        with closing(training_ahead(items)) as loaded:
            waiting = timing(next, seconds[WAITING])
            while (item := waiting(loaded, None)) is not None:
                yield item

    training_ahead = training.ahead

    def timing(function, times):
        def call(*arguments, **keywords):
            started = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                if not seconds[RUN]:  # the figures of the report, made after it, predict once more
                    times.append(time.perf_counter() - started)

        return call

    with ExitStack() as stack:
        for part, (owner, name) in PARTS.items():
            stack.enter_context(patch.object(owner, name, timing(getattr(owner, name), seconds[part])))
        stack.enter_context(patch.object(training, "ahead", ahead))
        yield seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", help="changes of the preset `quick`"
    )
    overrides = parser.parse_args().overrides or DEFAULTS
    machine("torch")
    manifest = Path(__file__).parents[2] / "data_manifest.csv"
    with TemporaryDirectory() as folder, timed() as seconds:
        run = pipeline.Run(
            manifest=manifest,
            strategies=PAPER,
            preset="quick",
            overrides=tuple(overrides),
            seed=0,
            device="cpu",
            runs=Path(folder) / "runs",
            reports=Path(folder) / "reports",
            name="loop",
            workers=1,
        )
        pipeline.execute(run, "loop.py")

    spent = {part: sum(times) for part, times in seconds.items()}
    bare = spent[STEPS] + spent[PREDICTION] + spent[SCORING]
    own = 2 * spent[RUN] - sum(spent.values())
    print(
        f"\n| `quick` with {', '.join(overrides)} | calls | wall [s] | of trainings and inferences |",
        "| --- | ---: | ---: | ---: |",
        sep="\n",
    )
    for part in seconds:
        print(f"| {part} | {len(seconds[part])} | {spent[part]:.2f} | {spent[part] / bare:.1%} |")
    print(f"| the loop's own | | {own:.2f} | {own / bare:.1%} |")
    print(f"\nA step waits {spent[WAITING] / spent[STEPS]:.1%} of its time for its mini-batch.")


if __name__ == "__main__":
    main()
