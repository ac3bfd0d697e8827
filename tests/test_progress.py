"""What is written to a fake stream by a fake clock."""

import io
from types import SimpleNamespace

import pytest

from uss_bench import progress
from uss_bench.progress import Progress

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
    """A clock that stands at `.now` seconds."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
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
        (0.1, "a minute at most"),
        (7, "1 min"),
        (60, "10 min"),
        (357, "1 h 0 min"),
        (360, "1 h 0 min"),
        (600, "1 h 40 min"),
        (9000, "25 h 0 min"),
    ],
)
def test_time_left(clock, elapsed, text):
    """One of eleven models is done, so ten times the time so far is left, to the minute."""
    stream = Stream(terminal=False)
    shown = Progress(11, stream)
    clock.now += elapsed
    shown.finished("model", computed=True)
    assert stream.getvalue() == f"[1/11] model, about {text} left\n"


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


def test_standard_error_is_the_stream(capsys):
    Progress(1).finished("initial model", computed=True)
    assert capsys.readouterr() == ("", "[1/1] initial model\n")
