"""Training of one model from scratch (section II-B): soft Dice loss over what is annotated, Adam, best checkpoint by validation."""

import itertools
import math
from dataclasses import dataclass

import torch

from .aunet import liver_probability
from .seeding import generator, torch_generator


def soft_dice_loss(probability, label, weight):
    """Weighted soft Dice loss (equation 1) over a whole mini-batch.

    All arguments are tensors of one shape: liver probability, label (1 liver, 0 background) and weight (1 annotated, 0 not).
    """
    overlap = (weight * label * probability).sum()
    return 1 - 2 * overlap / ((weight * label).sum() + (weight * probability).sum())


def learning_rate(settings, step, limit):
    """Rate of a step, counted from 1: constant as in the paper, or with `settings.decay` falling to zero at `limit` steps."""
    if not settings.decay:
        return settings.learning_rate
    return settings.learning_rate * (1 - (step - 1) / limit) ** settings.decay


@dataclass(frozen=True)
class Trained:
    """Outcome of a training. `curve` holds `(step, mean loss since the last validation, validation Jaccard)`."""

    state: dict
    best_step: int
    last_step: int
    best_jaccard: float
    curve: list


def train(model, sampler, validate, settings, name, converge=False, progress=None):
    """Train `model` in place and return its best state.

    Parameters
    ----------
    model : freshly initialised `aunet.AUNet`, on the device to train on
    sampler : `patches.PatchSampler`
    validate : callable from the model to the mean validation Jaccard
    settings : `config.Training`
    name : keywords `seed, strategy, iteration` that name the training's random draws
    converge : train until `settings.patience` validations bring nothing better, instead of for `settings.max_epochs`
    progress : callable from step, limit of steps (None: none), loss and best Jaccard, called after every step

    Raises
    ------
    FloatingPointError
        The loss of a step is not finite.
    """
    device = next(model.parameters()).device
    dropout = torch_generator(device, **name, purpose="training dropout")
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    limit = settings.converged_max_steps if converge else settings.max_steps
    best_state, best_step, best_jaccard = None, 0, -math.inf
    curve, losses, without_progress = [], [], 0

    for step, (batch, is_last) in enumerate(_batches(sampler, name, None if converge else settings.max_epochs, limit), start=1):
        image, label, weight = (tensor.to(device) for tensor in sampler.load(batch))
        model.train()
        loss = soft_dice_loss(liver_probability(model(image, dropout)), label, weight)
        loss_value = loss.item()
        if not math.isfinite(loss_value):
            raise FloatingPointError(f"step {step}: the loss is {loss_value} on {batch}; lower training.learning_rate or check these cases")
        optimizer.param_groups[0]["lr"] = learning_rate(settings, step, limit)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss_value)

        if is_last or step % settings.validate_every == 0:
            jaccard = validate(model)
            curve.append((step, sum(losses) / len(losses), jaccard))
            losses, without_progress = [], without_progress + 1
            if jaccard > best_jaccard:
                best_state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
                best_step, best_jaccard, without_progress = step, jaccard, 0
        if progress:
            progress(step, limit, loss_value, best_jaccard)
        if converge and without_progress == settings.patience:
            break
    return Trained(best_state, best_step, step, best_jaccard, curve)


def _batches(sampler, name, max_epochs, max_steps):
    """Mini-batches of consecutive epochs, each with whether it is the last one that the limits allow."""
    step = 0
    for epoch in itertools.count(1):
        batches = sampler.epoch(generator(**name, purpose=f"epoch {epoch}"))
        for position, batch in enumerate(batches, start=1):
            step += 1
            is_last = step == max_steps or (epoch == max_epochs and position == len(batches))
            yield batch, is_last
            if is_last:
                return
