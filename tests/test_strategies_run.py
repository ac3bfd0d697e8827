"""Whole runs with strategies of one's own, with lists to replay, and with every strategy that ships."""

import csv
import os
import random
import re
import shutil
import signal

import pytest
from test_crash import (
    NAME,
    assert_completes,
    assert_refused,
    assert_same,
    outcome,
    run,
    start,
    wait_at_random,
    write_cases,
)

from uss_bench.study.strategies import PAPER, STRATEGIES

pytestmark = pytest.mark.whole

TWO = ["--set", "query.iterations=2"]  # iterations, on a pool of three
FIRST = """
from uss_bench import Query, Strategy

def first_open(pool, count, generator):
    found = []
    for case in pool.cases:
        found += [Query(case.case_id, z, float(case.scores["liver"][z])) for z in case.open_slices]
    return found[:count]

First = Strategy("First", "slices", first_open, needs=("liver",))
"""
FAILS = FIRST.replace(
    "    return", "    if pool.iteration == 2:\n        found.sort(key=lambda query: 1 / 0)\n    return"
)
OTHERS = FIRST.replace("found[:count]", "found[::-1][:count]")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of tiny cases, their manifest and a file with a strategy."""
    folder = tmp_path_factory.mktemp("data")
    write_cases(folder)
    (folder / "mine.py").write_text(FIRST, encoding="utf-8")
    return folder


@pytest.fixture
def folder(data, tmp_path):
    return shutil.copytree(data, tmp_path / "folder")


def finished_run(data, folder, *arguments):
    shutil.copytree(data, folder, dirs_exist_ok=True)
    code, err = run(folder, *TWO, *arguments)
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def extended(data, tmp_path_factory):
    """Folder of a finished run of every strategy that ships."""
    return finished_run(data, tmp_path_factory.mktemp("extended"), "--strategy", "extended")


@pytest.fixture(scope="module")
def own(data, tmp_path_factory):
    """Folder of a finished run of a strategy of one's own."""
    return finished_run(data, tmp_path_factory.mktemp("own"), "--strategy", "mine.py:First")


def rows(folder, file, strategy):
    """Rows of a result file that belong to a strategy, without its name."""
    with (folder / "reports" / NAME / "results" / f"{file}.csv").open(encoding="utf-8") as stream:
        found = [row for row in csv.DictReader(stream) if row.pop("strategy") == strategy]
    assert found
    return found


FILES = ("cases", "training", "annotation", "queries")


# --- every strategy that ships ---


def test_every_strategy_that_ships_is_reported(extended):
    report = extended / "reports" / NAME
    for name, strategy in STRATEGIES.items():
        asked = rows(extended, "queries", name)
        assert {bool(row["slice"]) for row in asked} == {strategy.by_slices}
        assert {row["model"] for row in rows(extended, "cases", name)} == {"iteration", "converged"}
    text = (report / "report.md").read_text(encoding="utf-8")
    assert all(f"\n| {name}{'†' * strategy.is_oracle} |" in text for name, strategy in STRATEGIES.items())
    assert re.search("OSS(?!†)", text) is None and "† An oracle" in text


@pytest.mark.parametrize(
    "name", ["USS", *(pytest.param(name, marks=pytest.mark.slow) for name in ("RSS", "PSS"))]
)
def test_a_strategy_gets_the_same_whatever_runs_beside_it(extended, folder, name):
    code, err = run(folder, *TWO, "--strategy", name)
    assert code == 0, err
    for file in FILES:
        assert rows(folder, file, name) == rows(extended, file, name)


@pytest.mark.slow
def test_strategies_are_added_to_a_finished_run(extended, folder):
    """Whatever they need is known of the models that are there."""
    for strategies in (["uss"], ["extended"]):
        code, err = run(folder, *TWO, "--strategy", *strategies)
        assert code == 0, err
    assert "initial model: trained" in err and err.count("(found)") >= 8
    for name in STRATEGIES:
        assert all(rows(folder, file, name) == rows(extended, file, name) for file in FILES)


@pytest.mark.slow
def test_every_strategy_gives_the_same_bytes_killed_and_on_two_processes(extended, folder):
    draws = random.Random(0)
    arguments = [*TWO, "--strategy", "extended", "--workers", 2]
    for _ in range(3):
        process, said = start(folder, *arguments)
        wait_at_random(folder, draws, 60, 0.5, lambda process=process: process.exitcode is not None)
        os.killpg(process.pid, signal.SIGKILL)
        assert outcome(process, said)[0] == -signal.SIGKILL
    assert_completes(folder, extended, *arguments)


# --- lists to replay ---


def test_a_list_of_a_run_gives_the_numbers_of_its_strategy(extended, folder):
    """Those of volumes and slices, of chance and of uncertainty, to the last digit, under other names."""
    shutil.copy(extended / "reports" / NAME / "results" / "queries.csv", folder / "theirs.csv")
    lists = [f"THEIR-{name}=theirs.csv:{name}" for name in PAPER]
    code, err = run(folder, *TWO, "--strategy", "frs", "--queries", *lists)
    assert code == 0, err
    for name in PAPER:
        for file in FILES:
            assert rows(folder, file, f"THEIR-{name}") == rows(extended, file, name)
    provenance = (folder / "reports" / NAME / "results" / "provenance.json").read_text(encoding="utf-8")
    assert '"replays": "RSS"' in provenance and str(folder) not in provenance


def test_a_list_that_does_not_fit_is_refused_before_any_work(folder):
    header = "strategy,iteration,case_id,slice,score\n"
    (folder / "theirs.csv").write_text(
        f"{header}x,1,case-9,3,\nx,1,case-4,3,\nx,1,case-1,99,\n", encoding="utf-8"
    )
    code, err = run(folder, *TWO, "--queries", "THEIRS=theirs.csv")
    assert_refused(
        code, err, 2, "--queries THEIRS=theirs.csv: ", "case case-9 is not in the pool",
        "case case-4 is not in the pool", "no queries for iteration(s) 2 of 2",
    )  # fmt: skip
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_another_list_under_the_same_name_is_refused(folder):
    text = "strategy,iteration,case_id,slice,score\n"
    for case_id in (f"case-{number}" for number in range(3)):  # one is annotated from the beginning
        (folder / "theirs.csv").write_text(f"{text}x,1,{case_id},3,\n", encoding="utf-8")
        code, err = run(folder, "--queries", "THEIRS=theirs.csv")
        if code == 0:
            break
    (folder / "theirs.csv").write_text(f"{text}x,1,{case_id},4,\n", encoding="utf-8")
    code, err = run(folder, "--queries", "THEIRS=theirs.csv")
    assert_refused(code, err, 2, "theirs.csv: in iteration 1, THEIRS asks for other slices than its models")
    (folder / "theirs.csv").write_text(f"{text}x,1,{case_id},3,\n\n", encoding="utf-8")
    assert run(folder, "--queries", "THEIRS=theirs.csv")[0] == 0


# --- strategies of one's own ---


def test_a_strategy_of_ones_own_is_reported_with_its_source(own):
    text = (own / "reports" / NAME / "report.md").read_text(encoding="utf-8")
    assert "| First |" in text and "First = Strategy(" in text
    assert [row["slice"] for row in rows(own, "queries", "First")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_in_the_middle_of_a_run_loses_nothing(own, folder, workers):
    arguments = [*TWO, "--strategy", "mine.py:First", "--workers", workers]
    (folder / "mine.py").write_text(FAILS, encoding="utf-8")
    code, err = run(folder, *arguments)
    message = (
        r"mine\.py, line 9: ZeroDivisionError: division by zero \(First, asked for 2 slices in iteration 2\)"
    )
    assert_refused(code, err, 2, "nothing that was finished is lost")
    assert re.search(message, err)
    done = {path: path.stat().st_mtime_ns for path in (folder / "runs" / NAME).rglob("iter-1/*.json")}
    assert {path.name for path in done} >= {"query.json", "training.json"}
    (folder / "mine.py").write_text(FIRST, encoding="utf-8")
    assert_completes(folder, own, *arguments)
    assert all(path.stat().st_mtime_ns == moment for path, moment in done.items())


def test_a_file_that_asks_for_something_else_does_not_continue_a_run(own, tmp_path):
    folder = shutil.copytree(own, tmp_path / "folder")
    arguments = [*TWO, "--strategy", "mine.py:First"]
    (folder / "mine.py").write_text(OTHERS, encoding="utf-8")
    code, err = run(folder, *arguments)
    assert_refused(
        code, err, 2, "mine.py: in iteration 1, First asks for other slices", "bring the file back"
    )
    (folder / "mine.py").write_text(f"{FIRST}\n# a note\n", encoding="utf-8")  # asks for the same
    code, err = run(folder, *arguments)
    assert code == 0, err
    assert "# a note" in (folder / "reports" / NAME / "report.md").read_text(encoding="utf-8")
    (folder / "mine.py").write_text(FIRST, encoding="utf-8")
    code, err = run(folder, *arguments)
    assert code == 0, err
    assert_same(folder, own)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "absent.py:First"], "absent.py cannot be read"),
        (["--strategy", "mine.py:Second"], "mine.py: has no Second"),
        (
            ["--strategy", "mine.py:First", "mine.py:First", "uss", "--queries", "first=q.csv"],
            "FIRST: two strat",
        ),
        (
            ["--strategy", "peeks.py:First"],
            "peeks.py, line 7: AttributeError: 'PoolCase' object has no attribute",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_any_work(folder, arguments, message):
    (folder / "q.csv").write_text("strategy,iteration,case_id,slice,score\nx,1,case-1,1,\n", encoding="utf-8")
    (folder / "peeks.py").write_text(
        FIRST.replace('case.scores["liver"][z]', "case.label[z].sum()"), encoding="utf-8"
    )
    code, err = run(folder, *TWO, *arguments)
    assert_refused(code, err, 2, message)
    assert not (folder / "runs").exists() and not (folder / "reports").exists()
