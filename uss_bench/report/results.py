"""What the report knows of a run, read back from its result files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import paths, storage
from ..runtime.errors import InputError
from ..study.annotation import COUNTS
from ..study.keys import DATA_POOL, ModelKey
from ..study.metrics import METRICS
from ..study.strategies import ORACLES, in_order
from ..study.surfaces import volume_diagonal
from .result_files import SIZE, SPACING
from .uncertainty_statistics import PoolSlices, Reliability, Uncertainties

# What is read back for a report, beside the provenance.
TABLES = (paths.CASES, paths.ANNOTATION, paths.QUERIES, paths.TRAINING, paths.VOLUMES)


@dataclass(frozen=True)
class Results:
    """What the report knows of a run.

    Attributes
    ----------
    scores : dict
        `{ModelKey: {metric: (n,) array}}` over the test cases, in one order for all models; infinite
        distances, where a mask is empty, are replaced by the diagonal of the case's volume, an infinite RVE
        by that of a missed liver.
    missed : dict
        `{ModelKey: [ids of the cases in which it missed the liver altogether]}`.
    cases, sites, variants : list of str
        Ids, sites and variants of the test cases, in the order of the scores; variants are empty where the
        manifest names none.
    effort : dict
        `{ModelKey: {"annotated_slices", ...}}` of what each model was trained on.
    training : dict
        `{ModelKey: {"best_step", "last_step", "best_jaccard"}}`.
    queries, volumes : list of dict
        Rows of the files, as text.
    provenance : dict
        Content of the file.
    uncertainties : Uncertainties or None
        What is known of the uncertainties of the models that queried; None where nothing is.
    """

    scores: dict[ModelKey, dict[str, np.ndarray]]
    missed: dict[ModelKey, list[str]]
    cases: list[str]
    sites: list[str]
    variants: list[str]
    effort: dict[ModelKey, dict[str, int]]
    training: dict[ModelKey, dict[str, Any]]
    queries: list[dict[str, str]]
    volumes: list[dict[str, str]]
    provenance: dict[str, Any]
    uncertainties: Uncertainties | None = None

    @property
    def strategies(self) -> list[str]:
        """Names of the strategies, in the order of the table of strategies."""
        return in_order(key.strategy for key in self.scores if key.strategy)

    @property
    def contenders(self) -> list[str]:
        """The strategies that are compared with each other: all but oracles, which read labels, and lists of
        what an oracle has asked for."""
        further = self.provenance.get("further_strategies", {})
        return [
            name
            for name in self.strategies
            if not {name, further.get(name, {}).get("replays")}.intersection(ORACLES)
        ]

    @property
    def pool_mix(self) -> np.ndarray | None:
        """Weights `(n,)` of the test cases by which each variant counts as often as it is found in the pool.

        A test split that is enriched in what is rare in the pool favours those who asked for it. None where
        variants are not named or are as frequent in both.
        """
        in_pool = Counter(row.get("variant", "") for row in self.volumes if row.get("split") == "pool")
        in_test = Counter(self.variants)
        weights = np.array([in_pool[variant] / in_test[variant] for variant in self.variants])
        return weights / weights.sum() if len(set(weights)) > 1 else None

    @property
    def last(self) -> int:
        """The last iteration."""
        return max(key.iteration for key in self.scores if key.kind == "iteration")

    @property
    def iterations(self) -> range:
        """All iterations, counted from 1."""
        return range(1, 1 + self.last)

    @property
    def final_models(self) -> dict[str, ModelKey]:
        """The converged models and the data pool's, by the name that a reader knows them by."""
        converged = {strategy: ModelKey.of_converged(strategy, self.last) for strategy in self.strategies}
        return {**converged, DATA_POOL.kind: DATA_POOL}

    @property
    def twins(self) -> list[ModelKey]:
        """Models that differ from the initial one in weights and batches alone."""
        return [key for key in self.scores if key.kind == "twin"]

    @property
    def stopped(self) -> list[ModelKey]:
        """Those of the models that train until convergence which ended at a limit of steps instead."""
        limit = self.provenance["config"]["training"]["converged_max_steps"]
        converging = [key for key in self.scores if key.converges]
        return [key for key in converging if limit and self.training[key]["last_step"] >= limit]

    @property
    def final_word(self) -> str:
        """What final models are called: "converged", or "final" where a limit of steps ended any of them."""
        return "final" if self.stopped else "converged"

    @property
    def patients(self) -> int:
        """Of how many patients the test cases are."""
        patients = {row["case_id"]: row.get("patient_id") or row["case_id"] for row in self.volumes}
        return len({patients[case] for case in self.cases})

    @property
    def retrained(self) -> bool:
        """Whether the final models are the last iteration's once more, but for their batches."""
        steps = {
            training["last_step"]
            for key, training in self.training.items()
            if key.kind in ("iteration", "converged") and key.iteration == self.last
        }
        return len(steps) == 1 and all(
            ModelKey.of_converged(strategy, self.last) in self.stopped for strategy in self.strategies
        )

    @property
    def repeated(self) -> list[tuple[ModelKey, ModelKey]]:
        """Final models that are mere retrainings, oracles left out, each with the model that it repeats."""
        if not self.retrained:
            return []
        return [(self.final_models[strategy], self.curve(strategy)[-1]) for strategy in self.contenders]

    @property
    def final_title(self) -> str:
        """What the models that train until convergence are called, by how they ended."""
        stopped, limit = len(self.stopped), self.provenance["config"]["training"]["converged_max_steps"]
        if not stopped:
            return "Converged models"
        of_all = sum(key.converges for key in self.scores)
        if stopped == of_all:
            return f"Models that ended at the limit of {limit} steps"
        return f"Converged models, {stopped} of {of_all} ended at the limit of {limit} steps"

    @property
    def limited_models(self) -> list[ModelKey]:
        """What Figure 3 shows: initial model, iterations, and the data pool's beside them."""
        return [key for key in self.scores if key.kind in ("initial", "iteration", "data pool")]

    def curve(self, strategy: str) -> list[ModelKey]:
        """The initial model and a strategy's iterations: a line of the figures."""
        return [ModelKey.of_iteration(strategy, iteration) for iteration in (0, *self.iterations)]


def read_results(folder: str | Path) -> Results:
    """Results of a report folder.

    Raises
    ------
    InputError
        A result file is missing, models were evaluated on different cases, or the folder is of several seeds.
    """
    return replace(read_scores(folder), uncertainties=read_uncertainties(Path(folder)))


def read_scores(folder: str | Path) -> Results:
    """Likewise without the uncertainties of slices, which may fill many megabytes."""
    folder = Path(folder)
    require_files(folder, (*TABLES, paths.PROVENANCE))
    provenance = storage.read_json(folder / paths.PROVENANCE)
    if "seeds" in provenance:
        raise InputError(f"{folder} holds a report across seeds; name its seeds by --seed instead")
    tables = {name: storage.read_csv(folder / name) for name in TABLES}
    return results_of(folder, tables, provenance)


def require_files(folder: Path, names: Sequence[str]) -> None:
    """Raise InputError where a report folder lacks result files."""
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"{folder}: no {', '.join(missing)}; run the benchmark first, "
            "or name its report with --name and --reports"
        )


def results_of(
    folder: Path, tables: Mapping[str, Sequence[dict[str, str]]], provenance: dict[str, Any]
) -> Results:
    """Results of one run from the rows of `TABLES` and its provenance; `folder` is what errors name.

    Raises
    ------
    InputError
        Models were evaluated on different cases, or rows are missing.
    """
    if not tables[paths.CASES]:
        raise InputError(f"{folder}: {paths.CASES} has no rows; {storage.BRING_BACK}")
    by_model = _rows_by_model(tables[paths.CASES], folder)
    try:
        return _results(by_model, tables, provenance)
    except KeyError as error:
        raise InputError(
            f"{folder}: nothing of {error} in one of its result files; {storage.BRING_BACK}"
        ) from None


def _results(
    by_model: Mapping[ModelKey, Sequence[dict[str, str]]],
    tables: Mapping[str, Sequence[dict[str, str]]],
    provenance: dict[str, Any],
) -> Results:
    _, annotation, queries, training, volumes = (tables[name] for name in TABLES)
    first = next(iter(by_model.values()))
    variants = {row["case_id"]: row.get("variant", "") for row in volumes}
    efforts = {ModelKey.from_row(row): {name: int(row[name]) for name in COUNTS} for row in annotation}
    return Results(
        scores=_scores(by_model, volumes),
        missed={
            key: [row["case_id"] for row in found if int(row["missed"])] for key, found in by_model.items()
        },
        cases=[row["case_id"] for row in first],
        sites=[row["site"] for row in first],
        variants=[variants[row["case_id"]] for row in first],
        effort={key: efforts[key.annotation_key] for key in by_model},
        training={
            ModelKey.from_row(row): {
                "best_step": int(row["best_step"]),
                "last_step": int(row["last_step"]),
                "best_jaccard": float(row["best_jaccard"]),
            }
            for row in training
        },
        queries=list(queries),
        volumes=list(volumes),
        provenance=provenance,
    )


def _rows_by_model(rows: Sequence[dict[str, str]], folder: Path) -> dict[ModelKey, list[dict[str, str]]]:
    """Rows of the cases, for every model in the order of the first one."""
    by_model: dict[ModelKey, list[dict[str, str]]] = {}
    for row in rows:
        by_model.setdefault(ModelKey.from_row(row), []).append(row)
    places = {row["case_id"]: place for place, row in enumerate(next(iter(by_model.values())))}
    for key, found in by_model.items():
        if sorted(row["case_id"] for row in found) != sorted(places):
            raise InputError(
                f"{folder}: {paths.CASES} lists other cases for {key.title} than for the first model; "
                "run the benchmark again"
            )
        found.sort(key=lambda row: places[row["case_id"]])
    return by_model


def _scores(
    by_model: Mapping[ModelKey, Sequence[dict[str, str]]], volumes: Sequence[dict[str, str]]
) -> dict[ModelKey, dict[str, np.ndarray]]:
    diagonals = {
        row["case_id"]: volume_diagonal(*([float(row[name]) for name in names] for names in (SIZE, SPACING)))
        for row in volumes
    }

    def finite(row: dict[str, str], metric: str) -> float:
        if row[metric] != "inf":
            return float(row[metric])
        return diagonals[row["case_id"]] if METRICS[metric].unit == "mm" else METRICS[metric].missed

    return {
        key: {
            metric: np.array([finite(row, metric) for row in found])
            for metric in METRICS
            if metric in found[0]  # results of an earlier version may lack some
        }
        for key, found in by_model.items()
    }


def read_uncertainties(folder: Path) -> Uncertainties | None:
    """Uncertainties from the `results/` of a report folder; None where it has none.

    An earlier version did not write any, and strategies of chance alone need none. Columns are those of
    `study.uncertainty_quality`.
    """
    files = [folder / name for name in (paths.UNCERTAINTY, paths.CALIBRATION)]
    if not all(path.exists() for path in files):
        return None
    slices, bins = map(_models_of, files)
    found = Uncertainties(
        {key: _pool_slices(rows) for key, rows in slices}, {key: _reliability(rows) for key, rows in bins}
    )
    return found if found.slices else None


def _models_of(path: Path) -> Iterator[tuple[ModelKey, list[dict[str, str]]]]:
    """Rows of a file, a model at a time: a file may have a million."""
    for key, rows in groupby(storage.csv_rows(path), key=ModelKey.from_row):
        yield key, list(rows)


def _pool_slices(rows: list[dict[str, str]]) -> PoolSlices:
    def numbers(column: str) -> np.ndarray:
        return np.array([float(row[column] or "inf") for row in rows])

    return PoolSlices(
        uncertainty=numbers("uncertainty"),
        wrong=numbers("wrong_voxels"),
        predicted=numbers("predicted_voxels"),
        liver=numbers("liver_voxels"),
        annotated=numbers("annotated") > 0,
        queried=np.array([row["queried"] for row in rows]),
        distance=numbers("distance_mm"),
    )


def _reliability(rows: list[dict[str, str]]) -> Reliability:
    voxels, liver, mean = (
        np.array([float(row[column] or "nan") for row in rows])
        for column in ("voxels", "liver_voxels", "mean_probability")
    )
    return Reliability(voxels, liver / np.where(voxels, voxels, np.nan), mean)
