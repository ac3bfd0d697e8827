"""Runs of several seeds as one, from the gathered results of `data/across` and the run of `data/report`."""

import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from uss_bench.report.results import Results, read_results
from uss_bench.report.seeds import gather, read_seeds
from uss_bench.runtime import paths, storage
from uss_bench.runtime.errors import InputError
from uss_bench.study.keys import INITIAL, ModelKey

DATA = Path(__file__).parent / "data"


@pytest.fixture
def reports(tmp_path):
    """Two seeds with the same results but for the DICE."""
    made = {3: tmp_path / "three", 11: tmp_path / "eleven"}
    for seed, folder in made.items():
        shutil.copytree(DATA / "report" / "results", folder / "results")
        change(folder, paths.CASES, seed=seed)
    change(made[11], paths.CASES, DICE=0.5)
    return made


def change(folder, name, **values):
    rows = [{**row, **values} for row in storage.read_csv(folder / name)]
    storage.write_csv(folder / name, list(rows[0]), rows)


def drop(folder, name, condition):
    rows = storage.read_csv(folder / name)
    storage.write_csv(folder / name, list(rows[0]), [row for row in rows if not condition(row)])


def test_what_is_gathered_is_read_back(tmp_path, reports):
    """Every seed's results are those of its own report; its uncertainties stay there."""
    gather(tmp_path / "across", dict(reversed(reports.items())))
    seeds = read_seeds(tmp_path / "across")
    assert seeds.numbers == [3, 11]
    for seed, folder in reports.items():
        single = read_results(folder)
        for field in fields(Results):
            if field.name == "scores":
                for key, scores in single.scores.items():
                    assert all((seeds.runs[seed].scores[key][name] == scores[name]).all() for name in scores)
            elif field.name == "uncertainties":
                assert seeds.runs[seed].uncertainties is None
            elif field.name == "queries":
                pairs = zip(seeds.runs[seed].queries, single.queries, strict=True)
                assert all({**row, "seed": str(seed)} == kept for kept, row in pairs)
            else:
                assert getattr(seeds.runs[seed], field.name) == getattr(single, field.name)


def test_arrays_are_seeds_by_cases(tmp_path, reports):
    gather(tmp_path / "across", reports)
    seeds = read_seeds(tmp_path / "across")
    expected = read_results(reports[3]).scores[INITIAL]["DICE"]
    assert seeds.scores(INITIAL, "DICE").tolist() == [expected.tolist(), [0.5] * 8]
    assert seeds.means(INITIAL, "DICE").tolist() == [pytest.approx(expected.mean()), 0.5]
    assert [budget.title for budget in seeds.budgets] == ["converged", "iteration 2", "iteration 1"]
    assert seeds.budgets[0].key("USS") == ModelKey("converged", "USS", 2)


def test_areas_compare_all_strategies_over_one_range(tmp_path, reports):
    """Seed 11 has a DICE of 0.5 throughout. All start from 16 / 3 slices; USS ends first, with 5 more."""
    gather(tmp_path / "across", reports)
    seeds = read_seeds(tmp_path / "across")
    assert seeds.ranges.tolist() == [pytest.approx([16 / 3, 16 / 3 + 5])] * 2
    for strategy in seeds.strategies:
        assert seeds.areas(strategy, "DICE")[1] == pytest.approx(np.full(8, 0.5))
    # USS has 2 slices more after iteration 1, and the rest after iteration 2.
    initial, first, second = (seeds.scores(key, "DICE")[0] for key in seeds.first.curve("USS"))
    expected = (2 * (initial + first) / 2 + 3 * (first + second) / 2) / 5
    assert seeds.areas("USS", "DICE")[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda folder: drop(folder, paths.CASES, lambda row: row["strategy"] == "USS"),
            "strategies or iterations",
        ),
        (lambda folder: drop(folder, paths.CASES, lambda row: row["case_id"] == "test-1"), "test cases"),
        (lambda folder: change(folder, paths.VOLUMES, image_sha256="0"), "files of cases"),
        (lambda folder: (folder / paths.QUERIES).unlink(), r"no results/queries\.csv"),
    ],
)
def test_unlike_runs_are_not_put_together(tmp_path, reports, spoil, said):
    spoil(reports[11])
    with pytest.raises(InputError, match=rf"eleven: (other )?{said}"):
        gather(tmp_path / "across", reports)
    assert not (tmp_path / "across").exists()


def test_a_folder_that_nothing_was_gathered_in(tmp_path):
    with pytest.raises(InputError, match=r"no results/cases\.csv"):
        read_seeds(tmp_path)
