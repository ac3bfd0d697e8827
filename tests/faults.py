"""A fault at every write: a run whose k-th write fails says so in one line; continued, it loses nothing.

    python tests/faults.py [--sample N | --all]

A short run is repeated on tiny cases, each time with one fault, and continued without. Three kinds of fault
are spread over all the calls by which the program changes its folders: ENOSPC (the disk is full from there
on), EIO (this once) and SIGKILL; a write that fails has written its first half. SQLite is tested so.
"""

import argparse
import builtins
import errno
import io
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import test_crash
from builders import deterministic_files
from test_crash import NAME, assert_same, outcome, write_cases

from uss_bench import provenance
from uss_bench.runtime import progress, tasks
from uss_bench.study import models

KINDS = "ENOSPC", "EIO", "SIGKILL"
REMOVALS = "unlink", "rmdir"
SAMPLE = 330  # of which at least 300 are different
# A second or so, with every kind of file: two training steps a model on the smallest cohort.
SHORTER = [
    "--set", "data.pool=2", "--set", "data.test=1", "--set", "training.validate_every=2",
    "--set", "training.max_steps=2", "--set", "training.converged_max_steps=2",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """Makes a call fail by which a process changes a folder; to be called in that process.

    Attributes
    ----------
    folder : Path
        What lies elsewhere is none of the program's.
    record : Path
        File to note calls in, one a line: all of them where none fails, else the one that does.
    number : int
        Which call fails, from 1; with 0 none does.
    kind : str
        One of `KINDS`.
    """

    folder: Path
    record: Path
    number: int = 0
    kind: str = ""

    def __call__(self):
        calls = Calls(self)
        for name in ("replace", "rename", "fsync", *REMOVALS):
            setattr(os, name, calls.wrapped(name, getattr(os, name)))
        os.mkdir = calls.wrapped("mkdir", os.mkdir, lambda path, *_: not os.path.isdir(path))
        os.open = calls.wrapped("open", os.open, lambda path, flags, *_: flags & os.O_CREAT)
        builtins.open = io.open = calls.opening(builtins.open)
        make_repeatable()


def make_repeatable():
    """Let no clock decide what is written: a checkpoint after each step, a note every so many steps.

    Nor do commits and edits that are made while hundreds of runs follow each other.
    """
    ticks = itertools.count()
    progress.time = SimpleNamespace(monotonic=lambda: next(ticks) / 2, time=time.time)
    models.CHECKPOINT_SECONDS = tasks.ROUND_SECONDS = -1
    provenance.code_digest, provenance._git_state = lambda: "0" * 64, lambda: None


class Calls:
    """The calls so far of one process, and what becomes of the next one."""

    def __init__(self, fault):
        self._fault, self._numbers, self._folder = fault, itertools.count(1), os.path.realpath(fault.folder)
        self._lost = None
        self._record = os.open(fault.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, name, path, half=lambda: None):
        """Count a call; should it fail, do `half` of it and raise, or die."""
        number = next(self._numbers)
        ours, kind = self._fault.number, self._fault.kind
        if not ours or number == ours:
            os.write(self._record, f"{name} {os.path.relpath(path, self._folder)}\n".encode())
        # A full disk stays full, and lets files be removed. What fails to open stays so: zipfile tries twice.
        full = 0 < ours < number and kind == "ENOSPC" and name not in REMOVALS
        if number == ours or full or (name, path) == self._lost:
            self._lost = ("open", path)
            half()
            if kind == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            code = getattr(errno, kind)
            raise OSError(code, os.strerror(code), *([] if name in ("write", "fsync") else [str(path)]))

    def holds(self, path):
        """Whether a path is the program's to write to."""
        return os.path.realpath(path).startswith(self._folder + os.sep)

    def wrapped(self, name, function, counts=lambda *_: True):
        """Function of `os` whose calls are counted."""

        def counted(path, *arguments, dir_fd=None, **options):
            if dir_fd is not None:
                options["dir_fd"] = dir_fd
            where = path
            if isinstance(path, int) or dir_fd is not None:
                where = os.readlink(f"/proc/self/fd/{path if dir_fd is None else dir_fd}")
                where = where if dir_fd is None else os.path.join(where, path)
            if self.holds(where) and counts(path, *arguments):
                self.note(name, arguments[0] if name in ("replace", "rename") else where)
            return function(path, *arguments, **options)

        return counted

    def opening(self, function):
        """`open`, whose files count their writes where they reach the system."""
        calls = self

        class File(io.FileIO):
            def write(self, data):
                data = memoryview(data).cast("B")
                write = super().write
                calls.note("write", self.name, lambda: write(data[: len(data) // 2]))
                return write(data)

        class Buffer(io.BufferedWriter):
            def fileno(self):  # NumPy would write to it directly, and so unseen
                raise io.UnsupportedOperation

        def opened(
            file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None
        ):
            if isinstance(file, int) or not set(mode) & set("wxa+") or not calls.holds(file):
                return function(file, mode, buffering, encoding, errors, newline, closefd, opener)
            if not mode.startswith("r"):
                calls.note("open", file)
            raw = File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            if buffering == 0:
                return raw
            buffer = io.BufferedRandom(raw) if "+" in mode else Buffer(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

        return opened


class Experiment:
    """A run that nothing disturbed, and runs like it with a fault each.

    Parameters
    ----------
    scratch : path
        An empty folder to work in.

    Attributes
    ----------
    calls : list of str
        The calls by which a run changes its folder, in order: `replace runs/run/run.json`.
    """

    def __init__(self, scratch):
        self._scratch = Path(scratch)
        self._data, self._undisturbed = self._scratch / "data", self._scratch / "undisturbed"
        self._data.mkdir()
        write_cases(self._data)
        for path in self._data.iterdir():  # only of files that have not just changed are digests remembered
            os.utime(path, (0, 0))
        shutil.copytree(self._data, self._undisturbed)
        self._run(self._undisturbed)
        folder, record = self._folder()
        self._run(folder, Fault(folder, record))
        assert_same(folder, self._undisturbed)  # the shim alone changes nothing
        self.calls = record.read_text(encoding="utf-8").splitlines()

    def _folder(self):
        """Fresh folder with the cases, and a path for the record of its calls."""
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        return shutil.copytree(self._data, folder / "folder"), folder / "record"

    def _run(self, folder, fault=None):
        code, err = outcome(*test_crash.start(folder, *SHORTER, prepare=fault or make_repeatable))
        if fault is None or not fault.number:
            assert code == 0, f"exit code {code}\n{err}"
        return code, err

    def pairs(self, sample=None):
        """`(number of a call, kind of fault)`, `sample` of them spread evenly over all, or all.

        A removal can but be cut off by SIGKILL: that of what is of no use any more may fail.
        """
        count = len(self.calls)
        if sample is None or sample >= count * len(KINDS):
            drawn = itertools.product(range(1, count + 1), KINDS)
        else:
            drawn = ((1 + place * count // sample, KINDS[place % len(KINDS)]) for place in range(sample))
        removes = {number for number, call in enumerate(self.calls, start=1) if call.split()[0] in REMOVALS}
        return list(
            dict.fromkeys((number, "SIGKILL" if number in removes else kind) for number, kind in drawn)
        )

    def check(self, number, kind):
        """Run with a fault, and continue; AssertionError where anything is not as it must be."""
        folder, record = self._folder()
        code, err = self._run(folder, Fault(folder, record, number, kind))
        assert record.read_text(encoding="utf-8"), f"the fault did not come about\n{err}"
        self._check_written(folder)
        if kind == "SIGKILL":
            assert code == -signal.SIGKILL, f"exit code {code}\n{err}"
        else:
            told = [line for line in err.splitlines() if line.startswith("benchmark.py: ")]
            assert code in (1, 2) and len(told) == 1, f"exit code {code}\n{err}"
            assert err.endswith(told[0] + "\n") and "Traceback" not in err, err
            assert os.strerror(getattr(errno, kind)) in told[0], err
            assert leftovers(folder) == []
            assert not (folder / "runs" / NAME / "lock.json").exists()
        self._run(folder)
        assert_same(folder, self._undisturbed)
        # The cache is shared: what is half-written there may be another run's, and stays for a day.
        assert [name for name in leftovers(folder) if not name.startswith("runs/cache/")] == []
        if kind != "SIGKILL":
            assert leftovers(folder) == []
        shutil.rmtree(folder.parent)

    def _check_written(self, folder):
        """A report file that is there is whole."""
        whole = deterministic_files(self._undisturbed / "reports" / NAME)
        for name, content in whole.items():
            path = folder / "reports" / NAME / name
            assert not path.exists() or path.read_bytes() == content, f"{name} is not whole"


def leftovers(folder):
    """Half-written files and folders below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(".partial-*"))


def survey(experiment, pairs, told=lambda line: None):
    """Check pairs; returns what was wrong, one text per pair."""
    wrong = []
    for number, kind in pairs:
        try:
            experiment.check(number, kind)
        except AssertionError as error:
            line = traceback.extract_tb(error.__traceback__)[-1].line
            wrong.append(f"{kind} at call {number} ({experiment.calls[number - 1]}): {line}\n{error}")
            told(wrong[-1])
    return wrong


def main():
    parser = argparse.ArgumentParser(description="A fault at every write of a short run.")
    parser.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help=f"faults to try ({SAMPLE})")
    parser.add_argument("--all", action="store_true", help="try every fault at every call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment(scratch)
        names = Counter(call.split()[0] for call in experiment.calls)
        print(f"{len(experiment.calls)} write calls: {listed(names)}", flush=True)
        pairs = experiment.pairs(None if options.all else options.sample)
        kinds = Counter(kind for _, kind in pairs)
        print(f"{len(pairs)} faults: {listed(kinds)}", flush=True)
        began = time.monotonic()
        wrong = survey(experiment, pairs, lambda text: print(text, flush=True))
        print(f"{len(pairs) - len(wrong)} passed, {len(wrong)} failed, {time.monotonic() - began:.0f} s")
    return bool(wrong)


def listed(counts):
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
