"""The models of a run: each is trained, scores the pool, and is evaluated.

Every random draw is named, so results depend neither on the order of the work nor on who does it: batches and
dropout of a training by the key of the model. What strategies should share, first weights and the masks of
Monte Carlo dropout, is named by the seed (and the case) alone.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.volumes import Volume
from ..network.aunet import AUNet
from ..network.inference import THRESHOLD, MonteCarlo, predict, predict_mc
from ..network.patches import PatchSampler, network_input
from ..network.training import Training, step_limit, train
from ..network.uncertainty import slice_profile, volume_uncertainty
from ..runtime.checkpoints import load_checkpoint, save_checkpoint
from ..runtime.errors import InputError
from ..runtime.paths import ASSESSMENT, CHECKPOINT, CURVE, MODEL
from ..runtime.progress import Progress
from ..runtime.seeding import integer_seed, torch_generator
from ..runtime.storage import write_csv
from .annotation import Annotations
from .evaluation import evaluate_case, validation_jaccard
from .keys import ModelKey
from .pool import pack_mask
from .querying import in_voxels
from .records import TrainingSet
from .uncertainty_quality import assess_case, keep_mean, kept_mean, quantized

CHECKPOINT_SECONDS = 180  # between two checkpoints of a training
EVERYTHING = ("information", "agreement")  # what Monte Carlo dropout can find beside mean and entropy


def training_work(settings: Any, converges: bool) -> int:
    """What a training weighs in the time of a run: its limit of steps, or 1 where some have no such limit.

    `settings` are a `config.Training`. Evaluations weigh nothing: they take little.
    """
    limits = step_limit(settings, False), step_limit(settings, True)
    return limits[converges] if all(limits) else 1


class Models:
    """The models that a run keeps in its folder.

    Parameters
    ----------
    config : config.Config
        Settings of the run.
    volumes : mapping
        `{"pool" | "val" | "test": {case_id: Volume}}`.
    folder : path
        Of the run.
    seed : int
        Names every random draw, together with a model's key.
    device : torch.device
        Where networks run.
    progress : Progress
        Says what is being done.
    """

    def __init__(
        self,
        config: Any,
        volumes: Mapping[str, Mapping[str, Volume]],
        folder: str | Path,
        seed: int,
        device: torch.device,
        progress: Progress,
    ):
        self.config, self.volumes, self.folder = config, volumes, Path(folder)
        self.seed, self.device, self.progress = seed, device, progress
        self._loaded: tuple[ModelKey | None, AUNet | None] = None, None

    def use(self, key: ModelKey, state: Mapping[str, torch.Tensor]) -> None:
        """Take on a model that was trained elsewhere."""
        model = self._new_model(key)
        model.load_state_dict(state)
        self._loaded = key, model

    def trained(self, key: ModelKey) -> AUNet:
        """The network in its best state; the last one asked for is kept in memory."""
        if self._loaded[0] != key:
            self.use(key, load_checkpoint(self.folder / key.folder / MODEL))
        return self._loaded[1]

    def _new_model(self, key: ModelKey) -> AUNet:
        model = AUNet(**vars(self.config.network))
        model.draw_weights(torch_generator(seed=self.seed, **key.weights_draw, purpose="weights"))
        return model.to(self.device)

    def _input(self, volume: Volume) -> np.ndarray:
        return network_input(volume.image, self.config.data.window, self.config.data.scale)

    def train(self, key: ModelKey, annotations: Annotations, draws_as: str = "") -> dict[str, Any]:
        """Train a model from scratch, or on from its checkpoint, and keep its best state (section II-B).

        Without validation cases nothing tells when a training has converged: it ends as that of an
        iteration's model does, and its last state is kept.

        Parameters
        ----------
        key : ModelKey
            The model.
        annotations : Annotations
            What it is trained on.
        draws_as : str
            Strategy under whose name batches and dropout are drawn, if not its own.

        Returns
        -------
        dict
            The fields of `training.Trained` without the state.

        Raises
        ------
        FloatingPointError
            The loss is not finite.
        """
        config, data, folder = self.config.training, self.config.data, self.folder / key.folder
        draw = {"seed": self.seed, **key._replace(strategy=draws_as or key.strategy).draw}
        model = self._new_model(key)
        patch = model.output_size(config.patch)
        sampler = PatchSampler(
            self.volumes["pool"], annotations, patch, model.halo, config.batch_size, data.window, data.scale
        )
        watch = _Watch(folder, key.title, self.progress)

        def validate(model: AUNet) -> float:
            scores = []
            for case_id, volume in self.volumes["val"].items():
                step = watch.training.step
                self.progress.now(f"{key.title}: validation on {case_id} after step {step}")
                scores.append(validation_jaccard(self.predict(model, volume), volume))
            return float(np.mean(scores))

        try:
            resume = self._checkpoint(folder / CHECKPOINT)
            validates = bool(self.volumes["val"])
            trained = train(
                model, sampler, validate if validates else None, config, draw,
                key.converges and validates, watch, resume,
            )  # fmt: skip
        except KeyboardInterrupt:  # raised at safe points alone, see stopping.py
            watch.save()
            raise
        except FloatingPointError as error:
            raise FloatingPointError(f"{key.title}: {error}") from None
        _write_curve(folder / CURVE, trained.curve)
        save_checkpoint(folder / MODEL, trained.state)
        return {name: value for name, value in asdict(trained).items() if name != "state"}

    def _checkpoint(self, path: Path) -> dict[str, Any] | None:
        """State of an interrupted training, or None to begin from scratch."""
        if not path.exists():
            return None
        try:
            return load_checkpoint(path)
        except InputError:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            self.progress.say(f"warning: {path}: damaged; kept as {aside.name}, the training begins again")
            return None

    def predict(self, model: AUNet, volume: Volume) -> np.ndarray:
        """Liver probability of a volume on the working grid, float32 `(z, y, x)`."""
        return predict(model, self._input(volume), self.config.inference.tile)

    def evaluate(self, key: ModelKey, case_id: str) -> dict[str, Any]:
        """Scores of a test case under a trained model, as `evaluate_case` gives them, with its id."""
        self.progress.now(f"{key.title}: evaluating {case_id}")
        volume = self.volumes["test"][case_id]
        return {"case_id": case_id, **evaluate_case(self.predict(self.trained(key), volume), volume)}

    def score(self, key: ModelKey, case_id: str) -> dict[str, Any]:
        """All that any strategy may need to know of a pool case under a trained model (section II-E).

        One pass of Monte Carlo dropout gives everything, whichever strategies run, so that others can be
        added to a finished run. No label is read.

        Returns
        -------
        dict
            `case_id`; `empty`, whether no liver is predicted; and what `pool.SCORES` lists, but for errors.
        """
        self.progress.now(f"{key.title}: uncertainty of {case_id}")
        found = self.uncertainty(key, case_id, EVERYTHING)
        keep_mean(self._mean_path(key, case_id), found.mean)
        return self.scores_of(case_id, found)

    def scores_of(self, case_id: str, found: MonteCarlo) -> dict[str, Any]:
        """What `score` returns, from what `uncertainty` has found of everything."""
        liver = found.mean >= THRESHOLD
        reach = in_voxels(self.config.query.dilation_mm, self.config.data.spacing)
        return {
            "case_id": case_id,
            "volume": volume_uncertainty(found.entropy, liver, reach),
            "profile": slice_profile(found.entropy).tolist(),
            "information": slice_profile(found.information).tolist(),
            "disagreement": 1 - found.agreement,
            "liver": np.count_nonzero(liver, axis=(1, 2)).tolist(),
            "mask": pack_mask(liver),
            "empty": not liver.any(),
        }

    def assess(self, training_set: TrainingSet, score: Mapping[str, Any]) -> dict[str, Any]:
        """How good the uncertainties of a pool case are under the model of a training set.

        This reads the reference of the case, annotated or not: only when all queries have been made.

        Parameters
        ----------
        training_set : TrainingSet
            Of the model.
        score : dict
            What `score` returned.

        Returns
        -------
        dict
            `case_id`; `uncertainty`, of each slice in nats; and what `assess_case` gives.
        """
        key, case_id = training_set.key, score["case_id"]
        self.progress.now(f"{key.title}: errors on {case_id}")
        reference = self.volumes["pool"][case_id].label
        try:
            mean = kept_mean(self._mean_path(key, case_id), reference.shape)
        except (FileNotFoundError, zlib.error, ValueError):  # lost or damaged
            mean = quantized(self.uncertainty(key, case_id).mean)
        found = assess_case(mean, reference, training_set.annotations.of(case_id))
        return {"case_id": case_id, "uncertainty": score["profile"], **found}

    def _mean_path(self, key: ModelKey, case_id: str) -> Path:
        """In the folder of the parts of the stage that reads it, and so gone with these."""
        return self.folder / key.folder / ASSESSMENT / f"{list(self.volumes['pool']).index(case_id)}.mean"

    def uncertainty(self, key: ModelKey, case_id: str, further: Collection[str] = ()) -> MonteCarlo:
        """Monte Carlo dropout on a pool case under a trained model, with what is asked for `further`."""
        seed = integer_seed(self.seed, purpose="mc dropout", case=case_id)
        volume, inference = self.volumes["pool"][case_id], self.config.inference
        model, image = self.trained(key), self._input(volume)
        return predict_mc(model, image, inference.samples, seed, inference.tile, further)


class _Watch:
    """Follows a training: called after each step, it reports progress and keeps curve and checkpoint."""

    def __init__(self, folder: Path, title: str, progress: Progress):
        self.training: Training | None = None
        self._folder, self._title, self._progress = folder, title, progress
        self._saved, self._validations = time.monotonic(), 0

    def __call__(self, training: Training) -> None:
        self.training = training
        if len(training.curve) > self._validations:
            self._validations = len(training.curve)
            _write_curve(self._folder / CURVE, training.curve)
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()
            self._saved = time.monotonic()
        limit = f"/{training.limit}" if training.limit else ""
        validated = training.curve and training.best_jaccard is not None
        best = f", best Jaccard {training.best_jaccard:.3f}" if validated else ""
        self._progress.now(
            f"{self._title}: training step {training.step}{limit}, loss {training.loss:.3f}{best}"
        )

    def save(self) -> None:
        """Write the checkpoint, if a step has been made."""
        if self.training:
            save_checkpoint(self._folder / CHECKPOINT, self.training.state())


def _write_curve(path: Path, curve: Iterable[tuple[int, float, float]]) -> None:
    columns = ("step", "loss", "jaccard")
    write_csv(path, columns, [dict(zip(columns, row, strict=True)) for row in curve])
