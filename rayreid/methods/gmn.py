"""GMN: a metric network on sample pairs, perturbed by dropout, centred by pair-identity.

Paper: Qi, Lu, Shi, Geng, "Generalizable Metric Network for Cross-domain Person
Re-identification", IEEE TCSVT 2024 (arXiv 2306.11991). Pair features shift less between
domains than features of single images do. So a network (M-Net) learns on pair features
whether two crops show one person, and ranks at test time too; dropout on the pairs (DP)
makes them more diverse, and the pair-identity-centre loss (PIC) makes the pairs of one
pair-identity agree.

| equation                                         | here                         |
|--------------------------------------------------|------------------------------|
| s(p, q) = (f_p - f_q) * (f_p - f_q)              | `squared_difference`         |
| z = M-Net(s)                                     | `MetricNetwork`              |
| DP, after a warm-up                              | `GMN._pair_features`         |
| L_gmn, balanced over positive and negative pairs | `pair_loss`                  |
| c_ij = mean s over the pairs of identities i, j  | `pair_centres`               |
| L_pic = mean |s - c|^2 / d                       | `pair_centre_loss`           |
| L = L_cls + L_tri + L_gmn + lambda L_pic         | `GMN.forward`                |

The paper's text gives the pair feature, the sum of the losses and that DP starts after a
warm-up. Everything else (site and rate of DP, width and depth of M-Net, mining, lambda) is
a setting below. The recipe is that of M3L, whose protocol the paper shares: Adam 3.5e-4, warm-up
over a sixth of 60 epochs of 200 steps, a tenth of the rate after each third; the strengths of the
colour variation are ours.

`rayreid benchmark methods` (four folds, three seeds): unseen mAP .345, +.035 (+- .014) over the
baseline, and +.038 (+- .016) over the cosine of the same features.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor

from rayreid.batch import Batch, Census, Unlabelled
from rayreid.explanation import Explanation
from rayreid.matching.metric_network import MetricNetwork, squared_difference
from rayreid.method import Method
from rayreid.nn.contributions import difference_explanation
from rayreid.nn.losses import batch_hard_triplet_loss, identity_loss
from rayreid.nn.neck import Neck, classifier
from rayreid.nn.trunk import Trunk, TrunkSettings
from rayreid.settings import Settings

Pairs = tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]
"""First and second crop of each pair, as indices into a batch."""


class GMNConfig(Settings):
    """Hyper-parameters of GMN; defaults are choices where the paper's text leaves them open."""

    identity_weight: float = Field(1.0, gt=0)
    """Weight of the identity loss L_cls."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the identity loss."""
    triplet_weight: float = Field(1.0, gt=0)
    """Weight of the triplet loss L_tri."""
    margin: float = Field(0.3, ge=0)
    """Margin of the triplet loss; 0 = soft margin."""
    pair_weight: float = Field(1.0, gt=0)
    """Weight of the pair loss L_gmn."""
    pair_centre_weight: float = Field(0.1, ge=0)
    """lambda, the weight of L_pic divided by the number of channels; a large one shrinks f."""
    pair_centre_pairs: Literal["positive", "negative", "both"] = "both"
    """Which pair-identities L_pic counts; ``both`` averages the two kinds, each by itself."""
    dropout_rate: float = Field(0.5, ge=0, lt=1)
    """Share of channels that DP drops."""
    dropout_site: Literal["pair", "instance_shared", "instance_independent", "trunk"] = "pair"
    """Where DP drops: on each pair feature; on all f of a batch by one mask, so that both
    crops of every pair lose the same channels; on each f by a mask of its own; on the trunk's
    map. Only M-Net sees what was dropped."""
    dropout_warmup_epochs: int = Field(5, ge=0)
    """Epochs before DP starts."""
    negative_ratio: int = Field(3, ge=0)
    """Hardest negative pairs a positive pair in L_gmn; 0 = all negatives, which dominate it."""
    cross_domain_negatives: bool = False
    """Whether crops of two domains make negatives; they teach to tell domains, not people."""
    hidden: int = Field(512, ge=1)
    """Width of M-Net's hidden layers."""
    depth: int = Field(1, ge=0, le=2)
    """Number of M-Net's hidden layers; 0 = a weighted Euclidean distance."""
    feature_norm: Literal["none", "l2"] = "none"
    """``l2`` puts every f on the sphere of radius sqrt(d), where L_pic cannot shrink it."""


class GMN(Method):
    """Trunk, BNNeck, classifier, and M-Net, whose logits are the scores."""

    Config: ClassVar[type[Settings]] = GMNConfig
    symmetric: ClassVar[bool] = True
    recipe: ClassVar[Mapping[str, object]] = {
        "trunk.name": "resnet50",
        "trunk.weights": "timm",
        "optimiser.name": "adam",
        "optimiser.lr": 3.5e-4,
        "optimiser.weight_decay": 5e-4,
        "optimiser.schedule": "steps",
        "optimiser.warmup": 1 / 6,
        "views.brightness": 0.2,
        "views.contrast": 0.15,
        "epochs": 60,
        "steps_per_epoch": 200,
    }

    def __init__(
        self, config: GMNConfig, trunk: TrunkSettings, census: Census, size: tuple[int, int]
    ):
        super().__init__(config, trunk, census, size)
        self.config = config
        self.trunk = Trunk(trunk)
        self.neck = Neck(self.trunk.channels)
        self.classifier = classifier(self.trunk.channels, census.total)
        self.metric = MetricNetwork(self.trunk.channels, config.hidden, config.depth)
        self.perturbing = False

    def start_epoch(self, epoch: int, target: Unlabelled | None = None) -> None:  # noqa: ARG002
        """Switch DP on when its warm-up is over."""
        self.perturbing = self.config.dropout_rate > 0 and (
            epoch >= self.config.dropout_warmup_epochs
        )

    def embed(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b d"]:
        """Return f, the normalised feature of each image."""
        _, normalised = self.neck(self.trunk(images))
        return self._scaled(normalised)

    def score(
        self, queries: Float[Tensor, "q d"], gallery: Float[Tensor, "g d"]
    ) -> Float[Tensor, "q g"]:
        """Return M-Net's logits; symmetric, and one constant for every crop with itself."""
        return self.metric.score(queries, gallery)

    def rough(self, embeddings: Float[Tensor, "n d"], *, queries: bool) -> Float[Tensor, "n d+2"]:
        """Return vectors whose products are M-Net's tangent at a near pair."""
        return self.metric.linear_vectors(embeddings, queries=queries)

    def explain(self, pair: Float[Tensor, "2 3 height width"]) -> Explanation:
        """Return the shares of places in M-Net's logit, which is linear around a pair."""
        maps = self.neck.by_place(self.trunk(pair)).float()
        f = self._scaled(maps.mean((2, 3)))
        if self.config.feature_norm == "l2":
            maps = maps * (f.norm(dim=1) / maps.mean((2, 3)).norm(dim=1))[:, None, None, None]
        slope, shift = self.metric.tangent(squared_difference(f[0], f[1]))
        return difference_explanation(maps, slope[0], float(shift))

    def pair_bytes(self, embedding: tuple[int, ...]) -> int:  # noqa: ARG002
        """Return the bytes of a score and of what it is summed from."""
        return 16

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the losses L_cls, L_tri, L_gmn and L_pic, the last if it has a weight."""
        config = self.config
        features = self.trunk(batch.images)
        pooled, normalised = self.neck(features)
        f = self._scaled(normalised).float()
        pairs = self._pairs(batch)
        a, b = pairs
        positive = batch.identities[a] == batch.identities[b]
        chosen = self._mined(f, pairs, positive)
        with torch.autocast(f.device.type, enabled=False):
            logits = self.metric(self._pair_features(f, features, (a[chosen], b[chosen])))
        losses = {
            "identity": config.identity_weight
            * identity_loss(self.classifier(normalised), batch.identities, config.smoothing),
            "triplet": config.triplet_weight
            * batch_hard_triplet_loss(pooled, batch.identities, config.margin),
            "pair": config.pair_weight * pair_loss(logits, positive[chosen]),
        }
        if config.pair_centre_weight:
            # On undropped features: a dropped pair lies far from its centre because of the
            # mask, and the loss could only shrink f.
            within = batch.domains[a] == batch.domains[b]
            losses["pair_centre"] = config.pair_centre_weight * pair_centre_loss(
                f, batch.identities, (a[within], b[within]), config.pair_centre_pairs
            )
        return losses

    def _scaled(self, f: Tensor) -> Tensor:
        if self.config.feature_norm == "l2":
            f = F.normalize(f.float(), dim=1) * f.shape[1] ** 0.5
        return f

    def _pairs(self, batch: Batch) -> Pairs:
        """Return all unordered pairs of distinct crops, of one domain unless set otherwise."""
        a, b = torch.triu_indices(
            len(batch.domains), len(batch.domains), 1, device=batch.domains.device
        )
        if self.config.cross_domain_negatives:
            return a, b
        within = batch.domains[a] == batch.domains[b]
        return a[within], b[within]

    @torch.no_grad()
    def _mined(
        self, f: Tensor, pairs: Pairs, positive: Bool[Tensor, " n"]
    ) -> Int64[Tensor, " chosen"]:
        """Return the indices of all positive pairs and of the hardest negative ones.

        Hardness is judged with frozen statistics, so that those of M-Net's normalisations
        come from the pairs of the loss alone.
        """
        positives, negatives = positive.nonzero()[:, 0], (~positive).nonzero()[:, 0]
        wanted = self.config.negative_ratio * len(positives)
        if 0 < wanted < len(negatives):
            a, b = pairs[0][negatives], pairs[1][negatives]
            with torch.autocast(f.device.type, enabled=False):
                logits = self.metric.frozen(differences(f, (a, b)))
            negatives = negatives[logits.topk(wanted).indices]
        return torch.cat([positives, negatives])

    def _pair_features(self, f: Tensor, features: Tensor, pairs: Pairs) -> Float[Tensor, "n d"]:
        """Return the pair features that M-Net learns from, perturbed by DP when it is on.

        Masks are scaled to keep the mean of what they drop from (s at sites ``pair`` and
        ``instance_shared``, f or the map at the others), so that M-Net's frozen statistics
        fit undropped pairs at test time.
        """
        a, b = pairs
        rate, site = self.config.dropout_rate, self.config.dropout_site
        if not (self.training and self.perturbing):
            return differences(f, (a, b))
        if site == "pair":
            return F.dropout(differences(f, (a, b)), rate)
        if site == "instance_shared":
            # A crop is in pairs with all others: one mask for "both crops" of every pair
            # is one mask for the batch.
            return differences(f, (a, b)) * F.dropout(torch.ones_like(f[0]), rate)
        if site == "trunk":
            f = self._scaled(self.neck.by_batch(F.dropout(features.float(), rate)))
            return differences(f, (a, b))
        f = F.dropout(f, rate)
        return differences(f, (a, b))


def differences(f: Float[Tensor, "b d"], pairs: Pairs) -> Float[Tensor, "n d"]:
    """Return s of each pair."""
    # Not f[a], whose gradient is added up one row after another.
    return squared_difference(*(f.index_select(0, crops) for crops in pairs))


def pair_loss(logits: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return L_gmn: cross entropy averaged over positive and over negative pairs, then halved.

    A kind without pairs contributes nothing.
    """
    kinds = (F.softplus(-logits[positive]), F.softplus(logits[~positive]))
    return sum((kind.mean() for kind in kinds if len(kind)), logits.sum() * 0) / 2


def pair_centres(
    f: Float[Tensor, "b d"], identities: Int64[Tensor, " b"], pairs: Pairs
) -> Float[Tensor, "n d"]:
    """Return the centre of each pair's pair-identity: the mean of s over the batch's pairs of it.

    From the moments m1, m2 (means of f and f^2 of an identity) at a cost of O(identities x d):
    c_ij = m2_i + m2_j - 2 m1_i m1_j, and over the distinct pairs of one identity with n crops
    c_ii = 2 n/(n-1) (m2_i - m1_i^2).
    """
    people, member = torch.unique(identities, return_inverse=True)
    count = torch.zeros(len(people), 1, dtype=f.dtype, device=f.device)
    count.index_add_(0, member, torch.ones_like(f[:, :1]))
    zeros = torch.zeros(len(people), f.shape[1], dtype=f.dtype, device=f.device)
    m1 = zeros.index_add(0, member, f) / count
    # Central second moments: m2 - m1^2 would cancel for tight identities.
    spread = zeros.index_add(0, member, (f - m1[member]).square())
    variance, distinct = spread / count, 2 * spread / (count - 1).clamp(min=1)
    i, j = member[pairs[0]], member[pairs[1]]
    # Of the few pairs of identities, then looked up: there are many more pairs of crops.
    apart = variance[:, None] + variance + (m1[:, None] - m1).square()
    same = torch.eye(len(people), dtype=torch.bool, device=f.device)[..., None]
    centres = torch.where(same, distinct[:, None], apart).flatten(0, 1)
    return centres.index_select(0, i * len(people) + j)


def pair_centre_loss(
    f: Float[Tensor, "b d"],
    identities: Int64[Tensor, " b"],
    pairs: Pairs,
    kinds: Literal["positive", "negative", "both"],
) -> Float[Tensor, ""]:
    """Return L_pic: the mean squared distance of pair features to their centres, over d.

    ``pairs`` are all distinct pairs of some identities, so that batch centres are their means.
    """
    distances = differences(f, pairs) - pair_centres(f, identities, pairs)
    distances = distances.square().mean(1)
    positive = identities[pairs[0]] == identities[pairs[1]]
    counted = {
        "positive": [distances[positive]],
        "negative": [distances[~positive]],
        "both": [distances[positive], distances[~positive]],
    }[kinds]
    means = [kind.mean() for kind in counted if len(kind)]
    return torch.stack(means).mean() if means else f.sum() * 0
