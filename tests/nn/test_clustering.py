"""Clusterings against slow transcriptions, and against scikit-learn's where it is installed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.nn.clustering import centred_by_camera, cluster_means, dbscan, kmeans

SEEDS = st.integers(0, 10**6)


def scattered(seed: int, count: int, width: int = 2) -> torch.Tensor:
    return torch.rand(count, width, generator=torch.Generator().manual_seed(seed))


def lattice(seed: int, count: int, side: int) -> torch.Tensor:
    """Return points whose distances fp32 has exactly, so that no neighbour hangs on a rounding."""
    return torch.randint(side, (count, 2), generator=torch.Generator().manual_seed(seed)).float()


def blobs(seed: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points around three far corners, and whose each is."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(3, (count,), generator=generator)
    corners = torch.tensor([[0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    return corners[owner] + 0.3 * torch.randn(count, 3, generator=generator), owner


def slow_dbscan(points: torch.Tensor, radius: float, neighbours: int) -> list[int]:
    """Transcribe Ester et al. (1996): clusters one after the other, each by breadth."""
    size = len(points)
    near = [
        [j for j in range(size) if math.dist(points[i], points[j]) <= radius] for i in range(size)
    ]
    labels, cluster = [-1] * size, 0
    for start in range(size):
        if labels[start] >= 0 or len(near[start]) < neighbours:
            continue
        queue = [start]
        while queue:
            point = queue.pop(0)
            if labels[point] >= 0:
                continue
            labels[point] = cluster
            if len(near[point]) >= neighbours:
                queue += near[point]
        cluster += 1
    return labels


@given(
    seed=SEEDS,
    count=st.integers(1, 40),
    radius=st.sampled_from([0.5, 1.2, 2.1, 3.1, 6.5]),
    neighbours=st.integers(1, 6),
)
def test_dbscan_is_its_algorithm(seed: int, count: int, radius: float, neighbours: int) -> None:
    points = lattice(seed, count, 16)
    assert dbscan(points, radius, neighbours).tolist() == slow_dbscan(points, radius, neighbours)


@pytest.mark.parametrize("seed", range(5))
def test_dbscan_is_scikit_learns(seed: int) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    # More points than fit one block of rows.
    points = lattice(seed, 1500, 120)
    reference = cluster.DBSCAN(eps=2.5, min_samples=4).fit_predict(points.numpy())
    found = dbscan(points, 2.5, 4)
    assert len(set(reference)) > 20
    assert (reference == -1).any()
    assert found.tolist() == reference.tolist()


def test_dbscan_of_unit_vectors_is_scikit_learns() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    centres = scattered(0, 12, 64) - 0.5
    points = centres.repeat_interleave(9, 0) + 0.4 * (scattered(1, 108, 64) - 0.5)
    points = torch.nn.functional.normalize(points)
    reference = cluster.DBSCAN(eps=0.6, min_samples=4).fit_predict(points.numpy())
    assert reference.max() > 5
    assert dbscan(points, 0.6, 4).tolist() == reference.tolist()


def test_dbscan_of_nothing_near_is_all_outliers() -> None:
    points = torch.arange(5.0)[:, None] * 10
    assert dbscan(points, 1.0, 2).tolist() == [-1] * 5
    assert dbscan(points, 1.0, 1).tolist() == [0, 1, 2, 3, 4]
    assert dbscan(points, 100.0, 2).tolist() == [0] * 5


def test_dbscan_gives_a_border_point_to_the_first_cluster() -> None:
    points = torch.tensor([0.0, 0.1, 0.2, 0.3, 1.2, 2.1, 2.2, 2.3, 2.4])[:, None]
    assert dbscan(points, 0.95, 4).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


@given(seed=SEEDS, count=st.integers(1, 30), clusters=st.integers(1, 8))
def test_kmeans_ends_where_nothing_moves(seed: int, count: int, clusters: int) -> None:
    points = scattered(seed, count)
    labels = kmeans(points, clusters, seed).tolist()
    assert set(labels) == set(range(max(labels) + 1)), "no number is left out"
    assert len(set(labels)) <= min(clusters, count)
    members = [[points[i] for i in range(count) if labels[i] == k] for k in range(max(labels) + 1)]
    means = [torch.stack(group).mean(0) for group in members]
    for point, label in zip(points, labels, strict=True):
        distances = [math.dist(point, mean) for mean in means]
        assert distances[label] <= min(distances) + 1e-4


@given(seed=SEEDS)
def test_kmeans_finds_blobs(seed: int) -> None:
    points, owner = blobs(seed)
    labels = kmeans(points, 3, seed=0)
    for blob in owner.unique():
        assert len(labels[owner == blob].unique()) == 1
    assert labels.max() + 1 == len(owner.unique())


def test_kmeans_is_no_worse_than_scikit_learns() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    points = scattered(3, 200)
    labels = kmeans(points, 8, seed=0)
    apart = (points - cluster_means(points, labels, 8)[labels]).square().sum().item()
    runs = [cluster.KMeans(8, n_init=1, random_state=k).fit(points.numpy()) for k in range(10)]
    assert apart <= 1.05 * max(run.inertia_ for run in runs)


def test_kmeans_follows_from_its_seed_alone() -> None:
    points = scattered(4, 80)
    first = kmeans(points, 9, seed=5)
    torch.rand(3)
    assert torch.equal(kmeans(points, 9, seed=5), first)
    assert not torch.equal(kmeans(points, 9, seed=6), first)


def test_kmeans_of_equal_points_is_one_cluster() -> None:
    assert kmeans(torch.ones(6, 4), 3, seed=0).tolist() == [0] * 6


@given(seed=SEEDS, labels=st.lists(st.integers(-1, 3), min_size=1, max_size=12))
def test_cluster_means_are_means(seed: int, labels: list[int]) -> None:
    points = scattered(seed, len(labels), 3)
    means = cluster_means(points, torch.tensor(labels), 4)
    for k in range(4):
        members = [points[i] for i, label in enumerate(labels) if label == k]
        if members:
            assert torch.allclose(means[k], torch.stack(members).mean(0), atol=1e-6)
        else:
            assert means[k].isnan().all()


@given(seed=SEEDS, count=st.integers(4, 20), cameras=st.integers(2, 4))
def test_cameras_are_centred_and_their_offsets_do_not_matter(
    seed: int, count: int, cameras: int
) -> None:
    points = scattered(seed, count, 3)
    which = torch.arange(count) % cameras
    centred = centred_by_camera(points, which)
    for camera in range(cameras):
        own = points[which == camera]
        wanted = own - own.mean(0)
        length = wanted.norm(dim=1, keepdim=True).clamp(min=1e-12)
        assert torch.allclose(centred[which == camera], wanted / length, atol=1e-4)
    offsets = 5 * scattered(seed + 1, cameras, 3)
    moved = centred_by_camera(points + offsets[which], which * 7 - 3)
    # A crop alone in its camera becomes zero, up to rounding that has no direction.
    apart = torch.bincount(which)[which] > 1
    assert torch.allclose(moved[apart], centred[apart], atol=1e-3)


def test_one_camera_is_left_as_it_is() -> None:
    points = scattered(0, 5, 3)
    assert centred_by_camera(points, torch.full((5,), 9)) is points
