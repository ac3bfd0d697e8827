"""The report across seeds: which strategy is better, by how much, and what so many seeds cannot tell.

Conclusions of active learning studies from a single seed are unsafe: the initial volumes (unless the manifest
names them), the weights and the order of batches move the results about as much as the strategies do. Here
every comparison is over seeds and cases, and may end undecided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..runtime import storage
from ..runtime.paths import COMPARISONS, REPORT, SEEDS
from ..study.metrics import METRICS, PAPER_METRICS
from . import across_plot, across_tables, appendix, further
from .across_method import limits, method
from .across_summary import summary
from .effort import DEFINITION
from .figures import KEY
from .pairs import (
    AREA,
    COMPARED,
    Comparison,
    chosen,
    compare_all,
    compared_metrics,
    highlighted,
    shown,
    write_comparisons,
)
from .seeds import Seeds, gather, read_seeds
from .style import has_matplotlib, our_style, save
from .summary import MIX, query_kinds
from .words import interval_text, listed, marked, oracle_note, titled, value_text


def write_across(folder: str | Path, reports: Mapping[int, str | Path]) -> Path:
    """Gather the results of several seeds and write the report across them.

    Parameters
    ----------
    folder : path
        Where it is written.
    reports : mapping
        `{seed: report folder}` of at least two finished runs.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    InputError
        A result file is missing, or the runs have not the same models, cases or files of cases.
    """
    gather(folder, reports)
    return write_report(folder)


def write_report(folder: str | Path) -> Path:
    """Write the report, its figure and its two result files from what `gather` put into the folder.

    Raises
    ------
    InputError
        A result file is missing.
    """
    folder = Path(folder)
    seeds = read_seeds(folder)
    comparisons = compare_all(seeds)
    storage.write_csv(folder / SEEDS, *across_tables.seed_rows(seeds))
    write_comparisons(folder, comparisons)
    sections = [
        "# Uncertainty slice sampling benchmark across seeds",
        summary(seeds, comparisons),
        f"{across_tables.key_table(seeds)}\n\nMean ± standard deviation over seeds of the mean over cases. "
        f"{DEFINITION}{query_kinds(seeds.strategies)}{MIX * (seeds.first.pool_mix is not None)}",
        oracle_note(seeds.strategies),
        _key_figure(seeds, folder),
        limits(seeds),
        *_pairs(seeds, comparisons),
        _components(seeds),
        _groups(seeds),
        method(seeds, comparisons),
        *_appendix(seeds, comparisons),
    ]
    path = folder / REPORT
    storage.write_text(path, marked("\n\n".join(section for section in sections if section)) + "\n")
    return path


def _key_figure(seeds: Seeds, folder: Path) -> str:
    if not has_matplotlib():
        return "No figure without matplotlib; after `pip install matplotlib` the same command draws it."
    with our_style():
        save(across_plot.key_figure(seeds), folder / KEY)
    alt, caption = across_plot.describe(seeds)
    return f"![{alt}]({KEY})\n\n**Key figure.** {caption}"


def _pairs(seeds: Seeds, comparisons: Sequence[Comparison]) -> Iterator[str]:
    if not comparisons:
        return
    names = highlighted(seeds.contenders)
    which = (
        f" Shown are the pairs with {listed(names)}; [{COMPARISONS}]({COMPARISONS}) has all."
        if names != seeds.contenders
        else ""
    )
    yield (
        "## Is one strategy better than another?\n\n"
        "Paired differences of the means over seeds and cases; verdicts are bold where they hold after "
        "Holm's correction for the pairs of a metric and budget. “How this was computed”, below, says what "
        f"p and P are.{which}"
    )
    yield f"### Effort\n\n{_at_equal_effort(seeds)}"
    efforts = listed(f"{name} {seeds.effort(seeds.final.key(name)).mean():.0f}" for name in seeds.contenders)
    yield (
        f"### Pairs\n\nThe {seeds.final_word} models and those of the last iteration, which have cost "
        f"{efforts} equivalent slices on average, and areas under effort curves, where effort is equal."
        f"{_retrained(seeds)}"
    )
    for metric in COMPARED:
        table = _pair_table(seeds, comparisons, metric, _budgets(seeds))
        yield f"#### {titled(metric)}\n\n{table}"
    settings = len(seeds.runs) * len(seeds.budgets)
    yield (
        f"### Wins\n\nIn how many of {settings} settings (seed × models) the row has a better mean DICE than "
        "the column; ties count for neither. Settings of one seed are not independent of each other."
        f"{_retrained(seeds)}\n\n{across_tables.wins(seeds, 'DICE')}"
    )


def _budgets(seeds: Seeds) -> list[str]:
    """At which pairs are shown: of the final models, the last iteration's, and areas."""
    return [seeds.final.title, seeds.by_iteration[-1].title, AREA]


def _at_equal_effort(seeds: Seeds) -> str:
    if not seeds.overlapping:
        return (
            "No areas under the effort curves: in some seed, a strategy added no liver slice to the initial "
            "ones, so there is no range of effort that all strategies cover."
        )
    return (
        "Mean DICE of the iterations' models over the range of equivalent slices that all strategies of a "
        "seed cover (area under the effort curve, over its length); the cheapest ends it for all. All curves "
        "begin at the initial model, so areas lie closer together than the curves' ends.\n\n"
        f"{across_tables.areas(seeds)}"
    )


def _retrained(seeds: Seeds) -> str:
    if not seeds.retrained:
        return ""
    return " The final models are those of the last iteration once more, under other batches."


def _pair_table(seeds: Seeds, comparisons: Sequence[Comparison], metric: str, budgets: Iterable[str]) -> str:
    """The pairs that there is room for, budget by budget."""
    pairs = [each for budget in budgets for each in chosen(comparisons, metric, budget)]
    return across_tables.pair_table(seeds, shown(pairs, seeds.contenders))


def _components(seeds: Seeds) -> str:
    if len(seeds.contenders) < 2:
        return ""
    unshared = []
    for metric in COMPARED:
        deviation, *ends = across_tables.unshared_deviation(seeds, seeds.final, metric)
        interval = interval_text(*ends, METRICS[metric].decimals, sign="")
        unshared.append(f"{value_text(metric, deviation)} {interval} in {titled(metric)}")
    return (
        "## What moves a score\n\nStandard deviation that each source gives to the score of one model on "
        f"one case, and its share of the variance, estimated from {len(seeds.runs)} seeds; 0 also where the "
        "estimate is negative. What the strategies of a seed do not share (batches, dropout, queries, how "
        "they answer to the initial volumes) moves the mean of one model over these "
        f"{len(seeds.first.cases)} cases by strategy × seed and by the rest averaged over cases, together by "
        f"a standard deviation of {listed(unshared)} (95% intervals, which take effects for normal) among "
        f"{seeds.final_word} models. First weights, which they share, are in seed and seed × case.\n\n"
        f"{across_tables.components(seeds)}"
    )


def _groups(seeds: Seeds) -> str:
    """Where the strategies' models differ: by site, variant and length of the scan."""
    tables = [
        f"### By {title}\n\n{further.by_group(seeds.first, title, seeds.scores)}"
        for title in further.groupings(seeds.first)
    ]
    return "\n\n".join([
        "## In which cases\n\nMean DICE / mean HD [mm] of the "
        f"{seeds.final_word} models over {len(seeds.runs)} seeds and n test cases.",
        *tables,
    ])  # fmt: skip


def _appendix(seeds: Seeds, comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield "## Appendix"
    yield f"### Seeds\n\n{across_tables.headrooms(seeds)}\n\n{across_tables.origins(seeds)}"
    others = [budget.title for budget in reversed(seeds.by_iteration[:-1])]
    if comparisons and others:
        table = _pair_table(seeds, comparisons, "DICE", others)
        yield (
            f"### Pairs at earlier iterations\n\nIn DICE; [{COMPARISONS}]({COMPARISONS}) has the other "
            f"metrics.\n\n{table}"
        )
    further_metrics = compared_metrics(seeds)[len(COMPARED) :]
    if comparisons and further_metrics:
        yield f"### Pairs in {listed(further_metrics)}"
        for metric in further_metrics:
            table = _pair_table(seeds, comparisons, metric, _budgets(seeds))
            yield f"#### {titled(metric)}\n\n{METRICS[metric].definition}\n\n{table}"
    if comparisons:
        matrices = "\n\n".join(across_tables.wins(seeds, metric) for metric in COMPARED[1:])
        yield f"### Wins in distances\n\n{matrices}"
    note = f"Means over cases: mean ± standard deviation [least, greatest] over {len(seeds.runs)} seeds.\n\n"
    for metric in PAPER_METRICS:
        yield f"### Means, {titled(metric)}\n\n{note}{across_tables.spreads(seeds, metric)}"
        note = ""  # once is enough
    yield (
        "### Poor cases\n\n5th percentile of DICE and 95th of the others over cases, of "
        f"the {seeds.final_word} models and the data pool's: mean ± standard deviation [least, greatest] "
        f"over seeds.\n\n{across_tables.percentiles(seeds)}"
    )
    yield (
        f"Every comparison: [{COMPARISONS}]({COMPARISONS}). Every mean: [{SEEDS}]({SEEDS}). The other files "
        "beside them are the seeds' own, from which this report is built."
    )
    yield (
        "## How these runs differ from the paper\n\nThe report of each seed lists, beside these settings, "
        "what the paper leaves open and how this benchmark settles it."
    )
    yield appendix.settings(seeds.first)
    yield appendix.citation(seeds.first)
