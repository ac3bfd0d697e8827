"""The simulated annotation workflow (section IV): `Simulation.workflow` and `Simulation.active_learning` are its steps.

Both are tasks in the sense of `runtime.tasks`: what they yield is worked on by whichever process is free and kept in
files, from which a run that was stopped continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..runtime.paths import CHECKPOINT
from ..runtime.seeding import generator
from ..runtime.storage import read_json
from ..runtime.tasks import BLOCKING, LONG, PART, SHORT, SharedStage, Stage, Tasks
from ..runtime.team import Team
from .annotation import Annotations, effort, slice_budget
from .keys import DATA_POOL, INITIAL, KINDS, ModelKey
from .models import Models
from .strategies import BUDGET, STRATEGIES, Pool, PoolCase, Strategy, random_volumes


@dataclass(frozen=True)
class TrainingSet:
    """What a model is trained on. `queries` are what was annotated for it since the model before."""

    key: ModelKey
    annotations: Annotations
    queries: Sequence = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ModelRecord(TrainingSet):
    """A trained and evaluated model: counts of `annotation.effort`, outcome of the training, scores by test case."""

    effort: dict[str, int]
    training: dict
    evaluation: list[dict]


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
    team : `team.Team` that shares the work. No result depends on its size: draws are named, and each piece of work is
        one process's.
    """

    def __init__(self, config, volumes, run_folder, seed, device, progress, team=None):
        self.config, self.volumes, self.run_folder = config, volumes, Path(run_folder)
        self.seed, self.progress = seed, progress
        self.pool = volumes["pool"]
        self.models = Models(config, volumes, run_folder, seed, device, progress)
        self._tasks, self._records = Tasks(self.run_folder, team or Team()), {}

    def run(self, strategies: Sequence[Strategy] = tuple(STRATEGIES.values())) -> list[ModelRecord]:
        """Records of all models, in the order of the report: initial, iterations, converged, data pool."""
        self._tasks.start(self.workflow(strategies))
        self._tasks.work_off()
        names = ["", *(strategy.name for strategy in strategies)]

        def place(key):
            return KINDS.index(key.kind), names.index(key.strategy), key.iteration or 0

        return [self._records[key] for key in sorted(self._records, key=place)]

    # --- the workflow, step by step --------------------------------------------------------------------------------

    def workflow(self, strategies):
        """Section IV: the initial model, active learning with each strategy, and the model of the whole pool."""
        initial = self._begin(INITIAL, self.initial_annotations())
        volumes, slices = self.config.query.volumes_per_iteration, self.config.query.slices_per_iteration
        by_slices = [strategy for strategy in strategies if strategy.by_slices]
        learning = {
            strategy.name: self._tasks.start(self.active_learning(strategy, initial, volumes))
            for strategy in strategies
            if not strategy.by_slices
        }
        if by_slices and slices is None:
            slices = self.slice_budget((yield learning[BUDGET]))
        for strategy in by_slices:
            self._tasks.start(self.active_learning(strategy, initial, slices))
        self._begin(
            DATA_POOL, Annotations({case_id: range(volume.shape[0]) for case_id, volume in self.pool.items()})
        )

    def active_learning(self, strategy, initial, count):
        """Section IV-A: train, score, query, annotate, again; at last train until convergence on what is annotated."""
        sets = [initial]
        for iteration in range(1, self.config.query.iterations + 1):
            scores = ()
            if strategy.needs:
                yield self._training(sets[-1], BLOCKING)
                scores = yield self._scoring(sets[-1], strategy)
            queried = yield self._querying(strategy, sets[-1], count, scores)
            annotations = self._annotated(sets[-1].annotations, queried["queries"])
            sets.append(self._begin(ModelKey.of_iteration(strategy.name, iteration), annotations, **queried))
        self._begin(ModelKey.of_converged(strategy.name, iteration), sets[-1].annotations)
        return sets

    def train_and_evaluate(self, training_set):
        """A model's life: trained from scratch on its annotations (section II-B), evaluated on the test cases (II-F)."""
        key = training_set.key
        training = yield self._training(training_set, LONG if key.converges else SHORT)
        best = f"best Jaccard {training['best_jaccard']:.3f} at step {training['best_step']} of {training['last_step']}"
        self.progress.finished(f"{key.title}: trained, {best}", self._tasks.worked)
        evaluation = yield self._evaluation(key)
        dice = np.mean([row["DICE"] for row in evaluation])
        self.progress.finished(f"{key.title}: mean test DICE {dice:.3f}", self._tasks.worked)
        spent = self._effort(training_set.annotations)
        self._records[key] = ModelRecord(
            **vars(training_set), effort=spent, training=training, evaluation=evaluation
        )

    def seconds(self, key: ModelKey) -> dict[str, float]:
        """Wall seconds of a model's stages, by their names."""
        paths = {stage: self._path(key, stage) for stage in ("query", "training", "scores", "evaluation")}
        return {stage: read_json(path)["seconds"] for stage, path in paths.items() if path.exists()}

    # --- what is annotated -----------------------------------------------------------------------------------------

    def initial_annotations(self):
        """Whole volumes: those that the manifest names, else drawn by the seed, the same for all strategies."""
        chosen = [case_id for case_id, volume in self.pool.items() if volume.case.initial]
        if not chosen:
            free = [
                PoolCase(case_id, volume.shape[0])
                for case_id, volume in self.pool.items()
                if volume.case.initial is None
            ]
            random = generator(self.seed, purpose="initial volumes")
            chosen = [
                query.case_id
                for query in random_volumes(Pool(free), self.config.query.initial_volumes, random)
            ]
        return Annotations({case_id: range(self.pool[case_id].shape[0]) for case_id in chosen})

    def slice_budget(self, sets):
        """N_S: how many slices a slice strategy gets per iteration, from the training sets of a volume strategy."""
        return slice_budget([self._effort(each.annotations)["annotated_liver_slices"] for each in sets])

    def _annotated(self, annotations, queries):
        """Annotations with what was queried."""
        slices = {}
        for case_id, z, _ in queries:
            slices.setdefault(case_id, []).extend(range(self.pool[case_id].shape[0]) if z is None else [z])
        for case_id, indices in slices.items():
            annotations = annotations.add(case_id, indices)
        return annotations

    def _effort(self, annotations):
        patients = {case_id: volume.case.patient_id for case_id, volume in self.pool.items()}
        return effort(annotations, self.models.shows_liver, patients)

    # --- stages ----------------------------------------------------------------------------------------------------

    def _begin(self, *fields, **queried):
        """Training set of a model that from now on is trained and evaluated when there is time."""
        training_set = TrainingSet(*fields, **queried)
        self._tasks.start(self.train_and_evaluate(training_set))
        return training_set

    def _path(self, key, stage):
        return self.run_folder / key.folder / f"{stage}.json"

    def _training(self, training_set, priority):
        path = self._path(training_set.key, "training")
        work = partial(self.models.train, training_set.key, training_set.annotations)
        return Stage(path, work, priority, leftovers=[path.with_name(CHECKPOINT)])

    def _scoring(self, training_set, strategy):
        """Scores of the cases that a strategy may query under a model, as `Models.score` gives them."""
        # Volumes are queried whole; of a slice strategy's, those with a slice left. Under the initial model these are the same.
        annotated = {case_id: len(training_set.annotations.of(case_id)) for case_id in self.pool}
        limits = {
            case_id: volume.shape[0] if strategy.by_slices else 1 for case_id, volume in self.pool.items()
        }
        wanted = [case_id for case_id in self.pool if annotated[case_id] < limits[case_id]]
        return self._shared(training_set.key, "scores", self.models.score, wanted, BLOCKING)

    def _querying(self, strategy, before, count, scores):
        path = self._path(ModelKey.of_iteration(strategy.name, before.key.iteration + 1), "query")
        return Stage(path, partial(self.models.query, strategy, before, count, scores), BLOCKING)

    def _evaluation(self, key):
        return self._shared(key, "evaluation", self.models.evaluate, self.volumes["test"], PART)

    def _shared(self, key, stage, work, case_ids, priority):
        return SharedStage(
            self._path(key, stage), [partial(work, key, case_id) for case_id in case_ids], priority
        )
