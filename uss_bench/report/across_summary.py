"""The top of the report across seeds: what it found, in one paragraph, every word decided by the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..study.keys import DATA_POOL, INITIAL, ModelKey
from .across_tables import budget_components, difference_text
from .pairs import COMPARED, ROPES, Comparison, chosen, highlighted
from .seeds import Budget, Seeds
from .summary import SATURATED
from .verdicts import PairedDifference, paired_difference
from .words import listed, plural, signed

NAMED = 3  # decided pairs that the paragraph names
ENOUGH_SEEDS = 6  # from which a signed-rank test over seeds can reach p < 0.05


def summary(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    """One paragraph of answers.

    Is there headroom? Did annotation help? Is any strategy better than another, and by how much? How much is
    retraining? What has not converged, and are there seeds enough?
    """
    answers = [
        _headroom(seeds),
        _gain(seeds),
        *(_strategies(comparisons, budget, seeds.final_word) for budget in seeds.budgets[:2]),
        _distances(seeds, comparisons),
        _retraining(seeds),
        _unconverged(seeds),
        _few_seeds(seeds),
    ]
    return " ".join(answer for answer in answers if answer)


def _dice_difference(seeds: Seeds, first: ModelKey, second: ModelKey) -> PairedDifference:
    scores = (seeds.scores(key, "DICE") for key in (first, second))
    return paired_difference(*scores, higher_is_better=True, rope=ROPES["DICE"])


def _headroom(seeds: Seeds) -> str:
    found = _dice_difference(seeds, DATA_POOL, INITIAL)
    initial, pool = (seeds.means(key, "DICE") for key in (INITIAL, DATA_POOL))
    answer = {
        "better": "there is headroom",
        "worse": "there is none",
        "equivalent": "there is next to none",
        "undecided": "whether there is headroom stays open",
    }[found.verdict]
    text = (
        f"Over {plural(len(seeds.runs), 'seed')} and {plural(len(seeds.first.cases), 'test case')}, the "
        f"initial model has a mean DICE of {initial.mean():.3f} and the model trained on the whole pool "
        f"{pool.mean():.3f}, a difference of {_interval(found)}: {answer}."
    )
    if 0 < SATURATED * pool.mean() <= initial.mean():
        share = 100 * initial.mean() / pool.mean()
        text += f" Warning: the initial model is at {share:.0f}% of the pool model already."
    final = [seeds.means(seeds.budgets[0].key(name), "DICE") for name in seeds.strategies]
    above = int((np.array(final) > pool).sum())
    if above:
        total = len(final) * len(pool)
        text += (
            f" The pool model is no upper bound: {above} of {total} {seeds.final_word} models of strategies "
            "(one per seed) score higher."
        )
    return text


def _interval(found: PairedDifference) -> str:
    return f"{signed(found.mean, '.3f')} [{signed(found.low, '.3f')}, {signed(found.high, '.3f')}]"


def _gain(seeds: Seeds) -> str:
    last = {name: seeds.first.curve(name)[-1] for name in seeds.strategies}
    gains = {name: _dice_difference(seeds, key, INITIAL) for name, key in last.items()}
    helped = [name for name, found in gains.items() if found.verdict == "better"]
    if len(helped) == len(gains):
        answer = f"annotation helped{' with all' * (len(gains) > 1)}"
    elif helped:
        answer = f"annotation helped with {listed(helped)}"
    else:
        answer = "that annotation helped is not shown"
    reached = listed(f"{name} {_interval(gains[name])}" for name in highlighted(seeds.strategies))
    return (
        f"After {plural(seeds.first.last, 'iteration')}, the strategies' models differ from the initial one "
        f"by {reached} in mean DICE: {answer}."
    )


def _strategies(comparisons: Sequence[Comparison], budget: Budget, final_word: str) -> str:
    """Whether any strategy is better than another in mean DICE at a budget."""
    pairs = sorted(chosen(comparisons, "DICE", budget.title), key=lambda each: -abs(each.found.mean))
    if not pairs:
        return ""
    models = f"{final_word} models" if budget.kind == "converged" else f"models of {budget.title}"
    decided = [each for each in pairs if each.decided]
    if decided:
        holding = _count(sum(each.p_holm < 0.05 for each in decided))
        more = f", and {len(decided) - NAMED} more" if len(decided) > NAMED else ""
        answer = (
            f"{len(decided)} differ{'s' * (len(decided) == 1)}: {listed(map(_decision, decided[:NAMED]))}"
            f"{more} ({holding} of them after Holm's correction too)"
        )
    else:
        widest = pairs[0]
        answer = (
            "no strategy is shown to be better than another; the widest difference is that of "
            f"{widest.first} − {widest.second}, {difference_text(widest)}"
        )
    verdicts = [each.found.verdict for each in pairs]
    return (
        f"Of {plural(len(pairs), 'pair')} of {models}, {answer}; "
        f"{_count(verdicts.count('equivalent'))} equivalent within {ROPES['DICE']:g} DICE, "
        f"{_count(verdicts.count('undecided'))} undecided."
    )


def _decision(comparison: Comparison) -> str:
    """Which strategy is better by how much DICE, as a positive number."""
    found = comparison.found
    better, other, low, high = comparison.first, comparison.second, found.low, found.high
    if found.verdict == "worse":
        better, other, low, high = other, better, -high, -low
    return f"{better} better than {other} by {abs(found.mean):.3f} [{low:.3f}, {high:.3f}]"


def _count(number: int) -> str:
    return str(number or "none")


def _distances(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    pairs = {metric: chosen(comparisons, metric, seeds.budgets[0].title) for metric in COMPARED[1:]}
    if not any(pairs.values()):
        return ""
    decided = listed(
        f"{_count(sum(each.decided for each in found))} in {name}" for name, found in pairs.items()
    )
    return f"Of the {seeds.final_word} pairs, {decided} differ."


def _retraining(seeds: Seeds) -> str:
    text = "Without twins (`query.twins`), nothing here shows what retraining alone does."
    if seeds.twins:
        initial = seeds.means(INITIAL, "DICE")
        shifts = np.array([seeds.means(key, "DICE") - initial for key in seeds.twins])
        # Two trainings differ by twice the variance of one.
        deviation = np.sqrt((shifts**2).mean() / 2)
        text = (
            "Retraining the initial annotations under other weights and batches moves a model's mean DICE by "
            f"a standard deviation of {deviation:.3f}."
        )
    if len(seeds.strategies) > 1:
        parts = budget_components(seeds, seeds.budgets[0], "DICE")
        within, between = (
            f"{parts[source] ** 0.5:.3f}" if parts[source] else "an amount not told from 0"
            for source in ("strategy × seed", "strategy")
        )
        text += (
            f" Among {seeds.final_word} models, chance within a seed (strategy × seed) is estimated to move "
            f"it by {within}, the strategy by {between}."
        )
    return text


def _unconverged(seeds: Seeds) -> str:
    limit = seeds.first.provenance["config"]["training"]["converged_max_steps"]
    trained = [run.training[key] for run in seeds.runs.values() for key in run.scores if key.converges]
    stopped = sum(bool(limit) and training["last_step"] >= limit for training in trained)
    if not stopped:
        return ""
    return f"{stopped} of {len(trained)} models that train to convergence ended at {limit} steps instead."


def _few_seeds(seeds: Seeds) -> str:
    count = len(seeds.runs)
    return f"{count} seeds are few: what they cannot show stands below." if count < ENOUGH_SEEDS else ""
