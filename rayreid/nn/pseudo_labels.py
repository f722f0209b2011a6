"""Pseudo labels of a target's crops: clusters of their embeddings, or their nearest neighbours.

Either is made of the embeddings of all crops, at unit length, once an epoch. The logits against
which an embedding is classified are its cosines to the cluster centres, or to all crops' memory.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rayreid.nn.clustering import cluster_means
from rayreid.nn.losses import squared_distances


class PseudoLabels(Protocol):
    """What teaches a crop's embedding, at unit length, given its position among all crops."""

    def loss(
        self, embeddings: Float[Tensor, "b d"], indices: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Return the cross entropy against the crops' labels."""

    def remember(self, embeddings: Float[Tensor, "b d"], indices: Int64[Tensor, " b"]) -> None:
        """Take note of crops' embeddings, after their loss."""


class Clusters:
    """Soft labels by a clustering; the classifier is the clusters' centres.

    The number of clusters changes from epoch to epoch: a learnt layer would begin anew each time.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int64[Tensor, " n"],
        soften: float,
        soften_temperature: float,
        temperature: float,
    ):
        self.embeddings, self.labels, self.temperature = embeddings, labels, temperature
        self.soften, self.soften_temperature = soften, soften_temperature
        self.count = int(labels.max()) + 1
        self.share = (labels >= 0).float().mean().item()
        self.centres = F.normalize(cluster_means(embeddings, labels, self.count))

    def loss(
        self, embeddings: Float[Tensor, "b d"], indices: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Return the cross entropy of the crops in a cluster; 0, with a graph, for none."""
        labels = soft_labels(
            self.embeddings[indices],
            self.labels[indices],
            self.centres,
            self.soften,
            self.soften_temperature,
        )
        return soft_cross_entropy(embeddings @ self.centres.T / self.temperature, labels)

    def remember(self, embeddings: Float[Tensor, "b d"], indices: Int64[Tensor, " b"]) -> None:
        """Do nothing: labels stay for an epoch."""


class Neighbours:
    """Soft labels by nearest neighbours in a memory of all crops (Zhong et al., "ECN", 2019)."""

    def __init__(
        self,
        embeddings: Float[Tensor, "n d"],
        neighbours: int,
        temperature: float,
        momentum: float,
    ):
        self.memory, self.neighbours = embeddings, neighbours
        self.temperature, self.momentum = temperature, momentum

    def loss(
        self, embeddings: Float[Tensor, "b d"], indices: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Return the cross entropy of the crops' places among all crops."""
        labels = neighbour_labels(self.memory, indices, self.neighbours)
        return soft_cross_entropy(embeddings @ self.memory.T / self.temperature, labels)

    @torch.no_grad()
    def remember(self, embeddings: Float[Tensor, "b d"], indices: Int64[Tensor, " b"]) -> None:
        """Move the crops' memory towards what was seen; each worker that of its own crops.

        What is not finite is left out: it would spoil every later step of the epoch.
        """
        old = self.memory[indices]
        new = F.normalize(self.momentum * old + (1 - self.momentum) * embeddings)
        # A copy: the backward pass of the loss still needs the memory that it saw.
        self.memory = self.memory.index_copy(0, indices, torch.where(new.isfinite(), new, old))


def soft_labels(
    embeddings: Float[Tensor, "b d"],
    labels: Int64[Tensor, " b"],
    centres: Float[Tensor, "k d"],
    soften: float,
    temperature: float,
) -> Float[Tensor, "b k"]:
    """Return ``(1 - soften) onehot(label) + soften softmax(-distance to centres / temperature)``.

    The rows of outliers (label -1) are zero.
    """
    numbers = torch.arange(len(centres), device=labels.device)
    one_hot = (labels[:, None] == numbers).to(embeddings.dtype)
    distances = squared_distances(embeddings, centres).sqrt().to(embeddings.dtype)
    mixed = (1 - soften) * one_hot + soften * (-distances / temperature).softmax(1)
    return mixed * (labels >= 0)[:, None]


def soft_cross_entropy(
    logits: Float[Tensor, "b k"], labels: Float[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """Return the mean cross entropy against soft labels, over the rows that are not all zero."""
    labelled: Bool[Tensor, " b"] = labels.any(1)
    terms = -(labels * logits.log_softmax(1)).sum(1)
    return terms.sum() / labelled.sum().clamp(min=1)


def neighbour_labels(
    memory: Float[Tensor, "n d"], indices: Int64[Tensor, " b"], neighbours: int
) -> Float[Tensor, "b n"]:
    """Return soft labels over a memory of unit vectors: half itself, half its nearest others.

    The weights 1 and 1/k of Zhong et al. ("ECN", CVPR 2019), scaled to a sum of one. A crop
    that has no others is all of its label.
    """
    with torch.autocast(memory.device.type, enabled=False):
        similarities = memory[indices] @ memory.T
    itself = F.one_hot(indices, len(memory)).to(memory.dtype)
    others = min(neighbours, len(memory) - 1)
    if not others:
        return itself
    nearest = similarities.masked_fill(itself.bool(), -torch.inf).topk(others).indices
    return (itself / 2).scatter(1, nearest, 1 / (2 * others))
