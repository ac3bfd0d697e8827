"""Rules of query strategies on profiles and scores made by hand."""

from collections import Counter

import numpy as np
import pytest

from uss_bench.study import rules
from uss_bench.study.pool import Pool, PoolCase
from uss_bench.study.rules import (
    farthest_slices,
    most_disagreed_volumes,
    most_informative_slices,
    most_uncertain_slices,
    most_uncertain_volumes,
    most_wrong_slices,
    power_entropy_slices,
    random_liver_slices,
    random_slices,
    random_slices_in_turn,
    random_volumes,
    slice_candidates,
    spread_uncertain_slices,
    stochastic_batch,
)
from uss_bench.study.strategies import STRATEGIES


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
    assert slice_candidates(np.array([0, 1, 0, 1, 0, 1, 0.0]), min_distance=3).tolist() == [1, 5]


# --- pools ---


def pool_of(profiles, annotated=None, min_distance=5, score="profile"):
    """A pool of volumes with one score per slice; `annotated` are slices by case."""
    annotated = annotated or {}
    return Pool(
        [
            PoolCase(case_id, len(values), frozenset(annotated.get(case_id, ())), {score: values})
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
    assert sorted(draw_volumes(cases, 7)) == cases  # there are no more
    assert draw_volumes([], 1) == []


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


# --- PVS ---


def test_pvs_takes_the_untouched_volumes_of_most_disagreement():
    cases = [
        PoolCase("a", 9, frozenset([3]), {"disagreement": 0.9}),
        *(
            PoolCase(name, 9, scores={"disagreement": value})
            for name, value in zip("dcb", (0.1, 0.4, 0.4), strict=True)
        ),
    ]
    assert most_disagreed_volumes(Pool(cases), 2, None) == [("b", None, 0.4), ("c", None, 0.4)]
    assert most_disagreed_volumes(Pool(cases[:1]), 2, None) == []


# --- USS-S ---


def test_uss_s_leaves_out_candidates_near_an_annotated_slice():
    pool = pool_of({"a": profile(30, z4=0.2, z10=0.9, z16=0.5, z22=0.4)}, {"a": [14]})
    assert most_uncertain_slices(pool, 2, None) == [("a", 10, 0.9), ("a", 16, 0.5)]
    assert spread_uncertain_slices(pool, 2, None) == [("a", 22, 0.4), ("a", 4, 0.2)]  # 8 and 10 away
    assert spread_uncertain_slices(pool_of({"a": profile(30, z9=1)}, {"a": [14]}), 1, None) != []  # 5 away
    assert spread_uncertain_slices(pool_of({"a": profile(30, z10=1)}, {"a": [14]}), 1, None) == []


def test_uss_s_takes_a_fair_share_of_every_volume():
    """Three, one and one candidates: of three slices each volume gives one, of four the first gives two."""
    pool = pool_of(
        {"a": profile(20, z4=0.7, z10=0.9, z16=0.8), "b": profile(9, z4=0.2), "c": profile(9, z4=0.1)}
    )
    assert most_uncertain_slices(pool, 3, None) == [("a", 10, 0.9), ("a", 16, 0.8), ("a", 4, 0.7)]
    assert spread_uncertain_slices(pool, 2, None) == [("a", 10, 0.9), ("b", 4, 0.2)]
    assert spread_uncertain_slices(pool, 3, None) == [("a", 10, 0.9), ("b", 4, 0.2), ("c", 4, 0.1)]
    assert spread_uncertain_slices(pool, 4, None) == [
        ("a", 10, 0.9), ("a", 16, 0.8), ("b", 4, 0.2), ("c", 4, 0.1)
    ]  # fmt: skip
    assert len(spread_uncertain_slices(pool, 9, None)) == 5  # all there are


# --- BSS and OSS: the rule of USS on other scores ---


@pytest.mark.parametrize(
    ("rule", "score"), [(most_informative_slices, "information"), (most_wrong_slices, "errors")]
)
def test_bss_and_oss_do_what_uss_does_with_their_own_score(rule, score):
    profiles = {"b": profile(20, z4=5, z10=5), "a": profile(20, z12=5, z5=7, z18=1)}
    for annotated in ({}, {"a": [5]}, {"a": range(20), "b": range(20)}):
        pool, usual = pool_of(profiles, annotated, score=score), pool_of(profiles, annotated)
        for count in (1, 3, 9):
            assert rule(pool, count, None) == most_uncertain_slices(usual, count, None)
    assert rule(pool_of({"a": np.zeros(9)}, score=score), 3, None) == []  # nothing to choose by


# --- FRS ---


def test_frs_draws_from_slices_that_show_predicted_liver_and_then_from_the_others():
    pool = pool_of({"a": [0, 2, 9, 0], "b": [1, 0, 0, 0]}, {"a": [1]}, score="liver")
    seen = set()
    for seed in range(200):
        drawn = [(query.case_id, query.z) for query in random_liver_slices(pool, 3, rng(seed))]
        assert set(drawn[:2]) == {("a", 2), ("b", 0)}  # annotated a 1 is left out
        seen.add(drawn[2])
    assert seen == {("a", 0), ("a", 3), ("b", 1), ("b", 2), ("b", 3)}
    assert len(random_liver_slices(pool, 9, rng())) == 7  # there are no more


def test_frs_where_nothing_is_predicted_is_random():
    pool = pool_of({"a": [0] * 6, "b": [0] * 6}, score="liver")
    assert random_liver_slices(pool, 4, rng(3)) == random_slices(pool, 4, rng(3))[:4]


def test_frs_draws_evenly_among_predicted_slices():
    pool = pool_of({"a": [0, 1, 1, 0], "b": [1, 1, 0, 0]}, score="liver")
    counts = dict.fromkeys([("a", 1), ("a", 2), ("b", 0), ("b", 1)], 0)
    for seed in range(2000):
        query = random_liver_slices(pool, 1, rng(seed))[0]
        counts[query.case_id, query.z] += 1
    assert min(counts.values()) > 420  # 500 expected, 19 the standard deviation


# --- BRS ---


def test_brs_takes_as_many_from_every_volume():
    pool = sliced({"a": 30, "b": 4, "c": 12})
    for seed in range(20):
        drawn = [query.case_id for query in random_slices_in_turn(pool, 7, rng(seed))]
        assert sorted(drawn[:3]) == sorted(drawn[3:6]) == ["a", "b", "c"]
    assert len(random_slices_in_turn(pool, 99, rng())) == 46
    assert len({tuple(random_slices_in_turn(pool, 1, rng(seed))) for seed in range(40)}) > 10


def test_brs_cuts_a_turn_short_without_regard_to_length():
    pool = sliced({"a": 30, "b": 2, "c": 12})
    firsts = Counter(random_slices_in_turn(pool, 1, rng(seed))[0].case_id for seed in range(1500))
    assert min(firsts.values()) > 420  # 500 expected, 18 the standard deviation


def test_brs_makes_up_for_what_was_annotated_before():
    """a has two slices, b one, c none and d all of its own: c comes first, then b and c, then all three."""
    pool = sliced({"a": 9, "b": 9, "c": 9, "d": 3}, {"a": [1, 2], "b": [4], "d": [0, 1, 2]})
    for seed in range(20):
        drawn = [query.case_id for query in random_slices_in_turn(pool, 6, rng(seed))]
        assert (drawn[0], sorted(drawn[1:3]), sorted(drawn[3:])) == ("c", ["b", "c"], ["a", "b", "c"])


# --- ESS ---


def test_ess_halves_the_largest_gap_of_each_volume_in_turn():
    """Of nine slices 4 is the middle; then 1, 2 and 6, 7 are two away from 4 and from the ends.

    Which of two volumes comes first is drawn: names tell nothing but a site.
    """
    first = set()
    for seed in range(20):
        found = farthest_slices(sliced({"b": 9, "a": 9}), 6, rng(seed))
        a, b = found[0].case_id, found[1].case_id
        assert found == [(name, z, None) for z in (4, 1, 6) for name in (a, b)]
        first.add(a)
    assert first == {"a", "b"}


def test_ess_keeps_away_from_what_is_annotated():
    """Annotated 1 and 8 of twelve: 4 and 5 are three away, farther than any other; then 6 is two away."""
    pool = sliced({"a": 12}, {"a": [1, 8]})
    assert [query.z for query in farthest_slices(pool, 2, rng(0))] == [4, 6]
    assert sorted(query.z for query in farthest_slices(pool, 99, rng(0))) == [0, *range(2, 8), 9, 10, 11]
    assert farthest_slices(sliced({"a": 2}, {"a": [0, 1]}), 1, rng(0)) == []


def test_ess_begins_with_the_volumes_of_fewest_annotated_slices():
    pool = sliced({"a": 9, "b": 9, "c": 2}, {"a": [4], "c": [0, 1]})
    for seed in range(20):
        found = [query.case_id for query in farthest_slices(pool, 5, rng(seed))]
        assert (found[0], sorted(found[1:3]), sorted(found[3:])) == ("b", ["a", "b"], ["a", "b"])


# --- PSS ---


def test_pss_draws_the_first_slice_in_proportion_to_its_uncertainty():
    """The maximum of log weights plus Gumbel noise falls on each with a chance proportional to its weight."""
    pool = pool_of({"a": [0.1, 0.0, 0.4], "b": [0.5, 9.0]}, {"b": [1]})
    counts = dict.fromkeys([("a", 0), ("a", 1), ("a", 2), ("b", 0)], 0)
    for seed in range(4000):
        query = power_entropy_slices(pool, 1, rng(seed))[0]
        counts[query.case_id, query.z] += 1
    assert counts["a", 1] == 0
    for key, chance in ((("a", 0), 0.1), (("a", 2), 0.4), (("b", 0), 0.5)):
        assert abs(counts[key] / 4000 - chance) < 0.03  # 3.8 standard deviations of the largest


def test_pss_keeps_the_uncertainty_as_score_and_takes_slices_without_any_last():
    pool = pool_of({"a": [0.0, 0.3, 0.0]})
    assert power_entropy_slices(pool, 9, rng()) == [("a", 1, 0.3), ("a", 0, 0.0), ("a", 2, 0.0)]
    assert power_entropy_slices(Pool([]), 2, rng()) == []


# --- SBS ---


def test_sbs_takes_the_best_of_its_batches(monkeypatch):
    """Of a hundred (README), drawn once more by hand from the same generator."""
    assert rules.BATCHES == 100
    values = rng(7).uniform(size=40)
    pool, generator = pool_of({"a": values}), rng(5)
    best = max(
        (generator.choice(40, 6, replace=False) for _ in range(rules.BATCHES)),
        key=lambda batch: values[batch].sum(),
    )
    batch = stochastic_batch(pool, 6, rng(5))
    assert {query.z for query in batch} == set(best.tolist())
    assert [query.score for query in batch] == sorted(values[best], reverse=True)
    means = [np.mean([q.score for q in stochastic_batch(pool, 6, rng(seed))]) for seed in range(20)]
    monkeypatch.setattr(rules, "BATCHES", 1)
    single = [np.mean([q.score for q in stochastic_batch(pool, 6, rng(seed))]) for seed in range(20)]
    assert min(means) > np.mean(single)


def test_sbs_takes_all_where_there_are_too_few():
    pool = pool_of({"a": [0.1, 0.2, 0.3]}, {"a": [1]})
    assert stochastic_batch(pool, 5, rng()) == [("a", 2, 0.3), ("a", 0, 0.1)]
    assert stochastic_batch(pool_of({"a": [0.1]}, {"a": [0]}), 5, rng()) == []


# --- all of them ---

SLICES = [strategy for strategy in STRATEGIES.values() if strategy.by_slices]


def random_pool(seed, volumes=5):
    """Volumes of random sizes, scores and annotations; the first is annotated throughout and not scored."""
    random, cases = rng(seed), []
    for number in range(volumes):
        slices = int(random.integers(1, 40))
        annotated = frozenset(random.choice(slices, random.integers(0, slices), replace=False).tolist())
        scores = {name: random.uniform(size=slices) for name in ("profile", "information")}
        scores |= {name: random.integers(0, 3, slices) for name in ("liver", "errors")}
        case = PoolCase(f"case-{number}", slices, annotated, scores)
        cases.append(case if number else PoolCase("case-0", slices, frozenset(range(slices))))
    return Pool(cases, min_distance=2)


@pytest.mark.parametrize("strategy", SLICES, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("seed", range(5))
def test_slice_rules_ask_for_open_slices_once_whatever_the_order_of_the_pool(strategy, seed):
    pool = random_pool(seed)
    open_slices = {(case.case_id, z) for case in pool.cases for z in case.open_slices}
    mirrored = Pool(pool.cases[::-1], pool.min_distance)
    for count in (1, 7, 999):
        chosen = list(strategy.choose(pool, count, rng(seed)))
        asked = [(query.case_id, query.z) for query in chosen]
        assert len(set(asked)) == len(asked) and set(asked) <= open_slices
        assert strategy.until_liver or len(asked) <= count
        assert chosen == list(strategy.choose(mirrored, count, rng(seed)))
        assert all(type(query.z) is int and type(query.score) in (float, type(None)) for query in chosen)


@pytest.mark.parametrize("strategy", SLICES, ids=lambda strategy: strategy.name)
def test_slice_rules_ask_for_nothing_where_nothing_is_open(strategy):
    done = Pool([PoolCase("a", 3, frozenset(range(3))), PoolCase("b", 1, frozenset([0]))])
    assert list(strategy.choose(done, 4, rng())) == []
    assert list(strategy.choose(Pool([]), 4, rng())) == []
