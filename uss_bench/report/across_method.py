"""The prose of the report across seeds: what so many seeds cannot show, and how its numbers came about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..study.keys import ModelKey
from .across_summary import too_few
from .pairs import ROPES, Comparison, chosen, compared_metrics
from .seeds import Seeds
from .verdicts import (
    LEAST_CASES,
    LEAST_SEEDS,
    POWER,
    RANKED_SEEDS,
    has_interval,
    least_seeds_by_rank,
    limits_of_few_seeds,
)
from .words import listed, plural

NAMED = 5  # models that missed livers
# Of so many seeds, the most intervals that missed the truth, and the most sets of pairs with a false verdict,
# that simulations gave, in per cent: tests/report/test_simulated_seeds.py.
SIMULATED = {3: (9, 10), 4: (10, 8), 5: (8, 8)}


def limits(seeds: Seeds) -> str:
    """What fewer than six seeds, or hardly any cases, cannot show."""
    if not (few := too_few(seeds)):
        return ""
    count, points = len(seeds.runs), []
    decides = has_interval(count, len(seeds.first.cases))
    if not decides:
        points.append(
            f"With fewer than {LEAST_SEEDS} seeds or {LEAST_CASES} test cases, every pair is undecided and "
            "no interval is given: up to an eighth of them would miss the truth."
        )
    if count < RANKED_SEEDS:
        found = limits_of_few_seeds(count)
        points += [
            f"No signed-rank or sign test over {count} seeds can give p < 0.05; the least is "
            f"{found.least_p:g}.{' Verdicts assume that effects of seeds are roughly normal.' * decides}",
            "Where a table gives mean ± standard deviation over seeds, the true deviation lies between "
            f"{found.low:.2f} and {found.high:.1f} times the one given (95%). The sources under “What "
            "moves a score” are known less well still; 0 there does not mean none.",
        ]
        if decides:
            points.append(
                "Where seeds alone vary, a pair is told apart if its observed difference exceeds "
                f"{found.distinct:.1f} standard deviations of that difference between seeds; a true "
                f"difference of {found.findable:.1f} is found with a chance of {100 * POWER:.0f}%. Both are "
                "before correction for several pairs."
            )
    if decides and count in SIMULATED:
        missing, false = SIMULATED[count]
        points.append(
            f"In simulations, up to {missing}% of the intervals of {count} seeds miss the truth, not 5%, and "
            f"up to {false}% of the sets of pairs that are corrected together hold a false verdict."
        )
    lines = "\n".join(f"- {point}" for point in points)
    return f"## What {few} cannot show\n\n{lines}"


def method(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    """How the numbers above come about, and how many chances they had to mislead."""
    ropes = listed(f"{half:g} {metric}" for metric, half in ROPES.items())
    text = (
        "## How this was computed\n\n"
        "Strategies are compared by their effort curves, at equal effort, and at the same iteration, where "
        "effort may differ a little, seed by seed and case by case; those of one seed share initial "
        "volumes, first weights and Monte Carlo masks. Another seed draws these anew (initial volumes "
        "unless the manifest names them), and batches, dropout and random queries; the pool is the "
        f"same.{_fixed_queries(seeds)} Intervals are meant to hold for other such seeds and for other cases "
        "of the test split's kind: seeds and cases are crossed random factors. They are Student's t, with "
        "the variance of the mean from the mean squares of a two-way analysis of variance, negative "
        "components set to 0, and Satterthwaite's degrees of freedom (seeds that agree by chance do not "
        "add any), and assume that effects of seeds and cases are roughly normal; resampling seeds and "
        "cases covers too rarely where few seeds differ much. The project's slow tests measure both, and "
        "the rates of false verdicts.\n\n"
        "P is the probability that the first strategy scores better than the second with another seed on "
        "another case, ties counting half; where all agree, it has no interval. The interval may hold 0.5 "
        "beside a verdict, which is on means. Verdicts: better or worse, where the interval leaves zero "
        f"out; equivalent, where it lies within ± {ropes}, on whichever side of zero; else undecided, which "
        "is not equal. Distances and areas have no such region. Seeds to decide: the number of seeds that "
        f"would give a verdict, before correction, with a chance of {100 * POWER:.0f}%, were these "
        "estimates the truth; never, where the cases are too few for any number of seeds, or means are "
        "equal without a region of equivalence. Without one there is a number even where nothing truly "
        "differs."
    )
    if len(seeds.runs) >= RANKED_SEEDS:
        text += (
            " p (ranks) is that of a signed-rank test over the seeds' means: it does not assume that "
            "effects are normal, and speaks of these cases alone. It is not corrected."
        )
    if comparisons:
        budgets = len(seeds.budgets)
        pairs = len(chosen(comparisons, comparisons[0].metric, comparisons[0].budget))
        if RANKED_SEEDS <= len(seeds.runs) < (least := least_seeds_by_rank(pairs)):
            text += (
                f" Corrected for {plural(pairs, 'pair')}, it could not be below 0.05 with fewer than {least} "
                "seeds."
            )
        area = " and by the effort curve" * seeds.overlapping
        few = f" (of {LEAST_SEEDS} seeds up to 1 in 12)" * (len(seeds.runs) == LEAST_SEEDS)
        others = 1 + len(seeds.strategies) + len(seeds.contenders)
        corrected = (
            f"Intervals and verdicts are not corrected: where nothing differs, about 1 in 20{few} is called "
            "better or worse, in DICE fewer, where equivalence can be shown. p (Holm) is that of the same "
            f"t, corrected for the {plural(pairs, 'pair')} of one metric at one budget; the top calls a "
            "strategy better than another, or than the data pool's model, only where that holds after this "
            "correction. Nothing is corrected for the number of metrics and budgets."
        )
        text += (
            f"\n\nThis report makes {len(comparisons) + others} comparisons: {len(comparisons)} of "
            f"strategies ({plural(pairs, 'pair')}, each in {listed(compared_metrics(seeds))} at "
            f"{plural(budgets, 'budget')}{area}) and, at the top, {others} with the initial and the data "
            "pool model. "
        )
        decides = has_interval(len(seeds.runs), len(seeds.first.cases))
        text += corrected if decides else "None of them has an interval or a verdict."
    return "\n\n".join([text, *_missed(seeds)])


def _fixed_queries(seeds: Seeds) -> str:
    """Which strategies have asked for the same in every seed, so that their queries are not drawn anew."""
    asked = {
        name: {
            tuple(
                (row["iteration"], row["case_id"], row["slice"])
                for row in run.queries
                if row["strategy"] == name
            )
            for run in seeds.runs.values()
        }
        for name in seeds.strategies
    }
    same = [name for name, lists in asked.items() if len(lists) == 1]
    if not same:
        return ""
    return f" {listed(same)} asked for the same in every seed; what is said of them holds for these queries."


def _title(key: ModelKey, seeds: Seeds) -> str:
    if key.kind != seeds.final.kind:
        return key.title
    return f"{key.title.removesuffix('converged')}{seeds.final_word}"


def _missed(seeds: Seeds) -> Iterator[str]:
    """Which results missed the liver: a single one may decide on a pair."""
    missed = [
        f"{_title(key, seeds)}, seed {seed}, in {listed(cases)}"
        for seed, run in seeds.runs.items()
        for key, cases in run.missed.items()
        if cases
    ]
    if not missed:
        return
    count = sum(len(cases) for run in seeds.runs.values() for cases in run.missed.values())
    if len(missed) > NAMED:
        missed = [*missed[:NAMED], f"and of {len(missed) - NAMED} more models"]
    total = len(seeds.runs) * len(seeds.first.scores) * len(seeds.first.cases)
    yield (
        f"{count} of {total} results missed the liver altogether and count{'s' * (count == 1)} with DICE 0, "
        f"RVE 100%, and the diagonal of the volume as MSD and HD: {'; '.join(missed)}. Where seeds are few, "
        "one such result may decide how wide an interval is."
    )
