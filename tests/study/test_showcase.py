"""The slices behind Figures 2, 4 and 5: choices by hand, and a whole small simulation.

Its arrays must agree with its stages.
"""

import zipfile
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from uss_bench import config
from uss_bench.data.manifest import Case
from uss_bench.data.volumes import load_volume
from uss_bench.runtime.progress import Progress
from uss_bench.runtime.storage import read_json
from uss_bench.study import showcase
from uss_bench.study.rules import slice_candidates
from uss_bench.study.simulation import Simulation
from uss_bench.study.strategies import named

SMALL = [
    "data.spacing=4.0,4.0,4.0", "training.max_steps=2", "training.converged_max_steps=2",
    "training.validate_every=1",
    "query.iterations=1", "query.slices_per_iteration=6", "query.min_distance_mm=8", "network.widths=2,3",
]  # fmt: skip


def make_case(folder, case_id, split, seed):
    """A noisy body with a bright ellipsoid as liver, 16 x 24 x 32 voxels of 5 x 4 x 4 mm."""
    z, y, x = np.mgrid[:16, :24, :32]
    body = (y - 12) ** 2 / 100 + (x - 16) ** 2 / 196 < 1
    liver = ((z - 8) / 5) ** 2 + ((y - 13) / 5) ** 2 + ((x - 20) / 6) ** 2 < 1
    hu = (
        np.where(liver, 120, np.where(body, 30, -1000))
        + np.random.default_rng(seed).normal(0, 20, body.shape) * body
    )
    paths = [folder / f"{case_id}-{name}.nii.gz" for name in ("ct", "liver")]
    for path, values in zip(paths, (hu.astype(np.int16), liver.astype(np.uint8)), strict=True):
        nib.save(nib.Nifti1Image(values.transpose(2, 1, 0), np.diag([4.0, 4.0, 5.0, 1.0])), path)
    return Case(case_id, "site", split, *paths, patient_id=case_id)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished simulation of USS and RSS and its records."""
    folder = tmp_path_factory.mktemp("showcase")
    settings = config.resolve("smoke", SMALL)
    volumes = {"pool": {}, "val": {}, "test": {}}
    for seed, (split, count) in enumerate((("pool", 3), ("val", 1), ("test", 3))):
        for number in range(count):
            case = make_case(folder, f"{split}-{number}", split, 10 * seed + number)
            volumes[split][case.case_id] = load_volume(case, settings.data.spacing, folder / "cache")
    simulation = Simulation(settings, volumes, folder / "run", 0, torch.device("cpu"), Progress(total=6))
    return simulation, simulation.run(named(["USS", "RSS"]))


@pytest.fixture(scope="module")
def arrays(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "slices.npz"
    showcase.write_showcase(*run, path)
    assert path.stat().st_size < 300_000
    with np.load(path) as archive:
        return dict(archive)


def test_three_highest_and_the_lowest_are_shown():
    queries = [["a", z, 1 - z / 10] for z in range(7)]
    assert showcase.chosen_queries(queries) == [0, 1, 2, 6]
    assert [showcase.chosen_queries(queries[:count]) for count in (1, 3, 4)] == [[0], [0, 1, 2], [0, 1, 2, 3]]


def test_cases_by_mean_and_by_range():
    dice = {"UVS": {"a": 0.9, "b": 0.8, "c": 0.2, "d": 0.7}, "USS": {"a": 0.9, "b": 0.6, "c": 0.6, "d": 0.7}}
    assert showcase.chosen_cases(dice) == {
        "best": "a",
        "worst": "c",
        "disagreement": "b",
    }  # c differs most, but is the worst already
    assert showcase.chosen_cases({"USS": dice["USS"]}) == {
        "best": "a",
        "worst": "b",
    }  # of b and c the first; nothing to disagree with
    assert showcase.chosen_cases({"UVS": {"a": 0.9}, "USS": {"a": 0.1}}) == {"best": "a"}


def test_slice_of_most_errors():
    reference = np.zeros((4, 3, 3), bool)
    reference[1:3, 1, 1] = True
    wrong = reference.copy()
    wrong[2] = True
    assert showcase.worst_slice([reference, wrong], reference) == 2


def test_box_around_masks():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 26:30] = True
    assert showcase.box_around([mask, ~mask & False]) == (slice(5, 15), slice(26, 30))
    assert showcase.box_around([mask], margin=0.2) == (slice(3, 17), slice(25, 30))
    assert showcase.box_around([mask & False]) == (slice(0, 20), slice(0, 30))


def test_archives_of_equal_arrays_are_equal(tmp_path):
    for name in "ab":
        showcase.save_arrays(tmp_path / name, {"text": np.array("x"), "turned": np.arange(6).reshape(2, 3).T})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with np.load(tmp_path / "a") as archive:
        assert archive["text"].shape == () and archive["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert {entry.date_time[0] for entry in zipfile.ZipFile(tmp_path / "a").infolist()} == {1980}


def test_profile_is_the_one_that_was_scored(run, arrays):
    simulation, records = run
    case_id = str(arrays["profile_case"])
    scores = read_json(simulation.run_folder / "initial" / "scores.json")["result"]
    (scored,) = (np.array(score["profile"]) for score in scores if score["case_id"] == case_id)
    np.testing.assert_array_equal(arrays["profile"], scored.astype(np.float32))
    first = next(record for record in records if record.key == ("iteration", "USS", 1))
    assert case_id == first.queries[0][0]
    assert arrays["profile_chosen"].tolist() == sorted(z for name, z, _ in first.queries if name == case_id)
    assert (
        set(arrays["profile_chosen"]) <= set(arrays["profile_candidates"]) <= set(slice_candidates(scored, 2))
    )
    np.testing.assert_array_equal(
        arrays["profile_liver"], [simulation.pool[case_id].shows_liver(z) for z in range(len(scored))]
    )


def test_queried_slices_have_the_entropy_of_their_score(run, arrays):
    simulation, records = run
    first = next(record for record in records if record.key == ("iteration", "USS", 1))
    assert arrays["query_count"] == len(first.queries)
    for number, rank in enumerate(arrays["query_rank"]):
        case_id, z, score = first.queries[rank - 1]
        assert (
            arrays["query_case"][number],
            arrays["query_slice"][number],
            arrays["query_score"][number],
        ) == (case_id, z, score)
        volume = simulation.pool[case_id]
        entropy, shape = arrays[f"query_{number}_entropy"].astype(float), volume.shape[1:]
        assert (
            entropy.shape == arrays[f"query_{number}_ct"].shape == arrays[f"query_{number}_probability"].shape
        )
        probability = arrays[f"query_{number}_probability"] / 100
        certain = np.clip(probability, 1e-6, 1 - 1e-6)
        np.testing.assert_allclose(
            entropy, -(certain * np.log(certain) + (1 - certain) * np.log(1 - certain)), atol=0.05
        )
        assert entropy.sum() <= (score + 0.005) * np.prod(
            shape
        )  # the rest of the mean lies in the air that was cut off
        assert arrays[f"query_{number}_reference"].sum() == volume.label[z].sum()


def test_cases_show_what_was_evaluated(run, arrays):
    simulation, records = run
    converged = [record for record in records if record.key.kind == "converged"]
    dice = {
        record.key.strategy: {row["case_id"]: row["DICE"] for row in record.evaluation}
        for record in converged
    }
    assert dict(zip(arrays["case_role"], arrays["case_id"], strict=True)) == showcase.chosen_cases(dice)
    assert arrays["case_models"].tolist() == ["USS", "RSS", "data pool"]
    for number, case_id in enumerate(arrays["case_id"]):
        reference = simulation.volumes["test"][case_id].reference()[arrays["case_slice"][number]]
        assert arrays[f"case_{number}_reference"].sum() == reference.sum()
        predictions = arrays[f"case_{number}_predictions"]
        assert predictions.shape == (3, *arrays[f"case_{number}_reference"].shape)
        hu = (
            nib.load(simulation.volumes["test"][case_id].case.image)
            .get_fdata()
            .transpose(2, 1, 0)[arrays["case_slice"][number]]
        )
        grey = np.rint((np.clip(hu, -150, 250) + 150) / 400 * 255)
        cut = arrays[f"case_{number}_ct"]
        assert (np.lib.stride_tricks.sliding_window_view(grey, cut.shape) == cut).all(axis=(2, 3)).any()


def test_second_time_is_read_and_other_strategies_are_not_mixed_up(run, arrays, tmp_path, monkeypatch):
    simulation, records = run
    showcase.write_showcase(simulation, records, tmp_path / "whole.npz")
    only = [record for record in records if record.key.strategy != "USS"]
    showcase.write_showcase(simulation, only, tmp_path / "rss.npz")
    with np.load(tmp_path / "rss.npz") as archive:
        assert archive["case_models"].tolist() == ["RSS", "data pool"] and "profile" not in archive
    retrained = [replace(record, evaluation=[]) for record in records]  # not what was kept
    monkeypatch.setattr(showcase, "_query_arrays", lambda *_: {"made": np.array(1)})
    monkeypatch.setattr(showcase, "_case_arrays", lambda *_: {})
    showcase.write_showcase(simulation, retrained, tmp_path / "retrained.npz")
    assert np.load(tmp_path / "retrained.npz").files == ["made"]
    showcase.write_showcase(simulation, records, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_large_slices_are_thinned():
    box, step = showcase._thinned((slice(0, 512), slice(10, 400)))
    assert step == 3 and box == (slice(0, 512, 3), slice(10, 400, 3))
