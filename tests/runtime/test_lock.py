"""One process at a time in a folder: living and dead holders, here and elsewhere, and many at once."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from uss_bench.runtime import lock, stopping
from uss_bench.runtime.errors import InputError
from uss_bench.runtime.paths import LOCK

HOLD = """
import sys, time
from uss_bench.runtime.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
NO_PROCESS = 2**22 + 1  # above the largest number that Linux gives
DAY = 86400


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Seconds become hundredths, and a request to stop ends with its test."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lock, "PATIENCE", 0.4)
    monkeypatch.setattr(stopping, "_reason", None)


@pytest.fixture
def write_lock(tmp_path):
    """Writes the lock that a holder of these properties would have left, and returns its path."""
    with lock.locked(tmp_path):
        content = json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))

    def write(**changes):
        (tmp_path / LOCK).write_text(json.dumps({**content, "token": "another", **changes}), encoding="utf-8")
        return tmp_path / LOCK

    return write


@contextmanager
def another_process(folder):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@contextmanager
def repeatedly(work, seconds=0.02):
    """Call `work` in the background while the block runs."""
    ended = threading.Event()

    def repeat():
        while not ended.wait(seconds):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def pid_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["pid"]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.whole
def test_a_living_holder_is_named_and_its_folder_left_alone(tmp_path):
    (tmp_path / "model.pt").write_text("trained", encoding="utf-8")
    with another_process(tmp_path) as process:
        before = content(tmp_path)
        names = rf"{tmp_path} is in use by process {process.pid} on {socket.gethostname()}, running; .*--name"
        with pytest.raises(InputError, match=names), lock.locked(tmp_path):
            pass
        assert content(tmp_path) == before
        assert process.poll() is None


def test_a_process_may_not_hold_a_folder_twice_but_two_folders(tmp_path):
    with (
        lock.locked(tmp_path / "a"),
        lock.locked(tmp_path / "b"),
        pytest.raises(InputError),
        lock.locked(tmp_path / "a"),
    ):
        pass


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_lock_ends_with_its_block(tmp_path, error):
    folder, threads = tmp_path / "runs" / "name", threading.active_count()
    with pytest.raises(error) if error else nullcontext(), lock.locked(folder):
        assert pid_of(folder / LOCK) == os.getpid()
        if error:
            raise error
    assert content(folder) == {}
    assert threading.active_count() == threads


@pytest.mark.whole
@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, reaped):
    """Killed processes stay in the list of processes, as zombies, until their parent asks for them."""
    with another_process(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
        assert (
            lock.describe(tmp_path)
            == f"process {process.pid} on {socket.gethostname()}, ended without releasing it"
        )
        with lock.locked(tmp_path):
            assert pid_of(tmp_path / LOCK) == os.getpid()
            assert list(content(tmp_path)) == [LOCK]
        assert content(tmp_path) == {}


@pytest.mark.parametrize(
    "holder",
    [{"began": "1"}, {"pid": NO_PROCESS}],
    ids=["the number went to a later process", "no such process"],
)
def test_a_stale_lock_is_taken_over_at_once(tmp_path, write_lock, holder):
    write_lock(**holder)
    with lock.locked(tmp_path, waiting=pytest.fail):
        assert pid_of(tmp_path / LOCK) == os.getpid()


def test_a_holder_elsewhere_is_not_looked_up_here(tmp_path, write_lock):
    """The same holds for another container on this host, whose processes have numbers of their own."""
    write_lock(machine=["elsewhere", "", ""], host="elsewhere", pid=NO_PROCESS)
    started, lines = time.monotonic(), []
    with lock.locked(tmp_path, lines.append):
        assert time.monotonic() - started >= 0.35
        assert pid_of(tmp_path / LOCK) == os.getpid()
    (line,) = lines
    assert line.startswith(
        f"{tmp_path} is held by process {NO_PROCESS} on elsewhere, last sign of life 0 s ago; waiting up to "
    )


@pytest.mark.parametrize("ahead", [-DAY, 0, DAY], ids=["disk a day behind", "same clock", "disk a day ahead"])
@pytest.mark.parametrize("alive", [True, False])
def test_a_holder_elsewhere_is_judged_by_the_clock_of_the_disk(
    tmp_path, write_lock, monkeypatch, ahead, alive
):
    path, touch = write_lock(machine=["elsewhere", "", ""], pid=7), Path.touch

    def touch_by_disk(path, **options):
        touch(path, **options)
        os.utime(path, (time.time() + ahead,) * 2)

    monkeypatch.setattr(Path, "touch", touch_by_disk)
    path.touch()
    with repeatedly(path.touch) if alive else nullcontext():
        if alive:
            with pytest.raises(InputError, match="in use by process 7"), lock.locked(tmp_path):
                pass
        else:
            with lock.locked(tmp_path):
                assert pid_of(path) == os.getpid()
    assert path.exists() == alive


def test_one_that_was_long_untouched_is_taken_over_without_a_wait(tmp_path, write_lock):
    path = write_lock(machine=["elsewhere", "", ""])
    os.utime(path, (time.time() - DAY,) * 2)
    with lock.locked(tmp_path, waiting=pytest.fail):
        pass


@pytest.mark.parametrize("when", ["before it is looked at", "while it is watched"])
def test_a_lock_released_meanwhile_is_taken(tmp_path, write_lock, monkeypatch, when):
    path, alive = write_lock(machine=["elsewhere", "", ""]), lock._alive
    if when == "before it is looked at":
        monkeypatch.setattr(lock, "_alive", lambda holder: path.unlink(missing_ok=True) or alive(holder))
    monkeypatch.setattr(lock, "PATIENCE", 60)
    with lock.locked(tmp_path, waiting=lambda _: path.unlink(missing_ok=True)):
        assert pid_of(path) == os.getpid()


def test_a_wait_can_be_stopped(tmp_path, write_lock):
    write_lock(machine=["elsewhere", "", ""])
    before = content(tmp_path)
    with (
        pytest.raises(KeyboardInterrupt, match="SIGTERM"),
        lock.locked(tmp_path, waiting=lambda _: stopping.request("SIGTERM")),
    ):
        pass
    assert content(tmp_path) == before


@pytest.mark.parametrize("written", [True, False])
def test_an_empty_lock_is_one_that_is_being_written_or_was_never_finished(tmp_path, write_lock, written):
    finished = write_lock().read_text(encoding="utf-8")
    path = tmp_path / LOCK
    path.write_text("", encoding="utf-8")
    write = threading.Timer(0.1, lambda: path.write_text(finished, encoding="utf-8"))
    if written:
        write.start()
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"), lock.locked(tmp_path):
            pass
        write.join()
    else:
        with lock.locked(tmp_path):
            assert pid_of(path) == os.getpid()


def test_of_many_that_want_it_one_has_it(tmp_path, write_lock):
    """Each round leaves a stale lock to five at once; the winner waits until the others are refused."""
    rounds, contenders = 60, 5
    start, held, refused = threading.Barrier(contenders), [], []

    def contend():
        for number in range(rounds):
            if start.wait() == 0:
                write_lock(pid=NO_PROCESS, token=str(number))
            start.wait()
            try:
                with lock.locked(tmp_path):
                    held.append(number)
                    start.wait()
            except InputError:
                refused.append(number)
                start.wait()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(contenders) as pool:
            for future in [pool.submit(contend) for _ in range(contenders)]:
                future.result(timeout=20)
    finally:
        sys.setswitchinterval(interval)
    assert held == list(range(rounds))
    assert len(refused) == rounds * (contenders - 1)
    assert content(tmp_path) == {}


def test_one_killed_while_it_removed_a_stale_lock_delays_the_next_only(tmp_path, write_lock):
    write_lock(pid=NO_PROCESS, token="known")
    (tmp_path / f".partial-known-{LOCK}").touch()
    started = time.monotonic()
    with lock.locked(tmp_path):
        assert time.monotonic() - started >= 0.35  # it might have been at it still
        assert pid_of(tmp_path / LOCK) == os.getpid()
    assert content(tmp_path) == {}


def test_who_comes_late_to_a_stale_lock_does_not_move_the_new_one(tmp_path, write_lock, monkeypatch):
    """Between the look at a stale lock and its removal, another process may take the folder over.

    If its lock were moved even for a moment, a third could put one up too.
    """
    monkeypatch.setattr(lock, "HEARTBEAT", 60)
    path, alive = write_lock(pid=NO_PROCESS), lock._alive
    first, changed = lock.locked(tmp_path), []

    def overtaken(holder):
        monkeypatch.setattr(lock, "_alive", alive)
        first.__enter__()
        changed.append(path.stat().st_ctime_ns)  # also changes when a file is renamed
        time.sleep(0.02)
        return False

    monkeypatch.setattr(lock, "_alive", overtaken)
    with pytest.raises(InputError, match=f"in use by process {os.getpid()}"), lock.locked(tmp_path):
        pass
    assert [path.stat().st_ctime_ns] == changed
    first.__exit__(None, None, None)
    assert content(tmp_path) == {}


def test_a_holder_shows_signs_of_life(tmp_path):
    with lock.locked(tmp_path):
        path = tmp_path / LOCK
        os.utime(path, (0, 0))
        wait_for(lambda: path.stat().st_mtime > time.time() - 60)


@pytest.mark.parametrize("replaced", [True, False])
def test_a_holder_that_was_taken_for_dead_stops(tmp_path, write_lock, replaced):
    with lock.locked(tmp_path):
        path = write_lock(pid=7)
        if not replaced:
            path.unlink()
        wait_for(lambda: stopping._reason)
        with pytest.raises(KeyboardInterrupt, match=f"the lock of {tmp_path} was lost"):
            stopping.check()
    assert path.exists() == replaced  # it is not ours to release


class Heartbeats:
    """In the place of the event that ends them: one per action, which happens before it."""

    def __init__(self, *actions):
        self.actions = list(actions)

    def wait(self, seconds):
        assert seconds == lock.HEARTBEAT
        if self.actions:
            self.actions.pop(0)()
            return False
        return True


def test_a_hiccup_of_the_disk_stops_nobody(tmp_path):
    """Two heartbeats that find no lock are borne, three are not."""
    path, away, mine = tmp_path / LOCK, tmp_path / "away", {"token": "mine"}
    path.write_text(json.dumps(mine), encoding="utf-8")

    def lose():
        path.rename(away)

    def restore():
        away.rename(path)

    def nothing():
        pass

    lock._beat(path, mine, Heartbeats(lose, nothing, restore, lose, nothing, restore))
    assert stopping._reason is None
    lock._beat(path, mine, Heartbeats(lose, nothing, nothing))
    assert stopping._reason == f"the lock of {tmp_path} was lost to another process"


def test_a_disk_that_cannot_be_reached_is_named_as_such(tmp_path, monkeypatch):
    path, mine = tmp_path / LOCK, {"token": "mine"}
    path.write_text(json.dumps(mine), encoding="utf-8")

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(lock.os, "utime", stale)
    lock._beat(path, mine, Heartbeats(*[lambda: None] * 3))
    assert stopping._reason == f"the lock of {tmp_path} could not be touched (Stale file handle)"


def test_the_readme_says_how_long_a_holder_is_waited_for(monkeypatch):
    """“touches it every ten seconds” and “untouched for a minute”."""
    monkeypatch.undo()
    assert (lock.HEARTBEAT, lock.PATIENCE) == (10, 60)


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with (
            pytest.raises(InputError, match=rf"{folder}: cannot be written \(.+\); .*--runs"),
            lock.locked(folder),
        ):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_bad_input(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"), lock.locked(tmp_path):
            pass
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        ({}, f"process {os.getpid()} on here, running"),
        ({"pid": NO_PROCESS}, f"process {NO_PROCESS} on here, ended without releasing it"),
        ({"machine": ["elsewhere", "", ""]}, f"process {os.getpid()} on here, last sign of life 90 s ago"),
    ],
)
def test_a_lock_in_words(tmp_path, write_lock, holder, text):
    assert lock.describe(tmp_path) is None
    path = write_lock(host="here", **holder)
    os.utime(path, (time.time() - 90,) * 2)
    assert lock.describe(tmp_path) == text
    assert lock.describe(tmp_path / "absent") is None
    assert list(content(tmp_path)) == [LOCK]


def test_a_lock_in_words_for_one_who_may_only_read(tmp_path, write_lock, monkeypatch):
    write_lock(host="there", machine=["elsewhere", "", ""], pid=7)

    def denied(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", denied)
    assert lock.describe(tmp_path) == "process 7 on there, on another machine"
