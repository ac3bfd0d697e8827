"""The simulated annotation workflow (section IV): initial model, active learning iterations, converged and data pool models.

Every stage of every model leaves a JSON file when it is complete. To run the simulation is to walk through it again and again: stages
whose files are there are read, what can be worked on now is claimed piece by piece from the team, and other processes' pieces come
into sight as their files do. A run that was stopped continues in the same way.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from .annotation import Annotations, effort, slices_per_iteration
from .models import Models, model_name
from .seeding import generator
from .storage import CHECKPOINT, model_folder, read_json, write_json
from .strategies import STRATEGIES, random_volumes
from .team import Team

WALK_SECONDS = 2  # after which the pieces of work that have become possible meanwhile are looked for
# What to do first: what others wait for, then what takes long, then what fills the gaps.
BLOCKING, LONG, SHORT, CASE = range(4)


@dataclass(frozen=True)
class PlannedModel:
    """A model whose annotations are known. `queries` are what was annotated for it since the model before."""

    model: str
    strategy: str
    iteration: int | None
    annotations: Annotations
    queries: list
    notes: list

    @property
    def key(self):
        return self.model, self.strategy, self.iteration

    @property
    def name(self):
        return model_name(*self.key)


@dataclass(frozen=True)
class ModelRecord(PlannedModel):
    """A trained and evaluated model."""

    effort: dict
    training: dict
    evaluation: list
    seconds: dict


@dataclass(frozen=True)
class Piece:
    """Work that one process does at a time. Its result is kept in `path`, by which it is claimed."""

    priority: int
    path: object
    work: Callable


class Simulation:
    """Runs the workflow on preprocessed volumes.

    Parameters
    ----------
    config : `config.Config`
    volumes : `{"pool" | "val" | "test": {case_id: volumes.Volume}}`
    run_folder : where models and stages are kept, on a disk that the whole team sees
    seed : integer that names every random draw
    device : torch device
    progress : `progress.Progress`
    team : `team.Team` that shares the work. No result depends on its size: draws are named, and each piece of work is one process's.
    """

    def __init__(self, config, volumes, run_folder, seed, device, progress, team=None):
        self.config, self.volumes, self.run_folder = config, volumes, run_folder
        self.seed, self.progress, self.team = seed, progress, team or Team()
        self.pool = volumes["pool"]
        self.models = Models(config, volumes, run_folder, seed, device, progress)
        self._walked, self._ready = False, []
        self._found, self._trained, self._efforts, self._records = {}, set(), {}, {}

    def run(self, strategies=STRATEGIES):
        """Records of all models, in the order of the report: initial, iterations, converged, data pool."""
        while (records := self._walk(strategies)) is None:
            self._walked = True
            idle, until = True, time.monotonic() + WALK_SECONDS
            for piece in sorted(self._ready, key=lambda piece: piece.priority):
                if self.team.claim(str(piece.path.relative_to(self.run_folder))):
                    idle = False
                    started = time.monotonic()
                    result = piece.work()
                    write_json(piece.path, {"result": result, "seconds": time.monotonic() - started})
                if time.monotonic() > until:
                    break
            if idle:
                self.team.pause()
        return [replace(record, seconds=self._seconds(record.key)) for record in records]

    def _walk(self, strategies):
        """Records of all models, or None while some are missing; what can be worked on now is then in `_ready`."""
        self._ready = []
        everything = Annotations({case_id: range(volume.shape[0]) for case_id, volume in self.pool.items()})
        initial = PlannedModel("initial", "", 0, self._initial_annotations(), [], [])
        chains, slice_count = {}, self.config.query.slices_per_iteration
        # UVS goes first: the effort of its volumes sets the slices that USS and RSS may add.
        for strategy in [name for name in STRATEGIES if name in strategies]:
            if strategy in ("USS", "RSS") and slice_count is None:
                iterations = [model for model in chains["UVS"] if model.model == "iteration"]
                if len(iterations) < self.config.query.iterations:
                    break
                slice_count = slices_per_iteration([self._effort(model)["annotated_liver_slices"] for model in (initial, *iterations)])
            chains[strategy] = self._chain(strategy, initial, slice_count)
        planned = [model for chain in chains.values() for model in chain]
        planned = [
            initial,
            *(model for model in planned if model.model == "iteration"),
            *(model for model in planned if model.model == "converged"),
            PlannedModel("data pool", "", None, everything, [], []),
        ]
        records = [self._record(model, strategies) for model in planned]
        complete = len(planned) == 2 + len(strategies) * (self.config.query.iterations + 1) and None not in records
        return records if complete else None

    def _chain(self, strategy, initial, slice_count):
        """Models of a strategy whose annotations are known: its iterations and, when all of them are, the converged one."""
        models = [initial]
        for iteration in range(1, self.config.query.iterations + 1):
            key = ("iteration", strategy, iteration)
            query = self._query_stage(key, models[-1], slice_count)
            if query is None:
                return models[1:]
            models.append(PlannedModel(*key, self._annotated(models[-1].annotations, query["queries"]), **query))
        return [*models[1:], PlannedModel("converged", strategy, self.config.query.iterations, models[-1].annotations, [], [])]

    def _annotated(self, annotations, queries):
        """Annotations with what was queried."""
        slices = {}
        for case_id, z, _ in queries:
            slices.setdefault(case_id, []).extend(range(self.pool[case_id].shape[0]) if z is None else [z])
        for case_id, indices in slices.items():
            annotations = annotations.add(case_id, indices)
        return annotations

    def _initial_annotations(self):
        chosen = [case_id for case_id, volume in self.pool.items() if volume.case.initial]
        if not chosen:
            free = [case_id for case_id, volume in self.pool.items() if volume.case.initial is None]
            chosen = random_volumes(free, self.config.query.initial_volumes, generator(self.seed, purpose="initial volumes"))
        return Annotations({case_id: range(self.pool[case_id].shape[0]) for case_id in chosen})

    def _record(self, model, strategies):
        """Record of a model, or None while it is not trained and evaluated."""
        if model.key in self._records:
            return self._records[model.key]
        training = self._training_stage(model, strategies)
        evaluation = training and self._case_stage(model.key, "evaluation", list(self.volumes["test"]), self.models.evaluate, CASE)
        if not evaluation:
            return None
        record = self._records[model.key] = ModelRecord(
            **vars(model), effort=self._effort(model), training=training, evaluation=evaluation, seconds={}
        )
        dice = np.mean([row["DICE"] for row in record.evaluation])
        self.progress.finished(f"{record.name}: mean test DICE {dice:.3f}", self._walked)
        return record

    def _effort(self, model):
        if model.key not in self._efforts:
            self._efforts[model.key] = effort(model.annotations, self.models.shows_liver, self._patients)
        return self._efforts[model.key]

    @cached_property
    def _patients(self):
        return {case_id: volume.case.patient_id for case_id, volume in self.pool.items()}

    def _seconds(self, key):
        """Wall seconds of a model's complete stages; those of cases that were shared out are summed."""
        paths = {stage: model_folder(self.run_folder, *key) / f"{stage}.json" for stage in ("query", "training", "scores", "evaluation")}
        return {stage: read_json(path)["seconds"] for stage, path in paths.items() if path.exists()}

    # --- stages: each method gives a result, or None while it is not complete -----------------------------------------------

    def _stage(self, key, name, work, priority):
        path = model_folder(self.run_folder, *key) / f"{name}.json"
        found = self._read(path)
        if found is None:
            self._ready.append(Piece(priority, path, work))
        return found

    def _read(self, path):
        if path not in self._found:
            try:
                self._found[path] = read_json(path)
            except FileNotFoundError:  # nothing yet, or another process gathers the files of cases at this moment
                return None
        return self._found[path]["result"]

    def _case_stage(self, key, name, case_ids, work, priority):
        """A stage that is worked on case by case. The cases' files are gathered into one when all are there."""
        folder = model_folder(self.run_folder, *key)
        whole = folder / f"{name}.json"
        known = whole in self._found
        if self._read(whole) is None:
            shards = {folder / name / f"{number}.json": case_id for number, case_id in enumerate(case_ids)}  # an id may be no file name
            there = set((folder / name).glob("*.json")) if (folder / name).exists() else ()
            missing = [path for path in shards if path not in self._found and (path not in there or self._read(path) is None)]
            self._ready += [Piece(priority, path, partial(work, key, shards[path])) for path in missing]
            if not missing:
                parts = [self._found[path] for path in shards]
                write_json(whole, {"result": [part["result"] for part in parts], "seconds": sum(part["seconds"] for part in parts)})
        if self._read(whole) is not None and not known:
            shutil.rmtree(folder / name, ignore_errors=True)  # now, or when continuing a run that was killed before it did
        return self._read(whole)

    def _training_stage(self, model, strategies):
        last = model.iteration == self.config.query.iterations
        if model.model in ("converged", "data pool"):
            priority = LONG
        else:
            uncertain = model.strategy in ("UVS", "USS") and not last
            priority = BLOCKING if uncertain or model.model == "initial" else SHORT
        training = self._stage(model.key, "training", partial(self.models.train, model.key, model.annotations), priority)
        if training and model.key not in self._trained:
            self._trained.add(model.key)
            self._training_path(model.key).with_name(CHECKPOINT).unlink(missing_ok=True)
            best = f"best Jaccard {training['best_jaccard']:.3f} at step {training['best_step']} of {training['last_step']}"
            self.progress.finished(f"{model.name}: trained, {best}", self._walked)
        return training

    def _training_path(self, key):
        return model_folder(self.run_folder, *key) / "training.json"

    def _query_stage(self, key, before, slice_count):
        _, strategy, _ = key
        scores = {}
        if strategy in ("UVS", "USS"):
            scores = self._scores(before, strategy)
            if scores is None:
                return None
        return self._stage(key, "query", partial(self.models.query, strategy, before, slice_count, scores), BLOCKING)

    def _scores(self, model, strategy):
        """Uncertainty of the cases that a strategy may query under a model: `{case_id: {"volume", "profile", "empty"}}`."""
        if self._read(self._training_path(model.key)) is None:
            return None
        annotated = {case_id: len(model.annotations.of(case_id)) for case_id in self.pool}
        # Volumes are queried whole; of a slice strategy's, those with a slice left. Under the initial model these are the same.
        case_ids = [case_id for case_id, volume in self.pool.items() if annotated[case_id] < (volume.shape[0] if strategy == "USS" else 1)]
        stage = self._case_stage(model.key, "scores", case_ids, self.models.score, BLOCKING)
        return stage and {score["case_id"]: score for score in stage}
