"""Query strategies on profiles and scores made by hand."""

import numpy as np
import pytest

from uss_bench.runtime.errors import InputError
from uss_bench.study.strategies import (
    PAPER,
    STRATEGIES,
    Pool,
    PoolCase,
    most_uncertain_slices,
    most_uncertain_volumes,
    named,
    random_slices,
    random_volumes,
    slice_candidates,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def profile(length, **heights):
    """Zeros but for `z5=0.3` and the like."""
    values = np.zeros(length)
    for name, height in heights.items():
        values[int(name[1:])] = height
    return values


# --- candidates ---


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


# --- pools ---


def pool_of(profiles, annotated=None, min_distance=5):
    """A pool of volumes with slice profiles; `annotated` are slices by case."""
    annotated = annotated or {}
    return Pool(
        [
            PoolCase(case_id, len(values), frozenset(annotated.get(case_id, ())), {"profile": values})
            for case_id, values in profiles.items()
        ],
        min_distance,
    )


def sliced(counts, annotated=None):
    """A pool of volumes without scores, from `{case_id: number of slices}`."""
    annotated = annotated or {}
    return Pool(
        [PoolCase(case_id, n, frozenset(annotated.get(case_id, ()))) for case_id, n in counts.items()]
    )


def test_a_pool_knows_what_is_open():
    pool = sliced({"a": 3, "b": 2}, {"a": [1]})
    assert [case.open_slices for case in pool.cases] == [[0, 2], [0, 1]]
    assert [case.case_id for case in pool.untouched] == ["b"]


# --- USS ---


def test_uss_takes_exactly_the_most_uncertain_candidates_of_the_whole_pool():
    pool = pool_of(
        {
            "a": profile(20, z4=0.2, z10=0.9, z16=0.5),
            "b": profile(15, z7=0.7),
            "c": profile(15, z0=5, z14=5),
        }
    )
    assert most_uncertain_slices(pool, 3, None) == [("a", 10, 0.9), ("b", 7, 0.7), ("a", 16, 0.5)]
    assert most_uncertain_slices(pool, 1, None) == [("a", 10, 0.9)]


def test_uss_leaves_out_annotated_slices():
    pool = pool_of({"a": profile(20, z4=0.2, z10=0.9, z16=0.5)}, {"a": [10, 11]})
    assert most_uncertain_slices(pool, 2, None) == [("a", 16, 0.5), ("a", 4, 0.2)]


def test_a_volume_annotated_throughout_needs_no_scores():
    cases = [PoolCase("a", 3, frozenset(range(3))), PoolCase("b", 3, scores={"profile": profile(3, z1=1)})]
    assert most_uncertain_slices(Pool(cases), 2, None) == [("b", 1, 1.0)]


def test_an_annotated_maximum_still_shields_its_neighbours():
    """Candidates are those of the profile, and annotated ones are then left out.

    Their surroundings do not move up.
    """
    assert most_uncertain_slices(pool_of({"a": profile(20, z8=0.9, z11=0.5)}, {"a": [8]}), 1, None) == []


def test_uss_takes_all_where_there_are_too_few():
    assert most_uncertain_slices(pool_of({"a": profile(9, z4=0.2), "b": np.zeros(9)}), 5, None) == [
        ("a", 4, 0.2)
    ]
    assert most_uncertain_slices(Pool([]), 5, None) == []


def test_uss_breaks_ties_by_case_and_slice_whatever_the_order_of_the_pool():
    profiles = {"b": profile(20, z4=0.5, z10=0.5), "a": profile(20, z12=0.5, z5=0.5)}
    expected = [("a", 5, 0.5), ("a", 12, 0.5), ("b", 4, 0.5)]
    assert most_uncertain_slices(pool_of(profiles), 3, None) == expected
    assert most_uncertain_slices(pool_of(dict(reversed(profiles.items()))), 3, None) == expected


def test_uss_passes_the_least_distance_on():
    pool = pool_of({"a": profile(20, z4=0.9, z6=0.5)}, min_distance=2)
    assert most_uncertain_slices(pool, 2, None) == [("a", 4, 0.9), ("a", 6, 0.5)]


# --- RSS ---


def test_rss_puts_every_open_slice_in_an_order_once():
    drawn = random_slices(sliced({"a": 5, "b": 3}, {"a": [2]}), 1, rng())
    assert sorted(drawn) == [
        (case_id, z, None) for case_id, z in [*(("a", z) for z in (0, 1, 3, 4)), ("b", 0), ("b", 1), ("b", 2)]
    ]


def test_rss_draws_evenly_from_all_unannotated_slices():
    counts = dict.fromkeys([("a", 0), ("a", 2), ("b", 0), ("b", 1)], 0)
    for seed in range(2000):
        first = random_slices(sliced({"a": 3, "b": 2}, {"a": [1]}), 1, rng(seed))[0]
        counts[first.case_id, first.z] += 1
    assert min(counts.values()) > 420  # 500 expected, 19 the standard deviation
    assert max(counts.values()) < 580


def test_rss_depends_on_the_generator_and_not_on_the_order_of_the_pool():
    def draw(counts, seed):
        return random_slices(sliced(counts), 5, rng(seed))

    assert draw({"a": 9, "b": 9}, 1) == draw({"b": 9, "a": 9}, 1)
    assert draw({"a": 9, "b": 9}, 1) != draw({"a": 9, "b": 9}, 2)


# --- UVS and RVS ---


def test_uvs_takes_the_most_uncertain_volumes_first_and_breaks_ties_by_case():
    scores = {"d": 0.1, "c": 0.3, "b": 0.3, "a": 0.2}

    def ask(count, case_ids):
        pool = Pool([PoolCase(case_id, 9, scores={"volume": scores[case_id]}) for case_id in case_ids])
        return [(query.case_id, query.z, query.score) for query in most_uncertain_volumes(pool, count, None)]

    assert ask(3, "dcba") == ask(3, "abcd") == [("b", None, 0.3), ("c", None, 0.3), ("a", None, 0.2)]
    assert [case_id for case_id, _, _ in ask(9, "dcba")] == ["b", "c", "a", "d"]


def test_volume_strategies_leave_touched_volumes_alone():
    cases = [PoolCase("a", 9, frozenset([3]), {"volume": 1.0}), PoolCase("b", 9, scores={"volume": 0.1})]
    for choose in (most_uncertain_volumes, random_volumes):
        assert [query.case_id for query in choose(Pool(cases), 1, rng())] == ["b"]


def draw_volumes(case_ids, count, seed=0):
    return [query.case_id for query in random_volumes(sliced(dict.fromkeys(case_ids, 4)), count, rng(seed))]


def test_rvs_draws_without_replacement():
    cases = [f"case-{number}" for number in range(6)]
    assert sorted(draw_volumes(cases, 6)) == cases
    assert all(type(case_id) is str for case_id in draw_volumes(cases, 2))
    with pytest.raises(ValueError, match="larger"):
        draw_volumes(cases, 7)


def test_rvs_draws_evenly_and_whatever_the_order_of_the_pool():
    cases = ["a", "b", "c", "d"]
    counts = dict.fromkeys(cases, 0)
    for seed in range(2000):
        drawn = draw_volumes(cases, 2, seed)
        assert drawn == draw_volumes(cases[::-1], 2, seed)
        assert len(set(drawn)) == 2
        for case_id in drawn:
            counts[case_id] += 1
    assert min(counts.values()) > 910  # 1000 expected, 22 the standard deviation
    assert max(counts.values()) < 1090


# --- the table ---


def test_the_papers_four_in_the_order_of_the_paper():
    assert PAPER == ("UVS", "RVS", "USS", "RSS")
    assert tuple(STRATEGIES)[:4] == PAPER
    assert all(name == strategy.name for name, strategy in STRATEGIES.items())


def test_names_in_any_case_of_letters_each_once_in_the_order_of_the_table():
    assert [strategy.name for strategy in named(["rss", "UVS", "Rss"])] == ["UVS", "RSS"]
    assert [strategy.name for strategy in named(["all"])] == list(PAPER)
    assert [strategy.name for strategy in named(["uss", "ALL"])] == list(PAPER)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"--strategy BALD X: unknown; choose all, or any of UVS, RVS, USS, RSS"
    ):
        named(["uss", "bald", "x"])
