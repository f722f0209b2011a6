"""Crops whose colour says whose they are: pixels must follow their labels on every way in."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayreid.batch import Crops, Domain
from rayreid.data.cache import MappedPixels
from rayreid.data.loading import LoadingSettings, Pixels, TrainingSet, decoded, loaded
from rayreid.data.sampling import IdentitySampler, SamplingSettings

HEIGHT, WIDTH = 24, 16
# The data sets' own numbers: not in order, with gaps, and shared between the domains.
PEOPLE = {"one": [7, 3, 9, 3, 7, 9, 3], "two": [3, 1, 7, 7, 3, 1], "three": [9, 8, 9, 8]}
CENSUS = {"one": 3, "two": 3, "three": 2}
NAMES = tuple(PEOPLE)


def settings(**options: float | str) -> LoadingSettings:
    return LoadingSettings(height=HEIGHT, width=WIDTH, **options)


def colour(domain: str, identity: int, camera: int) -> tuple[int, int, int]:
    return 60 * NAMES.index(domain) + 10, 20 * identity + 5, 40 * camera + 15


def labels_in(pixel: np.ndarray) -> tuple[str, int, int]:
    """Return domain, own identity and camera that a colour stands for."""
    red, green, blue = (int(value) for value in pixel)
    return NAMES[red // 60], green // 20, blue // 40


def coloured(domain: str, identities: list[int]) -> Crops:
    cameras = [i % 4 for i in range(len(identities))]
    images = [
        np.full((HEIGHT, WIDTH, 3), colour(domain, person, camera), np.uint8)
        for person, camera in zip(identities, cameras, strict=True)
    ]
    return Crops(domain, np.stack(images), np.array(identities), np.array(cameras))


def on_disk(crops: Crops, folder: Path) -> Crops:
    """Return the same crops as PNG files of another size, which their names do not order."""
    folder.mkdir(parents=True)
    paths = [folder / f"{len(crops) - i}.png" for i in range(len(crops))]
    for pixels, path in zip(crops.images, paths, strict=True):
        Image.fromarray(pixels).resize((11, 37)).save(path)
    return Crops(crops.domain, paths, crops.identities, crops.cameras)


def domain(name: str, convert: Callable[[Crops, str], Crops] = lambda crops, _: crops) -> Domain:
    """Return a domain whose query and gallery show other people than its training crops."""
    parts = {"train": PEOPLE[name], "query": [2, 4], "gallery": [4, 2, 6]}
    return Domain(name, **{part: convert(coloured(name, who), part) for part, who in parts.items()})


@pytest.fixture(scope="module", params=["arrays", "decoded", "cached", "lazy", "mixed"])
def crops(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """Return the training set of all domains, their crops in memory, as files, or some of each."""
    root = tmp_path_factory.mktemp("files")

    def opened(name: str) -> Domain:
        if request.param == "arrays" or (request.param == "mixed" and name == "one"):
            return domain(name)
        files = domain(name, lambda crops, part: on_disk(crops, root / name / part))
        if request.param == "cached":
            return decoded(files, settings(cache=str(root / "cache")))
        if request.param == "decoded" or name == "two":
            return decoded(files, settings())
        return files

    return TrainingSet([opened(name) for name in NAMES], settings(memory_gib=0))


def own_labels(crops: TrainingSet, batch: list[torch.Tensor]) -> set[tuple[int, str, int]]:
    """Return (label, domain, own identity) of a batch, having compared pixels with labels."""
    pixels, identities, cameras, domains = (column.numpy() for column in batch)
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (HEIGHT, WIDTH, 3)
    seen = set()
    for crop, label, camera, d in zip(pixels, identities, cameras, domains, strict=True):
        assert (crop == crop[0, 0]).all(), "one crop is one colour"
        name, person, shown_camera = labels_in(crop[0, 0])
        assert (crops.names[d], camera) == (name, shown_camera)
        seen.add((int(label), name, person))
    return seen


def expected_labels() -> dict[int, tuple[str, int]]:
    """Return domain and own identity of each label: the domains one after the other."""
    people = [(name, person) for name in NAMES for person in sorted(set(PEOPLE[name]))]
    return dict(enumerate(people))


def test_every_crop_comes_with_its_own_labels(crops: TrainingSet) -> None:
    seen = own_labels(crops, list(crops[np.arange(len(crops))]))
    # One label a person of a domain: 3, 7 and 9 of two domains are two people each.
    assert seen == {(label, *who) for label, who in expected_labels().items()}


@given(data=st.data())
def test_pixels_follow_indices_in_any_order(crops: TrainingSet, data: st.DataObject) -> None:
    index = st.integers(0, len(crops) - 1)
    indices = np.array(data.draw(st.lists(index, min_size=1, max_size=12)))
    batch = list(crops[indices])
    assert len(batch[0]) == len(indices)
    # Crop i of a domain has camera i % 4: an index leads to its own crop, not to a lookalike.
    flat = [(name, *crop) for name in NAMES for crop in enumerate(PEOPLE[name])]
    for i, pixels in zip(indices, batch[0], strict=True):
        name, number, person = flat[i]
        assert labels_in(pixels[0, 0].numpy()) == (name, person, number % 4)
    for label, *who in own_labels(crops, batch):
        assert expected_labels()[label] == tuple(who)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_the_sampler_arrive_in_order(crops: TrainingSet, workers: int) -> None:
    sampling = SamplingSettings(identities=2, crops=2)
    sampler = IdentitySampler(sampling, crops.identities, crops.domains, crops.names, seed=0)
    drawn = list(sampler.epoch(0, 3))
    batches = list(loaded(crops, sampler.epoch(0, 3), settings(workers=workers)))
    assert len(batches) == len(drawn)
    for batch, indices in zip(batches, drawn, strict=True):
        assert batch[1].tolist() == crops.identities[indices].tolist()
        assert batch[3].tolist() == [0] * 4 + [1] * 4 + [2] * 4
        for label, *who in own_labels(crops, batch):
            assert expected_labels()[label] == tuple(who)


def test_the_census_counts_people_of_every_domain(crops: TrainingSet) -> None:
    assert dict(crops.census.identities) == CENSUS
    assert crops.census.total == sum(CENSUS.values())
    assert sorted(set(crops.identities.tolist())) == list(range(crops.census.total))
    assert len(crops) == sum(map(len, PEOPLE.values()))


def test_own_numbers_become_labels_without_gaps() -> None:
    source = Domain("one", coloured("one", [7, 3, 9]), *[coloured("one", [2])] * 2)
    assert TrainingSet([source], settings()).identities.tolist() == [1, 0, 2]


@pytest.mark.parametrize("first", [True, False])
def test_a_source_without_crops_is_refused(first: bool) -> None:
    nothing = Crops("two", [], np.empty(0, np.int64), np.empty(0, np.int64))
    empty = Domain("two", nothing, *[coloured("two", [2])] * 2)
    sources = [empty, domain("one")] if first else [domain("one"), empty]
    with pytest.raises(ValueError, match=r"source two has no crops .* only be a target"):
        TrainingSet(sources, settings())


def test_decoding_keeps_every_part_and_reports_progress(tmp_path: Path) -> None:
    files = domain("two", lambda crops, part: on_disk(crops, tmp_path / part))
    steps: list[int] = []
    made = decoded(files, settings(), steps.append)
    assert made.name == "two"
    assert sum(steps) == len(PEOPLE["two"]) + 2 + 3
    for part in ("train", "query", "gallery"):
        found, expected = getattr(made, part), getattr(domain("two"), part)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.identities, expected.identities)
        np.testing.assert_array_equal(found.cameras, expected.cameras)


def test_only_the_parts_asked_for_are_decoded(tmp_path: Path) -> None:
    files = domain("two", lambda crops, part: on_disk(crops, tmp_path / part))
    made = decoded(files, settings(), parts=("query", "gallery"))
    assert made.train.images == files.train.images
    assert isinstance(made.query.images, np.ndarray)
    assert isinstance(made.gallery.images, np.ndarray)


# Room for the gallery's three crops to the byte, and so for the query's two.
BUDGET = 3 * HEIGHT * WIDTH * 3 / 2**30


def test_without_a_cache_a_set_above_the_budget_stays_files_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = domain("two", lambda crops, part: on_disk(crops, tmp_path / part))
    with caplog.at_level(logging.WARNING):
        made = decoded(files, settings(memory_gib=BUDGET, cache="none"))
    assert made.train.images == files.train.images
    assert isinstance(made.query.images, np.ndarray)
    assert isinstance(made.gallery.images, np.ndarray)
    (record,) = caplog.records
    assert "6 train crops of two" in record.getMessage()
    assert "loading.memory_gib" in record.getMessage()
    with pytest.raises(ValueError, match=r"6 train crops of two .* to know which cannot be decod"):
        decoded(files, settings(memory_gib=BUDGET, cache="none", on_error="skip"))


def test_what_does_not_fit_into_memory_goes_into_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = domain("two", lambda crops, part: on_disk(crops, tmp_path / part))
    steps: list[int] = []
    with caplog.at_level(logging.WARNING):
        made = decoded(files, settings(memory_gib=BUDGET), steps.append)
        again = decoded(files, settings(memory_gib=BUDGET), steps.append)
    assert sum(steps) == 2 * (6 + 2 + 3)
    assert f"they are kept in {tmp_path}/xdg/rayreid" in caplog.messages[0]
    for found in (made, again):
        assert isinstance(found.train.images, MappedPixels)
        assert not isinstance(found.gallery.images, MappedPixels)
        np.testing.assert_array_equal(found.train.images, domain("two").train.images)
    assert len(list((tmp_path / "xdg").rglob("*.pixels"))) == 1


def test_what_fits_into_memory_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    files = domain("two", lambda crops, part: on_disk(crops, tmp_path / part))
    decoded(files, settings())
    assert not (tmp_path / "xdg").exists()


def test_a_chosen_cache_holds_every_part_by_content_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cache"

    def cached(files: Domain, **options: float | str) -> int:
        made = decoded(files, settings(cache=str(place)).model_copy(update=options))
        for part in ("train", "query", "gallery"):
            assert isinstance(getattr(made, part).images, MappedPixels)
        return len(list(place.glob("*.pixels")))

    files = domain("two", lambda crops, part: on_disk(crops, tmp_path / "a" / part))
    assert cached(files) == 3
    # The same crops in another place are the same crops.
    assert cached(domain("two", lambda crops, part: on_disk(crops, tmp_path / "b" / part))) == 3
    assert cached(files, height=HEIGHT + 1) == 6
    assert cached(files, height=WIDTH, width=HEIGHT) == 9
    Image.new("RGB", (11, 37), (1, 2, 3)).save(files.query.images[0])
    assert cached(files) == 10
    monkeypatch.setattr("rayreid.data.keeping.DECODER", "another")
    assert cached(files) == 13


def test_a_place_for_the_cache_is_one_wherever_a_worker_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings(cache="sub/cache").cache == str(tmp_path / "sub" / "cache")
    for same in ("", "none", "~/cache", "/scratch"):
        assert settings(cache=same).cache == same


def damaged(tmp_path: Path, *broken: int) -> Domain:
    """Return a domain of forty training crops, some of them no images."""
    crops = on_disk(coloured("one", [3, 7, 9, 7] * 10), tmp_path / "train")
    crops = replace(crops, times=np.arange(40.0))
    for index in broken:
        crops.images[index].write_bytes(b"no image")
    return Domain("one", crops, *[coloured("one", [2])] * 2)


@pytest.mark.parametrize("cache", ["", "chosen"])
def test_crops_that_cannot_be_decoded_are_left_out_and_told(
    tmp_path: Path, cache: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Seven crops at a time: a crop is known by its place in the whole set.
    monkeypatch.setattr("rayreid.data.keeping._AT_ONCE", 7 * HEIGHT * WIDTH * 3)
    files = damaged(tmp_path, 5, 22)
    options = settings(on_error="skip", cache=cache)
    with caplog.at_level(logging.WARNING):
        made = decoded(files, options).train
    (message,) = caplog.messages
    assert message.startswith("2 of 40 train crops of one are left out, the first: ")
    assert f"{files.train.images[5]} is not an image" in message
    kept = [i for i in range(40) if i not in (5, 22)]
    assert made.identities.tolist() == files.train.identities[kept].tolist()
    assert made.cameras.tolist() == files.train.cameras[kept].tolist()
    assert made.times is not None
    assert made.times.tolist() == kept
    assert len(made.images) == 38
    left = TrainingSet([Domain("one", made, files.query, files.gallery)], options)
    own_labels(left, list(left[np.arange(38)]))
    if cache:
        decoded(files, options)
        assert caplog.messages == [message] * 2
    with pytest.raises(ValueError, match=rf"^{files.train.images[5]} is not an image"):
        decoded(files, options.model_copy(update={"on_error": "fail"}))


@pytest.mark.parametrize("cache", ["", "chosen"])
def test_a_damaged_set_is_refused(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = damaged(tmp_path, 5, 22, 30)
    with pytest.raises(ValueError, match=r"^3 of 40 crops cannot be decoded, more than the 5% th"):
        decoded(files, settings(on_error="skip", cache=cache))
    assert not list(tmp_path.rglob("*.pixels"))


def test_crops_without_any_problem_are_not_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = decoded(damaged(tmp_path), settings(on_error="skip"))
    assert not caplog.messages
    assert len(made.train) == 40


def test_files_are_read_by_index_like_arrays(tmp_path: Path) -> None:
    here = coloured("one", PEOPLE["one"])
    there = on_disk(here, tmp_path / "files")
    arrays, files = (Pixels(crops.images, settings()) for crops in (here, there))
    assert len(arrays) == len(files) == 7
    indices = np.array([5, 0, 0, 6])
    np.testing.assert_array_equal(files[indices], arrays[indices])
    np.testing.assert_array_equal(arrays[indices], here.images[indices])
