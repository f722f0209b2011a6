"""QAConv-MS: query-adaptive convolution with template kernels of several scales.

Papers: Chen, Fang, Ye, Zhang, "Multi-scale Query-Adaptive Convolution for Generalizable Person
Re-identification", ICME 2023; its journal version, IEEE TCSVT 34(9), 2024 (orthogonal
normalisation); authors' code pSGAme/MQAConv; on QAConv (Liao and Shao, ECCV 2020, CVPR 2022).
Each position of a query's map is a kernel that looks for its best match in the gallery's map, so
what is compared adapts to the pair. Kernels of several sizes give each matched element a larger
receptive field, which a single position of background misleads less, and a self-attention branch
adds what the whole image says. There is no classifier: the scores of all pairs of a batch learn
directly whether two crops show one person.

| equation                                               | here                           |
|--------------------------------------------------------|--------------------------------|
| X = 3x3 convolution of the trunk's map                 | `QAConvMS.neck`                |
| N = X / |X| over channels, at each position            | `QAConvMS.embed`, slice 0      |
| Y_k = k x k convolution of N                           | `QAConvMS.templates`           |
| U_k = Y_k / |Y_k| over positions, of each channel      | `over_positions`               |
| Z = self-attention over the positions of X             | `QAConvMS.attention`           |
| S = Q K^T, best matches in both directions             | `maxima.correlation_maxima`    |
| BN, linear, BN, ReLU, linear, both summed, BN          | `MatchHead`                    |
| score = BN(sum over slices)                            | `QAConvMS._pair_scores`        |
| L = mean_i sum_j BCE(s_ij, [y_i = y_j])                | `pairwise_matching_loss`       |
| L = hinge(m - (hardest positive - hardest negative))   | `score_triplet_loss`           |

QAConv itself is the case without templates and attention: `QACONV` below. A scale of 1 is not that
case but a learned 1x1 convolution beside N, as in the authors' code. Orthogonal normalisation is
N over channels before a template, U over positions after it; "off" normalises U over channels, as
QAConv does its map. The authors' trunk is a ResNet-50 with IBN-b whose ImageNet weights are not in
timm's hub: ``trunk.weights`` takes their file, and from timm's plain ResNet-50 IBN-b borrows the
gains, while frozen statistics are then those of other activations. With several sources the
authors learn one an epoch; here every batch has all (``sampling.kind=one_domain``: one each), and
people of two domains are negatives. Their rotations, hue changes and white squares are
``views.preset=qaconv``, not in the recipe. A head's layers have no biases, which the normalisation
after each would cancel.

`rayreid benchmark methods` (four folds, three seeds): unseen mAP .450, +.140 (+- .045) over the
baseline, -.007 (+- .040) against QAConv; on MultiviewX a .642 and QAConv .577.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from rayreid.batch import Batch, Census
from rayreid.explanation import Explanation, Matches
from rayreid.matching.folding import affine_of
from rayreid.matching.maxima import self_maxima
from rayreid.matching.query_adaptive import MatchHead
from rayreid.method import Method
from rayreid.nn.trunk import Trunk, TrunkSettings
from rayreid.settings import Numbers, Settings

QACONV: Mapping[str, object] = {
    "config.scales": (),
    "config.global_branch": False,
    "config.hidden": 0,
    "config.channels": 128,
    "config.loss": "triplet",
    "sampling.crops": 2,
    "sampling.identities": 32,
    "optimiser.clip": 8.0,
}
"""QAConv (its version 2.1) as settings on top of the recipe."""


class QAConvMSConfig(Settings):
    """Hyper-parameters of QAConv-MS; defaults are those of the authors' single-source code."""

    scales: Numbers = (1, 3, 5)
    """Sizes of the template kernels, odd; empty for the plain map alone."""
    global_branch: bool = True
    """Whether self-attention over the positions adds a slice."""
    global_layers: int = Field(2, ge=1)
    """Encoder layers of the self-attention branch."""
    global_hidden: int = Field(2048, ge=1)
    """Width of the feed-forward part of an encoder layer."""
    global_norm: bool = False
    """Whether the self-attention branch is normalised over channels, as the plain map is."""
    orthogonal_norm: bool = True
    """Whether a template's answers are normalised over positions (each channel by itself) instead
    of over channels."""
    channels: int = Field(512, ge=1)
    """Channels of the map that is matched."""
    hidden: int = Field(2048, ge=0)
    """Width of the layer between the maxima and a head's score; 0 = none, as in QAConv."""
    loss: Literal["pairs", "triplet"] = "pairs"
    """``pairs``: binary cross entropy of all pairs; ``triplet``: hardest triplets of scores."""
    margin: float = Field(16.0, gt=0)
    """Margin of the triplet loss, in scores, which have no bounds."""

    @field_validator("scales")
    @classmethod
    def _odd(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value) or any(k < 1 or k % 2 == 0 for k in value):
            raise ValueError(f"holds {value}; scales are different odd numbers such as 1, 3, 5")
        return value


class QAConvMS(Method):
    """Trunk, convolutional neck, templates, self-attention, and a matching head a slice."""

    Config: ClassVar[type[Settings]] = QAConvMSConfig
    symmetric: ClassVar[bool] = True
    recipe: ClassVar[Mapping[str, object]] = {
        "trunk.name": "resnet50",
        "trunk.weights": "timm",
        "trunk.stages": 3,
        "trunk.ibn": "b",
        "trunk.frozen_norms": True,
        "trunk.normalise": "none",
        "loading.height": 384,
        "loading.width": 128,
        "sampling.kind": "graph",
        "views.brightness": 0.5,
        "views.contrast": 0.5,
        "views.saturation": 0.5,
        "optimiser.name": "sgd",
        "optimiser.lr": 0.005,
        "optimiser.trunk_rate": 0.1,
        "optimiser.weight_decay": 5e-4,
        "optimiser.schedule": "last_step",
        "optimiser.warmup": 0.0,
        "optimiser.clip": 4.0,
        "epochs": 15,
    }

    def __init__(
        self, config: QAConvMSConfig, trunk: TrunkSettings, census: Census, size: tuple[int, int]
    ):
        super().__init__(config, trunk, census, size)
        self.config = config
        self.trunk = Trunk(trunk)
        self.grid = h, w = self.trunk.grid(*size)
        c = config.channels
        self.neck = nn.Conv2d(self.trunk.channels, c, 3, padding=1)
        self.templates = nn.ModuleList(nn.Conv2d(c, c, k, padding=k // 2) for k in config.scales)
        self.attention: nn.Module | None = None
        if config.global_branch:
            layer = nn.TransformerEncoderLayer(
                c, 1, config.global_hidden, dropout=0.0, batch_first=True
            )
            self.attention = nn.TransformerEncoder(
                layer, config.global_layers, enable_nested_tensor=False
            )
            _initialised_apart(self.attention)
        slices = 1 + len(config.scales) + config.global_branch
        self.heads = nn.ModuleList(MatchHead(h * w, config.hidden) for _ in range(slices))
        self.sum_norm = nn.BatchNorm1d(1) if slices > 1 else None
        self.hard_accuracy: Tensor | None = None

    def embed(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b slices c n"]:
        """Return the maps that are matched, of n positions: N, U_k for each scale, Z."""
        x: Tensor = self.neck(self.trunk(images))
        local = F.normalize(x.float(), dim=1)
        slices = [local]
        for template in self.templates:
            answers = template(local).float()
            slices.append(
                over_positions(answers) if self.config.orthogonal_norm else F.normalize(answers)
            )
        maps = [each.flatten(2) for each in slices]
        if self.attention is not None:
            seen = self.attention(x.flatten(2).transpose(1, 2)).float().transpose(1, 2)
            maps.append(F.normalize(seen, dim=1) if self.config.global_norm else seen)
        return torch.stack(maps, 1)

    def score(
        self, queries: Float[Tensor, "q slices c n"], gallery: Float[Tensor, "g slices c n"]
    ) -> Float[Tensor, "q g"]:
        """Return the scores of all pairs with the frozen statistics of training; symmetric."""
        scores = torch.zeros(len(queries), len(gallery), device=queries.device)
        for i, head in enumerate(self.heads):
            assert isinstance(head, MatchHead)
            scores += head.match(queries[:, i].float(), gallery[:, i].float())
        if self.sum_norm is None:
            return scores
        scale, shift = affine_of(self.sum_norm)
        return scores * scale + shift

    def rough(
        self,
        embeddings: Float[Tensor, "b slices c n"],
        *,
        queries: bool,  # noqa: ARG002
    ) -> Float[Tensor, "b d"]:
        """Return the plain maps, normalised: places are compared, and no best matches searched for.

        Means over places would lose where things are, and with it many good matches.
        """
        return F.normalize(embeddings[:, 0].float().flatten(1))

    def explain(self, pair: Float[Tensor, "2 3 height width"]) -> Explanation:
        """Return what the best match of each place adds to the score, in every slice.

        Beside the mean best match of training, so that a match that is merely usual adds nothing.
        """
        maps = self.embed(pair).float()
        scale, constant = (
            (1.0, maps.new_zeros(1)) if self.sum_norm is None else affine_of(self.sum_norm)
        )
        added, places = [], []
        for i, head in enumerate(self.heads):
            assert isinstance(head, MatchHead)
            products = maps[0, i].T @ maps[1, i]  # [places of the first, of the second]
            for side in (0, 1):
                best, where = products.max(1 - side)
                slopes, shift, usual = head.tangent(best)
                added.append(scale * slopes * (best - usual))
                places.append(where)
                constant = constant + scale * shift
        adds, found = torch.stack(added), torch.stack(places)  # [slices x 2, places]
        n, slices = maps.shape[-1], len(self.heads)
        itself = torch.arange(n, device=maps.device).expand_as(found)
        back = torch.arange(2 * slices, device=maps.device)[:, None] % 2 == 1
        parts = ["plain map", *(f"{k} x {k} templates" for k in self.config.scales)]
        parts += ["self-attention"] if self.attention is not None else []
        return Explanation(
            score=float(adds.double().sum() + constant),
            constant=float(constant),
            first=adds[0::2].sum(0).view(self.grid),
            second=adds[1::2].sum(0).view(self.grid),
            sums="together",
            says=(
                "each place of either crop is matched with the place most like it in the other: "
                "what these matches add beside usual ones, of both crops, and the constant sum to "
                "the score exactly"
            ),
            matches=Matches(
                torch.where(back, found, itself).flatten(),
                torch.where(back, itself, found).flatten(),
                adds.flatten(),
                torch.arange(slices, device=maps.device).repeat_interleave(2 * n),
                tuple(parts),
            ),
        )

    def pair_bytes(self, embedding: tuple[int, ...]) -> int:
        """Return the bytes of one slice's maxima, twice, and of a head's units."""
        return 4 * (4 * embedding[-1] + 2 * self.config.hidden)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the loss of the scores of all pairs of the batch."""
        scores = self._pair_scores(self.embed(batch.images))
        same = batch.identities[:, None] == batch.identities[None]
        self.hard_accuracy = hard_accuracy(scores.detach(), same)
        if self.config.loss == "pairs":
            return {"pairs": pairwise_matching_loss(scores, same)}
        return {"triplet": score_triplet_loss(scores, same, self.config.margin)}

    def monitors(self) -> dict[str, Float[Tensor, ""]]:
        """Return the share of anchors whose hardest positive scores above the hardest negative."""
        return {} if self.hard_accuracy is None else {"hard_accuracy": self.hard_accuracy}

    def _pair_scores(self, maps: Float[Tensor, "b slices c n"]) -> Float[Tensor, "b b"]:
        """Return the scores of a batch with itself, normalised by the batch's own statistics."""
        scores = torch.zeros(len(maps), len(maps), device=maps.device)
        for i, head in enumerate(self.heads):
            assert isinstance(head, MatchHead)
            forth, _ = self_maxima(maps[:, i])
            with torch.autocast(maps.device.type, enabled=False):
                scores = scores + head.with_itself(forth)
        if self.sum_norm is None:
            return scores
        with torch.autocast(maps.device.type, enabled=False):
            normalised: Tensor = self.sum_norm(scores.view(-1, 1))
        return normalised.view_as(scores)


def over_positions(answers: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return the map with the energy of each channel over all positions made one (OGNorm)."""
    return F.normalize(answers.flatten(2), dim=2).view_as(answers)


def pairwise_matching_loss(
    scores: Float[Tensor, "b b"], same: Bool[Tensor, "b b"]
) -> Float[Tensor, ""]:
    """Return ``mean_i sum_j BCE(s_ij, [y_i = y_j])``; a crop with itself is a positive pair."""
    losses = F.binary_cross_entropy_with_logits(scores, same.to(scores.dtype), reduction="none")
    return losses.sum(1).mean()


def score_triplet_loss(
    scores: Float[Tensor, "b b"], same: Bool[Tensor, "b b"], margin: float
) -> Float[Tensor, ""]:
    """Return the mean of ``max(0, margin - (min positive - max negative))`` over the anchors.

    An anchor without another crop of its identity, or of others, does not count.
    """
    positive, negative, counted = _hardest(scores, same)
    if not counted.any():
        return scores.sum() * 0
    return F.relu(margin - (positive - negative)[counted]).mean()


def hard_accuracy(scores: Float[Tensor, "b b"], same: Bool[Tensor, "b b"]) -> Float[Tensor, ""]:
    """Return the share of anchors whose hardest positive scores above their hardest negative."""
    positive, negative, counted = _hardest(scores, same)
    right = (positive > negative)[counted].float()
    return right.mean() if len(right) else torch.zeros((), device=scores.device)


def _hardest(scores: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    positive = scores.masked_fill(~same | itself, torch.inf).amin(1)
    negative = scores.masked_fill(same, -torch.inf).amax(1)
    return positive, negative, positive.isfinite() & negative.isfinite()


def _initialised_apart(encoder: nn.Module) -> None:
    """Draw every matrix anew (Xavier-uniform): torch's encoder repeats one layer's."""
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
