"""Query-adaptive matching: what is made of the best matches of two maps' positions.

Papers: Liao and Shao, "Interpretable and Generalizable Person Re-identification with
Query-Adaptive Convolution and Temporal Lifting", ECCV 2020 (QAConv); the same, "Graph Sampling
Based Deep Metric Learning", CVPR 2022 (one layer for both directions, hence symmetric).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rayreid.matching.folding import affine_of
from rayreid.matching.fused_maxima import weighted_maxima
from rayreid.matching.maxima import correlation_maxima, on_kernels
from rayreid.matching.products import half_type


class MatchHead(nn.Module):
    """From the maxima of a pair, in both directions, to a score: BN(1), layers, sum, BN(1).

    ``hidden`` 0 is QAConv's one linear layer, which starts as the mean over positions; above 0,
    that many units with normalisation and ReLU before the score (TransMatcher, QAConv-MS). Both
    directions go through the same layers, so the score is symmetric.
    """

    def __init__(self, positions: int, hidden: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        # The normalisation that follows each layer would cancel a shift.
        self.hidden = nn.Linear(positions, hidden, bias=False) if hidden else None
        self.hidden_norm = nn.BatchNorm1d(hidden) if hidden else None
        self.logit = nn.Linear(hidden or positions, 1, bias=False)
        self.score_norm = nn.BatchNorm1d(1)
        if self.hidden is None:
            nn.init.constant_(self.logit.weight, 1 / positions)
        else:
            nn.init.xavier_uniform_(self.hidden.weight)
            nn.init.xavier_uniform_(self.logit.weight)

    def forward(
        self, forth: Float[Tensor, "q g n"], back: Float[Tensor, "q g n"]
    ) -> Float[Tensor, "q g"]:
        """Return the scores of all pairs from their maxima, with the normalisations as they are."""
        q, g, n = forth.shape
        logits = self._logits(torch.stack([forth, back], 2).reshape(-1, n))
        scores: Tensor = self.score_norm(logits.view(-1, 2).sum(1, keepdim=True))
        return scores.view(q, g)

    def with_itself(self, forth: Float[Tensor, "b b n"]) -> Float[Tensor, "b b"]:
        """Return ``forward`` of a set of maps with itself, at half its work.

        The maxima of (p, g) in one direction are those of (g, p) in the other: of the rows that
        ``forward`` sees each would come twice, which changes no mean and no variance. (Running
        variances differ by one part in the number of rows, where torch removes their bias.)
        """
        b, _, n = forth.shape
        logits = self._logits(forth.reshape(-1, n)).view(b, b)
        scores: Tensor = self.score_norm((logits + logits.T).reshape(-1, 1))
        return scores.view(b, b)

    def _logits(self, maxima: Float[Tensor, "r n"]) -> Float[Tensor, "r 1"]:
        """Return what the layers before the sum over both directions make of rows of maxima."""
        x = self.norm(maxima.to(self.logit.weight.dtype)[:, None]).squeeze(1)
        if self.hidden is not None and self.hidden_norm is not None:
            x = F.relu(self.hidden_norm(self.hidden(x)))
        logits: Tensor = self.logit(x)
        return logits

    def match(
        self, queries: Float[Tensor, "q c n"], gallery: Float[Tensor, "g c n"]
    ) -> Float[Tensor, "q g"]:
        """Return the scores of all pairs of maps, with frozen statistics, in fp32.

        Under autocast the maps are rounded to its half precision. On a GPU, without a hidden layer,
        maxima are summed where they are found.
        """
        if self.hidden is None and on_kernels(queries):
            kind = half_type(queries.device) or torch.float32
            weights, constant = self._weights()
            summed = weighted_maxima(queries.to(kind), gallery.to(kind), weights)
            return summed + constant
        maxima = correlation_maxima(queries, gallery)
        with torch.autocast(queries.device.type, enabled=False):
            return self.frozen(*maxima)

    def frozen(
        self, forth: Float[Tensor, "q g n"], back: Float[Tensor, "q g n"]
    ) -> Float[Tensor, "q g"]:
        """Return what ``forward`` returns in eval mode, in fp32, normalisations folded.

        Without a hidden layer all of it is one affine map of the summed maxima:
        ``alpha sum_s w_s (a_s + b_s) + beta``.
        """
        if self.hidden is None or self.hidden_norm is None:
            weights, constant = self._weights()
            return (forth.float() + back.float()) @ weights + constant
        norm_scale, norm_shift = affine_of(self.norm)
        scale, shift = affine_of(self.score_norm)
        logit = scale * self.logit.weight[0]
        hidden_scale, hidden_shift = affine_of(self.hidden_norm)
        weight = norm_scale * hidden_scale[:, None] * self.hidden.weight
        bias = hidden_scale * norm_shift * self.hidden.weight.sum(1) + hidden_shift
        one, other = (F.relu(F.linear(x.float(), weight, bias)) @ logit for x in (forth, back))
        return one + other + shift

    def tangent(self, maxima: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Tensor, Tensor]:
        """Return slopes and shift of one direction's part of the score, around some maxima, and m.

        The part is ``slopes . (maxima - m) + shift``, m being the mean maximum of training; the two
        directions' parts sum to the score of `frozen`.
        """
        scale, shift = affine_of(self.score_norm)
        mean = self.norm.running_mean
        assert mean is not None
        if self.hidden is None or self.hidden_norm is None:
            weights, constant = self._weights()
            return weights, constant / 2 + weights.sum() * mean, mean
        norm_scale, norm_shift = affine_of(self.norm)
        hidden_scale, hidden_shift = affine_of(self.hidden_norm)
        weight = norm_scale * hidden_scale[:, None] * self.hidden.weight
        bias = hidden_scale * norm_shift * self.hidden.weight.sum(1) + hidden_shift
        units = weight @ maxima + bias
        logit = scale * self.logit.weight[0]
        slopes = (logit * (units > 0)) @ weight
        value = logit @ units.relu() + shift / 2
        return slopes, value - slopes @ (maxima - mean), mean

    def _weights(self) -> tuple[Float[Tensor, " n"], Float[Tensor, ""]]:
        """Return the weight of each position's maxima, and the constant, without a hidden layer."""
        norm_scale, norm_shift = affine_of(self.norm)
        scale, shift = affine_of(self.score_norm)
        # A shift of all positions alike passes through a layer as the sum of its weights.
        logit = scale * self.logit.weight[0]
        return norm_scale * logit, (2 * norm_shift * logit.sum() + shift).squeeze()
