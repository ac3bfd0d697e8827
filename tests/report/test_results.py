"""Result files written from records made by hand, and read back."""

import math
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from uss_bench import config
from uss_bench.data.manifest import Case
from uss_bench.report.result_files import write_results
from uss_bench.report.results import read_results
from uss_bench.runtime import paths, storage
from uss_bench.runtime.errors import InputError
from uss_bench.study.annotation import Annotations
from uss_bench.study.keys import ModelKey
from uss_bench.study.metrics import segmentation_metrics
from uss_bench.study.simulation import ModelRecord

MADE_UP = Path(__file__).parent / "data" / "report" / "results"
FILES = ("cases", "annotation", "queries", "training", "volumes", "timing")

SETTINGS = config.resolve("smoke", ["query.iterations=3"])


def record(kind, strategy, iteration, dice, queries=(), effort=(40, 16, 2)):
    """A model with the DICE of two cases; a DICE of 0 is a missed liver."""
    evaluation = [
        {"case_id": case_id, "DICE": value, "RVE": 5.0, "MSD": 1 / 3, "HD": 12.5}
        | {"HD95": 6.5, "NSD": 0.75, "missed": False}
        if value
        else {"case_id": case_id, "DICE": 0.0, "RVE": 100.0, "MSD": math.inf, "HD": math.inf}
        | {"HD95": math.inf, "NSD": 0.0, "missed": True}
        for case_id, value in zip(("t1", "t2"), dice, strict=True)
    ]
    return ModelRecord(
        ModelKey(kind, strategy, iteration),
        Annotations(),
        queries,
        ["a note"],
        effort=dict(
            zip(("annotated_slices", "annotated_liver_slices", "unique_patients"), effort, strict=True)
        ),
        training={"best_step": 80, "last_step": 160, "best_jaccard": 0.7123456789},
        evaluation=evaluation,
    )


def make_records():
    return [
        record("initial", "", 0, (0.8, 0.7)),
        record("iteration", "UVS", 1, (0.9, 0.85), [("p2", None, 0.2148731)], (60, 25, 3)),
        record("iteration", "RSS", 1, (0.0, 0.9), [("p1", 0, None), ("p2", 17, None)], (42, 17, 3)),
        record("converged", "UVS", 1, (0.91, 0.86), effort=(60, 25, 3)),
        record("converged", "RSS", 1, (0.925, 0.875), effort=(42, 17, 3)),
        record("data pool", "", None, (0.95, 0.94), effort=(120, 50, 6)),
    ]


def make_volumes():
    """t1 measures 30 mm x 40 mm x 120 mm: a diagonal of 130 mm."""

    def volume(case_id, split, spacing, shape, **extra):
        files = Path("image"), Path("label")
        case = Case(case_id, f"site-{case_id[1]}", split, *files, f"patient-{case_id}", extra=extra)
        return SimpleNamespace(
            case=case,
            native_spacing=spacing,
            native_shape=shape,
            image_digest="ab" * 32,
            label_digest="cd" * 32,
        )

    split = {"pool": ["p1", "p2"], "val": ["v1"], "test": ["t1", "t2"]}
    volumes = {
        name: {case_id: volume(case_id, name, (5.0, 2.0, 1.5), (6, 20, 80)) for case_id in ids}
        for name, ids in split.items()
    }
    volumes["test"]["t2"] = volume("t2", "test", (1.25, 0.7, 0.7), (64, 512, 512), phantom="cysts", age="7")
    return volumes


def write(folder, seconds=1.25):
    def spent(key):
        return {"query": 0.0, "training": seconds, "evaluation": 0.5}

    write_results(folder, make_records(), make_volumes(), 3, spent)
    storage.write_json(folder / paths.PROVENANCE, {"seed": 3, "notes": []})
    return folder


def lines_of(folder, name):
    return (folder / "results" / f"{name}.csv").read_text(encoding="utf-8").splitlines()


def test_files_by_hand(tmp_path):
    write(tmp_path)
    cases = lines_of(tmp_path, "cases")
    assert cases[0] == "model,strategy,iteration,seed,case_id,site,DICE,RVE,MSD,HD,HD95,NSD,missed"
    assert len(cases) == 1 + 6 * 2
    assert cases[1] == "initial,,0,3,t1,site-1,0.8,5,0.333333,12.5,6.5,0.75,0"
    assert cases[5] == "iteration,RSS,1,3,t1,site-1,0,100,inf,inf,inf,0,1"
    assert cases[12] == "data pool,,,3,t2,site-2,0.94,5,0.333333,12.5,6.5,0.75,0"
    assert lines_of(tmp_path, "annotation") == [
        "strategy,iteration,annotated_slices,annotated_liver_slices,unique_patients",
        *(",0,40,16,2", "UVS,1,60,25,3", "RSS,1,42,17,3", "data pool,,120,50,6"),
    ]
    assert lines_of(tmp_path, "queries") == [
        "strategy,iteration,case_id,slice,score",
        *("UVS,1,p2,,0.214873", "RSS,1,p1,0,", "RSS,1,p2,17,"),
    ]
    training = lines_of(tmp_path, "training")
    assert training[0] == "model,strategy,iteration,best_step,last_step,best_jaccard"
    assert [training[1], training[4], training[-1]] == [
        "initial,,0,80,160,0.712346", "converged,UVS,1,80,160,0.712346", "data pool,,,80,160,0.712346"
    ]  # fmt: skip
    volumes = lines_of(tmp_path, "volumes")
    assert volumes[0] == (
        "case_id,site,split,patient_id,spacing_z,spacing_y,spacing_x,size_z,size_y,size_x,"
        "image_sha256,label_sha256,variant"
    )  # fmt: skip
    assert [line.split(",")[0] for line in volumes[1:]] == ["p1", "p2", "v1", "t1", "t2"]
    assert volumes[5] == f"t2,site-2,test,patient-t2,1.25,0.7,0.7,64,512,512,{'ab' * 32},{'cd' * 32},cysts"
    assert volumes[1].endswith(f"{'cd' * 32},")
    timing = lines_of(tmp_path, "timing")
    assert timing[:3] == [
        "model,strategy,iteration,stage,seconds",
        "initial,,0,query,0",
        "initial,,0,training,1.25",
    ]
    assert len(timing) == 1 + 6 * 3


def test_reading_gives_back_what_was_written(tmp_path):
    found = read_results(write(tmp_path))
    records = make_records()
    assert list(found.scores) == [record.key for record in records]
    assert (found.cases, found.sites) == (["t1", "t2"], ["site-1", "site-2"])
    assert found.variants == ["", "cysts"]
    assert (found.strategies, list(found.iterations)) == (["UVS", "RSS"], [1])
    for record in records:
        key = record.key
        for metric in ("DICE", "RVE", "MSD", "HD"):
            expected = [130.0 if math.isinf(row[metric]) else row[metric] for row in record.evaluation]
            np.testing.assert_allclose(found.scores[key][metric], expected, rtol=1e-5)
        assert found.missed[key] == [row["case_id"] for row in record.evaluation if row["missed"]]
        assert found.training[key] == pytest.approx(record.training, rel=1e-5)
        assert found.effort[key] == record.effort
    assert found.queries[0] == {
        "strategy": "UVS",
        "iteration": "1",
        "case_id": "p2",
        "slice": "",
        "score": "0.214873",
    }
    assert [volume["split"] for volume in found.volumes] == ["pool", "pool", "val", "test", "test"]
    assert found.provenance == {"seed": 3, "notes": []}


def test_missed_livers_get_the_diagonal_of_their_own_volume(tmp_path):
    """Not that of t2, which is larger than 130 mm."""
    found = read_results(write(tmp_path))
    assert found.scores["iteration", "RSS", 1]["MSD"].tolist() == [130.0, 0.333333]
    assert found.scores["iteration", "RSS", 1]["HD"].tolist() == [130.0, 12.5]
    assert found.scores["iteration", "RSS", 1]["RVE"].tolist() == [100.0, 5.0]
    assert {key: cases for key, cases in found.missed.items() if cases} == {("iteration", "RSS", 1): ["t1"]}


def test_a_liver_predicted_where_there_is_none_counts_as_a_missed_one(tmp_path):
    """Its RVE is infinite, and a percentage: no millimetres may stand in for it."""
    folder = write(tmp_path)
    rows = storage.read_csv(folder / paths.CASES)
    rows[0] |= segmentation_metrics(np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool), (1.0, 1.0, 1.0))
    assert rows[0]["RVE"] == rows[0]["HD"] == math.inf
    storage.write_csv(folder / paths.CASES, list(rows[0]), rows)
    scores = read_results(folder).scores[ModelKey.from_row(rows[0])]
    assert [scores[metric][0] for metric in ("DICE", "RVE", "MSD", "HD")] == [0, 100, 130, 130]


def test_equal_runs_give_equal_bytes_but_for_the_times(tmp_path):
    folders = [write(tmp_path / name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0))]
    differing = [
        name
        for name in FILES
        if len({(folder / "results" / f"{name}.csv").read_bytes() for folder in folders}) > 1
    ]
    assert differing == ["timing"]


def test_writing_again_replaces(tmp_path):
    write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.csv")} == before
    assert len(before) == len(FILES)


@pytest.mark.parametrize(
    "name", ["cases.csv", "annotation.csv", "queries.csv", "training.csv", "volumes.csv", "provenance.json"]
)
def test_a_missing_file_is_named(tmp_path, name):
    shutil.copytree(MADE_UP, tmp_path / "results")
    (tmp_path / "results" / name).unlink()
    with pytest.raises(InputError) as caught:
        read_results(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no results/{name}; ") and "--name" in message
    assert message.count("results/") == 1


def test_all_missing_files_are_named(tmp_path):
    with pytest.raises(InputError) as caught:
        read_results(tmp_path / "nothing")
    assert all(f"results/{name}.csv" in str(caught.value) for name in FILES if name != "timing")


def test_times_are_not_needed_to_read(tmp_path):
    read_results(write(tmp_path))
    (tmp_path / paths.TIMING).unlink()
    read_results(tmp_path)


def test_what_an_oracle_asked_for_competes_no_more_than_it(tmp_path):
    folder = write(tmp_path)
    origin = storage.read_json(folder / paths.PROVENANCE)
    lists = {"RSS": {"file": "a.csv", "sha256": "d", "replays": "OSS"}}
    storage.write_json(folder / paths.PROVENANCE, {**origin, "further_strategies": lists})
    found = read_results(folder)
    assert (found.strategies, found.contenders) == (["UVS", "RSS"], ["UVS"])


def test_a_model_that_was_evaluated_on_other_cases_is_refused(tmp_path):
    shutil.copytree(MADE_UP, tmp_path / "results")
    rows = storage.read_csv(tmp_path / paths.CASES)
    storage.write_csv(tmp_path / paths.CASES, list(rows[0]), rows[:-1])
    with pytest.raises(InputError, match=r"cases\.csv lists other cases for .* than for the first model"):
        read_results(tmp_path)


def test_pairs_are_made_by_case_and_not_by_row(tmp_path):
    """A spreadsheet may have sorted the rows; the statistics pair the models' cases by their place."""
    shutil.copytree(MADE_UP, tmp_path / "results")
    path = tmp_path / "results" / "cases.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(rows)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    before, after = read_results(MADE_UP.parent), read_results(tmp_path)
    places = [after.cases.index(case_id) for case_id in before.cases]
    assert [after.sites[place] for place in places] == before.sites
    assert before.missed == after.missed
    for key, scores in before.scores.items():
        for metric, values in scores.items():
            assert after.scores[key][metric][places].tolist() == values.tolist(), (key, metric)


@pytest.mark.parametrize("name", [paths.CASES, paths.VOLUMES, paths.ANNOTATION])
def test_rows_that_were_lost_on_the_way_are_bad_input(tmp_path, name):
    """Of a copy that ended between two rows."""
    shutil.copytree(MADE_UP, tmp_path / "results")
    storage.write_csv(tmp_path / name, list(storage.read_csv(tmp_path / name)[0]), [])
    with pytest.raises(InputError, match=rf"^{tmp_path}: .*; copy it again, or give the command"):
        read_results(tmp_path)
