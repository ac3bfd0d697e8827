"""Plans that cannot work, each by hand, and the counts of a plan that can."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from uss_bench import config, cost, plan
from uss_bench.data.manifest import Case
from uss_bench.data.volumes import load_volume
from uss_bench.network.aunet import AUNet
from uss_bench.plan import check_disk, describe_plan, plan_problems, planned_models
from uss_bench.runtime.errors import InputError
from uss_bench.study.models import training_work
from uss_bench.study.simulation import initial_cases
from uss_bench.study.strategies import named

STRATEGIES = named(["all"])
CPU = torch.device("cpu")


SMALL = [
    "query.initial_volumes=1", "query.iterations=2", "query.volumes_per_iteration=1",
    "inference.samples=3", "network.widths=4,8",
    "network.flat_levels=1", "training.patch=4,24,24", "training.batch_size=2", "training.decay=0",
    "training.max_epochs=30",
    "training.max_steps=20", "training.converged_max_steps=40",
]  # fmt: skip


def settings(*overrides):
    """One initial volume, two iterations of one volume each."""
    return config.resolve("smoke", [*SMALL, *overrides])


def make_cases(pool=3, val=1, test=1):
    """Cases whose files are phantoms, which may be missing."""
    ids = [
        (split, f"{split}-{number}")
        for split, count in (("pool", pool), ("val", val), ("test", test))
        for number in range(count)
    ]
    extra = {"phantom": "normal"}
    return [
        Case(case_id, "site", split, Path("ct.nii.gz"), Path("liver.nii.gz"), case_id, extra=extra)
        for split, case_id in ids
    ]


def test_a_plan_that_needs_every_case_is_accepted():
    assert plan_problems(settings(), make_cases(pool=3), STRATEGIES) == []


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_split_needs_a_case(split):
    assert plan_problems(settings(), make_cases(**{split: 0}), STRATEGIES) == [
        f"no {split} case; mark at least one row with split {split}"
    ]


def test_volumes_run_out():
    (line,) = plan_problems(settings(), make_cases(pool=2), STRATEGIES)
    assert line.startswith("3 pool cases are needed (initial and 2 iterations) and 2 are there; ")
    assert "query.volumes_per_iteration" in line
    (line,) = plan_problems(settings("query.volumes_per_iteration=2"), make_cases(pool=4), named(["RVS"]))
    assert line.startswith("5 pool cases are needed")


@pytest.mark.parametrize("strategy", ["USS", "RSS"])
def test_slices_need_no_further_volumes(strategy):
    enough = settings("query.slices_per_iteration=5")
    assert plan_problems(enough, make_cases(pool=1), named([strategy])) == []
    assert plan_problems(
        settings("query.slices_per_iteration=5", "query.initial_volumes=2"),
        make_cases(pool=1),
        named([strategy]),
    )


def test_marked_volumes_count_instead_of_the_setting():
    cases = make_cases(pool=4)
    marked = [replace(case, initial=number < 2) for number, case in enumerate(cases)]
    assert plan_problems(settings(), marked, STRATEGIES) == []  # 2 marked and 2 added
    (line,) = plan_problems(
        settings(), [replace(case, initial=number < 3) for number, case in enumerate(cases)], STRATEGIES
    )
    assert line.startswith("5 pool cases are needed")
    assert plan_problems(settings("query.initial_volumes=4"), marked, STRATEGIES) == []


def test_cases_marked_with_0_are_not_drawn_as_initial():
    cases = [
        replace(case, initial=False if case.case_id in ("pool-0", "pool-1", "pool-2") else None)
        for case in make_cases(pool=4)
    ]
    assert plan_problems(settings(), cases, STRATEGIES) == []
    (line,) = plan_problems(settings("query.initial_volumes=2"), cases, STRATEGIES)
    assert line == "2 initial volumes are needed and 1 pool cases may be initial; clear the column `initial`"
    pool = [case for case in cases if case.split == "pool"]
    assert {tuple(initial_cases(pool, 1, seed)) for seed in range(20)} == {("pool-3",)}


@pytest.mark.parametrize("strategies", [("USS",), ("RSS",), ("USS", "RSS"), ("RVS", "RSS")])
def test_slice_strategies_need_a_number_of_slices(strategies):
    (line,) = plan_problems(settings(), make_cases(), named(strategies))
    assert "add UVS to --strategy" in line and "query.slices_per_iteration=N" in line
    assert plan_problems(settings("query.slices_per_iteration=5"), make_cases(), named(strategies)) == []
    assert plan_problems(settings(), make_cases(), named(["UVS", *strategies])) == []


def test_all_problems_are_listed():
    case = replace(make_cases()[0], initial=False)
    lines = plan_problems(settings("query.initial_volumes=2"), [case], named(["USS"]))
    starts = [
        "no val case",
        "no test case",
        "2 pool cases",
        "2 initial volumes",
        "USS: the number of slices follows from UVS",
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


def test_no_cases_at_all():
    lines = plan_problems(settings(), [], named(["UVS"]))
    assert lines[:3] == [
        f"no {split} case; mark at least one row with split {split}" for split in ("pool", "val", "test")
    ]


def test_models_of_the_papers_plan():
    """Initial and data pool model, a twin, and per strategy five iterations and a converged one."""
    assert len(planned_models(config.resolve("paper"), STRATEGIES)) == 27
    assert len(planned_models(config.resolve("paper"), named(["USS"]))) == 9
    assert len(planned_models(config.resolve("paper", ["query.twins=0"]), STRATEGIES)) == 26
    assert len(planned_models(settings(), STRATEGIES)) == 14


def test_trainings_weigh_their_limits_of_steps():
    study = config.resolve("study").training
    assert [training_work(study, converges) for converges in (False, True)] == [1000, 4000]
    paper = config.resolve("paper").training
    assert [training_work(paper, converges) for converges in (False, True)] == [1, 1]
    for limit in ("max_steps", "converged_max_steps"):  # one without a limit: all weigh the same
        assert training_work(replace(paper, **{limit: 9}), True) == 1


@pytest.fixture
def small_cases(nifti_case):
    """Four pool, one validation and two test cases.

    Each has 10 x 20 x 20 voxels of 4 x 2 x 2 mm: 10 x 10 x 10 at 4 mm.
    """
    image, label = np.zeros((10, 20, 20), np.int16), np.zeros((10, 20, 20))
    splits = ["pool"] * 4 + ["val"] + ["test"] * 2
    return [
        replace(nifti_case(image, label, (4, 2, 2), f"{split}-{n}"), split=split)
        for n, split in enumerate(splits)
    ]


GRID = ("data.spacing=4,4,4",)


def lines_of(text):
    return {line[:12].strip(): line[12:] for line in text.splitlines()}


def test_counts_of_a_small_plan(small_cases, tmp_path):
    lines = lines_of(
        describe_plan(settings(*GRID), small_cases, STRATEGIES, CPU, tmp_path / "runs" / "later")
    )
    assert list(lines) == [
        "cases",
        "initial",
        "strategies",
        "models",
        "training",
        "slices",
        "MC dropout",
        "evaluation",
        "disk",
        "time",
    ]
    assert lines["cases"] == "4 pool, 1 val, 2 test"
    pool = [case for case in small_cases if case.split == "pool"]
    assert lines["initial"] == ", ".join(initial_cases(pool, 1, seed=0))
    assert lines["strategies"] == "UVS, RVS, USS, RSS, 2 iterations"
    assert lines["models"] == "14: 9 of up to 20 steps, 5 of up to 40"
    assert lines["training"] == "about 380 steps in all"  # 9 models of 20 and 5 of 40
    assert lines["slices"] == "40 in the pool; USS and RSS: as many as follow from UVS"
    # The pool under the initial model and the first ones of UVS and USS.
    assert lines["MC dropout"] == "up to 12 volumes of 3 passes, 36 in all"
    assert lines["evaluation"] == "28 cases"
    # Of each of 7 cases, 1000 voxels of image (2 bytes) and label (1 byte), and 4000 of the reference in
    # bits: 3500 bytes. Weights of 4 bytes: units of 44 + 152 in level 1, 512 + 800 in level 2, 136 up, 296 +
    # 152 in level 1 again, the last layer's 10. One worker's checkpoint holds them four times.
    assert lines["disk"].startswith(
        "cache 24 kB, models 118 kB, checkpoints 34 kB ("
    )  # 24.5, rounded half to even
    assert lines["time"].endswith("on cpu, from a few timed steps")
    assert not (tmp_path / "runs").exists()


def test_the_estimate_by_hand(monkeypatch):
    """Seconds a voxel: a step takes 3, an encoder pass 1, a decoder pass 2; all cases are of one size."""
    monkeypatch.setattr(cost, "_rates", lambda *_: (3.0, 1.0, 2.0))
    chosen = settings(*GRID)
    network = AUNet(**vars(chosen.network))
    batch, whole = (
        math.prod(network.input_size(network.output_size(size)))
        for size in (chosen.training.patch, (10, 10, 10))
    )
    by_split = {split: [(10, 10, 10)] * count for split, count in (("pool", 4), ("val", 1), ("test", 2))}
    found = cost.estimate(chosen, by_split, models=14, converged=5, mc_volumes=12, device=CPU)
    validations = 380 / chosen.training.validate_every
    assert validations > 14 and (found.steps, found.total_steps) == (20, 380)
    assert found.seconds == pytest.approx(
        380 * chosen.training.batch_size * batch * 3
        + (28 + validations) * whole * (1 + 2)
        + 12 * whole * (1 + 3 * 2)  # three samples
    )


@pytest.mark.parametrize(
    ("strategies", "scored", "slices"),
    [
        (("UVS",), 8, "40 in the pool"),
        (("RVS", "RSS"), 0, "40 in the pool; RSS: 7 per iteration"),
        (("RVS", "USS"), 8, "40 in the pool; USS: 7 per iteration"),
    ],
)
def test_volumes_scored_and_slices_queried_by_strategy(small_cases, tmp_path, strategies, scored, slices):
    lines = lines_of(
        describe_plan(
            settings(*GRID, "query.slices_per_iteration=7"), small_cases, named(strategies), CPU, tmp_path
        )
    )
    assert lines["MC dropout"] == f"up to {scored} volumes of 3 passes, {3 * scored} in all"
    assert lines["slices"] == slices
    assert lines["strategies"] == f"{', '.join(strategies)}, 2 iterations"


def test_steps_follow_from_the_epochs(small_cases, tmp_path):
    """Three annotated volumes in batches of two patches.

    A volume of 10 x 10 x 10 takes as many patches as its slices need.
    """
    plan_of = settings(*GRID, "training.max_epochs=2", "training.max_steps=1000")
    depth = AUNet(plan_of.network.widths, plan_of.network.flat_levels).output_size(plan_of.training.patch)[0]
    steps = 2 * math.ceil(10 / depth) * 3 // 2
    assert (
        lines_of(describe_plan(plan_of, small_cases, STRATEGIES, CPU, tmp_path))["models"]
        == f"14: 9 of up to {steps} steps, 5 of up to 40"
    )


def test_training_without_a_limit_is_said_to_be_unforeseen(small_cases, tmp_path):
    lines = lines_of(
        describe_plan(
            settings(*GRID, "training.converged_max_steps=None"), small_cases, STRATEGIES, CPU, tmp_path
        )
    )
    assert "; 5 models train until convergence" in lines["training"]
    assert lines["models"].endswith(", 5 until they converge")


@pytest.fixture
def disk(monkeypatch):
    """A disk whose free bytes can be set, and which keeps the folders that were asked for."""
    disk = SimpleNamespace(free=0, asked=[])

    def usage(path):
        disk.asked.append(path)
        return disk

    monkeypatch.setattr(plan.shutil, "disk_usage", usage)
    return disk


def test_a_small_disk_is_refused(small_cases, tmp_path, disk):
    """Seven entries of 3500 bytes are needed."""
    later = tmp_path / "runs" / "later"
    disk.free = 24_499
    with pytest.raises(
        InputError,
        match=r"later.cache: 24 kB more are needed and 24 kB are free; "
        r"choose a folder on a larger disk with --runs$",
    ):
        check_disk(small_cases, (4.0, 4.0, 4.0), later / "cache")
    assert disk.asked == [tmp_path]  # the nearest folder there is
    disk.free = 24_500
    assert lines_of(describe_plan(settings(*GRID), small_cases, STRATEGIES, CPU, later))["disk"].endswith(
        "(24 kB free)"
    )
    assert not later.parent.exists()


def test_entries_that_are_there_need_no_room(small_cases, tmp_path, disk):
    cache, grid = tmp_path / "cache", (4.0, 4.0, 4.0)
    for case in small_cases[:3]:  # which are alike, and so one entry
        load_volume(case, grid, cache)
    check_disk(small_cases, grid, cache)
    other = replace(small_cases[0], case_id="other", label_values=(1,))
    disk.free = 3499
    with pytest.raises(InputError, match="4 kB more are needed and 3 kB are free"):
        check_disk([*small_cases, other], grid, cache)
    disk.free = 3500
    check_disk([*small_cases, other], grid, cache)


def test_cases_that_come_to_nothing_or_are_made_later_need_no_room(small_cases, tmp_path, disk):
    phantom = replace(small_cases[1], image=tmp_path / "later.nii.gz", extra={"phantom": "normal"})
    small_cases[0].image.write_bytes(b"")
    check_disk([small_cases[0], phantom], (4.0, 4.0, 4.0), tmp_path / "cache")


def test_a_relative_folder_that_is_not_there_yet(small_cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert " free)" in describe_plan(settings(*GRID), small_cases, STRATEGIES, CPU, Path("runs"))


def test_the_manifests_spacing_overrides_the_header(small_cases, tmp_path):
    """8 mm for 4 mm between slices doubles the grid: 6000 bytes and 500."""
    cases = [replace(case, spacing=(8.0, 2.0, 2.0)) for case in small_cases]
    assert lines_of(describe_plan(settings(*GRID), cases, STRATEGIES, CPU, tmp_path))["disk"].startswith(
        "cache 46 kB,"
    )  # 45.5


def test_phantoms_are_counted_and_not_made(small_cases, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "phantom_grid", lambda *arguments: ((10, 20, 20), (4.0, 2.0, 2.0)))
    phantom = replace(small_cases[0], image=tmp_path / "later.nii.gz", extra={"phantom": "normal"})
    lines = lines_of(describe_plan(settings(*GRID), [phantom, *small_cases[1:]], STRATEGIES, CPU, tmp_path))
    assert lines["cases"] == "4 pool, 1 val, 2 test (1 phantoms to be made)"
    assert lines["disk"].startswith("cache 24 kB,")
    assert not phantom.image.exists()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2_500_000, "2 MB"), (7e10, "70 GB"), (1.25e12, "1.2 TB")],
)
def test_sizes(count, text):
    assert plan.size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(20, "0 minutes"), (600, "10 minutes"), (5399, "90 minutes"), (5400, "1.5 hours")]
)
def test_durations(seconds, text):
    assert plan._duration(seconds) == text
