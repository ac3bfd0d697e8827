"""The report across seeds: which strategy is better, by how much, and what so many seeds cannot tell.

Conclusions of active learning studies from a single seed are unsafe: the initial volumes, the weights and the
order of batches move the results about as much as the strategies do. Here every comparison is over seeds and
cases, and may end undecided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..runtime import storage
from ..runtime.paths import COMPARISONS, REPORT, SEEDS
from ..study.metrics import PAPER_METRICS
from . import across_plot, across_tables
from .across_summary import ENOUGH_SEEDS, summary
from .effort import DEFINITION
from .figures import KEY
from .pairs import (
    AREA,
    COMPARED,
    ROPES,
    Comparison,
    chosen,
    compare_all,
    highlighted,
    shown,
    write_comparisons,
)
from .seeds import Seeds, gather, read_seeds
from .style import has_matplotlib, our_style, save
from .verdicts import LEAST_SEEDS, MOST_SEEDS, POWER, limits_of_few_seeds
from .words import listed, marked, oracle_note, plural, titled


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
        f"{DEFINITION}",
        oracle_note(seeds.strategies),
        _key_figure(seeds, folder),
        _few_seeds(seeds),
        *_pairs(seeds, comparisons),
        _components(seeds),
        _method(seeds, comparisons),
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


def _few_seeds(seeds: Seeds) -> str:
    """What fewer than six seeds cannot show."""
    count = len(seeds.runs)
    if count >= ENOUGH_SEEDS:
        return ""
    limits = limits_of_few_seeds(count)
    points = [
        f"No signed-rank or sign test over {count} seeds can give p < 0.05; the least is {limits.least_p:g}. "
        "What follows takes the effects of seeds for about normal.",
        f"A standard deviation between seeds is known to within a factor of {limits.low:.2f} to "
        f"{limits.high:.1f} (95%).",
        "Where seeds are what varies, a mean difference must exceed "
        f"{limits.detectable:.1f} standard deviations between seeds to be told from none. "
        "An undecided pair is not an equal one.",
    ]
    if count < LEAST_SEEDS:
        points.append(f"With fewer than {LEAST_SEEDS} seeds, every pair is undecided.")
    lines = "\n".join(f"- {point}" for point in points)
    return f"## What {count} seeds cannot show\n\n{lines}"


def _pairs(seeds: Seeds, comparisons: Sequence[Comparison]) -> Iterator[str]:
    if not comparisons:
        return
    names = highlighted(seeds.strategies)
    which = (
        f" Shown are the pairs with {listed(names)}; [{COMPARISONS}]({COMPARISONS}) has all."
        if names != seeds.strategies
        else ""
    )
    yield (
        "## Is one strategy better than another?\n\n"
        f"Paired differences of the means over seeds and cases, of the {seeds.final_word} models and of "
        f"those of the last iteration; what stands behind them is said under How this was computed.{which}"
    )
    for metric in COMPARED:
        table = _pair_table(seeds, comparisons, metric, [budget.title for budget in seeds.budgets[:2]])
        yield f"### {titled(metric)}\n\n{table}"
    settings = len(seeds.runs) * len(seeds.budgets)
    yield (
        f"### Wins\n\nIn how many of {settings} settings (seed × models) the row has a better mean DICE than "
        f"the column; ties count for neither.\n\n{across_tables.wins(seeds, 'DICE')}"
    )
    yield (
        "### Effort\n\nMean DICE over the range of equivalent slices that all strategies of a seed cover "
        f"(area under the effort curve, over its length).\n\n{across_tables.areas(seeds)}\n\n"
        f"{_pair_table(seeds, comparisons, 'DICE', [AREA])}"
    )


def _pair_table(seeds: Seeds, comparisons: Sequence[Comparison], metric: str, budgets: Iterable[str]) -> str:
    """The pairs that there is room for, budget by budget."""
    pairs = [each for budget in budgets for each in chosen(comparisons, metric, budget)]
    return across_tables.pair_table(shown(pairs, seeds.strategies), seeds.final_word)


def _components(seeds: Seeds) -> str:
    return (
        "## What moves a score\n\nStandard deviation that each source gives to the score of one model on "
        "one case, and its share of the variance; 0 also where the estimate is negative. strategy × seed is "
        "what retraining and chance queries do to one model's mean; all that involves the case averages out "
        "over cases.\n\n"
        f"{across_tables.components(seeds)}"
    )


def _method(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    """How the numbers above come about, and how many chances they had to mislead."""
    ropes = listed(f"{half:g} {metric}" for metric, half in ROPES.items())
    text = (
        "## How this was computed\n\n"
        "Strategies are compared at the same iteration, seed by seed and case by case; those of one seed "
        "share initial volumes, first weights and Monte Carlo masks. Seeds and cases are crossed factors, "
        "both random: the interval is to hold for other seeds and other cases. It is Student's t, with the "
        "variance of the mean from the mean squares of a two-way analysis of variance, negative components "
        "set to 0, and Satterthwaite's degrees of freedom. That is resampling seeds and cases in closed "
        "form; the bootstrap itself covers too rarely where few seeds differ much. The project's slow tests "
        "measure both, and the rates of false verdicts.\n\n"
        "P is the probability that the first strategy scores better than the second with another seed on "
        "another case, ties counting half. Near 0 and 1 its interval counts seeds or cases, whichever are "
        "fewer, so it may hold 0.5 beside a verdict, which is on means. Verdicts: better or worse, where the "
        f"interval leaves zero out; equivalent, where it lies within ± {ropes}, on whichever side of zero; "
        "else undecided. Distances have no such region. The seeds that would decide are those that on as "
        f"many cases would give a verdict with a chance of {100 * POWER:.0f}%, were these estimates the "
        f"truth (> {MOST_SEEDS}: also where no number of seeds is enough, because the cases are too few)."
    )
    if comparisons:
        budgets = len(seeds.budgets)
        pairs = len(chosen(comparisons, comparisons[0].metric, comparisons[0].budget))
        text += (
            f"\n\nThis report makes {len(comparisons)} comparisons: {plural(pairs, 'pair')}, each in "
            f"{listed(COMPARED)} at {plural(budgets, 'budget')} and in the area of DICE. Intervals and "
            "verdicts are per comparison: where nothing differs, about 1 in 20 is called better or worse. "
            f"p (Holm) is corrected for the {plural(pairs, 'pair')} of one metric at one budget."
        )
    missed = sum(sum(run.missed.values()) for run in seeds.runs.values())
    if missed:
        total = len(seeds.runs) * len(seeds.first.scores) * len(seeds.first.cases)
        text += (
            f"\n\n{missed} of {total} results missed the liver altogether: they count with DICE 0, RVE 100%, "
            "and the diagonal of the volume as MSD and HD."
        )
    return text


def _appendix(seeds: Seeds, comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield "## Appendix"
    yield f"### Seeds\n\n{across_tables.headrooms(seeds)}\n\n{across_tables.origins(seeds)}"
    others = [budget.title for budget in seeds.budgets[2:]]
    if comparisons and others:
        for metric in COMPARED:
            table = _pair_table(seeds, comparisons, metric, others)
            yield f"### Pairs at earlier iterations, {titled(metric)}\n\n{table}"
    if comparisons:
        matrices = "\n\n".join(across_tables.wins(seeds, metric) for metric in COMPARED[1:])
        yield f"### Wins in distances\n\n{matrices}"
    note = f"Means over cases: mean ± standard deviation [least, greatest] over {len(seeds.runs)} seeds.\n\n"
    for metric in PAPER_METRICS:
        yield f"### Means, {titled(metric)}\n\n{note}{across_tables.spreads(seeds, metric)}"
        note = ""  # once is enough
    yield (
        "### Poor cases\n\n5th percentile of DICE and 95th of the others over cases, likewise over seeds, of "
        f"the {seeds.final_word} models and the data pool's.\n\n{across_tables.percentiles(seeds)}"
    )
    yield (
        f"Every comparison: [{COMPARISONS}]({COMPARISONS}). Every mean: [{SEEDS}]({SEEDS}). The other files "
        "beside them are the seeds' own, from which this report is built. Each seed has a report of its own."
    )
