"""Layers of the au-net.

Their values are those of PyTorch's own; these are fast and exact on CPUs and deterministic on GPUs.
Axes are `(batch, channel, z, y, x)` throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

FLAT, FULL = (1, 2, 2), (2, 2, 2)  # pooling below a level without and with a z axis
UNITS_PER_LEVEL = 2
ALL_BUT_CHANNELS = (0, 2, 3, 4)


class ThinConv3d(nn.Conv3d):
    """Convolution with a 1xNxN or Nx1x1 kernel, computed in two dimensions.

    z is folded into the batch, or y and x into one axis. Numbers and parameters are those of `nn.Conv3d`, for
    which PyTorch has only a slow kernel on CPUs at some shapes.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The convolution with other weights than the layer's own."""
        depth = x.shape[2]
        if self.kernel_size[0] == 1:
            planes = nn.functional.conv2d(x.transpose(1, 2).flatten(0, 1), weight[:, :, 0], bias)
            return planes.unflatten(0, (-1, depth)).transpose(1, 2)
        return nn.functional.conv2d(x.flatten(3), weight[..., 0], bias).unflatten(3, x.shape[3:])


class Upsampling(nn.ConvTranspose3d):
    """Bias-free transposed convolution that makes a block of `pool` voxels of every input voxel."""

    def __init__(self, inputs: int, outputs: int, pool: tuple[int, int, int]):
        super().__init__(inputs, outputs, pool, stride=pool, bias=False)

    def convolve(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The convolution with other weights than the layer's own."""
        return nn.functional.conv_transpose3d(x, weight, bias, self.stride)


class _NormalizedByItself(torch.autograd.Function):
    """Values normalized by their own statistics, and these; PyTorch's, but with pairwise sums."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        values = x.to(weight.dtype)
        mean = values.mean(ALL_BUT_CHANNELS)
        variance = (values.square().mean(ALL_BUT_CHANNELS) - mean.square()).clamp_(min=0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        normalized = torch.ops.aten.native_batch_norm(x, weight, bias, mean, variance, False, 0, eps)[0]
        return normalized, mean, variance

    @staticmethod
    def backward(ctx, gradient, *_):
        x, weight, mean, scale = ctx.saved_tensors
        of_inputs = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, scale, True, ctx.eps, ctx.needs_input_grad[:3]
        )
        return *of_inputs, None


class BatchNorm(nn.BatchNorm3d):
    """Batch normalization whose statistics are exact to float32 on CPUs too.

    PyTorch adds up channels-last values one by one there. This leaves the deviation of a patch up to 0.1%
    off, and gradients of the network, as rectifiers switch, up to 1%.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda or not self.training:
            return super().forward(x)
        result, mean, variance = _NormalizedByItself.apply(x, self.weight, self.bias, self.eps)
        count = x.numel() // self.num_features
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        return result


class Normalized(nn.Sequential):
    """Convolution, batch normalization, ReLU.

    In evaluation mode normalization is affine and becomes part of the convolution's weights.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return super().forward(x)
        convolution, normalization, relu = self
        scale = normalization.weight * torch.rsqrt(normalization.running_var + normalization.eps)
        per_output = (1, -1, 1, 1, 1) if convolution.transposed else (-1, 1, 1, 1, 1)
        shift = normalization.bias - normalization.running_mean * scale
        return relu(convolution.convolve(x, convolution.weight * scale.view(per_output), shift))


def normalized(convolution: ThinConv3d | Upsampling) -> Normalized:
    """A convolution with batch normalization and ReLU behind it."""
    return Normalized(convolution, BatchNorm(convolution.out_channels), nn.ReLU(inplace=True))


def level(inputs: int, outputs: int, flat: bool) -> nn.Sequential:
    """The two units of a level: a 1x3x3 convolution each, and a 3x1x1 one unless the level is `flat`."""
    layers = []
    for channels in (inputs, *[outputs] * (UNITS_PER_LEVEL - 1)):
        layers.append(normalized(ThinConv3d(channels, outputs, (1, 3, 3), bias=False)))
        if not flat:
            layers.append(normalized(ThinConv3d(outputs, outputs, (3, 1, 1), bias=False)))
    return nn.Sequential(*layers)


def level_margin(flat: bool) -> tuple[int, int, int]:
    """Voxels `(z, y, x)` that a level's units take off each side."""
    return (0 if flat else UNITS_PER_LEVEL, UNITS_PER_LEVEL, UNITS_PER_LEVEL)


def dropout(features: torch.Tensor, rate: float, generator: torch.Generator | None) -> torch.Tensor:
    """Element-wise inverted dropout in place, with masks from `generator`; without one, no dropout.

    One random byte decides each element (the rate is rounded to 1/256), eight of them to a 64-bit draw:
    otherwise the masks of Monte Carlo dropout would cost as much as the convolutions behind them. They are
    drawn in channels-last order, whatever the memory format.
    """
    if generator is None or rate == 0:
        return features
    batch, channels, *size = features.shape
    count = features.numel()
    words = torch.empty(-(-count // 8), dtype=torch.int64, device=features.device)
    words.random_(-(2**63), None, generator=generator)
    dropped = round(rate * 256)
    # At least float32: bfloat16 would round a factor of 4/3 up, for all elements alike.
    # And compared as floats, which is twice as fast.
    factors = words.view(torch.uint8)[:count].to(torch.promote_types(features.dtype, torch.float32))
    factors.ge_(dropped).mul_(256 / (256 - dropped))
    return features.mul_(factors.view(batch, *size, channels).movedim(-1, 1))


def max_pool(x: torch.Tensor, pool: Sequence[int]) -> torch.Tensor:
    """Max pooling over windows that do not overlap; its backward pass is deterministic on every device."""
    if x.is_cuda:  # there max_pool3d adds gradients atomically; older versions have no deterministic way
        return block_max(x, pool)
    return nn.functional.max_pool3d(x, pool)


def block_max(x: torch.Tensor, pool: Sequence[int]) -> torch.Tensor:
    """Max pooling by reshaping, for sizes that are multiples of the window.

    Values and gradients stay in channels-last order, as cuDNN wants them.
    """
    batch, channels, *size = x.shape
    blocks = [length for n, step in zip(size, pool, strict=True) for length in (n // step, step)]
    return x.movedim(1, -1).reshape(batch, *blocks, channels).amax(dim=(2, 4, 6)).movedim(-1, 1)


def centre_crop(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle `(z, y, x)` of `features`, which exceed `size` by as much on both sides."""
    # Negative padding instead of slicing: its backward pass keeps the memory format, on which the speed of
    # the layers before depends.
    margins = [-((have - want) // 2) for have, want in zip(features.shape[2:], size, strict=True)]
    return nn.functional.pad(features, [margin for margin in reversed(margins) for _ in range(2)])
