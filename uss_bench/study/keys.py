"""What a model is called: its key, and everything that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# The column `model` of result files, in their order.
KINDS = ("initial", "twin", "iteration", "converged", "data pool")


class ModelKey(NamedTuple):
    """Which of a run's models is meant.

    Attributes
    ----------
    kind : str
        One of `KINDS`, or "fitted".
    strategy : str
        Name of the query strategy; empty for the initial model, its twins, the data pool and fitted model.
    iteration : int or None
        Counted from 1, as twins are; 0 for the initial and fitted model, None for the data pool model.
    """

    kind: str
    strategy: str
    iteration: int | None

    @classmethod
    def of_iteration(cls, strategy: str, iteration: int) -> ModelKey:
        """Key of the model that a strategy's iteration ends with; iteration 0 is the initial model's."""
        return cls("iteration", strategy, iteration) if iteration else INITIAL

    @classmethod
    def of_converged(cls, strategy: str, iteration: int) -> ModelKey:
        """Key of the model that is trained to convergence on what an iteration has annotated."""
        return cls("converged", strategy, iteration)

    @classmethod
    def of_twin(cls, number: int) -> ModelKey:
        """Key of a model that differs from the initial one in weights and batches alone."""
        return cls("twin", "", number)

    @classmethod
    def from_row(cls, row: dict[str, str]) -> ModelKey:
        """Key of a row of a result file; files on annotation have no column `model`.

        >>> ModelKey.from_row({"model": "iteration", "strategy": "A", "iteration": "2"})
        ModelKey(kind='iteration', strategy='A', iteration=2)
        """
        if "model" not in row:
            without_strategy = {"": INITIAL, DATA_POOL.kind: DATA_POOL}
            if row["strategy"] in without_strategy:
                return without_strategy[row["strategy"]]
        iteration = int(row["iteration"]) if row["iteration"] else None
        return cls(row.get("model", "iteration"), row["strategy"], iteration)

    def as_row(self) -> dict[str, str | int | None]:
        """The columns `model`, `strategy` and `iteration` of a result file."""
        return {"model": self.kind, "strategy": self.strategy, "iteration": self.iteration}

    @property
    def folder(self) -> str:
        """Folder of the model inside that of its run.

        >>> ModelKey("iteration", "A", 2).folder, DATA_POOL.folder, ModelKey("twin", "", 1).folder
        ('A/iter-2', 'data-pool', 'twin-1')
        """
        if self.kind == "twin":
            return f"twin-{self.iteration}"
        if self.strategy:
            return f"{self.strategy}/{'converged' if self.converges else f'iter-{self.iteration}'}"
        return self.kind.replace(" ", "-")

    @property
    def title(self) -> str:
        """The key in words.

        >>> INITIAL.title, ModelKey("converged", "A", 2).title
        ('initial model', 'A iteration 2, converged')
        """
        if self.kind == "twin":
            return f"twin {self.iteration} of the initial model"
        if not self.strategy:
            return f"{self.kind} model"
        return f"{self.strategy} iteration {self.iteration}{', converged' if self.converges else ''}"

    @property
    def converges(self) -> bool:
        """Whether the model is trained until convergence, and not for a limited number of epochs."""
        return self.kind in ("converged", "data pool", "fitted")

    @property
    def annotation_key(self) -> ModelKey:
        """Key of the model that was first trained on these annotations: no twin, no converged one."""
        first = {"converged": ModelKey.of_iteration(self.strategy, self.iteration), "twin": INITIAL}
        return first.get(self.kind, self)

    @property
    def annotator(self) -> str:
        """Who annotated, in result files without the column `model`."""
        return self.kind if self == DATA_POOL else self.strategy

    @property
    def draw(self) -> dict[str, str | int | None]:
        """Names of the model's random draws in `runtime.seeding`, for converged models and twins too."""
        name = self.folder if self.kind == "twin" else self.kind if self.converges else self.iteration
        return {"strategy": self.strategy, "iteration": name}

    @property
    def weights_draw(self) -> dict[str, str | int | None]:
        """Names of the draw of the first weights, which all models of a seed share but for the twins."""
        return self.draw if self.kind == "twin" else {}


INITIAL = ModelKey("initial", "", 0)
DATA_POOL = ModelKey("data pool", "", None)
FITTED = ModelKey("fitted", "", 0)  # of `uss-bench fit`, which belongs to no simulation
COLUMNS = ("model", "strategy", "iteration")


def of_run(strategies: Sequence[str], iterations: int, twins: int) -> list[ModelKey]:
    """Keys of all models of a run, in the order of its report.

    >>> [key.title for key in of_run(["A"], 1, 0)]
    ['initial model', 'A iteration 1', 'A iteration 1, converged', 'data pool model']
    """
    steps = range(1, iterations + 1)
    return [
        INITIAL,
        *(ModelKey.of_twin(number) for number in range(1, twins + 1)),
        *(ModelKey.of_iteration(strategy, iteration) for strategy in strategies for iteration in steps),
        *(ModelKey.of_converged(strategy, iterations) for strategy in strategies),
        DATA_POOL,
    ]
