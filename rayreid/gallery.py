"""Embedded crops that can be ranked: from a trained method and a domain to its metrics."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rayreid.batch import Crops, Domain
from rayreid.data.loading import LoadingSettings, Pixels
from rayreid.data.views import as_images
from rayreid.matching.tiles import score_all, score_rows
from rayreid.method import Method
from rayreid.ranking.metrics import STANDARD, Ranker, Ranking, RankingSettings, rank
from rayreid.ranking.rerank import Chosen, RerankSettings, rerank

Progress = Callable[[int], None]


@torch.inference_mode()
def embed_crops(
    method: Method, pixels: Pixels, *, batch: int = 256, progress: Progress | None = None
) -> Float[Tensor, "n *e"]:
    """Return the embeddings of all crops, in fp32, on the method's device.

    The method is put into eval mode for it, and back. ``progress`` is called with the number
    of crops embedded since its last call.
    """
    device = next(method.parameters()).device
    training = method.training
    method.eval()
    parts = []
    for start in range(0, len(pixels), batch):
        indices = np.arange(start, min(start + batch, len(pixels)))
        images = as_images(torch.from_numpy(pixels[indices]).to(device))
        parts.append(method.embed(images).float())
        if progress:
            progress(len(indices))
    method.train(training)
    return torch.cat(parts)


class Target:
    """A domain's query and gallery at one resolution, ranked as often as asked.

    Raises `ValueError` for a domain without query or gallery crops.
    """

    def __init__(self, domain: Domain, loading: LoadingSettings):
        for part, crops in (("query", domain.query), ("gallery", domain.gallery)):
            if not len(crops):
                raise ValueError(f"{domain.name} has no {part} crops to rank")
        self.name, self.query, self.gallery = domain.name, domain.query, domain.gallery
        self.query_pixels = Pixels(domain.query.images, loading)
        self.gallery_pixels = Pixels(domain.gallery.images, loading)

    def embeddings(
        self, method: Method, progress: Progress | None = None
    ) -> tuple[Float[Tensor, "q *e"], Float[Tensor, "g *e"]]:
        """Return the embeddings of all queries and of all gallery crops."""
        return (
            embed_crops(method, self.query_pixels, progress=progress),
            embed_crops(method, self.gallery_pixels, progress=progress),
        )

    def scores(self, method: Method, progress: Progress | None = None) -> Float[np.ndarray, "q g"]:
        """Return the scores of all queries against all gallery crops."""
        found: np.ndarray = score_all(method, *self.embeddings(method, progress)).numpy()
        return found

    def rank(
        self,
        method: Method,
        progress: Progress | None = None,
        settings: RankingSettings = STANDARD,
    ) -> Ranking:
        """Return the metrics of a method on this domain; its scores are never all held."""
        blocks = score_rows(method, *self.embeddings(method, progress))
        return ranked_by_rows(blocks, self.query, self.gallery, settings)


def reranked_scores(
    method: Method,
    queries: Float[Tensor, "q *e"],
    gallery: Float[Tensor, "g *e"],
    settings: RerankSettings,
    *,
    half: bool = False,
    progress: Progress | None = None,
) -> Float[np.ndarray, "q g"]:
    """Return a method's scores of embeddings after k-reciprocal re-ranking.

    The method scores all crops with each other, gallery and queries: about (q + g)^2 pairs.
    ``half`` and ``progress`` are `score_all`'s.
    """
    crops = torch.cat([queries, gallery])

    def score(rows: Chosen, columns: Chosen) -> Tensor:
        return score_all(method, crops[rows], crops[columns], half=half, progress=progress)

    return rerank(score, len(queries), len(gallery), settings)


def ranked(
    scores: Float[np.ndarray, "q g"],
    query: Crops,
    gallery: Crops,
    settings: RankingSettings = STANDARD,
) -> Ranking:
    """Return the metrics of scores of a query against a gallery set."""
    return rank(scores, *_columns(query, gallery), settings)


def ranked_by_rows(
    blocks: Iterable[tuple[int, Float[np.ndarray, "r g"] | Float[Tensor, "r g"]]],
    query: Crops,
    gallery: Crops,
    settings: RankingSettings = STANDARD,
) -> Ranking:
    """Return the metrics of scores that come with the number of the first query of a block."""
    ranker = Ranker(*_columns(query, gallery), settings)
    for start, scores in blocks:
        ranker.add(start, np.asarray(scores))
        del scores  # before the next ones are made
    return ranker.ranking()


def _columns(
    query: Crops, gallery: Crops
) -> tuple[
    Int64[np.ndarray, " q"],
    Int64[np.ndarray, " g"],
    Int64[np.ndarray, " q"],
    Int64[np.ndarray, " g"],
]:
    return query.identities, gallery.identities, query.cameras, gallery.cameras


def best_matches(
    scores: Float[np.ndarray, "q g"], query: Crops, gallery: Crops, count: int
) -> Int64[np.ndarray, "q count"]:
    """Return the gallery crops of highest score of each query, those of its own view left out.

    -1 where fewer are left.
    """
    own = (query.identities[:, None] == gallery.identities) & (
        query.cameras[:, None] == gallery.cameras
    )
    order = np.argsort(np.where(own, np.inf, -scores), axis=1, kind="stable")[:, :count]
    left_out = np.take_along_axis(own, order, axis=1)
    return np.where(left_out, -1, order).astype(np.int64)
