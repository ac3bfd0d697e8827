"""The report across seeds of runs made up so that every number can be worked out by hand."""

import csv
import re
import shutil

import pytest

from uss_bench import pipeline
from uss_bench.commands import run_main
from uss_bench.report.across import write_across
from uss_bench.runtime import paths, storage
from uss_bench.runtime.errors import InputError

# Mean DICE by seed: 0.80, 0.90 and 0.85 for UVS, 0.88, 0.84 and 0.85 for USS.
DICE = {0: {"UVS": 0.80, "USS": 0.88}, 1: {"UVS": 0.90, "USS": 0.84}, 2: {"UVS": 0.85, "USS": 0.85}}


def write_run(folder, seed, converged, iteration=None, initial=0.6, hd=None):
    """Result files of one iteration and two test cases.

    Their DICE is 0.02 below and above `{strategy: mean}`. The initial model has 10 liver slices, both
    strategies 20, so that the area under the curve is the mean of both ends.
    """
    iteration = iteration or converged
    means = {("initial", "", 0): initial, ("data pool", "", None): 0.95}
    means |= {("iteration", strategy, 1): mean for strategy, mean in iteration.items()}
    means |= {("converged", strategy, 1): mean for strategy, mean in converged.items()}
    keys = ("model", "strategy", "iteration")
    rows = []
    for key, mean in means.items():
        for case_id, shift in (("a", -0.02), ("b", 0.02)):
            scores = {
                "DICE": mean + shift,
                "RVE": 5.0,
                "MSD": 2.0,
                "HD": (hd or {}).get(key[1], 30.0),
                "missed": 0,
            }
            rows.append(
                {**dict(zip(keys, key, strict=True)), "seed": seed, "case_id": case_id, "site": "s", **scores}
            )
    storage.write_csv(folder / paths.CASES, list(rows[0]), rows)
    counts = {("", 0): 10, ("data pool", None): 100} | {(strategy, 1): 20 for strategy in converged}
    effort = [
        {
            "strategy": key[0],
            "iteration": key[1],
            "annotated_slices": 2 * count,
            "annotated_liver_slices": count,
            "unique_patients": 3,
        }
        for key, count in counts.items()
    ]
    storage.write_csv(folder / paths.ANNOTATION, list(effort[0]), effort)
    training = [
        {**dict(zip(keys, key, strict=True)), "best_step": 1, "last_step": 2, "best_jaccard": 0.5}
        for key in means
    ]
    storage.write_csv(folder / paths.TRAINING, list(training[0]), training)
    storage.write_csv(folder / paths.QUERIES, ["strategy", "iteration", "case_id", "slice", "score"], [])
    geometry = {f"{name}_{axis}": 1.0 for name in ("spacing", "size") for axis in "zyx"}
    storage.write_csv(
        folder / paths.VOLUMES,
        ["case_id", *geometry],
        [{"case_id": case_id, **geometry} for case_id in "ab"],
    )
    storage.write_json(folder / paths.PROVENANCE, {"seed": seed})
    return folder


@pytest.fixture
def runs(tmp_path):
    return {seed: write_run(tmp_path / f"seed-{seed}", seed, means) for seed, means in DICE.items()}


def text_of(folder, runs):
    path = write_across(folder, runs)
    assert path == folder / "report.md"
    return path.read_text(encoding="utf-8")


def tables_of(text, heading):
    """The tables below a heading of level 2, each as `{(row, column): cell}`."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        assert {len(line) for line in lines} == {len(lines[0])} and set(lines[1]) == {"---", "---:"}
        found.append(
            {
                (line[0], name): cell
                for line in lines[2:]
                for name, cell in zip(lines[0][1:], line[1:], strict=True)
            }
        )
    return found


def test_spread_over_seeds_by_hand(tmp_path, runs):
    """UVS: mean 0.85, squares of 0.05, 0.05 and 0, so sd 0.05.

    USS: mean 0.857, from which the seeds lie 0.0233, 0.0167 and 0.0067 off, so sd 0.021.
    """
    text = text_of(tmp_path / "across", runs)
    means, percentiles = tables_of(text, "Converged models")
    assert means["UVS", "DICE"] == "0.850 ± 0.050 [0.800, 0.900]"
    assert means["USS", "DICE"] == "0.857 ± 0.021 [0.840, 0.880]"
    assert means["data pool", "DICE"] == "0.950 ± 0.000 [0.950, 0.950]"
    assert means["USS", "HD [mm]"] == "30.0 ± 0.0 [30.0, 30.0]"
    # Of two cases 0.04 apart, the fifth percentile lies 0.002 above the lower, that is 0.018 below the mean.
    assert percentiles["UVS", "DICE"] == "0.832 ± 0.050 [0.782, 0.882]"
    assert percentiles["UVS", "HD [mm]"] == "30.0 ± 0.0 [30.0, 30.0]"
    assert "over n = 3 seeds (0, 1, 2)" in text
    (table,) = tables_of(text, "DICE")
    assert table["iter. 1", "UVS"] == "0.850 ± 0.050 [0.800, 0.900]"
    assert table["initial", "no query"] == "0.600 ± 0.000 [0.600, 0.600]"
    assert table["data pool", "no query"] == "0.950 ± 0.000 [0.950, 0.950]"
    assert (table["iter. 1", "no query"], table["initial", "USS"]) == ("", "")


def test_areas_by_hand(tmp_path, runs):
    """From the initial 0.6 to the mean of the iteration.

    That is 0.70, 0.75 and 0.725 for UVS, and 0.74, 0.72 and 0.725 for USS.
    """
    (table,) = tables_of(text_of(tmp_path / "across", runs), "Effort")
    assert table["UVS", "mean DICE over effort"] == "0.725 ± 0.025 [0.700, 0.750]"
    assert table["USS", "mean DICE over effort"] == "0.728 ± 0.010 [0.720, 0.740]"


def test_wins_by_hand_and_ties_count_for_each(tmp_path):
    """DICE: USS wins seed 0, UVS seed 1, both seed 2.

    HD, where less is better: UVS wins the first, the rest are ties.
    """
    hd = {0: {"UVS": 20.0, "USS": 25.0}}
    runs = {
        seed: write_run(tmp_path / str(seed), seed, means, hd=hd.get(seed)) for seed, means in DICE.items()
    }
    text = text_of(tmp_path / "across", runs)
    (section,) = re.findall(r"^## Wins\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows[0] == "| Models | Metric | UVS | USS |"
    assert rows[2:] == [
        "| iter. 1 | DICE | 2 | 2 |", "| iter. 1 | RVE | 3 | 3 |", "| iter. 1 | MSD | 3 | 3 |",
        "| iter. 1 | HD | 3 | 2 |",
        "| converged | DICE | 2 | 2 |", "| converged | RVE | 3 | 3 |", "| converged | MSD | 3 | 3 |",
        "| converged | HD | 3 | 2 |",
    ]  # fmt: skip
    assert "seeds in which strategies tie count for each of them" in section


def test_iterations_and_converged_models_are_kept_apart(tmp_path):
    runs = {
        seed: write_run(
            tmp_path / str(seed), seed, {"UVS": 0.9, "USS": 0.8}, iteration={"UVS": 0.7, "USS": 0.75}
        )
        for seed in (4, 2)
    }
    text = text_of(tmp_path / "across", runs)
    assert "| iter. 1 | DICE | 0 | 2 |" in text and "| converged | DICE | 2 | 0 |" in text
    assert "over n = 2 seeds (4, 2)" in text


def test_summary_where_the_seed_matters_more(tmp_path, runs):
    """The strategies' means are 0.0067 apart.

    One strategy ranges over 0.10 and 0.04, so over 0.07 on average.
    """
    assert text_of(tmp_path / "across", runs).split("\n\n")[1] == (
        "Over 3 seeds, the best mean DICE of the converged models is that of UVS in 2, USS in 2. "
        "The strategies' means over seeds differ by at most 0.007; one strategy's mean DICE ranges over "
        "0.070 between seeds on average. The seed moves results more than the strategy does."
    )


def test_summary_where_the_strategy_matters_more(tmp_path):
    runs = {
        seed: write_run(tmp_path / str(seed), seed, {"UVS": 0.7 + seed / 100, "USS": 0.9 + seed / 100})
        for seed in (0, 1)
    }
    assert text_of(tmp_path / "across", runs).split("\n\n")[1] == (
        "Over 2 seeds, the best mean DICE of the converged models is that of UVS in 0, USS in 2. "
        "The strategies' means over seeds differ by at most 0.200; one strategy's mean DICE ranges over "
        "0.010 between seeds on average. The strategy moves results at least as much as the seed does."
    )


def test_one_strategy_is_compared_with_none(tmp_path):
    """Then nothing is known about the strategy against the seed."""
    runs = {
        seed: write_run(tmp_path / str(seed), seed, {"USS": means["USS"]}) for seed, means in DICE.items()
    }
    text = text_of(tmp_path / "across", runs)
    assert tables_of(text, "Converged models")[0]["USS", "DICE"] == "0.857 ± 0.021 [0.840, 0.880]"
    assert "moves results" not in text


def test_every_number_lies_beside_the_report(tmp_path, runs):
    text = text_of(tmp_path / "across", runs)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links == ["results/seeds.csv"]
    with open(tmp_path / "across" / links[0], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 6
    assert rows[0] == {
        "model": "initial", "strategy": "", "iteration": "0", "seed": "0", "DICE": "0.6",
        "DICE_percentile": "0.582", "RVE": "5",
        "RVE_percentile": "5", "MSD": "2", "MSD_percentile": "2", "HD": "30", "HD_percentile": "30",
        "area": "",
    }  # fmt: skip
    areas = {(row["seed"], row["strategy"]): row["area"] for row in rows if row["area"]}
    assert areas == {
        ("0", "UVS"): "0.7", ("0", "USS"): "0.74", ("1", "UVS"): "0.75", ("1", "USS"): "0.72",
        ("2", "UVS"): "0.725", ("2", "USS"): "0.725"
    }  # fmt: skip
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)


def test_the_same_runs_give_the_same_bytes(tmp_path, runs):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in (*folders, folders[0]):
        write_across(folder, runs)
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]
    assert contents[0] == contents[1] and len(contents[0]) == 2


def test_missing_results_of_a_seed_are_named(tmp_path, runs):
    (runs[1] / paths.CASES).unlink()
    with pytest.raises(InputError, match=r"seed-1: no results/cases\.csv"):
        write_across(tmp_path / "across", runs)
    shutil.rmtree(runs[1])
    with pytest.raises(InputError, match="seed-1: no "):
        write_across(tmp_path / "across", runs)
    assert not (tmp_path / "across").exists()


def test_runs_of_other_strategies_cannot_be_put_together(tmp_path, runs):
    """Or the n-th number of one strategy would be of another seed than that of the other."""
    write_run(runs[1], 1, {"USS": 0.84})
    with pytest.raises(InputError, match="seed-1"):
        write_across(tmp_path / "across", runs)


def test_report_only_of_several_seeds(tmp_path, runs, monkeypatch, capsys):
    """Every seed's own report is rebuilt, then that across them."""
    for seed, folder in runs.items():
        folder.rename(tmp_path / f"made-seed{seed}")
    rebuilt = []
    monkeypatch.setattr(pipeline.document, "write_report", rebuilt.append)
    arguments = ["--report-only", "--seed", "2", "0", "--name", "made", "--reports", str(tmp_path)]
    assert run_main(arguments, "test") == 0
    assert rebuilt == [tmp_path / "made-seed2", tmp_path / "made-seed0"]
    assert "over n = 2 seeds (2, 0)" in (tmp_path / "made" / "report.md").read_text(encoding="utf-8")
    assert str(tmp_path / "made" / "report.md") in capsys.readouterr().err
