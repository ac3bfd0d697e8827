"""How query strategies choose: each rule is a function of a pool, a count and a generator.

A rule returns `count` queries, the most wanted first, and fewer where there are no more. It sees a `Pool` and
never a label. Ties are broken by case id and slice, so that what it chooses depends on nothing but
its arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy.signal import find_peaks

from .pool import Pool, PoolCase, Query

BATCHES = 100  # that `stochastic_batch` draws


# --- volumes ---


def most_uncertain_volumes(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The untouched volumes of highest volume uncertainty (section II-E of the paper)."""
    return _untouched_by(pool, "volume")[:count]


def random_volumes(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """Untouched volumes, drawn without replacement (section II-E of the paper)."""
    case_ids = sorted(case.case_id for case in pool.untouched)
    drawn = generator.choice(case_ids, size=min(count, len(case_ids)), replace=False)
    return [Query(str(case_id)) for case_id in drawn]


def most_disagreed_volumes(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The untouched volumes on which the Monte Carlo samples' masks agree least, by mean pairwise DICE.

    Roy et al., NeuroImage 2019, ask for it as a measure of quality; Zenk et al., Medical Image Analysis 2025,
    find it the most robust one of failure.
    """
    return _untouched_by(pool, "disagreement")[:count]


# --- slices by uncertainty ---


def most_uncertain_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The slice candidates of highest slice uncertainty over the whole pool (section II-E of the paper)."""
    return _candidates_by(pool, "profile")[:count]


def spread_uncertain_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The candidates of highest uncertainty, but none near an annotated slice and a fair share per volume.

    Candidates nearer than the least distance to an annotated slice are left out. The share is the least
    number of slices per volume with which `count` can be had. The paper's rule lacks both, and asks for
    neighbours of what it has asked for before.
    """
    annotated = {case.case_id: case.annotated for case in pool.cases}
    far = [
        query
        for query in _candidates_by(pool, "profile")
        if all(abs(query.z - z) >= pool.min_distance for z in annotated[query.case_id])
    ]
    ranks = _ranks(far)
    share = max(sorted(ranks)[:count], default=0)
    return [query for query, rank in zip(far, ranks, strict=True) if rank <= share][:count]


def most_informative_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The candidates of highest mutual information instead of entropy: BALD.

    Houlsby et al., arXiv 1112.5745; with Monte Carlo dropout Gal, Islam and Ghahramani, ICML 2017.
    """
    return _candidates_by(pool, "information")[:count]


def power_entropy_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """Open slices of highest log uncertainty plus Gumbel noise: drawn in proportion to their uncertainty.

    PowerEntropy of Kirsch et al., TMLR 2023, with their exponent of 1. Slices without any uncertainty come
    last.
    """
    queries = _scored_slices(pool, "profile")
    with np.errstate(divide="ignore"):
        noisy = np.log([query.score for query in queries]) + generator.gumbel(size=len(queries))
    return [queries[place] for place in np.argsort(-noisy, kind="stable")[:count]]


def stochastic_batch(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """Of `BATCHES` random batches of open slices the one of highest mean uncertainty.

    Gaillochet, Desrosiers and Lombaert, Medical Image Analysis 2023.
    """
    queries = _scored_slices(pool, "profile")
    scores, size = np.array([query.score for query in queries]), min(count, len(queries))
    batches = [generator.choice(len(queries), size, replace=False) for _ in range(BATCHES if size else 0)]
    best = max(batches, key=lambda batch: scores[batch].mean(), default=())
    return sorted((queries[place] for place in best), key=_highest_first)


# --- slices without uncertainty ---


def random_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """All open slices in random order, whatever the count (section II-E of the paper).

    How many of them are annotated until `count` show liver is not for a rule to see: `Strategy.until_liver`.
    """
    queries = _open_slices(pool)
    return [queries[index] for index in generator.permutation(len(queries))]


def random_liver_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """Random slices among those where the model predicts liver; if they do not suffice, among the others.

    The random baseline adapted to a task of much background; nnActive, TMLR 2025, names its lack as one of
    four pitfalls of earlier studies.
    """
    liver = {case.case_id: case.scores.get("liver") for case in pool.cases}
    queries = random_slices(pool, count, generator)
    return sorted(queries, key=lambda query: not liver[query.case_id][query.z])[:count]


def random_slices_in_turn(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """Random slices, as many from every volume: breadth first.

    Volumes take turns, those with the fewest annotated slices first, else in random order. Fewer slices of
    more volumes are "almost always preferable" in Zhang et al., MIDL 2025.
    """
    queries = [
        Query(case.case_id, int(z))
        for case in _shuffled(pool, generator)
        for z in generator.permutation(case.open_slices)
    ]
    return _in_turn(pool, queries)[:count]


def farthest_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The slices farthest from everything annotated, volumes in turn: equidistant in the end.

    Volumes with the fewest annotated slices come first, else in random order. The ends of a volume count as
    annotated, so that gaps are halved, and an untouched volume begins with its middle. It needs no model.
    """
    cases = _shuffled(pool, generator)
    queries = [Query(case.case_id, z) for case in cases for z in _farthest_first(case, count)]
    return _in_turn(pool, queries)[:count]


def _farthest_first(case: PoolCase, count: int) -> Iterator[int]:
    """At most `count` open slices of a volume, each the farthest from the annotated ones and those before."""
    z = np.arange(case.slices)
    distance = np.minimum(z + 1, case.slices - z)
    for other in case.annotated:
        distance = np.minimum(distance, abs(z - other))
    for _ in range(min(count, len(case.open_slices))):
        farthest = int(np.argmax(distance))
        yield farthest
        distance = np.minimum(distance, abs(z - farthest))


# --- oracles, which read labels ---


def most_wrong_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The candidates with most wrong voxels: what uncertainty would ask for if it were the error itself.

    No strategy for anybody: it shows what is to be gained, as the greedy oracle of CDALBench, NeurIPS 2024.
    """
    return _candidates_by(pool, "errors")[:count]


# --- what the rules share ---


def slice_candidates(profile: np.ndarray, min_distance: int = 5) -> np.ndarray:
    """Local maxima of a slice uncertainty profile that are far enough apart.

    Of two closer maxima the higher stays; a plateau counts once, at its middle. The first and the last slice
    have only one neighbour and are never maxima.

    Parameters
    ----------
    profile : ndarray
        `(z,)`, uncertainty of each slice.
    min_distance : int
        Least distance between two candidates, in slices.

    Returns
    -------
    ndarray
        Slices, sorted.

    Raises
    ------
    ValueError
        The profile has not one axis, or the distance is less than 1.

    Examples
    --------
    >>> slice_candidates(np.array([0, 3, 0, 2, 0, 0, 1, 0]), min_distance=3)
    array([1, 6])
    """
    peaks, _ = find_peaks(profile, distance=min_distance)
    return peaks


def _untouched_by(pool: Pool, score: str) -> list[Query]:
    """Untouched volumes, the highest score first."""
    return sorted(
        (Query(case.case_id, score=case.scores[score]) for case in pool.untouched), key=_highest_first
    )


def _candidates_by(pool: Pool, score: str) -> list[Query]:
    """Slice candidates that are not annotated, the highest score first."""
    return sorted(
        (
            Query(case.case_id, int(z), float(case.scores[score][z]))
            for case in pool.cases
            if len(case.annotated) < case.slices
            for z in slice_candidates(case.scores[score], pool.min_distance)
            if z not in case.annotated
        ),
        key=_highest_first,
    )


def _highest_first(query: Query) -> tuple:
    return -query.score, query.case_id, query.z


def _shuffled(pool: Pool, generator: np.random.Generator) -> list[PoolCase]:
    """The volumes in random order, whatever theirs was."""
    cases = sorted(pool.cases, key=lambda case: case.case_id)
    return [cases[place] for place in generator.permutation(len(cases))]


def _open_slices(pool: Pool) -> list[Query]:
    """Every open slice, by case id and slice."""
    return sorted(Query(case.case_id, z) for case in pool.cases for z in case.open_slices)


def _scored_slices(pool: Pool, score: str) -> list[Query]:
    """Every open slice with its score, by case id and slice."""
    scores = {case.case_id: case.scores.get(score) for case in pool.cases}
    return [query._replace(score=float(scores[query.case_id][query.z])) for query in _open_slices(pool)]


def _ranks(queries: Iterable[Query]) -> list[int]:
    """How many queries of the same volume come before each one."""
    seen: Counter[str] = Counter()
    ranks = []
    for query in queries:
        ranks.append(seen[query.case_id])
        seen[query.case_id] += 1
    return ranks


def _in_turn(pool: Pool, queries: Sequence[Query]) -> list[Query]:
    """Queries in an order in which volumes take turns, those with the fewest annotated slices first."""
    annotated = {case.case_id: len(case.annotated) for case in pool.cases}
    turns = [annotated[query.case_id] + rank for query, rank in zip(queries, _ranks(queries), strict=True)]
    return [queries[place] for place in np.argsort(turns, kind="stable")]
