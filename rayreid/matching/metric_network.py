"""M-Net: a learned metric on squared differences of embeddings (GMN)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rayreid.matching.folding import affine_of
from rayreid.matching.products import half_type, product

TILE_BYTES = 1 << 22
"""Squared differences made at a time and thread."""
NEAR = 0.25
"""Share of the mean pair feature at which `linear_vectors` are of the network's tangent."""
DEVICE_TILE_BYTES = 1 << 28
"""Squared differences made at a time on a GPU."""


def squared_difference(a: Float[Tensor, "*n d"], b: Float[Tensor, "*m d"]) -> Float[Tensor, "..."]:
    """Return the pair feature ``s = (a - b) * (a - b)``, in fp32, broadcasting ``a`` and ``b``.

    In half precision the difference of near-equal embeddings would cancel to noise.
    """
    return (a.float() - b.float()).square()


class MetricNetwork(nn.Module):
    """BN, then ``depth`` times (Linear, BN, ReLU), then Linear to one logit; ``depth`` 0 is linear.

    The first normalisation is there because squared differences are never negative, are
    heavy-tailed, and change their scale while the embedding is learnt.
    """

    def __init__(self, channels: int, hidden: int, depth: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        layers: list[nn.Module] = []
        width = channels
        for _ in range(depth):
            # The normalisation that follows would cancel a shift.
            layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
            width = hidden
        self.hidden = nn.Sequential(*layers)
        self.logit = nn.Linear(width, 1)

    def forward(self, pairs: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return a logit for each pair feature: above 0 means the same identity."""
        logits: Tensor = self.logit(self.hidden(self.norm(pairs)))
        return logits.squeeze(1)

    def frozen(self, pairs: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return what ``forward`` returns in eval mode, whatever the mode, in fp32.

        The normalisations are folded into their linear layers.
        """
        layers = self._folded()
        for weight, bias in layers[:-1]:
            pairs = F.relu(F.linear(pairs, weight, bias))
        return F.linear(pairs, *layers[-1]).squeeze(1)

    def score(
        self, queries: Float[Tensor, "q d"], gallery: Float[Tensor, "g d"]
    ) -> Float[Tensor, "q g"]:
        """Return the logits of all pairs, in fp32, with the frozen statistics of training.

        Under autocast the squared differences, formed in fp32, are rounded to its half precision
        for the products of hidden layers; without hidden layers everything stays fp32.
        """
        half = half_type(queries.device)
        with torch.autocast(queries.device.type, enabled=False):
            queries, gallery = queries.float(), gallery.float()
            folded = self._folded()
            if not len(self.hidden):
                return _linear_scores(queries, gallery, *folded[0])
            return _hidden_scores(queries, gallery, folded, half or torch.float32)

    def linear_vectors(
        self, embeddings: Float[Tensor, "n d"], *, queries: bool
    ) -> Float[Tensor, "n d+2"]:
        """Return fp32 vectors whose products are the logits of the tangent at a near pair.

        That is at `NEAR` of the mean pair of training, which the first normalisation knows: at the
        mean itself the order of the nearest pairs is lost. Without hidden layers these are the
        logits. ``sum_k w_k (q_k - g_k)^2 + b`` is the product of ``(-2 w q, |q|^2 + b, 1)`` and
        ``(g, 1, |g|^2)``, norms weighted by ``w``: to within the rounding of a sum of d products
        as large as the norms, as `_linear_scores`.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            mean = self.norm.running_mean
            assert mean is not None
            (w,), shift = self.tangent(NEAR * mean)
            x = embeddings.float()
            norms = _weighted_norms(x, w)
            one = torch.ones(len(x), 1, device=x.device)
            if queries:
                return torch.cat([x * (-2 * w), (norms + shift.double()).float()[:, None], one], 1)
            return torch.cat([x, one, norms.float()[:, None]], 1)

    def tangent(self, at: Float[Tensor, " d"]) -> tuple[Float[Tensor, "1 d"], Float[Tensor, " 1"]]:
        """Return slope and shift of the network around a pair feature, where it is linear."""
        folded = self._folded()
        x, steps = at, []
        for weight, bias in folded[:-1]:
            x = weight @ x + bias
            steps.append(weight * (x > 0)[:, None])
            x = x.relu()
        (slope, bias) = folded[-1]
        value = slope @ x + bias
        for weight in reversed(steps):
            slope = slope @ weight
        return slope, value - slope @ at

    def _folded(self) -> list[tuple[Tensor, Tensor]]:
        """Return each linear layer's weight and bias with the normalisations inside them."""
        scale, shift = affine_of(self.norm)
        folded = []
        modules = list(self.hidden)
        for linear, norm in zip(modules[0::3], modules[1::3], strict=True):
            assert isinstance(linear, nn.Linear)
            assert isinstance(norm, nn.BatchNorm1d)
            after_scale, after_shift = affine_of(norm)
            weight = after_scale[:, None] * linear.weight
            folded.append((weight * scale, weight @ shift + after_shift))
            scale, shift = torch.ones_like(after_scale), torch.zeros_like(after_shift)
        weight, bias = self.logit.weight, self.logit.bias
        folded.append((weight * scale, weight @ shift + bias))
        return folded


def _linear_scores(queries: Tensor, gallery: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``sum_k w_k (q_k - g_k)^2 + bias`` of all pairs by one matrix product.

    The expanded square cancels where q is near g: norms are summed in float64, so that the
    product's own rounding is all that is left.
    """
    w = weight[0]
    scores = product(queries * (-2 * w), gallery)
    scores += (_weighted_norms(queries, w) + bias.double()).float()[:, None]
    scores += _weighted_norms(gallery, w).float()
    return scores


def _weighted_norms(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``sum_k w_k x_k^2`` of each row, in float64, by blocks that a cache holds."""
    rows = max(1, TILE_BYTES // (4 * x.shape[1]))
    parts = [block.square().mul_(weight).sum(1, dtype=torch.float64) for block in x.split(rows)]
    return torch.cat(parts)


def _hidden_scores(
    queries: Tensor, gallery: Tensor, folded: list[tuple[Tensor, Tensor]], kind: torch.dtype
) -> Tensor:
    """Return the logits of all pairs by tiles of squared differences that a cache holds.

    The expanded square would take as many multiplications, in a half precision that cancels.
    """
    layers = [(weight.to(kind), bias) for weight, bias in folded[:-1]]
    (logit,), shift = folded[-1]
    scores = torch.empty(len(queries), len(gallery), device=queries.device)
    device = queries.device.type != "cpu"
    tile = DEVICE_TILE_BYTES if device else TILE_BYTES * torch.get_num_threads()
    pairs = max(1, tile // (4 * queries.shape[1]))
    columns = max(1, min(len(gallery), pairs))
    rows = max(1, pairs // columns)
    for top in range(0, len(queries), rows):
        for left in range(0, len(gallery), columns):
            few, block = queries[top : top + rows], gallery[left : left + columns]
            x = (few[:, None] - block[None]).square_().flatten(0, 1)
            for weight, bias in layers:
                x = product(x.to(kind), weight).float().add_(bias).relu_()
            scores[top : top + rows, left : left + columns] = (x @ logit).view(len(few), -1)
    return scores.add_(shift)
