"""BNNeck: one feature for the triplet loss, its batch-normalised twin for the classifier."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Neck(nn.Module):
    """Average pooling, then batch normalisation without a shift (Luo et al., CVPRW 2019).

    The triplet loss works on the pooled feature, whose Euclidean geometry it shapes;
    classifier and retrieval work on the normalised one, which lies near a hypersphere.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.norm.bias.requires_grad_(False)

    def forward(
        self, features: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        """Return the pooled and the normalised feature."""
        pooled = features.mean((2, 3))
        return pooled, self.norm(pooled)

    def by_place(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the normalised feature's vector at each place; their mean is that feature.

        In eval mode, where the normalisation scales and shifts each channel.
        """
        b, c, h, w = features.shape
        vectors: Tensor = self.norm(features.permute(0, 2, 3, 1).reshape(-1, c))
        return vectors.view(b, h, w, c).permute(0, 3, 1, 2)

    def by_batch(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """Return the normalised feature by this batch's statistics, leaving no trace of it."""
        pooled = features.mean((2, 3))
        return F.batch_norm(
            pooled, None, None, self.norm.weight, self.norm.bias, training=True, eps=self.norm.eps
        )


def classifier(channels: int, identities: int) -> nn.Linear:
    """Return the bias-free identity classifier, initialised small as is the custom of BNNeck."""
    linear = nn.Linear(channels, identities, bias=False)
    nn.init.normal_(linear.weight, std=0.001)
    return linear
