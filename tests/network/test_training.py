"""The loss by hand, and trainings of a tiny net on tiny volumes."""

import copy
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from uss_bench.config import Training
from uss_bench.network.aunet import AUNet
from uss_bench.network.inference import predict
from uss_bench.network.patches import PatchSampler, network_input
from uss_bench.network.training import learning_rate, soft_dice_loss, train
from uss_bench.runtime.checkpoints import load_checkpoint, save_checkpoint
from uss_bench.runtime.seeding import generator
from uss_bench.study.annotation import Annotations
from uss_bench.study.metrics import jaccard

WINDOW, SCALE = (-150.0, 250.0), 200.0
NAME = {"seed": 1, "strategy": "USS", "iteration": 2}


# --- equation 1 ----

PROBABILITY, LABEL = [0.8, 0.4, 0.1, 0.6], [1.0, 0.0, 1.0, 0.0]
LOSSES = [
    ([1, 1, 1, 1], 1 - 2 * (0.8 + 0.1) / (2 + 1.9)),
    ([1, 1, 0, 0], 1 - 2 * 0.8 / (1 + 1.2)),
    ([0, 1, 1, 0], 1 - 2 * 0.1 / (1 + 0.5)),
    ([0, 1, 0, 1], 1.0),  # no liver annotated
]


@pytest.mark.parametrize(("weight", "expected"), LOSSES)
@pytest.mark.parametrize("shape", [(4,), (2, 2), (2, 1, 1, 2)])
def test_loss_is_equation_1_over_the_whole_mini_batch(weight, expected, shape):
    tensors = (
        torch.tensor(values, dtype=torch.float64).view(shape) for values in (PROBABILITY, LABEL, weight)
    )
    assert soft_dice_loss(*tensors).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weight", [weight for weight, _ in LOSSES[:3]])
def test_gradient_by_hand_and_exactly_zero_where_nothing_is_annotated(weight):
    probability = torch.tensor(PROBABILITY, dtype=torch.float64, requires_grad=True)
    soft_dice_loss(probability, torch.tensor(LABEL), torch.tensor(weight)).backward()
    overlap = sum(w * y * p for w, y, p in zip(weight, LABEL, PROBABILITY, strict=True))
    total = sum(w * (y + p) for w, y, p in zip(weight, LABEL, PROBABILITY, strict=True))
    expected = [-2 * w * (y * total - overlap) / total**2 for w, y in zip(weight, LABEL, strict=True)]
    assert probability.grad.tolist() == pytest.approx(expected)
    assert [value == 0 for value in probability.grad.tolist()] == [w == 0 for w in weight]


def test_labels_where_nothing_is_annotated_do_not_matter():
    probability, weight = (
        torch.rand(2, 3, 4, 5),
        (torch.arange(3) == 1).float().view(1, 3, 1, 1).expand(2, 3, 4, 5),
    )
    label = torch.randint(2, (2, 3, 4, 5)).float()
    poisoned = torch.where(weight == 1, label, 1e6)
    assert soft_dice_loss(probability, label, weight) == soft_dice_loss(probability, poisoned, weight)


def test_a_perfect_segmentation_has_no_loss():
    label = torch.tensor(LABEL)
    assert soft_dice_loss(label, label, torch.ones(4)) == 0


# --- schedule ----


@pytest.mark.parametrize(
    ("decay", "step", "limit", "expected"),
    [
        (0.0, 1, None, 0.01),
        (0.0, 99, 100, 0.01),
        (1.0, 1, 100, 0.01),
        (1.0, 51, 100, 0.005),
        (1.0, 100, 100, 0.0001),
        (0.9, 51, 100, 0.01 * 0.5**0.9),
        (2.0, 76, 100, 0.000625),
    ],
)
def test_learning_rate_by_hand(decay, step, limit, expected):
    assert learning_rate(Training(learning_rate=0.01, decay=decay), step, limit) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "annealed_from", "expected"),
    [(1, None, 0.01), (999, None, 0.01), (31, 30, 0.01), (32, 30, 0.0075), (33, 30, 0.005), (34, 30, 0.0025)],
)
def test_annealed_learning_rate_by_hand(step, annealed_from, expected):
    """Four steps after step 30; the fifth would have a rate of zero."""
    settings = Training(learning_rate=0.01, anneal=4)
    assert learning_rate(settings, step, 1000, annealed_from) == pytest.approx(expected)


# --- training ----


def box_volume(seed, shape=(6, 24, 24)):
    """Noise of 20 HU about 0, with a box of 100 HU that is labelled."""
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    z, y, x = random.integers((1, 3, 3), (3, 10, 10))
    label[z : z + 3, y : y + 9, x : x + 8] = 1
    return SimpleNamespace(
        image=(random.normal(0, 20, shape) + 100 * label).astype(np.int16), label=label, shape=shape
    )


def tiny_net(seed=0, dropout=0.25):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AUNet((4, 6), 1, dropout)


def sampler_of(volumes, annotated=range(6)):
    net = tiny_net()
    return PatchSampler(
        volumes,
        Annotations(dict.fromkeys(volumes, annotated)),
        net.output_size((2, 12, 12)),
        net.halo,
        2,
        WINDOW,
        SCALE,
    )


@pytest.fixture(scope="module")
def sampler():
    """Two volumes in 3 x 2 x 2 cells each: 12 mini-batches an epoch, or as many as the draw needs."""
    return sampler_of({"a": box_volume(1), "b": box_volume(2)})


VALIDATION = box_volume(3)


def validate(net):
    probability = predict(net, network_input(VALIDATION.image, WINDOW, SCALE))
    return jaccard(probability >= 0.5, VALIDATION.label.astype(bool))


def scripted(values):
    """Validation that returns the listed values and keeps the states it saw."""
    values, states = iter(values), []

    def validate(net):
        states.append({key: value.clone() for key, value in net.state_dict().items()})
        return next(values)

    return validate, states


def settings(**changes):
    return Training(
        **{
            "learning_rate": 0.01,
            "validate_every": 5,
            "max_epochs": 1000,
            "max_steps": 20,
            "patience": 3,
            **changes,
        }
    )


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def trained(sampler):
    return train(tiny_net(), sampler, validate, settings(max_steps=120, validate_every=20), NAME)


def test_a_tiny_net_learns_a_bright_box(trained):
    assert trained.best_jaccard > 0.8
    assert trained.curve[-1][1] < 0.5 * trained.curve[0][1]  # the loss falls
    assert trained.last_step == 120


def test_it_learns_it_in_bfloat16_too(sampler):
    net = tiny_net()
    net.bfloat16 = True
    assert train(net, sampler, validate, settings(max_steps=120, validate_every=20), NAME).best_jaccard > 0.8


def test_the_best_state_is_that_of_the_best_step(trained):
    net = tiny_net(seed=9)
    net.load_state_dict(trained.state)
    assert validate(net) == trained.best_jaccard == max(jaccard for _, _, jaccard in trained.curve)
    assert trained.best_step == next(
        step for step, _, jaccard in trained.curve if jaccard == trained.best_jaccard
    )


def test_the_best_state_is_kept_while_training_goes_on(sampler):
    validate, states = scripted([0.1, 0.7, 0.7, 0.3])
    result = train(tiny_net(), sampler, validate, settings(), NAME)
    assert (result.best_step, result.best_jaccard, result.last_step) == (10, 0.7, 20)
    assert same(result.state, states[1])  # the first of two equal ones
    assert not any(same(result.state, states[index]) for index in (0, 2, 3))


def test_the_curve_holds_step_mean_loss_and_jaccard(sampler):
    seen = []
    validate, _ = scripted([0.1, 0.2, 0.3])

    def after_step(training):
        seen.append((training.step, training.limit, training.loss, training.best_jaccard))

    result = train(tiny_net(), sampler, validate, settings(max_steps=12), NAME, after_step=after_step)
    losses = [loss for _, _, loss, _ in seen]
    assert [step for step, *_ in seen] == list(range(1, 13))
    assert {limit for _, limit, *_ in seen} == {12}
    assert [best for *_, best in seen] == [-np.inf] * 5 + [0.1] * 5 + [0.2] * 2
    assert [(step, jaccard) for step, _, jaccard in result.curve] == [
        (5, 0.1),
        (10, 0.2),
        (12, 0.3),
    ]  # the last step is validated too
    means = [np.mean(losses[a:b]) for a, b in pairwise([0, 5, 10, 12])]
    assert [mean for _, mean, _ in result.curve] == pytest.approx(means)


@pytest.mark.parametrize(
    ("changes", "converge", "values", "best_step", "last_step", "ended"),
    [
        ({"max_steps": 7}, False, [0.1, 0.2], 7, 7, "steps"),
        ({"max_steps": 7, "converged_max_steps": 12}, True, [0.1, 0.2, 0.3], 12, 12, "steps"),
        # Patience 3; an equal value is no better one.
        ({"max_steps": 7}, True, [0.1, 0.5, 0.4, 0.5, 0.3], 10, 25, "patience"),
        ({"patience": 1}, True, [0.1, 0.2, 0.3, 0.3], 15, 20, "patience"),
        # Epochs do not end a converged training,
        ({"patience": 2, "max_epochs": 1}, True, [0.3, 0.1, 0.4, 0.1, 0.1], 15, 25, "patience"),
        # nor does patience another.
        ({"patience": 1, "max_steps": 20}, False, [0.3, 0.1, 0.1, 0.1], 5, 20, "steps"),
    ],
)
def test_limits(sampler, changes, converge, values, best_step, last_step, ended):
    validate, states = scripted(values)
    result = train(tiny_net(), sampler, validate, settings(**changes), NAME, converge)
    assert (result.best_step, result.last_step, result.ended) == (best_step, last_step, ended)
    assert len(states) == len(values)


@pytest.mark.parametrize("max_epochs", [1, 3])
def test_epochs_end_a_training(sampler, max_epochs):
    steps = sum(
        len(sampler.epoch(generator(**NAME, purpose=f"epoch {epoch}"))) for epoch in range(1, max_epochs + 1)
    )
    validate, states = scripted(np.arange(100.0))
    result = train(tiny_net(), sampler, validate, settings(max_steps=None, max_epochs=max_epochs), NAME)
    assert result.last_step == result.best_step == steps
    assert result.ended == "epochs"
    assert len(states) == -(-steps // 5)


def test_every_epoch_is_drawn_anew_and_by_its_name(sampler):
    loaded = []
    recording = SimpleNamespace(
        epoch=sampler.epoch, load=lambda batch: loaded.append(batch) or sampler.load(batch)
    )
    expected = [sampler.epoch(generator(**NAME, purpose=f"epoch {epoch}")) for epoch in (1, 2)]
    train(tiny_net(), recording, lambda net: 0.5, settings(max_steps=sum(map(len, expected))), NAME)
    assert loaded == expected[0] + expected[1]
    assert expected[0] != expected[1]


def test_same_name_same_result_bit_for_bit_and_other_names_others(sampler):
    def run(init=0, dropout=0.25, **changes):
        torch.rand(1)  # the global stream moves on; nothing may depend on it
        return train(
            tiny_net(init, dropout), sampler, lambda net: 0.5, settings(max_steps=5), {**NAME, **changes}
        )

    first, again = run(), run()
    assert same(first.state, again.state)
    assert first.curve == again.curve
    for other in (
        run(seed=2),
        run(strategy="RSS"),
        run(iteration=3),
        run(init=1),
        run(dropout=0.0),
    ):  # the last: dropout is on
        assert not same(first.state, other.state)


@pytest.mark.parametrize("converge", [False, True])
@pytest.mark.parametrize("stop", [1, 5, 7, 13, 20])
def test_a_training_continued_from_a_state_ends_as_if_never_interrupted(sampler, tmp_path, stop, converge):
    """Steps 5 and 20 have their validation still to come; 13 lies in the second epoch."""
    limits = settings(decay=1.0, converged_max_steps=30)

    def run(scores, net=0, **options):
        remaining = iter(scores)
        return train(tiny_net(net), sampler, lambda net: next(remaining), limits, NAME, converge, **options)

    def stop_there(training):
        if training.step == stop:
            save_checkpoint(tmp_path / "state.pt", training.state())
            raise KeyboardInterrupt

    scores = [0.3, 0.2, 0.5, 0.1, 0.2, 0.4]
    whole = run(scores)
    with pytest.raises(KeyboardInterrupt):
        run(scores, after_step=stop_there)
    continued = run(scores[(stop - 1) // 5 :], net=8, resume=load_checkpoint(tmp_path / "state.pt"))
    assert same(continued.state, whole.state)
    assert (continued.best_step, continued.last_step, continued.curve) == (
        whole.best_step,
        whole.last_step,
        whole.curve,
    )


def test_a_state_seen_during_a_validation_can_be_continued_from(sampler):
    """A run may be stopped while it validates."""
    states = []

    def validate(net):
        states.append(copy.deepcopy(current.state()))
        return 0.5

    def after_step(training):
        nonlocal current
        current = training

    current = None
    whole = train(tiny_net(), sampler, validate, settings(), NAME, after_step=after_step)
    continued = train(tiny_net(8), sampler, lambda net: 0.5, settings(), NAME, resume=states[1])
    assert same(continued.state, whole.state) and continued.curve == whole.curve


def test_training_starts_from_the_given_weights_with_steps_of_the_learning_rate(sampler):
    """Adam's first step moves every weight by the rate, or not at all where its gradient is zero."""
    before = {key: value.clone() for key, value in tiny_net().named_parameters()}
    result = train(tiny_net(), sampler, lambda net: 0.5, settings(max_steps=1, learning_rate=0.003), NAME)
    moves = torch.cat([(result.state[key] - value).abs().flatten() for key, value in before.items()])
    assert moves.max().item() == pytest.approx(0.003, rel=1e-3)
    assert moves.median().item() == pytest.approx(0.003, rel=1e-2)


def test_steps_are_those_of_a_plain_loop(sampler):
    plain = tiny_net(dropout=0.0).train()
    adam = torch.optim.Adam(plain.parameters(), lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    for batch in sampler.epoch(generator(**NAME, purpose="epoch 1"))[:5]:
        image, label, weight = sampler.load(batch)
        liver = torch.softmax(plain(image), dim=1)[:, 1]
        loss = 1 - 2 * (weight * label * liver).sum() / (weight * (label + liver)).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = train(tiny_net(dropout=0.0), sampler, None, settings(max_steps=5), NAME).state
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)


def test_the_rate_decays_in_training(sampler):
    def moves(decay):
        validate, states = scripted([0.1] * 4)
        train(tiny_net(), sampler, validate, settings(max_steps=4, validate_every=1, decay=decay), NAME)
        weights = [state["classify.weight"] for state in states]
        return [(after - before).abs().max().item() for before, after in pairwise(weights)]

    assert min(moves(0.0)) > 1e-3
    assert max(moves(60.0)) < 1e-6  # (3/4) ** 60 is 3e-8


# --- annealing ----


def annealed(sampler, values, converge, **changes):
    """Outcome of a scripted training, `(step, rate)` of each step, and the states that were validated."""
    rates = []

    def after_step(training):
        rates.append((training.step, training._optimizer.param_groups[0]["lr"]))

    validate, states = scripted(values)
    result = train(tiny_net(), sampler, validate, settings(**changes), NAME, converge, after_step=after_step)
    assert len(states) == len(values)
    return result, rates, states


FALLING = [0.01, 0.01 * 5 / 6, 0.01 * 4 / 6, 0.01 * 3 / 6, 0.01 * 2 / 6, 0.01 * 1 / 6]


@pytest.mark.parametrize(
    ("changes", "converge", "values", "constant", "ended"),
    [
        # Nothing better at 15 and 20; validations at 25 and at the last step, better or not.
        ({"patience": 2}, True, [0.1, 0.5, 0.4, 0.3, 0.6, 0.2], 20, "patience"),
        # The limit comes first: six steps before it annealing begins, whatever the patience.
        ({"converged_max_steps": 12}, True, [0.1, 0.2, 0.3], 6, "steps"),
        ({"patience": 1, "converged_max_steps": 17}, True, [0.3, 0.2, 0.1, 0.4], 10, "patience"),
        ({"patience": 1, "converged_max_steps": 15}, True, [0.3, 0.2, 0.1], 9, "steps"),
        ({"max_steps": 12}, False, [0.1, 0.2, 0.3], 6, "steps"),
    ],
)
def test_the_rate_is_constant_and_then_always_annealed(sampler, changes, converge, values, constant, ended):
    """The model is that of the end, the worst in validation among these rows or the best."""
    result, rates, states = annealed(sampler, values, converge, anneal=6, **changes)
    assert result.ended == ended
    assert result.last_step == constant + 6
    assert [step for step, _ in rates] == list(range(1, constant + 7))
    assert [rate for _, rate in rates] == pytest.approx([0.01] * constant + FALLING)
    assert (result.best_jaccard, result.best_step) == (values[-1], result.last_step)
    assert same(result.state, states[-1])
    assert [jaccard for _, _, jaccard in result.curve] == values
    assert result.curve[-1][0] == result.last_step  # the last step is validated


def test_epochs_are_followed_by_annealing_with_batches_of_the_next_one(sampler):
    epochs = [sampler.epoch(generator(**NAME, purpose=f"epoch {epoch}")) for epoch in (1, 2)]
    loaded = []
    recording = SimpleNamespace(
        epoch=sampler.epoch, load=lambda batch: loaded.append(batch) or sampler.load(batch)
    )
    limits = settings(max_epochs=1, max_steps=None, anneal=3)
    result = train(tiny_net(), recording, lambda net: 0.5, limits, NAME)
    assert (result.ended, result.last_step) == ("epochs", len(epochs[0]) + 3)
    assert loaded[: result.last_step] == epochs[0] + epochs[1][:3]


def test_without_annealing_the_rate_stays_where_it_is(sampler):
    result, rates, states = annealed(sampler, [0.3, 0.2, 0.1], True, patience=2)
    assert (result.ended, result.last_step, result.best_step) == ("patience", 15, 5)
    assert same(result.state, states[0])
    assert {rate for _, rate in rates} == {0.01}


@pytest.mark.parametrize(
    ("where", "stop"),
    [
        *(("after a step", stop) for stop in (10, 11, 15, 17)),
        *(("in a validation", stop) for stop in (10, 15, 17)),
    ],
)
def test_a_training_continued_while_it_anneals_ends_as_if_never_interrupted(sampler, tmp_path, stop, where):
    """The patience runs out at step 10, 17 is the last step; validations are at 5, 10, 15 and 17."""
    limits, scores = settings(patience=1, anneal=7), [0.3, 0.2, 0.4, 0.1]

    class KilledError(Exception):
        pass

    def run(net=0, interrupt=None, **options):
        current = None

        def after_step(training):
            nonlocal current
            current = training
            if interrupt == "after a step" and training.step == stop:
                save_checkpoint(tmp_path / "state.pt", training.state())
                raise KilledError

        def validate(net):
            if interrupt == "in a validation" and current.step == stop:
                save_checkpoint(tmp_path / "state.pt", current.state())
                raise KilledError
            return scores[[5, 10, 15, 17].index(current.step)]

        return train(tiny_net(net), sampler, validate, limits, NAME, True, after_step, **options)

    whole = run()
    assert (whole.last_step, whole.ended, len(whole.curve)) == (17, "patience", 4)
    with pytest.raises(KilledError):
        run(interrupt=where)
    continued = run(net=8, resume=load_checkpoint(tmp_path / "state.pt"))
    assert same(continued.state, whole.state)
    assert vars(continued) | {"state": 0} == vars(whole) | {"state": 0}


# --- faults ----


def test_a_loss_that_is_not_finite_names_its_step_and_ends_the_training(sampler):
    calls = []

    def load(batch):
        calls.append(batch)
        image, label, weight = sampler.load(batch)
        return (image * float("nan") if len(calls) == 3 else image), label, weight

    faulty = SimpleNamespace(epoch=sampler.epoch, load=load)
    with pytest.raises(FloatingPointError, match=r"^step 3: .*Patch\(case_id='[ab]'"):
        train(tiny_net(), faulty, lambda net: 0.5, settings(), NAME)
    assert len(calls) in (3, 4)  # the fourth may have been loaded ahead


def test_what_is_not_annotated_changes_nothing():
    """One annotated slice of the label; the others may hold anything."""

    def run(poison):
        volume = box_volume(1)
        volume.label[[0, 1, 2, 4, 5]] = poison
        return train(tiny_net(), sampler_of({"a": volume}, [3]), lambda net: 0.5, settings(max_steps=5), NAME)

    assert same(run(0).state, run(255).state)


# --- without validation ----


def test_without_validation_the_last_state_is_kept(sampler):
    net = tiny_net()
    result = train(net, sampler, None, settings(max_steps=12), NAME)
    assert (result.best_step, result.last_step, result.best_jaccard) == (12, 12, None)
    assert [(step, jaccard) for step, _, jaccard in result.curve] == [(5, None), (10, None), (12, None)]
    for name, value in net.state_dict().items():
        assert torch.equal(result.state[name], value), name


def test_validation_changes_no_weight_of_a_step(sampler):
    blind, seeing = tiny_net(), tiny_net()
    train(blind, sampler, None, settings(max_steps=7), NAME)
    train(seeing, sampler, validate, settings(max_steps=7), NAME)
    for name, value in blind.state_dict().items():
        assert torch.equal(seeing.state_dict()[name], value), name


def test_without_validation_it_continues_to_the_same_state(sampler, tmp_path):
    def keep(training):
        if training.step == 6:
            save_checkpoint(tmp_path / "state.pt", training.state())

    whole = train(tiny_net(), sampler, None, settings(max_steps=9), NAME, after_step=keep)
    resume = load_checkpoint(tmp_path / "state.pt")
    continued = train(tiny_net(8), sampler, None, settings(max_steps=9), NAME, resume=resume)
    assert continued.curve == whole.curve
    for name, value in whole.state.items():
        assert torch.equal(continued.state[name], value), name
