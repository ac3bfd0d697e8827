"""The command line: which function a command reaches, and the manifest that `run` writes for itself."""

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import replace

import pytest
from builders import ROOT

from uss_bench import __version__, commands, fit, pipeline, provenance, request, suggest
from uss_bench.data import datasets
from uss_bench.runtime import paths, stopping, storage
from uss_bench.runtime.errors import refuse


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stopping, "install", lambda: None)  # pytest answers signals itself


@pytest.fixture
def reached(monkeypatch):
    """What the commands' functions are called with, by their names; they do nothing."""
    calls = {}
    monkeypatch.setattr(pipeline, "perform", lambda *asked: calls.update(run=asked))
    monkeypatch.setattr(datasets, "run", lambda **options: calls.update({"import": options}))
    monkeypatch.setattr(fit, "fit", lambda asked: calls.update(fit=asked))
    monkeypatch.setattr(suggest, "suggest", lambda asked: calls.update(suggest=asked))
    return calls


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"uss-bench {__version__}\n"


@pytest.mark.parametrize("arguments", [["bake"], []])
def test_an_unknown_command_or_none_is_bad_input_that_names_the_known_ones(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        commands.main(arguments)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert "run" in err if arguments else "COMMAND" in err


def test_run_reaches_the_pipeline(reached):
    arguments = ["run", "--preset", "smoke", "--seed", "3", "4", "3", "--set", "a.b=1", "--reports", "there"]
    assert commands.main(arguments) == 0
    action, runs, program = reached["run"]
    assert (action, program) == ("run", "uss-bench")
    assert [(run.seed, run.name) for run in runs] == [(3, "smoke-seed3"), (4, "smoke-seed4")]
    for run in runs:
        assert (run.preset, run.overrides, run.strategies) == ("smoke", ("a.b=1",), ("all",))
        assert run.make_manifest and str(run.manifest) == "data_manifest.csv"
        assert run.across_folder.as_posix() == "there/smoke-seeds3-4"


@pytest.mark.parametrize(
    ("arguments", "names", "across"),
    [
        ([], ["quick-seed0"], "quick-seeds0"),
        (["--name", "mine"], ["mine"], "mine-seeds0"),
        (["--name", "mine", "--seed", "2", "1"], ["mine-seed2", "mine-seed1"], "mine-seeds1-2"),
        (
            ["--seed", *map(str, range(86))],
            [f"quick-seed{seed}" for seed in range(86)],
            "quick-seeds0-to-85-364edd56",
        ),
    ],
)
def test_names_of_runs(reached, arguments, names, across):
    assert commands.main(["run", *arguments]) == 0
    assert [run.name for run in reached["run"][1]] == names
    assert {run.across_name for run in reached["run"][1]} == {across}


@pytest.mark.parametrize("name", [".", "..", "a/b", "cache", "a\0b", "a\nb", "a\udcff", "x" * 201])
@pytest.mark.parametrize(
    "command",
    [["run"], ["run", "--status"], ["run", "--report-only"], ["fit", "m.csv", "--output", "m.pt"]],
)
def test_a_name_that_is_no_folder_of_its_own_is_refused(tmp_path, capsys, command, name):
    assert commands.main([*command, "--name", name]) == 2
    assert capsys.readouterr().err == (
        f"uss-bench: --name {name!r}: cannot name a folder; use a few letters, digits, - and _\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", [[], ["--dry-run"]])
def test_a_negative_seed_is_refused(tmp_path, capsys, action):
    """Its report could not be written: NumPy's generators take none."""
    assert commands.main(["run", "--preset", "smoke", "--seed", "0", "-1", *action]) == 2
    assert "--seed -1: must not be negative; give 0 or more" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_needs_a_worker(tmp_path, capsys):
    assert commands.main(["run", "--workers", "0", "--preset", "smoke"]) == 2
    assert "--workers 0: nobody to do the work" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--runs", "--reports"])
def test_a_plan_is_refused_where_its_run_would_be(tmp_path, capsys, option):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert commands.main(["run", "--dry-run", "--preset", "smoke", option, "file"]) == 2
    assert f"is not a folder; choose another folder with {option}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_plan_is_refused_where_another_run_is_or_no_room(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "describe_plan", lambda *_: "a plan")
    asked = ["run", "--dry-run", "--preset", "smoke", "--manifest", str(ROOT / "data_manifest.csv")]
    assert commands.main(asked) == 0
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "check_disk", lambda *_: refuse("", ["no room"]))
        assert commands.main(asked) == 2
    assert "no room" in capsys.readouterr().err
    run = commands.runs_asked_for(None, None, ROOT / "data_manifest.csv", ["all"], [], [], preset="smoke",
                                  device="cpu", runs=tmp_path, reports=tmp_path)[0]  # fmt: skip
    origin = provenance.provenance(request.check_run(run), run.manifest, run.seed)
    origin["config"]["training"]["max_steps"] = 7
    storage.write_json(tmp_path / "runs" / "smoke-seed0" / paths.RUN, origin)
    assert commands.main(asked) == 2
    assert "training.max_steps: 7 there, 20 now" in capsys.readouterr().err


def test_a_report_of_one_run_and_one_across_seeds_are_never_written_over_each_other(tmp_path, capsys):
    """A run may be called as the report across seeds would be, and the other way."""
    for name, content in {"one": {"seed": 0}, "across": {"seeds": {}}}.items():
        storage.write_json(tmp_path / "reports" / f"{name}-seeds0-1" / paths.PROVENANCE, content)
    assert commands.main(["run", "--preset", "smoke", "--name", "one", "--seed", "0", "1"]) == 2
    assert "one-seeds0-1 holds the report of a single run" in capsys.readouterr().err
    for name in paths.CASES, paths.ANNOTATION, paths.QUERIES, paths.TRAINING, paths.VOLUMES:
        storage.write_csv(tmp_path / "reports" / "across-seeds0-1" / name, ["case_id"], [])
    assert commands.main(["run", "--preset", "smoke", "--name", "across-seeds0-1", "--report-only"]) == 2
    assert "holds a report across seeds; name its seeds by --seed instead" in capsys.readouterr().err
    assert commands.main(["run", "--preset", "smoke", "--name", "across-seeds0-1"]) == 2
    assert "across-seeds0-1 holds a report across seeds" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_seeds_that_have_not_begun_do_not_hide_those_that_have(tmp_path, capsys):
    asked = ["run", "--status", "--preset", "smoke", "--seed", "0", "1"]
    assert commands.main(asked) == 2
    origin = {"strategies": ["USS"], "config": {"query": {"iterations": 1, "twins": 0}}}
    storage.write_json(tmp_path / "runs" / "smoke-seed0" / paths.RUN, origin)
    assert commands.main(asked) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "smoke-seed0: 0 of 4 models" in first and "smoke-seed1: no run has been begun here" in last


@pytest.mark.parametrize("action", ["dry_run", "status", "report_only"])
def test_what_else_than_running_may_be_asked_for(reached, action):
    assert commands.main(["run", f"--{action.replace('_', '-')}"]) == 0
    assert reached["run"][0] == action


def test_import_reaches_the_importers(reached, tmp_path):
    assert commands.main(["import", "lits", "source", "--output", "m.csv", "--exclude", "lits-3"]) == 0
    options = reached["import"]
    assert (options["layout"], str(options["source"]), options["exclude"]) == ("lits", "source", ["lits-3"])
    assert "command" not in options


def test_fit_reaches_the_training(reached):
    arguments = ["m.csv", "--output", "models/best.pt", "--preset", "smoke", "--set", "a.b=1", "--seed", "4"]
    assert commands.main(["fit", *arguments]) == 0
    asked = reached["fit"]
    assert (str(asked.manifest), asked.output.as_posix()) == ("m.csv", "models/best.pt")
    assert (asked.preset, list(asked.overrides), asked.seed, asked.device) == ("smoke", ["a.b=1"], 4, "auto")
    assert asked.folder.as_posix() == "runs/fit-best"
    assert commands.main(["fit", *arguments, "--name", "mine", "--runs", "there"]) == 0
    assert reached["fit"].folder.as_posix() == "there/mine"


def test_suggest_reaches_the_choice_of_slices(reached):
    arguments = ["model.pt", "a.nii.gz", "b.nii.gz", "--slices", "20", "--output", "todo"]
    assert commands.main(["suggest", *arguments]) == 0
    asked = reached["suggest"]
    assert [str(path) for path in (asked.model, *asked.images, asked.output)] == [
        "model.pt", "a.nii.gz", "b.nii.gz", "todo"
    ]  # fmt: skip
    assert (asked.slices, asked.strategy, asked.annotated) == (20, "USS", None)
    assert commands.main(["suggest", *arguments, "--strategy", "rss", "--annotated", "m.csv"]) == 0
    assert (reached["suggest"].strategy, str(reached["suggest"].annotated)) == ("rss", "m.csv")


def test_benchmark_py_is_run_on_the_manifest_beside_it(reached, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmark import main

    assert main(["--preset", "smoke"]) == 0
    assert reached["run"][1][0].manifest == ROOT / "data_manifest.csv"
    assert main(["--manifest", "mine.csv"]) == 0
    assert str(reached["run"][1][0].manifest) == "mine.csv"


# --- the default manifest -----------------------------------------------------------------------------------


@pytest.fixture
def work(monkeypatch):
    """Everything up to the work itself is done; counts how often it would begin."""
    begun = []
    monkeypatch.setattr(pipeline, "_work", lambda *arguments: begun.append(arguments))
    return begun


@pytest.fixture
def plan(monkeypatch):
    """What the plan would be made from, which takes seconds: a training step is timed."""
    asked = []
    monkeypatch.setattr(pipeline, "describe_plan", lambda *arguments: asked.append(arguments))
    return asked


def run(*arguments):
    return commands.main(["run", "--preset", "smoke", "--workers", "1", *arguments])


def test_run_writes_the_committed_manifest_where_there_is_none_and_says_so(tmp_path, work, capsys):
    assert run() == 0 and len(work) == 1
    assert (tmp_path / "data_manifest.csv").read_bytes() == (ROOT / "data_manifest.csv").read_bytes()
    assert capsys.readouterr().err == "data_manifest.csv: written, the manifest of the embedded phantoms\n"
    assert work[0][0].manifest.resolve() == tmp_path / "data_manifest.csv"

    before = (tmp_path / "data_manifest.csv").stat().st_mtime_ns
    assert run() == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "data_manifest.csv").stat().st_mtime_ns == before


def test_run_reads_the_manifest_that_is_there_and_leaves_it_alone(tmp_path, work, capsys):
    (tmp_path / "data_manifest.csv").write_text("case_id,site\nmine,here\n", encoding="utf-8")
    assert run() == 2 and not work
    assert "data_manifest.csv" in capsys.readouterr().err
    assert (tmp_path / "data_manifest.csv").read_text(encoding="utf-8") == "case_id,site\nmine,here\n"


def test_a_manifest_that_leads_nowhere_is_left_alone_too(tmp_path, work, capsys):
    (tmp_path / "data_manifest.csv").symlink_to("elsewhere.csv")
    assert run() == 2 and not work
    assert "cannot read the manifest" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data_manifest.csv"]


def test_a_manifest_that_is_named_is_never_written(tmp_path, work, capsys):
    assert run("--manifest", "data_manifest.csv") == 2 and not work
    assert "data_manifest.csv: cannot read the manifest" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--dry-run"], 0),
        (["--status"], 2),
        (["--report-only"], 2),
        (["--set", "training.max_stepz=3"], 2),
        (["--strategy", "nobody"], 2),
    ],
)
def test_what_runs_nothing_leaves_nothing(tmp_path, work, plan, arguments, code):
    assert run(*arguments) == code and not work
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_without_a_manifest_plans_what_the_run_will_do(tmp_path, plan):
    def planned():
        """Cases, with paths that do not depend on where the manifest lies."""
        assert run("--dry-run") == 0
        cases = plan.pop()[1]
        return [replace(case, image=case.image.absolute(), label=case.label.absolute()) for case in cases]

    before = planned()
    (tmp_path / "data_manifest.csv").write_bytes((ROOT / "data_manifest.csv").read_bytes())
    assert planned() == before and before[0].image.is_relative_to(tmp_path)


def test_the_package_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "uss_bench", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, f"uss-bench {__version__}\n")


# --- installed ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.whole
def test_an_installed_wheel_runs_the_benchmark_in_an_empty_folder(tmp_path):
    """Built from a copy, which leaves no build folder here; installed beside this environment's packages."""
    source, wheels, home, folder = (tmp_path / name for name in ("source", "wheels", "venv", "work"))
    shutil.copytree(ROOT / "uss_bench", source / "uss_bench", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*command):
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )  # fmt: skip

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source)
    (wheel,) = wheels.iterdir()
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    call(*pip, "--python", python, "install", "--no-deps", wheel)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "beside.pth").write_text(
        "".join(f"{path}\n" for path in sys.path if path.endswith("-packages")), encoding="utf-8"
    )

    assert call(python, "-c", "import uss_bench; print(uss_bench.__file__)").stdout.startswith(str(site))
    packaged = {path.relative_to(site) for path in (site / "uss_bench").rglob("*") if path.suffix != ".pyc"}
    ours = {path.relative_to(source) for path in (source / "uss_bench").rglob("*")}
    assert {path for path in packaged if path.name != "__pycache__"} == ours

    done = call(home / "bin" / "uss-bench", "run", "--preset", "smoke")
    assert done.stderr.startswith("data_manifest.csv: written")
    assert (folder / "reports" / "smoke-seed0" / "report.md").stat().st_size > 1000
    done = call(python, "-m", "uss_bench", "run", "--preset", "smoke", "--report-only")
    assert done.stderr == "report: reports/smoke-seed0/report.md\n"
