import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.batch import Domain
from rayreid.checkpoint import build
from rayreid.data.sampling import IdentitySampler, SamplingSettings, unlabelled_batches
from rayreid.data.synthetic import draw_domain
from rayreid.experiment import compose
from rayreid.feed import Feed
from rayreid.learn import learn
from tests.miniature import MINIATURE

PEOPLE = st.lists(st.lists(st.integers(1, 7), min_size=4, max_size=9), min_size=1, max_size=3)


KINDS = ("identities", "one_domain", "pooled")


def sampler(
    counts: list[list[int]],
    people: int = 2,
    crops: int = 3,
    *,
    kind: str = "identities",
    cameras: int | None = None,
    **options: int,
) -> IdentitySampler:
    """Return a sampler over domains whose identities have the given numbers of crops.

    With ``cameras``, each identity's crops are spread over so many.
    """
    identities, domains, label = [], [], 0
    for domain, sizes in enumerate(counts):
        for size in sizes:
            identities += [label] * size
            domains += [domain] * size
            label += 1
    shuffled = np.random.default_rng(0).permutation(len(identities))
    options.setdefault("seed", 0)
    return IdentitySampler(
        SamplingSettings(
            kind=kind, identities=people, crops=crops, across_cameras=cameras is not None
        ),
        np.array(identities)[shuffled],
        np.array(domains)[shuffled],
        tuple(f"domain{d}" for d in range(len(counts))),
        cameras=np.random.default_rng(1).integers(0, cameras or 1, len(identities)),
        **options,
    )


def owner(of: IdentitySampler) -> dict[int, int]:
    return {int(crop): person for person, crops in of.crops.items() for crop in crops}


def who(made: IdentitySampler, epoch: int, steps: int) -> list[list[int]]:
    """Return the identities of each batch, one after the other."""
    people = owner(made)
    return [
        [people[int(crop)] for crop in batch[:: made.settings.crops]]
        for batch in made.epoch(epoch, steps)
    ]


# The streams that figures were measured with.

MEASURED_COUNTS = [[5, 1, 7, 3, 4, 2, 9, 4, 6, 3, 1], [2, 2, 8, 4, 1, 3, 5, 6, 4]]


def digest(batches: Iterable[np.ndarray]) -> str:
    drawn = hashlib.sha256()
    for batch in batches:
        drawn.update(np.asarray(batch, np.int64).tobytes())
    return drawn.hexdigest()[:16]


@pytest.mark.parametrize(
    ("seed", "rank", "world", "expected"),
    [
        (0, 0, 1, "cd233de11a8be2ac"),
        (0, 0, 2, "a61ec080855d32f3"),
        (0, 1, 2, "248bd5b3b84664af"),
        (7, 0, 1, "68fa024b2688d468"),
        (7, 0, 2, "4e3bbad9773909e1"),
        (7, 1, 2, "3831e8ec5b835fc1"),
    ],
)
def test_batches_are_those_that_figures_were_measured_with(
    seed: int, rank: int, world: int, expected: str
) -> None:
    made = sampler(MEASURED_COUNTS, 3, 4, seed=seed, rank=rank, world=world)
    assert digest(batch for epoch in (0, 3) for batch in made.epoch(epoch, 9)) == expected


def test_unlabelled_batches_are_those_that_figures_were_measured_with() -> None:
    batches = unlabelled_batches(23, 8, 9, seed=7, epoch=3, rank=1, world=2)
    assert digest(batches) == "8b879fc942888bce"


# P identities of every domain.


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


@given(
    counts=PEOPLE,
    epoch=st.integers(0, 5),
    kind=st.sampled_from(KINDS),
    cameras=st.sampled_from([None, 1, 3]),
)
def test_an_epoch_follows_from_its_number_alone(
    counts: list[list[int]], epoch: int, kind: str, cameras: int | None
) -> None:
    if kind == "one_domain":
        counts = [sizes * 3 for sizes in counts]
    made, other = (sampler(counts, kind=kind, cameras=cameras) for _ in range(2))
    for _ in other.epoch(epoch + 1, 2):
        pass
    pairs = zip(made.epoch(epoch, 4), other.epoch(epoch, 4), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_and_seeds_differ(kind: str) -> None:
    counts = [[4] * 9, [4] * 9]
    first = list(sampler(counts, kind=kind).epoch(0, 3))
    assert not np.array_equal(first, list(sampler(counts, kind=kind).epoch(1, 3)))
    assert not np.array_equal(first, list(sampler(counts, kind=kind, seed=1).epoch(0, 3)))


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


# One domain at a time, and all people together.


@given(
    people=st.lists(st.integers(12, 30), min_size=1, max_size=3),
    world=st.integers(1, 2),
    epoch=st.integers(0, 3),
)
def test_one_domain_is_in_its_turn_on_all_ranks(people: list[int], world: int, epoch: int) -> None:
    counts, sources = [[3] * n for n in people], len(people)
    ranks = [sampler(counts, kind="one_domain", rank=r, world=world) for r in range(world)]
    domain_of = {int(p): d for d, own in enumerate(ranks[0].people) for p in own}
    # An epoch has the passes over the largest domain, the others taking turns with it.
    assert ranks[0].steps == max(people) // world // (2 * sources) * sources
    steps = 3 * sources
    drawn = [who(made, epoch, steps) for made in ranks]
    turns = []
    for batches in zip(*drawn, strict=True):
        (domain,) = {domain_of[person] for batch in batches for person in batch}
        assert all(len(set(batch)) == len(batch) == 2 * sources for batch in batches)
        turns.append(domain)
    for start in range(0, steps, sources):
        assert sorted(turns[start : start + sources]) == list(range(sources))
    # Of the first pass over a domain, no rank and no batch shares an identity.
    for domain, count in enumerate(people):
        full = count // world // (2 * sources)
        passed = [
            person
            for batches in drawn
            for batch in [b for b, turn in zip(batches, turns, strict=True) if turn == domain][
                :full
            ]
            for person in batch
        ]
        assert len(set(passed)) == len(passed)


def test_the_turns_of_domains_are_shuffled_anew() -> None:
    made = sampler([[2] * 9] * 3, kind="one_domain")
    turns = [batch[0] // 9 for batch in who(made, 0, 30)]
    assert len({tuple(turns[i : i + 3]) for i in range(0, 30, 3)}) > 2


@given(
    people=st.lists(st.integers(1, 20), min_size=1, max_size=3).filter(lambda n: sum(n) >= 12),
    world=st.integers(1, 2),
    epoch=st.integers(0, 3),
)
def test_a_pass_over_pooled_people_repeats_nobody(
    people: list[int], world: int, epoch: int
) -> None:
    counts, size = [[3] * n for n in people], 2 * len(people)
    ranks = [sampler(counts, kind="pooled", rank=r, world=world) for r in range(world)]
    batches = [batch for made in ranks for batch in who(made, epoch, made.steps)]
    assert all(len(batch) == size for batch in batches)
    passed = [person for batch in batches for person in batch]
    assert len(set(passed)) == len(passed)
    assert len(passed) == sum(people) // world // size * size * world


def test_pooled_people_are_drawn_in_proportion_to_their_number() -> None:
    # 24 people divide by 6 a batch: four batches pass everybody, big domain or small.
    made = sampler([[3] * 15, [3], [3] * 8], kind="pooled")
    assert made.steps == 4
    drawn = Counter(person for batch in who(made, 0, 8) for person in batch)
    assert drawn == dict.fromkeys(range(24), 2)
    # And a batch is not balanced: the domain of one is in one batch in four.
    assert sum(15 in batch for batch in who(made, 0, 4)) == 1


@given(counts=PEOPLE.map(lambda domains: domains[:1]), epoch=st.integers(0, 3))
def test_of_one_source_the_kinds_are_the_same(counts: list[list[int]], epoch: int) -> None:
    one, *others = (sampler(counts, kind=kind) for kind in KINDS)
    for other in others:
        assert other.steps == one.steps
        pairs = zip(one.epoch(epoch, 4), other.epoch(epoch, 4), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


@given(
    counts=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=8), min_size=1, max_size=3),
    people=st.integers(2, 4),
    crops=st.integers(2, 5),
    world=st.integers(1, 9),
    kind=st.sampled_from(KINDS),
    cameras=st.sampled_from([None, 1, 3]),
)
def test_a_small_set_gives_whole_batches_or_a_sentence(
    counts: list[list[int]], people: int, crops: int, world: int, kind: str, cameras: int | None
) -> None:
    options = {"kind": kind, "cameras": cameras, "rank": world - 1, "world": world}
    pools = [sum(map(len, counts))] if kind == "pooled" else [len(sizes) for sizes in counts]
    each = people if kind == "identities" else people * len(counts)
    if min(pools) // world < each:
        said = rf" ha(s|ve) \d+ identities .* {world} worker.*sampling.identities={people}"
        with pytest.raises(ValueError, match=said):
            sampler(counts, people, crops, **options)
        return
    made = sampler(counts, people, crops, **options)
    assert made.steps >= 1
    for batch in made.epoch(0, made.steps + 2):
        rows = batch.reshape(people * len(counts), crops)
        assert all(len({owner(made)[int(crop)] for crop in row}) == 1 for row in rows)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "one_domain",
            r"^source domain1 has 3 identities to learn from, too few for 1 worker\(s\) x "
            r"sampling.identities=2 x 2 source\(s\), a batch of sampling.kind=one_domain; "
            r"lower either$",
        ),
        ("pooled", r"^the sources together have 11 identities .* 3 worker\(s\) x .*=pooled;"),
    ],
)
def test_too_few_identities_are_named_whatever_the_kind(kind: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sampler([[4] * 8, [4] * 3], kind=kind, world=3 if kind == "pooled" else 1)


# Which crops of an identity.


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


@given(counts=PEOPLE, crops=st.integers(2, 5), epoch=st.integers(0, 3))
def test_crops_are_spread_over_cameras(counts: list[list[int]], crops: int, epoch: int) -> None:
    made = sampler(counts, crops=crops, cameras=3)
    for batch in made.epoch(epoch, 3):
        for row in batch.reshape(-1, crops).tolist():
            parts = made.cameras[owner(made)[row[0]]]
            taken = [sum(crop in row for crop in part) for part in parts]
            assert sum(count > 0 for count in taken) == min(crops, len(parts))


@given(counts=PEOPLE, kind=st.sampled_from(KINDS), epoch=st.integers(0, 3))
def test_without_cameras_crops_are_drawn_as_ever(
    counts: list[list[int]], kind: str, epoch: int
) -> None:
    counts = [sizes * 3 for sizes in counts]
    plain, across = (sampler(counts, kind=kind, cameras=cameras) for cameras in (None, 1))
    pairs = zip(plain.epoch(epoch, 4), across.epoch(epoch, 4), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


# In a run.


@pytest.fixture(scope="module")
def domains() -> list[Domain]:
    size = {"train_people": 13, "test_people": 4, "cameras": 2, "crops": 3}
    return [draw_domain(name, **size, height=64, width=32) for name in ("snow", "subway")]


@pytest.mark.parametrize("kind", [*KINDS, "graph"])
def test_a_feeds_batches_are_as_large_and_over_cameras_whatever_the_kind(
    domains: list[Domain], kind: str
) -> None:
    made = compose("gmn", MINIATURE, {"sampling.kind": kind, "sampling.across_cameras": True})
    feed = Feed(made, domains, None, rank=0, world=1, device=torch.device("cpu"))
    for _, people, cameras, sources in feed.epoch(0, build(made, feed.census)):
        assert len(people) == 2 * 3 * 2
        assert (len(sources.unique()) == 1) == (kind == "one_domain")
        for pair, seen in zip(people.view(-1, 2), cameras.view(-1, 2), strict=True):
            assert pair[0] == pair[1]
            assert seen[0] != seen[1]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_run_learns_from_batches_of_any_kind(domains: list[Domain], kind: str) -> None:
    made = compose("gmn", MINIATURE, {"sampling.kind": kind, "epochs": 1})
    (epoch,) = learn(made, domains)
    assert all(np.isfinite(loss) for loss in epoch.losses.values())


# Crops without labels.


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
