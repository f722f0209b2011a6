"""Calibrating a trained method: from labelled pairs it has not learnt from to its thresholds."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from pydantic import Field, field_validator
from torch import Tensor

from rayreid.batch import Crops
from rayreid.checkpoint import Trained, preprocessing_fingerprint
from rayreid.data.content import content_hashes, joint_hash
from rayreid.data.layouts import FOLDERS
from rayreid.data.layouts.grammar import NOBODY
from rayreid.data.loading import Pixels, decoded
from rayreid.data.pair_list import read_pair_list
from rayreid.data.sources import canonical, open_source, ranks_nobody, same_place
from rayreid.gallery import Progress, Target, embed_crops
from rayreid.matching.tiles import score_all, score_rows
from rayreid.method import Method
from rayreid.ranking.calibration import Calibration, Distributions
from rayreid.ranking.confidence import by_person, drawn_people, highest_rejecting
from rayreid.ranking.identification import search_table
from rayreid.ranking.impostors import GridScores, PairScores
from rayreid.ranking.thresholds import BEYOND, REJECTED
from rayreid.run import best_device
from rayreid.settings import Settings

MOST_PAIRS = 1 << 26
"""Pairs that are scored; of a larger query set, an even part is used. Enough for a rate of 1e-6,
and all of Market-1501."""
BINS = 80

Numbers = Int64[np.ndarray, "..."]


class CalibrationSettings(Settings):
    """Error rates that thresholds are made for."""

    rates: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    """False accept rates of pairs."""
    search_rates: tuple[float, ...] = (1e-1, 1e-2, 1e-3)
    """False-positive identification rates of searches."""
    samples: int = Field(0, ge=0)
    """Crops that a person has in the galleries to be searched, at most; 0 = as many as here."""
    seed: int = Field(0, ge=0)
    """Of the people drawn for bounds, and of their crops where ``samples`` says how many."""

    @field_validator("rates", "search_rates")
    @classmethod
    def _rates(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < rate < 0.5 for rate in value):
            raise ValueError(f"holds {value}; rates lie between 0 and 0.5, e.g. 1e-3")
        return tuple(sorted(set(value), reverse=True))


STANDARD = CalibrationSettings()


def refuse_pairs(
    trained: Trained, source: str, targets: tuple[str, ...] = (), *, on_target: bool = False
) -> None:
    """Raise `ValueError` for pairs that a calibration may not rest on.

    These are people that the run has learnt to tell apart, whose scores are too good, and, unless
    ``on_target``, domains that it is to be judged on (``targets``): its errors there would be
    measured where its thresholds were made.
    """
    experiment = trained.experiment
    for learnt in experiment.sources:
        if same_place(source, learnt) and (ranks_nobody(learnt) or ranks_nobody(source)):
            raise ValueError(
                f"this run has learnt the people of {learnt}, whom {source} shows: their scores "
                "say nothing of others; calibrate on people it has not seen"
            )
        one, other = (canonical(s).partition("=")[0].partition(":")[0] for s in (learnt, source))
        if one in FOLDERS and other in FOLDERS[one].shares_people_with:
            raise ValueError(
                f"{source} and {learnt}, which this run has learnt, show some of the same people; "
                "calibrate on people it has not seen"
            )
    judged = (*targets, *filter(None, [experiment.target]))
    if not on_target and any(same_place(source, target) for target in judged):
        raise ValueError(
            f"{source} is a target of this run: its figures there would no longer be those of an "
            "unseen domain; calibrate on another, or say --on-target"
        )


def calibrate(
    trained: Trained,
    source: str,
    settings: CalibrationSettings = STANDARD,
    *,
    targets: tuple[str, ...] = (),
    on_target: bool = False,
    progress: Progress | None = None,
    scoring: Progress | None = None,
) -> Calibration:
    """Return the thresholds of a trained method from a domain's query and gallery.

    Pairs of one person by one camera are left out, as in ranking; those with distractors are pairs
    of two people. ``source`` may also be a .csv or .parquet file of labelled pairs (see
    `read_pair_list`), which gives no thresholds of searches. ``progress`` counts crops, ``scoring``
    pairs. Errors as `refuse_pairs` and the reader's.
    """
    if is_pair_list(source):
        return _of_list(trained, Path(source), settings, progress)
    refuse_pairs(trained, source, targets, on_target=on_target)
    experiment = trained.experiment
    domain = open_source(source, experiment.loading, experiment.synthetic)
    crops = decoded(domain, experiment.loading, progress, parts=("query", "gallery"))
    method = trained.method.to(best_device())
    target = Target(crops, experiment.loading)
    queries, gallery = target.embeddings(method, progress)
    every = max(1, -(-len(queries) * len(gallery) // MOST_PAIRS))
    chosen = np.arange(0, len(queries), every)
    query_people, gallery_people, people = _numbered(crops.query, crops.gallery, chosen)
    cameras = crops.query.cameras[chosen], crops.gallery.cameras
    sides = (query_people, cameras[0]), (gallery_people, cameras[1])
    nobody = _distractors(crops.query, crops.gallery)
    enrolled = _sampled(gallery_people, ~nobody, settings)
    held = [by_person(each, people) for each in (query_people, gallery_people)]
    twice = _asymmetric(method)
    impostors = (1 + twice) * int(len(query_people) * len(gallery_people) - held[0] @ held[1])
    pairs = PairScores(people, impostors, settings.rates)
    grid = GridScores(pairs, *sides, enrolled)
    _stream(method, grid, queries[torch.from_numpy(chosen)], gallery, scoring)
    if twice:
        back = GridScores(pairs, sides[1], sides[0], np.zeros(len(chosen), bool))
        _stream(method, back, gallery, queries[torch.from_numpy(chosen)], scoring)
    genuine = _genuine(pairs, source)
    drawn = drawn_people(people, seed=settings.seed)
    samples = float(enrolled.sum() / max(1, len(grid.persons)))
    return Calibration(
        **_of_model(trained),
        source=canonical(source),
        data=domain.fingerprint,
        genuine=len(genuine) // (1 + twice),
        impostors=impostors // (1 + twice),
        people=people,
        directions="both" if twice else "one",
        pairs=pairs.thresholds(settings.rates, drawn, (held[0], held[1]), scored=1 + twice),
        review=highest_rejecting(genuine, REJECTED, BEYOND * (1 + twice)),
        search=search_table(
            grid.best, grid.own, query_people, settings.search_rates, samples, drawn
        ),
        distributions=_distributions(genuine, grid.sampled()),
    )


def is_pair_list(source: str) -> bool:
    """Return whether pairs come as a list, and not as a domain, ``layout=location``."""
    return Path(source).suffix.lower() in (".csv", ".parquet") and "=" not in source


def _of_list(
    trained: Trained, file: Path, settings: CalibrationSettings, progress: Progress | None
) -> Calibration:
    listed = read_pair_list(file)
    method = trained.method.to(best_device())
    images = Pixels(list(listed.images), trained.experiment.loading)
    embeddings = embed_crops(method, images, progress=progress)
    people = int(listed.people.max()) + 1
    twice = _asymmetric(method)
    scores = _listed_scores(method, embeddings, listed.pairs)
    pairs, same, whose = listed.pairs, listed.same, listed.people
    if twice:
        back = _listed_scores(method, embeddings, listed.pairs[:, ::-1])
        scores, pairs = np.concatenate([scores, back]), np.concatenate([pairs, pairs])
        same = np.concatenate([same, same])
    if not np.isfinite(scores).all():
        raise ValueError("some scores are no finite numbers: look for a run that diverged")
    first, second = (whose[pairs[~same][:, side]] for side in (0, 1))
    impostors = PairScores(people, len(first), settings.rates)
    impostors.add_genuine(scores[same], whose[pairs[same][:, 0]])
    impostors.add_impostors(scores[~same], first, second)
    drawn = drawn_people(people, seed=settings.seed)
    return Calibration(
        **_of_model(trained),
        source=str(file.absolute()),
        data=joint_hash(content_hashes(list(listed.images), None))[:16],
        genuine=int(listed.same.sum()),
        impostors=int((~listed.same).sum()),
        people=people,
        directions="both" if twice else "one",
        pairs=impostors.thresholds(
            settings.rates, drawn, None, impostors.owners(first, second), scored=1 + twice
        ),
        review=highest_rejecting(scores[same], REJECTED, BEYOND * (1 + twice)),
        search=None,
        distributions=_distributions(scores[same], scores[~same]),
    )


def _of_model(trained: Trained) -> dict[str, str]:
    return {
        "method": trained.experiment.method,
        "fingerprint": trained.fingerprint,
        "preprocessing": preprocessing_fingerprint(trained.experiment),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _asymmetric(method: Method) -> bool:
    return not (method.symmetric or type(method).score is Method.score)


def _stream(
    method: Method, grid: GridScores, queries: Tensor, gallery: Tensor, scoring: Progress | None
) -> None:
    for start, scores in score_rows(method, queries, gallery, progress=scoring):
        grid.add(start, scores.numpy())
        del scores  # before the next ones are made


def _listed_scores(
    method: Method, embeddings: Tensor, pairs: Int64[np.ndarray, "p 2"]
) -> Float32[np.ndarray, " p"]:
    """Return the score of each pair, the first being the query: of each query with all of its."""
    scores = np.empty(len(pairs), np.float32)
    order = np.argsort(pairs[:, 0], kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order, 0], prepend=-1))
    for rows in np.split(order, starts[1:]):
        query = embeddings[int(pairs[rows[0], 0])][None]
        others = embeddings[torch.from_numpy(pairs[rows, 1].copy())]
        scores[rows] = score_all(method, query, others).numpy()[0]
    return scores


def _distractors(query: Crops, gallery: Crops) -> np.ndarray:
    """Return which crops of the gallery show nobody in particular."""
    found: np.ndarray = gallery.identities == NOBODY
    return np.zeros_like(found) if (query.identities == NOBODY).any() else found


def _numbered(query: Crops, gallery: Crops, chosen: Numbers) -> tuple[Numbers, Numbers, int]:
    """Return the people of either side by one numbering from 0; each distractor is its own."""
    nobody = _distractors(query, gallery)
    both = np.concatenate([query.identities[chosen], gallery.identities])
    alone = np.concatenate([np.zeros(len(chosen), bool), nobody])
    known, numbers = np.unique(both[~alone], return_inverse=True)
    people = np.empty(len(both), np.int64)
    people[~alone] = numbers
    people[alone] = len(known) + np.arange(alone.sum())
    return people[: len(chosen)], people[len(chosen) :], len(known) + int(alone.sum())


def _sampled(people: Numbers, enrolled: np.ndarray, settings: CalibrationSettings) -> np.ndarray:
    """Return which crops of a gallery are enrolled: of each person at most ``samples``, drawn."""
    if not settings.samples:
        return enrolled
    order = np.random.default_rng(settings.seed).permutation(np.flatnonzero(enrolled))
    order = order[np.argsort(people[order], kind="stable")]
    _, starts, counts = np.unique(people[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, counts)
    kept = np.zeros_like(enrolled)
    kept[order[place < settings.samples]] = True
    return kept


def _genuine(pairs: PairScores, source: str) -> Float32[np.ndarray, " n"]:
    scores, _ = pairs.genuine()
    for kind, number in (("one person by two cameras", len(scores)), ("two", pairs.impostors)):
        if not number:
            raise ValueError(f"{source} has no pairs of {kind}: calibrate on another domain")
    return scores


def _distributions(
    genuine: Float32[np.ndarray, " n"], impostor: Float32[np.ndarray, " m"]
) -> Distributions:
    both = np.concatenate([genuine, impostor])
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    shares = [(np.histogram(x, edges)[0] / len(x)).tolist() for x in (genuine, impostor)]
    return Distributions(edges=tuple(edges), genuine=tuple(shares[0]), impostor=tuple(shares[1]))
