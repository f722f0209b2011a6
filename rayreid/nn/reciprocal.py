"""Distances by shared k-reciprocal neighbours, in which clusters are denser than between them.

Paper: Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017, eq. 4 to 11. Two crops of one person have the same crops among their neighbours even
where light or view keeps them apart themselves.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rayreid.nn.losses import squared_distances


def jaccard_distances(
    points: Float[Tensor, "n d"], neighbours: int = 20, expansion: int = 6
) -> Float[Tensor, "n n"]:
    """Return the Jaccard distance in [0, 1] of all points' weighted k-reciprocal neighbours.

    ``neighbours`` is the paper's k1, ``expansion`` its k2; a point is among its own neighbours.
    Memory: six matrices of all pairs.
    """
    squared = squared_distances(points, points)
    count = len(points)
    nearest = squared.argsort(dim=1, stable=True)
    mutual = _reciprocal(nearest, neighbours)
    half = _reciprocal(nearest, round(neighbours / 2)).float()
    # A neighbour's own closest ones join where two thirds of them are there already (eq. 5).
    overlap = mutual.float() @ half.T
    trusted = mutual & (overlap > 2 / 3 * half.sum(1))
    joined = mutual | ((trusted.float() @ half) > 0)
    weights = torch.where(joined, torch.exp(-squared), 0.0)
    weights /= weights.sum(1, keepdim=True)
    if expansion > 1:
        weights = torch.stack([weights[row].mean(0) for row in nearest[:, :expansion]])
    shared = torch.empty(count, count, device=points.device)
    for i, own in enumerate(weights):
        there = own.nonzero()[:, 0]
        shared[i] = torch.minimum(weights[:, there], own[there]).sum(1)
    # Each row of weights sums to 1, so that the sum of maxima is 2 - the sum of minima.
    return 1 - shared / (2 - shared)


def _reciprocal(nearest: Tensor, count: int) -> Bool[Tensor, "n n"]:
    """Return who is among the ``count`` nearest others (and itself) of whom, both ways."""
    near = torch.zeros_like(nearest, dtype=torch.bool)
    near.scatter_(1, nearest[:, : count + 1], True)
    return near & near.T
