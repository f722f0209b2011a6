"""Clusterings of embeddings, for pseudo labels: the same points always give the same labels."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rayreid.nn.losses import squared_distances


def dbscan(points: Float[Tensor, "n d"], radius: float, neighbours: int) -> Int64[Tensor, " n"]:
    """Return the DBSCAN cluster of each point from 0, or -1 for an outlier (Ester et al., 1996).

    A point is core where at least ``neighbours`` points, itself included, lie within ``radius``;
    core points within ``radius`` of each other are of one cluster. Any other point joins the
    first cluster with a core point within ``radius``. Clusters are numbered by their first core
    points. Memory: one byte a pair of points.
    """
    count = len(points)
    near = torch.empty(count, count, dtype=torch.bool, device=points.device)
    for start in range(0, count, 1024):
        rows = slice(start, start + 1024)
        near[rows] = squared_distances(points[rows], points) <= radius**2
    return density_clusters(near, neighbours)


def density_clusters(near: Bool[Tensor, "n n"], neighbours: int) -> Int64[Tensor, " n"]:
    """Return the clusters of `dbscan`, given who is near whom (itself included)."""
    core = near.sum(1) >= neighbours
    labels = torch.full((len(near),), -1, device=near.device)
    position = torch.arange(len(near), device=near.device)
    cluster = 0
    while (waiting := core & (labels < 0)).any():
        reached = position == waiting.int().argmax()
        while reached.any():
            labels[reached] = cluster
            reached = near[reached & core].any(0) & (labels < 0)
        cluster += 1
    return labels


def kmeans(
    points: Float[Tensor, "n d"], clusters: int, seed: int, rounds: int = 100
) -> Int64[Tensor, " n"]:
    """Return the k-means cluster of each point from 0, after at most ``rounds`` of Lloyd's.

    The first centres are drawn by k-means++ (Arthur and Vassilvitskii, 2007) from ``seed``, on
    the CPU, so that devices agree. Clusters that end without a point are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(points), (1,), generator=generator).tolist()
    nearest = squared_distances(points, points[chosen]).amin(1)
    while len(chosen) < min(clusters, len(points)) and nearest.any():
        chosen += torch.multinomial(nearest.double().cpu(), 1, generator=generator).tolist()
        nearest = nearest.minimum(squared_distances(points, points[chosen[-1:]]).amin(1))
    centres = points[chosen].float()
    labels = squared_distances(points, centres).argmin(1)
    for _ in range(rounds):
        means = cluster_means(points, labels, len(centres))
        centres = torch.where(means.isnan(), centres, means)
        before, labels = labels, squared_distances(points, centres).argmin(1)
        if torch.equal(labels, before):
            break
    compact: Tensor = torch.unique(labels, return_inverse=True)[1]
    return compact


def centred_by_camera(
    points: Float[Tensor, "n d"], cameras: Int64[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """Return the points less the mean of their camera's, at unit length.

    The points themselves where there is one camera.

    Cameras pull crops together more than people do on a domain that was not learnt: clusters are
    then of one camera.
    """
    _, which = cameras.unique(return_inverse=True)
    count = int(which.max()) + 1
    if count == 1:
        return points
    return F.normalize(points - cluster_means(points, which, count)[which])


def cluster_means(
    points: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], clusters: int
) -> Float[Tensor, "k d"]:
    """Return the fp32 mean of each cluster's points, NaN for one without; outliers (-1) in none.

    A matrix product, because scattered sums on a GPU depend on the order of their terms.
    """
    numbers = torch.arange(clusters, device=labels.device)
    members = (labels == numbers[:, None]).float()
    with torch.autocast(points.device.type, enabled=False):
        sums = members @ points.float()
    return sums / members.sum(1, keepdim=True)
