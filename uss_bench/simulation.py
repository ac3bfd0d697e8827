"""The simulated annotation workflow (section IV): initial model, active learning iterations, converged and data pool models.

Every stage of every model leaves a JSON file when it is complete. To run the simulation is to walk through it again and again: stages
whose files are there are read, what can be worked on now is claimed piece by piece from the team, and other processes' pieces come
into sight as their files do. A run that was stopped continues in the same way.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial

import numpy as np

from . import InputError
from .annotation import Annotations, effort, slices_per_iteration
from .aunet import AUNet
from .evaluation import THRESHOLD, evaluate_case, validation_jaccard
from .inference import predict, predict_mc
from .patches import PatchSampler, network_input
from .seeding import generator, integer_seed, torch_generator
from .storage import CHECKPOINT, CURVE, MODEL, load_checkpoint, model_folder, read_json, save_checkpoint, write_csv, write_json
from .strategies import STRATEGIES, most_uncertain_slices, most_uncertain_volumes, random_slices, random_volumes
from .team import Team
from .training import train
from .uncertainty import slice_profile, volume_uncertainty

CHECKPOINT_SECONDS = 180  # between two checkpoints of a training
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
        return {"initial": "initial model", "data pool": "data pool model"}.get(self.model) or (
            f"{self.strategy} iteration {self.iteration}{', converged' if self.model == 'converged' else ''}"
        )


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
        self.seed, self.device, self.progress = seed, device, progress
        self.pool = volumes["pool"]
        self.team = team or Team()
        self._walked, self._ready = False, []
        self._found, self._trained, self._efforts, self._records, self._loaded = {}, set(), {}, {}, (None, None)

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
        evaluation = training and self._case_stage(model.key, "evaluation", list(self.volumes["test"]), self._evaluate, CASE)
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
            self._efforts[model.key] = effort(model.annotations, self._shows_liver, self._patients)
        return self._efforts[model.key]

    def _shows_liver(self, case_id, z):
        return self.pool[case_id].shows_liver(z)

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
        training = self._stage(model.key, "training", partial(self._train, model.key, model.annotations), priority)
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
        return self._stage(key, "query", partial(self._query, strategy, before, slice_count, scores), BLOCKING)

    def _scores(self, model, strategy):
        """Uncertainty of the cases that a strategy may query under a model: `{case_id: {"volume", "profile", "empty"}}`."""
        if self._read(self._training_path(model.key)) is None:
            return None
        annotated = {case_id: len(model.annotations.of(case_id)) for case_id in self.pool}
        # Volumes are queried whole; of a slice strategy's, those with a slice left. Under the initial model these are the same.
        case_ids = [case_id for case_id, volume in self.pool.items() if annotated[case_id] < (volume.shape[0] if strategy == "USS" else 1)]
        stage = self._case_stage(model.key, "scores", case_ids, self._score, BLOCKING)
        return stage and {score["case_id"]: score for score in stage}

    # --- work ----------------------------------------------------------------------------------------------------------------

    def _new_model(self, key):
        model = AUNet(**vars(self.config.network))
        model.draw_weights(torch_generator(**self._draw(key), purpose="weights"))
        return model.to(self.device)

    def trained_model(self, key):
        if self._loaded[0] != key:
            model = self._new_model(key)
            model.load_state_dict(load_checkpoint(model_folder(self.run_folder, *key) / MODEL, self.device))
            self._loaded = key, model
        return self._loaded[1]

    def _draw(self, key):
        """Name of a model's random draws. The converged model of a strategy is none of its iterations."""
        model, strategy, iteration = key
        return {"seed": self.seed, "strategy": strategy, "iteration": iteration if model in ("initial", "iteration") else model}

    def _input(self, volume):
        return network_input(volume.image, self.config.data.window, self.config.data.scale)

    def _train(self, key, annotations):
        config, data = self.config.training, self.config.data
        folder = model_folder(self.run_folder, *key)
        model = self._new_model(key)
        patch = model.output_size(config.patch)
        sampler = PatchSampler(self.pool, annotations, patch, model.halo, config.batch_size, data.window, data.scale)
        current, saved, validations = None, time.monotonic(), 0

        def after_step(training):
            nonlocal current, saved, validations
            current = training
            if len(training.curve) > validations:
                validations = len(training.curve)
                _write_curve(folder / CURVE, training.curve)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save_checkpoint(folder / CHECKPOINT, training.state())
                saved = time.monotonic()
            limit = f"/{training.limit}" if training.limit else ""
            best = f", best Jaccard {training.best_jaccard:.3f}" if training.curve else ""
            self.progress.now(f"{_title(key)}: training step {training.step}{limit}, loss {training.loss:.3f}{best}")

        def validate(model):
            scores = []
            for case_id, volume in self.volumes["val"].items():
                self.progress.now(f"{_title(key)}: validation on {case_id} after step {current.step}")
                scores.append(validation_jaccard(self.predict(model, volume), volume))
            return float(np.mean(scores))

        converge = key[0] in ("converged", "data pool")
        try:
            trained = train(model, sampler, validate, config, self._draw(key), converge, after_step, self._checkpoint(folder / CHECKPOINT))
        except KeyboardInterrupt:  # raised at safe points alone, see stopping.py
            if current:
                save_checkpoint(folder / CHECKPOINT, current.state())
            raise
        except FloatingPointError as error:
            raise FloatingPointError(f"{_title(key)}: {error}") from None
        _write_curve(folder / CURVE, trained.curve)
        save_checkpoint(folder / MODEL, trained.state)
        return {name: value for name, value in asdict(trained).items() if name != "state"}

    def _checkpoint(self, path):
        """State of a training that was interrupted, or None to begin it."""
        if not path.exists():
            return None
        try:
            return load_checkpoint(path, self.device)
        except InputError as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            self.progress.say(f"warning: {str(error).split(';')[0]}; kept as {aside.name}, the training begins again")
            return None

    def predict(self, model, volume):
        return predict(model, self._input(volume), self.config.inference.tile)

    def _evaluate(self, key, case_id):
        self.progress.now(f"{_title(key)}: evaluating {case_id}")
        volume = self.volumes["test"][case_id]
        return {"case_id": case_id, **evaluate_case(self.predict(self.trained_model(key), volume), volume)}

    def _query(self, strategy, before, slice_count, scores):
        """Queries `[case_id, slice or None, score or None]` that a strategy makes of the model before, with notes on anything unusual."""
        query, notes = self.config.query, []
        random = generator(self.seed, strategy, (before.iteration or 0) + 1, "query")
        if strategy == "RVS":
            untouched = [case_id for case_id in self.pool if not before.annotations.of(case_id)]
            queries = [[case_id, None, None] for case_id in random_volumes(untouched, query.volumes_per_iteration, random)]
        elif strategy == "UVS":
            chosen = most_uncertain_volumes({case_id: score["volume"] for case_id, score in scores.items()}, query.volumes_per_iteration)
            queries = [[case_id, None, scores[case_id]["volume"]] for case_id in chosen]
            missed = [case_id for case_id, score in scores.items() if score["empty"]]
            notes += [f"no liver predicted in {case_id}: uncertainty over the whole volume" for case_id in missed]
        elif strategy == "USS":
            profiles = {case_id: np.array(score["profile"]) for case_id, score in scores.items()}
            queries = [list(item) for item in most_uncertain_slices(profiles, before.annotations, slice_count, query.min_distance)]
            if len(queries) < slice_count:
                notes.append(f"only {len(queries)} slice candidates for {slice_count} slices")
        else:
            counts = {case_id: volume.shape[0] for case_id, volume in self.pool.items()}
            drawn = random_slices(counts, before.annotations, slice_count, self._shows_liver, random)
            queries = [[case_id, z, None] for case_id, z in drawn]
            with_liver = sum(self._shows_liver(case_id, z) for case_id, z in drawn)
            if with_liver < slice_count:
                notes.append(f"only {with_liver} liver slices left for {slice_count}")
        return {"queries": queries, "notes": notes}

    def _score(self, key, case_id):
        self.progress.now(f"{_title(key)}: uncertainty of {case_id}")
        mean, entropy = self.uncertainty(key, case_id)
        liver = mean >= THRESHOLD
        return {
            "case_id": case_id,
            "volume": volume_uncertainty(entropy, liver),
            "profile": slice_profile(entropy).tolist(),
            "empty": not liver.any(),
        }

    def uncertainty(self, key, case_id):
        """Monte Carlo dropout on a pool case under a trained model: mean liver probability and entropy in nats, both `(z, y, x)`."""
        seed = integer_seed(**self._draw(key), purpose="mc dropout", case=case_id)
        inference = self.config.inference
        return predict_mc(self.trained_model(key), self._input(self.pool[case_id]), inference.samples, seed, inference.tile)


def _title(key):
    return " ".join(str(part) for part in key if part not in ("", None))


def _write_curve(path, curve):
    columns = ("step", "loss", "jaccard")
    write_csv(path, columns, [dict(zip(columns, row, strict=True)) for row in curve])
