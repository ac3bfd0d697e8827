"""The published tables beside those of a run: twin tables that spell out the direction of every difference.

The published numbers describe other data and a larger network trained for days. They tell whether a run shows the same pattern, not
whether it is right.
"""

from . import published
from .metrics import METRICS
from .tables import DECIMALS, TERMS, by_iteration, effects, markdown_table, titled, value_text

LABEL = "**Published** (five clinical sites, 234 other test cases)"
ITERATIONS = range(1, 6)  # of the paper


def published_datasets():
    """Table 1 as published."""
    rows = []
    for site, data in published.datasets().items():
        plane, slices = (f"[{low:.1f}–{high:.1f}]" for low, high in (data.inplane_spacing_mm, data.slice_spacing_mm))
        counts = "/".join(str(count) for count in data.counts.values())
        size = f"{data.inplane_size} × {data.inplane_size} × [{data.slices[0]}–{data.slices[1]}]"
        rows.append([site, f"{data.volumes} ({counts})", f"{plane} × {plane} × {slices}", size])
    return f"{LABEL}\n\n" + markdown_table(["Site", "Volumes (pool/val/test)", "Voxel size x × y × z [mm]", "Resolution"], rows)


def published_training_data(results):
    """Table 2 as published, with each strategy's share of the pool's slices there and here."""
    counts = published.effort()

    def cell(strategy, iteration):
        return " / ".join(str(count) for count in counts[strategy, iteration].values())

    last, there = max(results.iterations), counts["data pool", None]["annotated_slices"]
    here = results.effort["data pool", None]["annotated_slices"]
    shares = "; ".join(
        f"{strategy} {100 * counts[strategy, 5]['annotated_slices'] / there:.0f}% there, "
        f"{100 * results.effort[strategy, last]['annotated_slices'] / here:.0f}% here"
        for strategy in results.strategies
    )
    table = by_iteration(results.strategies, ITERATIONS, cell, cell("", 0), cell("data pool", None))
    return f"{LABEL}\n\n{table}\n\nShare of all pool slices annotated in the end: {shares}."


def published_training_steps(results):
    """Table 3 as published."""
    steps = published.training_steps()
    converged = [["iter. 5 (converged)", *(steps["converged", strategy, 5] for strategy in results.strategies), ""]]
    table = by_iteration(
        results.strategies,
        ITERATIONS,
        lambda strategy, iteration: steps["iteration", strategy, iteration],
        steps["initial", "", 0],
        steps["data pool", "", None],
        converged,
    )
    return f"{LABEL}\n\n{table}"


def published_metric(results, metric):
    """Tables 4-7 as published; each cell that has a counterpart says how the one here compares."""

    def cell(strategy, iteration):
        return _score(results, metric, ("iteration", strategy, iteration))

    initial, data_pool = (_score(results, metric, key) for key in (("initial", "", 0), ("data pool", "", None)))
    last = max(results.iterations)
    here, there = _order(results.scores, metric, "iteration", last, results), _order(published.scores(), metric, "iteration", 5, results)
    return (
        f"{LABEL}\n\n{by_iteration(results.strategies, ITERATIONS, cell, initial, data_pool)}\n\n"
        f"Order by mean in the last iteration, best first: here {', '.join(here)}; published {', '.join(there)}."
    )


def published_converged(results):
    """Table 8 as published."""
    last = max(results.iterations)
    rows = [
        [strategy, *(_score(results, metric, ("converged", strategy, 5), ("converged", strategy, last)) for metric in METRICS)]
        for strategy in results.strategies
    ]
    rows.append(["data pool", *(_score(results, metric, ("data pool", "", None)) for metric in METRICS)])
    orders = "; ".join(
        f"{metric} here {', '.join(_order(results.scores, metric, 'converged', last, results))}, "
        f"published {', '.join(_order(published.scores(), metric, 'converged', 5, results))}"
        for metric in METRICS
    )
    return f"{LABEL}\n\n{markdown_table(['', *(titled(metric) for metric in METRICS)], rows)}\n\nOrder by mean, best first: {orders}."


def published_quantile_regression(results):
    """Table 9 as published; each effect says whether the one here has the same sign."""
    fits, there = {metric: effects(results, metric) for metric in METRICS}, published.quantile_effects()
    rows = []
    for position, (term, title) in enumerate(TERMS.items()):
        cells = []
        for metric, fit in fits.items():
            effect = there[metric, term]
            coefficient, low, high = (value_text(metric, value) for value in (effect.coefficient, effect.low, effect.high))
            same = "no fit here" if fit.failure else _sign(round(fit.rows[position].coefficient, DECIMALS[metric]), effect.coefficient)
            cells += [f"{coefficient} [{low}, {high}], {same}", effect.p]
        rows.append([title, *cells])
    header = [""] + [text for metric in METRICS for text in (titled(metric), "p")]
    return f"{LABEL}\n\n{markdown_table(header, rows)}"


def _score(results, metric, key, key_here=None):
    score = published.scores()[key][metric]
    mean, std, percentile = (value_text(metric, value) for value in (score.mean, score.std, score.percentile))
    text = f"{mean} ± {std} ({percentile})" + score.stars.replace("*", r"\*")
    here = results.scores.get(key_here or key)
    return text if here is None else f"{text}, here {_direction(metric, here[metric].mean(), score.mean)}"


def _direction(metric, here, there):
    here, there = round(float(here), DECIMALS[metric]), round(there, DECIMALS[metric])
    if here == there:
        return "equal"
    return "better" if (here > there) == METRICS[metric].higher_is_better else "worse"


def _sign(here, there):
    return "same sign" if here * there > 0 else "opposite sign" if here * there < 0 else "zero here"


def _order(scores, metric, model, iteration, results):
    """Strategies by their mean, best first."""

    def mean(strategy):
        score = scores[model, strategy, iteration][metric]
        return score.mean if isinstance(score, published.PublishedScore) else score.mean()

    return sorted(results.strategies, key=mean, reverse=METRICS[metric].higher_is_better)
