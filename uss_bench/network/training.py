"""Training of one model from scratch (section II-B): soft Dice loss, Adam, choice of a checkpoint."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..runtime.prefetch import ahead
from ..runtime.seeding import generator, torch_generator
from .aunet import AUNet, liver_probability
from .patches import Patch, PatchSampler


def soft_dice_loss(probability: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted soft Dice loss over a whole mini-batch (equation 1).

    Parameters
    ----------
    probability, label, weight : tensors of one shape
        Liver probability; 1 for liver and 0 for background; 1 where annotated and 0 elsewhere.

    Examples
    --------
    >>> soft_dice_loss(*torch.tensor([[0.5, 0.5, 0.9], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])).item()
    0.5
    """
    overlap = (weight * label * probability).sum()
    return 1 - 2 * overlap / ((weight * label).sum() + (weight * probability).sum())


def learning_rate(settings: Any, step: int, limit: int | None, annealed_from: int | None = None) -> float:
    """Rate of a step, counted from 1.

    Constant as in the paper; with `settings.decay` falling to zero at `limit` steps; with `settings.anneal`
    falling to zero in a straight line over that many steps after step `annealed_from`, and constant before
    (None: still so).
    """
    if annealed_from is not None:
        return settings.learning_rate * (1 - (step - 1 - annealed_from) / settings.anneal)
    if not settings.decay:
        return settings.learning_rate
    return settings.learning_rate * (1 - (step - 1) / limit) ** settings.decay


class Training:
    """A training between two of its steps: everything that the steps to come depend on.

    Parameters
    ----------
    model : AUNet
    settings : config.Training
    name : dict
        Names the random draws, see `runtime.seeding`.
    limit : int, optional
        Limit of steps, those of annealing included.

    Attributes
    ----------
    step : int
        Steps done.
    loss : float
        Of the last step, until it is validated.
    best_jaccard, best_step, best_state
        The best validation, its step and the model's state there; after annealing the last one's.
    curve : list
        `[step, mean loss since the validation before, validation Jaccard]` of each validation; None for the
        Jaccard index where training goes without.
    without_progress : int
        Validations since the best one.
    ended : str or None
        What ended training at a constant rate, one of `Trained.ended`; None before.
    annealed_from : int or None
        Step with which that happened, after which `settings.anneal` steps with a falling rate remain.
    """

    _KEPT = (
        *("step", "losses", "curve", "best_state", "best_step", "best_jaccard", "without_progress"),
        *("ended", "annealed_from"),
    )

    def __init__(self, model: AUNet, settings: Any, name: dict[str, Any], limit: int | None):
        self.model, self.settings, self.limit = model, settings, limit
        self._device = next(model.parameters()).device
        self._dropout = torch_generator(self._device, **name, purpose="training dropout")
        self._optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
        self.step, self.losses, self.curve = 0, [], []
        self.best_state, self.best_step, self.best_jaccard, self.without_progress = None, 0, -math.inf, 0
        self.ended, self.annealed_from = None, None

    @property
    def loss(self) -> float:
        return self.losses[-1]

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs to go on from here: tensors and plain Python values."""
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "dropout": self._dropout.get_state(),
        }
        return {**tensors, **{name: getattr(self, name) for name in self._KEPT}}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._dropout.set_state(state["dropout"])
        for name in self._KEPT:
            setattr(self, name, state[name])

    def staged(self, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor] | tuple[torch.Tensor, ...]:
        """Tensors of a mini-batch in memory from which a GPU fetches them fast."""
        if self._device.type != "cuda":
            return tensors
        with torch.cuda.device(self._device):  # which every thread has of its own
            return [tensor.pin_memory() for tensor in tensors]

    def update(
        self, image: torch.Tensor, label: torch.Tensor, weight: torch.Tensor, batch: list[Patch] | str
    ) -> None:
        """One step of the optimizer, on what `PatchSampler.load` gave for `batch`.

        Raises
        ------
        FloatingPointError
            The loss is not finite; the weights are as they were.
        """
        image, label, weight = (
            tensor.to(self._device, non_blocking=True) for tensor in (image, label, weight)
        )
        self.model.train()
        loss = soft_dice_loss(liver_probability(self.model(image, self._dropout)), label, weight)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"step {self.step + 1}: the loss is {value} on {batch}; "
                "lower training.learning_rate or check these cases"
            )
        self.step += 1
        rate = learning_rate(self.settings, self.step, self.limit, self.annealed_from)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.losses.append(value)

    def end(self, reason: str) -> None:
        """Take no more steps at the constant rate; the first reason given is kept."""
        if not self.ended:
            self.ended, self.annealed_from = reason, self.step

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return bool(self.ended) and self.step == self.annealed_from + self.settings.anneal

    @property
    def validated(self) -> bool:
        """Whether the last step has been validated."""
        return bool(self.curve) and self.curve[-1][0] == self.step

    def judge(self, jaccard: float | None) -> None:
        """Take in the validation after the last step.

        The last state is the best where nothing was validated (None), and at the end of annealing: what
        distinguishes it from states at the full rate exceeds what few validation cases can tell.
        """
        self.curve.append([self.step, sum(self.losses) / len(self.losses), jaccard])
        self.losses, self.without_progress = [], self.without_progress + 1
        annealed = self.settings.anneal and self.finished
        if annealed or jaccard is None or jaccard > self.best_jaccard:
            self.best_state = {
                key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()
            }
            self.best_step, self.best_jaccard, self.without_progress = self.step, jaccard, 0


@dataclass(frozen=True)
class Trained:
    """Outcome of a training.

    Attributes
    ----------
    state : dict
        The model's state at the best validation, or at the end of annealing; on the CPU.
    best_step, last_step : int
        Of that state, and of the training.
    best_jaccard : float or None
        Of that state; None without validation.
    curve : list
        `[step, mean loss since the validation before, validation Jaccard]` of each validation.
    ended : str
        What ended training, or its part at a constant rate: "epochs", "steps" (their limits) or "patience".
    """

    state: dict[str, torch.Tensor]
    best_step: int
    last_step: int
    best_jaccard: float | None
    curve: list[list]
    ended: str


def step_limit(settings: Any, converge: bool) -> int | None:
    """Most steps of a training, if there is a limit of steps."""
    return settings.converged_max_steps if converge else settings.max_steps


def train(
    model: AUNet,
    sampler: PatchSampler,
    validate: Callable[[AUNet], float] | None,
    settings: Any,
    name: dict[str, Any],
    converge: bool = False,
    after_step: Callable[[Training], None] | None = None,
    resume: dict[str, Any] | None = None,
) -> Trained:
    """Train `model` in place and return its best state, or the annealed one.

    The rate is constant until the limit of epochs or, with `converge`, until the patience runs out. Then,
    with `settings.anneal`, that many steps follow in which it falls to zero, and the model is what they end
    with; without them it is the state of the best validation. A limit of steps counts these in: annealing
    begins early enough to be done by then, so no training ends without it.

    Parameters
    ----------
    model : AUNet
        Freshly initialised, on the device to train on.
    sampler : PatchSampler
    validate : callable or None
        From the model to the mean validation Jaccard. None: nothing to validate on, and the last state is
        returned; with `converge` training would never end.
    settings : config.Training
    name : dict
        `seed, strategy, iteration` that name the training's random draws.
    converge : bool
        Train until `settings.patience` validations bring nothing better, instead of for
        `settings.max_epochs` epochs.
    after_step : callable, optional
        Takes the `Training` after every step (the last one again when resuming), before the validation that
        may be due. What its `state()` gives then or during that validation can be continued from.
    resume : dict, optional
        Such a state; the outcome is that of a training which was never interrupted.

    Raises
    ------
    FloatingPointError
        The loss of a step is not finite.
    """
    limit = step_limit(settings, converge)
    training = Training(model, settings, name, limit)
    if resume:
        training.load(resume)
    batches = itertools.islice(enumerate(_batches(sampler, name), start=1), max(training.step - 1, 0), limit)
    loaded = ((step, batch, epoch, training.staged(sampler.load(batch))) for step, (batch, epoch) in batches)
    for step, batch, epoch, tensors in ahead(loaded):
        if step > training.step:
            training.update(*tensors, batch)
        if after_step:
            after_step(training)
        if not converge and epoch == settings.max_epochs:
            training.end("epochs")
        if limit and step == limit - settings.anneal:
            training.end("steps")
        if (training.finished or step % settings.validate_every == 0) and not training.validated:
            training.judge(validate(model) if validate else None)
        if converge and training.without_progress >= settings.patience:
            training.end("patience")
        if training.finished:
            break
    return Trained(
        training.best_state,
        training.best_step,
        training.step,
        training.best_jaccard,
        training.curve,
        training.ended,
    )


def _batches(sampler, name):
    """Mini-batches of epoch after epoch; the last one of each comes with its number, others with None."""
    for epoch in itertools.count(1):
        *batches, last = sampler.epoch(generator(**name, purpose=f"epoch {epoch}"))
        yield from ((batch, None) for batch in batches)
        yield last, epoch
