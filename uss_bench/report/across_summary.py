"""The top of the report across seeds: what it found, point by point, every word decided by the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS
from .across_tables import difference_text, unshared_deviation
from .crossed import scale_limits
from .pairs import AREA, COMPARED, FEW, ROPES, Comparison, chosen, corrected_p, highlighted, rope_of
from .seeds import Seeds
from .summary import dependence, longer_training, saturation, tested_on, unconverged
from .verdicts import LEAST_CASES, RANKED_SEEDS, PairedDifference, paired_difference
from .words import interval_text, listed, plural, signed, span, value_text

NAMED = 3  # strategies that a point names as better than others, and as worse than each of these
GAINED = {
    "better": "annotation helped with {}",
    "equivalent": "made next to no difference with {}",
    "worse": "did harm with {}",
    "undecided": "is not shown to have helped with {}",
}


def summary(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    """A list of answers.

    Is there headroom? Is any strategy better than another, and by how much, at equal effort and at the end?
    Did annotation help? How much is retraining? What has not converged, and are there seeds enough?
    """
    points = [
        _headroom(seeds),
        dependence(seeds.first),
        *_pairs(seeds, comparisons),
        _gain(seeds),
        _retraining(seeds),
        f"{unconverged(list(seeds.runs.values()))} {_limits(seeds)}".strip(),
    ]
    return "\n".join(f"- {point}" for point in points if point)


def _dice_difference(seeds: Seeds, first: ModelKey, second: ModelKey) -> PairedDifference:
    scores = (seeds.scores(key, "DICE") for key in (first, second))
    return paired_difference(*scores, higher_is_better=True, rope=ROPES["DICE"])


def _headroom(seeds: Seeds) -> str:
    found = _dice_difference(seeds, DATA_POOL, INITIAL)
    initial, pool = (seeds.means(key, "DICE") for key in (INITIAL, DATA_POOL))
    steps = map(seeds.steps, (INITIAL, DATA_POOL))
    answer = {
        "better": "there is headroom",
        "worse": "there is none",
        "equivalent": "there is next to none",
        "undecided": "whether there is headroom remains open",
    }[found.verdict]
    text = (
        f"Over {plural(len(seeds.runs), 'seed')} and {tested_on(seeds.first)}, the initial model has a mean "
        f"DICE of {initial.mean():.3f} and the model trained on the whole pool {pool.mean():.3f}, a "
        f"difference of {difference_text(found, 'DICE')}{longer_training(*steps)}, "
        f"{_by_seed(pool - initial)}: {answer}{_but_agree(pool - initial) * (found.verdict == 'undecided')}."
    )
    return text + saturation(initial.mean(), pool.mean()) + _against_the_pool(seeds)


def _against_the_pool(seeds: Seeds) -> str:
    """Which final models fall short of the pool's, or are above it, after correction for their number."""
    final = {name: seeds.final.key(name) for name in seeds.contenders}
    found = {name: _dice_difference(seeds, key, DATA_POOL) for name, key in final.items()}
    sides: dict[str, list[str]] = {"worse": [], "better": []}
    for (name, each), p in zip(found.items(), corrected_p(list(found.values())), strict=True):
        if each.verdict in sides and p < 0.05:
            sides[each.verdict].append(f"{name} by {_size(each, 'DICE')}")
    text = ""
    if short := sides["worse"]:
        fall = "falls" if len(short) == 1 else "fall"
        text += f" Of the {seeds.final_word} models, {_shortened(short)} {fall} short of the pool model."
    if above := sides["better"]:
        text += (
            f" The pool model is no upper bound: of the {seeds.final_word} models, {_shortened(above)} "
            f"{'is' if len(above) == 1 else 'are'} above it."
        )
    return text


def _shortened(parts: Sequence[str]) -> str:
    """A list, or its beginning."""
    more = [f"{len(parts) - FEW} more"] * (len(parts) > FEW)
    return listed([*parts[:FEW], *more])


def _gain(seeds: Seeds) -> str:
    last = {name: seeds.first.curve(name)[-1] for name in seeds.strategies}
    gains = {name: _dice_difference(seeds, key, INITIAL) for name, key in last.items()}
    single = [seeds.means(key, "DICE") - seeds.means(INITIAL, "DICE") for key in last.values()]
    all_of = dict.fromkeys(GAINED, "all") | dict.fromkeys(("equivalent", "undecided"), "any")
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
        f"by {reached} in mean DICE, {_by_seed(np.array(single))}: {listed(answers)}"
        f"{_but_agree(np.array(single)) * bool(groups['undecided'])}."
    )


def _by_seed(differences: np.ndarray) -> str:
    """How many differences of single seeds are positive, and their range.

    >>> _by_seed(np.array([0.1, -0.02, 0.3]))
    'in 2 of 3 single seeds above 0 (-0.020 to +0.300)'
    """
    low, high = (signed(value, ".3f") for value in (differences.min(), differences.max()))
    above, count = np.count_nonzero(differences > 0), differences.size
    return f"in {above} of {count} single seeds above 0 ({low} to {high})"


def _but_agree(differences: np.ndarray) -> str:
    """What an open verdict may hide: seeds that agree in direction, one of them by much more than others."""
    agree = abs(np.sign(differences).sum()) == differences.size
    return ", as seeds agree in direction but not in size" * bool(agree)


def _final_models(seeds: Seeds) -> str:
    """The final models, and with how much effort they came about."""
    efforts = [seeds.effort(seeds.final.key(name)).mean() for name in seeds.contenders]
    slices = span(f"{min(efforts):.0f}", f"{max(efforts):.0f}")
    return f"Among the {seeds.final_word} models (after {slices} equivalent slices)"


def _pairs(seeds: Seeds, comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Whether any strategy is better than another, at equal effort and at the end."""
    if not comparisons:
        return
    if seeds.overlapping:
        areas = [f"In {metric}, {_found(chosen(comparisons, metric, AREA))}." for metric in COMPARED]
        yield f"At equal effort ({AREA}): {' '.join(areas)}"
    final = {metric: chosen(comparisons, metric, seeds.final.title) for metric in COMPARED}
    answers = [f"In {metric}, {_found(pairs)}." for metric, pairs in final.items()]
    yield f"{_final_models(seeds)}: {' '.join(answers)}{_mixed(final['DICE'])}"


def _found(pairs: Sequence[Comparison]) -> str:
    """What holds of the pairs of a metric at a budget when corrected for their number, and what is left."""
    widest = max(pairs, key=lambda each: abs(each.found.mean))
    gap = f"{widest.first} − {widest.second}: {difference_text(widest.found, widest.metric)}"
    gap = f"{gap} {METRICS[widest.metric].unit}".strip()
    if widest.found.low is None:
        return f"nothing can be decided; the widest difference is {gap}"
    if len(pairs) == 1 and not widest.decided:
        return f"{gap}, {widest.found.verdict}"
    holding = sorted((each for each in pairs if each.holds), key=lambda each: each.found.p)
    if not holding:
        answer = f"no strategy is shown to be better than another; the widest difference is {gap}"
    else:
        answer = "; ".join(_decisions(holding))
    verdicts, rope = [each.found.verdict for each in pairs], rope_of(widest.metric, widest.budget)
    counts = {
        "better only before correction": sum(each.decided for each in pairs) - len(holding),
        f"equivalent within {rope:g}, uncorrected": verdicts.count("equivalent"),
        "undecided": verdicts.count("undecided"),
    }
    rest = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{answer} (of {plural(len(pairs), 'pair')}, {listed(rest)})" if rest else answer


def _decisions(holding: Sequence[Comparison]) -> Iterator[str]:
    """Of each strategy that is better than others, than which and by how much, as positive numbers."""
    beaten: dict[str, list[str]] = {}
    for each in holding:
        found, name = each.found, each.metric
        better, other = each.first, each.second
        if found.verdict == "worse":
            better, other = other, better
        size = f"{_size(found, name)} {METRICS[name].unit}".strip()
        beaten.setdefault(better, []).append(f"than {other} by {size}")
    for better, others in list(beaten.items())[:NAMED]:
        more = [f"than {len(others) - NAMED} more"] * (len(others) > NAMED)
        yield f"{better} is better {listed([*others[:NAMED], *more])}"
    if len(beaten) > NAMED:
        yield f"{len(beaten) - NAMED} more are better than others"


def _size(found: PairedDifference, metric: str) -> str:
    """A difference whose interval leaves out zero, and that interval, as positive numbers."""
    low, high = sorted(map(abs, (found.low, found.high)))
    return (
        f"{value_text(metric, abs(found.mean))} {interval_text(low, high, METRICS[metric].decimals, sign='')}"
    )


def _mixed(pairs: Sequence[Comparison]) -> str:
    """How far differences move when test cases count as often as their variants are found in the pool."""
    moves = [abs(each.in_pool_mix - each.found.mean) for each in pairs if each.in_pool_mix is not None]
    if not moves:
        return ""
    return (
        " With variants of patients as frequent as in the pool, differences in DICE between them change by "
        f"up to {max(moves):.3f}."
    )


def _retraining(seeds: Seeds) -> str:
    text = "Without twins (`query.twins`), nothing here shows how far retraining alone moves a mean DICE."
    if seeds.twins:
        models = np.array([seeds.means(key, "DICE") for key in (INITIAL, *seeds.twins)])
        deviation = np.sqrt(models.var(axis=0, ddof=1).mean())
        low, high = (limit * deviation for limit in scale_limits(len(seeds.twins) * len(seeds.runs)))
        text = (
            "Retraining the initial annotations under other weights and batches moves a model's mean DICE "
            f"by a standard deviation of {deviation:.3f} [{low:.3f}, {high:.3f}] (95% interval, assuming "
            "normal effects)."
        )
    if len(seeds.contenders) > 1:
        unshared, low, high = unshared_deviation(seeds, seeds.final, "DICE")
        text += (
            f" What the strategies of a seed do not share (batches, dropout, queries) moves that of "
            f"{seeds.final_word} models by an estimated {unshared:.3f} [{low:.3f}, {high:.3f}]."
        )
    return text


def _limits(seeds: Seeds) -> str:
    few = too_few(seeds)
    return f"What {few} cannot show is listed below." if few else ""


def too_few(seeds: Seeds) -> str:
    """Seeds and test cases, where there are not enough of them to show all that is looked for; else empty."""
    few = [plural(len(seeds.runs), "seed")] * (len(seeds.runs) < RANKED_SEEDS)
    few += [plural(len(seeds.first.cases), "test case")] * (len(seeds.first.cases) < LEAST_CASES)
    return listed(few) if few else ""
