"""M-Net: a learned metric on squared differences of embeddings (GMN)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rayreid.matching.folding import affine_of


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
        """Return the logits of all pairs, in fp32, with the frozen statistics of training."""
        with torch.autocast(queries.device.type, enabled=False):
            if not len(self.hidden):
                return _linear_scores(queries.float(), gallery.float(), *self._folded()[0])
            pairs = squared_difference(queries[:, None], gallery[None]).flatten(0, 1)
            return self.frozen(pairs).view(len(queries), len(gallery))

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

    The expanded square cancels where q is near g; norms and their sum in float64 leave the
    product's own rounding as the only error.
    """
    w = weight[0]
    q_norms = (queries.double().square() * w.double()).sum(1)
    g_norms = (gallery.double().square() * w.double()).sum(1)
    cross = (queries * w) @ gallery.T
    return (q_norms[:, None] + g_norms[None] - 2 * cross.double() + bias.double()).float()
