"""What is annotated next: a strategy is shown the pool, and its queries are cut to what it may have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.volumes import Volume
from ..runtime.errors import InputError
from ..runtime.seeding import generator
from .annotation import Annotations
from .pool import OF_ORACLES, Pool, PoolCase, Query, unpack_mask
from .records import TrainingSet
from .strategies import Strategy


def in_voxels(lengths: Iterable[float], spacing: Iterable[float]) -> list[int]:
    """Lengths along (z, y, x) from mm to voxels of a grid, at least one.

    >>> in_voxels([7.5, 5, 5], (1.5, 1, 1)), in_voxels([7.5, 5, 5], (20, 20, 20))
    ([5, 5, 5], [1, 1, 1])
    """
    return [max(1, round(mm / edge)) for mm, edge in zip(lengths, spacing, strict=True)]


def slices_apart(distance: float, edge: float) -> int:
    """A distance in mm as slices of so many mm, rounded up; at least one.

    >>> slices_apart(7.5, 6), slices_apart(7.2, 2.4), slices_apart(0, 6)
    (2, 3, 1)
    """
    return max(1, math.ceil(distance / edge - 1e-9))  # 7.2 / 2.4 is more than 3 in floating point


class Querying:
    """Asks strategies for their queries.

    Parameters
    ----------
    config : config.Config
        Settings of the run.
    volumes : mapping
        `{case_id: Volume}` of the pool.
    seed : int
        Names the draws, together with strategy and iteration.
    """

    def __init__(self, config: Any, volumes: Mapping[str, Volume], seed: int):
        self.config, self.volumes, self.seed = config, volumes, seed

    @property
    def min_distance(self) -> int:
        """Least distance between slice candidates of a volume, in slices of the working grid, rounded up."""
        return slices_apart(self.config.query.min_distance_mm, self.config.data.spacing[0])

    def query(
        self, strategy: Strategy, before: TrainingSet, count: int, scores: Iterable[Mapping[str, Any]]
    ) -> dict[str, list]:
        """What a strategy asks for next.

        Parameters
        ----------
        strategy : Strategy
            The strategy.
        before : TrainingSet
            Of the model that queries.
        count : int
            Volumes or slices to annotate.
        scores : iterable of dict
            What `Models.score` returned for the cases that may be queried; empty where the strategy needs
            none.

        Returns
        -------
        dict
            `queries`, a list of `pool.Query`, and `notes`, texts on anything unusual.
        """
        scores = {score["case_id"]: score for score in scores}
        pool = self._pool(strategy, before, scores)
        draws = generator(self.seed, strategy.name, pool.iteration, "query")
        queries = list(strategy.choose(pool, count, draws))
        if not strategy.until_liver and not strategy.replays:
            queries = queries[:count]
        notes = [
            f"no liver predicted in {case_id}: uncertainty over the whole volume"
            for case_id, score in scores.items()
            if "volume" in strategy.needs and score["empty"]
        ]
        if strategy.until_liver:
            queries, found = self._until_liver(queries, count)
            if found < count:
                notes.append(f"only {found} liver slices left for {count}")
        elif len(queries) < count and not strategy.replays:
            what = "slice candidates for {} slices" if strategy.by_slices else "volumes for {}"
            notes.append(f"only {len(queries)} {what.format(count)}")
        if strategy.by_slices and (near := self._near(queries, before.annotations)):
            distance = self.config.query.min_distance_mm
            notes.append(
                f"{near} of {len(queries)} slices lie{'s' * (near == 1)} nearer than {distance:g} mm to an "
                "annotated one"
            )
        return {"queries": queries, "notes": notes}

    def refuse_changes(
        self,
        strategy: Strategy,
        before: TrainingSet,
        count: int,
        scores: Iterable[Mapping[str, Any]],
        queried: Mapping[str, Any],
        folder: Path,
    ) -> None:
        """Raise InputError where a strategy's file has changed so that it would now ask for something else.

        A file may be corrected in the middle of a run, so long as it asks for what has been annotated.

        Parameters
        ----------
        strategy, before, count, scores
            As for `query`.
        queried : mapping
            What `query` returned for them once.
        folder : Path
            Of the strategy's models.
        """
        again = self.query(strategy, before, count, scores)["queries"]
        if [list(query) for query in again] != [list(query) for query in queried["queries"]]:
            raise InputError(
                f"{strategy.origin.file}: in iteration {before.key.iteration + 1}, {strategy.name} asks for "
                f"other {strategy.asks_for} than its models were trained on; bring the file back, "
                f"remove {folder}, or choose another --name"
            )

    def _pool(self, strategy: Strategy, before: TrainingSet, scores: Mapping[str, Mapping[str, Any]]) -> Pool:
        """The pool as a strategy sees it: with the scores that it needs, and without labels."""
        cases = [
            PoolCase(
                case_id,
                volume.shape[0],
                before.annotations.of(case_id),
                self._shown(strategy, case_id, scores[case_id]) if case_id in scores else {},
            )
            for case_id, volume in self.volumes.items()
        ]
        return Pool(cases, self.min_distance, self.config.data.spacing, before.key.iteration + 1)

    def _shown(self, strategy: Strategy, case_id: str, score: Mapping[str, Any]) -> dict[str, Any]:
        """The scores of a case that a strategy needs, those of slices as arrays."""
        if strategy.is_oracle:
            wrong = unpack_mask(score["mask"]) != self.volumes[case_id].label.astype(bool)
            score = {**score, OF_ORACLES: np.count_nonzero(wrong, axis=(1, 2))}
        shown = {name: score[name] for name in strategy.needs}
        return {
            name: np.asarray(value) if isinstance(value, list) else value for name, value in shown.items()
        }

    def _until_liver(self, queries: Sequence[Query], count: int) -> tuple[Sequence[Query], int]:
        """Queries up to the one with which `count` of them show liver, and how many do."""
        found = 0
        for number, query in enumerate(queries):
            if found == count:
                return queries[:number], found
            found += bool(self.volumes[query.case_id].shows_liver(query.z))
        return queries, found

    def _near(self, queries: Iterable[Query], annotations: Annotations) -> int:
        """How many slices lie nearer than the least distance to one that was annotated before."""
        return sum(
            any(abs(z - other) < self.min_distance for other in annotations.of(case_id))
            for case_id, z, _ in queries
        )
