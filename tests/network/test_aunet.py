"""The au-net against the paper's figures, an independent count of its parameters and probes of its reach."""

import copy
import inspect
from itertools import product

import pytest
import torch
from torch import nn

from uss_bench.config import resolve
from uss_bench.network import layers
from uss_bench.network.aunet import AUNet, liver_probability

GEOMETRIES = [(levels, flat) for levels in range(1, 6) for flat in range(levels + 1)]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


@pytest.fixture(scope="module")
def paper_net():
    return AUNet(**vars(resolve("paper").network)).to("meta")  # shapes and counts without memory


# --- the published figures ----


def test_paper_net_has_the_published_number_of_parameters(paper_net):
    assert (
        sum(parameter.numel() for parameter in paper_net.parameters() if parameter.requires_grad) == 4_975_346
    )


def test_paper_net_maps_the_published_patch(paper_net):
    assert paper_net(torch.empty(1, 1, 44, 364, 364, device="meta")).shape == (1, 2, 4, 180, 180)
    assert paper_net.output_size((4, 180, 180)) == (4, 180, 180)
    assert paper_net.input_size((4, 180, 180)) == (44, 364, 364)
    assert paper_net.halo == (20, 92, 92)
    assert paper_net.stride == (4, 16, 16)


def test_valid_inputs_of_the_paper_net_grow_by_its_stride_from_44_188_188(paper_net):
    sizes = {paper_net.input_size(paper_net.output_size((n, n, n))) for n in range(1, 50)}
    depths, heights, widths = (sorted({size[axis] for size in sizes}) for axis in range(3))
    assert depths == list(range(44, 44 + 4 * len(depths), 4))
    assert heights == widths == list(range(188, 188 + 16 * len(widths), 16))
    assert len(depths) == 13
    assert len(widths) == 4


# --- layers ----


def counted_by_hand(widths, flat_levels):
    """Kernel entries of each convolution, two per channel for its normalization, a bias in the last layer."""

    def level(inputs, width, flat):
        first_unit, second_unit = 9 * inputs * width + 2 * width, 9 * width * width + 2 * width
        return first_unit + second_unit + (0 if flat else 2 * (3 * width * width + 2 * width))

    total = 2 * widths[0] + 2
    for index, width in enumerate(widths):
        flat = index < flat_levels
        total += level(widths[index - 1] if index else 1, width, flat)
        if index + 1 < len(widths):
            total += (4 if flat else 8) * widths[index + 1] * width + 2 * width  # transposed convolution
            total += level(2 * width, width, flat)  # behind the concatenation
    return total


@pytest.mark.parametrize(
    ("widths", "flat_levels"),
    [
        ((32, 72, 88, 168, 336), 2),
        ((8, 16, 32), 2),
        ((5,), 0),
        ((5,), 1),
        ((4, 8), 1),
        ((3, 7, 5, 11), 0),
        ((2, 3, 4, 5, 6, 7), 3),
    ],
)
def test_parameter_count_follows_from_the_layers(widths, flat_levels):
    assert sum(parameter.numel() for parameter in AUNet(widths, flat_levels).parameters()) == counted_by_hand(
        widths, flat_levels
    )


def test_convolutions_are_valid_and_bias_free_but_for_the_last(paper_net):
    convolutions = [
        module for module in paper_net.modules() if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d))
    ]
    assert len(convolutions) == 16 + 12 + 4 + 1  # encoder, decoder, up, last
    assert {tuple(convolution.padding) for convolution in convolutions} == {(0, 0, 0)}
    assert [convolution for convolution in convolutions if convolution.bias is not None] == [
        paper_net.classify
    ]
    assert {
        convolution.kernel_size for convolution in convolutions if isinstance(convolution, nn.Conv3d)
    } == {
        (1, 3, 3),
        (3, 1, 1),
        (1, 1, 1),
    }
    for convolution in convolutions:
        assert convolution.stride == (
            convolution.kernel_size if isinstance(convolution, nn.ConvTranspose3d) else (1, 1, 1)
        )


def test_every_convolution_but_the_last_is_followed_by_normalization_and_relu(paper_net):
    triples = [
        module
        for module in paper_net.modules()
        if isinstance(module, nn.Sequential) and isinstance(module[0], (nn.Conv3d, nn.ConvTranspose3d))
    ]
    assert len(triples) == 32
    assert {tuple(type(layer) for layer in triple[1:]) for triple in triples} == {(layers.BatchNorm, nn.ReLU)}


def test_weights_are_drawn_from_the_generator_and_nothing_else():
    state = torch.get_rng_state()
    net, again, other, fresh = (AUNet((16, 24), 1) for _ in range(4))
    torch.set_rng_state(state)
    for drawn, seed in ((net, 1), (again, 1), (other, 2)):
        drawn.draw_weights(seeded(seed))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in net.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
        if value.ndim > 1:
            assert not torch.equal(value, other.get_parameter(name))
        elif not name.startswith("classify"):
            assert torch.equal(value, fresh.get_parameter(name))  # normalization starts at one and zero


def test_every_convolution_doubles_the_variance_as_a_relu_behind_it_halves_the_power():
    net = AUNet((32, 48), 1)
    net.draw_weights(seeded(0))
    convolutions = [module for module in net.modules() if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d))]
    assert any(isinstance(module, nn.ConvTranspose3d) for module in convolutions)
    for convolution in convolutions:
        with torch.no_grad():
            output = convolution(torch.randn(2, convolution.in_channels, 8, 16, 16, generator=seeded(1)))
        few = convolution.out_channels == 2
        assert output.square().mean().item() == pytest.approx(2, rel=0.6 if few else 0.2)


def probability_at_the_start(prior):
    """Mean probability of liver over images and fresh networks, as the first training step sees it."""
    found = []
    for seed in range(20):
        net = AUNet((8, 16), 1, prior=prior)
        net.draw_weights(seeded(seed))
        with torch.no_grad():
            logits = net.train()(noise(2, 1, *net.input_size(net.output_size((4, 12, 12))), seed=seed))
        found.append(liver_probability(logits).mean().item())
    return sum(found) / len(found)


def test_without_a_prior_a_fresh_network_is_undecided():
    assert probability_at_the_start(None) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("prior", [0.02, 0.05, 0.2, 0.8])
def test_a_fresh_network_starts_near_the_prior(prior):
    """Only near, as the classifier's drawn weights spread the logits about the bias."""
    assert abs(probability_at_the_start(prior) - prior) < 0.08


def test_the_prior_is_the_odds_of_the_biases_and_changes_no_other_weight():
    with_prior, without = AUNet((4, 6), 1, prior=0.05), AUNet((4, 6), 1)
    for net in (with_prior, without):
        net.draw_weights(seeded(1))
    assert torch.softmax(with_prior.classify.bias, 0).tolist() == pytest.approx([0.95, 0.05])
    assert without.classify.bias.tolist() == [0, 0]
    for name, value in without.named_parameters():
        assert name == "classify.bias" or torch.equal(value, with_prior.get_parameter(name))


@pytest.mark.parametrize(
    "arguments",
    [
        {"widths": ()},
        {"flat_levels": 6},
        {"flat_levels": -1},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"prior": 0.0},
        {"prior": 1.0},
    ],
)
def test_impossible_nets_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        AUNet(**arguments)


def test_liver_probability_is_the_softmax_of_the_two_classes():
    logits = 100 * noise(2, 2, 1, 3, 4)
    logits[0] = torch.tensor([1000.0, -1000.0]).view(2, 1, 1, 1)
    assert torch.allclose(liver_probability(logits), torch.softmax(logits, dim=1)[:, 1])


# --- geometry ----


@pytest.mark.parametrize(("levels", "flat_levels"), GEOMETRIES)
def test_output_shape_is_the_predicted_one(levels, flat_levels):
    net = AUNet((2,) * levels, flat_levels).to("meta").eval()
    for at_least in [(1, 1, 1), (1, 7, 20), (5, 16, 3), (33, 2, 9)]:
        output = net.output_size(at_least)
        inputs = net.input_size(output)
        assert net(torch.empty(1, 1, *inputs, device="meta")).shape == (1, 2, *output)
        assert tuple(inputs[axis] - 2 * net.halo[axis] for axis in range(3)) == output


@pytest.mark.parametrize(("levels", "flat_levels"), GEOMETRIES)
def test_output_size_is_the_smallest_valid_one(levels, flat_levels):
    net = AUNet((1,) * levels, flat_levels)
    for at_least in range(1, 40):
        output = net.output_size((at_least,) * 3)
        for axis in range(3):
            assert at_least <= output[axis] < at_least + net.stride[axis]
            for between in range(at_least, output[axis]):
                with pytest.raises(ValueError, match="not valid"):
                    net.input_size([between if axis == other else output[other] for other in range(3)])


@pytest.mark.parametrize(("widths", "flat_levels"), [((2,), 0), ((2, 3), 1), ((2, 3), 0), ((2, 2, 3), 1)])
def test_computed_output_has_the_predicted_shape(widths, flat_levels):
    net = AUNet(widths, flat_levels).eval()
    for at_least in product((1, 4), (1, 5), (1, 6)):
        output = net.output_size(at_least)
        assert net(noise(1, 1, *net.input_size(output))).shape == (1, 2, *output)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(
    ("widths", "flat_levels"), [((3, 4), 0), ((3, 4), 1), ((3, 4, 5), 1), ((2, 3, 4, 4), 2)]
)
def test_the_smallest_output_at_a_multiple_of_the_stride_sees_exactly_a_halo_around_it(
    random_net, widths, flat_levels, axis
):
    """Tiling needs the reach of such blocks; one voxel sees up to a stride further: whole pooling windows."""
    net = random_net(widths, flat_levels)
    smallest, stride, halo = net.output_size((1, 1, 1)), net.stride[axis], net.halo[axis]
    output = [size + (2 * stride if other == axis else 0) for other, size in enumerate(smallest)]
    image = noise(1, 1, *net.input_size(output))
    first, end = (
        stride,
        stride + smallest[axis],
    )  # the block in the middle; output voxel i lies at input voxel i + halo
    low, high = first, end - 1 + 2 * halo

    def change(planes):
        """Largest change of each plane of the block when some planes of the input change."""
        planes, other = torch.tensor(planes), image.clone()
        other.index_add_(axis + 2, planes, 10 * noise(*image.index_select(axis + 2, planes).shape, seed=1))
        with torch.no_grad():
            return (net(other) - net(image)).abs().movedim(axis + 2, 0).flatten(1).amax(dim=1)[first:end]

    outside = [*range(low), *range(high + 1, image.shape[axis + 2])]
    assert len(outside) == 2 * stride
    assert change(outside).max() == 0
    assert change([low])[0] > 1e-5
    assert change([high])[-1] > 1e-5


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("widths", "flat_levels"), [((3, 4), 0), ((3, 4, 5), 1), ((2, 3, 4, 4), 2)])
def test_a_mirrored_net_sees_a_mirrored_image_mirrored(random_net, widths, flat_levels, axis):
    """Holds only where skip features meet the upsampled ones of their own place: crops must be central."""
    net, mirrored = (random_net(widths, flat_levels) for _ in range(2))
    for module in mirrored.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.weight.data = module.weight.data.flip(axis + 2)
    image = noise(1, 1, *net.input_size(net.output_size((4, 8, 8))))
    with torch.no_grad():
        expected, result = net(image), mirrored(image.flip(axis + 2)).flip(axis + 2)
    assert expected.std() > 0.01
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


# --- dropout ----


def test_without_a_generator_nothing_is_random(random_net):
    net = random_net((3, 4, 5), 1)
    image = noise(1, 1, *net.input_size(net.output_size((2, 4, 4))))
    for mode in (False, True):
        assert torch.equal(net.train(mode)(image), net(image))


def test_encoder_holds_no_dropout_and_decoder_with_a_generator_is_the_rest_of_the_pass(random_net):
    net = random_net((3, 4, 5), 1)
    image = noise(1, 1, *net.input_size(net.output_size((2, 4, 4))))
    assert list(inspect.signature(net.encode).parameters) == ["x"]
    features = net.encode(image)
    # By hand from the output (2, 4, 4): two voxels per side that a level's units take off, halved by pooling,
    # and so on.
    assert [tuple(feature.shape[2:]) for feature in features] == [(2, 8, 8), (6, 8, 8), (3, 4, 4)]
    first, again, other = (net.decode(features, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert torch.equal(first, net(image, seeded(5)))
    assert not torch.equal(first, other)
    assert not torch.equal(first, net(image))


def test_dropout_sits_behind_each_concatenation(monkeypatch):
    widths, seen, dropout = (2, 3, 4, 5, 6), [], layers.dropout

    def spy(features, rate, generator):
        seen.append((features.shape[1], rate))
        return dropout(features, rate, generator)

    monkeypatch.setattr(layers, "dropout", spy)
    net = AUNet(widths, 2, dropout=0.25).to("meta")
    net(torch.empty(1, 1, *net.input_size(net.output_size((1, 1, 1))), device="meta"))
    assert seen == [(2 * width, 0.25) for width in (5, 4, 3, 2)]


def test_dropout_and_normalization_are_switched_independently(random_net):
    net = random_net()
    image = noise(1, 1, *net.input_size(net.output_size((4, 8, 8))))

    def statistics():
        return torch.cat(
            [buffer.flatten().double() for name, buffer in net.named_buffers() if "running" in name]
        )

    before = statistics()
    in_evaluation = net.eval()(image)
    assert not torch.equal(net(image, seeded(0)), in_evaluation)  # dropout in evaluation mode
    assert torch.equal(statistics(), before)
    in_training = net.train()(image)  # normalization by the batch, without dropout
    assert not torch.allclose(in_training, in_evaluation)
    assert torch.equal(net(image), in_training)
    assert not torch.equal(statistics(), before)


def test_bfloat16_leaves_all_that_is_kept_in_float32_and_the_values_nearly_the_same(random_net):
    net = random_net((8, 16))
    image = noise(1, 1, *net.input_size(net.output_size((4, 8, 8))))
    buffers, found = copy.deepcopy(dict(net.named_buffers())), {}
    for net.bfloat16 in (False, True):
        net.load_state_dict(buffers, strict=False)
        logits = [net.eval()(image), net.train()(image)]
        gradients = torch.autograd.grad(logits[1].square().sum(), list(net.parameters()))
        assert {tensor.dtype for tensor in (*logits, *gradients, *net.parameters())} == {torch.float32}
        running = [value for name, value in net.named_buffers() if "running" in name]
        assert {value.dtype for value in running} == {torch.float32}
        found[net.bfloat16] = [
            torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (logits, gradients, running)
        ]
    for precise, rough in zip(found[False], found[True], strict=True):
        assert not torch.equal(rough, precise)
    (logits, gradients, running), rough = found[False], found[True]
    assert (rough[0] - logits).norm() < 0.03 * logits.norm()
    assert torch.cosine_similarity(rough[1], gradients, dim=0) > 0.9  # of noise, most of which cancels out
    torch.testing.assert_close(rough[2], running, atol=1e-3, rtol=1e-3)
