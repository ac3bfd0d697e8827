"""The test against the best: values worked out by hand, SciPy's test, and all exchanges counted out."""

import itertools

import numpy as np
import pytest
import scipy.stats

from uss_bench.report.signed_rank import against_best, stars

# Darwin's maize: differences in height of cross- and self-fertilised plants; the worked example of Wilcoxon
# (1945), T = 24.
MAIZE = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], dtype=float)


def compare(differences, higher_is_better=True, resamples=5000):
    """Test of `x` against a best `y`, where `x - y` are the differences.

    `y` is the best as long as `x` has no better mean.
    """
    differences = np.asarray(differences, dtype=float)
    base = 1000.0 + np.arange(differences.size)
    return against_best({"y": base, "x": base + differences}, higher_is_better, 0, resamples)["x"]


def within(expected, resamples):
    """What a share of that many exchanges may lie from the expected one: four standard errors."""
    return pytest.approx(expected, abs=4 * (expected * (1 - expected) / resamples) ** 0.5 + 1 / resamples)


def enumerated_p(differences):
    """Two-sided p over all signs of the differences that are not zero; the ranks count the zeros (Pratt)."""
    differences = np.asarray(differences, dtype=float)
    ranks = scipy.stats.rankdata(np.abs(differences))[differences != 0]
    won = np.asarray(differences)[differences != 0] > 0
    smaller = min(ranks[won].sum(), ranks[~won].sum())
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=ranks.size)]
    return min(1.0, 2 * np.mean([total <= smaller for total in sums]))


def test_two_samples_of_the_published_example():
    """Exchanging two samples changes signs, and which is the best is of no matter: Wilcoxon's test."""
    result = compare(-MAIZE)
    assert (result.best, result.n, result.zeros, result.stars) == ("y", 15, 0, "*")
    assert result.effect == pytest.approx((24 - 96) / 120)
    assert result.p == within(0.041259765625, 5000)


@pytest.mark.parametrize(
    "differences",
    [
        [-1],
        [-1, -1, -1, -1],
        [0, -1, -2, -3, -4],
        [0, 0, 0, -7],
        [0, 0, 1, -1, -2, -2, -2, 3, -5, -8],
        [1, -2, 3, -4, -5, -6, -7.5, -8, -9.25],
        [2, -2, 2, -2],
        [0, 1, 1, -3, -3, -3, -4, -4, -6, -6, -7],
    ],
)
def test_two_samples_with_ties_and_zeros_against_enumeration(differences):
    result = compare(differences)
    assert result.p == within(enumerated_p(differences), 5000)
    assert result.zeros == differences.count(0)


def test_many_pairs_against_scipy():
    differences = np.round(np.random.default_rng(1).normal(-0.4, 2, size=80))
    assert np.count_nonzero(differences == 0) > 5 and np.unique(np.abs(differences)).size < 10
    expected = scipy.stats.wilcoxon(differences, zero_method="pratt", correction=False, method="approx")
    assert compare(differences).p == pytest.approx(expected.pvalue, abs=0.01)


def signed_rank(one, other):
    """Absolute signed-rank sum over its standard deviation, by hand."""
    differences = np.round(np.subtract(one, other), 9)
    ranks = [
        np.mean(1 + np.flatnonzero(np.sort(np.abs(differences)) == size)) for size in np.abs(differences)
    ]
    ranks = np.where(differences == 0, 0, ranks)
    spread = sum(rank**2 for rank in ranks) ** 0.5
    return abs(sum(rank * np.sign(x) for rank, x in zip(ranks, differences, strict=True))) / (spread or 1.0)


def test_three_samples_against_all_exchanges():
    """1296 ways to exchange three samples within four cases; the best is chosen anew in each."""
    samples = {
        "x": [0.90, 0.85, 0.80, 0.70],
        "y": [0.88, 0.80, 0.80, 0.72],
        "z": [0.80, 0.81, 0.78, 0.71],
    }
    found = against_best(samples, True, 1, 5000)
    assert list(found) == ["y", "z"]
    shares = dict.fromkeys(found, 0.0)
    observed = {name: signed_rank(samples[name], samples["x"]) for name in found}
    columns = list(zip(*samples.values(), strict=True))
    exchanges = list(itertools.product(*(itertools.permutations(column) for column in columns)))
    for exchanged in exchanges:
        rows = sorted(zip(*exchanged, strict=True), key=lambda row: -round(sum(row), 9))
        drawn = [signed_rank(row, rows[0]) for row in rows[1:]]
        for name in found:
            reached = sum(value >= observed[name] - 1e-9 for value in drawn) / 2
            shares[name] += reached / len(exchanges)
    assert 0.05 < min(shares.values()) < max(shares.values()) < 0.95  # or the test would prove little
    assert found["y"].p == pytest.approx(shares["y"], abs=0.03)
    assert found["z"].p == pytest.approx(shares["z"], abs=0.03)


def test_effect_by_hand_and_its_sign():
    # ranks 1..4: won 1, lost 2 + 3 + 4 = 9, so (1 - 9) / 10
    assert compare([1, -2, -3, -4]).effect == pytest.approx(-0.8)
    # lower is better: the same sample beats the best in three of four cases and still has the worse mean
    assert compare([-1, -2, -3, 40], higher_is_better=False).effect == pytest.approx((6 - 4) / 10)
    # Pratt: the zero takes rank 1; won 2, lost 3 + 4 + 5
    assert compare([0, 1, -2, -3, -4]).effect == pytest.approx((2 - 12) / 14)
    assert compare([-1, -2, -3, -4]).effect == -1.0


def test_the_best_follows_the_direction_and_the_first_wins_ties():
    samples = {"a": [1.0, 3.0], "b": [4.0, 0.0], "c": [1.0, 1.5], "d": [1.5, 1.0]}
    assert list(against_best(samples, True, 0, 50)) == ["b", "c", "d"]
    assert {test.best for test in against_best(samples, False, 0, 50).values()} == {"c"}


def test_p_is_never_zero():
    """Twenty of twenty cases worse: none of the exchanges comes up to that, and one counts."""
    assert compare(-np.arange(1.0, 21.0), resamples=999).p == 1 / 1000
    assert compare(-np.arange(1.0, 21.0), resamples=1).p == 1 / 2


def test_batches_of_exchanges_are_all_counted():
    """Every exchange of equal samples is as extreme: p is 1 whatever the last batch's size."""
    for resamples in (1, 499, 500, 501, 1234):
        assert compare([0.0, 0.0, 0.0], resamples=resamples).p == 1.0


def test_equal_seeds_give_equal_p():
    rng = np.random.default_rng(0)
    samples = {name: rng.normal(size=30) for name in "abcd"}
    one, again, other = (against_best(samples, True, seed, 300) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("n", [1, 4, 60])
def test_no_differences_at_all(n):
    for value in (0.5, 0.0):
        samples = {name: np.full(n, value) for name in "xyz"}
        for result in against_best(samples, True, 0, 100).values():
            assert (result.p, result.effect, result.stars, result.zeros) == (1.0, 0.0, "", n)


def test_rounding_errors_break_no_ties():
    """0.5 - 0.525, 0.825 - 0.775 and so on are 0.025 and three times 0.05, but not in binary."""
    x, y = np.array([0.5, 0.825, 0.375, 0.5]), np.array([0.525, 0.775, 0.325, 0.55])
    result = against_best({"x": x, "y": y}, True, 0, 500)["y"]
    assert result.effect == pytest.approx((1 + 3 - 3 - 3) / 10)  # ranks 1, 3, 3, 3
    # the unit is of no matter, however small
    assert against_best({"x": 1e-9 * x, "y": 1e-9 * y}, True, 0, 500)["y"] == result


def test_unpaired_and_missing_samples():
    with pytest.raises(ValueError, match=r"paired.*'x': 3.*'y': 2"):
        against_best({"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0]}, True, 0)
    with pytest.raises(ValueError, match="samples"):
        against_best({}, True, 0)
    with pytest.raises(ValueError, match="resamples"):
        against_best({"x": [1.0, 2.0]}, True, 0, 0)
    with pytest.raises(TypeError):
        against_best({"x": [1.0, 2.0]}, True, None)
    assert against_best({"x": [1.0, 2.0]}, True, 0) == {}


def test_stars():
    assert [stars(p) for p in (0.0, 0.00099, 0.001, 0.0099, 0.01, 0.0499, 0.05, 1.0)] == [
        "***",
        "***",
        "**",
        "**",
        "*",
        "*",
        "",
        "",
    ]
