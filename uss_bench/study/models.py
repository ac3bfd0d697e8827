"""Work on the models of a run: each is trained, queried, scored and evaluated by its `keys.ModelKey`.

Every random draw is named by the key, so that what comes out depends neither on the order of the work nor on who does it.
"""

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..network.aunet import AUNet
from ..network.inference import predict, predict_mc
from ..network.patches import PatchSampler, network_input
from ..network.training import train
from ..network.uncertainty import slice_profile, volume_uncertainty
from ..runtime.errors import InputError
from ..runtime.paths import CHECKPOINT, CURVE, MODEL
from ..runtime.seeding import generator, integer_seed, torch_generator
from ..runtime.storage import load_checkpoint, save_checkpoint, write_csv
from .evaluation import THRESHOLD, evaluate_case, validation_jaccard
from .strategies import Pool, PoolCase

CHECKPOINT_SECONDS = 180  # between two checkpoints of a training


class Models:
    """The models that a run keeps in its `folder`. Parameters are those of `simulation.Simulation`."""

    def __init__(self, config, volumes, folder, seed, device, progress):
        self.config, self.volumes, self.folder = config, volumes, Path(folder)
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
            model.load_state_dict(load_checkpoint(self.folder / key.folder / MODEL, self.device))
            self._loaded = key, model
        return self._loaded[1]

    def _draw(self, key):
        return {"seed": self.seed, **key.draw}

    def _input(self, volume):
        return network_input(volume.image, self.config.data.window, self.config.data.scale)

    def train(self, key, annotations):
        """Train a model from scratch, or on from its checkpoint, and keep its best state.

        Returns the fields of `training.Trained` without the state. Raises FloatingPointError where the loss is not finite.
        """
        config, data = self.config.training, self.config.data
        folder = self.folder / key.folder
        model = self._new_model(key)
        patch = model.output_size(config.patch)
        sampler = PatchSampler(
            self.volumes["pool"], annotations, patch, model.halo, config.batch_size, data.window, data.scale
        )
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
            self.progress.now(
                f"{key.title}: training step {training.step}{limit}, loss {training.loss:.3f}{best}"
            )

        def validate(model):
            scores = []
            for case_id, volume in self.volumes["val"].items():
                self.progress.now(f"{key.title}: validation on {case_id} after step {current.step}")
                scores.append(validation_jaccard(self.predict(model, volume), volume))
            return float(np.mean(scores))

        try:
            resume = self._checkpoint(folder / CHECKPOINT)
            trained = train(
                model, sampler, validate, config, self._draw(key), key.converges, after_step, resume
            )
        except KeyboardInterrupt:  # raised at safe points alone, see stopping.py
            if current:
                save_checkpoint(folder / CHECKPOINT, current.state())
            raise
        except FloatingPointError as error:
            raise FloatingPointError(f"{key.title}: {error}") from None
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
            self.progress.say(
                f"warning: {str(error).split(';')[0]}; kept as {aside.name}, the training begins again"
            )
            return None

    def predict(self, model, volume):
        """Liver probability of a `volumes.Volume` on the working grid, `(z, y, x)`."""
        return predict(model, self._input(volume), self.config.inference.tile)

    def evaluate(self, key, case_id):
        """Scores of a test case under a trained model, as `evaluation.evaluate_case` gives them, with its id."""
        self.progress.now(f"{key.title}: evaluating {case_id}")
        volume = self.volumes["test"][case_id]
        return {"case_id": case_id, **evaluate_case(self.predict(self.trained(key), volume), volume)}

    def query(self, strategy, before, count, scores):
        """What a strategy asks for next.

        Parameters
        ----------
        strategy : `strategies.Strategy`
        before : `simulation.TrainingSet` of the model that queries
        count : volumes or slices to annotate
        scores : what `score` returned for the cases that may be queried; empty where the strategy needs none

        Returns
        -------
        `{"queries": list of strategies.Query, "notes": texts on anything unusual}`
        """
        scores = {score["case_id"]: score for score in scores}
        cases = [
            PoolCase(case_id, volume.shape[0], before.annotations.of(case_id), scores.get(case_id, {}))
            for case_id, volume in self.volumes["pool"].items()
        ]
        pool = Pool(cases, self.config.query.min_distance)
        random = generator(self.seed, strategy.name, before.key.iteration + 1, "query")
        queries = list(strategy.choose(pool, count, random))
        notes = [
            f"no liver predicted in {case_id}: uncertainty over the whole volume"
            for case_id, score in scores.items()
            if "volume" in strategy.needs and score["empty"]
        ]
        if strategy.until_liver:
            queries, found = self._until_liver(queries, count)
            if found < count:
                notes.append(f"only {found} liver slices left for {count}")
        elif len(queries) < count:
            notes.append(f"only {len(queries)} slice candidates for {count} slices")
        return {"queries": queries, "notes": notes}

    def _until_liver(self, queries, count):
        """Queries up to the one with which `count` of them show liver, and how many do."""
        found = 0
        for number, query in enumerate(queries):
            if found == count:
                return queries[:number], found
            found += bool(self.shows_liver(query.case_id, query.z))
        return queries, found

    def score(self, key, case_id):
        """What UVS and USS need to know of a pool case under a trained model: uncertainty of the volume and of its slices, in nats."""
        self.progress.now(f"{key.title}: uncertainty of {case_id}")
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
        return predict_mc(
            self.trained(key),
            self._input(self.volumes["pool"][case_id]),
            inference.samples,
            seed,
            inference.tile,
        )


def _write_curve(path, curve):
    columns = ("step", "loss", "jaccard")
    write_csv(path, columns, [dict(zip(columns, row, strict=True)) for row in curve])
