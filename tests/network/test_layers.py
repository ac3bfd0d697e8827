"""The layers of the au-net against PyTorch's own, and dropout by its statistics."""

import pytest
import torch
from torch import nn

from uss_bench.network import layers


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


# --- convolution and normalization ----


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_thin_convolutions_are_plain_ones_in_values_and_gradients(kernel, bias, memory_format):
    thin = layers.ThinConv3d(3, 5, kernel, bias=bias).to(memory_format=memory_format)
    images = [noise(2, 3, 5, 7, 8).contiguous(memory_format=memory_format).requires_grad_() for _ in range(2)]
    results = [thin(images[0]), nn.functional.conv3d(images[1], thin.weight, thin.bias)]
    assert results[0].shape == results[1].shape
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    gradients = [
        torch.autograd.grad(result, [image, *thin.parameters()], noise(*result.shape, seed=1))
        for result, image in zip(results, images, strict=True)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_batch_normalization_is_pytorchs_in_values_gradients_and_running_statistics(momentum):
    norms = [kind(3, momentum=momentum).double() for kind in (layers.BatchNorm, nn.BatchNorm3d)]
    found = []
    for layer in norms:
        layer.weight.data, layer.bias.data = noise(3, seed=1).double(), noise(3, seed=2).double()
        image = (
            (5 * noise(2, 3, 4, 5, 6) + 2)
            .double()
            .contiguous(memory_format=torch.channels_last_3d)
            .requires_grad_()
        )
        results = [layer(image), layer(2 * image)]
        gradients = torch.autograd.grad(
            (results[0] * noise(*image.shape, seed=3)).sum(), [image, layer.weight, layer.bias]
        )
        found.append([*results, *gradients, *layer.buffers(), layer.eval()(image)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


def test_statistics_of_a_large_patch_are_exact_to_float32():
    """Added up one by one, a million numbers leave errors of 1e-4 in the deviation and the gradient."""
    image = (noise(2, 2, 16, 256, 256) + 0.5).contiguous(memory_format=torch.channels_last_3d)
    found = []
    for values in (image, image.double()):
        layer = layers.BatchNorm(2).to(values.dtype)
        values.requires_grad_()
        result = layer(values)
        found.append([result, torch.autograd.grad((result * result.detach().roll(1, 4)).sum(), values)[0]])
    for single, double in zip(*found, strict=True):
        assert ((single - double).norm() / double.norm()).item() < 2e-6


@pytest.mark.parametrize(
    "convolution",
    [
        layers.ThinConv3d(3, 5, (1, 3, 3), bias=False),
        layers.ThinConv3d(3, 5, (3, 1, 1), bias=False),
        layers.Upsampling(3, 5, layers.FULL),
    ],
    ids=["in plane", "across planes", "upsampling"],
)
def test_in_evaluation_normalization_by_the_running_statistics_is_part_of_the_convolution(convolution):
    unit = layers.normalized(convolution).double()
    normalization = unit[1]
    for values in (normalization.weight, normalization.bias, normalization.running_mean):
        values.data.normal_(generator=seeded(0))
    normalization.running_var.uniform_(0.1, 3, generator=seeded(1))
    image = noise(2, 3, 5, 7, 8).double()
    plain = nn.functional.conv_transpose3d if convolution.transposed else nn.functional.conv3d
    features = plain(image, convolution.weight, stride=convolution.stride)
    mean, variance, scale, shift = (
        values.view(-1, 1, 1, 1)
        for values in (
            normalization.running_mean,
            normalization.running_var,
            normalization.weight,
            normalization.bias,
        )
    )
    expected = torch.relu((features - mean) / torch.sqrt(variance + 1e-5) * scale + shift)
    result = unit.eval()(image)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=1e-12)
    gradients = [
        torch.autograd.grad(values.square().sum(), list(unit.parameters()), retain_graph=True)
        for values in (result, expected)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


# --- pooling ----


@pytest.mark.parametrize("pool", [layers.FLAT, layers.FULL])
def test_pooling_for_cuda_equals_max_pool_in_values_and_behind_a_relu_in_gradients(pool):
    values = [noise(2, 3, 4, 6, 8).requires_grad_() for _ in range(2)]
    upstream = noise(2, 3, 4 // pool[0], 3, 4, seed=1)
    pooled = [layers.block_max(values[0].relu(), pool), nn.functional.max_pool3d(values[1].relu(), pool)]
    assert torch.equal(*pooled)
    for result in pooled:
        result.backward(upstream)
    assert values[0].grad.count_nonzero() > 0
    assert torch.equal(values[0].grad, values[1].grad)


def test_pooling_for_cuda_keeps_channels_last_order_forth_and_back():
    values = noise(2, 3, 4, 6, 8).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    pooled = layers.block_max(values, layers.FULL)
    (gradient,) = torch.autograd.grad(pooled.square().sum(), values)
    for tensor in (pooled, gradient):
        assert tensor.is_contiguous(memory_format=torch.channels_last_3d)


# --- dropout ----


@pytest.mark.parametrize(
    ("rate", "exact"), [(0.25, 64 / 256), (0.5, 128 / 256), (0.3, 77 / 256), (0.9, 230 / 256)]
)
def test_dropout_drops_its_share_of_every_channel_and_keeps_the_mean(rate, exact):
    dropped = layers.dropout(torch.ones(2, 8, 8, 64, 64), rate, seeded(0))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - exact)])
    count = dropped.numel() / 8
    # Eight channels, eight bytes per draw: a byte that is not uniform shows as a channel of another rate.
    # Five standard errors.
    for channel in range(8):
        assert (dropped[:, channel] == 0).double().mean() == pytest.approx(
            exact, abs=5 * (exact * (1 - exact) / count) ** 0.5
        )
    assert dropped.double().mean() == pytest.approx(1, abs=5 * (exact / (1 - exact) / dropped.numel()) ** 0.5)


def test_dropout_of_bfloat16_is_as_strong_as_any():
    """The factor 4/3 rounded to bfloat16 is 0.2% too large; products rounded singly are right on average."""
    features = torch.rand(1, 8, 16, 64, 64, generator=seeded(0)).add(1).bfloat16()
    dropped = layers.dropout(features.clone(), 0.25, seeded(1))
    assert dropped.dtype == torch.bfloat16
    kept = dropped > 0
    assert (dropped[kept].double() / features[kept].double()).mean().item() == pytest.approx(4 / 3, rel=2e-4)


@pytest.mark.parametrize("axis", range(5))
def test_dropout_of_neighbours_is_independent(axis):
    kept = (layers.dropout(torch.ones(8, 8, 16, 32, 32), 0.5, seeded(1)) > 0).double()
    first, second = kept.narrow(axis, 0, kept.shape[axis] - 1), kept.narrow(axis, 1, kept.shape[axis] - 1)
    assert ((first - 0.5) * (second - 0.5)).mean().item() == pytest.approx(
        0, abs=5 * 0.25 / first.numel() ** 0.5
    )


def test_dropout_masks_do_not_depend_on_the_memory_format():
    features = noise(2, 5, 3, 7, 6)
    channels_last = features.contiguous(memory_format=torch.channels_last_3d)
    assert channels_last.stride() != features.stride()
    assert torch.equal(
        layers.dropout(features, 0.4, seeded(3)), layers.dropout(channels_last, 0.4, seeded(3))
    )


def test_dropout_of_rate_zero_changes_nothing():
    features = noise(1, 2, 3, 4, 5)
    assert torch.equal(layers.dropout(features, 0, seeded(0)), features)
