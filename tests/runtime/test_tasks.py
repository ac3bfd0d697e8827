"""Tasks made by hand: what they wait for, what is kept on disk, and who does the work."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from torch import distributed

from uss_bench.runtime.tasks import BLOCKING, LONG, SHORT, SharedStage, Stage, Tasks
from uss_bench.runtime.team import PeerLostError, Team


@pytest.fixture
def done():
    """Names of what was worked on, in order."""
    return []


def stage(folder, name, done, result=None, priority=SHORT, **options):
    return Stage(folder / f"{name}.json", lambda: done.append(name) or result, priority, **options)


def test_a_stage_gives_its_result_to_the_task_that_waits_for_it(tmp_path, done):
    got = []

    def steps():
        got.append((yield stage(tmp_path, "first", done, 3)))
        got.append((yield stage(tmp_path, "second", done, [4, None])))

    Tasks(tmp_path, Team()).start(steps())
    tasks = Tasks(tmp_path, Team())
    task = tasks.start(steps())
    tasks.work_off()
    assert task.complete and (got, done) == ([3, [4, None]], ["first", "second"])
    kept = json.loads((tmp_path / "second.json").read_text(encoding="utf-8"))
    assert kept["result"] == [4, None] and kept["seconds"] >= 0


def test_what_is_complete_is_read_and_not_worked_on(tmp_path, done):
    def steps():
        assert (yield stage(tmp_path, "first", done, 3)) == 3

    for again in (False, True):
        tasks = Tasks(tmp_path, Team())
        tasks.start(steps())
        tasks.work_off()
        assert tasks.worked is not again
    assert done == ["first"]


def test_a_task_may_wait_for_another_and_start_further_ones(tmp_path, done):
    tasks = Tasks(tmp_path, Team())

    def inner():
        value = yield stage(tmp_path, "inner", done, 5)
        return value + 1

    def outer():
        found = yield tasks.start(inner())
        tasks.start(inner())  # of the same stage: complete already
        return 10 * found

    task = tasks.start(outer())
    tasks.work_off()
    assert (task.result, done) == (60, ["inner"])


def test_what_others_wait_for_comes_first(tmp_path, done):
    def steps(name, priority):
        yield stage(tmp_path, name, done, priority=priority)

    tasks = Tasks(tmp_path, Team())
    for name, priority in (("short", SHORT), ("long", LONG), ("blocking", BLOCKING)):
        tasks.start(steps(name, priority))
    tasks.work_off()
    assert done == ["blocking", "long", "short"]


def test_two_tasks_that_wait_for_one_stage_work_on_it_once(tmp_path, done):
    def steps(priority):
        return (yield stage(tmp_path, "shared", done, 7, priority))

    tasks = Tasks(tmp_path, Team())
    both = [tasks.start(steps(priority)) for priority in (LONG, BLOCKING)]
    tasks.work_off()
    assert ([task.result for task in both], done) == ([7, 7], ["shared"])


def test_parts_are_gathered_in_their_order_and_their_seconds_summed(tmp_path, done):
    def steps():
        return (
            yield SharedStage(
                tmp_path / "scores.json", [lambda n=n: done.append(n) or n for n in range(12)], SHORT
            )
        )

    tasks = Tasks(tmp_path, Team())
    task = tasks.start(steps())
    tasks.work_off()
    assert task.result == list(range(12)) and done == list(range(12))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.json"]  # the parts are gone


def test_parts_that_are_there_already_are_kept(tmp_path, done):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "1.json").write_text('{"result": "kept", "seconds": 2.5}', encoding="utf-8")

    def steps():
        return (
            yield SharedStage(
                tmp_path / "scores.json", [lambda n=n: done.append(n) or n for n in range(3)], SHORT
            )
        )

    tasks = Tasks(tmp_path, Team())
    task = tasks.start(steps())
    tasks.work_off()
    assert task.result == [0, "kept", 2] and done == [0, 2]
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["seconds"] >= 2.5


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_leftovers_go_when_the_stage_is_complete_also_those_of_a_killed_process(tmp_path, done, kind):
    leftover = tmp_path / "leftover"
    leftover.mkdir() if kind == "folder" else leftover.write_text("x", encoding="utf-8")
    (tmp_path / "first.json").write_text(
        '{"result": 1, "seconds": 0}', encoding="utf-8"
    )  # complete before it was cleared up

    def steps():
        yield stage(tmp_path, "first", done, leftovers=[leftover])

    tasks = Tasks(tmp_path, Team())
    tasks.start(steps())
    tasks.work_off()
    assert not leftover.exists() and done == []


def test_a_look_changes_nothing(tmp_path, done):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "0.json").write_text('{"result": 1, "seconds": 0}', encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for each in (
        stage(tmp_path, "first", done, leftovers=[tmp_path / "scores"]),
        SharedStage(tmp_path / "scores.json", [int, int], SHORT),
    ):
        assert not each.complete and each.pieces()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_team_shares_the_pieces_and_everybody_gets_every_result(tmp_path, done):
    store = distributed.HashStore()

    def work(rank):
        def steps(name):
            number = yield stage(tmp_path, name, done, name)
            parts = yield SharedStage(
                tmp_path / f"{name}-parts.json",
                [lambda n=n: done.append(f"{name}{n}") or n for n in range(4)],
                SHORT,
            )
            return number, parts

        tasks = Tasks(tmp_path, Team(rank, 3, store))
        started = [tasks.start(steps(name)) for name in "abc"]
        tasks.work_off()
        return [task.result for task in started]

    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(work, range(3)):
            assert found == [(name, [0, 1, 2, 3]) for name in "abc"]
    assert sorted(done) == sorted([*"abc", *(f"{name}{n}" for name in "abc" for n in range(4))])


def test_a_worker_that_has_died_ends_the_work_although_there_is_some(tmp_path, done):
    """What it had claimed would never be done."""

    def steps():
        yield stage(tmp_path, "first", done)

    tasks = Tasks(tmp_path, Team(workers=[SimpleNamespace(name="1", exitcode=-9)]))
    tasks.start(steps())
    with pytest.raises(PeerLostError, match="worker 1 ended with exit code -9"):
        tasks.work_off()
    assert not done


def test_an_error_of_a_piece_is_that_of_the_program_and_leaves_no_result(tmp_path):
    def fail():
        raise FloatingPointError("step 3")

    def steps():
        yield Stage(tmp_path / "first.json", fail, SHORT)

    tasks = Tasks(tmp_path, Team())
    tasks.start(steps())
    with pytest.raises(FloatingPointError, match="step 3"):
        tasks.work_off()
    assert list(tmp_path.iterdir()) == []
