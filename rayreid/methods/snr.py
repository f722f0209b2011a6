"""SNR: instance normalisation removes style, a gate gives back what of it told people apart.

Paper: Jin, Lan, Zeng, Chen, Zhang, "Style Normalization and Restitution for Generalizable
Person Re-identification", CVPR 2020. Instance normalisation (IN) after a stage of the trunk
removes what differs between domains (light, contrast, colour), and with it some of what tells
people apart. So a gate on channels splits what IN removed, the residual, into a part that is
given back and one that is not. A loss makes features with the former tell people apart better
than the normalised ones do, and features with the latter worse.

| equation                                               | here                      |
|--------------------------------------------------------|---------------------------|
| F~ = IN(F), with learnt gamma and beta                 | `InstanceNorm`            |
| R = F - F~, a = sigmoid(W2 relu(W1 GAP(R)))            | `Restitution`             |
| F+ = F~ + a R, which goes on to the next stage         | `Restitution.forward`     |
| F- = F~ + (1 - a) R, for the loss alone                | `Restitution.branches`    |
| f~, f+, f- = GAP of F~, F+, F-                         | `pooled`                  |
| L+ = sp(d(f+_a, f+_p) - d(f~_a, f~_p))                 | `dual_causality_loss`     |
|    + sp(d(f~_a, f~_n) - d(f+_a, f+_n))                 |                           |
| L- = sp(d(f~_a, f~_p) - d(f-_a, f-_p))                 |                           |
|    + sp(d(f-_a, f-_n) - d(f~_a, f~_n)), sp = softplus  |                           |
| L = L_id + L_tri + sum over stages lambda (L+ + L-)    | `SNR.forward`             |

GAP(IN(F)) is beta for every image, since IN makes the mean over space of each channel zero. So
with average pooling f~ is a constant, "compared with f~" means "compared with a constant", and
after the last stage F+ is pooled to beta + a (GAP(F) - beta): a gate on the pooled feature, on
which the last gamma has no influence. That is the paper, and the default; with ``ref_pool``
gap_relu or gem f~ differs between images. (Its cosine distance to itself is 0.5 while beta is 0,
at first, and -0.5 ever after.)

No code of the paper's re-identification is public: what it leaves open is a setting, which says
what others run. The recipe is ours, shorter than the 280 epochs recalled from the paper; as there,
nothing is erased. Left out: adapting to a target, and the entropy loss for other tasks.

`rayreid benchmark methods` (four folds, three seeds): unseen mAP .430, +.120 (+- .020) over the
baseline, +.016 (+- .031) over IBN-a.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field, field_validator
from torch import Tensor, nn

from rayreid.batch import Batch, Census
from rayreid.explanation import Explanation
from rayreid.method import Method
from rayreid.nn.contributions import cosine_explanation
from rayreid.nn.losses import batch_hard_triplet_loss, identity_loss, squared_distances
from rayreid.nn.neck import Neck, classifier
from rayreid.nn.restitution import InstanceNorm, Map, Restitution, Vectors
from rayreid.nn.trunk import Trunk, TrunkSettings
from rayreid.settings import Numbers, Settings

Distance = Literal["cosine", "euclidean"]
Mining = Literal["random", "hard", "hard_each"]
Pool = Literal["gap", "gap_relu", "gem"]
Comparisons = Literal["both", "positive", "negative"]


class SNRConfig(Settings):
    """Hyper-parameters of SNR; defaults are choices where no public source settles them."""

    identity_weight: float = Field(1.0, gt=0)
    """Weight of the identity loss L_id."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the identity loss."""
    triplet_weight: float = Field(1.0, gt=0)
    """Weight of the triplet loss L_tri."""
    margin: float = Field(0.0, ge=0)
    """Margin of the triplet loss; 0 = soft margin, as in the authors' code."""
    stages: Numbers = (1, 2, 3, 4)
    """Stages of the trunk that a module follows, in order; all four are best in the paper."""
    reduction: int = Field(16, ge=1)
    """Channels of a stage to one hidden unit of its gate, which has at least 8."""
    low_weight: float = Field(0.1, ge=0)
    """lambda of stages 1 and 2; 0 = no dual causality loss there."""
    high_weight: float = Field(0.5, ge=0)
    """lambda of stages 3 and 4; 0 = no dual causality loss there."""
    distance: Distance = "cosine"
    """d of the dual causality loss: ``cosine`` is 0.5 - cos, as the paper is recalled to have it;
    the authors' code has ``euclidean``."""
    mining: Mining = "hard"
    """Triplets, open in the paper: one random or hardest (by f+) positive and negative an anchor,
    shared by the three spaces, or the hardest in each, as the authors' code has it."""
    ref_pool: Pool = "gap"
    """Pooling to f~, f+ and f-: averages, the paper's, though f~ is then one constant; averages
    after a ReLU; or cubic means (GeM)."""
    comparisons: Comparisons = "both"
    """Terms of the dual causality loss: all, or of one kind of pair, the authors' ablation."""
    restitution: bool = True
    """Whether anything is given back; if not, IN alone follows the stages and there is no dual
    causality loss (the paper's control, Baseline-A-IN)."""

    @field_validator("stages")
    @classmethod
    def _in_order(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value) & {1, 2, 3, 4}):
            raise ValueError(f"these are some of the stages 1, 2, 3, 4, in order, found {value}")
        return value


class SNR(Method):
    """Trunk with a module after each chosen stage, BNNeck, classifier; cosine scores."""

    Config: ClassVar[type[Settings]] = SNRConfig
    recipe: ClassVar[Mapping[str, object]] = {
        "trunk.name": "resnet50",
        "trunk.weights": "timm",
        "optimiser.name": "adam",
        "optimiser.lr": 3.5e-4,
        "optimiser.weight_decay": 5e-4,
        "optimiser.schedule": "cosine",
        "sampling.identities": 16,
        "sampling.crops": 4,
        "views.brightness": 0.2,
        "views.contrast": 0.15,
        "epochs": 120,
    }

    def __init__(
        self, config: SNRConfig, trunk: TrunkSettings, census: Census, size: tuple[int, int]
    ):
        super().__init__(config, trunk, census, size)
        self.config = config
        self.trunk = Trunk(trunk)
        _refuse_unless_room(config, self.trunk, size)
        self.neck = Neck(self.trunk.channels)
        self.classifier = classifier(self.trunk.channels, census.total)
        # Last, so that the weights above are drawn alike whatever follows the stages.
        self.after = nn.ModuleDict()
        for number in config.stages:
            c = self.trunk.stage_channels[number - 1]
            self.after[str(number)] = (
                Restitution(c, config.reduction)
                if config.restitution
                else InstanceNorm(c, affine=True)
            )

    def embed(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b d"]:
        """Return the normalised feature of each image; no F- is computed for it."""
        normalised: Tensor = self.neck(self.trunk(images, self._next))[1]
        return normalised

    def explain(self, pair: Float[Tensor, "2 3 height width"]) -> Explanation:
        """Return the shares of places in the cosine."""
        return cosine_explanation(self.neck.by_place(self.trunk(pair, self._next)))

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return L_id, L_tri, and of each stage with a lambda its dual causality loss."""
        config = self.config
        causality: dict[str, Tensor] = {}

        def after(number: int, features: Tensor) -> Tensor:
            weight = config.low_weight if number <= 2 else config.high_weight
            module = self.after[str(number)] if number in config.stages else None
            if not weight or not isinstance(module, Restitution):
                return self._next(number, features)
            if config.ref_pool == "gap":
                restored, (f, f_plus, f_minus) = module.averages(features)
                # Distances of f~, which is beta, are constant. What rounding makes of them near
                # beta = 0, as at first, would have a direction, and a cosine slopes of 1 / |beta|.
                f = f.detach()
            else:
                branches = module.branches(features)
                restored = branches[1]
                f, f_plus, f_minus = (pooled(branch, config.ref_pool) for branch in branches)
            how = (config.distance, config.mining, config.comparisons)
            loss = dual_causality_loss(f, f_plus, f_minus, batch.identities, *how)
            causality[f"causality_{number}"] = weight * loss
            return restored.to(features.dtype)

        t, normalised = self.neck(self.trunk(batch.images, after))
        identity = identity_loss(self.classifier(normalised), batch.identities, config.smoothing)
        triplet = batch_hard_triplet_loss(t, batch.identities, config.margin)
        return {
            "identity": config.identity_weight * identity,
            "triplet": config.triplet_weight * triplet,
            **causality,
        }

    def _next(self, number: int, features: Tensor) -> Tensor:
        """Return what goes on to the next stage: F+, or F~ without restitution."""
        if number not in self.config.stages:
            return features
        onward: Tensor = self.after[str(number)](features)
        return onward.to(features.dtype)


def _refuse_unless_room(config: SNRConfig, trunk: Trunk, size: tuple[int, int]) -> None:
    """Raise `ValueError` for a trunk, or crops, that leave a module without a map to work on."""
    name, there = trunk.settings.name, len(trunk.stage_channels)
    if not there:
        raise ValueError(
            f"trunk {name} is not run stage by stage, which snr needs for its modules between "
            "stages; choose a ResNet or a ConvNeXt"
        )
    if config.stages[-1] > there:
        raise ValueError(
            f"trunk {name} has {there} stages, but config.stages names stage {config.stages[-1]}; "
            "raise trunk.stages, or shorten config.stages"
        )
    if not config.restitution and config.stages[-1] == there:
        raise ValueError(
            f"without restitution, IN after the last stage ({there}) would make the mean of every "
            f"map its beta, one vector for all images; leave {there} out of config.stages"
        )
    if trunk.grid(*size) == (1, 1):
        raise ValueError(
            f"crops of {size[0]} x {size[1]} pixels leave a map of one position, which has no "
            "style; raise loading.height and loading.width"
        )


def pooled(features: Map, kind: Pool) -> Vectors:
    """Return one vector an image: means over space, also after a ReLU, or cubic (GeM)."""
    if kind == "gem":
        # The floor keeps the slope of the root finite.
        return features.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    return (F.relu(features) if kind == "gap_relu" else features).mean((2, 3))


def dual_causality_loss(
    normalised: Vectors,
    restored: Vectors,
    contaminated: Vectors,
    identities: Int64[Tensor, " b"],
    distance: Distance,
    mining: Mining,
    comparisons: Comparisons,
) -> Float[Tensor, ""]:
    """Return the mean L+ + L- of one stage over the anchors that have a positive and a negative."""
    spaces = (normalised, restored, contaminated)
    same = identities[:, None] == identities[None]
    other = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    anchors = (other.any(1) & ~same.all(1)).nonzero()[:, 0]
    if not len(anchors):
        return torch.stack(spaces).sum() * 0
    kinds = (other[anchors], ~same[anchors])
    if mining == "random":
        p, n = (torch.multinomial(kind.float(), 1)[:, 0] for kind in kinds)
        triplets = [(p, n)] * 3
    else:
        mined = spaces if mining == "hard_each" else (restored,) * 3
        triplets = [_hardest(f, anchors, *kinds, distance) for f in mined]
    chosen = list(zip(spaces, triplets, strict=True))
    near, near_plus, near_minus = (distances(f[anchors], f[p], distance) for f, (p, _) in chosen)
    far, far_plus, far_minus = (distances(f[anchors], f[n], distance) for f, (_, n) in chosen)
    pull = F.softplus(near_plus - near) + F.softplus(near - near_minus)
    push = F.softplus(far - far_plus) + F.softplus(far_minus - far)
    return {"positive": pull, "negative": push, "both": pull + push}[comparisons].mean()


def distances(a: Vectors, b: Vectors, kind: Distance) -> Float[Tensor, " b"]:
    """Return d of each row of ``a`` and the row of ``b`` beside it."""
    if kind == "cosine":
        return 0.5 - F.cosine_similarity(a, b)
    # The root's slope at 0 is infinite; the floor keeps the gradient of equal rows finite.
    return (a - b).square().sum(1).clamp(min=1e-12).sqrt()


@torch.no_grad()
def _hardest(
    f: Tensor, anchors: Tensor, positive: Tensor, negative: Tensor, kind: Distance
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Return of each anchor the farthest positive and the nearest negative, as crops."""
    if kind == "cosine":
        with torch.autocast(f.device.type, enabled=False):
            unit = F.normalize(f)
            apart = -unit[anchors] @ unit.T
    else:
        apart = squared_distances(f[anchors], f)
    farthest = apart.masked_fill(~positive, -torch.inf).argmax(1)
    return farthest, apart.masked_fill(~negative, torch.inf).argmin(1)
