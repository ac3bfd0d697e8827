"""The Markdown report of a run, built only from the result files beside it: the same files give the same bytes."""

from pathlib import Path

from ..data.manifest import SPLITS
from ..runtime import paths, storage
from ..study.keys import DATA_POOL, INITIAL
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import FEATURED
from . import comparison, figures, tables
from .captions import listed
from .results import read_results
from .tables import markdown_table, titled, value_text

PAPER = (
    "G. Chlebus, A. Schenk, H. K. Hahn, B. van Ginneken, H. Meine: "
    "*Robust Segmentation Models using an Uncertainty Slice Sampling Based Annotation Workflow*"
)


def write_report(folder):
    """Write `report.md` and `figures/` into a report folder from the `results/` in it; returns the path of the report.

    Raises
    ------
    InputError
        A result file is missing.
    """
    folder = Path(folder)
    results = read_results(folder)
    drawn = figures.write_figures(results, folder)
    pictures = {figure.number: figure.markdown for figure in drawn}
    sections = [
        "# Uncertainty slice sampling benchmark",
        _summary(results),
        _key_table(results),
        pictures.get(0),
        figures.missing_note(results, drawn),
        *_tables(results, pictures),
        *_further_statistics(results),
        *_tests(results),
        _notes(results),
        _deviations(results),
        _provenance(results),
        _citation(results),
    ]
    path = folder / paths.REPORT
    storage.write_text(path, "\n\n".join(section for section in sections if section) + "\n")
    return path


def _summary(results):
    """One paragraph of result, every word of it decided by the numbers."""
    last, models = results.last, results.final_models
    dice = {strategy: results.scores[models[strategy]]["DICE"].mean() for strategy in results.strategies}
    order = sorted(dice, key=lambda strategy: -dice[strategy])
    total = results.effort[DATA_POOL]["annotated_slices"]
    counts = {split: sum(volume["split"] == split for volume in results.volumes) for split in SPLITS}
    ranking = ", ".join(f"{strategy} {dice[strategy]:.3f}" for strategy in order)
    shares = ", ".join(
        f"{strategy} {100 * results.effort[models[strategy]]['annotated_slices'] / total:.1f}%"
        for strategy in results.strategies
    )
    text = [
        f"After {last} active learning iteration{'s' * (last > 1)} on a pool of {counts['pool']} cases, the converged models reach a mean "
        f"DICE of {ranking} on {counts['test']} test case{'s' * (counts['test'] > 1)}; the model trained on the whole pool reaches "
        f"{results.scores[DATA_POOL]['DICE'].mean():.3f}, the initial one "
        f"{results.scores[INITIAL]['DICE'].mean():.3f}.",
        f"Annotated were {shares} of all slices of the pool.",
    ]
    if len(order) > 1:
        tests = tables.comparisons(results, "DICE", "converged")[last]
        worse = [strategy for strategy in order[1:] if tests[strategy].stars]
        against = listed(worse) if worse else "no other strategy"
        text.append(
            f"{order[0]} has the best mean DICE, significantly so (p < 0.05, uncorrected) against {against}."
        )
        places = (
            {metric: _place(results, metric, FEATURED) for metric in PAPER_METRICS}
            if FEATURED in order
            else {}
        )
        if places:
            text.append(
                f"{FEATURED} ranks "
                + ", ".join(f"{place} by {metric}" for metric, place in places.items())
                + f" of {len(order)}."
            )
    text.append("This is one seed; conclusions need several.")
    return " ".join(text)


def _place(results, metric, strategy):
    models = results.final_models
    means = {name: results.scores[models[name]][metric].mean() for name in results.strategies}
    sign = 1 if METRICS[metric].higher_is_better else -1
    return 1 + sum(sign * mean > sign * means[strategy] for mean in means.values())


def _key_table(results):
    rows = []
    for name, key in results.final_models.items():
        effort = results.effort[key]
        means = [value_text(metric, results.scores[key][metric].mean()) for metric in PAPER_METRICS]
        rows.append([name, effort["annotated_slices"], effort["annotated_liver_slices"], *means])
    return markdown_table(
        ["Converged model", "slices", "liver slices", *(titled(metric) for metric in PAPER_METRICS)], rows
    )


def _tables(results, pictures):
    cases = len(results.cases)
    compared = len(results.strategies) > 1
    best = (
        "The best mean of a row is bold; stars are for its two-sided Wilcoxon signed-rank test against the others: "
        if compared
        else ""
    )
    best += (
        r"\* p < 0.05, \*\* p < 0.01, \*\*\* p < 0.001, uncorrected; the section Tests has every p."
        if compared
        else ""
    )

    yield f"## Table 1. Data\n\n{tables.sites(results)}\n\n{comparison.published_sites()}"
    yield (
        "## Table 2. Training data\n\nAnnotated slices / annotated liver slices / patients, on the working grid.\n\n"
        f"{tables.training_data(results)}\n\n{comparison.published_training_data(results)}"
    )
    yield pictures.get(2)
    yield pictures.get(4)
    yield (
        "## Table 3. Training steps\n\nStep of the checkpoint with the best validation Jaccard index, which is evaluated, of steps trained."
        f"\n\n{tables.training_steps(results)}\n\n{comparison.published_training_steps(results)}"
    )
    yield pictures.get(3)
    for number, metric in enumerate(PAPER_METRICS, start=4):
        yield (
            f"## Table {number}. {titled(metric)}\n\nMean ± standard deviation ({METRICS[metric].robust_quantile * 100:.0f}th percentile) "
            f"over n = {cases} test cases, models of the iterations. {best}\n\n{tables.metric_by_iteration(results, metric)}\n\n"
            f"{_test_line(results, metric, 'iteration')}{comparison.published_metric(results, metric)}"
        )
    yield (
        "## Table 8. Converged models\n\nMean ± standard deviation (5th percentile of DICE, 95th of the others) "
        f"over n = {cases} test cases. {best.replace('a row', 'a column')} "
        f"The data pool's model takes no part.\n\n{tables.converged(results)}\n\n"
        f"{''.join(_test_line(results, metric, 'converged') for metric in PAPER_METRICS)}{comparison.published_converged(results)}"
    )
    yield pictures.get(6)
    yield pictures.get(5)
    table, failures = tables.quantile_regression(results)
    fitted = f"over n = {cases * len(results.strategies)} results of the converged models"
    text = (
        f"## Table 9. Effects of uncertainty and slice sampling\n\nQuantile regression `metric ~ uncertainty + slice` {fitted}, at the 5th "
        f"percentile of DICE and the 95th of the others: coefficient [95% confidence interval] and p.\n\n{table}"
    )
    for metric, reason in failures.items():
        text += f"\n\nThe fit of {metric} failed: {reason}."
    yield f"{text}\n\n{comparison.published_quantile_regression(results)}"


def _test_line(results, metric, kind):
    """What the stars of a table rest on, as a paragraph."""
    tests = [test for row in tables.comparisons(results, metric, kind).values() for test in row.values()]
    if not tests:
        return ""
    zeros = sorted(test.zeros for test in tests)
    span = str(zeros[0]) if zeros[0] == zeros[-1] else f"{zeros[0]} to {zeros[-1]}"
    methods = listed(sorted({test.method for test in tests}))
    return f"{metric}: {len(tests)} tests of n = {tests[0].n} pairs, {span} of them without a difference; p: {methods}.\n\n"


def _further_metrics(results):
    """A section of its own for the metrics that the paper lacks, where the results have them."""
    for metric in METRICS:
        if metric not in PAPER_METRICS and metric in results.scores[INITIAL]:
            yield (
                f"### {titled(metric)}\n\nModels of the iterations:\n\n{tables.metric_by_iteration(results, metric)}\n\n"
                f"Converged models:\n\n{tables.converged(results, [metric])}"
            )


def _further_statistics(results):
    further = [*_further_metrics(results)]
    if further:
        yield "## Further metrics"
        yield from further
    yield "## Further statistics"
    yield f"### Confidence intervals\n\nPercentile bootstrap over the test cases, seeded.\n\n{tables.intervals(results)}"
    areas, (start, stop) = tables.effort_areas(results)
    rows = [[strategy, f"{area:.3f}"] for strategy, area in areas.items()]
    yield (
        "### Area under the effort curve\n\nMean DICE of the iterations' models against annotated liver slices, averaged over the range "
        f"of {start} to {stop} liver slices, which every strategy covers.\n\n{markdown_table(['Strategy', 'mean DICE over effort'], rows)}"
    )
    sites = "\n\n".join(tables.by_site(results, metric) for metric in PAPER_METRICS)
    yield f"### By site\n\nMeans of the converged models and the data pool's over the test cases of each site.\n\n{sites}"
    missed = tables.missed_livers(results)
    yield "### Missed livers\n\n" + (
        "Nothing was predicted in these cases: they count with DICE 0, RVE 100%, and the diagonal of the volume as MSD and HD.\n\n"
        + missed
        if missed
        else "No model missed a liver altogether."
    )


def _tests(results):
    if len(results.strategies) < 2:
        return
    yield (
        "## Tests\n\nEvery comparison behind the stars. Pairs are test cases; pairs without a difference are ranked and then dropped "
        "(Pratt). Holm's correction is over all comparisons of one metric in one table. The effect size is the matched-pairs rank-biserial "
        "correlation, positive where the strategy does better than the one of best mean."
    )
    for kind, title in (("iteration", "iterations"), ("converged", "converged models")):
        for metric in PAPER_METRICS:
            yield f"### {metric}, {title}\n\n{tables.corrected_tests(results, metric, kind)}"


def _notes(results):
    notes = results.provenance["notes"]
    return "## Notes of the simulation\n\n" + "\n".join(f"- {note}" for note in notes) if notes else ""


def _deviations(results):
    settings = results.provenance["config"]
    widths = ", ".join(str(width) for width in settings["network"]["widths"])
    limit = settings["training"]["converged_max_steps"]
    return f"""## What the paper leaves open, and deviations from it

The method is that of {PAPER}. Settled by this benchmark:

- Widths of the network ({widths} here) are not published; (32, 72, 88, 168, 336) meet the published geometry and parameter count.
- Weights are drawn by the rule of He et al.; the running statistics of batch normalization have a momentum of 0.1.
- Intensities are clipped to {settings["data"]["window"]} HU and divided by {settings["data"]["scale"]:g}.
- The halo of a patch is real context where the volume has it, reflected (repeatedly if need be) where it has not.
- An epoch is one pass over the cells that hold an annotated voxel; a lone annotated slice lies at a random depth of its cell.
- Every mini-batch holds a patch with annotated liver. The loss is equation 1 over the mini-batch, with weight 1 on annotated slices.
- USS adds exactly N_S candidates of highest slice uncertainty over the whole pool; RSS draws until N_S slices show liver. N_S is a third
  of the mean number of liver slices that a UVS iteration adds, unless it is set.
- The data pool model is trained like the converged ones: until {settings["training"]["patience"]} validations bring nothing better\
{f", or {limit} steps" if limit else ""}.
- MSD is the mean of the two directed mean distances, HD the larger directed maximum (no percentile); both on the native grid of the
  reference. Surface voxels have a 6-neighbour outside the mask, and the image border is outside.
- A liver that is missed altogether counts, with the diagonal of its volume as distance.
- Ties and pairs without a difference are treated as stated under Tests; Holm's correction, effect sizes, intervals and the breakdown by
  site are additions."""


def _provenance(results):
    origin = results.provenance
    git = origin["git"]
    counts = [
        f"{split} {sum(volume['split'] == split for volume in results.volumes)} of {origin['manifest_cases'][split]}"
        for split in SPLITS
    ]
    rows = [
        ["uss-bench", origin["uss_bench"]],
        [
            "git commit",
            f"{git['commit']}{', with uncommitted changes' if git['changed'] else ''}"
            if git
            else "not a checkout",
        ],
        ["Python", origin["python"]],
        *([name, number] for name, number in origin["libraries"].items()),
        ["device", origin["device"]],
        ["deterministic algorithms", "on" if origin["deterministic_algorithms"] else "off"],
        ["seed", origin["seed"]],
        ["manifest", f"{origin['manifest']}, SHA-256 {origin['manifest_sha256']}"],
        [
            "cases used, of those in the manifest",
            f"{', '.join(counts)} (data.pool, data.val and data.test limit them)",
        ],
        ["settings", f"SHA-256 {origin['config_sha256']}"],
    ]
    settings = [
        [f"{section}.{key}", value]
        for section, values in origin["config"].items()
        for key, value in values.items()
    ]
    return "\n\n".join(
        [
            f"## Provenance\n\nChecksums of all images and labels: [{paths.VOLUMES}]({paths.VOLUMES}). "
            f"Every number above: [{paths.CASES}]({paths.CASES}), [{paths.ANNOTATION}]({paths.ANNOTATION}), "
            f"[{paths.QUERIES}]({paths.QUERIES}), [{paths.TRAINING}]({paths.TRAINING}).",
            markdown_table(["", "value"], rows),
            "### Settings",
            markdown_table(["setting", "value"], settings),
        ]
    )


def _citation(results):
    version = results.provenance["uss_bench"]
    return f"""## How to cite

```bibtex
@software{{uss_bench,
  author  = {{{{The uss-bench developers}}}},
  title   = {{uss-bench: a reproducible benchmark of uncertainty slice sampling for {{3D}} {{CT}} segmentation}},
  version = {{{version}}}
}}

@article{{chlebus_uss,
  author = {{Chlebus, Grzegorz and Schenk, Andrea and Hahn, Horst K. and van Ginneken, Bram and Meine, Hans}},
  title  = {{Robust Segmentation Models using an Uncertainty Slice Sampling Based Annotation Workflow}}
}}
```"""
