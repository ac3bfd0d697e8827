"""Result files: written from the records of a simulation and the volumes it ran on, read back for the report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime import paths, storage
from ..runtime.errors import InputError
from ..study.annotation import COUNTS
from ..study.keys import COLUMNS, DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS
from ..study.surfaces import volume_diagonal
from ..study.strategies import in_order

SPACING, SIZE = ([f"{name}_{axis}" for axis in "zyx"] for name in ("spacing", "size"))


def write_results(folder, records, volumes, seed, seconds):
    """Write `results/*.csv` of a report folder. Equal runs give equal bytes in all of them but `timing.csv`.

    Parameters
    ----------
    folder : the report's
    records, seconds : as `simulation.Simulation.run` and `Simulation.seconds` give them
    volumes : `{split: {case_id: volumes.Volume}}`
    seed : that of the run
    """
    folder = Path(folder)
    all_volumes = [volume for split in volumes.values() for volume in split.values()]
    sites = {volume.case.case_id: volume.case.site for volume in all_volumes}
    storage.write_csv(
        folder / paths.CASES,
        [*COLUMNS, "seed", "case_id", "site", *METRICS, "missed"],
        [
            {
                **record.key.as_row(),
                "seed": seed,
                "site": sites[row["case_id"]],
                **row,
                "missed": int(row["missed"]),
            }
            for record in records
            for row in record.evaluation
        ],
    )
    storage.write_csv(
        folder / paths.ANNOTATION,
        ["strategy", "iteration", *COUNTS],
        [
            {**record.key.as_row(), "strategy": record.key.annotator, **record.effort}
            for record in records
            if record.key.kind != "converged"
        ],
    )
    storage.write_csv(
        folder / paths.QUERIES,
        ["strategy", "iteration", "case_id", "slice", "score"],
        [
            {**record.key.as_row(), "case_id": case_id, "slice": z, "score": score}
            for record in records
            for case_id, z, score in record.queries
        ],
    )
    storage.write_csv(
        folder / paths.TRAINING,
        [*COLUMNS, "best_step", "last_step", "best_jaccard"],
        [{**record.key.as_row(), **record.training} for record in records],
    )
    storage.write_csv(
        folder / paths.TIMING,
        [*COLUMNS, "stage", "seconds"],
        [
            {**record.key.as_row(), "stage": stage, "seconds": spent}
            for record in records
            for stage, spent in seconds(record.key).items()
        ],
    )
    storage.write_csv(
        folder / paths.VOLUMES,
        ["case_id", "site", "split", "patient_id", *SPACING, *SIZE, "image_sha256", "label_sha256"],
        [
            {
                **{name: getattr(volume.case, name) for name in ("case_id", "site", "split", "patient_id")},
                **dict(zip(SPACING, volume.native_spacing, strict=True)),
                **dict(zip(SIZE, volume.native_shape, strict=True)),
                "image_sha256": volume.image_digest,
                "label_sha256": volume.label_digest,
            }
            for volume in all_volumes
        ],
    )


@dataclass(frozen=True)
class Results:
    """What the report knows of a run.

    Attributes
    ----------
    scores : `{ModelKey: {metric: (n,) array}}` over the test cases, in one order for all models; infinite
        distances of missed livers are replaced by the diagonal of the case's volume
    missed : `{ModelKey: number of missed livers}`
    cases, sites : ids and sites of the test cases, in the order of the scores
    effort : `{ModelKey: {"annotated_slices", ...}}` of what each model was trained on
    training : `{ModelKey: {"best_step", "last_step", "best_jaccard"}}`
    queries, volumes : rows of the files, as dictionaries of text
    provenance : dictionary
    """

    scores: dict
    missed: dict
    cases: list
    sites: list
    effort: dict
    training: dict
    queries: list
    volumes: list
    provenance: dict

    @property
    def strategies(self) -> list[str]:
        return in_order(key.strategy for key in self.scores if key.strategy)

    @property
    def last(self) -> int:
        """The last iteration."""
        return max(key.iteration for key in self.scores if key.kind == "iteration")

    @property
    def iterations(self) -> range:
        return range(1, 1 + self.last)

    @property
    def final_models(self) -> dict[str, ModelKey]:
        """The converged models and the data pool's, by the name that a reader knows them by."""
        converged = {strategy: ModelKey.of_converged(strategy, self.last) for strategy in self.strategies}
        return {**converged, DATA_POOL.kind: DATA_POOL}

    def curve(self, strategy: str) -> list[ModelKey]:
        """The initial model and a strategy's iterations: a line of the figures."""
        return [INITIAL, *(ModelKey.of_iteration(strategy, iteration) for iteration in self.iterations)]


def read_results(folder):
    """Results of a report folder.

    Raises
    ------
    InputError
        A result file is missing.
    """
    folder = Path(folder)
    names = (paths.CASES, paths.ANNOTATION, paths.QUERIES, paths.TRAINING, paths.VOLUMES, paths.PROVENANCE)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"{folder}: no {', '.join(missing)}; run the benchmark first, or name its report with --name and --reports"
        )
    rows, annotation, queries, training, volumes = (storage.read_csv(folder / name) for name in names[:-1])
    diagonals = {
        row["case_id"]: volume_diagonal(*([float(row[name]) for name in names] for names in (SIZE, SPACING)))
        for row in volumes
    }

    by_model = {}
    for row in rows:
        by_model.setdefault(ModelKey.from_row(row), []).append(row)
    first = next(iter(by_model.values()))
    places = {row["case_id"]: place for place, row in enumerate(first)}
    for key, found in by_model.items():
        if sorted(row["case_id"] for row in found) != sorted(places):
            raise InputError(
                f"{folder}: {paths.CASES} has other cases for {key} than for the first model; run the benchmark again"
            )
        found.sort(key=lambda row: places[row["case_id"]])
    scores = {
        key: {
            metric: np.array(
                [diagonals[row["case_id"]] if row[metric] == "inf" else float(row[metric]) for row in found]
            )
            for metric in METRICS
            if metric in found[0]  # results of an earlier version may lack some
        }
        for key, found in by_model.items()
    }
    efforts = {ModelKey.from_row(row): {name: int(row[name]) for name in COUNTS} for row in annotation}
    return Results(
        scores=scores,
        missed={key: sum(int(row["missed"]) for row in found) for key, found in by_model.items()},
        cases=[row["case_id"] for row in first],
        sites=[row["site"] for row in first],
        effort={key: efforts[key.annotation_key] for key in by_model},
        training={
            ModelKey.from_row(row): {
                "best_step": int(row["best_step"]),
                "last_step": int(row["last_step"]),
                "best_jaccard": float(row["best_jaccard"]),
            }
            for row in training
        },
        queries=queries,
        volumes=volumes,
        provenance=storage.read_json(folder / paths.PROVENANCE),
    )
