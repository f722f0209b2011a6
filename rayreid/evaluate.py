"""Ranking an unseen domain with a trained method, beside the colour-histogram reference."""

from dataclasses import dataclass

import numpy as np

from rayreid.batch import Domain
from rayreid.checkpoint import Trained
from rayreid.data.loading import LoadingSettings, Pixels, decoded
from rayreid.data.sources import canonical, open_source, same_place
from rayreid.experiment import Experiment
from rayreid.gallery import Progress, Target, ranked, ranked_by_rows, reranked_scores
from rayreid.matching.shortlist import Shortlisted, measured, shortlisted_rows
from rayreid.matching.tiles import score_all, score_rows
from rayreid.ranking.histogram import colour_histogram
from rayreid.ranking.metrics import STANDARD, Ranking, RankingSettings
from rayreid.ranking.rerank import RerankSettings
from rayreid.ranking.temporal_lift import LiftSettings, temporal_lift
from rayreid.run import best_device

HEIGHT, WIDTH = 128, 64
"""Resolution of the files that the reference describes, in pixels."""


@dataclass(frozen=True)
class Evaluation:
    """A method's ranking of one domain, and what colours alone reach there."""

    target: str
    """The domain, as ``layout=location``."""
    ranking: Ranking
    reference: Ranking
    """The colour histogram's ranking."""
    seen: bool
    """Whether the method has learnt from the domain."""
    adapted: bool
    """Whether it has learnt from the domain's unlabelled crops."""
    lifted: Ranking | None = None
    """The method's ranking after temporal lifting, where it was asked for."""
    reranked: Ranking | None = None
    """The method's ranking after k-reciprocal re-ranking, where it was asked for."""
    shortlisted: Shortlisted | None = None
    """What the shortlist lost, where the ranking is of one."""


def open_target(target: str, experiment: Experiment) -> Domain:
    """Return a domain to rank, drawn at the experiment's resolution, or files yet to decode.

    Raises `ValueError` or `FileNotFoundError` as its reader does.
    """
    return open_source(target, experiment.loading, experiment.synthetic)


def evaluate(
    trained: Trained,
    target: str,
    progress: Progress | None = None,
    lift: LiftSettings | None = None,
    rerank: RerankSettings | None = None,
    settings: RankingSettings = STANDARD,
    *,
    half: bool = False,
    shortlist: int = 0,
    scoring: Progress | None = None,
) -> Evaluation:
    """Rank a domain with a trained method, and with the reference, both by ``settings``.

    With ``lift`` the method's scores are also ranked after temporal lifting, with ``rerank`` after
    k-reciprocal re-ranking; the reference's are not. Raises `ValueError` or `FileNotFoundError` as
    the target's reader does, and `ValueError` for a target without the times that lifting needs.
    ``half`` is `score_all`'s; with a ``shortlist`` of so many crops only those have a query's exact
    scores, and what that loses is measured. ``progress`` counts crops, and ``scoring`` pairs.
    """
    if shortlist and (lift or rerank):
        raise ValueError(
            "a shortlist leaves most scores approximate, and temporal lifting and re-ranking need "
            "all of them; ask for one or the other"
        )
    experiment = trained.experiment
    domain = open_target(target, experiment)
    if lift and (domain.query.times is None or domain.gallery.times is None):
        raise ValueError(
            f"{target} does not tell the times of its crops, which temporal lifting needs; "
            "rank it without"
        )
    crops = decoded(domain, experiment.loading, progress)
    # Without those that cannot be decoded, where they are to be left out.
    query, gallery = crops.query, crops.gallery
    method = trained.method.to(best_device())
    embedded = Target(crops, experiment.loading).embeddings(method, progress)
    lifted = reranked = listed = None
    if lift:
        scores = score_all(method, *embedded, half=half, progress=scoring).numpy()
        ranking = ranked(scores, query, gallery, settings)
        columns = (query.cameras, query.times, gallery.cameras, gallery.times)
        lifted = ranked(temporal_lift(scores, *columns, lift), query, gallery, settings)
    else:
        if shortlist:
            listed = measured(method, *embedded, shortlist, half=half)
            rows = shortlisted_rows(method, *embedded, shortlist, half=half, progress=scoring)
        else:
            rows = score_rows(method, *embedded, half=half, progress=scoring)
        ranking = ranked_by_rows(rows, query, gallery, settings)
    if rerank:
        found = reranked_scores(method, *embedded, rerank, half=half, progress=scoring)
        reranked = ranked(found, query, gallery, settings)
    return Evaluation(
        target=canonical(target),
        ranking=ranking,
        reference=rank_by_histogram(domain, experiment.loading, settings),
        seen=any(same_place(target, source) for source in experiment.sources),
        adapted=bool(experiment.target) and same_place(target, experiment.target),
        lifted=lifted,
        shortlisted=listed,
        reranked=reranked,
    )


def rank_by_histogram(
    domain: Domain,
    loading: LoadingSettings,
    settings: RankingSettings = STANDARD,
) -> Ranking:
    """Return the metrics of the colour-histogram reference.

    Files are decoded at the size that its recorded figures are of; drawn crops are as drawn.
    """
    at_its_size = loading.model_copy(update={"height": HEIGHT, "width": WIDTH})
    crops = decoded(domain, at_its_size)
    queries, gallery = (
        colour_histogram(Pixels(part.images, at_its_size)[np.arange(len(part))])
        for part in (crops.query, crops.gallery)
    )
    rows = 256
    blocks = (
        (start, queries[start : start + rows] @ gallery.T) for start in range(0, len(queries), rows)
    )
    return ranked_by_rows(blocks, crops.query, crops.gallery, settings)
