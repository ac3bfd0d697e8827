"""The runs of several seeds as one: gathered into a folder, read back, and asked for arrays.

The folder of a report across seeds holds the tables of all its seeds, with a column `seed`: the report is
built from what lies beside it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..runtime import paths, storage
from ..runtime.errors import InputError
from ..study.keys import INITIAL, ModelKey
from .effort import equivalent_slices, mean_height
from .results import TABLES, Results, read_scores, require_files, results_of

# Tables of which every seed has its own; the volumes are the same for all.
BY_SEED = tuple(name for name in TABLES if name != paths.VOLUMES)


class Budget(NamedTuple):
    """Models of the strategies that are compared with each other.

    Attributes
    ----------
    title : str
        In words.
    kind : str
        Of the models: "iteration" or "converged".
    iteration : int
        After which the strategies have annotated what they are trained on.
    """

    title: str
    kind: str
    iteration: int

    def key(self, strategy: str) -> ModelKey:
        """The model of a strategy."""
        return ModelKey(self.kind, strategy, self.iteration)


@dataclass(frozen=True)
class Seeds:
    """Results of the same benchmark under several seeds.

    Attributes
    ----------
    runs : dict
        `{seed: Results}`, all of the same models and cases.
    """

    runs: dict[int, Results]

    @property
    def numbers(self) -> list[int]:
        """The seeds in their order, which is that of all arrays."""
        return list(self.runs)

    @property
    def first(self) -> Results:
        """One of the runs, for all that they share."""
        return next(iter(self.runs.values()))

    @property
    def strategies(self) -> list[str]:
        """Names of the strategies."""
        return self.first.strategies

    @property
    def contenders(self) -> list[str]:
        """Those that are compared with each other: all but oracles and lists of their queries."""
        return self.first.contenders

    @property
    def final(self) -> Budget:
        """The final models."""
        return Budget("converged", "converged", self.first.last)

    @property
    def by_iteration(self) -> list[Budget]:
        """The models of each iteration."""
        return [Budget(f"iteration {number}", "iteration", number) for number in self.first.iterations]

    @property
    def budgets(self) -> list[Budget]:
        """The final models, then the iterations from the last to the first."""
        return [self.final, *reversed(self.by_iteration)]

    @property
    def final_word(self) -> str:
        """What final models are called: "converged" where those of all seeds are."""
        return "final" if any(run.stopped for run in self.runs.values()) else "converged"

    def words_for(self, budget: str) -> str:
        """What the models of a budget, given by its title, are called."""
        return self.final_word if budget == self.final.title else budget

    @property
    def twins(self) -> list[ModelKey]:
        """Models that differ from the initial one in weights and batches alone."""
        return self.first.twins

    def scores(self, key: ModelKey, metric: str) -> np.ndarray:
        """Scores of a model, `(seeds, cases)`."""
        return np.array([run.scores[key][metric] for run in self.runs.values()])

    def means(self, key: ModelKey, metric: str) -> np.ndarray:
        """Mean scores of a model over the cases, `(seeds,)`."""
        return self.scores(key, metric).mean(axis=1)

    def effort(self, key: ModelKey) -> np.ndarray:
        """Equivalent slices behind a model, `(seeds,)`."""
        return np.array([equivalent_slices(run, key) for run in self.runs.values()])

    def liver_free(self, key: ModelKey) -> np.ndarray:
        """Slices without liver that a model was trained on, `(seeds,)`."""
        efforts = [run.effort[key] for run in self.runs.values()]
        return np.array([each["annotated_slices"] - each["annotated_liver_slices"] for each in efforts])

    def steps(self, key: ModelKey) -> list[int]:
        """How many steps a model was trained for, seed by seed."""
        return [run.training[key]["last_step"] for run in self.runs.values()]

    def areas(self, strategy: str, metric: str) -> np.ndarray:
        """Mean height of each case's curve of a metric over the effort, `(seeds, cases)`.

        A curve runs from the initial model through a strategy's iterations. Each seed's is taken over the
        range that all its contenders cover, so that strategies are compared at equal effort.
        """
        heights = []
        for run, (start, stop) in zip(self.runs.values(), self.ranges, strict=True):
            keys = run.curve(strategy)
            curve = np.array([run.scores[key][metric] for key in keys])
            heights.append(mean_height([equivalent_slices(run, key) for key in keys], curve, start, stop))
        return np.array(heights)

    @property
    def ranges(self) -> np.ndarray:
        """From the initial effort to the least that a contender ends with, `(seeds, 2)`."""
        ends = [self.effort(self.first.curve(strategy)[-1]) for strategy in self.contenders]
        return np.stack([self.effort(INITIAL), np.min(ends, axis=0)], axis=1)

    @property
    def overlapping(self) -> bool:
        """Whether the contenders of every seed cover some range of effort together."""
        return bool(self.contenders) and bool((self.ranges[:, 1] > self.ranges[:, 0]).all())

    @property
    def retrained(self) -> bool:
        """Whether the final models are the last iteration's once more, but for their batches."""
        return all(run.retrained for run in self.runs.values())


# --- gathered and read back ---


def gather(folder: str | Path, reports: Mapping[int, str | Path]) -> None:
    """Put the results of several runs into the folder of their report across seeds.

    Parameters
    ----------
    folder : path
        Of the report across seeds.
    reports : mapping
        `{seed: report folder}` of finished runs.

    Raises
    ------
    InputError
        A result file is missing, or the runs have not the same models, cases or files of cases.
    """
    reports = dict(sorted(reports.items()))
    _refuse_unlike(reports)
    for name in BY_SEED:
        rows = [
            {**row, "seed": seed}
            for seed, report in reports.items()
            for row in storage.read_csv(Path(report) / name)
        ]
        columns = ["seed", *(column for column in (rows[0] if rows else ()) if column != "seed")]
        storage.write_csv(Path(folder) / name, columns, rows)
    first = Path(next(iter(reports.values())))
    storage.write_text(Path(folder) / paths.VOLUMES, (first / paths.VOLUMES).read_text(encoding="utf-8"))
    origins = {str(seed): _provenance(report) for seed, report in reports.items()}
    storage.write_json(Path(folder) / paths.PROVENANCE, {"seeds": origins})


def _provenance(report: str | Path) -> dict[str, Any]:
    return storage.read_json(Path(report) / paths.PROVENANCE)


def _refuse_unlike(reports: Mapping[int, str | Path]) -> None:
    """Raise InputError unless all runs have the models, the cases and the files of the first."""
    runs = {report: read_scores(report) for report in reports.values()}
    leader, first = next(iter(runs.items()))
    for report, run in runs.items():
        unlike = [
            what
            for what, ours, theirs in (
                ("strategies or iterations", run.scores.keys(), first.scores.keys()),
                ("test cases", run.cases, first.cases),
                ("files of cases", run.volumes, first.volumes),
            )
            if ours != theirs
        ]
        if unlike:
            raise InputError(
                f"{report}: other {' and '.join(unlike)} than {leader}; run all seeds with the same options"
            )


def read_seeds(folder: str | Path) -> Seeds:
    """The runs that were gathered into the folder of a report across seeds.

    Raises
    ------
    InputError
        A result file is missing.
    """
    folder = Path(folder)
    require_files(folder, (*TABLES, paths.PROVENANCE))
    tables = {name: storage.read_csv(folder / name) for name in TABLES}
    runs = {}
    origins = storage.read_json(folder / paths.PROVENANCE)["seeds"]
    for seed, origin in sorted(origins.items(), key=lambda item: int(item[0])):
        own = {name: [row for row in tables[name] if row["seed"] == seed] for name in BY_SEED}
        runs[int(seed)] = results_of(folder, {**own, paths.VOLUMES: tables[paths.VOLUMES]}, origin)
    return Seeds(runs)
