"""The graph sampler: batches of identities that the method itself finds hard to tell apart.

Paper: Liao and Shao, "Graph Sampling Based Deep Metric Learning for Generalizable Person
Re-identification", CVPR 2022. One crop of each identity stands for it; an identity, with those
whose crops score highest against its own, makes a batch, and every identity is in its turn.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int64

from rayreid.data.crop_choice import crops_by_camera, crops_by_identity, shares
from rayreid.data.sampling import SamplingSettings

Hands = dict[tuple[int, int], list[int]]
"""The crops of an identity, and of one of its cameras, that are still to be dealt."""


class GraphSampler:
    """Batches of neighbouring identities, from every domain; ranks share the graph, not groups.

    A batch holds, of each domain, an identity and its P - 1 nearest ones of that domain, K crops
    each. An epoch passes all identities of the largest domain once, or a random part of them where
    it has fewer steps. Each identity deals its shuffled crops in turn, those of an epoch's start
    drawn anew, so that an epoch follows from (seed, epoch, scores) alone (the authors' code goes
    on where the last epoch stopped). Of crops spread over cameras, each camera deals its own.

    Raises `ValueError` for a domain with fewer than P identities.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        identities: Int64[np.ndarray, " n"],
        domains: Int64[np.ndarray, " n"],
        names: Sequence[str],
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
        for name, people in zip(names, self.people, strict=True):
            if len(people) < max(settings.identities, world):
                raise ValueError(
                    f"source {name} has {len(people)} identities to learn from, too few for "
                    f"sampling.identities={settings.identities} and {world} worker(s); lower either"
                )

    @property
    def steps(self) -> int:
        """Return the batches in which every identity of the largest domain is in its turn."""
        return max(len(people) for people in self.people) // self.world

    def representatives(self, epoch: int) -> list[Int64[np.ndarray, " _"]]:
        """Return, of each domain, the index of one random crop of each identity."""
        rng = np.random.default_rng((self.seed, epoch, 2))
        return [
            np.array([rng.choice(self.crops[int(person)]) for person in people])
            for people in self.people
        ]

    def epoch(
        self, epoch: int, steps: int, scores: Sequence[Float[np.ndarray, "_ _"]]
    ) -> Iterator[Int64[np.ndarray, " batch"]]:
        """Yield ``steps`` batches of indices, given the representatives' scores in each domain."""
        neighbours = [nearest(each, self.settings.identities - 1) for each in scores]
        rng = np.random.default_rng((self.seed, epoch, 3))
        groups = [self._groups(n, rng.spawn(1)[0]) for n in neighbours]
        # Who goes with whom is known to all ranks; which crops of them is this rank's.
        own = np.random.default_rng((self.seed, epoch, 4, self.rank))
        hands: Hands = {}
        for _ in range(steps):
            batch = [
                self._deal(int(people[i]), hands, own)
                for people, group in zip(self.people, groups, strict=True)
                for i in next(group)
            ]
            yield np.concatenate(batch)

    def _groups(self, neighbours: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the neighbours of an identity, nearest first, then itself; in random order."""
        share = len(neighbours) // self.world
        while True:
            order = rng.permutation(len(neighbours))[self.rank * share : (self.rank + 1) * share]
            for i in order:
                yield np.append(neighbours[i], i)

    def _deal(self, person: int, hands: Hands, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        parts, dealt = self.cameras[person], []
        wanted = shares([len(part) for part in parts], self.settings.crops, rng)
        for camera, (crops, count) in enumerate(zip(parts, wanted, strict=True)):
            hand = hands.setdefault((person, camera), [])
            while len(hand) < count:
                hand += rng.permutation(crops).tolist()
            dealt += hand[:count]
            del hand[:count]
        return np.array(dealt)


def nearest(scores: Float[np.ndarray, "n n"], count: int) -> Int64[np.ndarray, "n count"]:
    """Return for each row the ``count`` other rows of highest score, highest first."""
    others = scores.astype(np.float64)
    np.fill_diagonal(others, -np.inf)
    return np.argsort(-others, axis=1, kind="stable")[:, :count]
