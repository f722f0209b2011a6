"""What a source and a target domain share: three domain similarity losses, and a probe.

Each domain counts one half, however many crops it has. Domain 0 is the source, 1 the target.
The losses see features at unit length: none is lowered by shrinking them.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rayreid.nn.losses import squared_distances

Domains = tuple[Float[Tensor, "s d"], Float[Tensor, "t d"]]
"""Features of a batch of the source, and of one of the target."""


def one_class_loss(
    source: Float[Tensor, "s p"], target: Float[Tensor, "t p"], centre: Float[Tensor, " p"]
) -> Float[Tensor, ""]:
    """Return half the sum of the domains' mean squared distances to ``centre`` (Deep SVDD)."""
    return _balanced(*((x - centre).square().sum(1) for x in (source, target)))


def away_from_zero(centre: Float[Tensor, " p"], least: float = 0.1) -> Float[Tensor, " p"]:
    """Return ``centre`` with each entry at least ``least`` in size, its sign kept (+ for 0).

    A bias-free projection reaches a centre near zero by shrinking its weights to nothing.
    """
    return torch.where(centre < 0, centre.clamp(max=-least), centre.clamp(min=least))


def logistic_one_class_loss(
    shared: tuple[Float[Tensor, " s"], Float[Tensor, " t"]],
    specific: tuple[Float[Tensor, " s"], Float[Tensor, " t"]],
) -> Float[Tensor, ""]:
    """Return ``-E log D(shared) - E log(1 - D(specific))`` of logits of D, source and target."""
    positives = _balanced(*(F.softplus(-logits) for logits in shared))
    return positives + _balanced(*(F.softplus(logits) for logits in specific))


def domain_loss(source: Float[Tensor, "s 2"], target: Float[Tensor, "t 2"]) -> Float[Tensor, ""]:
    """Return the cross entropy of logits that tell source from target."""
    return _balanced(
        *(logits.logsumexp(1) - logits[:, k] for k, logits in enumerate((source, target)))
    )


def domain_accuracy(
    source: Float[Tensor, "s 2"], target: Float[Tensor, "t 2"]
) -> Float[Tensor, ""]:
    """Return how often logits that tell source from target are right."""
    return _balanced(
        *((logits.argmax(1) == k).float() for k, logits in enumerate((source, target)))
    )


def domain_probe(
    source: Float[Tensor, "s d"], target: Float[Tensor, "t d"], identities: Int64[Tensor, " s"]
) -> Float[Tensor, ""]:
    """Return how often the nearer domain mean is the right one; about 1/2 where domains agree.

    The means are of every second identity of the source and every second crop of the target,
    the others are tried: a mean that holds a crop's own person would tell persons, not domains.
    """
    person = torch.unique(identities, return_inverse=True)[1]
    kinds = (person % 2 == 0, torch.arange(len(target), device=target.device) % 2 == 0)
    means = torch.stack([x[half].mean(0) for x, half in zip((source, target), kinds, strict=True)])
    nearness = (
        -squared_distances(x[~half], means) for x, half in zip((source, target), kinds, strict=True)
    )
    return domain_accuracy(*nearness)


def reversed_gradient(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Return ``x``, whose gradient passes with its sign flipped (Ganin et al., "DANN", 2016)."""
    return 2 * x.detach() - x


class OneClass(nn.Module):
    """The one-class loss of a projection phi and a centre c: the mean of phi in the first batch.

    Phi has no bias, with which it could be c whatever the features are. Later, c keeps ``decay``
    of itself a step. Its buffer is zero until the first step, and no entry of it is afterwards.
    """

    def __init__(self, channels: int, projection: int, decay: float):
        super().__init__()
        self.projection = nn.Linear(channels, projection, bias=False)
        self.decay = decay
        self.register_buffer("centre", torch.zeros(projection))

    def forward(self, shared: Domains, specific: Domains) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return L_ds of the shared features."""
        source, target = (self.projection(F.normalize(f)) for f in shared)
        with torch.no_grad():
            kept = self.get_buffer("centre")
            mean = (source.mean(0) + target.mean(0)) / 2
            centre = torch.where(kept == 0, away_from_zero(mean), kept)
            if self.training:
                # Of several workers, the first's is everyone's: DDP hands out its buffers.
                kept.copy_(away_from_zero(centre.lerp(mean, 1 - self.decay)))
        return one_class_loss(source, target, centre)


class LogisticOneClass(nn.Module):
    """A scorer D: shared features of both domains are of its class, specific ones are not."""

    def __init__(self, channels: int):
        super().__init__()
        self.scorer = nn.Linear(channels, 1)

    def forward(self, shared: Domains, specific: Domains) -> Float[Tensor, ""]:
        """Return L_ds of the shared features, with the specific ones as counter-examples."""
        positive, negative = (
            tuple(self.scorer(F.normalize(f))[:, 0] for f in kind) for kind in (shared, specific)
        )
        return logistic_one_class_loss(positive, negative)


class Adversary(nn.Module):
    """A domain classifier that learns to tell shared features, and teaches them the reverse."""

    def __init__(self, channels: int):
        super().__init__()
        self.classifier = nn.Linear(channels, 2)

    def forward(self, shared: Domains, specific: Domains) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return the classifier's loss."""
        return domain_loss(*(self.classifier(reversed_gradient(F.normalize(f))) for f in shared))


def domain_similarity(
    kind: Literal["svdd", "logistic", "reversal"], channels: int, projection: int, decay: float
) -> nn.Module:
    """Return the domain similarity loss of a kind, a module of shared and of specific features."""
    if kind == "svdd":
        return OneClass(channels, projection, decay)
    return LogisticOneClass(channels) if kind == "logistic" else Adversary(channels)


def _balanced(source: Tensor, target: Tensor) -> Tensor:
    return (source.mean() + target.mean()) / 2
