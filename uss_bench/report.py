"""The Markdown report of a run, built only from the result files beside it: the same files give the same bytes."""

from pathlib import Path

from . import storage, tables
from .metrics import METRICS
from .results import read_results
from .tables import markdown_table, titled, value_text

PAPER = "Chlebus et al., *Robust Segmentation Models using an Uncertainty Slice Sampling Based Annotation Workflow*"


def write_report(folder):
    """Write `report.md` into a report folder from the `results/` in it; returns its path.

    Raises
    ------
    InputError
        A result file is missing.
    """
    results = read_results(folder)
    sections = [
        "# Uncertainty slice sampling benchmark",
        _summary(results),
        _key_table(results),
        *_tables(results),
        *_tests(results),
        _notes(results),
        _deviations(results),
        _provenance(results),
    ]
    path = Path(folder) / "report.md"
    storage.write_text(path, "\n\n".join(section for section in sections if section) + "\n")
    return path


def _summary(results):
    """One paragraph of result, every word of it decided by the numbers."""
    last = max(results.iterations)
    dice = {strategy: results.scores["converged", strategy, last]["DICE"].mean() for strategy in results.strategies}
    order = sorted(dice, key=lambda strategy: -dice[strategy])
    data_pool = results.scores["data pool", "", None]["DICE"].mean()
    total = results.effort["data pool", None]["annotated_slices"]
    counts = {split: sum(volume["split"] == split for volume in results.volumes) for split in ("pool", "val", "test")}
    ranking = ", ".join(f"{strategy} {dice[strategy]:.3f}" for strategy in order)
    shares = ", ".join(
        f"{strategy} {100 * results.effort[strategy, last]['annotated_slices'] / total:.1f}%" for strategy in results.strategies
    )
    text = (
        f"After {last} active learning iterations on {counts['pool']} pool cases, the converged models reached a mean test DICE "
        f"of {ranking} ({counts['test']} test cases), against {data_pool:.3f} for the model trained on the whole pool. "
        f"Of all pool slices they used {shares}. "
    )
    if len(order) > 1:
        tests = tables.comparisons(results, "DICE", "converged")[last]
        worse = [strategy for strategy in order[1:] if tests[strategy].stars]
        text += f"{order[0]} has the best mean DICE; the difference is significant (p < 0.05, uncorrected) "
        text += f"against {', '.join(worse)}." if worse else "against no other strategy."
    if "USS" in order and len(order) > 1:
        text += f" USS ranks {order.index('USS') + 1} of {len(order)}."
    return text


def _key_table(results):
    last = max(results.iterations)
    rows = []
    for strategy in results.strategies:
        effort, scores = results.effort[strategy, last], results.scores["converged", strategy, last]
        means = [value_text(metric, scores[metric].mean()) for metric in METRICS]
        rows.append([strategy, effort["annotated_slices"], effort["annotated_liver_slices"], *means])
    effort, scores = results.effort["data pool", None], results.scores["data pool", "", None]
    means = [value_text(metric, scores[metric].mean()) for metric in METRICS]
    rows.append(["data pool", effort["annotated_slices"], effort["annotated_liver_slices"], *means])
    header = ["Converged model", "slices", "liver slices", *(titled(metric) for metric in METRICS)]
    return markdown_table(header, rows)


def _tables(results):
    best = "" if len(results.strategies) == 1 else " Best mean of a row in bold; stars: two-sided Wilcoxon signed-rank test against it."
    marks = r" \* p < 0.05, \*\* p < 0.01, \*\*\* p < 0.001, uncorrected (corrected values below)."
    yield "## Table 1. Data\n\n" + tables.datasets(results)
    yield (
        "## Table 2. Training data\n\nAnnotated slices / annotated liver slices / patients, on the working grid.\n\n"
        + tables.training_data(results)
    )
    yield (
        "## Table 3. Training steps\n\nStep of the checkpoint with the best validation Jaccard index, of steps trained.\n\n"
        + tables.training_steps(results)
    )
    for number, metric in enumerate(METRICS, start=4):
        percentile = f"{METRICS[metric].robust_quantile * 100:.0f}th percentile"
        yield (
            f"## Table {number}. {titled(metric)}\n\nMean ± standard deviation ({percentile}) over {len(results.cases)} test cases, "
            f"models of the iterations.{best}{marks if best else ''}\n\n{tables.metric_by_iteration(results, metric)}"
        )
    yield (
        "## Table 8. Converged models\n\nMean ± standard deviation (5th percentile of DICE, 95th of the others)."
        f"{best}\n\n{tables.converged(results)}"
    )
    table, failures = tables.quantile_regression(results)
    text = (
        "## Table 9. Effects of uncertainty and slice sampling\n\nQuantile regression `metric ~ uncertainty + slice` over the converged "
        "models' test cases, at the 5th percentile of DICE and the 95th of the others: "
        f"coefficient [95% confidence interval] and p.\n\n{table}"
    )
    for metric, reason in failures.items():
        text += f"\n\nThe fit of {metric} failed: {reason}"
    yield text


def _tests(results):
    yield (
        "## Tests\n\nEvery comparison behind the stars. Pairs are test cases; zeros are pairs without a difference (Pratt's treatment). "
        "Holm's correction is over all comparisons of one table. The effect size is the matched-pairs rank-biserial correlation, "
        "positive where the strategy is better than the best mean's."
    )
    for model, title in (("iteration", "iterations"), ("converged", "converged models")):
        for metric in METRICS:
            table = tables.corrected_tests(results, metric, model)
            if table:
                yield f"### {metric}, {title}\n\n{table}"


def _notes(results):
    missed = [(key, count) for key, count in results.missed.items() if count]
    lines = [f"- {' '.join(str(part) for part in key if part not in ('', None))}: {count} of {len(results.cases)}" for key, count in missed]
    text = "## Missed livers\n\n"
    if lines:
        text += (
            "Nothing was predicted in these cases: DICE 0, RVE 100%, and for MSD and HD the diagonal of the volume instead of infinity.\n\n"
            + "\n".join(lines)
        )
    else:
        text += "No model missed a liver altogether."
    if results.provenance["notes"]:
        text += "\n\n## Notes of the simulation\n\n" + "\n".join(f"- {note}" for note in results.provenance["notes"])
    return text


def _deviations(results):
    settings = results.provenance["config"]
    widths = ", ".join(str(width) for width in settings["network"]["widths"])
    return f"""## What the paper leaves open, and deviations from it

The method is that of {PAPER}. Settled by this benchmark:

- The widths of the network ({widths} here) are not published; (32, 72, 88, 168, 336) meet the published geometry and parameter count.
- The halo of a patch is real context where the volume has it, reflected where it has not.
- USS adds exactly N_S candidates of highest slice uncertainty over the whole pool; N_S comes from UVS as in the paper.
- The data pool model is trained like the converged ones, until {settings["training"]["patience"]} validations bring nothing better\
{f" or {settings['training']['converged_max_steps']} steps" if settings["training"]["converged_max_steps"] else ""}.
- MSD is the mean of the two directed mean distances; HD is the maximum, not a percentile. Evaluation is on the native grid.
- Significance: zeros by Pratt; Holm's correction is an addition."""


def _provenance(results):
    origin = results.provenance
    git = origin["git"]
    rows = [
        ["uss-bench", origin["uss_bench"]],
        ["git commit", f"{git['commit']}{', changed since' if git['changed'] else ''}" if git else "not a checkout"],
        ["Python", origin["python"]],
        *([name, number] for name, number in origin["libraries"].items()),
        ["device", f"{origin['device']}, {origin['threads']} threads"],
        ["deterministic algorithms", "on" if origin["deterministic_algorithms"] else "off"],
        ["seed", origin["seed"]],
        ["manifest", f"{origin['manifest']}, SHA-256 {origin['manifest_sha256']}"],
        ["settings", f"SHA-256 {origin['config_sha256']}"],
    ]
    settings = [[f"{section}.{key}", value] for section, values in origin["config"].items() for key, value in values.items()]
    return "\n\n".join(
        ["## Provenance", markdown_table(["", "value"], rows), "### Settings", markdown_table(["setting", "value"], settings)]
    )
