"""The top of the report: the outcome in one paragraph and one table."""

from __future__ import annotations

from ..data.manifest import SPLITS
from ..study.keys import DATA_POOL, INITIAL
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import FEATURED
from . import tables
from .results import Results
from .words import listed, markdown_table, ordinal, plural, titled, value_text


def summary(results: Results) -> str:
    """One paragraph on the outcome, every word of it decided by the numbers."""
    models = results.final_models
    dice = {strategy: results.scores[models[strategy]]["DICE"].mean() for strategy in results.strategies}
    order = sorted(dice, key=lambda strategy: -dice[strategy])
    counts = {split: sum(volume["split"] == split for volume in results.volumes) for split in SPLITS}
    ranking = ", ".join(f"{strategy} {dice[strategy]:.3f}" for strategy in order)
    total = results.effort[DATA_POOL]["annotated_slices"]
    shares = ", ".join(
        f"{strategy} {100 * results.effort[models[strategy]]['annotated_slices'] / total:.1f}%"
        for strategy in results.strategies
    )
    text = [
        f"After {plural(results.last, 'active learning iteration')} on a pool of {counts['pool']} cases, "
        f"the converged models reach a mean DICE of {ranking} on {plural(counts['test'], 'test case')}; "
        f"the model trained on the whole pool reaches {results.scores[DATA_POOL]['DICE'].mean():.3f}, "
        f"the initial one {results.scores[INITIAL]['DICE'].mean():.3f}.",
        f"Annotated share of the pool's slices: {shares}.",
    ]
    if len(order) > 1:
        tests = tables.paired_tests(results, "DICE", "converged")[results.last]
        worse = [strategy for strategy in order[1:] if tests[strategy].stars]
        against = listed(worse) if worse else "no other strategy"
        text.append(
            f"{order[0]} has the best mean DICE, significantly so (p < 0.05, uncorrected) against {against}."
        )
        if FEATURED in order:
            ranks = listed(
                f"{ordinal(_rank(results, metric, FEATURED))} by {metric}" for metric in PAPER_METRICS
            )
            text.append(f"Among the {len(order)} strategies, {FEATURED} ranks {ranks}.")
    text.append("This is one seed; conclusions need several.")
    return " ".join(text)


def _rank(results: Results, metric: str, strategy: str) -> int:
    models = results.final_models
    means = {name: results.scores[models[name]][metric].mean() for name in results.strategies}
    sign = 1 if METRICS[metric].higher_is_better else -1
    return 1 + sum(sign * mean > sign * means[strategy] for mean in means.values())


def key_table(results: Results) -> str:
    """Effort and mean scores of the converged models and the data pool's."""
    rows = []
    for name, key in results.final_models.items():
        effort = results.effort[key]
        means = [value_text(metric, results.scores[key][metric].mean()) for metric in PAPER_METRICS]
        rows.append([name, effort["annotated_slices"], effort["annotated_liver_slices"], *means])
    return markdown_table(
        ["Converged model", "slices", "liver slices", *(titled(metric) for metric in PAPER_METRICS)], rows
    )
