"""The strong baseline: BNNeck with identity and triplet losses.

Paper: Luo, Gu, Liao, Lai, Jiang, "Bag of Tricks and a Strong Baseline for Deep Person
Re-identification", CVPRW 2019. One vector an image, pooled from the trunk's map; a triplet
loss shapes it, a classifier over the source identities shapes its batch-normalised twin,
and the cosine of the twins ranks a gallery.

| equation                              | here                                  |
|---------------------------------------|---------------------------------------|
| L = L_id + L_tri                      | `Baseline.forward`                    |
| L_id, smoothed cross entropy on f     | `rayreid.nn.losses.identity_loss`     |
| L_tri, batch-hard triplet on t        | `rayreid.nn.losses.batch_hard_triplet_loss` |
| f = BN(t) without shift               | `rayreid.nn.neck.Neck`                |

Left out: the paper's centre loss and random erasing, which hurt on unseen domains (the
practice of M3L and SNR).

`rayreid benchmark methods` (four folds, three seeds): unseen mAP .310, of its own domains .777.
"""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from rayreid.batch import Batch, Census
from rayreid.explanation import Explanation
from rayreid.method import Method
from rayreid.nn.contributions import cosine_explanation
from rayreid.nn.losses import batch_hard_triplet_loss, identity_loss
from rayreid.nn.neck import Neck, classifier
from rayreid.nn.trunk import Trunk, TrunkSettings
from rayreid.settings import Settings


class BaselineConfig(Settings):
    """Weights of the two losses."""

    identity_weight: float = Field(1.0, gt=0)
    """Weight of the identity loss."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the identity loss."""
    triplet_weight: float = Field(1.0, gt=0)
    """Weight of the triplet loss."""
    margin: float = Field(0.3, ge=0)
    """Margin of the triplet loss; 0 = soft margin."""


class Baseline(Method):
    """Trunk, BNNeck, classifier; cosine scores."""

    Config: ClassVar[type[Settings]] = BaselineConfig
    recipe: ClassVar[Mapping[str, object]] = {
        "trunk.name": "resnet50",
        "trunk.weights": "timm",
        "optimiser.lr": 3.5e-4,
        "optimiser.weight_decay": 5e-4,
        "optimiser.schedule": "steps",
        "epochs": 60,
    }

    def __init__(
        self, config: BaselineConfig, trunk: TrunkSettings, census: Census, size: tuple[int, int]
    ):
        super().__init__(config, trunk, census, size)
        self.config = config
        self.trunk = Trunk(trunk)
        self.neck = Neck(self.trunk.channels)
        self.classifier = classifier(self.trunk.channels, census.total)

    def embed(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b d"]:
        """Return the normalised feature of each image."""
        normalised: Tensor = self.neck(self.trunk(images))[1]
        return normalised

    def explain(self, pair: Float[Tensor, "2 3 height width"]) -> Explanation:
        """Return the shares of places in the cosine."""
        return cosine_explanation(self.neck.by_place(self.trunk(pair)))

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the identity and the triplet loss."""
        pooled, normalised = self.neck(self.trunk(batch.images))
        identity = identity_loss(
            self.classifier(normalised), batch.identities, self.config.smoothing
        )
        triplet = batch_hard_triplet_loss(pooled, batch.identities, self.config.margin)
        return {
            "identity": self.config.identity_weight * identity,
            "triplet": self.config.triplet_weight * triplet,
        }
