"""Instance normalisation of a map, and a gate that gives back part of what it removed (SNR)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

Map = Float[Tensor, "b c h w"]
Vectors = Float[Tensor, "b c"]


class InstanceNorm(nn.InstanceNorm2d):
    """IN with gamma and beta, in their precision even under autocast."""

    def forward(self, features: Map) -> Map:
        """Return F~ of a map."""
        normalised: Tensor = super().forward(features.to(self.weight.dtype))
        return normalised


class Restitution(nn.Module):
    """The SNR module: IN, and a gate on what it removed; at a = 0 F+ is F~, at a = 1 it is F.

    F~ is F scaled and shifted, each channel of each image by itself, and so are F+ and F-. Their
    averages over space follow from F's: that of F~ is beta.
    """

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        # All of a few units are easily dead at once, and the gate then constant.
        hidden = max(8, channels // reduction)
        self.norm = InstanceNorm(channels, affine=True)
        self.gate = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, features: Map) -> Map:
        """Return F+ of a map, in the module's precision."""
        split = self._split(features)
        return split.mixed(split.a)

    def branches(self, features: Map) -> tuple[Map, Map, Map]:
        """Return F~, F+ and F- of a map, in the module's precision."""
        split = self._split(features)
        return (
            split.mixed(torch.zeros_like(split.a)),
            split.mixed(split.a),
            split.mixed(1 - split.a),
        )

    def averages(self, features: Map) -> tuple[Map, tuple[Vectors, Vectors, Vectors]]:
        """Return F+ of a map, and the averages over space of F~, F+ and F-."""
        split = self._split(features)
        beta = self.norm.bias.expand_as(split.a)
        removed = split.mean - beta
        averages = beta, beta + split.a * removed, beta + (1 - split.a) * removed
        return split.mixed(split.a), averages

    def _split(self, features: Tensor) -> "_Split":
        """Return the map with what its branches are made of; bf16 would lose a small R."""
        with torch.autocast(features.device.type, enabled=False):
            full = features.to(self.norm.weight.dtype)
            # On a CPU torch.var_mean is slower than two means.
            mean = full.mean((2, 3))
            variance = (full - mean[..., None, None]).square().mean((2, 3))
            gain = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
            a = self.gate(mean - self.norm.bias)
        return _Split(full, mean, gain, self.norm.bias - gain * mean, a)


class _Split(NamedTuple):
    """A map F, its channels' means, gain and shift of F~ = gain F + shift, and the gate's a."""

    features: Map
    mean: Vectors
    gain: Vectors
    shift: Vectors
    a: Vectors

    def mixed(self, share: Vectors) -> Map:
        """Return F~ + share R, that is share F + (1 - share) F~."""
        scale, shift = share + (1 - share) * self.gain, (1 - share) * self.shift
        return torch.addcmul(shift[..., None, None], self.features, scale[..., None, None])
