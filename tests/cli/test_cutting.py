"""How the verb that asks a service cuts its pairs into requests."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayreid.cli import cutting
from rayreid.cli.cutting import Pair, Size, answers, halves, requests, size
from rayreid.client import ServiceError
from rayreid.serve.settings import Limits

FILES = [Path(f"{name}.jpg") for name in "abcdefgh"]
PAIRS = st.lists(st.tuples(st.sampled_from(FILES), st.sampled_from(FILES)), min_size=1, max_size=40)
SIZES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=len(FILES), max_size=len(FILES)
)


def test_the_bounds_are_within_what_a_service_takes() -> None:
    limits = Limits()
    rest = cutting.PAIRS * len("[127, 127], ") + cutting.IMAGES * 200 + 1000
    assert limits.body_bytes >= cutting.BYTES + rest
    assert limits.all_pixels >= cutting.PIXELS
    assert limits.images >= cutting.IMAGES
    assert limits.pairs >= cutting.PAIRS
    # So that no two images that are taken each are too much together.
    assert 2 * limits.pixels <= cutting.PIXELS
    assert 2 * limits.image_bytes <= cutting.BYTES


def within(pairs: list[Pair], sizes: dict[Path, Size], images: int, most: int) -> bool:
    """Return whether pairs keep bounds of images and pairs, and 20 bytes and pixels."""
    files = {file for pair in pairs for file in pair}
    total = [sum(sizes[file][side] for file in files) for side in (0, 1)]
    return len(files) <= images and len(pairs) <= most and max(total) <= 20


@given(pairs=PAIRS, sizes=SIZES, images=st.integers(2, 8), most=st.integers(1, 9))
def test_each_pair_is_in_one_request_that_keeps_all_bounds(
    pairs: list[Pair], sizes: list[tuple[int, int]], images: int, most: int
) -> None:
    known = {file: Size(*one) for file, one in zip(FILES, sizes, strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("IMAGES", images), ("PAIRS", most), ("BYTES", 20), ("PIXELS", 20)):
            patch.setattr(cutting, name, value)
        patch.setattr(cutting, "size", known.__getitem__)
        cut = list(requests(pairs))
    assert Counter(n for some in cut for n in some) == Counter(range(len(pairs)))
    for some in cut:
        assert len(some) == 1 or within([pairs[n] for n in some], known, images, most)
    if within(pairs, known, images, most):
        assert cut == [list(range(len(pairs)))]


@given(pairs=PAIRS.filter(lambda pairs: len(pairs) > 1))
def test_halves_are_two_parts_of_whatever_is_more_than_a_pair(pairs: list[Pair]) -> None:
    one, other = halves(pairs, range(len(pairs)))
    assert one
    assert other
    assert sorted(one + other) == list(range(len(pairs)))


def test_halves_of_a_block_are_blocks() -> None:
    pairs = [(Path(f"a{i}"), Path(f"b{j}")) for i in range(4) for j in range(6)]
    one, other = halves(pairs, range(24))
    assert [pairs[n] for n in one] == [pair for pair in pairs if pair[1].name < "b3"]
    assert [pairs[n] for n in other] == [pair for pair in pairs if pair[1].name >= "b3"]


@given(pairs=PAIRS, most=st.integers(2, 8), status=st.sampled_from([413, 422]))
def test_a_service_of_smaller_bounds_answers_all_pairs_in_the_end(
    pairs: list[Pair], most: int, status: int
) -> None:
    def ask(some: list[Pair]) -> list[Pair]:
        if len({file for pair in some for file in pair}) > most:
            raise ServiceError(status, "too much")
        return some

    found = dict(
        numbered for some, told in answers(ask, pairs) for numbered in zip(some, told, strict=True)
    )
    assert [found[n] for n in range(len(pairs))] == pairs


def test_what_is_refused_by_itself_is_told_by_name() -> None:
    def ask(some: list[Pair]) -> None:
        if any(FILES[5] in pair for pair in some):
            raise ServiceError(413, "images[1] is larger than 9 bytes")

    with pytest.raises(ValueError, match=r"not match a\.jpg and f\.jpg: images") as e:
        list(answers(ask, [(FILES[0], file) for file in FILES]))
    assert str(e.value).endswith("images[1] is larger than 9 bytes")


def test_other_refusals_are_asked_once() -> None:
    asked = 0

    def ask(_: list[Pair]) -> None:
        nonlocal asked
        asked += 1
        raise ServiceError(404, "there is no model 'x'")

    with pytest.raises(ServiceError, match="no model"):
        list(answers(ask, [(FILES[0], file) for file in FILES]))
    assert asked == 1


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp"])
def test_sizes_are_those_of_the_header(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind}"
    Image.new("RGB", (30, 70)).save(file)
    assert size(file) == Size(file.stat().st_size, 2100)
    file.write_bytes(file.read_bytes()[:9])
    assert size(file) == Size(9, 0)
    assert size(tmp_path) == Size(0, 0)
