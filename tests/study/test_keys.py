"""Names of models, written out by hand."""

import pytest

from uss_bench.study.keys import DATA_POOL, FITTED, INITIAL, ModelKey

ITERATION, CONVERGED = ModelKey.of_iteration("USS", 3), ModelKey.of_converged("USS", 5)


@pytest.mark.parametrize(
    ("key", "folder", "title", "converges"),
    [
        (INITIAL, "initial", "initial model", False),
        (ITERATION, "USS/iter-3", "USS iteration 3", False),
        (CONVERGED, "USS/converged", "USS iteration 5, converged", True),
        (DATA_POOL, "data-pool", "data pool model", True),
        (FITTED, "fitted", "fitted model", True),
    ],
)
def test_what_follows_from_a_key(key, folder, title, converges):
    assert (key.folder, key.title, key.converges) == (folder, title, converges)


@pytest.mark.parametrize("key", [INITIAL, ITERATION, CONVERGED, DATA_POOL])
def test_a_row_of_a_result_file_gives_its_key_back(key):
    row = {name: "" if value is None else str(value) for name, value in key.as_row().items()}
    assert ModelKey.from_row(row) == key


@pytest.mark.parametrize("key", [INITIAL, ITERATION, DATA_POOL])
def test_rows_on_annotation_know_their_model_without_saying_so(key):
    row = {"strategy": key.annotator, "iteration": "" if key.iteration is None else str(key.iteration)}
    assert ModelKey.from_row(row) == key


def test_a_converged_model_is_trained_on_the_annotations_of_its_iteration():
    assert CONVERGED.annotation_key == ModelKey.of_iteration("USS", 5)
    assert [key.annotation_key for key in (INITIAL, ITERATION, DATA_POOL)] == [INITIAL, ITERATION, DATA_POOL]


def test_no_two_models_share_a_folder_or_a_draw():
    keys = [
        INITIAL,
        DATA_POOL,
        FITTED,
        ModelKey.of_iteration("USS", 5),
        CONVERGED,
        ITERATION,
        ModelKey.of_iteration("RSS", 3),
        ModelKey.of_twin(1),
        ModelKey.of_twin(2),
    ]
    assert len({key.folder for key in keys}) == len({tuple(key.draw.items()) for key in keys}) == len(keys)
