"""Data sets by name, and a folder of JPEG files all the way through training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayreid.batch import Domain
from rayreid.data.loading import LoadingSettings, decoded
from rayreid.data.sources import SyntheticSettings, canonical, domain_name, open_source, same_place
from rayreid.data.synthetic import draw_domain
from rayreid.experiment import Experiment, compose
from rayreid.gallery import Target
from rayreid.learn import learn
from tests.data.market import colour, make_market

LOADING = LoadingSettings(height=64, width=32)
SYNTHETIC = SyntheticSettings(train_people=3, test_people=2, cameras=2, crops=2, seed=5)


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return make_market(tmp_path / "Mini-Market")


def experiment(root: Path, **assignments: object) -> Experiment:
    return compose(
        "gmn",
        {
            "sources": [f"market1501={root}"],
            "trunk.name": "test_resnet",
            "trunk.weights": "none",
            "loading.height": 64,
            "loading.width": 32,
            "sampling.identities": 2,
            "sampling.crops": 2,
            "config.hidden": 8,
            "epochs": 1,
            "steps_per_epoch": 2,
        },
        {path.replace("__", "."): value for path, value in assignments.items()},
    )


def opened(made: Experiment) -> Domain:
    (source,) = made.sources
    return open_source(source, made.loading, made.synthetic)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("plaza-noon", r"'plaza-noon' is not a data set; write layout=location"),
        ("market1501=", r"'market1501=' is not a data set"),
        ("", r"'' is not a data set"),
        ("market1510=/data", r"no layout 'market1510'; did you mean 'market1501'"),
        ("=/data", r"no layout ''; there are synthetic, packed, market1501"),
        ("Synthetic=snow", r"no layout 'Synthetic'; did you mean 'synthetic'"),
        ("synthetic=plaza-noo", r"did you mean 'plaza-noon'"),
    ],
)
def test_what_is_no_source_is_named(source: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        canonical(source)
    with pytest.raises(ValueError, match=said):
        open_source(source, LOADING, SYNTHETIC)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path.resolve()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here / "home"))
    assert canonical("market1501=sets/market") == f"market1501={here}/sets/market"
    assert canonical("market1501=./a/../b/") == f"market1501={here}/b"
    assert canonical("market1501=~/market") == f"market1501={here}/home/market"
    # A path may hold the sign that ends the layout.
    assert canonical("market1501=/data/a=b") == "market1501=/data/a=b"
    assert canonical(canonical("market1501=market")) == canonical("market1501=market")


def test_an_address_of_a_packed_set_stays_one() -> None:
    store = "packed=s3://bucket/sets/Market-1501"
    at = "?endpoint_override=localhost:9000&scheme=http"
    assert canonical(store + at) == store + at
    assert canonical(f"{store}/") == canonical(store) == store
    assert canonical("packed:all=s3://bucket/a") == "packed:all=s3://bucket/a"
    assert domain_name(store + at) == domain_name(store) == "Market-1501"
    assert domain_name("packed=s3://bucket?scheme=http") == "bucket"
    assert same_place(store, f"packed:all=s3://bucket/sets/Market-1501/{at}")
    assert not same_place(store, "packed=s3://other/sets/Market-1501")
    assert not same_place(store, "packed=gs://bucket/sets/Market-1501")


def test_a_folder_of_a_packed_set_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical("packed=sets/a") == f"packed={tmp_path.resolve()}/sets/a"
    assert canonical(f"packed=file://{tmp_path}/a") == canonical("packed=a")
    assert same_place("packed=a", "market1501=a")
    assert domain_name("packed=sets/what?") == "what?"


def test_a_drawn_domain_is_no_path() -> None:
    assert canonical("synthetic=snow") == "synthetic=snow"


def test_one_folder_by_two_paths_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "market").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "market")
    assert canonical(f"market1501={tmp_path}/link") == canonical(f"market1501={tmp_path}/market")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("synthetic=plaza-noon", "plaza-noon"),
        ("market1501=/data/Market-1501", "Market-1501"),
        ("market1501=/data/Market-1501/", "Market-1501"),
        ("market1501=/data/a=b", "a=b"),
    ],
)
def test_the_short_name_is_the_last_part(source: str, name: str) -> None:
    assert domain_name(source) == name


def test_drawn_crops_have_the_size_of_loading_and_the_settings() -> None:
    found = open_source("synthetic=snow", LOADING, SYNTHETIC)
    assert found.name == "snow"
    assert found.train.images.shape == (3 * 2 * 2, 64, 32, 3)
    assert len(set(found.train.identities.tolist())) == 3
    expected = draw_domain(
        "snow", train_people=3, test_people=2, cameras=2, crops=2, seed=5, height=64, width=32
    )
    for part in ("train", "query", "gallery"):
        one, other = getattr(found, part), getattr(expected, part)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.identities, other.identities)
    # The settings that are at their defaults above reach the drawing as well.
    other = SYNTHETIC.model_copy(update={"strength": 0.2})
    weaker = open_source("synthetic=snow", LOADING, other)
    assert not np.array_equal(weaker.train.images, found.train.images)


def test_a_folder_is_read_with_its_labels(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(market.parent)
    found = open_source("market1501=Mini-Market", LOADING, SYNTHETIC)
    assert found.name == "Mini-Market"
    assert found.train.identities.tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert found.train.cameras.tolist() == [1, 1, 2, 2] * 4
    assert found.query.identities.tolist() == [5, 5, 6, 6]
    assert found.gallery.identities.tolist() == [0] * 4 + [5] * 4 + [6] * 4
    assert all(path.is_absolute() for path in found.train.images)
    kept = decoded(found, LOADING)
    for crops in (kept.train, kept.query, kept.gallery):
        people = zip(crops.identities.tolist(), crops.cameras.tolist(), strict=True)
        for pixels, (person, camera) in zip(crops.images, people, strict=True):
            assert pixels.shape == (64, 32, 3)
            # JPEG moves a flat colour by a few levels; people are 20 and more apart.
            assert np.abs(pixels - np.array(colour(person, camera), float)).max() < 6


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(f"market1501={tmp_path}/nowhere", LOADING, SYNTHETIC)


def test_a_folder_is_learnt_from_and_ranked(market: Path) -> None:
    made = experiment(market)
    files = opened(made)
    kept = decoded(files, made.loading)
    found = []
    for domain in (files, kept):
        (epoch,) = learn(made, [domain], targets=[Target(domain, made.loading)])
        assert dict(epoch.learner.census.identities) == {"Mini-Market": 4}
        assert all(np.isfinite(value) for value in epoch.losses.values())
        assert epoch.rankings["Mini-Market"].queries == 4
        found.append((epoch.losses, epoch.rankings))
    # Read from files at every step or kept in memory: the same run.
    assert found[0] == found[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named(market: Path, workers: int) -> None:
    made = experiment(market, loading__workers=workers)
    domain = opened(made)
    broken = domain.train.images[6]
    broken.write_bytes(broken.read_bytes()[:-80])
    with pytest.raises(ValueError, match=rf"{broken} is a damaged image"):
        decoded(domain, made.loading)
    # Four of the sixteen crops are in a batch: thirty batches have seen them all.
    made = experiment(market, loading__workers=workers, steps_per_epoch=30)
    with pytest.raises(ValueError, match=rf"{broken} is a damaged image"):
        next(learn(made, [domain]))


def test_people_who_may_share_a_number_are_not_joined(market: Path) -> None:
    crop = market / "bounding_box_train" / "0005_c1s1_000009_00.jpg"
    Image.new("RGB", (30, 70)).save(crop)
    with pytest.raises(ValueError, match="has identity 5 both among its training crops and among"):
        open_source(f"market1501:all={market}", LOADING, SYNTHETIC)


def test_nothing_adapts_to_the_crops_it_is_ranked_on(market: Path) -> None:
    given = {"sources": ["synthetic=snow"], "target": f"market1501:all={market}"}
    with pytest.raises(ValueError, match="has its query and gallery among them"):
        compose("daam", given)


def test_a_whole_set_is_there_to_learn_from(market: Path) -> None:
    domain = open_source(f"market1501:all={market}", LOADING, SYNTHETIC)
    assert sorted(set(domain.train.identities.tolist())) == [1, 2, 3, 4, 5, 6]
    assert len(domain.train) == 4 * 4 + 2 * 2 + 2 * 4
    assert domain.train.times is not None
    assert len(domain.train.times) == len(domain.train.images) == len(domain.train)
    assert not len(domain.query)
    assert not len(domain.gallery)
    with pytest.raises(ValueError, match="has no query crops to rank"):
        Target(domain, LOADING)
