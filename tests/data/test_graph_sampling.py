"""The graph sampler: who is in a batch, in what order, on which rank, with which crops."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.data.graph_sampling import GraphSampler, nearest
from rayreid.data.sampling import SamplingSettings

COUNTS = st.lists(st.lists(st.integers(1, 7), min_size=3, max_size=8), min_size=1, max_size=3)
"""Of each domain, the numbers of crops of its identities."""
SEEDS = st.integers(0, 10**6)


def sampler(
    counts: list[list[int]],
    people: int = 3,
    crops: int = 2,
    *,
    cameras: int | None = None,
    **options: int,
) -> GraphSampler:
    """Return a sampler over domains whose identities have the given numbers of crops.

    With ``cameras``, each identity's crops are spread over so many.
    """
    sizes = [size for domain in counts for size in domain]
    identities = np.repeat(np.arange(len(sizes)), sizes)
    domains = np.repeat(np.arange(len(counts)), [sum(domain) for domain in counts])
    shuffled = np.random.default_rng(0).permutation(len(identities))
    options.setdefault("seed", 0)
    return GraphSampler(
        SamplingSettings(
            kind="graph", identities=people, crops=crops, across_cameras=cameras is not None
        ),
        identities[shuffled],
        domains[shuffled],
        [f"domain{d}" for d in range(len(counts))],
        cameras=np.random.default_rng(1).integers(0, cameras or 1, len(identities)),
        **options,
    )


def scores_of(made: GraphSampler, seed: int = 0) -> list[np.ndarray]:
    """Return scores among the identities of each domain, with ties."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 5, (len(p), len(p))).astype(np.float32) for p in made.people]


def owner(of: GraphSampler) -> dict[int, int]:
    return {int(crop): person for person, crops in of.crops.items() for crop in crops}


def groups(
    made: GraphSampler, epoch: int, steps: int, scores: list[np.ndarray]
) -> list[list[list[int]]]:
    """Return whose crops are in each batch's part of each domain: [step][domain][place]."""
    people, found = owner(made), []
    for batch in made.epoch(epoch, steps, scores):
        rows = batch.reshape(len(scores), made.settings.identities, made.settings.crops)
        who = np.vectorize(lambda crop: people[int(crop)])(rows)
        assert (who == who[:, :, :1]).all(), "K crops of each identity"
        found.append(who[:, :, 0].tolist())
    return found


@pytest.mark.parametrize(
    ("seed", "rank", "world", "batches", "representatives"),
    [
        (0, 0, 1, "e5ce54c4600ea876", "898a09b1bf8d582d"),
        (0, 0, 2, "03c7c13ecf1015a0", "898a09b1bf8d582d"),
        (0, 1, 2, "a8c4a770df063d4d", "898a09b1bf8d582d"),
        (7, 0, 1, "1253896eb71b763b", "816a1aef059e37cc"),
        (7, 0, 2, "5941f875ee6d286f", "816a1aef059e37cc"),
        (7, 1, 2, "dc675ea8fe9efc9b", "816a1aef059e37cc"),
    ],
)
def test_batches_are_those_that_figures_were_measured_with(
    seed: int, rank: int, world: int, batches: str, representatives: str
) -> None:
    def digest(drawn: Iterable[np.ndarray]) -> str:
        return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in drawn)).hexdigest()[:16]

    counts = [[5, 1, 7, 3, 4, 2, 9, 4, 6, 3, 1], [2, 2, 8, 4, 1, 3, 5, 6, 4]]
    made = sampler(counts, 3, 4, seed=seed, rank=rank, world=world)
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=(len(p), len(p))).astype(np.float32) for p in made.people]
    drawn = (batch for epoch in (0, 3) for batch in made.epoch(epoch, 9, scores))
    assert digest(drawn) == batches
    assert digest(made.representatives(2)) == representatives


@given(counts=COUNTS, crops=st.integers(2, 4), seed=SEEDS, epoch=st.integers(0, 3))
def test_a_batch_is_an_identity_after_those_nearest_to_it_of_every_domain(
    counts: list[list[int]], crops: int, seed: int, epoch: int
) -> None:
    made = sampler(counts, crops=crops)
    scores = scores_of(made, seed)
    for batch in groups(made, epoch, 3, scores):
        for people, group, table in zip(made.people, batch, scores, strict=True):
            *others, anchor = group
            row = dict(zip(people.tolist(), table[people.tolist().index(anchor)], strict=True))
            del row[anchor]  # What is left are others, all of the domain.
            assert len(set(others)) == 2
            assert set(others) <= row.keys()
            # Highest score first; of two equal ones, the lower number.
            assert others == sorted(row, key=lambda person: (-row[person], person))[:2]


@given(counts=COUNTS, epoch=st.integers(0, 3))
def test_every_identity_of_the_largest_domain_is_in_its_turn_once(
    counts: list[list[int]], epoch: int
) -> None:
    made = sampler(counts)
    largest = max(range(len(counts)), key=lambda d: len(counts[d]))
    assert made.steps == len(counts[largest])
    batches = groups(made, epoch, made.steps, scores_of(made))
    for d in range(len(counts)):
        turns = Counter(batch[d][-1] for batch in batches)
        assert turns.keys() == set(made.people[d].tolist())
        assert max(turns.values()) - min(turns.values()) <= 1
        if d == largest:
            assert max(turns.values()) == 1


@given(people=st.integers(4, 20), world=st.integers(2, 4), epoch=st.integers(0, 3))
def test_ranks_share_the_graph_and_no_turn_in_a_pass(people: int, world: int, epoch: int) -> None:
    ranks = [sampler([[3] * people], rank=rank, world=world) for rank in range(world)]
    for one, other in pairwise(ranks):
        for a, b in zip(one.representatives(epoch), other.representatives(epoch), strict=True):
            assert np.array_equal(a, b)
    scores = scores_of(ranks[0])
    turns = [
        person[-1]
        for made in ranks
        for (person,) in groups(made, epoch, made.steps, scores)
    ]  # fmt: skip
    assert len(turns) == len(set(turns)) == people // world * world


@given(counts=COUNTS, crops=st.integers(2, 4), epoch=st.integers(0, 3))
def test_crops_are_dealt_without_repetition_until_all_were(
    counts: list[list[int]], crops: int, epoch: int
) -> None:
    made = sampler(counts, crops=crops)
    people, dealt = owner(made), {person: [] for person in made.crops}
    for batch in made.epoch(epoch, 6, scores_of(made)):
        for crop in batch.tolist():
            dealt[people[crop]].append(crop)
    for person, hand in dealt.items():
        size = len(made.crops[person])
        for start in range(0, len(hand), size):
            turn = hand[start : start + size]
            assert len(set(turn)) == len(turn), "each once before any twice"


def test_an_identity_with_few_crops_repeats_them() -> None:
    made = sampler([[1, 2, 3]], crops=4)
    (batch,) = made.epoch(0, 1, scores_of(made))
    seen = {person: set() for person in range(3)}
    for crop in batch.tolist():
        seen[owner(made)[crop]].add(crop)
    assert {person: len(crops) for person, crops in seen.items()} == {0: 1, 1: 2, 2: 3}


@given(counts=COUNTS, crops=st.integers(2, 4), epoch=st.integers(0, 3))
def test_crops_spread_over_cameras_are_dealt_camera_by_camera(
    counts: list[list[int]], crops: int, epoch: int
) -> None:
    made = sampler(counts, crops=crops, cameras=3)
    people = owner(made)
    dealt = {(person, c): [] for person, parts in made.cameras.items() for c in range(len(parts))}
    for batch in made.epoch(epoch, 6, scores_of(made)):
        for row in batch.reshape(-1, crops).tolist():
            person = people[row[0]]
            places = [
                next(c for c, part in enumerate(made.cameras[person]) if crop in part)
                for crop in row
            ]
            assert len(set(places)) == min(crops, len(made.cameras[person]))
            for place, crop in zip(places, row, strict=True):
                dealt[person, place].append(crop)
    for (person, camera), hand in dealt.items():
        size = len(made.cameras[person][camera])
        for start in range(0, len(hand), size):
            turn = hand[start : start + size]
            assert len(set(turn)) == len(turn), "each once before any twice"


@given(counts=COUNTS, epoch=st.integers(0, 3))
def test_without_cameras_crops_are_dealt_as_ever(counts: list[list[int]], epoch: int) -> None:
    plain, across = sampler(counts), sampler(counts, cameras=1)
    scores = scores_of(plain)
    batches = zip(plain.epoch(epoch, 4, scores), across.epoch(epoch, 4, scores), strict=True)
    assert all(np.array_equal(a, b) for a, b in batches)


@given(counts=COUNTS, epoch=st.integers(0, 3), seed=SEEDS, cameras=st.sampled_from([None, 1, 3]))
def test_an_epoch_follows_from_its_number_and_the_scores_alone(
    counts: list[list[int]], epoch: int, seed: int, cameras: int | None
) -> None:
    made, other = (sampler(counts, cameras=cameras) for _ in range(2))
    for _ in other.epoch(epoch + 1, 2, scores_of(made, seed + 1)):
        pass
    scores = scores_of(made, seed)
    batches = zip(made.epoch(epoch, 4, scores), other.epoch(epoch, 4, scores), strict=True)
    assert all(np.array_equal(a, b) for a, b in batches)
    chosen = zip(made.representatives(epoch), other.representatives(epoch), strict=True)
    assert all(np.array_equal(a, b) for a, b in chosen)


def test_epochs_seeds_and_ranks_differ() -> None:
    counts = [[6] * 9]

    def drawn(epoch: int = 0, **options: int) -> str:
        made = sampler(counts, world=2, **options)
        return str([batch.tolist() for batch in made.epoch(epoch, 4, scores_of(made))])

    assert len({drawn(), drawn(1), drawn(seed=1), drawn(rank=1)}) == 4
    made = sampler(counts)
    standing = [made.representatives(0), made.representatives(1)]
    standing.append(sampler(counts, seed=1).representatives(0))
    assert len({str(chosen) for chosen in standing}) == 3


@given(counts=COUNTS, epoch=st.integers(0, 3))
def test_each_identity_is_represented_by_a_crop_of_its_own(
    counts: list[list[int]], epoch: int
) -> None:
    made = sampler(counts)
    people = owner(made)
    for who, crops in zip(made.people, made.representatives(epoch), strict=True):
        assert [people[int(crop)] for crop in crops] == who.tolist()


@pytest.mark.parametrize(("people", "world"), [(4, 1), (2, 4)])
def test_too_few_identities_are_named(people: int, world: int) -> None:
    said = rf"^source domain1 has 3 .* sampling.identities={people} and {world} worker"
    with pytest.raises(ValueError, match=said):
        sampler([[4] * 8, [4] * 3], people=people, world=world)


@given(seed=SEEDS, size=st.integers(2, 9), data=st.data())
def test_nearest_are_others_by_falling_score(seed: int, size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, size - 1))
    scores = np.random.default_rng(seed).integers(-2, 3, (size, size)).astype(np.float32)
    np.fill_diagonal(scores, 100)
    before = scores.copy()
    found = nearest(scores, count)
    assert np.array_equal(scores, before), "the scores are left as they are"
    for i, row in enumerate(found.tolist()):
        others = [j for j in range(size) if j != i]
        assert row == sorted(others, key=lambda j: (-scores[i, j], j))[:count]


def test_crops_of_an_identity_are_dealt_anew_by_epoch_rank_and_seed() -> None:
    # Which identities come when is left out: where among its identity's crops each stands.
    def places(epoch: int = 0, **options: int) -> str:
        made = sampler([[7] * 8], world=2, **options)
        people = owner(made)
        batches = list(made.epoch(epoch, 2, scores_of(made)))
        drawn = [int(crop) for batch in batches for crop in batch]
        return str([sorted(made.crops[people[crop]]).index(crop) for crop in drawn])

    assert len({places(), places(1), places(rank=1), places(seed=1)}) == 4
