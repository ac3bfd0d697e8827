"""The top of the report across seeds: what it found, in one paragraph, every word decided by the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..study.keys import DATA_POOL, INITIAL, ModelKey
from .across_tables import difference_text, unshared_deviation
from .crossed import scale_limits
from .pairs import AREA, COMPARED, ROPES, Comparison, chosen, corrected_p, highlighted, rope_of
from .seeds import Seeds
from .summary import SATURATED
from .verdicts import LEAST_CASES, RANKED_SEEDS, PairedDifference, paired_difference
from .words import interval_text, listed, plural, span

NAMED = 3  # decided pairs that the paragraph names
GAINED = {
    "better": "annotation helped with {}",
    "equivalent": "made next to no difference with {}",
    "worse": "did harm with {}",
    "undecided": "is not shown to have helped with {}",
}


def summary(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    """One paragraph of answers.

    Is there headroom? Did annotation help? Is any strategy better than another, and by how much, at equal
    effort and at the end? How much is retraining? What has not converged, and are there seeds enough?
    """
    answers = [
        _headroom(seeds),
        _gain(seeds),
        _pairs(comparisons, AREA, f"At equal effort ({AREA})"),
        _pairs(comparisons, seeds.budgets[0].title, _final_models(seeds)),
        _distances(seeds, comparisons),
        _retraining(seeds),
        _unconverged(seeds),
        _limits(seeds),
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
        "undecided": "whether there is headroom remains open",
    }[found.verdict]
    text = (
        f"Over {plural(len(seeds.runs), 'seed')} and {plural(len(seeds.first.cases), 'test case')}, the "
        f"initial model has a mean DICE of {initial.mean():.3f} and the model trained on the whole pool "
        f"{pool.mean():.3f}, a difference of {difference_text(found, 'DICE')}: {answer}."
    )
    if 0 < SATURATED * pool.mean() <= initial.mean():
        share = 100 * initial.mean() / pool.mean()
        text += f" Warning: the initial model is at {share:.0f}% of the pool model already."
    final = {name: seeds.budgets[0].key(name) for name in seeds.contenders}
    above = {name: _dice_difference(seeds, key, DATA_POOL) for name, key in final.items()}
    better = [
        f"{name} is above it by {each.mean:.3f} {interval_text(each.low, each.high, 3, sign='')}"
        for (name, each), p in zip(above.items(), corrected_p(list(above.values())), strict=True)
        if each.verdict == "better" and p < 0.05
    ]
    if better:
        text += f" The pool model is no upper bound: of the {seeds.final_word} models, {listed(better)}."
    return text


def _gain(seeds: Seeds) -> str:
    last = {name: seeds.first.curve(name)[-1] for name in seeds.strategies}
    gains = {name: _dice_difference(seeds, key, INITIAL) for name, key in last.items()}
    all_of = dict.fromkeys(GAINED, "all") | {"undecided": "any"}
    groups = {
        verdict: [name for name, found in gains.items() if found.verdict == verdict] for verdict in GAINED
    }
    answers = [
        words.format(all_of[verdict] if len(groups[verdict]) == len(gains) > 1 else listed(groups[verdict]))
        for verdict, words in GAINED.items()
        if groups[verdict]
    ]
    if not groups["better"]:
        answers[0] = f"annotation {answers[0]}"
    reached = listed(
        f"{name} {difference_text(gains[name], 'DICE')}" for name in highlighted(seeds.strategies)
    )
    return (
        f"After {plural(seeds.first.last, 'iteration')}, the strategies' models differ from the initial one "
        f"by {reached} in mean DICE: {listed(answers)}."
    )


def _final_models(seeds: Seeds) -> str:
    """The final models, and with how much effort they came about; empty where all are oracles."""
    if not seeds.contenders:
        return ""
    efforts = [seeds.effort(seeds.budgets[0].key(name)).mean() for name in seeds.contenders]
    slices = span(f"{min(efforts):.0f}", f"{max(efforts):.0f}")
    return f"Among the {seeds.final_word} models (after {slices} equivalent slices)"


def _pairs(comparisons: Sequence[Comparison], budget: str, where: str) -> str:
    """Whether any strategy is better than another in mean DICE at a budget."""
    pairs = sorted(chosen(comparisons, "DICE", budget), key=lambda each: -abs(each.found.mean))
    if not pairs:
        return ""
    decided = [each for each in pairs if each.decided]
    if decided:
        more = f", and {len(decided) - NAMED} more" if len(decided) > NAMED else ""
        answer = (
            f"{len(decided)} of {plural(len(pairs), 'pair')} {'differs' if len(decided) == 1 else 'differ'}: "
            f"{listed(map(_decision, decided[:NAMED]))}{more}{_after_holm(decided)}"
        )
    else:
        widest = pairs[0]
        answer = (
            f"no strategy is shown to be better than another in {plural(len(pairs), 'pair')}, of which "
            f"{widest.first} − {widest.second} is the widest: {difference_text(widest.found, 'DICE')}"
        )
    verdicts = [each.found.verdict for each in pairs]
    rope = rope_of("DICE", budget)
    equivalent = f"{_count(verdicts.count('equivalent'))} equivalent within {rope:g} DICE, " if rope else ""
    return f"{where}, {answer}; {equivalent}{_count(verdicts.count('undecided'))} undecided."


def _decision(comparison: Comparison) -> str:
    """Which strategy is better by how much DICE, as a positive number."""
    found = comparison.found
    better, other, low, high = comparison.first, comparison.second, found.low, found.high
    if found.verdict == "worse":
        better, other, low, high = other, better, -high, -low
    return f"{better} better than {other} by {abs(found.mean):.3f} {interval_text(low, high, 3, sign='')}"


def _count(number: int) -> str:
    return str(number or "none")


def _distances(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    pairs = {metric: chosen(comparisons, metric, seeds.budgets[0].title) for metric in COMPARED[1:]}
    if any(each.found.low is None for found in pairs.values() for each in found):
        return ""
    decided = {metric: [each for each in found if each.decided] for metric, found in pairs.items()}
    counts = listed(
        f"{_count(len(found))} in {metric}{_after_holm(found)}" for metric, found in decided.items()
    )
    return f"Of these pairs, {counts} are shown to differ." if any(pairs.values()) else ""


def _after_holm(decided: Sequence[Comparison]) -> str:
    """How many still hold after Holm's correction, in brackets."""
    if not decided:
        return ""
    holding = sum(each.p_holm < 0.05 for each in decided)
    count = "also" if holding == len(decided) else f"{_count(holding)} of them"
    return f" ({count} after Holm's correction)"


def _retraining(seeds: Seeds) -> str:
    text = "Without twins (`query.twins`), nothing here shows what retraining alone does."
    if seeds.twins:
        models = np.array([seeds.means(key, "DICE") for key in (INITIAL, *seeds.twins)])
        deviation = np.sqrt(models.var(axis=0, ddof=1).mean())
        low, high = (limit * deviation for limit in scale_limits(len(seeds.twins) * len(seeds.runs)))
        text = (
            "Retraining the initial annotations under other weights and batches moves a model's mean DICE by "
            f"a standard deviation of {deviation:.3f} [{low:.3f}, {high:.3f}]."
        )
    if len(seeds.contenders) > 1:
        text += (
            " What the strategies of a seed do not share (batches, dropout, queries) moves the mean DICE of "
            f"{seeds.final_word} models by an estimated "
            f"{unshared_deviation(seeds, seeds.budgets[0], 'DICE'):.3f}."
        )
    return text


def _unconverged(seeds: Seeds) -> str:
    limit = seeds.first.provenance["config"]["training"]["converged_max_steps"]
    trained = len(seeds.runs) * sum(key.converges for key in seeds.first.scores)
    stopped = sum(len(run.stopped) for run in seeds.runs.values())
    if not stopped:
        return ""
    return f"{stopped} of {trained} models that train to convergence ended at {limit} steps instead."


def _limits(seeds: Seeds) -> str:
    few = too_few(seeds)
    return f"What {few} cannot show is listed below." if few else ""


def too_few(seeds: Seeds) -> str:
    """Seeds and test cases, where there are not enough of them to show all that is looked for; else empty."""
    few = [plural(len(seeds.runs), "seed")] * (len(seeds.runs) < RANKED_SEEDS)
    few += [plural(len(seeds.first.cases), "test case")] * (len(seeds.first.cases) < LEAST_CASES)
    return listed(few) if few else ""
