"""What a strategy asked for, cut to its budget, and what is noted of it, by hand."""

from types import SimpleNamespace

import pytest

from uss_bench import config
from uss_bench.study.annotation import Annotations
from uss_bench.study.keys import INITIAL
from uss_bench.study.querying import Querying
from uss_bench.study.records import TrainingSet
from uss_bench.study.strategies import named

SETTINGS = config.resolve("smoke", ["data.spacing=4,4,4", "query.min_distance_mm=10"])


def volume(slices, liver=()):
    return SimpleNamespace(shape=(slices, 9, 9), shows_liver=lambda z: z in liver)


def ask(name, volumes, annotated, count, scores=()):
    """Slices or volumes that a strategy of the table asks for, and the notes on them."""
    (strategy,) = named([name])
    before = TrainingSet(INITIAL, Annotations(annotated))
    found = Querying(SETTINGS, volumes, 0).query(strategy, before, count, scores)
    return [(query.case_id, query.z) for query in found["queries"]], found["notes"]


def test_volumes_run_out_and_a_missed_liver_is_flagged():
    volumes = {name: volume(5) for name in "abc"}
    scores = [{"case_id": "b", "volume": 0.2, "empty": True}, {"case_id": "c", "volume": 0.3, "empty": False}]
    queries, notes = ask("UVS", volumes, {"a": range(5)}, 3, scores)
    assert queries == [("c", None), ("b", None)]
    assert notes == ["no liver predicted in b: uncertainty over the whole volume", "only 2 volumes for 3"]
    annotated = {"a": range(5), "b": range(5)}
    assert ask("UVS", volumes, annotated, 1, scores[1:]) == ([("c", None)], [])


def test_random_slices_end_with_the_last_one_that_shows_liver():
    """Of the nine open slices, two show liver; slice 0 of b is annotated, 4 and 8 mm from the next ones."""
    volumes = {"a": volume(5, {1, 3}), "b": volume(5, {0})}
    queries, notes = ask("RSS", volumes, {"b": [0]}, 2)
    assert queries[-1] in [("a", 1), ("a", 3)] and {("a", 1), ("a", 3)} <= {*queries}
    near = len({("b", 1), ("b", 2)} & {*queries})
    assert notes == [
        f"{near} of {len(queries)} slices lie{'s' * (near == 1)} nearer than 10 mm to an annotated one"
    ] * bool(near)
    queries, notes = ask("RSS", volumes, {"b": [0]}, 3)
    assert len(queries) == 9
    assert notes == [
        "only 2 liver slices left for 3",
        "2 of 9 slices lie nearer than 10 mm to an annotated one",
    ]


@pytest.mark.parametrize(("count", "notes"), [(1, []), (3, ["only 2 slice candidates for 3 slices"])])
def test_candidates_run_out(count, notes):
    """10 mm are 3 slices of 4 mm: of the peaks at 2 and 4 the higher stays."""
    scores = [{"case_id": "a", "profile": [0, 0, 0.5, 0, 0.9, 0, 0, 0, 0.2, 0]}]
    queries, found = ask("USS", {"a": volume(10)}, {}, count, scores)
    assert queries == [("a", 4), ("a", 8)][:count] and found == notes
