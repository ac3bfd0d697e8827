"""The top of the report: the outcome as a list of answers and one table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..data.cohort import is_default_manifest
from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import PAPER_METRICS
from ..study.strategies import PAPER, STRATEGIES
from .effort import DEFINITION, equivalent_slices
from .results import Results
from .words import listed, markdown_table, plural, span, titled, value_text

MIXED = "DICE, pool's mix"  # a column of the key tables, and what it is
MIX = " Pool's mix: test cases weighted so that every variant of patients is as frequent as in the pool."
SATURATED = 0.99  # share of the pool model's DICE from which nothing is left to learn


def summary(results: Results) -> str:
    """A list of answers, every word of it decided by the numbers.

    Is there headroom? Did annotation help? Does what differs exceed what retraining alone does? What has not
    converged? What would a second seed cost? It speaks of these trained models, never of a strategy as such.
    """
    answers = [
        _headroom(results),
        dependence(results),
        _gain(results),
        _retraining(results),
        _spread(results),
        unconverged([results]),
        _next_seed(results),
    ]
    return "\n".join(f"- {answer}" for answer in answers if answer)


def _dice(results: Results, key: ModelKey) -> float:
    return _mean(results, key, "DICE")


def _mean(results: Results, key: ModelKey, metric: str) -> float:
    return float(results.scores[key][metric].mean())


def tested_on(results: Results) -> str:
    """How many test cases there are, what they show, and of how many patients, where that is not plain."""
    text = plural(len(results.cases), "test case")
    if is_default_manifest(results.provenance["manifest_sha256"]):
        text = f"{text} (synthetic phantoms)"
    if results.patients < len(results.cases):
        text = f"{text} of {plural(results.patients, 'patient')}"
    return text


def dependence(results: Results) -> str:
    """A warning where several test cases are of one patient; else empty."""
    if results.patients == len(results.cases):
        return ""
    return (
        "Warning: cases of one patient are alike, but intervals and tests take all cases for independent; "
        "they claim too much."
    )


def longer_training(initial: Sequence[int], pool: Sequence[int]) -> str:
    """That in some run the pool model was trained for more steps than the initial one; else empty."""
    if not any(few < many for few, many in zip(initial, pool, strict=True)):
        return ""
    steps = [span(min(counts), max(counts)) for counts in (initial, pool)]
    return f" (part of it may be longer training: {steps[0]} and {steps[1]} steps)"


def saturation(initial: float, pool: float) -> str:
    """A warning where the initial model's DICE is nearly that of the pool model; else empty."""
    if not 0 < SATURATED * pool <= initial:
        return ""
    return f" Warning: the initial model is at {100 * initial / pool:.0f}% of the pool model already."


def _headroom(results: Results) -> str:
    initial, pool = _dice(results, INITIAL), _dice(results, DATA_POOL)
    above = [key.title for key in results.scores if _dice(results, key) > pool]
    steps = ([results.training[key]["last_step"]] for key in (INITIAL, DATA_POOL))
    text = (
        f"On {tested_on(results)}, the initial model reaches a mean DICE of {initial:.3f} and the model "
        f"trained on the whole pool {pool:.3f}: a headroom of "
        f"{round(pool, 3) - round(initial, 3):.3f}{longer_training(*steps)}."
    )
    text += saturation(initial, pool)
    if above:
        text += (
            f" Warning: the pool model is no upper bound; {len(above)} of {len(results.scores)} score higher."
        )
    return text


def _gain(results: Results) -> str:
    initial, total = _dice(results, INITIAL), results.effort[DATA_POOL]["annotated_slices"]
    last = [results.curve(strategy)[-1] for strategy in results.strategies]
    reached = listed(
        f"{key.strategy} {_dice(results, key):.3f} "
        f"({100 * results.effort[key]['annotated_slices'] / total:.1f}%)"
        for key in last
    )
    higher = sum(_dice(results, key) > initial for key in last)
    return (
        f"The models of iteration {results.last} reach {reached}: {higher} of {len(last)} above the initial "
        "one (in brackets: share of the pool's slices annotated)."
    )


def _retraining(results: Results) -> str:
    """How far retraining alone moves a score."""
    parts = []
    if twins := _twins(results):
        moved = _apart(results, twins)
        parts.append(
            "retraining the initial model under other weights and batches changes its mean DICE by "
            f"{moved['DICE'][-1]:.3f} ({_by_case(results, twins):.3f} per case, on average) and its mean "
            f"HD by {moved['HD'][-1]:.1f} mm"
        )
    if results.repeated:
        dice, hd = _apart(results, results.repeated).values()
        parts.append(
            "training the final models once more under other batches changed their mean DICE by "
            f"{span(f'{dice[0]:.3f}', f'{dice[-1]:.3f}')} and their mean HD by "
            f"{span(f'{hd[0]:.1f}', f'{hd[-1]:.1f}')} mm"
        )
    if not parts:
        return "Without twins (`query.twins`), nothing here says how far retraining alone moves a score."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _spread(results: Results) -> str:
    """How far the strategies' models lie apart, and how many pairs farther than retraining moved any."""
    # Pair by pair: the widest of several differences exceeds one of the same size more often than not.
    pairs = list(combinations((results.final_models[strategy] for strategy in results.contenders), 2))
    retrained = [*_twins(results), *results.repeated]
    if not (pairs and retrained):
        return ""
    apart, moved = _apart(results, pairs), _apart(results, retrained)
    wider = {metric: sum(gap > moved[metric][-1] for gap in apart[metric]) for metric in apart}
    expected = (
        f"Were retraining the only difference, about one pair in {1 + len(retrained)} would lie there."
        if results.repeated
        else "Models of more annotations may be moved less than the initial one."
    )
    than = f"any of these {len(retrained)} retrainings" if retrained[1:] else "this one retraining"
    return (
        f"The strategies' final models lie up to {apart['DICE'][-1]:.3f} (per case "
        f"{_by_case(results, pairs):.3f} on average) and up to {apart['HD'][-1]:.1f} mm apart; of "
        f"{plural(len(pairs), 'pair')}, {wider['DICE'] or 'none'} in DICE and {wider['HD'] or 'none'} in HD "
        f"farther than {than} moved a model. {expected} One seed does not say which strategy is to be "
        "preferred."
    )


def _twins(results: Results) -> list[tuple[ModelKey, ModelKey]]:
    """Pairs of the initial model and a twin."""
    return [(key, INITIAL) for key in results.twins]


def _apart(results: Results, pairs: Sequence[tuple[ModelKey, ModelKey]]) -> dict[str, list[float]]:
    """How far the means of each pair of models lie apart in DICE and HD, in ascending order."""
    return {
        metric: sorted(
            abs(_mean(results, one, metric) - _mean(results, other, metric)) for one, other in pairs
        )
        for metric in ("DICE", "HD")
    }


def _by_case(results: Results, pairs: Sequence[tuple[ModelKey, ModelKey]]) -> float:
    """How far the DICE of the same case lies apart, on average over cases and pairs of models."""
    scores = ((results.scores[key]["DICE"] for key in pair) for pair in pairs)
    return float(np.mean([np.abs(one - other).mean() for one, other in scores]))


def unconverged(runs: Sequence[Results]) -> str:
    """How many models of runs under the same settings a limit of steps has stopped; empty where none."""
    stopped = sum(len(run.stopped) for run in runs)
    if not stopped:
        return ""
    trained = sum(key.converges for run in runs for key in run.scores)
    limit = runs[0].provenance["config"]["training"]["converged_max_steps"]
    return f"{stopped} of {trained} models meant to converge were stopped at {limit} steps."


def _next_seed(results: Results) -> str:
    steps = sum(training["last_step"] for training in results.training.values())
    return f"A second seed would cost about as many training steps as this one: {steps}."


def key_table(results: Results) -> str:
    """Effort and mean scores of the final models, and what the table's words mean."""
    rows = []
    for name, key in results.final_models.items():
        effort = f"{equivalent_slices(results, key):.0f}"
        means = [value_text(metric, results.scores[key][metric].mean()) for metric in PAPER_METRICS]
        rows.append([name, effort, *means])
    header, mix = ["Model", "equivalent slices", *map(titled, PAPER_METRICS)], results.pool_mix
    if mix is not None:
        header.append(MIXED)
        for row, key in zip(rows, results.final_models.values(), strict=True):
            row.append(f"{mix @ results.scores[key]['DICE']:.3f}")
    table = markdown_table(header, rows)
    retrained = (
        f" They repeat those of iteration {results.last} under other batches: how they differ from the "
        f"scores of iteration {results.last} is what retraining does."
    )
    return (
        f"{table}\n\nMeans over the test cases of the final models, those of Table 8."
        f"{retrained * results.retrained}{query_kinds(results.strategies)} {DEFINITION}"
        f"{MIX * (mix is not None)}"
    )


def query_kinds(strategies: Sequence[str]) -> str:
    """What the paper's strategies among these ask for; empty without any."""
    shown = [STRATEGIES[name] for name in strategies if name in PAPER]
    groups = {
        "whole volumes": [each.name for each in shown if not each.by_slices],
        "single slices": [each.name for each in shown if each.by_slices],
        "the most uncertain": [each.name for each in shown if each.by_uncertainty],
        "random ones": [each.name for each in shown if not each.by_uncertainty],
    }
    texts = [f"{what} ({', '.join(names)})" * bool(names) for what, names in groups.items()]
    what, how = (" or ".join(filter(None, some)) for some in (texts[:2], texts[2:]))
    return f" Queries: {what}, {how}." if shown else ""
