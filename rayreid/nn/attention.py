"""Attention that splits a map in two: the share in (0, 1) of each channel and place."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """The product of a gate of channels and a gate of places, or one of them.

    At first A is near ``share``. The gate of channels is that of SE networks: average,
    ``reduction`` times narrower, back. The gate of places is a learnt mean over channels (1x1, at
    first the plain mean), then 3x3.
    """

    def __init__(
        self,
        channels: int,
        reduction: int,
        kind: Literal["channel", "spatial", "both"],
        share: float,
    ):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.gates = nn.ModuleDict()
        if kind != "spatial":
            squeeze, last = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
            self.gates["channel"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), squeeze, nn.ReLU(), last)
        if kind != "channel":
            mean, last = nn.Conv2d(channels, 1, 1, bias=False), nn.Conv2d(1, 1, 3, padding=1)
            nn.init.constant_(mean.weight, 1 / channels)
            self.gates["spatial"] = nn.Sequential(mean, last)
        even = torch.tensor(share ** (1 / len(self.gates))).logit().item()
        for gate in self.gates.values():
            nn.init.constant_(gate[-1].bias, even)  # type: ignore[index]

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the attention A; ``A F`` and ``F - A F`` add up to the map ``F``."""
        shares = [gate(features).sigmoid() for gate in self.gates.values()]
        attention: Tensor = shares[0] * shares[1] if len(shares) > 1 else shares[0]
        return attention.expand_as(features)
