"""The anisotropic u-net (au-net) of section II-A, for any number of levels and widths.

Five levels in the paper, two units a level, all convolutions valid. Flat levels (the upper two) see x and y only: a unit is one
1x3x3 convolution, and the pooling below it is 1x2x2. The other levels are separable: a unit is a 1x3x3 and a 3x1x1 convolution, and
the pooling below is 2x2x2. Every convolution, the transposed ones too, is bias-free and followed by batch normalization and ReLU.

Axes are `(batch, channel, z, y, x)`. Since nothing is padded, the output is smaller than the input by `AUNet.halo` voxels on every
side; halo and valid sizes follow from the levels by the rule in `input_size` and are not typed in anywhere.
"""

import math
from contextlib import nullcontext

import torch
from torch import nn

FLAT, FULL = (1, 2, 2), (2, 2, 2)
UNITS_PER_LEVEL = 2
VOXELS = (0, 2, 3, 4)  # all axes but that of the channels


class ThinConv3d(nn.Conv3d):
    """Convolution with a 1xNxN or Nx1x1 kernel, computed in two dimensions: z is folded into the batch, or y and x into one axis.

    The numbers and parameters are those of `nn.Conv3d`, for some shapes of which PyTorch has only a slow kernel on CPUs.
    """

    def forward(self, x):
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x, weight, bias):
        depth = x.shape[2]
        if self.kernel_size[0] == 1:
            planes = nn.functional.conv2d(x.transpose(1, 2).flatten(0, 1), weight[:, :, 0], bias)
            return planes.unflatten(0, (-1, depth)).transpose(1, 2)
        return nn.functional.conv2d(x.flatten(3), weight[..., 0], bias).unflatten(3, x.shape[3:])


class Upsampling(nn.ConvTranspose3d):
    """Transposed convolution whose kernels do not overlap: every input voxel becomes a block of `pool` voxels."""

    def __init__(self, inputs, outputs, pool):
        super().__init__(inputs, outputs, pool, stride=pool, bias=False)

    def convolve(self, x, weight, bias):
        return nn.functional.conv_transpose3d(x, weight, bias, self.stride)


class _NormalizedByItself(torch.autograd.Function):
    """Normalization by statistics of the values themselves, and these; PyTorch's but for the two sums, which here are pairwise."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        values = x.to(weight.dtype)
        mean = values.mean(VOXELS)
        variance = (values.square().mean(VOXELS) - mean.square()).clamp_(min=0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return (
            torch.ops.aten.native_batch_norm(x, weight, bias, mean, variance, False, 0, eps)[0],
            mean,
            variance,
        )

    @staticmethod
    def backward(ctx, gradient, *_):
        x, weight, mean, scale = ctx.saved_tensors
        of_inputs = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, scale, True, ctx.eps, ctx.needs_input_grad[:3]
        )
        return *of_inputs, None


class BatchNorm(nn.BatchNorm3d):
    """Batch normalization whose statistics are exact to float32 on CPUs too.

    PyTorch adds up channels-last values there one by one, which leaves the deviation of a patch up to 0.1% off, and gradients of the
    net, as rectifiers switch, up to 1%.
    """

    def forward(self, x):
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
    """Convolution, batch normalization, ReLU. In evaluation mode normalization is affine and goes into the weights of the convolution."""

    def forward(self, x):
        if self.training:
            return super().forward(x)
        convolution, normalization, relu = self
        scale = normalization.weight * torch.rsqrt(normalization.running_var + normalization.eps)
        per_output = (1, -1, 1, 1, 1) if convolution.transposed else (-1, 1, 1, 1, 1)
        shift = normalization.bias - normalization.running_mean * scale
        return relu(convolution.convolve(x, convolution.weight * scale.view(per_output), shift))


def _normalized(convolution):
    return Normalized(convolution, BatchNorm(convolution.out_channels), nn.ReLU(inplace=True))


def _level(inputs, outputs, flat):
    layers = []
    for channels in (inputs, outputs):
        layers.append(_normalized(ThinConv3d(channels, outputs, (1, 3, 3), bias=False)))
        if not flat:
            layers.append(_normalized(ThinConv3d(outputs, outputs, (3, 1, 1), bias=False)))
    return nn.Sequential(*layers)


def _dropout(features, rate, generator):
    """Element-wise inverted dropout of `features` in place, with masks drawn from `generator`; no generator, no dropout.

    One random byte decides each element (the rate is rounded to 1/256), eight of them to a 64-bit draw: the masks of MC dropout
    would otherwise cost as much as the convolutions behind them. They are drawn in channels-last order whatever the memory format.
    """
    if generator is None or rate == 0:
        return features
    batch, channels, *size = features.shape
    count = features.numel()
    words = torch.empty(-(-count // 8), dtype=torch.int64, device=features.device).random_(
        -(2**63), None, generator=generator
    )
    dropped = round(rate * 256)
    # At least float32: bfloat16 would round a factor of 4/3 up, for all elements alike. And compared as floats, which is twice as fast.
    factors = words.view(torch.uint8)[:count].to(torch.promote_types(features.dtype, torch.float32))
    factors.ge_(dropped).mul_(256 / (256 - dropped))
    return features.mul_(factors.view(batch, *size, channels).movedim(-1, 1))


def _max_pool(x, pool):
    """Max pooling over windows that do not overlap, with a backward pass that is deterministic on every device."""
    if x.is_cuda:  # max_pool3d adds gradients atomically there and refuses to run in deterministic mode
        return _block_max(x, pool)
    return nn.functional.max_pool3d(x, pool)


def _block_max(x, pool):
    batch, channels, *size = x.shape
    blocks = [length for n, step in zip(size, pool, strict=True) for length in (n // step, step)]
    return x.reshape(batch, channels, *blocks).amax(dim=(3, 5, 7))


def _centre_crop(features, size):
    # Negative padding and not slicing: its backward pass keeps the memory format, on which the speed of the layers before depends.
    margins = [-((have - want) // 2) for have, want in zip(features.shape[2:], size, strict=True)]
    return nn.functional.pad(features, [margin for margin in reversed(margins) for _ in range(2)])


class AUNet(nn.Module):
    """Anisotropic u-net with `len(widths)` resolution levels, the first `flat_levels` of them without a z axis.

    Dropout is asked for by handing `forward` or `decode` a generator. It does not depend on `train()` or `eval()`, which govern batch
    normalization alone, so Monte Carlo sampling cannot move the running statistics by accident.

    With `bfloat16`, convolutions and what lies between them are computed in bfloat16 (autocast); weights, statistics of normalization
    and logits are float32 all the same.

    Attributes
    ----------
    halo : voxels `(z, y, x)` by which the output is smaller than the input on each side
    stride : total pooling `(z, y, x)`; passes over one volume agree where their origins differ by multiples of it
    """

    def __init__(self, widths=(32, 72, 88, 168, 336), flat_levels=2, dropout=0.25, bfloat16=False):
        super().__init__()
        if len(widths) < 1 or not 0 <= flat_levels <= len(widths):
            raise ValueError(
                f"widths must name at least one level and flat_levels lie in 0..{len(widths)}; got {widths}, {flat_levels}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); got {dropout}")
        self.dropout, self.bfloat16 = dropout, bfloat16
        flat = [level < flat_levels for level in range(len(widths))]
        self.pools = [FLAT if level_is_flat else FULL for level_is_flat in flat[:-1]]
        # Voxels that the units of a level take off each side, at the resolution of that level.
        self._margins = [
            (0 if level_is_flat else UNITS_PER_LEVEL, UNITS_PER_LEVEL, UNITS_PER_LEVEL)
            for level_is_flat in flat
        ]

        self.encoder = nn.ModuleList(
            _level(*args) for args in zip((1, *widths[:-1]), widths, flat, strict=True)
        )
        self.up = nn.ModuleList(
            _normalized(Upsampling(below, width, pool))
            for width, below, pool in zip(widths[:-1], widths[1:], self.pools, strict=True)
        )
        self.decoder = nn.ModuleList(
            _level(2 * width, width, is_flat) for width, is_flat in zip(widths[:-1], flat[:-1], strict=True)
        )
        self.classify = ThinConv3d(widths[0], 2, 1)
        self.to(memory_format=torch.channels_last_3d)  # about halves a step on CPUs

        smallest = self.output_size((1, 1, 1))
        self.halo = tuple(
            (big - small) // 2 for big, small in zip(self.input_size(smallest), smallest, strict=True)
        )
        self.stride = tuple(math.prod(pool[axis] for pool in self.pools) for axis in range(3))

    def draw_weights(self, generator):
        """Draw all convolution weights anew from `generator` (on the CPU), uniformly with the variance of He et al. for ReLU."""
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                # The transposed convolutions do not overlap: one input voxel makes each output voxel.
                inputs = (
                    module.in_channels if isinstance(module, nn.ConvTranspose3d) else module.weight[0].numel()
                )
                bound = (6 / inputs) ** 0.5
                module.weight.data.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.data.zero_()

    def output_size(self, at_least):
        """Smallest valid output `(z, y, x)` that covers `at_least` voxels."""
        return tuple(self._output_length(length, axis) for axis, length in enumerate(at_least))

    def input_size(self, output_size):
        """Input `(z, y, x)` that gives `output_size`, which must be a valid one."""
        return tuple(self._input_length(length, axis) for axis, length in enumerate(output_size))

    def _output_length(self, at_least, axis, level=0):
        if level == len(self.pools):
            return at_least
        pool, margin = self.pools[level][axis], self._margins[level][axis]
        below = self._output_length(-(-(at_least + 2 * margin) // pool), axis, level + 1)
        return below * pool - 2 * margin

    def _input_length(self, length, axis, level=0):
        margin = self._margins[level][axis]
        if level == len(self.pools):
            return length + 2 * margin
        pool = self.pools[level][axis]
        upsampled = length + 2 * margin
        if upsampled % pool:
            raise ValueError(
                f"output length {length} on axis {axis} is not valid; ask output_size for the next valid one"
            )
        return self._input_length(upsampled // pool, axis, level + 1) * pool + 2 * margin

    def encode(self, x):
        """Features of `x` `(batch, 1, z, y, x)` at every level, the finest first, cropped to what `decode` joins them with.

        Holds no dropout: one pass serves all MC samples.
        """
        features = []
        with self._autocast(x.device):
            for level, units in enumerate(self.encoder):
                if level:
                    x = _max_pool(x, self.pools[level - 1])
                x = units(x)
                features.append(x)
        size = x.shape[2:]
        for level in reversed(range(len(self.pools))):
            upsampled = [length * step for length, step in zip(size, self.pools[level], strict=True)]
            features[level] = _centre_crop(features[level], upsampled)
            size = [
                length - 2 * margin for length, margin in zip(upsampled, self._margins[level], strict=True)
            ]
        return features

    def decode(self, features, generator=None):
        """Logits `(batch, 2, z, y, x)`, background first. With a `generator`, dropout masks are drawn from it."""
        x = features[-1]
        with self._autocast(x.device):
            for skip, up, units in reversed(list(zip(features[:-1], self.up, self.decoder, strict=True))):
                x = units(_dropout(torch.cat([skip, up(x)], dim=1), self.dropout, generator))
            logits = self.classify(x)
        return logits.float() if self.bfloat16 else logits

    def forward(self, x, generator=None):
        return self.decode(self.encode(x.contiguous(memory_format=torch.channels_last_3d)), generator)

    def _autocast(self, device):
        return torch.autocast(device.type, torch.bfloat16) if self.bfloat16 else nullcontext()


def liver_probability(logits):
    """Probability of the liver class `(batch, z, y, x)` from the two-class logits of an `AUNet`."""
    return torch.sigmoid(logits[:, 1] - logits[:, 0])
