"""Batch normalisations with frozen statistics as what they are then: a scale and a shift."""

import torch
from torch import Tensor, nn


def affine_of(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return scale and shift [channels] of a batch normalisation with its frozen statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - scale * norm.running_mean
