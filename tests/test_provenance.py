"""What a report says about the origin of its numbers, and which changes of the code spoil a run."""

import json
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from uss_bench import config, provenance
from uss_bench.data.manifest import Case
from uss_bench.request import Checked
from uss_bench.study.strategies import named

SETTINGS = config.resolve("smoke", ["query.iterations=3"])


def checked(cases, *strategies):
    return Checked(SETTINGS, named(strategies), torch.device("cpu"), cases, cases, [])


@pytest.fixture
def origin(tmp_path):
    """Provenance of a manifest of which one pool case is left out."""
    manifest = tmp_path / "somewhere" / "my.csv"
    manifest.parent.mkdir()
    manifest.write_bytes(b"abc")
    cases = [
        Case(str(n), "s", split, Path("a"), Path("b"), str(n))
        for n, split in enumerate(["pool", "pool", "val", "test"])
    ]
    return provenance.provenance(checked(cases, "USS", "RSS"), manifest, 5)


def test_provenance_by_hand(origin):
    assert origin["manifest"] == "my.csv"
    assert (
        origin["manifest_sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2, "abc"
    assert origin["manifest_cases"] == {"pool": 2, "val": 1, "test": 1}
    assert (origin["seed"], origin["strategies"], origin["device"]) == (5, ["USS", "RSS"], "CPU")
    assert origin["config"]["query"]["iterations"] == 3
    assert origin["config_sha256"] == SETTINGS.digest()
    assert origin["libraries"]["numpy"] == np.__version__
    assert set(origin["libraries"]) == {"torch", "numpy", "scipy", "nibabel", "statsmodels"}
    assert json.loads(json.dumps(origin)) == origin


@pytest.mark.parametrize("on", [True, False])
def test_provenance_says_whether_algorithms_are_deterministic(tmp_path, on):
    before = torch.are_deterministic_algorithms_enabled()
    (tmp_path / "m.csv").write_text("", encoding="utf-8")
    try:
        torch.use_deterministic_algorithms(on)
        found = provenance.provenance(checked([], "USS"), tmp_path / "m.csv", 0)
        assert found["deterministic_algorithms"] is on
    finally:
        torch.use_deterministic_algorithms(before)


def test_provenance_holds_no_path_and_no_host(origin, tmp_path):
    text = json.dumps(origin)
    assert str(tmp_path) not in text and str(Path.home()) not in text
    assert "somewhere" not in text and socket.gethostname() not in text


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository of its own, `provenance` as if imported from it, and its commit."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "code" / "uss_bench"
    package.mkdir(parents=True)
    for path in (
        package / "provenance.py",
        tmp_path / "code" / "benchmark.py",
        tmp_path / "code" / "README.md",
    ):
        path.write_text("1\n", encoding="utf-8")
    git(tmp_path / "code", "init", "--quiet")
    git(tmp_path / "code", "add", ".")
    git(tmp_path / "code", "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return tmp_path / "code", git(tmp_path / "code", "rev-parse", "HEAD")


def test_the_commit_of_a_checkout(checkout):
    folder, commit = checkout
    assert provenance._git_state() == {"commit": commit, "changed": False}
    (folder / "README.md").write_text("2\n", encoding="utf-8")
    assert provenance._git_state() == {
        "commit": commit,
        "changed": False,
    }  # the text of the readme changes no result
    (folder / "uss_bench" / "provenance.py").write_text("2\n", encoding="utf-8")
    assert provenance._git_state() == {"commit": commit, "changed": True}


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(
        provenance, "__file__", str(tmp_path / "site-packages" / "uss_bench" / "provenance.py")
    )
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance._git_state() is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance._git_state() is None


def test_the_commit_of_another_project_is_not_ours(checkout, monkeypatch):
    """Installed into an environment inside somebody's repository, the program has no commit there."""
    folder, _ = checkout
    installed = folder / ".venv" / "site-packages" / "uss_bench"
    installed.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    assert provenance._git_state() is None


def test_the_digest_of_the_code_covers_what_shapes_numbers_and_not_what_says_them(tmp_path):
    package = tmp_path / "uss_bench"
    shutil.copytree(Path(provenance.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = provenance.code_digest(package)
    assert before == provenance.code_digest()
    for name in (
        "report/captions.py",
        "report/document.py",
        "plan.py",
        "intake.py",
        "runtime/progress.py",
        "commands.py",
    ):
        with open(package / name, "a", encoding="utf-8") as file:
            file.write("# a typo corrected\n")
    assert provenance.code_digest(package) == before
    seen = {before}
    for name in (
        "config.py",
        "runtime/seeding.py",
        "data/phantoms.py",
        "network/layers.py",
        "study/strategies.py",
    ):
        with open(package / name, "a", encoding="utf-8") as file:
            file.write("# another number\n")
        seen.add(provenance.code_digest(package))
    assert len(seen) == 6
