"""The whole workflow on a handful of tiny volumes, with the four strategies."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from builders import write_case
from torch import distributed

from uss_bench import config
from uss_bench.data.volumes import load_volume
from uss_bench.network.aunet import AUNet
from uss_bench.network.inference import MonteCarlo, predict, predict_mc
from uss_bench.network.training import train
from uss_bench.plan import planned_models
from uss_bench.runtime.paths import MODEL
from uss_bench.runtime.progress import Progress
from uss_bench.runtime.seeding import integer_seed
from uss_bench.runtime.storage import read_json
from uss_bench.runtime.team import Team
from uss_bench.study import models as models_room
from uss_bench.study.annotation import Annotations
from uss_bench.study.keys import DATA_POOL, INITIAL, ModelKey
from uss_bench.study.models import Models, training_work
from uss_bench.study.pool import pack_mask, unpack_mask
from uss_bench.study.querying import Querying, in_voxels
from uss_bench.study.records import TrainingSet
from uss_bench.study.simulation import Simulation, initial_cases
from uss_bench.study.strategies import PAPER, named

pytestmark = pytest.mark.whole

SETTINGS = config.resolve(
    "smoke",
    [
        "data.spacing=4,4,4",
        "training.patch=4,16,16",
        "training.max_steps=6",
        "training.converged_max_steps=8",
        "training.validate_every=3",
        "query.min_distance_mm=8",
    ],
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return [
        write_case(folder, number, split)
        for number, split in enumerate(["pool"] * 6 + ["val"] + ["test"] * 2)
    ]


@pytest.fixture
def simulate(cases, tmp_path):
    """Callable that runs a simulation in a folder of its own and returns its records."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # as the program has

    def run(name, strategies, settings=SETTINGS, team=None, change=None, seed=0, progress=None):
        volumes = {split: {} for split in ("pool", "val", "test")}
        for case in cases:
            volumes[case.split][case.case_id] = load_volume(case, settings.data.spacing, tmp_path / "cache")
        if change:
            change(volumes["pool"])
        device = torch.device("cpu")
        progress = progress or Progress(0)
        simulation = Simulation(settings, volumes, tmp_path / name, seed, device, progress, team)
        return simulation.run(named(strategies))

    return run


def by_key(records):
    return {record.key: record for record in records}


def outcome(record):
    return record.queries, record.training, record.evaluation


def test_all_strategies_add_what_they_promise(simulate):
    records = simulate("all", ("UVS", "RVS", "USS", "RSS"))
    assert [record.key.kind for record in records] == ["initial"] + ["iteration"] * 8 + ["converged"] * 4 + [
        "data pool"
    ]
    found = by_key(records)
    initial = found["initial", "", 0]
    liver = [initial.effort["annotated_liver_slices"]] + [
        found["iteration", "UVS", k].effort["annotated_liver_slices"] for k in (1, 2)
    ]
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
            added = {
                name: record.effort[name] - before.effort[name]
                for name in ("annotated_slices", "annotated_liver_slices")
            }
            assert (
                len({(case_id, z) for case_id, z, _ in record.queries})
                == len(record.queries)
                == added["annotated_slices"]
            )
            assert added["annotated_slices" if strategy == "USS" else "annotated_liver_slices"] == slices
            before = record
    for strategy in PAPER:
        last, final = (found[kind, strategy, 2] for kind in ("iteration", "converged"))
        assert final.annotations.as_dict() == last.annotations.as_dict() and final.effort == last.effort
    assert found["data pool", "", None].effort == {
        "annotated_slices": 120,
        "annotated_liver_slices": liver_slices(simulate),
        "unique_patients": 3,
    }


def test_as_many_volumes_are_annotated_as_the_settings_say(simulate):
    numbers = {"query.initial_volumes": 2, "query.volumes_per_iteration": 2, "query.iterations": 2}
    found = by_key(simulate("two", ("RVS",), config.resolve("smoke", flat(OVERRIDES | numbers))))
    keys = [INITIAL, ModelKey.of_iteration("RVS", 1), ModelKey.of_iteration("RVS", 2)]
    assert [found[key].effort["annotated_slices"] for key in keys] == [40, 80, 120]
    assert [len(found[key].queries) for key in keys] == [0, 2, 2]


def test_the_seed_reaches_every_draw(simulate, monkeypatch):
    """Of batches, Monte Carlo masks and queries, where all else is the same."""
    named_by, masks = [], []

    def seen_train(model, sampler, validate, settings, name, *arguments):
        named_by.append(name["seed"])
        return train(model, sampler, validate, settings, name, *arguments)

    def seen_mc(model, image, samples, seed, *arguments):
        masks.append((samples, seed))
        return predict_mc(model, image, samples, seed, *arguments)

    monkeypatch.setattr(Simulation, "initial_annotations", lambda self: self._whole(["case-3"]))
    monkeypatch.setattr(models_room, "train", seen_train)
    monkeypatch.setattr(models_room, "predict_mc", seen_mc)
    settings = config.resolve("smoke", [*flat(OVERRIDES), "query.slices_per_iteration=3"])
    found = [by_key(simulate(f"seed-{seed}", ("USS", "RSS"), settings, seed=seed)) for seed in (5, 6)]
    assert set(named_by) == {5, 6}
    expected = {integer_seed(s, purpose="mc dropout", case=f"case-{n}") for s in (5, 6) for n in range(6)}
    assert {seed for _, seed in masks} <= expected and {samples for samples, _ in masks} == {3}
    asked = [records["iteration", "RSS", 1].queries for records in found]
    assert asked[0] != asked[1]


def test_the_seed_draws_weights_and_initial_volumes(cases):
    weights = [
        next(bare_models(SETTINGS, seed)._new_model(INITIAL).parameters()).flatten()[:3].tolist()
        for seed in (0, 1)
    ]
    assert weights[0] != weights[1]
    pool = [case for case in cases if case.split == "pool"]
    assert len({tuple(initial_cases(pool, 2, seed)) for seed in range(20)}) > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    ["training.batch_size=3", "data.window=-100,200", "data.scale=150", "network.dropout=0.5"],
)
def test_a_setting_changes_what_is_trained(simulate, override):
    found = [
        by_key(simulate(name, ("RVS",), config.resolve("smoke", [*flat(OVERRIDES), *further])))
        for name, further in (("as it is", []), ("changed", [override]))
    ]
    assert outcome(found[0][INITIAL]) != outcome(found[1][INITIAL])


def liver_slices(simulate):
    """Slices with liver in the whole pool, counted on the files."""
    total = 0

    def count(pool):
        nonlocal total
        total = sum(
            int(np.any(nib.load(volume.case.label).get_fdata(), axis=(0, 1)).sum())
            for volume in pool.values()
        )
        raise StopIteration

    with pytest.raises(StopIteration):
        simulate("count", (), change=count)
    return total


def test_results_depend_neither_on_the_team_nor_on_the_other_strategies(simulate):
    settings = config.resolve(
        "smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"]
    )
    store = distributed.HashStore()
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        teams = [Team(rank, 3, store) for rank in range(3)]
        of_each = [
            by_key(records)
            for records in pool.map(lambda team: simulate("together", PAPER, settings, team), teams)
        ]
    alone = by_key(simulate("alone", ("USS",), settings))
    for together in of_each:
        assert len(together) == 1 + 4 * 2 + 1
        for key, record in alone.items():
            assert outcome(record) == outcome(together[key])


@pytest.mark.slow
def test_pieces_of_work_are_done_once_by_the_team(simulate, monkeypatch):
    done = []
    for name in ("train", "evaluate", "score", "query"):
        owner = Querying if name == "query" else Models
        work = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda self, *args, work=work: done.append((work.__name__, *args[:2])) or work(self, *args),
        )
    store = distributed.HashStore()
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda rank: simulate("shared", PAPER, team=Team(rank, 2, store)), range(2)))
    done = [str(piece) for piece in done]
    assert len(done) == len(set(done))
    # 14 models on 2 test cases; the initial model and the first of UVS score 5 and 4 pool cases, the first of
    # USS 5; 8 queries.
    counts = {
        name: sum(piece.startswith(f"('{name}'") for piece in done)
        for name in ("train", "evaluate", "score", "query")
    }
    assert counts == {"train": 14, "evaluate": 28, "score": 5 + 4 + 5, "query": 8}


OVERRIDES = {
    "data.spacing": "4,4,4",
    "training.patch": "4,16,16",
    "training.max_steps": 4,
    "training.converged_max_steps": 4,
    "training.validate_every": 2,
    "query.min_distance_mm": 8,
    "query.iterations": 1,
}


@pytest.mark.parametrize(
    "strategy", ["USS", "RSS", *(pytest.param(name, marks=pytest.mark.slow) for name in ("UVS", "RVS"))]
)
def test_labels_that_were_not_annotated_are_never_read(simulate, strategy):
    settings = config.resolve(
        "smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"]
    )
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


def assessments(run_folder):
    return {
        path.relative_to(run_folder).as_posix(): read_json(path)["result"]
        for path in run_folder.rglob("assessment.json")
    }


@pytest.mark.slow
def test_references_are_read_for_the_uncertainties_only_when_all_queries_are_made(
    simulate, tmp_path, monkeypatch
):
    """Until a model is first assessed, all slices that no strategy has annotated show what is not true.

    What was kept of a Monte Carlo pass may be lost or damaged: it is made again.
    """
    settings = config.resolve("smoke", [*flat(OVERRIDES | {"query.iterations": 2})])
    clean = by_key(simulate("clean", PAPER, settings))
    annotated = [record.annotations for key, record in clean.items() if key != DATA_POOL]
    queries = [tmp_path / "late" / name / f"iter-{k}" / "query.json" for name in PAPER for k in (1, 2)]
    true, differ = {}, []

    def poison(pool):
        for case_id, volume in pool.items():
            true[case_id] = volume, np.array(volume.label)
            kept = sorted(frozenset().union(*(each.of(case_id) for each in annotated)))
            label = true[case_id][1].copy()
            label[np.setdiff1d(np.arange(len(label)), kept)] ^= 1
            vars(volume)["label"] = label

    assess = Models.assess

    def late(self, training_set, score):
        assert all(path.exists() for path in queries)
        if not differ:
            wrong = assess(self, training_set, score)
            for volume, label in true.values():
                vars(volume)["label"] = label
            differ.append(wrong != assess(self, training_set, score))
            kept = sorted((tmp_path / "late").rglob("*.mean"))
            kept[0].unlink()
            kept[1].write_bytes(b"damaged")
        return assess(self, training_set, score)

    monkeypatch.setattr(Models, "assess", late)
    found = by_key(simulate("late", PAPER, settings, change=poison))
    assert differ == [True]
    del found[DATA_POOL], clean[DATA_POOL]
    assert {key: outcome(record) for key, record in found.items()} == {
        key: outcome(record) for key, record in clean.items()
    }
    assert assessments(tmp_path / "late") == assessments(tmp_path / "clean")
    assert not list(tmp_path.rglob("*.mean"))


def test_models_that_query_by_uncertainty_are_assessed_once_each(simulate, tmp_path):
    records = by_key(simulate("once", PAPER))
    found = assessments(tmp_path / "once")
    assert sorted(found) == [f"{name}/assessment.json" for name in ("USS/iter-1", "UVS/iter-1", "initial")]
    for name, key in (("initial", INITIAL), ("USS/iter-1", ModelKey.of_iteration("USS", 1))):
        scores = read_json(tmp_path / "once" / name / "scores.json")["result"]
        assert [case["uncertainty"] for case in found[f"{name}/assessment.json"]] == [
            score["profile"] for score in scores
        ]
        annotations = records[key].annotations
        for case in found[f"{name}/assessment.json"]:
            assert len(case["wrong_voxels"]) == 20
            opened = 20 - len(annotations.of(case["case_id"]))
            assert sum(case["calibration"]["voxels"]) == opened * 18 * 18


def test_the_best_state_is_kept_and_evaluated(simulate, cases, tmp_path):
    """Jaccard of validation and DICE of tests, from files of weights and intensities on."""
    settings = replace(SETTINGS, training=replace(SETTINGS.training, validate_every=1, learning_rate=0.1))
    records = simulate("kept", ("RVS",), settings)
    assert any(record.training["best_step"] < record.training["last_step"] for record in records)
    (low, high), scale = SETTINGS.data.window, SETTINGS.data.scale
    for record in records:
        model = AUNet(**vars(SETTINGS.network))
        model.load_state_dict(torch.load(tmp_path / "kept" / record.key.folder / MODEL))
        overlaps = {}
        for case in cases:
            if case.split == "pool":
                continue
            volume = load_volume(case, SETTINGS.data.spacing, tmp_path / "cache")
            image = np.clip(np.asarray(volume.image, np.float32), low, high) / np.float32(scale)
            probability = predict(model, image)
            if case.split == "val":
                found, expected = probability >= 0.5, volume.label > 0
                assert (found & expected).sum() / (found | expected).sum() == record.training["best_jaccard"]
            else:
                found, expected = volume.to_native(probability) >= 0.5, volume.reference()
                overlaps[case.case_id] = 2 * (found & expected).sum() / (found.sum() + expected.sum())
        assert {row["case_id"]: row["DICE"] for row in record.evaluation} == pytest.approx(overlaps)


def test_what_is_done_is_what_the_plan_foresees(simulate):
    strategies = ("UVS", "USS")
    keys = planned_models(SETTINGS, named(strategies))
    work = sum(training_work(SETTINGS.training, key.converges) for key in keys)
    progress = Progress(2 * len(keys), work=work)
    simulate("counted", strategies, progress=progress)
    assert progress.done == progress.total
    assert progress.work_done == progress.work == 5 * 6 + 3 * 8


def test_every_model_is_trained_from_scratch(simulate, cases, tmp_path):
    settings = config.resolve(
        "smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"]
    )
    record = by_key(simulate("chain", ("RSS",), settings))["iteration", "RSS", 1]
    volumes = {split: {} for split in ("pool", "val", "test")}
    for case in cases:
        volumes[case.split][case.case_id] = load_volume(case, settings.data.spacing, tmp_path / "cache")
    bare = Simulation(settings, volumes, tmp_path / "bare", 0, torch.device("cpu"), Progress(0))
    torch.manual_seed(123)  # nothing may come from the global stream
    again = bare.models.train(record.key, record.annotations)
    assert {name: again[name] for name in ("best_step", "last_step", "best_jaccard")} == {
        name: record.training[name] for name in ("best_step", "last_step", "best_jaccard")
    }


def test_initial_column_overrides_the_seed(simulate, cases):
    def mark(pool):
        for case_id, volume in pool.items():
            object.__setattr__(volume.case, "initial", True if case_id == "case-3" else None)

    try:
        settings = config.resolve(
            "smoke",
            [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"],
        )
        records = simulate("marked", ("RSS",), settings, change=mark)
        assert records[0].annotations.as_dict() == {"case-3": list(range(20))}
    finally:
        for case in cases:
            object.__setattr__(case, "initial", None)


def test_finished_stages_are_read_and_not_run(simulate, monkeypatch):
    settings = config.resolve(
        "smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"]
    )
    first = simulate("again", ("USS",), settings)
    for name in ("train", "predict", "predict_mc"):
        monkeypatch.setattr(f"uss_bench.study.models.{name}", None)
    assert [outcome(record) for record in simulate("again", ("USS",), settings)] == [
        outcome(record) for record in first
    ]


def stop_at(monkeypatch, text):
    """Make the run end as a signal would, when it is about to show `text`."""
    now = Progress.now

    def interrupted(self, shown):
        if shown.startswith(text):
            raise KeyboardInterrupt
        now(self, shown)

    monkeypatch.setattr(Progress, "now", interrupted)


@pytest.mark.parametrize(
    "at",
    [
        "RSS iteration 1: training step 2/",
        pytest.param("RSS iteration 1: validation on case-6 after step 4", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_training_continues_from_its_checkpoint(simulate, tmp_path, monkeypatch, at):
    settings = config.resolve(
        "smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"]
    )
    undisturbed = simulate("undisturbed", ("RSS",), settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, at)
        simulate("stopped", ("RSS",), settings)
    checkpoint = tmp_path / "stopped" / "RSS" / "iter-1" / "training.pt"
    assert checkpoint.exists()

    resumed = []
    monkeypatch.setattr(
        "uss_bench.study.models.train",
        lambda *args: resumed.append(args[-1]["step"] if args[-1] else 0) or train(*args),
    )
    continued = simulate("stopped", ("RSS",), settings)
    assert [outcome(record) for record in continued] == [outcome(record) for record in undisturbed]
    assert int(at.rstrip("/")[-1]) in resumed
    assert not checkpoint.exists()
    curves = [tmp_path / name / "RSS" / "iter-1" / "training.csv" for name in ("stopped", "undisturbed")]
    assert curves[0].read_bytes() == curves[1].read_bytes()


@pytest.mark.parametrize("damage", [pytest.param("cut short", marks=pytest.mark.slow), "flipped byte"])
def test_a_damaged_checkpoint_is_set_aside_and_said_so(simulate, tmp_path, monkeypatch, damage):
    settings = config.resolve(
        "smoke", [*(f"{name}={value}" for name, value in OVERRIDES.items()), "query.slices_per_iteration=2"]
    )
    undisturbed = simulate("undisturbed", ("RSS",), settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, "RSS iteration 1: training step 2/")
        simulate("damaged", ("RSS",), settings)
    checkpoint = tmp_path / "damaged" / "RSS" / "iter-1" / "training.pt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 16
    checkpoint.write_bytes(content if damage == "flipped byte" else content[: len(content) // 2])

    said = []
    monkeypatch.setattr(Progress, "say", lambda self, text: said.append(text))
    continued = simulate("damaged", ("RSS",), settings)
    assert [outcome(record) for record in continued] == [outcome(record) for record in undisturbed]
    assert [str(checkpoint) in text and "damaged" in text for text in said if text.startswith("warning")] == [
        True
    ]
    assert checkpoint.with_suffix(".damaged").read_bytes() == (
        content if damage == "flipped byte" else content[: len(content) // 2]
    )


def test_twins_differ_from_the_initial_model_in_weights_and_batches_alone(simulate):
    """Two of them; asked for or not, they change no other model."""
    alone = by_key(simulate("alone", ("RVS",), config.resolve("smoke", flat(OVERRIDES))))
    found = by_key(simulate("twins", ("RVS",), config.resolve("smoke", flat(OVERRIDES | {"query.twins": 2}))))
    twins = [ModelKey.of_twin(number) for number in (1, 2)]
    assert found.keys() - alone.keys() == set(twins)
    assert all(outcome(found[key]) == outcome(record) for key, record in alone.items())
    initial = found[INITIAL]
    assert all(found[twin].annotations.as_dict() == initial.annotations.as_dict() for twin in twins)
    assert len({str(found[key].training["curve"]) for key in (INITIAL, *twins)}) == 3


def flat(overrides):
    return [f"{name}={value}" for name, value in overrides.items()]


def bare_models(settings, seed=0):
    return Models(
        settings, {"pool": {}, "val": {}, "test": {}}, "nowhere", seed, torch.device("cpu"), Progress(0)
    )


def test_scores_of_a_case_by_hand():
    """Reach of 4 mm: a voxel in z and y, two in x, so the one liver voxel grows to 3 x 3 x 5 = 45."""
    models = bare_models(config.resolve("smoke", ["data.spacing=4,4,2", "query.dilation_mm=4,4,4"]))
    mean, entropy = (np.zeros((4, 5, 9), np.float32) for _ in range(2))
    mean[1, 2, 3], mean[3], entropy[2, 3, 5] = 0.5, 0.49, 45
    found = models.scores_of("a", MonteCarlo(mean, entropy, 2 * entropy, 0.75))
    assert (found["volume"], found["disagreement"], found["empty"]) == (1, 0.25, False)
    assert (found["profile"], found["information"]) == ([0, 0, 1, 0], [0, 0, 2, 0])
    assert found["liver"] == [0, 1, 0, 0]
    assert np.argwhere(unpack_mask(found["mask"])).tolist() == [[1, 2, 3]]


def test_validation_is_the_mean_over_its_cases(monkeypatch):
    """Jaccard indices of 0.2 and 0.6."""
    models = bare_models(SETTINGS)
    models.volumes["val"] = {"a": 0.2, "b": 0.6}
    seen = []

    def train(model, sampler, validate, *_):
        _[-2].training = SimpleNamespace(step=1)
        seen.append(validate(model))
        raise StopIteration

    monkeypatch.setattr(models_room, "PatchSampler", lambda *_: None)
    monkeypatch.setattr(models_room, "train", train)
    monkeypatch.setattr(Models, "predict", lambda self, model, volume: None)
    monkeypatch.setattr(models_room, "validation_jaccard", lambda probability, volume: volume)
    with pytest.raises(StopIteration):
        models.train(INITIAL, Annotations())
    assert seen == [pytest.approx(0.4)]


def test_checkpoints_are_three_minutes_apart(monkeypatch, tmp_path):
    """As the README says: none after 180 s, one after 181 s, the next after another 181 s."""
    clock, saved = [1000.0], []
    monkeypatch.setattr(models_room.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(models_room, "save_checkpoint", lambda path, state: saved.append(clock[0] - 1000))
    watch = models_room._Watch(tmp_path, "initial model", Progress(0))
    step = SimpleNamespace(curve=[], limit=None, best_jaccard=None, step=1, loss=0.5, state=dict)
    for seconds in (1, 180, 181, 200, 361, 362, 400):
        clock[0] = 1000.0 + seconds
        watch(step)
    assert saved == [181, 362]


def test_an_oracle_sees_how_many_voxels_of_each_slice_are_wrong():
    label = np.zeros((3, 2, 2), np.uint8)
    label[1] = 1
    predicted = label.astype(bool)
    predicted[2] = True
    querying = Querying(SETTINGS, {"a": SimpleNamespace(shape=label.shape, label=label)}, 0)
    (oracle,) = named(["OSS"])
    pool = querying._pool(oracle, TrainingSet(INITIAL, Annotations()), {"a": {"mask": pack_mask(predicted)}})
    assert pool.cases[0].scores["errors"].tolist() == [0, 0, 4]


def test_all_strategies_begin_with_the_same_weights_and_twins_with_others():
    models = bare_models(SETTINGS)

    def weights(key):
        return torch.cat([value.flatten() for value in models._new_model(key).state_dict().values()])

    shared = [ModelKey.of_iteration("USS", 1), ModelKey.of_converged("RVS", 2), DATA_POOL]
    assert all(torch.equal(weights(INITIAL), weights(key)) for key in shared)
    twins = [weights(ModelKey.of_twin(number)) for number in (1, 2)]
    assert not any(torch.equal(weights(INITIAL), other) for other in twins)
    assert not torch.equal(*twins)


@pytest.mark.parametrize(
    ("spacing", "distance", "reach"),
    [("1.5,1,1", 5, [5, 5, 5]), ("6,6,6", 2, [1, 1, 1]), ("3,2,2", 3, [2, 2, 2]), ("20,20,20", 1, [1, 1, 1])],
)
def test_lengths_in_mm_are_the_papers_voxels_on_its_grid(spacing, distance, reach):
    """5 slices, and a cube of 11 voxels; elsewhere distances are rounded up, reaches to the nearest (2.5 to
    the even 2), at least one voxel."""
    settings = config.resolve("paper", [f"data.spacing={spacing}"])
    assert Querying(settings, {}, 0).min_distance == distance
    assert in_voxels(settings.query.dilation_mm, settings.data.spacing) == reach


def test_slices_that_lie_near_annotated_ones_are_counted():
    """On a grid of 4 mm: 7.5 mm reach to the next slice and not to the one after."""
    settings = config.resolve("paper", ["data.spacing=4,1,1"])
    annotations = Annotations({"a": [10]})
    queries = [("a", 9, 1.0), ("a", 11, 1.0), ("a", 12, 1.0), ("b", 10, 1.0)]
    assert Querying(settings, {}, 0)._near(queries, annotations) == 2
    # On the paper's grid, five slices are 7.5 mm, which is no nearer than that.
    queries = [("a", 14, 1.0), ("a", 15, 1.0)]
    assert Querying(config.resolve("paper"), {}, 0)._near(queries, annotations) == 1
    # 3 x 2.4 is less than 7.2 in floating point.
    settings = config.resolve("paper", ["data.spacing=2.4,1,1", "query.min_distance_mm=7.2"])
    queries = [("a", 12, 1.0), ("a", 13, 1.0)]
    assert Querying(settings, {}, 0)._near(queries, annotations) == 1
