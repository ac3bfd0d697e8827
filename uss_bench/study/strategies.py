"""The query strategies: one table, and the functions that choose (section II-E).

A strategy sees a `Pool` and never a label. Ties are broken by case id and slice, so that what it chooses
depends on nothing but its arguments. A new strategy is a function and a line of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import find_peaks

from ..runtime.errors import InputError


class Query(NamedTuple):
    """What is to be annotated next.

    Attributes
    ----------
    case_id : str
        The case.
    z : int or None
        The slice, counted from 0 on the working grid; None for the whole volume.
    score : float or None
        The uncertainty that decided, in nats; None where chance did.
    """

    case_id: str
    z: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class PoolCase:
    """What a strategy knows of a volume.

    Attributes
    ----------
    case_id : str
        Id of the case.
    slices : int
        Number of axial slices on the working grid.
    annotated : frozenset of int
        Slices that are annotated already.
    scores : dict
        Under the model that queries, by the names in the `needs` of the strategy: "volume", mean entropy of
        the predicted liver in nats; "profile", `(z,)` mean entropy of each slice in nats.
    """

    case_id: str
    slices: int
    annotated: frozenset[int] = frozenset()
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def open_slices(self) -> list[int]:
        """Slices that are not annotated yet."""
        return [z for z in range(self.slices) if z not in self.annotated]


@dataclass(frozen=True)
class Pool:
    """What a strategy chooses from.

    Attributes
    ----------
    cases : sequence of PoolCase
        The volumes.
    min_distance : int
        Least distance between slice candidates of a volume, in slices.
    """

    cases: Sequence[PoolCase]
    min_distance: int = 5

    @property
    def untouched(self) -> list[PoolCase]:
        """Volumes without any annotation."""
        return [case for case in self.cases if not case.annotated]


@dataclass(frozen=True)
class Strategy:
    """A query strategy.

    Attributes
    ----------
    name : str
        A few letters, for tables and figures.
    asks_for : str
        "volumes" or "slices".
    choose : callable
        `choose(pool, count, generator)` returns queries, the most wanted first, from a `Pool`, the number of
        volumes or slices to annotate, and a `numpy.random.Generator`.
    needs : tuple of str
        Names of the scores it reads. If there are any, the previous model is trained first and scores the
        pool.
    until_liver : bool
        Whether queries are annotated in their order only until `count` of them show liver.
    colour : str
        Of its lines in figures.
    rule : str
        What the report says of it, as the rest of a sentence that begins with its name.
    """

    name: str
    asks_for: str
    choose: Callable[[Pool, int, np.random.Generator], Iterable[Query]]
    needs: tuple[str, ...] = ()
    until_liver: bool = False
    colour: str = "#000000"
    rule: str = ""

    @property
    def by_slices(self) -> bool:
        """Whether it asks for slices and not for volumes."""
        return self.asks_for == "slices"

    @property
    def by_uncertainty(self) -> bool:
        """Whether a model's scores decide, and not chance."""
        return bool(self.needs)


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

    Examples
    --------
    >>> slice_candidates(np.array([0, 3, 0, 2, 0, 0, 1, 0]), min_distance=3)
    array([1, 6])
    """
    peaks, _ = find_peaks(profile, distance=min_distance)
    return peaks


def most_uncertain_volumes(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The untouched volumes of highest volume uncertainty."""
    queries = [Query(case.case_id, score=case.scores["volume"]) for case in pool.untouched]
    return sorted(queries, key=_most_uncertain_first)[:count]


def random_volumes(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """Untouched volumes, drawn without replacement."""
    case_ids = sorted(case.case_id for case in pool.untouched)
    return [Query(str(case_id)) for case_id in generator.choice(case_ids, size=count, replace=False)]


def most_uncertain_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """The slice candidates of highest slice uncertainty over the whole pool; fewer where fewer exist."""
    queries = [
        Query(case.case_id, int(z), float(case.scores["profile"][z]))
        for case in pool.cases
        if len(case.annotated) < case.slices
        for z in slice_candidates(case.scores["profile"], pool.min_distance)
        if z not in case.annotated
    ]
    return sorted(queries, key=_most_uncertain_first)[:count]


def random_slices(pool: Pool, count: int, generator: np.random.Generator) -> list[Query]:
    """All open slices in random order."""
    cases = sorted(pool.cases, key=lambda case: case.case_id)
    queries = [Query(case.case_id, z) for case in cases for z in case.open_slices]
    return [queries[index] for index in generator.permutation(len(queries))]


def _most_uncertain_first(query: Query) -> tuple:
    return -query.score, query.case_id, query.z


# In the order of the paper's tables. Okabe and Ito's colours: blue for volumes, orange for slices.
STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("UVS", "volumes", most_uncertain_volumes, needs=("volume",), colour="#0072B2"),
        Strategy("RVS", "volumes", random_volumes, colour="#56B4E9"),
        Strategy(
            "USS",
            "slices",
            most_uncertain_slices,
            needs=("profile",),
            colour="#D55E00",
            rule="adds exactly N_S candidates of highest slice uncertainty over the whole pool",
        ),
        Strategy(
            "RSS",
            "slices",
            random_slices,
            until_liver=True,
            colour="#E69F00",
            rule="adds random slices until N_S of them show liver",
        ),
    )
}
PAPER = ("UVS", "RVS", "USS", "RSS")
FEATURED = "USS"  # whose queries the figures show
BASELINE = "RSS"  # what a report across seeds holds the others against: slices by chance
BUDGET = "UVS"  # whose effort sets how many slices the slice strategies get


def in_order(names: Iterable[str]) -> list[str]:
    """Names of strategies, each once: those of the table in its order, then the others as they come.

    >>> in_order(["other", "USS", "UVS", "USS"])
    ['UVS', 'USS', 'other']
    """
    names = list(dict.fromkeys(names))
    return [
        *(name for name in STRATEGIES if name in names),
        *(name for name in names if name not in STRATEGIES),
    ]


def named(names: Iterable[str]) -> list[Strategy]:
    """Strategies by their names, each once, in the order of the table; `all` stands for the paper's four.

    Upper and lower case are the same.

    Raises
    ------
    InputError
        A name is unknown.

    Examples
    --------
    >>> [strategy.name for strategy in named(["rss", "uvs"])]
    ['UVS', 'RSS']
    """
    asked = [name.upper() for name in names]
    unknown = [name for name in asked if name not in STRATEGIES and name != "ALL"]
    if unknown:
        raise InputError(
            f"--strategy {' '.join(unknown)}: unknown; choose all, or any of {', '.join(STRATEGIES)}"
        )
    chosen = {*asked, *(PAPER if "ALL" in asked else ())}
    return [strategy for name, strategy in STRATEGIES.items() if name in chosen]
