"""DAAM: attention splits a map into what domains share and what they do not, to adapt to a target.

Paper: Huang, Peng, Jin, Xing, Lang, Feng, "Domain Adaptive Attention Model for Unsupervised
Cross-Domain Person Re-Identification" (arXiv 1905.10529v1), and v2 (AAAI 2020) where that is more
concrete. An attention splits the trunk's map into a domain-shared map (DSH), which is ranked, and
its complement, the domain-specific map (DSP), which a branch of its own teaches to tell the
domains, so that less transfers negatively. A one-class loss gathers the DSH features of labelled
source and unlabelled target in one new, nominal domain. Pseudo labels of the target's crops teach
DSH to tell its people.

| equation                                               | here                               |
|--------------------------------------------------------|------------------------------------|
| A(F)                                                   | `SplitAttention`                   |
| F_sh = A(F) * F, F_sp = (1 - A(F)) * F = F - F_sh      | `DAAM._features`                   |
| L_ds = 1/(2B) (sum_s + sum_t) |phi(f_sh) - c|^2        | `one_class_loss`                   |
| L_ds = -E log D(f_sh) - E log(1 - D(f_sp))             | `logistic_one_class_loss`          |
| L_dom, cross entropy of source against target          | `domain_loss`                      |
| y = (1 - eps) onehot + eps softmax(-dist(f, c) / T)    | `soft_labels`                      |
| L_u, cross entropy against y, outliers left out        | `soft_cross_entropy`               |
| L_u of v1's kind, over nearest neighbours              | `neighbour_labels`                 |
| L = L_id + L_tri + l_ds L_ds + l_sp L_dom + l_u L_u    | `DAAM.forward`                     |

v1's abstract gives the two branches and what each loss is for, v2's the split and soft labels by
clustering. The rest is a choice. A is the product of a gate of channels and one of places. L_ds
sees DSH at unit length, so that shrinking it does not help; c comes from the first batch. The DSP
branch has one normalisation for both domains: one for each would hide what it is to tell. Clusters'
centres classify, since a learnt layer would begin anew whenever their number changes. DBSCAN's
usual radius of 0.6 is meant for distances by shared neighbours. A batch's target crops are random.

`rayreid benchmark methods` (four folds, three seeds): .566 mAP, +.046 (+- .039) over AdaBN.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rayreid.batch import Batch, Census, Unlabelled
from rayreid.explanation import Explanation
from rayreid.method import Method
from rayreid.nn.adaptation import domain_accuracy, domain_loss, domain_probe, domain_similarity
from rayreid.nn.attention import SplitAttention
from rayreid.nn.clustering import centred_by_camera, dbscan, density_clusters, kmeans
from rayreid.nn.contributions import cosine_explanation
from rayreid.nn.domain_norm import separate_domains, source_statistics
from rayreid.nn.losses import batch_hard_triplet_loss, identity_loss
from rayreid.nn.neck import Neck, classifier
from rayreid.nn.pseudo_labels import Clusters, Neighbours, PseudoLabels
from rayreid.nn.reciprocal import jaccard_distances
from rayreid.nn.trunk import Trunk, TrunkSettings
from rayreid.settings import Settings


class DAAMConfig(Settings):
    """Hyper-parameters of DAAM; defaults are choices where the paper's text leaves them open."""

    identity_weight: float = Field(1.0, gt=0)
    """Weight of the identity loss of the source's DSH embeddings."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the identity loss."""
    triplet_weight: float = Field(1.0, gt=0)
    """Weight of the triplet loss of the source's pooled DSH features."""
    margin: float = Field(0.3, ge=0)
    """Margin of the triplet loss; 0 = soft margin."""
    attention: Literal["channel", "spatial", "both"] = "both"
    """Which gates make A."""
    reduction: int = Field(16, ge=1)
    """How many times narrower the channel gate is inside."""
    initial_share: float = Field(0.9, gt=0, lt=1)
    """A at first: from 1/2 on, a gate is the quickest way to shrink the features that the triplet
    loss is of, and it collapsed in trials."""
    domain_weight: float = Field(0.1, ge=0)
    """l_ds, the weight of the domain similarity loss L_ds."""
    domain_loss: Literal["svdd", "logistic", "reversal"] = "svdd"
    """L_ds: distances to a centre; a scorer with DSP as counter-examples; or, as a control, a
    domain classifier whose gradient is reversed."""
    projection: int = Field(256, ge=1)
    """Channels of phi, the projection of ``svdd``."""
    centre_decay: float = Field(0.99, ge=0, le=1)
    """How much of the centre c of ``svdd`` stays after a step; 1 = it is fixed."""
    specific_weight: float = Field(0.1, ge=0)
    """l_sp, the weight of the DSP branch's domain classification."""
    target_weight: float = Field(1.0, ge=0)
    """l_u, the weight of the loss of the target's pseudo labels."""
    target_loss: Literal["clusters", "neighbours"] = "clusters"
    """What labels the target's crops: clusters, or their nearest neighbours in a memory."""
    target_from_epoch: int = Field(10, ge=0)
    """Epochs before the target's crops are labelled."""
    clustering: Literal["dbscan", "kmeans"] = "dbscan"
    """How the target's embeddings, at unit length, are clustered."""
    dbscan_distance: Literal["jaccard", "euclidean"] = "jaccard"
    """DBSCAN's distance: of shared k-reciprocal neighbours, which takes about 40 bytes a pair of
    target crops, or between the embeddings, by which clusters of people in like clothes merge."""
    centre_cameras: bool = True
    """Whether clusters are of embeddings less their camera's mean; else most are of one camera."""
    jaccard_neighbours: int = Field(20, ge=1)
    """k1 of the k-reciprocal neighbours; at most the crops of a person."""
    jaccard_expansion: int = Field(6, ge=1)
    """k2 of them: nearest neighbours over which a point's weights are averaged."""
    dbscan_radius: float = Field(0.6, gt=0)
    """Distance in which DBSCAN's points are neighbours."""
    dbscan_neighbours: int = Field(4, ge=1)
    """Neighbours, itself included, that make a core point of DBSCAN."""
    kmeans_clusters: int = Field(500, ge=1)
    """Number of clusters of ``kmeans``."""
    soften: float = Field(0.1, ge=0, lt=1)
    """eps, the share of a label that is spread over clusters by distance."""
    soften_temperature: float = Field(0.1, gt=0)
    """T of that spread."""
    temperature: float = Field(0.05, gt=0)
    """What divides the cosines to centres, or to the memory, that make logits."""
    neighbours: int = Field(6, ge=1)
    """Nearest neighbours that label a crop."""
    memory_momentum: float = Field(0.9, ge=0, le=1)
    """How much of a crop's memory stays when it is seen, within an epoch."""
    norms: Literal["specific", "separate", "shared"] = "specific"
    """Batch normalisations before the DSP branch: statistics of each domain's own; batches of one
    domain each, but joint running statistics; or, as a control, mixed batches, which leak."""
    source_only: bool = False
    """Whether attention and DSH learn from the source alone, as an ablation."""


class _Features(NamedTuple):
    """Of each crop: f_sh (pooled DSH map), that normalised, f_sp (pooled DSP map), mean of A."""

    shared: Tensor
    embedding: Tensor
    specific: Tensor
    attention: Tensor


class DAAM(Method):
    """Trunk, attention, a DSH branch that is ranked, a DSP branch; cosine scores."""

    Config: ClassVar[type[Settings]] = DAAMConfig
    adapts: ClassVar[bool] = True
    recipe: ClassVar[Mapping[str, object]] = {
        "trunk.name": "resnet50",
        "trunk.weights": "timm",
        "optimiser.name": "adam",
        "optimiser.lr": 3.5e-4,
        "optimiser.weight_decay": 5e-4,
        "sampling.identities": 16,
        "sampling.crops": 4,
        "views.erasing": 0.5,
        "epochs": 60,
    }

    def __init__(
        self, config: DAAMConfig, trunk: TrunkSettings, census: Census, size: tuple[int, int]
    ):
        super().__init__(config, trunk, census, size)
        self.config, self.trunk = config, Trunk(trunk)
        channels = self.trunk.channels
        gates = config.reduction, config.attention, config.initial_share
        self.attention = SplitAttention(channels, *gates)
        self.neck = Neck(channels)
        self.classifier = classifier(channels, census.total)
        # Only what the losses use: DDP waits for the gradient of every parameter there is.
        if not config.source_only:
            if config.norms == "specific":
                separate_domains(self)
            if config.domain_weight:
                self.similarity = domain_similarity(
                    config.domain_loss, channels, config.projection, config.centre_decay
                )
            if config.specific_weight:
                self.specific = nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, 2))
        self.labels: PseudoLabels | None = None
        self._figures: dict[str, Tensor] = {}

    def embed(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b d"]:
        """Return the normalised DSH feature of each image, by the target's statistics."""
        features = self.trunk(images)
        normalised: Tensor = self.neck(self.attention(features) * features)[1]
        return normalised.float()

    def explain(self, pair: Float[Tensor, "2 3 height width"]) -> Explanation:
        """Return the shares of places in the cosine, and the attention, its channels' mean."""
        features = self.trunk(pair)
        attention = self.attention(features)
        return cosine_explanation(self.neck.by_place(attention * features), attention.mean(1))

    def start_epoch(self, epoch: int, target: Unlabelled | None = None) -> None:
        """Label the target's crops by their embeddings, once the epochs without labels are over.

        Raises `ValueError` where labels are due and there is no target.
        """
        config = self.config
        self.labels = None
        if config.source_only or not config.target_weight or epoch < config.target_from_epoch:
            return
        if target is None:
            raise _no_target()
        embeddings = self._embedded(target)
        if config.target_loss == "neighbours":
            self.labels = Neighbours(
                embeddings, config.neighbours, config.temperature, config.memory_momentum
            )
            return
        points = embeddings
        if config.centre_cameras:
            cameras = torch.from_numpy(target.cameras).to(embeddings.device)
            points = centred_by_camera(embeddings, cameras)
        labels = self._clustered(points)
        self.labels = Clusters(
            embeddings, labels, config.soften, config.soften_temperature, config.temperature
        )

    def _clustered(self, points: Tensor) -> Tensor:
        config = self.config
        if config.clustering == "kmeans":
            return kmeans(points, config.kmeans_clusters, seed=0)
        if config.dbscan_distance == "euclidean":
            return dbscan(points, config.dbscan_radius, config.dbscan_neighbours)
        distances = jaccard_distances(points, config.jaccard_neighbours, config.jaccard_expansion)
        return density_clusters(distances <= config.dbscan_radius, config.dbscan_neighbours)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return L_id and L_tri, and those of L_ds, L_dom and L_u that have a weight.

        Raises `ValueError` for a batch without crops of a target.
        """
        config = self.config
        if config.source_only:
            source = self._features(batch.images)
            self._figures = {"attention": source.attention.mean()}
            return self._source_losses(source, batch.identities)
        if batch.target is None or batch.target_indices is None:
            raise _no_target()
        source, target = self._both(batch.images, batch.target)
        specific = source.specific, target.specific
        losses = self._source_losses(source, batch.identities)
        self._figures = self._figures_of(source, target, batch.identities)
        with torch.autocast(batch.images.device.type, enabled=False):
            if config.domain_weight:
                losses["domain"] = config.domain_weight * self.similarity(
                    (source.shared, target.shared), specific
                )
            if config.specific_weight:
                logits = self.specific(torch.cat(specific)).tensor_split([len(batch.images)])
                losses["specific"] = config.specific_weight * domain_loss(*logits)
                self._figures["specific_domain_accuracy"] = domain_accuracy(*logits)
            if config.target_weight:
                unlabelled = self._target_loss(target.embedding, batch.target_indices)
                losses["target"] = config.target_weight * unlabelled
        return losses

    def monitors(self) -> dict[str, Float[Tensor, ""]]:
        """Return the mean of A, how well DSH and DSP tell the domains, and the clusters.

        A mean near 0 or 1 is a collapse. DSH should tell about half of the domains, DSP most.
        """
        return self._figures

    def _features(self, images: Tensor) -> _Features:
        features = self.trunk(images)
        shared = (attention := self.attention(features)) * features
        pooled, normalised = self.neck(shared)
        specific = (features - shared).mean((2, 3))
        share = attention.detach().float().mean((1, 2, 3))
        return _Features(pooled.float(), normalised.float(), specific.float(), share)

    def _both(self, source: Tensor, target: Tensor) -> tuple[_Features, _Features]:
        """Return the features of both domains, by the statistics that ``norms`` says."""
        if self.config.norms == "shared":
            mixed = self._features(torch.cat([source, target]))
            size = len(source)
            return _Features(*(f[:size] for f in mixed)), _Features(*(f[size:] for f in mixed))
        # Where no norm has statistics of the source's own, this is just a pass for each domain.
        with source_statistics(self):
            of_source = self._features(source)
        return of_source, self._features(target)

    def _source_losses(self, source: _Features, identities: Tensor) -> dict[str, Tensor]:
        config = self.config
        logits = self.classifier(source.embedding)
        identity = identity_loss(logits, identities, config.smoothing) * config.identity_weight
        triplet = batch_hard_triplet_loss(source.shared, identities, config.margin)
        return {"identity": identity, "triplet": config.triplet_weight * triplet}

    def _target_loss(self, embeddings: Tensor, indices: Tensor) -> Tensor:
        """Return L_u; while there are no labels, a zero with a graph, so that names stay."""
        if self.labels is None:
            return embeddings.sum() * 0
        embeddings = F.normalize(embeddings)
        loss = self.labels.loss(embeddings, indices)
        self.labels.remember(embeddings, indices)
        return loss

    @torch.no_grad()
    def _figures_of(self, source: _Features, target: _Features, who: Tensor) -> dict[str, Tensor]:
        shared = F.normalize(source.shared), F.normalize(target.shared)
        attention = torch.stack([source.attention.mean(), target.attention.mean()]).mean()
        figures = {"attention": attention, "shared_domain_accuracy": domain_probe(*shared, who)}
        if self.config.target_weight and self.config.target_loss == "clusters":
            made = self.labels
            counts = (made.count, made.share) if isinstance(made, Clusters) else (0, 0)
            figures["clusters"], figures["clustered"] = shared[0].new_tensor(counts)
        return figures

    @torch.no_grad()
    def _embedded(self, target: Unlabelled) -> Tensor:
        """Return the embeddings of all crops, at unit length, in eval mode."""
        training = self.training
        self.eval()
        found = [F.normalize(self.embed(images)) for images in target.batches(256)]
        self.train(training)
        return torch.cat(found)


def _no_target() -> ValueError:
    return ValueError(
        "daam learns from unlabelled crops of a target too, and this batch has none; "
        "set target=LAYOUT=LOCATION"
    )
