"""IBN-a and IBN-b: instance normalisation inside a ResNet (Pan et al., ECCV 2018).

Instance normalisation removes what changes with light and colour, batch normalisation keeps
what tells classes apart. IBN-a gives half of the channels of a block's first normalisation to
each, in the first three stages. IBN-b, as QAConv uses it, replaces the stem's normalisation by
an instance normalisation and adds one after the sum of the last block of stages 1 and 2.
Submodules are called as in the authors' code, so that their weights load.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from timm.models.resnet import ResNet
from torch import Tensor, nn


class IBN(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest."""

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        self.channels = norm.num_features // 2
        self.IN = nn.InstanceNorm2d(self.channels, affine=True)
        self.BN = nn.BatchNorm2d(norm.num_features - self.channels, norm.eps, norm.momentum)
        with torch.no_grad():
            for part, chosen in (
                (self.IN, slice(self.channels)),
                (self.BN, slice(self.channels, None)),
            ):
                part.weight.copy_(norm.weight[chosen])
                part.bias.copy_(norm.bias[chosen])
            assert norm.running_mean is not None
            assert norm.running_var is not None
            self.BN.get_buffer("running_mean").copy_(norm.running_mean[self.channels :])
            self.BN.get_buffer("running_var").copy_(norm.running_var[self.channels :])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the map with both halves normalised."""
        return torch.cat([self.IN(x[:, : self.channels]), self.BN(x[:, self.channels :])], 1)


def insert_ibn(net: ResNet, kind: Literal["a", "b"]) -> None:
    """Put the normalisations into a ResNet; those that were there lend their gains and shifts."""
    stages = [net.get_submodule(f"layer{i}") for i in (1, 2, 3)]
    if kind == "a":
        for stage in stages:
            for block in stage.children():
                block.register_module("bn1", IBN(block.get_submodule("bn1")))  # type: ignore[arg-type]
        return
    stem = net.get_submodule("bn1")
    assert isinstance(stem, nn.BatchNorm2d)
    norm = nn.InstanceNorm2d(stem.num_features, affine=True)
    norm.weight.data.copy_(stem.weight.data)
    norm.bias.data.copy_(stem.bias.data)
    net.register_module("bn1", norm)
    for stage in stages[:2]:
        if not list(stage.children()):  # cut away
            continue
        block = list(stage.children())[-1]
        # The activation after the sum of a block is its last: act3 of three convolutions.
        after = "act3" if hasattr(block, "act3") else "act2"
        last = block.get_submodule("bn3" if after == "act3" else "bn2")
        assert isinstance(last, nn.BatchNorm2d)
        added = nn.Sequential(
            nn.InstanceNorm2d(last.num_features, affine=True), block.get_submodule(after)
        )
        block.register_module(after, added)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the authors' IBN-b ResNet under the names of `insert_ibn`."""
    there = {name: name for name in state}
    for name in state:
        block, dot, leaf = name.rpartition(".IN.")
        if dot and block.startswith("layer") and block.count(".") == 1:
            act = "act3" if f"{block}.conv3.weight" in state else "act2"
            there[name] = f"{block}.{act}.0.{leaf}"
    return {there[name]: value for name, value in state.items()}


def has_ibn(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights, under the names of `insert_ibn`, are of a ResNet with IBN."""
    return any(mark in name for name in state for mark in (".IN.", ".act2.0.", ".act3.0."))
