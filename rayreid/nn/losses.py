"""Losses shared by the methods: pure functions of features and labels, always in fp32."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def identity_loss(
    logits: Float[Tensor, "b classes"], identities: Int64[Tensor, " b"], smoothing: float
) -> Float[Tensor, ""]:
    """Return the cross entropy against labels smoothed by ``smoothing`` (Szegedy et al., 2016)."""
    return F.cross_entropy(logits.float(), identities, label_smoothing=smoothing)


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return all squared Euclidean distances, in fp32, never below zero."""
    a, b = a.float(), b.float()
    with torch.autocast(a.device.type, enabled=False):
        products = a @ b.T
    return (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * products).clamp(min=0)


def batch_hard_triplet_loss(
    features: Float[Tensor, "b d"], identities: Int64[Tensor, " b"], margin: float
) -> Float[Tensor, ""]:
    """Return the batch-hard triplet loss (Hermans et al., 2017, eq. 5).

    For each anchor: hinge on (distance to the farthest crop of its identity) - (distance to
    the nearest of another) + ``margin``; ``margin`` 0 stands for the soft margin,
    ``log(1 + exp(.))``. Anchors without another crop of theirs, or of others, do not count.
    """
    # The root's slope at 0 is infinite; the floor keeps the gradient of equal crops finite.
    distances = squared_distances(features, features).clamp(min=1e-12).sqrt()
    same = identities[:, None] == identities[None]
    itself = torch.eye(len(identities), dtype=torch.bool, device=identities.device)
    farthest = distances.masked_fill(~same | itself, -torch.inf).amax(1)
    nearest = distances.masked_fill(same, torch.inf).amin(1)
    counted = farthest.isfinite() & nearest.isfinite()
    gap = (farthest - nearest)[counted]
    if not len(gap):
        return features.float().sum() * 0
    return (F.relu(gap + margin) if margin else F.softplus(gap)).mean()
