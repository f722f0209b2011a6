"""Method: embeds images, scores pairs, and turns a batch into losses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rayreid.batch import Batch, Census, Unlabelled
from rayreid.explanation import Explanation
from rayreid.nn.contributions import covered, occlusion_explanation
from rayreid.nn.trunk import TrunkSettings
from rayreid.settings import Settings


class Method(nn.Module, ABC):
    """What everything outside ``methods/`` knows of a method.

    A subclass is final: it inherits from `Method` alone and defines all of what it does.
    """

    Config: ClassVar[type[Settings]]
    """The paper's hyper-parameters."""
    recipe: ClassVar[Mapping[str, object]]
    """The paper's training set-up, as dotted assignments to an experiment."""
    adapts: ClassVar[bool] = False
    """Whether it also learns from unlabelled crops of the target."""
    symmetric: ClassVar[bool] = False
    """Whether a pair's score stays when query and gallery change places, as the cosine does; a set
    is then scored with itself at half the work."""

    @abstractmethod
    def __init__(
        self, config: Settings, trunk: TrunkSettings, census: Census, size: tuple[int, int]
    ):
        """Build the untrained method for a training set's identities and crops of a size.

        ``size`` is the height and width of all images, in pixels. Raises `ValueError` for a
        trunk that cannot serve the method.
        """
        super().__init__()

    @abstractmethod
    def embed(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b *e"]:
        """Return one embedding an image (RGB in [0, 1]); in eval mode, of that image alone."""

    def score(
        self, queries: Float[Tensor, "q *e"], gallery: Float[Tensor, "g *e"]
    ) -> Float[Tensor, "q g"]:
        """Return fp32 scores of all pairs, higher = more alike; by default the cheap ones.

        A score depends on its two embeddings alone: not on tiling, not on the gallery.
        """
        return self.approximate(queries, gallery)

    def rough(
        self,
        embeddings: Float[Tensor, "n *e"],
        *,
        queries: bool,  # noqa: ARG002
    ) -> Float[Tensor, "n d"]:
        """Return fp32 vectors of queries, or of a gallery, whose products are the cheap scores.

        One a row, made of its embedding alone: what is searched often is prepared once. By default
        they are normalised, and their products the cosine.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.normalize(embeddings.float().flatten(1))

    @final
    def approximate(
        self, queries: Float[Tensor, "q *e"], gallery: Float[Tensor, "g *e"]
    ) -> Float[Tensor, "q g"]:
        """Return cheap fp32 scores in about the order of ``score``'s, for shortlists."""
        a, b = self.rough(queries, queries=True), self.rough(gallery, queries=False)
        with torch.autocast(a.device.type, enabled=False):
            return a @ b.T

    def pair_bytes(self, embedding: tuple[int, ...]) -> int:  # noqa: ARG002
        """Return the working memory of scoring one pair, in bytes, given an embedding's shape."""
        return 4

    def explain(self, pair: Float[Tensor, "2 3 height width"]) -> Explanation:
        """Return which places of two images, the first being the query, make their score.

        In eval mode, without gradients. By default what the score loses when patches are covered,
        which suits any method and is exact for none.
        """
        plain = self.embed(pair)
        first, second = (self.embed(covered(image)) for image in pair)
        score = float(self.score(plain[:1], plain[1:]))
        return occlusion_explanation(
            score, self.score(first, plain[1:])[:, 0], self.score(plain[:1], second)[0]
        )

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the losses by name, already weighted; training lowers their sum.

        This is ``forward`` because DDP synchronises gradients only of calls through it.
        """

    def start_epoch(self, epoch: int, target: Unlabelled | None = None) -> None:
        """Prepare for epoch ``epoch`` (from 0): warm-ups, pseudo labels of a target's crops.

        What it leaves must follow from the weights and its arguments alone: a resumed run
        calls it again.
        """

    def monitors(self) -> dict[str, Float[Tensor, ""]]:
        """Return figures of the last ``forward`` that show how training goes, by name."""
        return {}
