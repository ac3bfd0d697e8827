"""Result files, written from the records of a simulation and its volumes; `results` reads them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.volumes import Volume
from ..runtime import paths, storage
from ..study.annotation import COUNTS
from ..study.keys import COLUMNS, ModelKey
from ..study.metrics import METRICS
from ..study.records import ModelRecord
from ..study.replay import QUERY_COLUMNS

VARIANT = ("variant", "phantom")  # columns of the manifest that name the kind of a patient; the first counts
SPACING, SIZE = ([f"{name}_{axis}" for axis in "zyx"] for name in ("spacing", "size"))


def write_results(
    folder: str | Path,
    records: Sequence[ModelRecord],
    volumes: Mapping[str, Mapping[str, Volume]],
    seed: int,
    seconds: Callable[[ModelKey], Mapping[str, float]],
) -> None:
    """Write `results/*.csv` of a report folder. Equal runs give equal bytes in all but `timing.csv`.

    Parameters
    ----------
    folder : path
        Of the report.
    records : sequence of ModelRecord
        As `Simulation.run` gives them.
    volumes : mapping
        `{split: {case_id: Volume}}`.
    seed : int
        Of the run.
    seconds : callable
        Wall seconds of a model's stages by their names, as `Simulation.seconds`.
    """
    all_volumes = [volume for split in volumes.values() for volume in split.values()]
    sites = {volume.case.case_id: volume.case.site for volume in all_volumes}
    tables = {
        paths.CASES: (
            [*COLUMNS, "seed", "case_id", "site", *METRICS, "missed"],
            [row for record in records for row in _case_rows(record, seed, sites)],
        ),
        paths.ANNOTATION: (
            ["strategy", "iteration", *COUNTS],
            [
                {**record.key.as_row(), "strategy": record.key.annotator, **record.effort}
                for record in records
                if record.key.annotation_key == record.key
            ],
        ),
        paths.QUERIES: (
            QUERY_COLUMNS,
            [
                {**record.key.as_row(), "case_id": case_id, "slice": z, "score": score}
                for record in records
                for case_id, z, score in record.queries
            ],
        ),
        paths.TRAINING: (
            [*COLUMNS, "best_step", "last_step", "best_jaccard"],
            [{**record.key.as_row(), **record.training} for record in records],
        ),
        paths.TIMING: (
            [*COLUMNS, "stage", "seconds"],
            [
                {**record.key.as_row(), "stage": stage, "seconds": spent}
                for record in records
                for stage, spent in seconds(record.key).items()
            ],
        ),
        paths.VOLUMES: (
            [
                *("case_id", "site", "split", "patient_id", *SPACING, *SIZE),
                *("image_sha256", "label_sha256", "variant"),
            ],
            [_volume_row(volume) for volume in all_volumes],
        ),
    }
    for name, (columns, rows) in tables.items():
        storage.write_csv(Path(folder) / name, columns, rows)


def _case_rows(record: ModelRecord, seed: int, sites: Mapping[str, str]) -> list[dict[str, Any]]:
    common = {**record.key.as_row(), "seed": seed}
    return [
        {**common, "site": sites[row["case_id"]], **row, "missed": int(row["missed"])}
        for row in record.evaluation
    ]


def _volume_row(volume: Volume) -> dict[str, Any]:
    return {
        **{name: getattr(volume.case, name) for name in ("case_id", "site", "split", "patient_id")},
        **dict(zip(SPACING, volume.native_spacing, strict=True)),
        **dict(zip(SIZE, volume.native_shape, strict=True)),
        "image_sha256": volume.image_digest,
        "label_sha256": volume.label_digest,
        "variant": next((volume.case.extra[name] for name in VARIANT if name in volume.case.extra), ""),
    }
