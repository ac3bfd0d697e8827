"""Runs that are killed, starved of disk or tampered with, and then continued.

They end with the bytes of a run that nothing disturbed.
"""

import gzip
import itertools
import json
import multiprocessing
import os
import pkgutil
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from builders import ROOT, assert_same_files, benchmark, deterministic_files, finish, write_case

from uss_bench import provenance
from uss_bench.report import appendix
from uss_bench.runtime import paths, storage
from uss_bench.study import models

pytestmark = pytest.mark.whole

NAME = "run"
SETTINGS = {
    "data.pool": 3,
    "data.val": 1,
    "data.test": 2,
    "training.validate_every": 3,
    "training.max_steps": 6,
    "training.converged_max_steps": 6,
    "query.iterations": 1,
    "query.slices_per_iteration": 2,
}
SHORT = [
    "--strategy",
    "uss",
    *(part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")),
]

TINY = [
    "--manifest",
    "manifest.csv",
    "--set",
    "data.spacing=4,4,4",
    "--set",
    "training.patch=4,16,16",
    "--set",
    "query.min_distance_mm=8",
]

# Forked from a server that has imported everything, a run starts in a tenth of a second instead of several.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["benchmark", "torch._inductor.config", "builders"])


def start(folder, *arguments, prepare=None):
    """Begin or continue a short run on the tiny cases in `folder`, without figures.

    `prepare` is called in its process before.
    """
    said, stderr = processes.Pipe(duplex=False)
    process = processes.Process(target=_run, args=(folder, stderr, arguments, prepare))
    process.start()
    stderr.close()
    return process, said


def _run(folder, stderr, arguments, prepare):
    os.setsid()
    os.chdir(folder)
    os.dup2(stderr.fileno(), 2)
    sys.path.insert(0, str(ROOT))
    sys.modules["matplotlib.figure"] = None
    from benchmark import main

    if prepare:
        prepare()
    sys.exit(
        main(["--preset", "smoke", "--name", NAME, "--workers", "1", *SHORT, *TINY, *map(str, arguments)])
    )


def outcome(process, said):
    """Exit code (the negative signal of one that was killed) and standard error of a run."""
    with open(said.fileno(), encoding="utf-8", closefd=False) as stream:
        err = stream.read()
    process.join(60)
    return process.exitcode, err


def run(folder, *arguments, prepare=None):
    return outcome(*start(folder, *arguments, prepare=prepare))


def kept_files(folder):
    """Names of what is kept of a run, without logs and notes."""
    kept = folder / "runs" / NAME
    names = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(("log", "status/"))}


def cached_files(folder):
    """Names of what whole entries of the cache hold.

    Runs share the cache, and none knows whether another is still writing an entry.
    """
    cache = folder / "runs" / "cache"
    return {
        path.relative_to(cache).as_posix() for path in cache.glob("[!.]*/*") if path.parent.name != "digests"
    }


def write_cases(folder):
    """Tiny cases and their manifest."""
    cases = [
        write_case(folder, number, split)
        for number, split in enumerate(["pool", "pool", "pool", "val", "test", "test"])
    ]
    rows = [{name: getattr(case, name) for name in ("case_id", "site", "split")} for case in cases]
    rows = [
        {**row, "image": case.image.name, "label": case.label.name}
        for row, case in zip(rows, cases, strict=True)
    ]
    storage.write_csv(folder / "manifest.csv", list(rows[0]), rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of tiny cases and their manifest."""
    folder = tmp_path_factory.mktemp("data")
    write_cases(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(data, folder, dirs_exist_ok=True)
    code, err = run(folder)
    assert code == 0, err
    return folder


@pytest.fixture
def folder(data, tmp_path):
    """A copy of the cases, to run on."""
    return shutil.copytree(data, tmp_path / "folder")


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the finished run, to be tampered with."""
    return shutil.copytree(undisturbed, tmp_path / "finished")


def assert_same(folder, undisturbed, besides=()):
    assert_same_files(folder / "reports" / NAME, undisturbed / "reports" / NAME)
    assert kept_files(folder) - set(besides) == kept_files(undisturbed)


def assert_completes(folder, undisturbed, *arguments, besides=()):
    """Continue the run; returns what it printed on standard error."""
    code, err = run(folder, *arguments)
    assert code == 0, err
    assert_same(folder, undisturbed, besides=besides)
    return err


def assert_refused(code, err, expected, *parts):
    """The program ended by itself, with one message that has these parts."""
    lines = err.splitlines()
    said = [line for line in lines if line.startswith("benchmark.py: ")]
    assert code == expected and len(said) == 1, err
    assert "Traceback" not in err
    message = "\n".join(lines[lines.index(said[0]) :])
    for part in parts:
        assert part in message


# --- killed at a chosen point ---


def wrap(target, wrapper):
    """Make calls of the function named `target` calls of `wrapper`, which takes that function first."""
    owner, _, name = target.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    function = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **options: wrapper(function, *arguments, **options))


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the `count`-th call of a function with an argument (a path, say) that ends with `ending`.

    It comes before the call, after it, or (`Path.write_bytes` alone) when half is written. Checkpoints are
    written after every step.
    """

    target: str
    ending: str = ""
    count: int = 1
    moment: str = "before"

    def __call__(self):
        calls = itertools.count(1)

        def killing(function, *arguments, **options):
            now = (
                any(str(argument).endswith(self.ending) for argument in arguments)
                and next(calls) == self.count
            )
            if now and self.moment == "half":
                function(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if now and self.moment != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        wrap(self.target, killing)
        models.CHECKPOINT_SECONDS = -1


KILLS = {
    "before anything is written": Kill("uss_bench.runtime.lock._take"),
    "between temporary file and rename, 1": Kill("os.replace", count=1),
    "between temporary file and rename, 30": Kill("os.replace", count=30),
    "between temporary file and rename, 60": Kill("os.replace", count=60),
    "between temporary file and rename, 80": Kill("os.replace", count=80),
    "between the files of a cache entry": Kill("numpy.save", count=5, moment="after"),
    "between two cache entries": Kill("pathlib.Path.rename", count=2, moment="after"),
    "before the run is named": Kill("os.replace", "run.json"),
    "within a checkpoint": Kill("pathlib.Path.write_bytes", "training.pt", count=4, moment="half"),
    "after a checkpoint": Kill("os.replace", "USS/iter-1/training.pt", count=5, moment="after"),
    "after the model, before its stage": Kill("os.replace", "USS/converged/model.pt", moment="after"),
    "between two evaluated cases": Kill("os.replace", "evaluation/1.json"),
    "between two assessed cases": Kill("os.replace", "assessment/1.json"),
    "before kept means are removed": Kill("shutil.rmtree", "initial/assessment"),
    "before cases' files are removed": Kill("shutil.rmtree", "initial/evaluation"),
    "between two result files": Kill("os.replace", "results/training.csv"),
    "before the report": Kill("os.replace", "report.md"),
    "before the lock is released": Kill("os.replace", "report.md", moment="after"),
}
FEW = (
    "between temporary file and rename, 30",
    "between the files of a cache entry",
    "within a checkpoint",
    "after the model, before its stage",
    "between two result files",
)  # of each kind of moment, for the default tests


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(kill, id=name, marks=() if name in FEW else pytest.mark.slow)
        for name, kill in KILLS.items()
    ],
)
def test_killed_at_a_chosen_point(undisturbed, folder, kill):
    code, _ = run(folder, prepare=kill)
    assert code == -signal.SIGKILL
    assert_completes(folder, undisturbed)
    assert cached_files(folder) == cached_files(undisturbed) != set()


@pytest.mark.slow
def test_killed_while_phantoms_are_made(tmp_path):
    phantoms = ["--manifest", "data_manifest.csv", "--set", "data.spacing=20,20,20", "--set", "data.pool=2"]
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / "data_manifest.csv", tmp_path / name)
    assert run(tmp_path / "undisturbed", *phantoms)[0] == 0
    for count in (1, 4):  # an image, then another case's label
        assert (
            run(tmp_path / "disturbed", *phantoms, prepare=Kill("os.replace", ".nii.gz", count))[0]
            == -signal.SIGKILL
        )
    leftovers = list((tmp_path / "disturbed" / "data").rglob(".partial-*"))
    assert len(leftovers) == 2
    os.utime(leftovers[0], (0, 0))  # the other may be another run's, which is at work
    assert_completes(tmp_path / "disturbed", tmp_path / "undisturbed", *phantoms)
    assert [path for path in leftovers if path.exists()] == leftovers[1:]


def test_what_a_killed_report_has_left_for_a_day_is_removed(finished):
    folders = [finished / "reports" / f"{NAME}-{name}" for name in ("seed0", "seed1", "seeds0-1")]
    folders[2].mkdir()
    for seed, folder in enumerate(folders[:2]):
        shutil.copytree(finished / "reports" / NAME, folder)
        path = folder / paths.PROVENANCE
        path.write_text(
            json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"seed": seed}), encoding="utf-8"
        )
    for folder in folders:
        (folder / ".partial-new-report.md").touch()
        (folder / ".partial-old-report.md").touch()
        os.utime(folder / ".partial-old-report.md", (0, 0))
    code, err = run(finished, "--report-only", "--seed", 0, 1)
    assert code == 0, err
    for folder in folders:
        assert [path.name for path in folder.glob(".partial-*")] == [".partial-new-report.md"]


# --- killed at random moments, with all its workers ---


def program(folder, *arguments):
    """The program as a user starts it, figures and all, in a group of processes of its own."""
    return benchmark("--preset", "smoke", "--name", NAME, *arguments, folder=folder, start_new_session=True)


def let_finish(process):
    code, _, err = finish(process)
    assert code == 0, err


def files_in(folder):
    """Number of files renamed into place so far: a clock that a busy machine does not put out."""
    return sum(not name.startswith(".") for _, _, names in os.walk(folder) for name in names)


def wait_at_random(folder, draws, advance, seconds, ended):
    """Wait until up to `advance` further files are there and up to `seconds` more have passed.

    Waiting ends early when `ended()`.
    """
    goal, left = files_in(folder) + draws.randint(0, advance), draws.uniform(0, seconds)
    while not ended() and files_in(folder) < goal:
        time.sleep(0.01)
    deadline = time.monotonic() + left
    while not ended() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_killed_three_times_at_random(undisturbed, folder):
    draws = random.Random(0)
    for _ in range(3):
        process, said = start(folder, "--workers", 2)
        wait_at_random(folder, draws, 12, 0.05, lambda process=process: process.exitcode is not None)
        os.killpg(process.pid, signal.SIGKILL)
        assert outcome(process, said)[0] == -signal.SIGKILL
    assert_completes(folder, undisturbed)


@pytest.mark.slow
def test_killed_25_times_at_random(tmp_path):
    undisturbed, draws, killed = tmp_path / "0", random.Random(0), 0
    undisturbed.mkdir()
    let_finish(program(undisturbed, "--workers", 2))
    for number in itertools.count(1):  # a run that comes through is followed by another
        folder = tmp_path / str(number)
        folder.mkdir()
        process = program(folder, "--workers", 2)
        while killed < 25:
            wait_at_random(folder, draws, 20, 0.5, lambda process=process: process.poll() is not None)
            if process.poll() is not None:
                break
            os.killpg(process.pid, signal.SIGKILL)
            assert finish(process)[0] == -signal.SIGKILL
            killed += 1
            process = program(folder, "--workers", 2)
        let_finish(process)
        assert_same(folder, undisturbed)
        if killed == 25:
            return


@pytest.mark.slow
def test_workers_end_when_their_leader_is_killed(tmp_path):
    process = program(tmp_path, *SHORT, "--workers", 2)
    while not (tmp_path / "runs" / NAME / "initial").exists():  # the worker is starting
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while group_lives(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    let_finish(program(tmp_path, *SHORT, "--workers", 2))


def group_lives(leader):
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = status.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[:3]
        except OSError:  # ended meanwhile
            continue
        if int(group) == leader and state != "Z":
            return True
    return False


# --- asked to end ---


@dataclass(frozen=True)
class Count:
    """Writes down the steps that are trained, and sends this process a SIGTERM in one of them."""

    ending: int = 0

    def __call__(self):
        steps = itertools.count(1)

        def counted(update, training, *batch):
            update(training, *batch)
            with open("steps.txt", "a", encoding="utf-8") as file:
                file.write(f"{training.step}\n")
            if next(steps) == self.ending:
                os.kill(os.getpid(), signal.SIGTERM)

        wrap("uss_bench.network.training.Training.update", counted)


def test_a_training_that_is_to_end_goes_on_where_it_was(undisturbed, folder):
    code, err = run(folder, prepare=Count(ending=4))
    assert_refused(code, err, 130, "SIGTERM", "continues")
    assert torch.load(folder / "runs" / NAME / "initial" / "training.pt")["step"] == 4
    code, err = run(folder, prepare=Count())
    assert code == 0, err
    steps = (folder / "steps.txt").read_text(encoding="utf-8").split()
    assert list(map(int, steps)) == 4 * [1, 2, 3, 4, 5, 6]
    assert_same(folder, undisturbed)


# --- damaged files ---


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, pytest.param(flip, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_costs_its_training_alone(undisturbed, folder, damage):
    code, _ = run(folder, prepare=Kill("os.replace", "initial/training.pt", count=5, moment="after"))
    assert code == -signal.SIGKILL
    damage(folder / "runs" / NAME / "initial" / "training.pt")
    err = assert_completes(folder, undisturbed, besides=["initial/training.damaged"])
    assert "warning: " in err and "initial/training.pt: damaged" in err and "begins again" in err


@pytest.mark.parametrize("damage", [pytest.param(cut, marks=pytest.mark.slow), flip])
def test_a_damaged_model_is_named_and_trained_again(undisturbed, finished, damage):
    model = finished / "runs" / NAME / "USS" / "iter-1"
    damage(model / "model.pt")
    (model / "evaluation.json").unlink()
    assert_refused(*run(finished), 2, f"runs/{NAME}/USS/iter-1/model.pt: damaged", "remove its folder")
    shutil.rmtree(model)
    assert_completes(finished, undisturbed)


def test_a_damaged_json_file_is_named_and_made_again(undisturbed, finished):
    names = [
        f"runs/{NAME}/run.json",
        f"runs/{NAME}/initial/training.json",
        f"runs/{NAME}/initial/scores.json",
        f"runs/{NAME}/initial/assessment.json",
        f"runs/{NAME}/USS/iter-1/query.json",
        f"runs/{NAME}/USS/iter-1/evaluation.json",
        f"reports/{NAME}/results/provenance.json",
    ]
    for name in names:
        path = finished / name
        whole = path.read_bytes()
        cut(path)
        assert_refused(*run(finished), 2, f"{name}: damaged", "remove this file")
        path.write_bytes(whole)
    for name in names:
        (finished / name).unlink()
    assert_completes(finished, undisturbed)


def test_what_is_made_again_may_be_damaged(undisturbed, finished):
    for name in (
        f"runs/{NAME}/status/0.json",
        f"runs/{NAME}/log.txt",
        "runs/cache/*/volume.json",
        "runs/cache/*/image.npy",
        "runs/cache/*/reference.npy",
    ):
        path = next(finished.glob(name), None)
        if path is None:  # a status is gone when its process is
            assert "*" not in name
            path = finished / name
            path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\xff{")
    assert_completes(finished, undisturbed)


def test_a_lost_cache_is_built_again(undisturbed, folder):
    code, _ = run(folder, prepare=Kill("os.replace", "initial/training.json", moment="after"))
    assert code == -signal.SIGKILL
    shutil.rmtree(folder / "runs" / "cache")
    assert_completes(folder, undisturbed)


# --- no room, no right, another run ---


@dataclass(frozen=True)
class Limit:
    """No file may grow beyond `size` bytes from the first call of a function on."""

    size: int
    since: str

    def __call__(self):
        def limited(function, *arguments, **options):
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
            )
            return function(*arguments, **options)

        wrap(self.since, limited)


def _seldom(*values):
    """Parameters of which others show the like."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("limit", "expected", "name"),
    [
        (Limit(0, "uss_bench.runtime.lock._take"), 2, f"runs/{NAME}: cannot be written (File too large)"),
        _seldom(Limit(1000, "uss_bench.data.volumes._build_entry"), 1, "runs/cache/"),
        _seldom(Limit(10, "uss_bench.study.models.train"), 1, "training.csv: File too large"),
        (Limit(4000, "uss_bench.study.models.train"), 1, "model.pt: File too large"),
        _seldom(Limit(700, "uss_bench.report.result_files.write_results"), 1, "volumes.csv: File too large"),
        (Limit(5000, "uss_bench.report.document.write_report"), 1, "report.md: File too large"),
    ],
    ids=lambda value: value.since if isinstance(value, Limit) else "",
)
def test_a_file_that_cannot_grow_is_named_and_nothing_lost(undisturbed, folder, limit, expected, name):
    assert_refused(*run(folder, prepare=limit), expected, name)
    assert_completes(folder, undisturbed)


@dataclass(frozen=True)
class Fill:
    """The disk is full from the first call of a function on."""

    since: str

    def __call__(self):
        def starved(function, *arguments, **options):
            with suppress(OSError), open("filler", "ab", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            return function(*arguments, **options)

        wrap(self.since, starved)


@pytest.fixture
def small_disk(data, tmp_path):
    """A copy of the cases on a disk of four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a disk")
    yield shutil.copytree(data, disk, dirs_exist_ok=True)
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize(
    ("since", "expected", "place"),
    [
        _seldom("runtime.lock._take", 2, f"runs/{NAME}"),
        _seldom("data.volumes._build_entry", 1, "runs/cache/"),
        ("study.models.train", 1, f"runs/{NAME}/initial/"),
    ],
)
def test_a_full_disk_is_reported_and_nothing_lost(undisturbed, small_disk, since, expected, place):
    assert_refused(
        *run(small_disk, prepare=Fill(f"uss_bench.{since}")), expected, place, "No space left on device"
    )
    (small_disk / "filler").unlink()
    assert_completes(small_disk, undisturbed)


@pytest.mark.parametrize("place", ["runs", f"runs/{NAME}", "reports"])
def test_a_file_in_the_place_of_a_folder_is_bad_input(folder, place):
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    assert_refused(*run(folder), 2, place)
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_read_only_folder_is_bad_input(folder):
    folder = folder / "runs"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    assert_refused(*run(folder), 2, "runs", "Permission denied")


def other_code():
    provenance.code_digest = lambda: "0" * 64


def other_library():
    versions = provenance.version
    provenance.version = lambda name: "0.0" if name == "scipy" else versions(name)


def other_device():
    provenance.device_name = lambda device: "another"


def other_version():
    provenance.__version__ = "0.0"


@pytest.mark.parametrize(
    ("arguments", "prepare", "difference"),
    [
        (["--seed", 1], None, "seed: 0 there, 1 now"),
        (["--set", "training.max_steps=7"], None, "training.max_steps: 6 there, 7 now"),
        (["--manifest", "other.csv"], None, "manifest_sha256: "),
        ([], other_code, "code_sha256: "),
        ([], other_library, "'scipy': '0.0'"),
        ([], other_device, "device: CPU there, another now"),
        ([], other_version, "uss_bench: "),
    ],
    ids=["seed", "settings", "manifest", "code", "library", "device", "version"],
)
def test_another_run_is_refused(undisturbed, finished, arguments, prepare, difference):
    shutil.rmtree(finished / "reports")  # which would be refused just as well
    (finished / "other.csv").write_text(
        (finished / "manifest.csv").read_text(encoding="utf-8").replace(",site,pool", ",another,pool"),
        encoding="utf-8",
    )
    assert_refused(*run(finished, *arguments, prepare=prepare), 2, "another run", difference)
    assert_completes(finished, undisturbed)


def other_words():
    appendix.PAPER = "of a paper, its title corrected"


def test_other_words_of_the_report_let_a_run_continue_and_rebuild_it(undisturbed, finished):
    """The digest of the code covers what shapes numbers alone, see tests/test_provenance.py."""
    code, err = run(finished, prepare=other_words)
    assert code == 0 and "(found)" in err, err
    ours, theirs = (deterministic_files(root / "reports" / NAME) for root in (finished, undisturbed))
    assert [file for file in ours if ours[file] != theirs[file]] == ["report.md"]
    assert b"its title corrected" in ours["report.md"]


def test_a_fault_of_a_later_seed_is_found_before_any_work(folder, finished):
    """The report of seed 1 is there already, of other settings."""
    shutil.copytree(finished / "reports" / NAME, folder / "reports" / f"{NAME}-seed1")
    assert_refused(*run(folder, "--seed", 0, 1), 2, f"reports/{NAME}-seed1 holds another run")
    assert not (folder / "runs").exists()


def test_the_report_of_another_run_is_kept(undisturbed, finished):
    shutil.rmtree(finished / "runs")
    assert_refused(
        *run(finished, "--set", "training.max_steps=7"),
        2,
        f"reports/{NAME}",
        "training.max_steps: 6 there, 7 now",
    )
    assert_refused(*run(finished, prepare=other_library), 2, f"reports/{NAME}", "'scipy': '0.0'")
    assert_same_files(finished / "reports" / NAME, undisturbed / "reports" / NAME)


def test_other_files_of_a_case_are_refused(finished):
    voxels = bytearray(gzip.decompress((finished / "1.nii.gz").read_bytes()))
    voxels[-1] ^= 1
    (finished / "1.nii.gz").write_bytes(gzip.compress(voxels))
    assert_refused(*run(finished), 2, "other files of case(s) case-1;")


def test_a_second_process_does_not_disturb_the_first(undisturbed, folder):
    first, said = start(folder)
    while not (folder / "runs" / NAME / "initial").exists():
        assert first.is_alive()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # else it might be done before
    try:
        assert_refused(*run(folder), 2, f"in use by process {first.pid}", "--name")
        assert (
            json.loads((folder / "runs" / NAME / paths.LOCK).read_text(encoding="utf-8"))["pid"] == first.pid
        )
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert outcome(first, said)[0] == 0
    assert_same(folder, undisturbed)
