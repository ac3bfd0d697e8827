"""The simulated annotation workflow (section IV): initial model, active learning iterations, converged and data pool models.

Every stage writes one JSON file when it is complete; a stage whose file exists is read instead of run. Walking through the whole
simulation again therefore continues it where it stopped, or only gathers what it found.
"""

import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from threading import Event

import numpy as np
import torch

from .annotation import Annotations, effort, slices_per_iteration
from .aunet import AUNet
from .evaluation import THRESHOLD, evaluate_case, validation_jaccard
from .inference import predict, predict_mc
from .patches import PatchSampler, network_input
from .seeding import generator, integer_seed, torch_generator
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
    workers : models that are worked on at a time, each by one thread. PyTorch's own threads gain little on small networks, and
        sums split over them would depend on their number; models are independent.
    """

    def __init__(self, config, volumes, run_folder, seed, device, progress, workers=1):
        self.config, self.volumes, self.run_folder = config, volumes, run_folder
        self.seed, self.device, self.progress = seed, device, progress
        self.pool = volumes["pool"]
        self.workers = workers
        self._stop, self._failure = Event(), None

    def run(self, strategies=STRATEGIES):
        """Records of all models, in the order of the report: initial, iterations, converged, data pool."""
        with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                return self._run(pool, strategies)
            except BaseException as error:
                # Leaving the block waits for models in the making; this makes them give up at their next step.
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise (self._failure or error) from None

    def _run(self, pool, strategies):
        everything = Annotations({case_id: range(volume.shape[0]) for case_id, volume in self.pool.items()})
        initial_model = pool.submit(self._guarded, self._model, "initial", "", 0, self._initial_annotations())
        data_pool_model = pool.submit(self._guarded, self._model, "data pool", "", None, everything)
        initial, chains, slice_count = initial_model.result(), {}, self.config.query.slices_per_iteration
        # UVS goes first: the effort of its volumes sets the slices that USS and RSS may add.
        for strategy in [name for name in STRATEGIES if name in strategies]:
            if strategy in ("USS", "RSS") and slice_count is None:
                counts = [record.effort["annotated_liver_slices"] for record in (initial, *chains["UVS"].result()[:-1])]
                slice_count = slices_per_iteration(counts)
            chains[strategy] = pool.submit(self._guarded, self._chain, strategy, initial, slice_count)
        chains = [chain.result() for chain in chains.values()]
        iterations, converged = [record for chain in chains for record in chain[:-1]], [chain[-1] for chain in chains]
        return [initial, *iterations, *converged, data_pool_model.result()]

    def _guarded(self, work, *arguments):
        """Work whose failure ends the other workers' at their next step; else it would show only when they are done."""
        try:
            return work(*arguments)
        except BaseException as error:
            if not self._stop.is_set():
                self._failure = error
                self._stop.set()
            raise

    def _chain(self, strategy, initial, slice_count):
        """Records of a strategy's iterations and, last, of its converged model."""
        records = [initial]
        for iteration in range(1, self.config.query.iterations + 1):
            key = ("iteration", strategy, iteration)
            query = self._stage(key, "query", partial(self._query, strategy, records[-1], slice_count))
            annotations = records[-1].annotations
            for case_id, z, _ in query["result"]["queries"]:
                annotations = annotations.add(case_id, range(self.pool[case_id].shape[0]) if z is None else [z])
            records.append(self._model(*key, annotations, query))
        return [*records[1:], self._model("converged", strategy, self.config.query.iterations, records[-1].annotations)]

    def _initial_annotations(self):
        chosen = [case_id for case_id, volume in self.pool.items() if volume.case.initial]
        if not chosen:
            free = [case_id for case_id, volume in self.pool.items() if volume.case.initial is None]
            chosen = random_volumes(free, self.config.query.initial_volumes, generator(self.seed, purpose="initial volumes"))
        return Annotations({case_id: range(self.pool[case_id].shape[0]) for case_id in chosen})

    def _model(self, model, strategy, iteration, annotations, query=None):
        key = (model, strategy, iteration)
        stages = {
            "query": query or {"result": {"queries": [], "notes": []}, "seconds": 0.0, "found": True},
            "training": self._stage(key, "training", partial(self._train, key, annotations)),
            "evaluation": self._stage(key, "evaluation", partial(self._evaluate, key)),
        }
        record = ModelRecord(
            *key,
            annotations,
            **stages["query"]["result"],
            effort=effort(annotations, lambda case_id, z: self.pool[case_id].shows_liver(z), self._patients),
            training=stages["training"]["result"],
            evaluation=stages["evaluation"]["result"],
            seconds={name: stage["seconds"] for name, stage in stages.items()},
        )
        dice = np.mean([row["DICE"] for row in record.evaluation])
        steps = f"best of {record.training['last_step']} steps: {record.training['best_step']}"
        found = all(stage["found"] for stage in stages.values())
        self.progress.finished(f"{record.name}: mean test DICE {dice:.3f}, {steps}", computed=not found)
        return record

    @cached_property
    def _patients(self):
        return {case_id: volume.case.patient_id for case_id, volume in self.pool.items()}

    def _tell(self, text):
        if self._stop.is_set():
            raise CancelledError
        self.progress.now(text)

    def _stage(self, key, name, compute):
        """A stage as `{"result", "seconds", "found"}`, from its file or by running it."""
        path = model_folder(self.run_folder, *key) / f"{name}.json"
        found = path.exists()
        if not found:
            started = time.monotonic()
            result = compute()
            write_json(path, {"result": result, "seconds": time.monotonic() - started})
        return {**read_json(path), "found": found}

    def _new_model(self, key):
        network = self.config.network
        model = AUNet(network.widths, network.flat_levels, network.dropout)
        model.draw_weights(torch_generator(**self._draw(key), purpose="weights"))
        return model.to(self.device)

    def trained_model(self, key):
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

        def validate(model):
            return float(np.mean([validation_jaccard(self.predict(model, volume), volume) for volume in self.volumes["val"].values()]))

        def progress(step, limit, loss, best):
            self._tell(
                f"{_title(key)}: training step {step}{f'/{limit}' if limit else ''}, loss {loss:.3f}, best Jaccard {max(best, 0):.3f}"
            )

        trained = train(model, sampler, validate, config, self._draw(key), converge=key[0] in ("converged", "data pool"), progress=progress)
        save_checkpoint(model_folder(self.run_folder, *key) / "model.pt", trained.state)
        return {name: value for name, value in asdict(trained).items() if name != "state"}

    def predict(self, model, volume):
        return predict(model, self._input(volume), self.config.inference.tile)

    def _evaluate(self, key):
        model = self.trained_model(key)
        rows = []
        for case_id, volume in self.volumes["test"].items():
            self._tell(f"{_title(key)}: evaluating {case_id}")
            rows.append({"case_id": case_id, **evaluate_case(self.predict(model, volume), volume)})
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
        return self._stage(key, "scores", partial(self._score, key, case_ids))["result"]

    def _score(self, key, case_ids):
        scores = {}
        for case_id in case_ids:
            self._tell(f"{_title(key)}: uncertainty of {case_id}")
            mean, entropy = self.uncertainty(key, case_id)
            liver = mean >= THRESHOLD
            scores[case_id] = {
                "volume": volume_uncertainty(entropy, liver),
                "profile": slice_profile(entropy).tolist(),
                "empty": not liver.any(),
            }
        return scores

    def uncertainty(self, key, case_id):
        """Monte Carlo dropout on a pool case under a trained model: mean liver probability and entropy in nats, both `(z, y, x)`."""
        seed = integer_seed(**self._draw(key), purpose="mc dropout", case=case_id)
        inference = self.config.inference
        return predict_mc(self.trained_model(key), self._input(self.pool[case_id]), inference.samples, seed, inference.tile)


def _title(key):
    return " ".join(str(part) for part in key if part not in ("", None))
