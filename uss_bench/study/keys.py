"""What a model is called: its key, and everything that follows from it."""

from __future__ import annotations

from typing import NamedTuple

KINDS = (
    "initial",
    "iteration",
    "converged",
    "data pool",
)  # the column `model` of result files, in their order


class ModelKey(NamedTuple):
    """Which of a run's models: its kind (one of `KINDS`), strategy ("" for none), iteration (None for the data pool)."""

    kind: str
    strategy: str
    iteration: int | None

    @classmethod
    def of_iteration(cls, strategy: str, iteration: int) -> ModelKey:
        return cls("iteration", strategy, iteration)

    @classmethod
    def of_converged(cls, strategy: str, iteration: int) -> ModelKey:
        return cls("converged", strategy, iteration)

    @classmethod
    def from_row(cls, row: dict[str, str]) -> ModelKey:
        """Key of a row of a result file, of which those on annotation have no column `model`.

        >>> ModelKey.from_row({"model": "iteration", "strategy": "A", "iteration": "2"})
        ModelKey(kind='iteration', strategy='A', iteration=2)
        """
        if "model" not in row:
            without_strategy = {"": INITIAL, DATA_POOL.kind: DATA_POOL}
            if row["strategy"] in without_strategy:
                return without_strategy[row["strategy"]]
        iteration = int(row["iteration"]) if row["iteration"] else None
        return cls(row.get("model", "iteration"), row["strategy"], iteration)

    def as_row(self) -> dict:
        """The columns `model`, `strategy` and `iteration` of a result file."""
        return {"model": self.kind, "strategy": self.strategy, "iteration": self.iteration}

    @property
    def folder(self) -> str:
        """Folder inside a run's.

        >>> ModelKey("iteration", "A", 2).folder, DATA_POOL.folder
        ('A/iter-2', 'data-pool')
        """
        if self.strategy:
            return f"{self.strategy}/{'converged' if self.converges else f'iter-{self.iteration}'}"
        return self.kind.replace(" ", "-")

    @property
    def title(self) -> str:
        """The key in words.

        >>> INITIAL.title, ModelKey("converged", "A", 2).title
        ('initial model', 'A iteration 2, converged')
        """
        if not self.strategy:
            return f"{self.kind} model"
        return f"{self.strategy} iteration {self.iteration}{', converged' if self.converges else ''}"

    @property
    def converges(self) -> bool:
        """Whether the model is trained until convergence and not for a limited number of epochs."""
        return self.kind in ("converged", "data pool")

    @property
    def annotations(self) -> ModelKey:
        """Key of the model whose annotations these are: the converged one is trained on those of its iteration."""
        return ModelKey.of_iteration(self.strategy, self.iteration) if self.kind == "converged" else self

    @property
    def annotator(self) -> str:
        """Who annotated, in result files without the column `model`."""
        return self.kind if self == DATA_POOL else self.strategy

    @property
    def draw(self) -> dict:
        """What names the model's random draws in `runtime.seeding`. The converged model is none of the iterations."""
        return {"strategy": self.strategy, "iteration": self.kind if self.converges else self.iteration}


INITIAL = ModelKey("initial", "", 0)
DATA_POOL = ModelKey("data pool", "", None)
COLUMNS = ("model", "strategy", "iteration")
