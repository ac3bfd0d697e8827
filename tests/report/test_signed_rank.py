"""The paired test against values worked out by hand, exact enumeration, and SciPy called directly."""

import itertools

import numpy as np
import pytest
import scipy.stats

from uss_bench.report import signed_rank
from uss_bench.report.signed_rank import stars, wilcoxon_against_best

# Darwin's maize: differences in height of cross- and self-fertilised plants; the worked example of Wilcoxon
# (1945), T = 24.
MAIZE = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], dtype=float)


def compare(differences, higher_is_better=True):
    """Test of `x` against a best `y`, where `x - y` are the differences.

    `y` is the best as long as `x` has no better mean.
    """
    differences = np.asarray(differences, dtype=float)
    base = 1000.0 + np.arange(differences.size)
    return wilcoxon_against_best({"y": base, "x": base + differences}, higher_is_better)["x"]


def enumerated_p(differences):
    """Two-sided p over all signs of the differences that are not zero; the ranks count the zeros (Pratt)."""
    differences = np.asarray(differences, dtype=float)
    ranks = scipy.stats.rankdata(np.abs(differences))[differences != 0]
    won = np.asarray(differences)[differences != 0] > 0
    smaller = min(ranks[won].sum(), ranks[~won].sum())
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=ranks.size)]
    return min(1.0, 2 * np.mean([total <= smaller for total in sums]))


def test_wilcoxon_of_the_published_example():
    result = compare(-MAIZE)
    assert (result.best, result.statistic, result.n, result.zeros, result.method) == (
        "y",
        24.0,
        15,
        0,
        "exact",
    )
    assert result.p == pytest.approx(0.041259765625)
    assert result.stars == "*"


def test_effect_by_hand_and_its_sign():
    # ranks 1..4: won 1, lost 2 + 3 + 4 = 9, so (1 - 9) / 10
    result = compare([1, -2, -3, -4])
    assert (result.effect, result.statistic) == (pytest.approx(-0.8), 1.0)
    # lower is better: the same sample beats the best in three of four cases and still has the worse mean
    assert compare([-1, -2, -3, 40], higher_is_better=False).effect == pytest.approx((6 - 4) / 10)
    # Pratt: the zero takes rank 1; won 2, lost 3 + 4 + 5
    assert compare([0, 1, -2, -3, -4]).effect == pytest.approx((2 - 12) / 14)
    assert compare([-1, -2, -3, -4]).effect == -1.0


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
def test_small_samples_against_enumeration(differences):
    result = compare(differences)
    assert result.p == pytest.approx(enumerated_p(differences))
    assert result.p >= 2.0 ** (1 - len(differences))
    assert result.zeros == differences.count(0)
    assert result.method.startswith("exact")


def test_counting_agrees_with_scipy_where_scipy_is_exact():
    rng = np.random.default_rng(0)
    for n in (5, 12, 30, 50):
        differences = np.round(rng.permutation(n) + 1.0) * rng.choice([-1, 1], n, p=[0.7, 0.3])
        ranks = np.abs(differences)
        expected = scipy.stats.wilcoxon(differences, zero_method="pratt", method="exact")
        smaller = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
        assert signed_rank._signed_rank_p(ranks, smaller) == pytest.approx(expected.pvalue)


def test_four_equal_differences_are_not_significant():
    assert scipy.stats.wilcoxon([-1.0] * 4, zero_method="pratt", method="approx").pvalue < 0.05  # the trap
    result = compare([-1.0] * 4)
    assert (result.p, result.stars, result.method) == (0.125, "", "exact, ties or zeros")


def many_pairs():
    differences = np.round(np.random.default_rng(1).normal(-0.4, 2, size=80))
    assert np.count_nonzero(differences == 0) > 5
    assert np.unique(np.abs(differences)).size < 10
    return differences


def test_many_pairs_against_scipy():
    differences = many_pairs()
    result = compare(differences)
    expected = scipy.stats.wilcoxon(differences, zero_method="pratt", correction=False, method="approx")
    assert (result.statistic, result.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert (result.n, result.zeros, result.method) == (80, np.count_nonzero(differences == 0), "asymptotic")


def test_many_pairs_against_the_formula():
    """Normal approximation with Cureton's correction for zeros and the usual one for ties."""
    differences = many_pairs()
    n, zeros = differences.size, np.count_nonzero(differences == 0)
    _, ties = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    mean = (n * (n + 1) - zeros * (zeros + 1)) / 4
    variance = (n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1)) / 24 - (
        ties**3 - ties
    ).sum() / 48
    result = compare(differences)
    assert result.p == pytest.approx(2 * scipy.stats.norm.sf((mean - result.statistic) / variance**0.5))


def test_fifty_pairs_are_exact_and_fifty_one_are_not():
    differences = -(np.arange(51) + 1.0) * np.where(np.arange(51) % 3, 1, -1)
    assert compare(differences[:50]).method == "exact"
    assert compare(differences).method == "asymptotic"


@pytest.mark.parametrize("n", [1, 4, 60])
def test_no_differences_at_all(n):
    for value in (0.5, 0.0):
        result = wilcoxon_against_best({"y": np.full(n, value), "x": np.full(n, value)}, True)["x"]
        assert (result.p, result.effect, result.stars, result.zeros, result.method) == (
            1.0,
            0.0,
            "",
            n,
            "all differences are zero",
        )


def test_rounding_errors_break_no_ties():
    """0.5 - 0.525, 0.825 - 0.775 and so on are 0.025 and three times 0.05, but not in binary."""
    x, y = np.array([0.5, 0.825, 0.375, 0.5]), np.array([0.525, 0.775, 0.325, 0.55])
    result = wilcoxon_against_best({"x": x, "y": y}, True)["y"]
    assert result.statistic == 4.0  # ranks 1, 3, 3, 3: the best wins 3 + 3 and loses 1 + 3
    # the unit is of no matter, however small
    tiny = wilcoxon_against_best({"x": 1e-9 * x, "y": 1e-9 * y}, True)["y"]
    assert (tiny.p, tiny.effect) == (result.p, result.effect)


def test_unpaired_and_missing_samples():
    with pytest.raises(ValueError, match=r"paired.*'x': 3.*'y': 2"):
        wilcoxon_against_best({"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0]}, True)
    with pytest.raises(ValueError, match="samples"):
        wilcoxon_against_best({}, True)
    assert wilcoxon_against_best({"x": [1.0, 2.0]}, True) == {}


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
