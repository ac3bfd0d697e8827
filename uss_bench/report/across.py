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
from ..study.metrics import PAPER_METRICS
from . import across_plot, across_tables
from .across_summary import summary, too_few
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
from .summary import MIX
from .verdicts import (
    LEAST_CASES,
    LEAST_SEEDS,
    MOST_SEEDS,
    POWER,
    RANKED_SEEDS,
    has_interval,
    least_seeds_by_rank,
    limits_of_few_seeds,
)
from .words import listed, marked, oracle_note, plural, titled, value_text


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
        f"{DEFINITION}{MIX * (seeds.first.pool_mix is not None)}",
        oracle_note(seeds.strategies),
        _key_figure(seeds, folder),
        _limits(seeds),
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


def _limits(seeds: Seeds) -> str:
    """What fewer than six seeds, or hardly any cases, cannot show."""
    if not (few := too_few(seeds)):
        return ""
    count, points = len(seeds.runs), []
    if count < RANKED_SEEDS:
        limits = limits_of_few_seeds(count)
        points = [
            f"No signed-rank or sign test over {count} seeds can give p < 0.05; the least is "
            f"{limits.least_p:g}. What follows relies on effects of seeds that are about normal.",
            "Where a table gives mean ± standard deviation over seeds, the true deviation lies between "
            f"{limits.low:.2f} and {limits.high:.1f} times the one given (95%). The sources under “What "
            "moves a score” are known less well still; 0 there does not mean none.",
            f"Where seeds are what varies, the mean difference of a pair must exceed {limits.detectable:.1f} "
            "standard deviations of that difference between seeds to be distinguished from zero. An "
            "undecided pair is not an equal one.",
        ]
    if not has_interval(count, len(seeds.first.cases)):
        points.append(
            f"With fewer than {LEAST_SEEDS} seeds or {LEAST_CASES} test cases, every pair is undecided and "
            "no interval is given: up to an eighth of them would miss the truth."
        )
    elif count == LEAST_SEEDS:
        points.append(f"In simulations, up to 9% of the intervals of {count} seeds miss the truth, not 5%.")
    lines = "\n".join(f"- {point}" for point in points)
    return f"## What {few} cannot show\n\n{lines}"


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
        f"Paired differences of the means over seeds and cases; see “How this was computed” below.{which}"
    )
    yield "### Effort\n\n" + _at_equal_effort(seeds, comparisons)
    efforts = listed(
        f"{name} {seeds.effort(seeds.budgets[0].key(name)).mean():.0f}" for name in seeds.contenders
    )
    yield (
        f"### After the last iteration\n\nThe {seeds.final_word} models and those of the last iteration, "
        f"which have cost {efforts} equivalent slices in the mean.{_retrained(seeds)}"
    )
    for metric in COMPARED:
        table = _pair_table(seeds, comparisons, metric, [budget.title for budget in seeds.budgets[:2]])
        yield f"#### {titled(metric)}\n\n{table}"
    settings = len(seeds.runs) * len(seeds.budgets)
    yield (
        f"### Wins\n\nIn how many of {settings} settings (seed × models) the row has a better mean DICE than "
        "the column; ties count for neither. Settings of one seed are not independent of each other."
        f"{_retrained(seeds)}\n\n{across_tables.wins(seeds, 'DICE')}"
    )


def _at_equal_effort(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    if not seeds.overlapping:
        return (
            "No areas under the effort curves: in some seed, a strategy added no liver slice to the initial "
            "ones, so there is no range of effort that all strategies cover."
        )
    return (
        "Mean DICE of the iterations' models over the range of equivalent slices that all strategies of a "
        "seed cover (area under the effort curve, over its length). All curves begin at the initial model, "
        "so areas lie closer together than the curves' ends.\n\n"
        f"{across_tables.areas(seeds)}\n\n{_pair_table(seeds, comparisons, 'DICE', [AREA])}"
    )


def _retrained(seeds: Seeds) -> str:
    if not seeds.retrained:
        return ""
    return " The final models are those of the last iteration once more, under other batches."


def _pair_table(seeds: Seeds, comparisons: Sequence[Comparison], metric: str, budgets: Iterable[str]) -> str:
    """The pairs that there is room for, budget by budget."""
    pairs = [each for budget in budgets for each in chosen(comparisons, metric, budget)]
    return across_tables.pair_table(shown(pairs, seeds.contenders), seeds.final_word)


def _components(seeds: Seeds) -> str:
    if len(seeds.contenders) < 2:
        return ""
    deviations = {
        metric: across_tables.unshared_deviation(seeds, seeds.budgets[0], metric) for metric in COMPARED
    }
    unshared = listed(
        f"{value_text(metric, found)} in {titled(metric)}" for metric, found in deviations.items()
    )
    return (
        "## What moves a score\n\nStandard deviation that each source gives to the score of one model on "
        f"one case, and its share of the variance, estimated from {len(seeds.runs)} seeds; 0 also where the "
        "estimate is negative. What the strategies of a seed do not share (batches, dropout, queries, how "
        "they answer to the initial volumes) moves the mean of one model over these "
        f"{len(seeds.first.cases)} cases by strategy × seed and by the rest averaged over cases, together "
        f"{unshared} among {seeds.final_word} models. First weights, which they share, are in seed and seed "
        "× case.\n\n"
        f"{across_tables.components(seeds)}"
    )


def _method(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    """How the numbers above come about, and how many chances they had to mislead."""
    ropes = listed(f"{half:g} {metric}" for metric, half in ROPES.items())
    text = (
        "## How this was computed\n\n"
        "Strategies are compared at equal effort and at the same iteration, seed by seed and case by case; "
        "those of one seed share initial volumes, first weights and Monte Carlo masks. Another seed draws "
        "these anew (initial volumes unless the manifest names them), and batches, dropout and random "
        f"queries; the pool is the same.{_fixed_queries(seeds)} Seeds and cases are crossed factors, both "
        "random: the interval is to hold for other such seeds and other cases. It is Student's t, with the "
        "variance of the mean from the mean squares of a two-way analysis of variance, negative components "
        "set to 0, and Satterthwaite's degrees of freedom. It relies on effects of seeds and cases that are "
        "about normal; the alternative, resampling seeds and cases, covers too rarely where few seeds differ "
        "much. The project's slow tests measure both, and the rates of false verdicts.\n\n"
        "P is the probability that the first strategy scores better than the second with another seed on "
        "another case, ties counting half; where all agree, no interval can be given. Its interval may hold "
        "0.5 beside a verdict, which is on means. Verdicts: better or worse, where the interval leaves zero "
        f"out; equivalent, where it lies within ± {ropes}, on whichever side of zero; else undecided. "
        "Distances and areas have no such region. The seeds that would decide are a guess: those that on as "
        f"many cases would give a verdict with a chance of {100 * POWER:.0f}%, were these estimates the "
        f"truth (> {MOST_SEEDS}: also where no number of seeds is enough, because the cases are too few). "
        "Without a region of equivalence there is a number even where nothing differs."
    )
    if len(seeds.runs) >= RANKED_SEEDS:
        text += (
            " p (ranks) is that of a signed-rank test over the seeds' means: it takes no effect for normal, "
            "and these cases for the only ones. It is not corrected."
        )
    if comparisons:
        budgets = len(seeds.budgets)
        pairs = len(chosen(comparisons, comparisons[0].metric, comparisons[0].budget))
        if RANKED_SEEDS <= len(seeds.runs) < (least := least_seeds_by_rank(pairs)):
            text += (
                f" Corrected for {plural(pairs, 'pair')}, it could not be below 0.05 with fewer than {least} "
                "seeds."
            )
        area = " and in the area of DICE" * seeds.overlapping
        others = 1 + len(seeds.strategies) + len(seeds.contenders)
        text += (
            f"\n\nThis report makes {len(comparisons)} comparisons: {plural(pairs, 'pair')}, each in "
            f"{listed(COMPARED)} at {plural(budgets, 'budget')}{area}; and {others} with the initial and the "
            "data pool model, in its first paragraph. Intervals and verdicts are per comparison: where "
            f"nothing differs, about 1 in 20 (of {LEAST_SEEDS} seeds up to 1 in 12) is called better or "
            "worse, in DICE fewer, where equivalence can be shown. p (Holm) is corrected for the "
            f"{plural(pairs, 'pair')} of one metric at one budget, and so is whether a strategy's model is "
            "above the data pool's."
        )
    return "\n\n".join([text, *_missed(seeds)])


def _fixed_queries(seeds: Seeds) -> str:
    """Which strategies have asked for the same in every seed, so that their queries are not drawn anew."""
    asked = {
        name: {
            tuple(
                (row["iteration"], row["case_id"], row["slice"])
                for row in run.queries
                if row["strategy"] == name
            )
            for run in seeds.runs.values()
        }
        for name in seeds.strategies
    }
    same = [name for name, lists in asked.items() if len(lists) == 1]
    if not same:
        return ""
    return f" {listed(same)} asked for the same in every seed; what is said of them holds for these queries."


def _missed(seeds: Seeds) -> Iterator[str]:
    """Which results missed the liver: a single one may decide on a pair."""
    missed = [
        f"{key.title.replace('converged', seeds.final_word)}, seed {seed}, in {listed(cases)}"
        for seed, run in seeds.runs.items()
        for key, cases in run.missed.items()
        if cases
    ]
    if not missed:
        return
    count = sum(len(cases) for run in seeds.runs.values() for cases in run.missed.values())
    total = len(seeds.runs) * len(seeds.first.scores) * len(seeds.first.cases)
    yield (
        f"{count} of {total} results missed the liver altogether and count{'s' * (count == 1)} with DICE 0, "
        f"RVE 100%, and the diagonal of the volume as MSD and HD: {'; '.join(missed)}. Where seeds are few, "
        "one such result may decide how wide an interval is."
    )


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
        "### Poor cases\n\n5th percentile of DICE and 95th of the others over cases, of "
        f"the {seeds.final_word} models and the data pool's: mean ± standard deviation [least, greatest] "
        f"over seeds.\n\n{across_tables.percentiles(seeds)}"
    )
    yield (
        f"Every comparison: [{COMPARISONS}]({COMPARISONS}). Every mean: [{SEEDS}]({SEEDS}). The other files "
        "beside them are the seeds' own, from which this report is built. Each seed has a report of its own."
    )
