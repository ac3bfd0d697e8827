"""The report across seeds: of made-up runs whose numbers are worked out by hand or by other programs.

After a wanted change of the report, read the difference that `test_golden_files` shows; then renew the golden
files, without matplotlib, with

    from uss_bench.report.across import write_report
    write_report("tests/report/data/across")
"""

import json
import re
import shutil
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import ROOT
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from uss_bench import pipeline
from uss_bench.commands import run_main
from uss_bench.report import across_plot
from uss_bench.report.across import write_across, write_report
from uss_bench.report.seeds import read_seeds
from uss_bench.runtime import paths, storage

pytestmark = pytest.mark.whole

GOLDEN = Path(__file__).parent / "data" / "across"
STRATEGIES = ("UVS", "RVS", "USS", "RSS")
WRITTEN = ("report.md", paths.SEEDS, paths.COMPARISONS)
KEYS = ("model", "strategy", "iteration")
# Mean DICE by seed: 0.80, 0.90 and 0.85 for UVS, 0.88, 0.84 and 0.85 for USS.
DICE = {0: {"UVS": 0.80, "USS": 0.88}, 1: {"UVS": 0.90, "USS": 0.84}, 2: {"UVS": 0.85, "USS": 0.85}}


def write_run(
    folder, seed, converged, iteration=None, initial=0.6, pool=0.95, hd=None, twin=None, cases="abc"
):
    """Result files of one iteration and three test cases, or two.

    Their DICE is 0.02 below and above `{strategy: mean}`, and that itself. The initial model has 12 liver
    slices of a whole volume, that is 4 equivalent slices. UVS adds another 12, that is 4; USS adds 8 by
    themselves.
    """
    iteration = iteration or converged
    means = {("initial", "", 0): initial, ("data pool", "", None): pool}
    means |= {("twin", "", 1): twin} if twin else {}
    means |= {("iteration", strategy, 1): mean for strategy, mean in iteration.items()}
    means |= {("converged", strategy, 1): mean for strategy, mean in converged.items()}
    rows = []
    for key, mean in means.items():
        scores = {"RVE": 5.0, "MSD": 2.0, "HD": (hd or {}).get(key[1], 30.0), "missed": 0}
        rows += [
            {**dict(zip(KEYS, key, strict=True)), "seed": seed, "case_id": case_id, "site": "s",
             "DICE": mean + shift, **scores}
            for case_id, shift in zip(cases, (-0.02, 0.02, 0.0)[: len(cases)], strict=True)
        ]  # fmt: skip
    storage.write_csv(folder / paths.CASES, list(rows[0]), rows)
    liver = {("", 0): 12, ("data pool", None): 90}
    liver |= {(strategy, 1): {"UVS": 24, "USS": 20}[strategy] for strategy in converged}
    columns = ["strategy", "iteration", "annotated_slices", "annotated_liver_slices", "unique_patients"]
    effort = [dict(zip(columns, (*key, 2 * count, count, 3), strict=True)) for key, count in liver.items()]
    storage.write_csv(folder / paths.ANNOTATION, columns, effort)
    training = [
        {**dict(zip(KEYS, key, strict=True)), "best_step": 1, "last_step": 2, "best_jaccard": 0.5}
        for key in means
    ]
    storage.write_csv(folder / paths.TRAINING, list(training[0]), training)
    columns = ["strategy", "iteration", "case_id", "slice", "score"]
    queries = [dict(zip(columns, ("UVS", 1, "p", None, 0.2), strict=True))]
    queries += [dict(zip(columns, ("USS", 1, "p", z, 0.2), strict=True)) for z in range(8)]
    storage.write_csv(folder / paths.QUERIES, columns, queries)
    geometry = {f"{name}_{axis}": 1.0 for name in ("spacing", "size") for axis in "zyx"}
    volumes = [{"case_id": case_id, **geometry} for case_id in cases]
    storage.write_csv(folder / paths.VOLUMES, ["case_id", *geometry], volumes)
    origin = {
        "seed": seed, "config": {"training": {"converged_max_steps": 3}}, "strategies": list(converged),
        "uss_bench": "0.2.0",
        "manifest_sha256": "m", "config_sha256": "s", "code_sha256": "c", "git": None, "device": "CPU",
        "libraries": {"numpy": "2"},
    }  # fmt: skip
    storage.write_json(folder / paths.PROVENANCE, origin)
    return folder


def made(tmp_path, seeds=DICE, **options):
    return {
        seed: write_run(tmp_path / f"seed-{seed}", seed, means, **options) for seed, means in seeds.items()
    }


@pytest.fixture(autouse=True)
def no_matplotlib(request, monkeypatch):
    if "illustrated" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture
def runs(tmp_path):
    return made(tmp_path)


@pytest.fixture
def golden(tmp_path):
    """A folder with the gathered results and nothing else."""
    shutil.copytree(GOLDEN / "results", tmp_path / "across" / "results")
    for name in (paths.SEEDS, paths.COMPARISONS):
        (tmp_path / "across" / name).unlink()
    return tmp_path / "across"


@pytest.fixture(scope="module")
def text():
    return (GOLDEN / "report.md").read_text(encoding="utf-8")


def limit_to_two_steps(runs):
    """Then all models that train to convergence ended at their limit."""
    for folder in runs.values():
        origin = storage.read_json(folder / paths.PROVENANCE)
        origin["config"]["training"]["converged_max_steps"] = 2
        storage.write_json(folder / paths.PROVENANCE, origin)


def text_of(folder, runs):
    path = write_across(folder, runs)
    assert path == folder / "report.md"
    return path.read_text(encoding="utf-8")


def summary_of(folder, runs):
    return text_of(folder, runs).split("\n\n")[1]


def section_of(text, heading):
    """Text below a heading, up to the next one of its level or above."""
    level = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)[1]
    pattern = rf"^{level} {re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)"
    return re.search(pattern, text, re.DOTALL | re.MULTILINE)[1]


def tables_of(text):
    """All tables, each as rows of cells, the header first."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        assert len(lines) > 2 and {len(line) for line in lines} == {len(lines[0])}
        assert set(lines[1]) == {"---", "---:"} and f"\n\n{block}" in f"\n{text}"
        found.append([lines[0], *lines[2:]])
    return found


# --- the golden report ---


def test_golden_files(golden):
    path = write_report(golden)
    assert path == golden / "report.md"
    assert path.read_text(encoding="utf-8") == (GOLDEN / "report.md").read_text(encoding="utf-8")
    for name in WRITTEN:
        assert (golden / name).read_bytes() == (GOLDEN / name).read_bytes(), name
    assert sorted(entry.name for entry in golden.iterdir()) == ["report.md", "results"]


def read(name):
    may_lack = ("seeds_needed", "iteration", "improvement_low", "improvement_high", "p_ranks")
    return pd.read_csv(GOLDEN / name, keep_default_na=False, na_values=dict.fromkeys(may_lack, ""))


@pytest.fixture(scope="module")
def cases():
    """Scores with the diagonal of the volume in the place of infinite distances."""
    scores, volumes = read(paths.CASES), read(paths.VOLUMES).set_index("case_id")
    edges = [volumes[f"size_{axis}"] * volumes[f"spacing_{axis}"] for axis in "zyx"]
    diagonals = np.sqrt(sum(edge**2 for edge in edges)).loc[scores["case_id"]].to_numpy()
    for metric in ("MSD", "HD"):
        scores[metric] = scores[metric].where(np.isfinite(scores[metric]), diagonals)
    return scores


def difference(cases, metric, kind, iteration, first, second):
    """Table of seed, case and first minus second."""
    models = cases[(cases["model"] == kind) & (cases["iteration"] == iteration)]
    tables = [
        models[models["strategy"] == name].set_index(["seed", "case_id"])[metric] for name in (first, second)
    ]
    return (tables[0] - tables[1]).rename("y").reset_index()


def error_and_freedom(table):
    """Of the mean of `y`: mean squares by statsmodels, and the formulas of the report's method."""
    squares = anova_lm(ols("y ~ C(seed) + C(case_id)", table).fit())
    parts = np.maximum(squares["mean_sq"], squares["mean_sq"]["Residual"])
    total = parts @ [1, 1, -1]
    return (total / len(table)) ** 0.5, max(total**2 / (parts**2 / squares["df"]).sum(), 3)


def wilson_of_clusters(table):
    """Ends of Wilson's interval: the shares from which the one found lies t standard errors away."""
    error, freedom = error_and_freedom(table)
    share, square = table["y"].mean(), stats.t.ppf(0.975, freedom) ** 2
    count = min(share * (1 - share) / error**2, len(table))
    # (share - x)² = t² x (1 - x) / count, solved for x
    return sorted(np.roots([1 + square / count, -2 * share - square / count, share**2]))


@pytest.mark.parametrize("metric", ["DICE", "MSD", "HD"])
@pytest.mark.parametrize("budget", ["converged", "iteration 2", "iteration 1"])
def test_every_comparison_by_another_program(cases, metric, budget):
    """Mean squares by statsmodels' analysis of variance, and the formulas of the report's method."""
    found = read(paths.COMPARISONS).set_index(["metric", "budget", "first", "second"])
    kind, iteration = ("converged", 2) if budget == "converged" else budget.split()
    for first, second in combinations(STRATEGIES, 2):
        table = difference(cases, metric, kind, int(iteration), first, second)
        error, freedom = error_and_freedom(table)
        row, mean = found.loc[metric, budget, first, second], table["y"].mean()
        reach = stats.t.ppf(0.975, freedom) * error
        assert row[["mean", "low", "high"]].to_numpy(float) == pytest.approx(
            [mean, mean - reach, mean + reach], rel=1e-4, abs=1e-6
        )
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(mean) / error, freedom), rel=1e-3, abs=1e-9)
        better = table["y"] > 0 if metric == "DICE" else table["y"] < 0
        assert row["improvement"] == pytest.approx(better.mean() + 0.5 * (table["y"] == 0).mean())
        ends = row[["improvement_low", "improvement_high"]].to_numpy(float)
        if 0 < row["improvement"] < 1:
            won = table.assign(y=better + 0.5 * (table["y"] == 0))
            assert ends == pytest.approx(wilson_of_clusters(won), rel=1e-4, abs=1e-5)
        else:
            assert np.isnan(ends).all()
        excludes_zero = abs(mean) > reach
        if metric == "DICE" and abs(mean) + reach < 0.01:
            assert row["verdict"] == "equivalent"
        else:
            verdict = (
                ("better" if (mean > 0) == (metric == "DICE") else "worse") if excludes_zero else "undecided"
            )
            assert row["verdict"] == verdict
        assert np.isnan(row["seeds_needed"]) or (row["verdict"] == "undecided" and row["seeds_needed"] > 4)


def test_the_made_up_runs_hold_every_verdict():
    assert set(read(paths.COMPARISONS)["verdict"]) == {"better", "worse", "equivalent", "undecided"}


def test_pair_tables_show_what_the_file_says(text):
    comparisons = read(paths.COMPARISONS)
    decimals = {"DICE": 3, "MSD": 2, "HD": 1}
    for metric, places in decimals.items():
        heading = metric if metric == "DICE" else f"{metric} [mm]"
        rows = tables_of(section_of(text, heading))[0][1:]
        shown = ["converged", "iteration 2", "effort curve"]
        if metric == "DICE":
            rows += tables_of(section_of(text, "Pairs at earlier iterations"))[0][1:]
            shown.append("iteration 1")
        of_metric = comparisons[comparisons["metric"] == metric].set_index("budget", drop=False)
        expected = pd.concat([of_metric.loc[budget] for budget in shown])
        assert len(rows) == len(expected) == len(shown) * 6
        for row, (_, line) in zip(rows, expected.iterrows(), strict=True):
            models = line["budget"].replace("converged", "final")  # all ended at their limit
            assert row[:2] == [f"{line['first']} − {line['second']}", models]
            numbers = [float(number) for number in re.findall(r"[-+]?\d+\.\d+", row[2])]
            assert numbers == pytest.approx(
                [line[name] for name in ("mean", "low", "high")], abs=0.51 / 10**places
            )
            assert [number > 0 for number in numbers[1:]] == [line[name] > 0 for name in ("low", "high")]
            assert row[5].strip("*") == line["verdict"]
            assert row[5].startswith("**") == (
                line["verdict"] in ("better", "worse") and line["p_holm"] < 0.05
            )
            assert (row[6] == "") == (line["verdict"] != "undecided") == np.isnan(line["seeds_needed"])
            if line["seeds_needed"] <= 100:
                seeds = int(row[6].removeprefix("~"))  # rounded up to tens, from 20 on
                assert 0 <= seeds - line["seeds_needed"] < (1 if seeds < 20 else 10)
            elif row[6]:
                assert row[6] == ("never" if np.isinf(line["seeds_needed"]) else "> 100")


def test_wins_by_counting(text, cases):
    means = cases.groupby(["model", "strategy", "iteration", "seed"])["DICE"].mean()
    header, *rows = tables_of(section_of(text, "Wins"))[0]
    assert header == ["DICE", *STRATEGIES]
    settings = [("converged", 2), ("iteration", 2), ("iteration", 1)]
    for row in rows:
        for other, cell in zip(STRATEGIES, row[1:], strict=True):
            wins = sum((means[kind, row[0], k] > means[kind, other, k]).sum() for kind, k in settings)
            assert cell == ("" if other == row[0] else str(wins))
    assert "In how many of 12 settings" in section_of(text, "Wins")


def test_key_table_by_counting(text, cases):
    """Initially 16 liver slices of 2 volumes; then UVS and RVS add volumes, the others slices."""
    table = {row[0]: row[1:] for row in tables_of(text)[0][1:]}
    means = cases.groupby(["model", "strategy", "seed"])["DICE"].mean()
    liver = read(paths.ANNOTATION)
    for name in STRATEGIES:
        own = means["converged", name]
        cells = table[f"{name} (final)"]
        assert cells[2] == "640"
        assert cells[3] == f"{own.mean():.3f} ± {own.std():.3f}"
        counts = liver[(liver["strategy"] == name) & (liver["iteration"] == 2)]["annotated_liver_slices"]
        slices = counts / 3 if name in ("UVS", "RVS") else 16 / 3 + counts - 16
        assert cells[0] == f"{slices.mean():.0f} ± {slices.std():.0f}"
        free = liver[(liver["strategy"] == name) & (liver["iteration"] == 2)]
        free = free["annotated_slices"] - free["annotated_liver_slices"]
        assert cells[1] == f"{free.mean():.0f} ± {free.std():.0f}"
    assert table["initial"][0] == "5 ± 0" and table["data pool"][0] == "17 ± 0"


def test_spread_of_the_twins(text, cases):
    means = cases.groupby(["model", "seed"])["DICE"].mean()
    shifts = means["twin"] - means["initial"]
    deviation = ((shifts**2).mean() / 2) ** 0.5
    low, high = deviation * (4 / stats.chi2.ppf([0.975, 0.025], 4)) ** 0.5
    assert (
        f"by a standard deviation of {deviation:.3f} [{low:.3f}, {high:.3f}] (95% interval, "
        in text.split("\n\n")[1]
    )
    rows = tables_of(section_of(text, "Seeds"))[0][1:]
    assert [row[0] for row in rows] == ["0", "1", "2", "10"]
    assert [float(row[4]) for row in rows] == [round(shift, 3) for shift in shifts.loc[[0, 1, 2, 10]]]


def test_where_the_seeds_come_from(text):
    section = section_of(text, "Seeds")
    assert "Device: CPU (seeds 0, 1 and 2); NVIDIA H100 80GB HBM3 (seed 10)." in section
    assert section.count("torch 2.13.0") == 1


def test_the_text_counts_its_comparisons_and_its_missed_livers(text):
    method = section_of(text, "How this was computed")
    assert len(read(paths.COMPARISONS)) == 72
    assert (
        "This report makes 81 comparisons: 72 of strategies (6 pairs, each in DICE, MSD and HD at 3 budgets "
        "and by the effort curve) and, at the top, 9 with the initial and the data pool model."
    ) in method
    assert "1 of 480 results missed the liver altogether" in method
    assert ": RSS iteration 2, final, seed 2, in test-1." in method


def test_what_strategies_do_not_share_by_another_program(text, cases):
    """From the mean squares of statsmodels: what is left to a model's mean beside strategy, seed and case."""
    models = cases[cases["model"] == "converged"]
    for metric, decimals in (("DICE", 3), ("MSD", 2), ("HD", 1)):
        table = models.rename(columns={metric: "y"})
        terms = "(C(strategy) + C(seed) + C(case_id)) ** 2"
        squares = anova_lm(ols(f"y ~ {terms}", table).fit())["mean_sq"]
        # Seeds x cases of a strategy's means over cases: their interaction's mean square is that over 8.
        expected = (squares["C(strategy):C(seed)"] / 8) ** 0.5
        low, high = expected * (9 / stats.chi2.ppf([0.975, 0.025], 9)) ** 0.5
        shown = f"{expected:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
        assert f"{shown} in {metric}" in section_of(text, "What moves a score")
        if metric == "DICE":
            assert f"queries) moves that of final models by an estimated {shown}." in text.split("\n\n")[1]


def test_every_table_parses_and_no_line_shows_a_failure(text):
    assert len(tables_of(text)) == 19
    found = text.split("## How these runs differ")[0]  # a setting may be None
    assert not re.search(r"\bnan\b|\bNone\b|Traceback|\binf\b|[+-]0\.0+\b(?!\d)", found)


def test_links_lead_to_files_beside_the_report(text):
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert set(links) == {paths.COMPARISONS, paths.SEEDS}
    assert all((GOLDEN / link).is_file() for link in links)


# --- runs worked out by hand ---


def test_spread_over_seeds_by_hand(tmp_path, runs):
    """UVS: mean 0.85, squares of 0.05, 0.05 and 0, so sd 0.05.

    USS: mean 0.857, from which the seeds lie 0.0233, 0.0167 and 0.0067 off, so sd 0.021.
    """
    text = text_of(tmp_path / "across", runs)
    assert tables_of(text)[0][1:] == [
        ["initial", "4 ± 0", "12 ± 0", "2", "0.600 ± 0.000", "5.00 ± 0.00", "2.00 ± 0.00", "30.0 ± 0.0"],
        [
            "UVS (converged)",
            "8 ± 0",
            "24 ± 0",
            "2",
            "0.850 ± 0.050",
            "5.00 ± 0.00",
            "2.00 ± 0.00",
            "30.0 ± 0.0",
        ],
        [
            "USS (converged)",
            "12 ± 0",
            "20 ± 0",
            "2",
            "0.857 ± 0.021",
            "5.00 ± 0.00",
            "2.00 ± 0.00",
            "30.0 ± 0.0",
        ],
        ["data pool", "30 ± 0", "90 ± 0", "2", "0.950 ± 0.000", "5.00 ± 0.00", "2.00 ± 0.00", "30.0 ± 0.0"],
    ]
    header, *rows = tables_of(section_of(text, "Means, DICE"))[0]
    assert header == ["", "UVS", "USS", "no query"]
    assert rows[1] == ["iter. 1", "0.850 ± 0.050 [0.800, 0.900]", "0.857 ± 0.021 [0.840, 0.880]", ""]
    # Of three cases 0.02 apart, the fifth percentile lies 0.002 above the least, so 0.018 below the mean.
    assert tables_of(section_of(text, "Poor cases"))[0][1][1] == "0.832 ± 0.050 [0.782, 0.882]"


def test_areas_by_hand(tmp_path, runs):
    """From 4 to the 8 slices that UVS ends with, where USS is half way from 0.6 to its 12 slices.

    UVS of seed 0: the mean of 0.6 and 0.8. USS: from 0.6 to 0.74, so 0.67.
    """
    rows = tables_of(section_of(text_of(tmp_path / "across", runs), "Effort"))[0]
    assert rows[1] == ["seed 0 (4 to 8)", "0.700", "0.670"]
    assert rows[2] == ["seed 1 (4 to 8)", "0.750", "0.660"]


def test_verdict_by_hand(tmp_path):
    """Differences of 0.05, 0.06 and 0.07 in all cases: 0.06 ± 4.303 x 0.01 / 3**0.5, which is 0.025."""
    seeds = {seed: {"UVS": 0.80, "USS": 0.85 + seed / 100} for seed in range(3)}
    text = text_of(tmp_path / "across", made(tmp_path, seeds))
    row = tables_of(section_of(text, "DICE"))[0][1]
    assert row[:3] == ["UVS − USS", "converged", "-0.060 [-0.085, -0.035]"]
    assert row[3:6] == ["0 (none of 9)", "0.009", "**worse**"]
    summary = text.split("\n\n")[1]
    assert (
        "Among the converged models (after 8–12 equivalent slices): In DICE, USS is better than UVS by 0.060 "
        "[0.035, 0.085]. In MSD, UVS − USS: 0.00 [0.00, 0.00] mm, undecided. In HD, UVS − USS: 0.0 [0.0, "
        "0.0] mm, undecided."
    ) in summary


def test_strategies_are_compared_at_equal_effort_first(tmp_path):
    """Up to UVS' 8 slices, USS gets half way from 0.6 to 0.9, in the mean 0.675; UVS has 0.7, 0.71, 0.72."""
    seeds = {seed: {"UVS": 0.80 + seed / 50, "USS": 0.90} for seed in range(3)}
    summary = summary_of(tmp_path / "across", made(tmp_path, seeds))
    equal, final = summary.index("At equal effort"), summary.index("Among the converged models")
    assert equal < final
    assert "UVS is better than USS by 0.035 [0.010, 0.060]" in summary[equal:final]
    assert "USS is better than UVS by 0.080" in summary[final:]


def test_nothing_is_claimed_where_nothing_is_shown(tmp_path, runs):
    """Differences of -0.08, 0.06 and 0: -0.007 ± 4.303 x 0.0702 / 3**0.5, which is 0.174."""
    summary = summary_of(tmp_path / "across", runs)
    assert (
        "Among the converged models (after 8–12 equivalent slices): In DICE, UVS − USS: -0.007 "
        "[-0.181, +0.168], undecided."
    ) in summary
    assert "better than" not in summary


def test_iterations_and_converged_models_are_kept_apart(tmp_path):
    seeds = {seed: {"UVS": 0.9 + seed / 1000, "USS": 0.8} for seed in range(3)}
    text = text_of(tmp_path / "across", made(tmp_path, seeds, iteration={"UVS": 0.7, "USS": 0.75}))
    rows = tables_of(section_of(text, "DICE"))[0][1:]
    assert [(row[1], row[2].split()[0]) for row in rows] == [
        ("converged", "+0.101"),
        ("iteration 1", "-0.050"),
        ("effort curve", "+0.012"),  # to 8 slices, UVS from 0.6 to 0.7, USS to 0.675 on its way to 0.75
    ]


def test_headroom_and_gain(tmp_path):
    """The pool lies 0.35 above the initial model, the iterations' models 0.2 and 0.001."""
    options = {"iteration": {"UVS": 0.8, "USS": 0.601}, "twin": 0.61}
    summary = summary_of(tmp_path / "across", made(tmp_path, **options))
    assert summary.startswith(
        "- Over 3 seeds and 3 test cases, the initial model has a mean DICE of 0.600 and the model trained "
        "on the whole pool 0.950, a difference of +0.350 [+0.350, +0.350], in 3 of 3 single seeds above 0 "
        "(+0.350 to +0.350): there is headroom."
    )
    assert (
        "UVS +0.200 [+0.200, +0.200] and USS +0.001 [+0.001, +0.001] in mean DICE, in 6 of 6 single seeds "
        "above 0 (+0.001 to +0.200): annotation helped with UVS and made next to no difference with USS."
    ) in summary
    # Two trainings lie 0.01 apart, so each has a standard deviation of 0.01 / 2**0.5.
    assert "by a standard deviation of 0.007 [" in summary


def test_headroom_may_be_longer_training(tmp_path, runs):
    for folder in runs.values():
        rows = storage.read_csv(folder / paths.TRAINING)
        rows = [{**row, "last_step": 7} if row["model"] == "data pool" else row for row in rows]
        storage.write_csv(folder / paths.TRAINING, list(rows[0]), rows)
    assert (
        "a difference of +0.350 [+0.350, +0.350] (part of it may be longer training: 2 and 7 steps), in 3 "
        "of 3 single seeds above 0 (+0.350 to +0.350): there is headroom."
    ) in summary_of(tmp_path / "across", runs)


def test_without_twins_the_rest_is_said_all_the_same(tmp_path, runs):
    summary = summary_of(tmp_path / "across", runs)
    assert "Without twins (`query.twins`), nothing here shows how far retraining alone moves" in summary
    assert "moves that of converged models by an estimated 0.050 [" in summary


def test_help_that_is_not_shown_is_said_so(tmp_path):
    """Gains over 0.6 of -0.05, 0.35 and 0.1."""
    seeds = {seed: {"UVS": mean, "USS": mean} for seed, mean in enumerate((0.55, 0.95, 0.7))}
    summary = summary_of(tmp_path / "across", made(tmp_path, seeds))
    assert (
        "in mean DICE, in 4 of 6 single seeds above 0 (-0.050 to +0.350): annotation is not shown to have "
        "helped with any."
    ) in summary


@pytest.mark.parametrize(
    ("pools", "answer"),
    [((0.5, 0.5, 0.5), "there is none"), ((0.4, 0.8, 0.7), "whether there is headroom remains open")],
)
def test_headroom_that_is_not_there_is_said_so(tmp_path, pools, answer):
    runs = {seed: made(tmp_path, {seed: DICE[seed]}, pool=pool)[seed] for seed, pool in enumerate(pools)}
    assert f": {answer}." in summary_of(tmp_path / "across", runs)


def test_harm_is_said(tmp_path):
    options = {"iteration": {"UVS": 0.5, "USS": 0.4}}
    summary = summary_of(tmp_path / "across", made(tmp_path, **options))
    assert "in 0 of 6 single seeds above 0 (-0.200 to -0.100): annotation did harm with all." in summary


def test_no_headroom_is_said_so(tmp_path):
    summary = summary_of(tmp_path / "across", made(tmp_path, initial=0.85, pool=0.855))
    assert (
        ": there is next to none. Warning: the initial model is at 99% of the pool model already." in summary
    )
    assert "upper bound" not in summary  # single models lie above it, no strategy does


def test_a_strategy_above_the_pool_model_is_named(tmp_path):
    seeds = {seed: {"UVS": 0.80, "USS": 0.88} for seed in range(3)}
    summary = summary_of(tmp_path / "across", made(tmp_path, seeds, pool=0.85))
    assert (
        "Of the converged models, UVS by 0.050 [0.050, 0.050] falls short of the pool model. The pool model "
        "is no upper bound: of the converged models, USS by 0.030 [0.030, 0.030] is above it."
    ) in summary


def test_strategies_above_the_pool_model_by_chance_are_not(tmp_path):
    """0.05 above it by t of 5.6 and 4.9 over three seeds: p is 0.03 and 0.04, after Holm 0.06."""
    seeds = {seed: {"UVS": 0.9 + place * 0.0154, "USS": 0.9 + place * 0.0179}
             for seed, place in enumerate((-1, 0, 1))}  # fmt: skip
    assert "upper bound" not in summary_of(tmp_path / "across", made(tmp_path, seeds, pool=0.85))
    lone = {seed: {"UVS": means["UVS"]} for seed, means in seeds.items()}
    assert "of the converged models, UVS by 0.050 [0.012, 0.088] is above it" in summary_of(
        tmp_path / "lone", made(tmp_path / "alone", lone, pool=0.85)
    )


def test_models_that_ended_at_the_limit_are_counted(tmp_path, runs):
    """All of the nine that train to convergence took 2 steps."""
    assert "stopped at" not in summary_of(tmp_path / "across", runs)
    limit_to_two_steps(runs)
    assert "9 of 9 models meant to converge were stopped at 2 steps." in summary_of(tmp_path / "across", runs)


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_few_seeds_are_told_what_they_cannot_show(tmp_path, count):
    seeds = {seed: {"UVS": 0.80, "USS": 0.85 + seed / 1000} for seed in range(count)}
    text = text_of(tmp_path / "across", made(tmp_path, seeds))
    assert (f"## What {count} seeds cannot show" in text) == (count < 6)
    assert ("every pair is undecided" in text) == (count < 3)
    assert ("**worse**" in text) == (count > 2)
    assert ("p (ranks)" in text) == ("It is not corrected." in text) == (count == 6)
    assert ("Verdicts assume that effects of seeds" in text) == (2 < count < 6)
    assert ("better than" in text.split("\n\n")[1]) == (count > 2)
    assert ("nothing can be decided" in text.split("\n\n")[1]) == (count == 2)
    assert ("is found with a chance of 80%." in text) == (2 < count < 6)
    assert ("[" in tables_of(section_of(text, "DICE"))[0][1][2]) == (count > 2)
    if count < 6:
        least = stats.wilcoxon(np.arange(1.0, count + 1), method="exact").pvalue
        assert f"can give p < 0.05; the least is {least:g}." in text


def test_two_cases_are_told_what_they_cannot_show(tmp_path):
    """Six seeds that agree about two cases say nothing of other cases."""
    seeds = {seed: {"UVS": 0.80, "USS": 0.85 + seed / 500} for seed in range(6)}
    text = text_of(tmp_path / "across", made(tmp_path, seeds, cases="ab"))
    assert "What 2 test cases cannot show is listed below." in text.split("\n\n")[1]
    section = section_of(text, "What 2 test cases cannot show")
    assert "every pair is undecided" in section and "signed-rank" not in section
    rows = tables_of(section_of(text, "DICE"))[0][1:]
    assert [(row[2], row[-2], row[-1]) for row in rows] == [
        *[("-0.055", "undecided", "")] * 2,
        ("+0.036", "undecided", ""),  # areas to 8 slices: UVS from 0.6 to 0.8, USS half way to 0.855
    ]


def test_an_area_is_never_equivalent(tmp_path):
    """Final models 0.0025 apart are equivalent; areas that are as close are not said to be.

    At the 8 slices that UVS ends with, USS is half way from 0.6 to 1.0, as good as UVS.
    """
    seeds = {seed: {"UVS": 0.8, "USS": 0.8025} for seed in range(3)}
    summary = summary_of(tmp_path / "across", made(tmp_path, seeds, iteration={"UVS": 0.8, "USS": 1.0}))
    equal, final = summary.index("At equal effort"), summary.index("Among the converged models")
    assert "equivalent" not in summary[equal:final].replace("equivalent slices", "")
    assert "0.000], undecided" in summary[equal:final]
    assert "In DICE, UVS − USS: -0.002 [-0.003, -0.002], equivalent." in summary[final:]


def test_means_and_differences_in_the_mix_of_the_pool(tmp_path, runs):
    """Two of three in the pool are normal, of the tests a alone: weights of 4/6 for a, 1/6 for b and c.

    They are 0.02 below and above the mean, and there, so a mean is 0.01 lower. UVS then gets 0.06 more in a.
    """
    for folder in runs.values():
        rows = storage.read_csv(folder / paths.CASES)
        for row in rows:
            if (row["model"], row["strategy"], row["case_id"]) == ("converged", "UVS", "a"):
                row["DICE"] = float(row["DICE"]) + 0.06
        storage.write_csv(folder / paths.CASES, list(rows[0]), rows)
        rows = storage.read_csv(folder / paths.VOLUMES)
        rows = [{**row, "split": "test", "variant": "fatty"} for row in rows]
        rows[0]["variant"] = "normal"
        pool = {"p": "normal", "q": "normal", "r": "fatty"}
        rows += [{**rows[0], "case_id": name, "split": "pool", "variant": pool[name]} for name in pool]
        storage.write_csv(folder / paths.VOLUMES, list(rows[0]), rows)
    text = text_of(tmp_path / "across", runs)
    table = {row[0]: row for row in tables_of(text)[0]}
    assert table["Model"][-1] == "DICE, pool's mix"
    assert table["USS (converged)"][-1] == "0.847 ± 0.021"
    assert table["UVS (converged)"][-1] == "0.880 ± 0.050"
    header, *rows = tables_of(section_of(text, "DICE"))[0]
    assert [(row[2].split()[0], row[3]) for row in rows] == [
        ("+0.013", "+0.033"),
        ("-0.007", "-0.007"),
        ("+0.061", "+0.061"),  # areas are of the iterations' models
    ]
    assert header[3] == "in the pool's mix"
    assert "differences in DICE between them change by up to 0.020." in text.split("\n\n")[1]


def test_what_holds_after_correction_is_named_and_the_rest_counted(tmp_path, golden):
    """Of the first three seeds, three pairs of areas differ by more than UVS − RVS, but none as surely."""
    for name in (paths.CASES, paths.ANNOTATION, paths.TRAINING, paths.QUERIES):
        rows = [row for row in storage.read_csv(golden / name) if row["seed"] != "10"]
        storage.write_csv(golden / name, list(rows[0]), rows)
    origins = storage.read_json(golden / paths.PROVENANCE)["seeds"]
    del origins["10"]
    storage.write_json(golden / paths.PROVENANCE, {"seeds": origins})
    text = write_report(golden).read_text(encoding="utf-8")
    table = tables_of(section_of(text, "DICE"))[0]
    rows = {row[0]: row for row in table if row[1] == "effort curve"}
    assert rows["UVS − RVS"][5] == "**worse**" and rows["USS − RSS"][5] == "better"
    assert (
        "At equal effort (effort curve): In DICE, RVS is better than UVS by 0.007 [0.005, 0.010] (of 6 "
        "pairs, 3 better only before correction and 2 undecided)."
    ) in text.split("\n\n")[1]


def test_several_cases_of_a_patient_are_warned_of(tmp_path, runs):
    assert "of one patient" not in text_of(tmp_path / "across", runs)
    for folder in runs.values():
        rows = [{**row, "patient_id": row["case_id"].replace("b", "a")} for row in
                storage.read_csv(folder / paths.VOLUMES)]  # fmt: skip
        storage.write_csv(folder / paths.VOLUMES, list(rows[0]), rows)
    summary = summary_of(tmp_path / "across", runs)
    assert summary.startswith("- Over 3 seeds and 3 test cases of 2 patients, ")
    assert "- Warning: cases of one patient are alike" in summary


def test_the_embedded_phantoms_are_called_what_they_are(tmp_path, runs):
    for folder in runs.values():
        origin = storage.read_json(folder / paths.PROVENANCE)
        origin["manifest_sha256"] = storage.file_digest(ROOT / "data_manifest.csv")
        storage.write_json(folder / paths.PROVENANCE, origin)
    assert "and 3 test cases (synthetic phantoms), the initial" in summary_of(tmp_path / "across", runs)


def test_lists_that_all_seeds_share_are_named(tmp_path, runs):
    """UVS and USS ask for the same in all made-up runs; then UVS does not."""
    assert "UVS and USS asked for the same in every seed" in text_of(tmp_path / "across", runs)
    rows = storage.read_csv(runs[1] / paths.QUERIES)
    rows = [{**row, "case_id": "q"} if row["strategy"] == "UVS" else row for row in rows]
    storage.write_csv(runs[1] / paths.QUERIES, list(rows[0]), rows)
    text = text_of(tmp_path / "across", runs)
    assert "the pool is the same. USS asked for the same in every seed" in text


def test_one_strategy_is_compared_with_none(tmp_path):
    runs = made(tmp_path, {seed: {"USS": means["USS"]} for seed, means in DICE.items()})
    text = text_of(tmp_path / "across", runs)
    assert "pair" not in text.split("\n\n")[1] and "## Is one strategy" not in text
    assert tables_of(text)[0][2][:5] == ["USS (converged)", "12 ± 0", "20 ± 0", "2", "0.857 ± 0.021"]
    assert "## What moves a score" not in text


def test_an_oracle_is_shown_and_not_compared(tmp_path, golden):
    """Another strategy with 0.05 more DICE than USS changes no verdict, no correction and no component."""
    before = write_report(golden).read_text(encoding="utf-8")
    for name in (paths.CASES, paths.ANNOTATION, paths.TRAINING, paths.QUERIES):
        rows = storage.read_csv(golden / name)
        copies = [{**row, "strategy": "OSS"} for row in rows if row["strategy"] == "USS"]
        if name == paths.CASES:
            copies = [{**row, "DICE": min(float(row["DICE"]) + 0.05, 1.0)} for row in copies]
        if name == paths.ANNOTATION:
            copies = [{**row, "annotated_liver_slices": 20 + int(row["iteration"])} for row in copies]
        storage.write_csv(golden / name, list(rows[0]), rows + copies)
    after = write_report(golden).read_text(encoding="utf-8")
    for heading in ("Is one strategy better than another?", "What moves a score", "Wins in distances"):
        assert section_of(after, heading) == section_of(before, heading)
    assert (golden / paths.COMPARISONS).read_bytes() == (GOLDEN / paths.COMPARISONS).read_bytes()
    assert "| OSS† (final) |" in after and "OSS† better" not in after
    slices = [re.search(r"models \(after (.*?) equivalent slices\)", text)[1] for text in (before, after)]
    assert slices[0] == slices[1]  # those of the strategies that the sentence compares
    assert "† An oracle" in after


def test_oracles_alone_are_shown(tmp_path, runs):
    for folder in runs.values():
        for name in (paths.CASES, paths.ANNOTATION, paths.TRAINING, paths.QUERIES):
            rows = [row for row in storage.read_csv(folder / name) if row["strategy"] != "UVS"]
            rows = [{**row, "strategy": row["strategy"].replace("USS", "OSS")} for row in rows]
            storage.write_csv(folder / name, list(rows[0]), rows)
    text = text_of(tmp_path / "across", runs)
    assert "| OSS† (converged) |" in text and "there is headroom" in text
    assert storage.read_csv(tmp_path / "across" / paths.COMPARISONS) == []


def test_no_area_where_a_strategy_adds_no_liver_slice(tmp_path, runs):
    """Then all curves have but their first point in common."""
    for folder in runs.values():
        rows = storage.read_csv(folder / paths.ANNOTATION)
        rows = [{**row, "annotated_liver_slices": 12} if row["strategy"] == "UVS" else row for row in rows]
        storage.write_csv(folder / paths.ANNOTATION, list(rows[0]), rows)
    text = text_of(tmp_path / "across", runs)
    assert "No areas under the effort curves" in section_of(text, "Effort") and "equal effort (" not in text
    assert "in DICE, MSD and HD at 2 budgets) and, at the top, 5 with" in text


def test_final_models_that_are_retrained_are_said_to_be(tmp_path, runs):
    """As many steps as the last iteration's, up to the limit."""
    assert "once more, under other batches" not in text_of(tmp_path / "across", runs)
    limit_to_two_steps(runs)
    text = text_of(tmp_path / "across", runs)
    assert text.count("The final models are those of the last iteration once more, under other batches.") == 2


def test_the_same_runs_in_any_order_give_the_same_bytes(tmp_path, runs):
    folders = [tmp_path / "a", tmp_path / "b"]
    write_across(folders[0], runs)
    for _ in range(2):
        write_across(folders[1], dict(reversed(runs.items())))
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]
    assert contents[0] == contents[1] and len(contents[0]) == 9


# --- the key figure ---


@pytest.fixture(scope="module")
def illustrated(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("illustrated")
    shutil.copytree(GOLDEN / "results", folder / "results")
    write_report(folder)
    return folder


def test_the_figure_is_all_that_matplotlib_adds(illustrated, text):
    paragraphs = (illustrated / "report.md").read_text(encoding="utf-8").split("\n\n")
    pictures = [paragraph for paragraph in paragraphs if paragraph.startswith(("![", "**Key figure.**"))]
    assert len(pictures) == 2
    kept = [paragraph for paragraph in paragraphs if paragraph not in pictures]
    assert kept == [part for part in text.split("\n\n") if not part.startswith("No figure without")]
    alt, file = re.fullmatch(r"!\[([^\]]+)\]\((.*)\)", pictures[0]).groups()
    assert len(alt.split()) > 10 and (illustrated / file).read_bytes().startswith(b"\x89PNG")


def test_curves_bands_and_differences(illustrated, cases):
    """What is drawn, against means that pandas takes."""
    seeds = read_seeds(illustrated)
    axes = across_plot.key_figure(seeds).axes
    means = cases.groupby(["model", "strategy", "iteration", "seed"])["DICE"].mean()
    curve = next(line for line in axes[0].lines if line.get_label() == "USS")
    expected = [means["initial", "", 0].mean(), *(means["iteration", "USS", k].mean() for k in (1, 2))]
    assert curve.get_ydata() == pytest.approx(expected)
    edges = axes[0].collections[2].get_paths()[0].vertices[:, 1]  # the third band
    assert edges.max() == pytest.approx(expected[2] + means["iteration", "USS", 2].std())
    points, _, bars = axes[2].containers[2]  # UVS, RVS and USS against RSS
    models = [("iteration", 1), ("iteration", 2), ("converged", 2)]
    gains = [(means[kind, "USS", k] - means[kind, "RSS", k]).mean() for kind, k in models]
    assert points.get_ydata() == pytest.approx(gains)
    found = read(paths.COMPARISONS).set_index(["metric", "budget", "first", "second"])
    expected = found.loc["DICE", "converged", "USS", "RSS"][["low", "high"]].to_numpy(float)
    assert bars[0].get_segments()[2][:, 1] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["1", "2", "final"]


@pytest.mark.parametrize(
    ("initial", "text"),
    [(0.85, "(dotted)"), (0.2, "(dotted; far from all others and off the axis: DICE 0.200)")],
)
def test_an_initial_model_off_the_axis_is_said(illustrated, tmp_path, initial, text):
    seeds = read_seeds(write_across(tmp_path / "across", made(tmp_path, initial=initial)).parent)
    assert f"initial model {text} and model" in across_plot.describe(seeds)[1]
    low, high = across_plot.key_figure(seeds).axes[0].get_ylim()
    assert (low <= initial <= high) == ("off" not in text)


def test_two_seeds_have_no_intervals_in_the_figure(illustrated, tmp_path):
    """Neither bars nor their caps, which would look like an interval of no width."""
    seeds = read_seeds(write_across(tmp_path / "across", made(tmp_path, {0: DICE[0], 1: DICE[1]})).parent)
    points, caps, bars = across_plot.key_figure(seeds).axes[2].containers[0]
    assert len(points.get_ydata()) == 2 and caps == bars == ()


def test_what_differences_are_taken_from():
    assert across_plot.reference_of(STRATEGIES) == "RSS" and across_plot.reference_of(STRATEGIES[:3]) == "UVS"


# --- from the command line ---


def report_only(tmp_path, *seeds):
    arguments = ["--report-only", "--seed", *map(str, seeds), "--name", "made", "--reports", str(tmp_path)]
    return run_main(arguments, "test")


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """Reports of three seeds, as separate jobs leave them."""
    monkeypatch.setattr(pipeline.document, "write_report", lambda folder: folder)
    return {seed: write_run(tmp_path / f"made-seed{seed}", seed, means) for seed, means in DICE.items()}


def test_report_only_gathers_the_seeds(tmp_path, reports, monkeypatch, capsys):
    """Every seed's own report is rebuilt, then that across them."""
    rebuilt = []
    monkeypatch.setattr(pipeline.document, "write_report", rebuilt.append)
    assert report_only(tmp_path, 2, 0) == 0
    assert rebuilt == [reports[2], reports[0]]
    path = tmp_path / "made-seeds0-2" / "report.md"
    assert path.read_text(encoding="utf-8").split("\n\n")[1].startswith("- Over 2 seeds")
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("manifest_sha256", "other"), "manifest_sha256: m there, other here"),
        (("code_sha256", "other"), "code_sha256: c there, other here"),
        (("strategies", ["USS"]), "strategies: ['UVS', 'USS'] there, ['USS'] here"),
        (
            ("further_strategies", {"MINE": {"sha256": "d", "file": "mine.py", "source": "a\nb"}}),
            "further_strategies: {} there, {'MINE': 'd'} here",
        ),
        (
            ("config", {"training": {"converged_max_steps": 5}}),
            "training.converged_max_steps: 3 there, 5 here",
        ),
        (("seed", 7), "results of seed 7, not 1"),
    ],
)
def test_seeds_of_another_benchmark_are_refused(tmp_path, reports, capsys, change, said):
    """In one line that names the folder and what differs, before any report is touched."""
    origin = json.loads((reports[1] / paths.PROVENANCE).read_text(encoding="utf-8"))
    storage.write_json(reports[1] / paths.PROVENANCE, {**origin, change[0]: change[1]})
    assert report_only(tmp_path, 0, 1, 2) == 2
    message = capsys.readouterr().err
    assert str(reports[1]) in message and said in message and len(message.splitlines()) == 1
    assert not list(tmp_path.glob("made-seeds*"))


def test_devices_and_libraries_may_differ(tmp_path, reports):
    """Seeds may come from other machines; the report says so."""
    origin = storage.read_json(reports[1] / paths.PROVENANCE)
    storage.write_json(reports[1] / paths.PROVENANCE, {**origin, "device": "a GPU"})
    assert report_only(tmp_path, 0, 1, 2) == 0
    text = (tmp_path / "made-seeds0-1-2" / "report.md").read_text(encoding="utf-8")
    assert "Device: CPU (seeds 0 and 2); a GPU (seed 1)." in text


def test_a_missing_seed_is_named(tmp_path, reports, capsys):
    shutil.rmtree(reports[1])
    assert report_only(tmp_path, 0, 1, 2) == 2
    assert "made-seed1: no results/cases.csv" in capsys.readouterr().err
    assert not list(tmp_path.glob("made-seeds*"))
