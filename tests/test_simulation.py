"""The whole workflow on a handful of tiny volumes, with the four strategies."""

from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch

from uss_bench import config
from uss_bench.manifest import Case
from uss_bench.progress import Progress
from uss_bench.simulation import Simulation
from uss_bench.volumes import load_volume

SETTINGS = config.resolve(
    "smoke",
    [
        "data.spacing=4,4,4",
        "training.patch=4,16,16",
        "training.max_steps=6",
        "training.converged_max_steps=8",
        "training.validate_every=3",
        "query.min_distance=2",
    ],
)


def write_case(folder, number, split):
    """A bright ellipsoid of liver in noise, another for every number."""
    rng = np.random.default_rng(number)
    z, y, x = np.mgrid[:20, :18, :18]
    centre, radii = rng.uniform(7, 11, 3), rng.uniform(4, 6, 3)
    liver = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True)) < 1
    hu = np.where(liver, 100, -50) + rng.normal(0, 20, liver.shape)
    case = Case(f"case-{number}", "site", split, folder / f"{number}.nii.gz", folder / f"{number}_liver.nii.gz", f"patient-{number // 2}")
    for path, array in ((case.image, hu.astype(np.int16)), (case.label, liver.astype(np.uint8))):
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([4.0, 4.0, 4.0, 1.0])), path)
    return case


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return [write_case(folder, number, split) for number, split in enumerate(["pool"] * 6 + ["val"] + ["test"] * 2)]


@pytest.fixture
def simulate(cases, tmp_path):
    """Callable that runs a simulation in a folder of its own and returns its records."""
    torch.use_deterministic_algorithms(True)

    def run(name, strategies, settings=SETTINGS, workers=1, change=None):
        volumes = {split: {} for split in ("pool", "val", "test")}
        for case in cases:
            volumes[case.split][case.case_id] = load_volume(case, settings.data.spacing, tmp_path / "cache")
        if change:
            change(volumes["pool"])
        return Simulation(settings, volumes, tmp_path / name, 0, torch.device("cpu"), Progress(0), workers).run(strategies)

    return run


def by_key(records):
    return {(record.model, record.strategy, record.iteration): record for record in records}


def outcome(record):
    return record.queries, record.training, record.evaluation


def test_all_strategies_add_what_they_promise(simulate):
    records = simulate("all", ("UVS", "RVS", "USS", "RSS"))
    assert [record.model for record in records] == ["initial"] + ["iteration"] * 8 + ["converged"] * 4 + ["data pool"]
    found = by_key(records)
    initial = found["initial", "", 0]
    liver = [initial.effort["annotated_liver_slices"]] + [found["iteration", "UVS", k].effort["annotated_liver_slices"] for k in (1, 2)]
    slices = round((liver[2] - liver[0]) / 2 / 3)

    for strategy in ("UVS", "RVS"):
        before = initial
        for iteration in (1, 2):
            record = found["iteration", strategy, iteration]
            assert len(record.queries) == 1 and record.queries[0][1] is None
            assert record.effort["annotated_slices"] - before.effort["annotated_slices"] == 20
            before = record
    for strategy in ("USS", "RSS"):
        before = initial
        for iteration in (1, 2):
            record = found["iteration", strategy, iteration]
            added = {name: record.effort[name] - before.effort[name] for name in ("annotated_slices", "annotated_liver_slices")}
            assert len({(case_id, z) for case_id, z, _ in record.queries}) == len(record.queries) == added["annotated_slices"]
            assert added["annotated_slices" if strategy == "USS" else "annotated_liver_slices"] == slices
            before = record
    assert found["data pool", "", None].effort == {
        "annotated_slices": 120,
        "annotated_liver_slices": liver_slices(simulate),
        "unique_patients": 3,
    }


def liver_slices(simulate):
    """Slices with liver in the whole pool, counted on the files."""
    total = 0

    def count(pool):
        nonlocal total
        total = sum(int(np.any(nib.load(volume.case.label).get_fdata(), axis=(0, 1)).sum()) for volume in pool.values())
        raise StopIteration

    with pytest.raises(StopIteration):
        simulate("count", (), change=count)
    return total


def test_results_depend_neither_on_the_number_of_workers_nor_on_the_other_strategies(simulate):
    settings = config.resolve("smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"])
    together = by_key(simulate("together", ("UVS", "RVS", "USS", "RSS"), settings, workers=3))
    alone = by_key(simulate("alone", ("USS",), settings))
    for key, record in alone.items():
        assert outcome(record) == outcome(together[key])


OVERRIDES = {
    "data.spacing": "4,4,4",
    "training.patch": "4,16,16",
    "training.max_steps": 4,
    "training.converged_max_steps": 4,
    "training.validate_every": 2,
    "query.min_distance": 2,
    "query.iterations": 1,
}


@pytest.mark.parametrize("strategy", ["UVS", "RVS", "USS", "RSS"])
def test_labels_that_were_not_annotated_are_never_read(simulate, strategy):
    settings = config.resolve("smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"])
    clean = by_key(simulate("clean", (strategy,), settings))
    annotated = clean["iteration", strategy, 1].annotations

    def poison(pool):
        for case_id, volume in pool.items():
            label = np.array(volume.label)
            kept = sorted(annotated.of(case_id))
            label[np.setdiff1d(np.arange(len(label)), kept)] ^= 1
            vars(volume)["label"] = label

    poisoned = by_key(simulate("poisoned", (strategy,), settings, change=poison))
    for key in (("initial", "", 0), ("iteration", strategy, 1), ("converged", strategy, 1)):
        assert outcome(poisoned[key]) == outcome(clean[key])
    # The poison does reach a model that reads all labels.
    assert outcome(poisoned["data pool", "", None]) != outcome(clean["data pool", "", None])


def test_every_model_is_trained_from_scratch(simulate, cases, tmp_path):
    settings = config.resolve("smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"])
    record = by_key(simulate("chain", ("RSS",), settings))["iteration", "RSS", 1]
    volumes = {split: {} for split in ("pool", "val", "test")}
    for case in cases:
        volumes[case.split][case.case_id] = load_volume(case, settings.data.spacing, tmp_path / "cache")
    bare = Simulation(settings, volumes, tmp_path / "bare", 0, torch.device("cpu"), Progress(0))
    torch.manual_seed(123)  # nothing may come from the global stream
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:  # one thread, as the workers have
        again = pool.submit(bare._train, ("iteration", "RSS", 1), record.annotations).result()
    assert {name: again[name] for name in ("best_step", "last_step", "best_jaccard")} == {
        name: record.training[name] for name in ("best_step", "last_step", "best_jaccard")
    }


def test_initial_column_overrides_the_seed(simulate, cases):
    def mark(pool):
        for case_id, volume in pool.items():
            object.__setattr__(volume.case, "initial", True if case_id == "case-3" else None)

    try:
        settings = config.resolve("smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"])
        records = simulate("marked", ("RSS",), settings, change=mark)
        assert records[0].annotations.as_dict() == {"case-3": list(range(20))}
    finally:
        for case in cases:
            object.__setattr__(case, "initial", None)


def test_finished_stages_are_read_and_not_run(simulate, monkeypatch):
    settings = config.resolve("smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"])
    first = simulate("again", ("USS",), settings)
    monkeypatch.setattr("uss_bench.simulation.train", None)
    monkeypatch.setattr("uss_bench.simulation.predict_mc", None)
    assert [outcome(record) for record in simulate("again", ("USS",), settings)] == [outcome(record) for record in first]


def test_a_failure_in_one_worker_ends_the_others_and_is_the_one_raised(simulate, monkeypatch):
    train = Simulation._train

    def fail_in_the_data_pool(self, key, annotations):
        if key[0] == "data pool":
            raise FloatingPointError("step 3")
        return train(self, key, annotations)

    monkeypatch.setattr(Simulation, "_train", fail_in_the_data_pool)
    finished = []
    monkeypatch.setattr("uss_bench.simulation.evaluate_case", lambda *_: finished.append(1) or {"DICE": 0.0})
    with pytest.raises(FloatingPointError, match="step 3"):
        simulate("failing", ("UVS", "RVS", "USS", "RSS"), workers=2)
    assert len(finished) <= 2 * 3  # the model in the making and hardly another one; 13 models were to come
