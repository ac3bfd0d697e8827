"""What is known of a model: what it is trained on and, in the end, how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .annotation import Annotations
from .keys import ModelKey


@dataclass(frozen=True)
class TrainingSet:
    """What a model is trained on.

    Attributes
    ----------
    key : ModelKey
        The model.
    annotations : Annotations
        All that is annotated for it.
    queries : sequence
        `(case_id, z, score)` of what was annotated since the previous model, as `pool.Query`.
    notes : sequence of str
        Anything unusual about the queries.
    draws_as : str
        Strategy whose name its training draws under, if not its own; see `Strategy.replays`.
    """

    key: ModelKey
    annotations: Annotations
    queries: Sequence[Any] = ()
    notes: Sequence[str] = ()
    draws_as: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelRecord(TrainingSet):
    """A trained and evaluated model.

    Attributes
    ----------
    effort : dict
        Counts of what is annotated, see `annotation.effort`.
    training : dict
        Outcome of the training, see `Models.train`.
    evaluation : list of dict
        Scores of each test case, see `Models.evaluate`.
    """

    effort: dict[str, int]
    training: dict[str, Any]
    evaluation: list[dict[str, Any]]
