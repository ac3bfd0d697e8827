"""Work on the models of a run: each is trained, queried, scored and evaluated by its key `(model, strategy, iteration)`.

Every random draw is named by the key, so that what comes out depends neither on the order of the work nor on who does it.
"""

import time
from dataclasses import asdict

import numpy as np

from . import InputError
from .aunet import AUNet
from .evaluation import THRESHOLD, evaluate_case, validation_jaccard
from .inference import predict, predict_mc
from .patches import PatchSampler, network_input
from .seeding import generator, integer_seed, torch_generator
from .storage import CHECKPOINT, CURVE, MODEL, load_checkpoint, model_folder, save_checkpoint, write_csv
from .strategies import most_uncertain_slices, most_uncertain_volumes, random_slices, random_volumes
from .training import train
from .uncertainty import slice_profile, volume_uncertainty

CHECKPOINT_SECONDS = 180  # between two checkpoints of a training


def model_name(model, strategy, iteration):
    """A model's key in words."""
    return {"initial": "initial model", "data pool": "data pool model"}.get(model) or (
        f"{strategy} iteration {iteration}{', converged' if model == 'converged' else ''}"
    )


class Models:
    """The models that a run keeps in its `folder`. Parameters are those of `simulation.Simulation`."""

    def __init__(self, config, volumes, folder, seed, device, progress):
        self.config, self.volumes, self.folder = config, volumes, folder
        self.seed, self.device, self.progress = seed, device, progress
        self._loaded = None, None

    def shows_liver(self, case_id, z):
        """Whether the reference of a pool case shows liver in slice z."""
        return self.volumes["pool"][case_id].shows_liver(z)

    def _new_model(self, key):
        model = AUNet(**vars(self.config.network))
        model.draw_weights(torch_generator(**self._draw(key), purpose="weights"))
        return model.to(self.device)

    def trained(self, key):
        """The network in its best state; the last one asked for is kept in memory."""
        if self._loaded[0] != key:
            model = self._new_model(key)
            model.load_state_dict(load_checkpoint(model_folder(self.folder, *key) / MODEL, self.device))
            self._loaded = key, model
        return self._loaded[1]

    def _draw(self, key):
        """Name of a model's random draws. The converged model of a strategy is none of its iterations."""
        model, strategy, iteration = key
        return {"seed": self.seed, "strategy": strategy, "iteration": iteration if model in ("initial", "iteration") else model}

    def _input(self, volume):
        return network_input(volume.image, self.config.data.window, self.config.data.scale)

    def train(self, key, annotations):
        """Train a model from scratch, or on from its checkpoint, and keep its best state.

        Returns the fields of `training.Trained` without the state. Raises FloatingPointError where the loss is not finite.
        """
        config, data = self.config.training, self.config.data
        folder = model_folder(self.folder, *key)
        model = self._new_model(key)
        patch = model.output_size(config.patch)
        sampler = PatchSampler(self.volumes["pool"], annotations, patch, model.halo, config.batch_size, data.window, data.scale)
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
            self.progress.now(f"{model_name(*key)}: training step {training.step}{limit}, loss {training.loss:.3f}{best}")

        def validate(model):
            scores = []
            for case_id, volume in self.volumes["val"].items():
                self.progress.now(f"{model_name(*key)}: validation on {case_id} after step {current.step}")
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
            raise FloatingPointError(f"{model_name(*key)}: {error}") from None
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
        """Liver probability of a `volumes.Volume` on the working grid, `(z, y, x)`."""
        return predict(model, self._input(volume), self.config.inference.tile)

    def evaluate(self, key, case_id):
        """Scores of a test case under a trained model, as `evaluation.evaluate_case` gives them, with its id."""
        self.progress.now(f"{model_name(*key)}: evaluating {case_id}")
        volume = self.volumes["test"][case_id]
        return {"case_id": case_id, **evaluate_case(self.predict(self.trained(key), volume), volume)}

    def query(self, strategy, before, slice_count, scores):
        """Queries `[case_id, slice or None, score or None]` that a strategy makes of the model before, with notes on anything unusual."""
        query, notes = self.config.query, []
        random = generator(self.seed, strategy, (before.iteration or 0) + 1, "query")
        if strategy == "RVS":
            untouched = [case_id for case_id in self.volumes["pool"] if not before.annotations.of(case_id)]
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
            counts = {case_id: volume.shape[0] for case_id, volume in self.volumes["pool"].items()}
            drawn = random_slices(counts, before.annotations, slice_count, self.shows_liver, random)
            queries = [[case_id, z, None] for case_id, z in drawn]
            with_liver = sum(self.shows_liver(case_id, z) for case_id, z in drawn)
            if with_liver < slice_count:
                notes.append(f"only {with_liver} liver slices left for {slice_count}")
        return {"queries": queries, "notes": notes}

    def score(self, key, case_id):
        """What UVS and USS need to know of a pool case under a trained model: uncertainty of the volume and of its slices, in nats."""
        self.progress.now(f"{model_name(*key)}: uncertainty of {case_id}")
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
        return predict_mc(self.trained(key), self._input(self.volumes["pool"][case_id]), inference.samples, seed, inference.tile)


def _write_curve(path, curve):
    columns = ("step", "loss", "jaccard")
    write_csv(path, columns, [dict(zip(columns, row, strict=True)) for row in curve])
