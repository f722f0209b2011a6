from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.data.sampling import IdentitySampler, SamplingSettings, unlabelled_batches

PEOPLE = st.lists(st.lists(st.integers(1, 7), min_size=4, max_size=9), min_size=1, max_size=3)


def sampler(
    counts: list[list[int]], people: int = 2, crops: int = 3, **options: int
) -> IdentitySampler:
    """Return a sampler over domains whose identities have the given numbers of crops."""
    identities, domains, label = [], [], 0
    for domain, sizes in enumerate(counts):
        for size in sizes:
            identities += [label] * size
            domains += [domain] * size
            label += 1
    shuffled = np.random.default_rng(0).permutation(len(identities))
    options.setdefault("seed", 0)
    return IdentitySampler(
        SamplingSettings(identities=people, crops=crops),
        np.array(identities)[shuffled],
        np.array(domains)[shuffled],
        tuple(f"domain{d}" for d in range(len(counts))),
        **options,
    )


def owner(of: IdentitySampler) -> dict[int, int]:
    return {int(crop): person for person, crops in of.crops.items() for crop in crops}


@given(counts=PEOPLE, crops=st.integers(2, 5), epoch=st.integers(0, 5))
def test_a_batch_is_p_identities_x_k_crops_of_every_domain(
    counts: list[list[int]], crops: int, epoch: int
) -> None:
    made = sampler(counts, crops=crops)
    people, size = owner(made), 2 * crops
    for batch in made.epoch(epoch, 3):
        assert len(batch) == size * len(counts)
        for d in range(len(counts)):
            drawn = batch[d * size : (d + 1) * size].reshape(2, crops)
            who = [{people[int(crop)] for crop in row} for row in drawn]
            assert all(len(row) == 1 for row in who)
            assert len(set.union(*who)) == 2
            assert set.union(*who) <= set(made.people[d].tolist())
            for row, (person,) in zip(drawn, who, strict=True):
                # All distinct where there are enough; else each once before any twice.
                assert len(set(row.tolist())) == min(crops, len(made.crops[person]))


@given(counts=PEOPLE, epoch=st.integers(0, 5))
def test_an_epoch_follows_from_its_number_alone(counts: list[list[int]], epoch: int) -> None:
    made, other = sampler(counts), sampler(counts)
    for _ in other.epoch(epoch + 1, 2):
        pass
    pairs = zip(made.epoch(epoch, 4), other.epoch(epoch, 4), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_epochs_and_seeds_differ() -> None:
    counts = [[4] * 9]
    first = list(sampler(counts).epoch(0, 3))
    assert not np.array_equal(first, list(sampler(counts).epoch(1, 3)))
    assert not np.array_equal(first, list(sampler(counts, seed=1).epoch(0, 3)))


@given(identities=st.integers(8, 30), world=st.integers(2, 4), epoch=st.integers(0, 3))
def test_ranks_share_no_identity_in_a_pass(identities: int, world: int, epoch: int) -> None:
    ranks = [sampler([[4] * identities], rank=r, world=world) for r in range(world)]
    drawn = []
    for made in ranks:
        people = owner(made)
        batches = list(made.epoch(epoch, made.steps))
        drawn.append({people[int(crop)] for batch in batches for crop in batch})
        assert len(drawn[-1]) == made.steps * 2, "a pass repeats no identity"
    assert len(set.union(*drawn)) == sum(map(len, drawn))


def test_every_identity_is_drawn_in_time() -> None:
    made = sampler([[3] * 7])
    people = owner(made)
    seen = {people[int(c)] for epoch in range(8) for b in made.epoch(epoch, made.steps) for c in b}
    assert seen == set(range(7))


def test_too_few_identities_are_named() -> None:
    with pytest.raises(ValueError, match=r"source domain1 has 3 identities .* 2 worker"):
        sampler([[4] * 8, [4] * 3], world=2)


def places(made: IdentitySampler, epoch: int) -> list[list[int]]:
    """Return, row by row of an epoch, at which places among its identity's crops it was drawn."""
    people, size = owner(made), made.settings.crops
    rows = [row for batch in made.epoch(epoch, 4) for row in batch.reshape(-1, size).tolist()]
    return [[sorted(made.crops[people[row[0]]]).index(crop) for crop in row] for row in rows]


def test_crops_of_an_identity_are_drawn_anew() -> None:
    # Which identities come when is left out: an identity's row must differ by itself.
    counts = [[7] * 8]
    draws = {
        f"epoch {epoch}, rank {rank}, seed {seed}": places(
            sampler(counts, rank=rank, world=2, seed=seed), epoch
        )
        for epoch in range(2)
        for rank in range(2)
        for seed in range(2)
    }
    for one, other in combinations(draws, 2):
        assert draws[one] != draws[other], f"{one} draws as {other}"
    # And within an epoch, from one batch to the next.
    assert all(len(set(map(tuple, rows))) > 1 for rows in draws.values())


def test_every_crop_is_drawn_in_time() -> None:
    made = sampler([[9] * 4])
    seen = {int(crop) for epoch in range(20) for batch in made.epoch(epoch, 2) for crop in batch}
    assert seen == set(range(36))


@given(count=st.integers(1, 30), size=st.integers(1, 12), epoch=st.integers(0, 3))
def test_unlabelled_crops_are_all_drawn_before_any_is_again(
    count: int, size: int, epoch: int
) -> None:
    batches = list(unlabelled_batches(count, size, 6, seed=0, epoch=epoch))
    assert [len(batch) for batch in batches] == [size] * 6, "however few crops there are"
    drawn = np.concatenate(batches)
    for start in range(0, len(drawn), count):
        passed = drawn[start : start + count].tolist()
        assert len(set(passed)) == len(passed)
        assert set(passed) <= set(range(count))


@given(count=st.integers(8, 30), world=st.integers(2, 4), epoch=st.integers(0, 3))
def test_ranks_share_no_unlabelled_crop_in_a_pass(count: int, world: int, epoch: int) -> None:
    share = count // world
    firsts = [
        next(unlabelled_batches(count, share, 1, seed=0, epoch=epoch, rank=rank, world=world))
        for rank in range(world)
    ]
    assert len(set(np.concatenate(firsts).tolist())) == share * world


@given(count=st.integers(1, 20), rank=st.integers(0, 1), epoch=st.integers(0, 3))
def test_unlabelled_batches_follow_from_seed_and_epoch(count: int, rank: int, epoch: int) -> None:
    drawn = [
        list(unlabelled_batches(count + 1, 4, 5, seed=3, epoch=epoch, rank=rank, world=2))
        for _ in range(2)
    ]
    assert np.array_equal(*drawn)


def test_unlabelled_batches_differ_between_epochs_and_seeds() -> None:
    drawn = [
        next(unlabelled_batches(40, 20, 1, seed=seed, epoch=epoch)).tolist()
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[2]


def test_unlabelled_crops_are_drawn_apart_from_any_ranks_own_stream() -> None:
    (first,) = unlabelled_batches(50, 50, 1, seed=2, epoch=3, world=1)
    for rank in range(8):
        own = np.random.default_rng((2, 3, rank)).permutation(50)
        assert not np.array_equal(first, own), f"rank {rank} draws its crops by the same numbers"
