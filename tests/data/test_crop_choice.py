from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayreid.data.crop_choice import crops_by_camera, crops_by_identity, drawn, shares

SEEDS = st.integers(0, 10**6)
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
"""Of each camera, the number of crops that an identity has of it."""


def parts(sizes: list[int]) -> list[np.ndarray]:
    """Return the crops of an identity, those of camera ``c`` being ``10 c, 10 c + 1, ...``."""
    return [10 * camera + np.arange(size) for camera, size in enumerate(sizes)]


def fairest(sizes: list[int], wanted: int) -> list[int]:
    """Return the most even numbers of crops that the cameras may give, by trying all."""
    most = [range(min(size, wanted) + 1) for size in sizes]
    if wanted > sum(sizes):
        most = [range(size, wanted + 1) for size in sizes]
    possible = [sorted(counts) for counts in product(*most) if sum(counts) == wanted]
    return max(possible)


@given(sizes=SIZES, wanted=st.integers(1, 9), seed=SEEDS)
def test_shares_are_as_even_as_they_go(sizes: list[int], wanted: int, seed: int) -> None:
    given = shares(sizes, wanted, np.random.default_rng(seed))
    assert sorted(given) == fairest(sizes, wanted)
    pairs = list(zip(given, sizes, strict=True))
    assert all(count <= size for count, size in pairs) or all(c >= size for c, size in pairs)


def test_which_cameras_give_more_is_random() -> None:
    found = {tuple(shares([3, 3, 3], 2, np.random.default_rng(seed))) for seed in range(40)}
    assert found == {(1, 1, 0), (1, 0, 1), (0, 1, 1)}


@given(sizes=SIZES, wanted=st.integers(1, 9), seed=SEEDS)
def test_every_crop_is_drawn_once_before_any_is_again(
    sizes: list[int], wanted: int, seed: int
) -> None:
    chosen = drawn(parts(sizes), wanted, np.random.default_rng(seed)).tolist()
    assert len(chosen) == wanted
    assert len(set(chosen)) == min(wanted, sum(sizes))
    assert set(chosen) <= set(np.concatenate(parts(sizes)).tolist())
    # And each camera gives its share.
    counts = np.bincount(np.array(chosen) // 10, minlength=len(sizes))
    assert sorted(counts.tolist()) == fairest(sizes, wanted)


def test_every_crop_of_every_camera_is_drawn_in_time() -> None:
    rng = np.random.default_rng(0)
    seen = {int(crop) for _ in range(60) for crop in drawn(parts([4, 1, 7]), 3, rng)}
    assert seen == set(np.concatenate(parts([4, 1, 7])).tolist())


def test_crops_are_grouped_by_identity_and_by_camera() -> None:
    identities = np.array([5, 2, 5, 2, 5, 2])
    cameras = np.array([1, 3, 0, 3, 1, -1])
    crops = crops_by_identity(identities)
    assert {person: own.tolist() for person, own in crops.items()} == {2: [1, 3, 5], 5: [0, 2, 4]}
    apart = crops_by_camera(crops, cameras)
    assert {person: [part.tolist() for part in own] for person, own in apart.items()} == {
        2: [[5], [1, 3]],
        5: [[2], [0, 4]],
    }


@given(count=st.integers(1, 9), camera=st.integers(-1, 3))
def test_without_cameras_an_identitys_crops_are_together(count: int, camera: int) -> None:
    crops = crops_by_identity(np.random.default_rng(count).integers(0, 3, count))
    constant = crops_by_camera(crops, np.full(count, camera))
    for person, (own,) in crops_by_camera(crops, None).items():
        (same,) = constant[person]
        assert np.array_equal(own, crops[person])
        assert np.array_equal(own, same)
