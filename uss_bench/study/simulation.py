"""The simulated annotation workflow (section IV), step by step: see `Simulation.workflow`.

Its steps are tasks in the sense of `runtime.tasks`: what they yield is done by whichever process is free and
kept in files, from which a stopped run continues.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.manifest import Case
from ..data.volumes import Volume
from ..runtime.paths import ASSESSMENT, CHECKPOINT
from ..runtime.progress import Progress
from ..runtime.seeding import generator
from ..runtime.storage import read_json
from ..runtime.tasks import BLOCKING, LONG, PART, SHORT, SharedStage, Stage, Tasks
from ..runtime.team import Team
from .annotation import Annotations, effort, slice_budget
from .keys import DATA_POOL, INITIAL, ModelKey, of_run
from .models import Models, training_work
from .pool import Pool, PoolCase, Query
from .querying import Querying
from .records import ModelRecord, TrainingSet
from .rules import random_volumes
from .strategies import BUDGET, Strategy


def initial_cases(pool: Iterable[Case], count: int, seed: int) -> list[str]:
    """Ids of the cases that are annotated from the beginning, the same for all strategies.

    They are those that the manifest marks, else `count` that the seed draws from those it does not exclude.
    """
    pool = list(pool)
    if marked := [case.case_id for case in pool if case.initial]:
        return marked
    free = Pool([PoolCase(case.case_id, 1) for case in pool if case.initial is None])
    queries = random_volumes(free, count, generator(seed, purpose="initial volumes"))
    return [query.case_id for query in queries]


class Simulation:
    """Runs the workflow on preprocessed volumes.

    Parameters
    ----------
    config : config.Config
        Settings of the run.
    volumes : mapping
        `{"pool" | "val" | "test": {case_id: Volume}}`.
    run_folder : path
        Where models and stages are kept, on a disk that the whole team sees.
    seed : int
        Names every random draw.
    device : torch.device
        Where networks run.
    progress : Progress
        Says what is being done.
    team : Team, optional
        Shares the work; by default this process works alone. No result depends on the team's size: draws are
        named, and each piece of work is done by one process.
    """

    def __init__(
        self,
        config: Any,
        volumes: Mapping[str, Mapping[str, Volume]],
        run_folder: str | Path,
        seed: int,
        device: torch.device,
        progress: Progress,
        team: Team | None = None,
    ):
        self.config, self.volumes, self.run_folder = config, volumes, Path(run_folder)
        self.seed, self.progress = seed, progress
        self.pool = volumes["pool"]
        self.models = Models(config, volumes, run_folder, seed, device, progress)
        self.querying = Querying(config, self.pool, seed)
        self._tasks = Tasks(self.run_folder, team or Team())
        self._records: dict[ModelKey, ModelRecord] = {}
        self._scored: dict[ModelKey, tuple[TrainingSet, Sequence[Mapping[str, Any]]]] = {}
        self.assessed: dict[ModelKey, list[dict[str, Any]]] = {}  # see `assess`

    def run(self, strategies: Sequence[Strategy]) -> list[ModelRecord]:
        """Records of all models, in the order of the report: that of `keys.of_run`."""
        self._tasks.start(self.workflow(strategies))
        self._tasks.work_off()
        names, query = [strategy.name for strategy in strategies], self.config.query
        return [self._records[key] for key in of_run(names, query.iterations, query.twins)]

    # --- the workflow, step by step ---

    def workflow(self, strategies: Sequence[Strategy]) -> Generator:
        """Section IV: an initial model, active learning with each strategy, and a model of the whole pool."""
        initial = self._begin(INITIAL, self.initial_annotations())
        for number in range(1, self.config.query.twins + 1):  # how far does retraining alone move the scores?
            self._begin(ModelKey.of_twin(number), initial.annotations)
        self._begin(DATA_POOL, self._whole(self.pool))
        volumes, slices = self.config.query.volumes_per_iteration, self.config.query.slices_per_iteration
        by_slices = [strategy for strategy in strategies if strategy.by_slices and not strategy.replays]
        learning = {
            strategy.name: self._tasks.start(self.active_learning(strategy, initial, volumes))
            for strategy in strategies
            if strategy not in by_slices
        }
        if by_slices and slices is None:  # N_S, which follows from what a volume strategy annotates
            slices = self._slices_per_iteration((yield learning[BUDGET]))
        for strategy in by_slices:
            learning[strategy.name] = self._tasks.start(self.active_learning(strategy, initial, slices))
        for task in learning.values():  # noqa: UP028 (what is sent is dropped)
            yield task
        for training_set, scores in self._scored.values():  # only now, when every query has been made
            self._tasks.start(self.assess(training_set, scores))

    def active_learning(self, strategy: Strategy, initial: TrainingSet, count: int) -> Generator:
        """Section IV-A: train, score, query, annotate, and again; at last, train until convergence."""
        sets = [initial]
        for iteration in range(1, self.config.query.iterations + 1):
            scores = ()
            if strategy.needs:
                yield self._training(sets[-1], BLOCKING)
                scores = yield self._scoring(sets[-1], strategy)
                self._scored[sets[-1].key] = sets[-1], scores
            queried = yield self._querying(strategy, sets[-1], count, scores)
            if strategy.origin and not self._tasks.worked:  # found on disk; its file may have changed
                folder = self.run_folder / strategy.name
                self.querying.refuse_changes(strategy, sets[-1], count, scores, queried, folder)
            annotations = self._annotated(sets[-1].annotations, queried["queries"])
            key = ModelKey.of_iteration(strategy.name, iteration)
            sets.append(self._begin(key, annotations, draws_as=strategy.replays, **queried))
        key = ModelKey.of_converged(strategy.name, iteration)
        self._begin(key, sets[-1].annotations, draws_as=strategy.replays)
        return sets

    def train_and_evaluate(self, training_set: TrainingSet) -> Generator:
        """A model's life: trained from scratch (section II-B), evaluated on the test cases (section II-F)."""
        key = training_set.key
        training = yield self._training(training_set, LONG if key.converges else SHORT)
        steps = f"step {training['best_step']} of {training['last_step']}"
        work = training_work(self.config.training, key.converges)
        self._say_finished(key, f"trained, Jaccard {training['best_jaccard']:.3f} at {steps}", work)
        evaluation = yield self._evaluation(key)
        self._say_finished(key, f"mean test DICE {np.mean([row['DICE'] for row in evaluation]):.3f}", 0)
        spent = self._effort(training_set.annotations)
        self._records[key] = ModelRecord(
            **vars(training_set), effort=spent, training=training, evaluation=evaluation
        )

    def assess(self, training_set: TrainingSet, scores: Sequence[Mapping[str, Any]]) -> Generator:
        """How good the uncertainties of a model that scored the pool are, by the references of the pool."""
        parts = [partial(self.models.assess, training_set, score) for score in scores]
        stage = SharedStage(self._path(training_set.key, ASSESSMENT), parts, PART)
        self.assessed[training_set.key] = yield stage

    def _begin(self, key: ModelKey, annotations: Annotations, **further: Any) -> TrainingSet:
        """Training set of a model, which from now on is trained and evaluated whenever there is time."""
        training_set = TrainingSet(key, annotations, **further)
        self._tasks.start(self.train_and_evaluate(training_set))
        return training_set

    def _say_finished(self, key: ModelKey, text: str, work: int) -> None:
        self.progress.finished(f"{key.title}: {text}", self._tasks.worked, work)

    # --- what is annotated ---

    def initial_annotations(self) -> Annotations:
        """Whole volumes: those that the manifest marks, else some drawn by the seed for all strategies."""
        cases = [volume.case for volume in self.pool.values()]
        return self._whole(initial_cases(cases, self.config.query.initial_volumes, self.seed))

    def _whole(self, case_ids: Iterable[str]) -> Annotations:
        return Annotations({case_id: range(self.pool[case_id].shape[0]) for case_id in case_ids})

    def _annotated(self, annotations: Annotations, queries: Iterable[Query]) -> Annotations:
        """Annotations with what was queried."""
        slices: dict[str, list[int]] = {}
        for case_id, z, _ in queries:
            slices.setdefault(case_id, []).extend(range(self.pool[case_id].shape[0]) if z is None else [z])
        for case_id, indices in slices.items():
            annotations = annotations.add(case_id, indices)
        return annotations

    def _effort(self, annotations: Annotations) -> dict[str, int]:
        patients = {case_id: volume.case.patient_id for case_id, volume in self.pool.items()}
        return effort(annotations, lambda case_id, z: self.pool[case_id].shows_liver(z), patients)

    def _slices_per_iteration(self, sets: Iterable[TrainingSet]) -> int:
        """N_S, from the training sets of a volume strategy."""
        return slice_budget([self._effort(each.annotations)["annotated_liver_slices"] for each in sets])

    # --- stages: work whose result is kept in a file ---

    def seconds(self, key: ModelKey) -> dict[str, float]:
        """Wall seconds of a model's stages, by their names."""
        paths = {
            stage: self._path(key, stage)
            for stage in ("query", "training", "scores", "evaluation", ASSESSMENT)
        }
        return {stage: read_json(path)["seconds"] for stage, path in paths.items() if path.exists()}

    def _path(self, key: ModelKey, stage: str) -> Path:
        return self.run_folder / key.folder / f"{stage}.json"

    def _training(self, training_set: TrainingSet, priority: int) -> Stage:
        path = self._path(training_set.key, "training")
        work = partial(self.models.train, training_set.key, training_set.annotations, training_set.draws_as)
        return Stage(path, work, priority, leftovers=[path.with_name(CHECKPOINT)])

    def _scoring(self, training_set: TrainingSet, strategy: Strategy) -> SharedStage:
        """Scores of the cases that a strategy may query under a model, as `Models.score` gives them."""
        # Volumes are queried whole. A slice strategy may query those with a slice left. Under the initial
        # model these are the same.
        annotated = {case_id: len(training_set.annotations.of(case_id)) for case_id in self.pool}
        limits = {
            case_id: volume.shape[0] if strategy.by_slices else 1 for case_id, volume in self.pool.items()
        }
        wanted = [case_id for case_id in self.pool if annotated[case_id] < limits[case_id]]
        return self._shared(training_set.key, "scores", self.models.score, wanted, BLOCKING)

    def _querying(
        self, strategy: Strategy, before: TrainingSet, count: int, scores: Iterable[Mapping[str, Any]]
    ) -> Stage:
        path = self._path(ModelKey.of_iteration(strategy.name, before.key.iteration + 1), "query")
        return Stage(path, partial(self.querying.query, strategy, before, count, scores), BLOCKING)

    def _evaluation(self, key: ModelKey) -> SharedStage:
        return self._shared(key, "evaluation", self.models.evaluate, self.volumes["test"], PART)

    def _shared(
        self, key: ModelKey, stage: str, work: Callable, case_ids: Iterable[str], priority: int
    ) -> SharedStage:
        parts = [partial(work, key, case_id) for case_id in case_ids]
        return SharedStage(self._path(key, stage), parts, priority)
