"""Which crops make a batch: identities of the source domains x K crops of each."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from rayreid.data.crop_choice import crops_by_camera, crops_by_identity, drawn
from rayreid.settings import Settings


class SamplingSettings(Settings):
    """Size of a worker's batch, and who is in it."""

    kind: Literal["identities", "one_domain", "pooled", "graph"] = "identities"
    """``identities``: P of every source; ``one_domain``: each batch of one source, the sources in
    turn; ``pooled``: from the people of all sources together, so in proportion to their number;
    ``graph``: an identity with those of its domain that the method finds most alike, found anew
    every epoch."""
    identities: int = Field(16, ge=2)
    """Identities of each source domain in a batch (P); one of ``one_domain`` or ``pooled`` is as
    large, P identities for each source."""
    crops: int = Field(4, ge=2)
    """Crops of each identity (K); an identity with fewer is repeated."""
    across_cameras: bool = False
    """Whether an identity's crops are spread over its cameras, as evenly as they go."""


class IdentitySampler:
    """Batches of shuffled identities x K crops; each rank draws its own identities.

    Identities are drawn from pools: the domains, or for ``pooled`` one of everybody. A batch has P
    identities of every domain; or for ``one_domain`` as many of one domain, which is the same on
    all ranks: every domain has one turn in each round, in shuffled order, so that a small one is
    learnt as often as a large one. With one source the three are the same.

    In every pass over a pool its identities are shuffled and dealt to the ranks, so no
    identity is on two ranks in one pass. What is left over when a rank's share does not
    divide by the number in a batch waits for the next pass's shuffle. The batches of an epoch
    follow from (seed, epoch) alone, whatever came before.

    Raises `ValueError` for a pool with too few identities for the ranks.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        identities: Int64[np.ndarray, " n"],
        domains: Int64[np.ndarray, " n"],
        names: tuple[str, ...],
        *,
        cameras: Int64[np.ndarray, " n"] | None = None,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.settings, self.seed, self.rank, self.world = settings, seed, rank, world
        self.crops = crops_by_identity(identities)
        self.cameras = crops_by_camera(self.crops, cameras if settings.across_cameras else None)
        self.people = [np.unique(identities[domains == d]) for d in range(len(names))]
        self.pools, self.size = self.people, settings.identities
        who, batch = [f"source {name} has" for name in names], f"sampling.identities={self.size}"
        if settings.kind in ("one_domain", "pooled"):
            self.size *= len(names)
            batch += f" x {len(names)} source(s), a batch of sampling.kind={settings.kind}"
        if settings.kind == "pooled":
            self.pools, who = [np.concatenate(self.people)], ["the sources together have"]
        for subject, people in zip(who, self.pools, strict=True):
            if len(people) // world < self.size:
                raise ValueError(
                    f"{subject} {len(people)} identities to learn from, too few for "
                    f"{world} worker(s) x {batch}; lower either"
                )

    @property
    def steps(self) -> int:
        """Return the batches in which the largest pool's identities are passed once."""
        share = max(len(people) for people in self.pools) // self.world
        turns = len(self.pools) if self.settings.kind == "one_domain" else 1
        return share // self.size * turns

    def epoch(self, epoch: int, steps: int) -> Iterator[Int64[np.ndarray, " batch"]]:
        """Yield ``steps`` batches of indices, pool after pool, identity after identity."""
        seeds = np.random.SeedSequence((self.seed, epoch)).spawn(len(self.pools))
        groups = [self._groups(pool, seed) for pool, seed in zip(self.pools, seeds, strict=True)]
        # Which identities go together is known to all ranks; which crops of them is this rank's.
        rng = np.random.default_rng((self.seed, epoch, self.rank))
        for pools in islice(self._turns(epoch), steps):
            people = np.concatenate([next(groups[pool]) for pool in pools])
            yield np.concatenate(
                [drawn(self.cameras[int(person)], self.settings.crops, rng) for person in people]
            )

    def _turns(self, epoch: int) -> Iterator[Sequence[int]]:
        """Yield the pools that each batch is of."""
        everyone = range(len(self.pools))
        # The last number tells this stream from those of the crops, labelled or not.
        rng = np.random.default_rng((self.seed, epoch, 0, 2))
        while True:
            if self.settings.kind == "one_domain":
                yield from ([int(pool)] for pool in rng.permutation(everyone))
            else:
                yield everyone

    def _groups(self, people: np.ndarray, seed: np.random.SeedSequence) -> Iterator[np.ndarray]:
        rng, share = np.random.default_rng(seed), len(people) // self.world
        while True:
            mine = rng.permutation(people)[self.rank * share : (self.rank + 1) * share]
            for start in range(0, share - self.size + 1, self.size):
                yield mine[start : start + self.size]


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
