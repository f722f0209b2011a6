"""Which of an identity's crops are drawn: any of them, or spread over its cameras."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64


def crops_by_identity(identities: Int64[np.ndarray, " n"]) -> dict[int, Int64[np.ndarray, " k"]]:
    """Return the indices of each identity's crops."""
    order = np.argsort(identities, kind="stable")
    labels, starts = np.unique(identities[order], return_index=True)
    return dict(zip(labels.tolist(), np.split(order, starts[1:]), strict=True))


def crops_by_camera(
    crops: Mapping[int, Int64[np.ndarray, " _"]], cameras: Int64[np.ndarray, " n"] | None
) -> dict[int, list[Int64[np.ndarray, " _"]]]:
    """Return the crops of each identity, those of each camera apart; all together for None.

    A data set that tells no cameras has one number for all, and so its crops are together too.
    """
    if cameras is None:
        return {person: [own] for person, own in crops.items()}
    return {
        person: [own[places] for places in crops_by_identity(cameras[own]).values()]
        for person, own in crops.items()
    }


def drawn(
    parts: Sequence[Int64[np.ndarray, " _"]], wanted: int, rng: np.random.Generator
) -> Int64[np.ndarray, " wanted"]:
    """Return ``wanted`` crops of an identity, whose crops are given camera by camera."""
    counts = shares([len(part) for part in parts], wanted, rng)
    pairs = zip(parts, counts, strict=True)
    return np.concatenate([_of_camera(crops, count, rng) for crops, count in pairs])


def _of_camera(crops: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    chosen = rng.permutation(crops)[:wanted]
    if len(chosen) < wanted:
        # Every crop once, then repeats: nothing that is known of a person goes unused.
        chosen = np.concatenate([chosen, rng.choice(crops, wanted - len(chosen))])
    return chosen


def shares(sizes: Sequence[int], wanted: int, rng: np.random.Generator) -> list[int]:
    """Return how many of an identity's ``wanted`` crops each of its cameras gives.

    ``sizes`` are the crops that each has. No crop is asked for twice before all are asked for
    once; beyond that the shares are as even as they go, and who gives one more is random.
    """
    if len(sizes) == 1:  # No choice, and so no draw.
        return [wanted]
    given = [0] * len(sizes)
    order = rng.permutation(len(sizes)).tolist()
    for _ in range(wanted):
        unused = [camera for camera in order if given[camera] < sizes[camera]]
        given[min(unused or order, key=given.__getitem__)] += 1
    return given
