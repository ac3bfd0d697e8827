"""What is written to a fake stream, a log and notes, by a fake clock."""

import io
import json
import time
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest

from uss_bench.runtime import progress, stopping
from uss_bench.runtime.progress import Progress
from uss_bench.runtime.storage import read_json

CLEAR = "\r\x1b[K"


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal, self.flushed = terminal, ""

    def isatty(self):
        return self.terminal

    def flush(self):
        self.flushed = self.getvalue()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands at `.now` seconds since the machine began, 500000 after the epoch."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(
        progress, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 500000 + clock.now)
    )
    return clock


@pytest.mark.parametrize("terminal", [False, True])
def test_finished_models_are_counted_on_lasting_lines(clock, terminal):
    stream = Stream(terminal)
    shown = Progress(3, stream)
    shown.say("made 2 phantom(s)")
    clock.now += 60
    shown.finished("initial model", computed=True)
    shown.finished("USS iteration 1", computed=False)
    clock.now += 60
    shown.finished("data pool model", computed=True)
    clear = CLEAR if terminal else ""
    assert stream.getvalue() == (
        f"{clear}made 2 phantom(s)\n"
        f"{clear}[1/3] initial model, about 2 min left\n"
        f"{clear}[2/3] USS iteration 1 (found), about 1 min left\n"
        f"{clear}[3/3] data pool model\n"
    )
    assert stream.flushed == stream.getvalue()  # lines show at once
    assert (shown.total, shown.done, shown.computed) == (3, 3, 2)


def test_time_left_follows_from_the_work_of_the_steps(clock):
    """Of 10 units, 1 is found and 2 are computed in 60 s: 30 s for each of the 7 to come."""
    stream = Stream(terminal=False)
    shown = Progress(5, stream, work=10)
    shown.finished("found", False, work=1)
    clock.now += 60
    shown.finished("evaluated", True, work=0)
    shown.finished("trained", True, work=2)
    clock.now += 30
    shown.finished("evaluated too", True, work=0)
    shown.finished("trained long", True, work=7)
    assert stream.getvalue() == (
        "[1/5] found (found)\n[2/5] evaluated\n[3/5] trained, about 4 min left\n"  # 3.5 min, rounded to even
        "[4/5] evaluated too, about 5 min left\n[5/5] trained long\n"  # 45 s each: 5.25 min
    )


def test_no_time_left_is_told_before_a_model_is_computed(clock):
    """Models found on disk take no time and foretell none."""
    stream = Stream(terminal=True)
    shown = Progress(26, stream)
    for number in range(5):
        clock.now += 1
        shown.finished(f"model {number}", computed=False)
        clock.now += 1
        shown.now("training")
    assert "left" not in stream.getvalue()
    shown.finished("model 5", computed=True)
    assert stream.getvalue().endswith(", about 3 min left\n")  # 10 s for the one computed, 20 to come: 200 s


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [
        (0.1, "less than a minute"),
        (7, "about 1 min"),
        (60, "about 10 min"),
        (357, "about 1 h 0 min"),
        (360, "about 1 h 0 min"),
        (600, "about 1 h 40 min"),
        (9000, "about 25 h 0 min"),
    ],
)
def test_time_left(clock, elapsed, text):
    """One of eleven models is done, so ten times the time so far is left, to the minute."""
    stream = Stream(terminal=False)
    shown = Progress(11, stream)
    clock.now += elapsed
    shown.finished("model", computed=True)
    assert stream.getvalue() == f"[1/11] model, {text} left\n"


def test_passing_states_renew_the_line_five_times_a_second(clock):
    stream = Stream(terminal=True)
    shown = Progress(4, stream)
    for step in range(10):
        clock.now += 0.125
        shown.now(f"step {step}")
    assert stream.getvalue() == "".join(f"{CLEAR}[0/4] step {step}" for step in (1, 3, 5, 7, 9))
    assert stream.flushed == stream.getvalue()


def test_passing_states_are_for_terminals_only(clock):
    stream = Stream(terminal=False)
    shown = Progress(4, stream)
    clock.now += 10
    shown.now("step 1")
    assert stream.getvalue() == ""


def test_without_a_stream_nothing_is_printed(capfd):
    shown = Progress(1)
    shown.now("step 1")
    shown.say("made 2 phantom(s)")
    shown.finished("initial model", computed=True)
    assert capfd.readouterr() == ("", "")
    assert (shown.done, shown.computed) == (1, 1)


def test_a_passing_state_is_a_safe_point(clock, monkeypatch):
    monkeypatch.setattr(stopping, "_reason", None)
    shown = Progress(1, Stream(terminal=False))
    shown.now("step 1")
    stopping.request("SIGTERM")
    shown.say("a lasting line is none")
    shown.finished("nor is a finished step", computed=True)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        shown.now("step 2")


def test_lasting_lines_are_added_to_the_log_with_their_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        before = datetime.now(timezone.utc).replace(microsecond=0)
        for text in ("started", "continued"):  # a second process, after the first has ended
            shown = Progress(2, Stream(terminal=True))
            shown.say(text)  # before there is a log
            assert not (tmp_path / "run").exists() or text == "continued"
            shown.keep_in(tmp_path / "run")
            shown.now("step 1")
            shown.finished("initial model", computed=False)
            shown.write_log("for the log alone: ü")
        after = datetime.now(timezone.utc)
    finally:
        monkeypatch.undo()
        time.tzset()
    lines = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").splitlines()
    rest = ["[1/2] initial model (found)", "for the log alone: ü"]
    assert [line[20:] for line in lines] == ["started", *rest, "continued", *rest]
    assert all(before <= datetime.fromisoformat(f"{line[:19]}+00:00") <= after for line in lines)
    assert "log alone" not in shown.stream.getvalue()


def test_notes_for_other_terminals_are_written_every_few_seconds(clock, tmp_path):
    """Two seconds per step and a pause of five between notes: every third step is noted."""
    shown = Progress(4)
    shown.keep_in(tmp_path)
    noted = []
    for step in range(1, 11):
        clock.now += 2
        shown.now(f"step {step}")
        noted.append(read_json(tmp_path / "status" / "0.json") if step > 2 else list(tmp_path.iterdir()))
    assert noted[:2] == [[], []]
    assert [note["text"] for note in noted[2:]] == [f"[0/4] step {step}" for step in (3, 3, 3, 6, 6, 6, 9, 9)]
    assert [note["time"] - 500000 for note in noted[2:]] == [1006] * 3 + [1012] * 3 + [1018] * 2
    assert [path.name for path in (tmp_path / "status").iterdir()] == ["0.json"]


def test_every_process_has_a_log_and_a_note_of_its_own(clock, tmp_path):
    team = {rank: Progress(3) for rank in (0, 1, 12)}
    for rank, shown in team.items():
        shown.keep_in(tmp_path, rank)
    clock.now += 6
    for rank, shown in enumerate(team.values()):
        shown.say(f"line {rank}")
        shown.finished("model", computed=True)
        shown.now(f"state {rank}")
    files = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8")
        for path in tmp_path.rglob("*.*")
    }
    assert sorted(files) == [
        "log-1.txt",
        "log-12.txt",
        "log.txt",
        "status/0.json",
        "status/1.json",
        "status/12.json",
    ]
    for number, name in enumerate(("", "-1", "-12")):
        assert files[f"log{name}.txt"].count("\n") == 2
        assert f"line {number}\n" in files[f"log{name}.txt"]
        assert (
            json.loads(files[f"status/{name[1:] or 0}.json"])["text"]
            == f"[1/3] state {number}, less than a minute left"
        )
    for shown in team.values():
        shown.withdraw()
    assert list((tmp_path / "status").iterdir()) == []
    Progress(3).withdraw()  # where nothing was noted
