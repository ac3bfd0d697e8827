"""The anisotropic u-net (au-net) of section II-A, for any number of levels and widths.

Five levels in the paper, two units per level, all convolutions valid. Flat levels (the upper two) see x and y
only: a unit is one 1x3x3 convolution, and the pooling below is 1x2x2. The other levels are separable: a unit
is a 1x3x3 and a 3x1x1 convolution, and the pooling below is 2x2x2. Every convolution, the transposed ones
too, is bias-free and followed by batch normalization and ReLU.

Axes are `(batch, channel, z, y, x)`. Since nothing is padded, the output is smaller than the input by
`AUNet.halo` voxels on every side. Halo and valid sizes are computed from the levels.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from . import layers


class AUNet(nn.Module):
    """Anisotropic u-net with one resolution level per width, the finest first.

    Dropout is on where `forward` or `decode` is given a generator. It does not depend on `train()` or
    `eval()`, which govern batch normalization alone, so Monte Carlo sampling cannot move the running
    statistics by accident.

    Parameters
    ----------
    widths : tuple of int
        Channels of each level.
    flat_levels : int
        Levels, from the finest, without a z axis.
    dropout : float
        Rate behind each concatenation, in [0, 255/256]: it is rounded to 1/256, and something must stay.
    bfloat16 : bool
        Compute convolutions and what lies between them in bfloat16 (autocast). Weights, statistics of
        normalization and logits are float32 all the same.
    prior : float, optional
        Probability of liver with which `draw_weights` lets training start, in (0, 1); None: the classifier's
        bias is zero. See Lin et al., *Focal Loss for Dense Object Detection*, section 3.3.

    Attributes
    ----------
    halo : tuple of int
        Voxels `(z, y, x)` by which the output is smaller than the input on each side.
    stride : tuple of int
        Total pooling `(z, y, x)`. Passes over one volume agree where their origins differ by multiples of it.

    Raises
    ------
    ValueError
        No level at all, more flat levels than levels, a rate or a prior out of range.

    Examples
    --------
    The paper's network, its number of parameters and its patch:

    >>> net = AUNet()
    >>> sum(parameter.numel() for parameter in net.parameters())
    4975346
    >>> net.halo, net.stride
    ((20, 92, 92), (4, 16, 16))
    >>> net.input_size((4, 180, 180)), net.output_size((3, 100, 181))
    ((44, 364, 364), (4, 100, 196))

    A small one:

    >>> net = AUNet((4, 8), flat_levels=1)
    >>> net(torch.zeros(1, 1, *net.input_size((2, 6, 6)))).shape
    torch.Size([1, 2, 2, 6, 6])
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 72, 88, 168, 336),
        flat_levels: int = 2,
        dropout: float = 0.25,
        bfloat16: bool = False,
        prior: float | None = None,
    ):
        super().__init__()
        if len(widths) < 1 or not 0 <= flat_levels <= len(widths):
            raise ValueError(
                "widths must name at least one level and flat_levels lie in "
                f"0..{len(widths)}; got {widths}, {flat_levels}"
            )
        if not 0 <= dropout <= 255 / 256:
            raise ValueError(f"dropout must lie in [0, 255/256]; got {dropout}")
        if prior is not None and not 0 < prior < 1:
            raise ValueError(f"prior must lie in (0, 1); got {prior}")
        self.dropout, self.bfloat16, self.prior = dropout, bfloat16, prior
        flat = [number < flat_levels for number in range(len(widths))]
        self.pools = [layers.FLAT if is_flat else layers.FULL for is_flat in flat[:-1]]
        self._margins = [layers.level_margin(is_flat) for is_flat in flat]

        self.encoder = nn.ModuleList(
            layers.level(*arguments) for arguments in zip((1, *widths[:-1]), widths, flat, strict=True)
        )
        self.up = nn.ModuleList(
            layers.normalized(layers.Upsampling(below, width, pool))
            for width, below, pool in zip(widths[:-1], widths[1:], self.pools, strict=True)
        )
        self.decoder = nn.ModuleList(
            layers.level(2 * width, width, is_flat)
            for width, is_flat in zip(widths[:-1], flat[:-1], strict=True)
        )
        self.classify = layers.ThinConv3d(widths[0], 2, 1)
        self.to(memory_format=torch.channels_last_3d)  # about halves a step on CPUs

        smallest = self.output_size((1, 1, 1))
        self.halo = tuple(
            (big - small) // 2 for big, small in zip(self.input_size(smallest), smallest, strict=True)
        )
        self.stride = tuple(math.prod(pool[axis] for pool in self.pools) for axis in range(3))

    def forward(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Logits `(batch, 2, z, y, x)` of images `(batch, 1, z, y, x)`, `halo` larger on each side."""
        return self.decode(self.encode(x.contiguous(memory_format=torch.channels_last_3d)), generator)

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features of every level, the finest first, cropped to what `decode` joins them with.

        Holds no dropout: one pass serves all Monte Carlo samples.

        Parameters
        ----------
        x : (batch, 1, z, y, x) tensor
            Scaled intensities, of a size that `input_size` gives.

        Returns
        -------
        list of (batch, width, z, y, x) tensor
            One per level, of the level's width, each axis pooled as often as the levels above pool it.
        """
        features = []
        with self._autocast(x.device):
            for level, units in enumerate(self.encoder):
                if level:
                    x = layers.max_pool(x, self.pools[level - 1])
                x = units(x)
                features.append(x)
        size = x.shape[2:]
        for level in reversed(range(len(self.pools))):
            upsampled = [length * step for length, step in zip(size, self.pools[level], strict=True)]
            features[level] = layers.centre_crop(features[level], upsampled)
            size = [
                length - 2 * margin for length, margin in zip(upsampled, self._margins[level], strict=True)
            ]
        return features

    def decode(self, features: list[torch.Tensor], generator: torch.Generator | None = None) -> torch.Tensor:
        """Logits `(batch, 2, z, y, x)`, background first, float32.

        Parameters
        ----------
        features : list of tensors
            What `encode` returned.
        generator : torch.Generator, optional
            Source of the dropout masks; without it, dropout is off.
        """
        x = features[-1]
        with self._autocast(x.device):
            for skip, up, units in reversed(list(zip(features[:-1], self.up, self.decoder, strict=True))):
                x = units(layers.dropout(torch.cat([skip, up(x)], dim=1), self.dropout, generator))
        # Not in bfloat16, where logits would come in steps of 1/32.
        return self.classify(x.to(self.classify.weight.dtype))

    def draw_weights(self, generator: torch.Generator) -> None:
        """Draw all convolution weights from a CPU generator, uniformly, with the variance of He et al.

        Biases, which only the classifier has, become zero. With a `prior`, liver's bias becomes its log-odds.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                # The transposed convolutions do not overlap: one input voxel makes each output voxel.
                transposed = isinstance(module, nn.ConvTranspose3d)
                inputs = module.in_channels if transposed else module.weight[0].numel()
                bound = (6 / inputs) ** 0.5
                module.weight.data.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.data.zero_()
        if self.prior is not None:
            self.classify.bias.data[1] = math.log(self.prior / (1 - self.prior))

    def output_size(self, at_least: tuple[int, int, int]) -> tuple[int, int, int]:
        """Smallest valid output `(z, y, x)` that covers `at_least` voxels."""
        return tuple(self._output_length(length, axis) for axis, length in enumerate(at_least))

    def input_size(self, output_size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Input `(z, y, x)` that gives `output_size`; ValueError where that is not a valid one."""
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

    def _autocast(self, device) -> AbstractContextManager:
        return torch.autocast(device.type, torch.bfloat16) if self.bfloat16 else nullcontext()


def liver_probability(logits: torch.Tensor) -> torch.Tensor:
    """Probability of liver `(batch, z, y, x)` from the two-class logits of an `AUNet`."""
    return torch.sigmoid(logits[:, 1] - logits[:, 0])
