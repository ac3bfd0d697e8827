"""Signals are remembered until the next safe point."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from uss_bench.runtime import stopping

BUSY = """
import time
from uss_bench.runtime import stopping
stopping.install()
while True:
    print(stopping._reason, flush=True)
    time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def signals(monkeypatch):
    """Handlers and reason as they were before the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(stopping, "_reason", None)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_is_remembered_until_the_next_safe_point(number, reason):
    stopping.install()
    stopping.check()
    os.kill(os.getpid(), number)
    for _ in range(2):  # whoever catches it meets it again
        with pytest.raises(KeyboardInterrupt, match=rf"^{reason}$"):
            stopping.check()


def test_the_first_reason_counts():
    thread = threading.Thread(target=stopping.request, args=["the lock was lost"])
    thread.start()
    thread.join()
    stopping.request("SIGTERM")
    with pytest.raises(KeyboardInterrupt, match=r"^the lock was lost$"):
        stopping.check()


@pytest.mark.parametrize(
    ("sent", "ends"),
    [
        ([signal.SIGINT, signal.SIGINT], True),
        ([signal.SIGTERM, signal.SIGTERM], False),
        ([signal.SIGTERM, signal.SIGINT], False),
    ],
    ids=lambda value: "-".join(number.name for number in value) if isinstance(value, list) else None,
)
def test_a_second_interrupt_and_nothing_less_ends_the_program_at_once(sent, ends):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "None\n"
            process.send_signal(sent[0])
            while process.stdout.readline() == "None\n":
                pass
            process.send_signal(sent[1])
            if ends:
                assert process.wait(timeout=10) == -signal.SIGINT
                assert process.stderr.read() == ""  # no traceback
            else:
                for _ in range(5):
                    assert process.stdout.readline() == "SIGTERM\n"
                assert process.poll() is None
        finally:
            process.kill()
