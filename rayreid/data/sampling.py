"""Which crops make a batch: P identities x K crops of every source domain."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from rayreid.settings import Settings


class SamplingSettings(Settings):
    """Size of a worker's batch, and who is in it."""

    kind: Literal["identities", "graph"] = "identities"
    """``identities``: shuffled; ``graph``: an identity with those of its domain that the method
    finds most alike, found anew every epoch."""

    identities: int = Field(16, ge=2)
    """Identities of each source domain in a batch (P)."""
    crops: int = Field(4, ge=2)
    """Crops of each identity (K); an identity with fewer is repeated."""


class IdentitySampler:
    """Batches of P identities x K crops from every domain; each rank draws its own identities.

    In every pass over a domain its identities are shuffled and dealt to the ranks, so no
    identity is on two ranks in one pass. What is left over when a rank's share does not
    divide by P waits for the next pass's shuffle. The batches of an epoch follow from
    (seed, epoch) alone, whatever came before.

    Raises `ValueError` for a domain with too few identities for the ranks.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        identities: Int64[np.ndarray, " n"],
        domains: Int64[np.ndarray, " n"],
        names: tuple[str, ...],
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.settings, self.seed, self.rank, self.world = settings, seed, rank, world
        self.crops = crops_by_identity(identities)
        self.people = [np.unique(identities[domains == d]) for d in range(len(names))]
        for name, people in zip(names, self.people, strict=True):
            if len(people) // world < settings.identities:
                raise ValueError(
                    f"source {name} has {len(people)} identities to learn from, too few for "
                    f"{world} worker(s) x sampling.identities={settings.identities}; lower either"
                )

    @property
    def steps(self) -> int:
        """Return the batches in which the largest domain's identities are passed once."""
        share = max(len(people) for people in self.people) // self.world
        return share // self.settings.identities

    def epoch(self, epoch: int, steps: int) -> Iterator[Int64[np.ndarray, " batch"]]:
        """Yield ``steps`` batches of indices, domain after domain, identity after identity."""
        seeds = np.random.SeedSequence((self.seed, epoch)).spawn(len(self.people))
        groups = [
            self._groups(people, seed) for people, seed in zip(self.people, seeds, strict=True)
        ]
        # Which identities go together is known to all ranks; which crops of them is this rank's.
        rng = np.random.default_rng((self.seed, epoch, self.rank))
        for _ in range(steps):
            people = np.concatenate([next(group) for group in groups])
            yield np.concatenate([self._draw(int(person), rng) for person in people])

    def _groups(self, people: np.ndarray, seed: np.random.SeedSequence) -> Iterator[np.ndarray]:
        rng, size = np.random.default_rng(seed), self.settings.identities
        share = len(people) // self.world
        while True:
            mine = rng.permutation(people)[self.rank * share : (self.rank + 1) * share]
            for start in range(0, share - size + 1, size):
                yield mine[start : start + size]

    def _draw(self, person: int, rng: np.random.Generator) -> np.ndarray:
        crops, wanted = self.crops[person], self.settings.crops
        drawn = rng.permutation(crops)[:wanted]
        if len(drawn) < wanted:
            # Every crop once, then repeats: nothing that is known of a person goes unused.
            drawn = np.concatenate([drawn, rng.choice(crops, wanted - len(drawn))])
        return drawn


def crops_by_identity(identities: Int64[np.ndarray, " n"]) -> dict[int, Int64[np.ndarray, " k"]]:
    """Return the indices of each identity's crops."""
    order = np.argsort(identities, kind="stable")
    labels, starts = np.unique(identities[order], return_index=True)
    return dict(zip(labels.tolist(), np.split(order, starts[1:]), strict=True))


def unlabelled_batches(
    count: int, size: int, steps: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> Iterator[Int64[np.ndarray, " size"]]:
    """Yield ``steps`` batches of ``size`` of ``count`` unlabelled crops, shuffled pass after pass.

    Each rank has its own crops of a pass; a domain with fewer than ``size`` is repeated. What is
    yielded follows from (seed, epoch) alone.
    """
    # The last number tells this stream from the samplers' own of the same epoch, of any rank.
    rng = np.random.default_rng((seed, epoch, 0, 1))
    waiting = np.empty(0, np.int64)
    for _ in range(steps):
        while len(waiting) < size:
            share = rng.permutation(count)[rank::world]
            waiting = np.concatenate([waiting, share])
        yield waiting[:size]
        waiting = waiting[size:]
