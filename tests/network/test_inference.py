"""Tiling and Monte Carlo dropout against one plain pass over the whole padded volume."""

from itertools import product

import numpy as np
import pytest
import torch

from uss_bench.network import inference
from uss_bench.network.inference import predict, predict_mc
from uss_bench.network.uncertainty import predictive_entropy

NETS = {
    "2 levels": ((3, 4), 1),
    "no flat level": ((3, 4), 0),
    "3 levels": ((3, 4, 5), 2),
    "4 levels": ((2, 3, 4, 4), 2),
}
SHAPES = [
    (1, 1, 1),
    (2, 3, 1),
    (3, 5, 4),
    (9, 33, 27),
    (8, 32, 48),
]  # the first three are smaller than any halo
TILES = [None, (4, 16, 16), (5, 21, 18), (100, 100, 100)]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def whole_pass(net, volume, generator=None):
    """Liver probability from one forward pass over the volume, padded by NumPy."""
    output = net.output_size(volume.shape)
    pads = [
        (halo, halo + size - length)
        for halo, size, length in zip(net.halo, output, volume.shape, strict=True)
    ]
    inputs = torch.from_numpy(np.pad(volume, pads, mode="reflect"))[None, None]
    with torch.no_grad():
        logits = net.eval()(inputs, generator)[0].double().numpy()
    z, y, x = volume.shape
    return (1 / (1 + np.exp(logits[0] - logits[1])))[:z, :y, :x]


# --- tiling ----


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NETS)
def test_tiled_prediction_is_the_whole_volume_pass(random_net, name, shape, tile):
    net, volume = random_net(*NETS[name]), noise(shape)
    probability = predict(net, volume, tile)
    expected = whole_pass(net, volume)
    assert probability.dtype == np.float32
    assert probability.shape == shape
    assert volume.size < 1000 or expected.std() > 0.01  # else equality would mean little
    np.testing.assert_allclose(probability, expected, atol=1e-5)


def test_tiles_smaller_than_the_stride_are_enlarged_to_it(random_net):
    for name, net in NETS.items():
        net, volume = random_net(*net), noise((5, 11, 9))
        np.testing.assert_allclose(
            predict(net, volume, (1, 1, 1)), whole_pass(net, volume), atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("shape", [(5, 19, 35), (1, 7, 18)])
def test_five_levels_tiled_are_the_whole_volume_pass(random_net, shape):
    net, volume = random_net((2, 2, 3, 3, 4), 2), noise(shape)
    expected = whole_pass(net, volume)
    for tile in (None, (4, 16, 100)):
        np.testing.assert_allclose(predict(net, volume, tile), expected, atol=1e-5)


def test_a_view_with_other_strides_gives_the_same(random_net):
    net, volume = random_net(), noise((4, 9, 12))
    mirrored = volume[::-1, :, ::-1]
    np.testing.assert_array_equal(predict(net, mirrored), predict(net, mirrored.copy()))


# --- Monte Carlo dropout ----


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("samples", [1, 7])
def test_mc_is_the_entropy_of_the_mean_of_separate_full_passes(random_net, name, samples):
    net, volume = random_net(*NETS[name]), noise((6, 17, 20))
    generator = seeded(11)
    passes = [whole_pass(net, volume, generator) for _ in range(samples)]  # encoder and all
    mean = np.mean(passes, axis=0)
    by_hand = -mean * np.log(mean) - (1 - mean) * np.log(1 - mean)

    result = predict_mc(net, volume, samples, seed=11)
    probability, entropy = result.mean, result.entropy
    assert result.information is None and result.agreement is None  # nobody asked
    assert probability.dtype == entropy.dtype == np.float32
    assert samples == 1 or np.std(passes, axis=0).max() > 0.01  # the passes differ
    np.testing.assert_allclose(probability, mean, atol=1e-5)
    np.testing.assert_allclose(entropy, by_hand, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_mutual_information_and_agreement_are_those_of_separate_full_passes(random_net, samples):
    net, volume = random_net(), noise((6, 17, 20))
    generator = seeded(11)
    passes = np.array([whole_pass(net, volume, generator) for _ in range(samples)])
    masks = [probability >= 0.5 for probability in passes]
    pairs = [(a, b) for place, a in enumerate(masks) for b in masks[:place]]
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]
    assert samples == 1 or 0 < np.mean(dice) < 1
    assert all(0.01 < mask.mean() < 0.99 for mask in masks)

    found = predict_mc(net, volume, samples, seed=11, further=["information", "agreement"])
    by_hand = predictive_entropy(passes.mean(axis=0)) - predictive_entropy(passes).mean(axis=0)
    np.testing.assert_allclose(found.information, by_hand, atol=1e-5)
    assert samples == 1 or found.information.max() > 0.01
    assert found.information.min() >= 0
    assert found.agreement == pytest.approx(np.mean(dice) if pairs else 1, abs=1e-6)


def test_tiles_add_up_to_the_agreement_of_the_volume(random_net):
    """Counted by tile, the pairs' overlaps are those of whole masks."""
    net, volume, tile = random_net(), noise((6, 17, 20)), (4, 8, 8)
    asked, masks = ["agreement"], []
    classify = net.classify.register_forward_hook(lambda module, inputs, logits: masks.append(logits))
    found = predict_mc(net, volume, 3, seed=4, tile=tile, further=asked)
    classify.remove()
    steps = inference.tile_steps(volume.shape, tile, net.stride)
    starts = product(*(range(0, length, step) for length, step in zip(volume.shape, steps, strict=True)))
    whole = np.zeros((3, *volume.shape), bool)
    for place, (z, y, x) in enumerate(starts):
        for sample in range(3):
            logits = masks[3 * place + sample][0]
            part = (logits[1] >= logits[0]).numpy()
            room = whole[sample, z : z + steps[0], y : y + steps[1], x : x + steps[2]]
            room[:] = part[tuple(map(slice, room.shape))]
    dice = [
        2 * (whole[a] & whole[b]).sum() / (whole[a].sum() + whole[b].sum())
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    assert found.agreement == pytest.approx(np.mean(dice), abs=1e-12)


def test_what_else_is_asked_for_changes_nothing(random_net):
    net, volume = random_net(), noise((6, 17, 20))
    plain = predict_mc(net, volume, 4, seed=3)
    for further in (["information"], ["agreement"], ["agreement", "information"]):
        found = predict_mc(net, volume, 4, seed=3, further=further)
        np.testing.assert_array_equal(found.mean, plain.mean)
        np.testing.assert_array_equal(found.entropy, plain.entropy)
        assert (found.information is not None, found.agreement is not None) == (
            "information" in further, "agreement" in further
        )  # fmt: skip


def test_tiled_mc_agrees_with_whole_volume_mc_up_to_the_masks(random_net):
    """Tiles draw other masks, so only the means of many passes agree, within sampling error."""
    net, volume = random_net(), noise((6, 17, 20))
    tiled, whole = (predict_mc(net, volume, 200, seed=1, tile=tile).mean for tile in ((4, 8, 8), None))
    spread = np.std([whole_pass(net, volume, seeded(seed)) for seed in range(30)], axis=0).mean()
    assert 0.001 < np.abs(tiled - whole).mean() < 2 * spread / 200**0.5


def test_without_dropout_in_the_net_mc_is_the_plain_prediction(random_net):
    net, volume = random_net(dropout=0.0), noise((5, 11, 13))
    found = predict_mc(net, volume, 3, seed=2, tile=(2, 4, 4), further=["information", "agreement"])
    np.testing.assert_allclose(found.mean, predict(net, volume), atol=1e-6)
    np.testing.assert_allclose(found.entropy, predictive_entropy(predict(net, volume)), atol=1e-5)
    np.testing.assert_allclose(found.information, 0, atol=1e-6)
    assert found.agreement == 1


def test_a_sure_net_has_zero_entropy_and_never_nan(random_net):
    net = random_net()
    with torch.no_grad():
        net.classify.weight.mul_(1e4)
    entropy = predict_mc(net, noise((5, 11, 13)), 3, seed=0).entropy
    assert np.isfinite(entropy).all()
    assert entropy.min() == 0
    assert entropy.max() <= np.float32(np.log(2))


@pytest.mark.parametrize("training", [False, True])
def test_mode_and_statistics_of_the_model_are_left_as_they_were(random_net, training):
    net, volume = random_net().train(training), noise((5, 11, 13))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    predict(net, volume)
    predict_mc(net, volume, 3)
    for call in (predict, predict_mc):
        with pytest.raises(
            ValueError, match=r"volume must have three axes \(z, y, x\), not the shape \(11, 13\)"
        ):
            call(net, volume[0])
    assert all(module.training == training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("call", [predict, lambda *given: predict_mc(*given, samples=2, seed=4)[:2]])
def test_a_model_in_training_mode_predicts_as_in_evaluation_mode(random_net, call):
    volume = noise((5, 11, 13))
    np.testing.assert_array_equal(call(random_net().train(), volume), call(random_net().eval(), volume))


def test_same_seed_same_result_whatever_the_order_of_the_cases(random_net):
    net = random_net()
    cases = {
        name: (noise(shape, seed), seed)
        for seed, (name, shape) in enumerate({"a": (5, 9, 9), "b": (4, 12, 7), "c": (5, 9, 9)}.items())
    }

    def run(order):
        return {
            name: predict_mc(net, cases[name][0], 3, seed=cases[name][1], tile=(2, 8, 8)) for name in order
        }

    forth, back = run("abc"), run("cba")
    for name in cases:
        np.testing.assert_array_equal(forth[name][:2], back[name][:2])


def test_the_seed_makes_the_masks_and_the_global_stream_is_not_touched(random_net):
    net, volume, state = random_net(), noise((5, 9, 9)), torch.get_rng_state()
    first, again, other = (predict_mc(net, volume, 2, seed).mean for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(torch.get_rng_state(), state)


def test_mc_runs_the_encoder_once_per_tile_and_the_decoder_once_per_sample(random_net):
    net, calls = random_net(), []
    net.encoder[0].register_forward_hook(lambda *_: calls.append("encoder"))
    net.classify.register_forward_hook(lambda *_: calls.append("decoder"))
    predict_mc(net, noise((4, 8, 12)), 3, tile=(4, 8, 6))
    assert calls == ["encoder", "decoder", "decoder", "decoder"] * 2


@pytest.mark.parametrize("given", [{"samples": 0}, {"further": ["informations"]}])
def test_what_monte_carlo_dropout_cannot_do_is_refused(random_net, given):
    with pytest.raises(ValueError, match="samples must be at least 1, further of information and agreement"):
        predict_mc(random_net(), noise((5, 11, 13)), **given)
