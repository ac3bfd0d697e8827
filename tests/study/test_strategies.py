"""Query strategies on profiles and scores made by hand."""

import numpy as np
import pytest

from uss_bench.study.annotation import Annotations
from uss_bench.study.strategies import (
    STRATEGIES,
    most_uncertain_slices,
    most_uncertain_volumes,
    random_slices,
    random_volumes,
    slice_candidates,
)

NOTHING = Annotations()


def rng(seed=0):
    return np.random.default_rng(seed)


def profile(length, **heights):
    """Zeros but for `z5=0.3` and the like."""
    values = np.zeros(length)
    for name, height in heights.items():
        values[int(name[1:])] = height
    return values


# --- candidates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 0], [1]),
        ([0, 0, 3, 0, 0, 0, 0, 0, 2, 0], [2, 8]),
        ([1, 1, 1, 1], []),  # flat
        ([0, 1, 2, 3], []),  # the last slice is no maximum
        ([3, 2, 1, 0], []),  # nor the first
        ([2, 1, 2], []),
        ([0, 1, 1, 1, 0], [2]),  # a plateau counts once, at its middle
        ([0, 1, 1, 0], [1]),
        ([1, 1, 0, 0], []),  # a plateau at the edge
        ([0, 1, 1, 2, 0], [3]),  # a shoulder is no maximum
        ([1], []),
        ([], []),
    ],
)
def test_candidates_are_local_maxima(values, expected):
    assert slice_candidates(np.array(values, float)).tolist() == expected


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ({"z3": 1, "z8": 2}, [3, 8]),  # five apart: both
        ({"z3": 1, "z7": 2}, [7]),  # four apart: the higher
        ({"z3": 2, "z7": 1}, [3]),
        ({"z3": 2, "z7": 3, "z11": 2}, [7]),
        (
            {"z3": 3, "z7": 2, "z11": 2.5},
            [3, 11],
        ),  # the one between falls to its higher neighbour and shields nothing
        ({"z3": 3, "z7": 2, "z11": 1}, [3, 11]),
    ],
)
def test_of_candidates_less_than_five_apart_the_higher_stays(heights, expected):
    assert slice_candidates(profile(20, **heights)).tolist() == expected


def test_the_least_distance_can_be_chosen():
    values = profile(20, z3=1, z5=2, z12=1)
    assert slice_candidates(values, min_distance=2).tolist() == [3, 5, 12]
    assert slice_candidates(values, min_distance=3).tolist() == [5, 12]
    assert slice_candidates(values, min_distance=8).tolist() == [5]


def test_candidates_of_equal_height_are_the_same_in_every_call():
    values = np.tile([0.0, 1.0], 200)
    chosen = slice_candidates(values).tolist()
    assert all(slice_candidates(values.copy()).tolist() == chosen for _ in range(5))
    assert min(np.diff(chosen)) >= 5


# --- USS ------------------------------------------------------------------------------------------------------------------


def test_uss_takes_exactly_the_most_uncertain_candidates_of_the_whole_pool():
    profiles = {
        "a": profile(20, z4=0.2, z10=0.9, z16=0.5),
        "b": profile(15, z7=0.7),
        "c": profile(15, z0=5, z14=5),
    }
    assert most_uncertain_slices(profiles, NOTHING, 3) == [("a", 10, 0.9), ("b", 7, 0.7), ("a", 16, 0.5)]
    assert most_uncertain_slices(profiles, NOTHING, 1) == [("a", 10, 0.9)]


def test_uss_leaves_out_annotated_slices():
    profiles = {"a": profile(20, z4=0.2, z10=0.9, z16=0.5)}
    assert most_uncertain_slices(profiles, Annotations({"a": [10, 11]}), 2) == [("a", 16, 0.5), ("a", 4, 0.2)]


def test_an_annotated_maximum_still_shields_its_neighbours():
    """Candidates are those of the profile; what is annotated is then left out, and its surroundings do not move up."""
    profiles = {"a": profile(20, z8=0.9, z11=0.5)}
    assert most_uncertain_slices(profiles, Annotations({"a": [8]}), 1) == []


def test_uss_takes_all_where_there_are_too_few():
    profiles = {"a": profile(9, z4=0.2), "b": np.zeros(9)}
    assert most_uncertain_slices(profiles, NOTHING, 5) == [("a", 4, 0.2)]
    assert most_uncertain_slices({}, NOTHING, 5) == []


def test_uss_breaks_ties_by_case_and_slice_whatever_the_order_of_the_pool():
    profiles = {"b": profile(20, z4=0.5, z10=0.5), "a": profile(20, z12=0.5, z5=0.5)}
    expected = [("a", 5, 0.5), ("a", 12, 0.5), ("b", 4, 0.5)]
    assert most_uncertain_slices(profiles, NOTHING, 3) == expected
    assert most_uncertain_slices(dict(reversed(profiles.items())), NOTHING, 3) == expected


def test_uss_passes_the_least_distance_on():
    profiles = {"a": profile(20, z4=0.9, z6=0.5)}
    assert most_uncertain_slices(profiles, NOTHING, 2, min_distance=2) == [("a", 4, 0.9), ("a", 6, 0.5)]


# --- RSS ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 4, 10])
def test_rss_stops_at_the_last_liver_slice_it_was_asked_for(seed, count):
    asked = []

    def shows_liver(case_id, z):
        asked.append((case_id, z))
        return 10 <= z < 20

    annotated = Annotations({"a": [10, 11], "b": range(30)})
    drawn = random_slices({"c": 40, "a": 30, "b": 30}, annotated, count, shows_liver, rng(seed))
    assert asked == drawn  # the oracle is asked of drawn slices only, once
    assert len(set(drawn)) == len(drawn)
    assert sum(10 <= z < 20 for _, z in drawn) == count
    assert 10 <= drawn[-1][1] < 20
    assert {case_id for case_id, _ in drawn} <= {"a", "c"}
    assert not {("a", 10), ("a", 11)} & set(drawn)


def test_rss_draws_evenly_from_all_unannotated_slices():
    counts = dict.fromkeys([("a", 0), ("a", 2), ("b", 0), ("b", 1)], 0)
    for seed in range(2000):
        [drawn] = random_slices({"a": 3, "b": 2}, Annotations({"a": [1]}), 1, lambda *_: True, rng(seed))
        counts[drawn] += 1
    assert min(counts.values()) > 420  # 500 expected, 19 the standard deviation
    assert max(counts.values()) < 580


def test_rss_takes_all_where_liver_runs_out():
    drawn = random_slices({"a": 5, "b": 3}, Annotations({"a": [2]}), 4, lambda case_id, z: z == 0, rng())
    assert sorted(drawn) == [("a", 0), ("a", 1), ("a", 3), ("a", 4), ("b", 0), ("b", 1), ("b", 2)]


def test_rss_depends_on_the_generator_and_not_on_the_order_of_the_pool():
    def draw(slice_counts, seed):
        return random_slices(slice_counts, NOTHING, 5, lambda case_id, z: z % 2 == 0, rng(seed))

    assert draw({"a": 9, "b": 9}, 1) == draw({"b": 9, "a": 9}, 1)
    assert draw({"a": 9, "b": 9}, 1) != draw({"a": 9, "b": 9}, 2)


# --- UVS and RVS ----------------------------------------------------------------------------------------------------------


def test_uvs_takes_the_most_uncertain_volumes_first_and_breaks_ties_by_case():
    scores = {"d": 0.1, "c": 0.3, "b": 0.3, "a": 0.2}
    assert most_uncertain_volumes(scores, 3) == ["b", "c", "a"]
    assert most_uncertain_volumes(dict(reversed(scores.items())), 3) == ["b", "c", "a"]
    assert most_uncertain_volumes(scores, 9) == ["b", "c", "a", "d"]


def test_rvs_draws_without_replacement():
    cases = [f"case-{number}" for number in range(6)]
    assert sorted(random_volumes(cases, 6, rng())) == cases
    assert all(type(case_id) is str for case_id in random_volumes(cases, 2, rng()))
    with pytest.raises(ValueError, match="larger"):
        random_volumes(cases, 7, rng())


def test_rvs_draws_evenly_and_whatever_the_order_of_the_pool():
    cases = ["a", "b", "c", "d"]
    counts = dict.fromkeys(cases, 0)
    for seed in range(2000):
        drawn = random_volumes(cases, 2, rng(seed))
        assert drawn == random_volumes(cases[::-1], 2, rng(seed))
        assert len(set(drawn)) == 2
        for case_id in drawn:
            counts[case_id] += 1
    assert min(counts.values()) > 910  # 1000 expected, 22 the standard deviation
    assert max(counts.values()) < 1090


def test_the_four_strategies_in_the_order_of_the_paper():
    assert STRATEGIES == ("UVS", "RVS", "USS", "RSS")
