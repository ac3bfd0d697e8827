"""The simulated annotation workflow (section IV): initial model, active learning iterations, converged and data pool models.

Every stage writes one JSON file when it is complete; a stage whose file exists is read instead of run. Walking through the whole
simulation again therefore continues it where it stopped, or only gathers what it found.
"""

import time
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch

from .annotation import Annotations, effort, slices_per_iteration
from .aunet import AUNet
from .evaluation import THRESHOLD, evaluate_case, validation_jaccard
from .inference import predict, predict_mc
from .patches import PatchSampler, network_input
from .seeding import generator, integer_seed
from .storage import load_checkpoint, model_folder, read_json, save_checkpoint, write_json
from .strategies import STRATEGIES, most_uncertain_slices, most_uncertain_volumes, random_slices, random_volumes
from .training import train
from .uncertainty import slice_profile, volume_uncertainty


@dataclass(frozen=True)
class ModelRecord:
    """One trained and evaluated model. `queries` are what was annotated for it since the model before."""

    model: str
    strategy: str
    iteration: int | None
    annotations: Annotations
    queries: list
    notes: list
    effort: dict
    training: dict
    evaluation: list
    seconds: dict

    @property
    def name(self):
        return {"initial": "initial model", "data pool": "data pool model"}.get(self.model) or (
            f"{self.strategy} iteration {self.iteration}{', converged' if self.model == 'converged' else ''}"
        )


class Simulation:
    """Runs the workflow on preprocessed volumes.

    Parameters
    ----------
    config : `config.Config`
    volumes : `{"pool" | "val" | "test": {case_id: volumes.Volume}}`
    run_folder : where models and stages are kept
    seed : integer that names every random draw
    device : torch device
    progress : `progress.Progress`
    """

    def __init__(self, config, volumes, run_folder, seed, device, progress):
        self.config, self.volumes, self.run_folder = config, volumes, run_folder
        self.seed, self.device, self.progress = seed, device, progress
        self.pool = volumes["pool"]
        self._stages_run = 0

    def run(self, strategies=STRATEGIES):
        """Records of all models, in the order of the report: initial, iterations, converged, data pool."""
        initial = self._model("initial", "", 0, self._initial_annotations())
        chains, slice_count = {}, self.config.query.slices_per_iteration
        # UVS goes first: the effort of its volumes sets the slices that USS and RSS may add.
        for strategy in [name for name in STRATEGIES if name in strategies]:
            chains[strategy] = self._chain(strategy, initial, slice_count)
            if strategy == "UVS" and slice_count is None:
                slice_count = slices_per_iteration([record.effort["annotated_liver_slices"] for record in (initial, *chains["UVS"])])
        iterations = self.config.query.iterations
        converged = [self._model("converged", strategy, iterations, chain[-1].annotations) for strategy, chain in chains.items()]
        everything = Annotations({case_id: range(volume.shape[0]) for case_id, volume in self.pool.items()})
        return [
            initial,
            *(record for chain in chains.values() for record in chain),
            *converged,
            self._model("data pool", "", None, everything),
        ]

    def _chain(self, strategy, initial, slice_count):
        records = [initial]
        for iteration in range(1, self.config.query.iterations + 1):
            query, seconds = self._stage(
                ("iteration", strategy, iteration), "query", lambda: self._query(strategy, records[-1], slice_count)
            )
            annotations = records[-1].annotations
            for case_id, z, _ in query["queries"]:
                annotations = annotations.add(case_id, range(self.pool[case_id].shape[0]) if z is None else [z])
            records.append(self._model("iteration", strategy, iteration, annotations, query, seconds))
        return records[1:]

    def _initial_annotations(self):
        chosen = [case_id for case_id, volume in self.pool.items() if volume.case.initial]
        if not chosen:
            free = [case_id for case_id, volume in self.pool.items() if volume.case.initial is None]
            chosen = random_volumes(free, self.config.query.initial_volumes, generator(self.seed, purpose="initial volumes"))
        return Annotations({case_id: range(self.pool[case_id].shape[0]) for case_id in chosen})

    def _model(self, model, strategy, iteration, annotations, query=None, query_seconds=0.0):
        key = (model, strategy, iteration)
        query = query or {"queries": [], "notes": []}
        stages_run = self._stages_run
        training, training_seconds = self._stage(key, "training", lambda: self._train(key, annotations))
        evaluation, evaluation_seconds = self._stage(key, "evaluation", lambda: self._evaluate(key))
        counts = effort(annotations, lambda case_id, z: self.pool[case_id].shows_liver(z), self._patients)
        seconds = {"query": query_seconds, "training": training_seconds, "evaluation": evaluation_seconds}
        record = ModelRecord(*key, annotations, query["queries"], query["notes"], counts, training, evaluation, seconds)
        dice = np.mean([row["DICE"] for row in evaluation])
        steps = f"best of {training['last_step']} steps: {training['best_step']}"
        self.progress.finished(f"{record.name}: mean test DICE {dice:.3f}, {steps}", computed=self._stages_run > stages_run)
        return record

    @cached_property
    def _patients(self):
        return {case_id: volume.case.patient_id for case_id, volume in self.pool.items()}

    def _stage(self, key, name, compute):
        """Result of a stage and the seconds it took, from its file or by running it."""
        path = model_folder(self.run_folder, *key) / f"{name}.json"
        if not path.exists():
            started = time.monotonic()
            result = compute()
            self._stages_run += 1
            write_json(path, {"result": result, "seconds": time.monotonic() - started})
        stage = read_json(path)
        return stage["result"], stage["seconds"]

    def _new_model(self, key):
        network = self.config.network
        # Weights are drawn on the CPU from the global stream, which is given back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(integer_seed(**self._draw(key), purpose="weights"))
            model = AUNet(network.widths, network.flat_levels, network.dropout)
        return model.to(self.device)

    def _trained_model(self, key):
        model = self._new_model(key)
        model.load_state_dict(load_checkpoint(model_folder(self.run_folder, *key) / "model.pt", self.device))
        return model

    def _draw(self, key):
        """Name of a model's random draws. The converged model of a strategy is none of its iterations."""
        model, strategy, iteration = key
        return {"seed": self.seed, "strategy": strategy, "iteration": iteration if model in ("initial", "iteration") else model}

    def _input(self, volume):
        return network_input(volume.image, self.config.data.window, self.config.data.scale)

    def _train(self, key, annotations):
        config, data = self.config.training, self.config.data
        model = self._new_model(key)
        patch = model.output_size(config.patch)
        sampler = PatchSampler(self.pool, annotations, patch, model.halo, config.batch_size, data.window, data.scale)
        title = " ".join(str(part) for part in key if part not in ("", None))

        def validate(model):
            return float(np.mean([validation_jaccard(self._predict(model, volume), volume) for volume in self.volumes["val"].values()]))

        def progress(step, limit, loss, best):
            self.progress.now(
                f"{title}: training step {step}{f'/{limit}' if limit else ''}, loss {loss:.3f}, best Jaccard {max(best, 0):.3f}"
            )

        trained = train(model, sampler, validate, config, self._draw(key), converge=key[0] in ("converged", "data pool"), progress=progress)
        save_checkpoint(model_folder(self.run_folder, *key) / "model.pt", trained.state)
        return {name: value for name, value in asdict(trained).items() if name != "state"}

    def _predict(self, model, volume):
        return predict(model, self._input(volume), self.config.inference.tile)

    def _evaluate(self, key):
        model = self._trained_model(key)
        rows = []
        for case_id, volume in self.volumes["test"].items():
            self.progress.now(f"{' '.join(str(part) for part in key if part)}: evaluating {case_id}")
            rows.append({"case_id": case_id, **evaluate_case(self._predict(model, volume), volume)})
        return rows

    def _query(self, strategy, before, slice_count):
        """Queries `[case_id, slice or None, score or None]` that a strategy makes of the model before, with notes on anything unusual."""
        query, notes = self.config.query, []
        random = generator(self.seed, strategy, (before.iteration or 0) + 1, "query")
        untouched = [case_id for case_id in self.pool if not before.annotations.of(case_id)]
        if strategy == "RVS":
            queries = [[case_id, None, None] for case_id in random_volumes(untouched, query.volumes_per_iteration, random)]
        elif strategy == "UVS":
            scores = self._scores(before, untouched)
            chosen = most_uncertain_volumes({case_id: score["volume"] for case_id, score in scores.items()}, query.volumes_per_iteration)
            queries = [[case_id, None, scores[case_id]["volume"]] for case_id in chosen]
            notes += [
                f"no liver predicted in {case_id}: uncertainty over the whole volume" for case_id in untouched if scores[case_id]["empty"]
            ]
        elif strategy == "USS":
            open_cases = [case_id for case_id, volume in self.pool.items() if len(before.annotations.of(case_id)) < volume.shape[0]]
            profiles = {case_id: np.array(score["profile"]) for case_id, score in self._scores(before, open_cases).items()}
            queries = [list(item) for item in most_uncertain_slices(profiles, before.annotations, slice_count, query.min_distance)]
            if len(queries) < slice_count:
                notes.append(f"only {len(queries)} slice candidates for {slice_count} slices")
        else:
            counts = {case_id: volume.shape[0] for case_id, volume in self.pool.items()}
            drawn = random_slices(counts, before.annotations, slice_count, lambda case_id, z: self.pool[case_id].shows_liver(z), random)
            queries = [[case_id, z, None] for case_id, z in drawn]
            with_liver = sum(self.pool[case_id].shows_liver(z) for case_id, z in drawn)
            if with_liver < slice_count:
                notes.append(f"only {with_liver} liver slices left for {slice_count}")
        return {"queries": queries, "notes": notes}

    def _scores(self, record, case_ids):
        """Uncertainty of cases under a model: `{case_id: {"volume", "profile", "empty"}}`."""
        key = (record.model, record.strategy, record.iteration)
        scores, _ = self._stage(key, "scores", lambda: self._score(key, case_ids))
        return scores

    def _score(self, key, case_ids):
        model, scores = self._trained_model(key), {}
        for case_id in case_ids:
            self.progress.now(f"{' '.join(str(part) for part in key if part)}: uncertainty of {case_id}")
            seed = integer_seed(**self._draw(key), purpose="mc dropout", case=case_id)
            inference = self.config.inference
            mean, entropy = predict_mc(model, self._input(self.pool[case_id]), inference.samples, seed, inference.tile)
            liver = mean >= THRESHOLD
            scores[case_id] = {
                "volume": volume_uncertainty(entropy, liver),
                "profile": slice_profile(entropy).tolist(),
                "empty": not liver.any(),
            }
        return scores
