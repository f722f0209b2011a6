"""Scanning: the same of files, of packed pictures and of arrays, and what is broken is told."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayreid.data import scanning
from rayreid.data.decoding import decode_bytes
from rayreid.data.scanning import legible, look, scan, spread
from tests.data.folders import Shard, crops, domain, noise

SIZES = [(30, 70), (64, 128), (50, 40)]


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def of_files(folder: Path, contents: list[bytes]) -> scanning.Scan:
    files = [folder / f"{i}.jpg" for i in range(len(contents))]
    for file, data in zip(files, contents, strict=True):
        file.write_bytes(data)
    return scan(domain(crops(files, range(len(files)), [1] * len(files))))


def test_files_and_packed_pictures_are_scanned_alike(tmp_path: Path) -> None:
    contents = [jpeg(noise(i, *size)) for i, size in enumerate(SIZES)]
    files = of_files(tmp_path, contents)
    shards = [Shard(f"shard row {i}", data) for i, data in enumerate(contents)]
    packed = scan(domain(crops(shards, [0, 1, 2], [1, 1, 1])))
    assert files.sizes.tolist() == packed.sizes.tolist() == [list(size) for size in SIZES]
    assert files.digests.tolist() == packed.digests.tolist()
    assert len(set(files.digests.tolist())) == 3
    np.testing.assert_array_equal(files.looks, packed.looks)
    expected = [look(decode_bytes(data, "", 128, 64)) for data in contents]
    np.testing.assert_array_equal(files.looks, np.stack(expected))
    assert files.name(1) == str(tmp_path / "1.jpg")
    assert packed.name(1) == "shard row 1"


def test_pixels_in_memory_are_scanned() -> None:
    pixels = np.stack([noise(i, 64, 128) for i in range(3)])
    found = scan(
        domain(crops(pixels[:2], [0, 1], [1, 1]), gallery=crops(pixels[1:], [4, 5], [2, 2]))
    )
    assert found.sizes.tolist() == [[64, 128]] * 4
    np.testing.assert_array_equal(found.looks, [look(pixels[i]) for i in (0, 1, 1, 2)])
    assert found.digests[1] == found.digests[2]
    assert len(set(found.digests.tolist())) == 3
    assert found.parts.tolist() == [0, 0, 2, 2]
    assert [found.name(i) for i in (1, 3)] == ["train crop 1", "gallery crop 1"]


def test_what_is_broken_is_told_in_a_few_words(tmp_path: Path) -> None:
    whole = jpeg(noise(0))
    header = (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0"
        b"\x00\x00\x00\x00"
    )  # fmt: skip
    found = of_files(tmp_path, [whole, b"", b"no image", whole[: len(whole) // 2], header])
    assert list(found.broken) == [1, 2, 3, 4]
    assert found.broken[1] == "it is empty"
    assert "no image in a format that is read (JPEG, PNG, BMP, WEBP)" in found.broken[2]
    assert "it is a damaged image" in found.broken[3]
    assert found.sizes[1:].tolist() == [[0, 0]] * 4
    assert np.isnan(found.looks[1:]).all()
    assert not np.isnan(found.looks[0]).any()


def test_what_is_no_file_is_broken_and_waits_for_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    names = [tmp_path, tmp_path / "pipe.jpg", tmp_path / "absent.jpg"]
    found = scan(domain(crops(names, [1, 2, 3], [1, 1, 1])))
    assert list(found.broken.values()) == [
        "it is no file",
        "it is no file",
        "there is no such file",
    ]
    assert found.digests.tolist() == [b""] * 3


def test_limits_on_bytes_and_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [jpeg(noise(0, 10, 10)), jpeg(noise(1, 40, 40))]
    monkeypatch.setattr(scanning, "MAX_PIXELS", 1000)
    assert of_files(tmp_path, contents).broken == {1: "it has more than 1,000 pixels"}
    monkeypatch.setattr(scanning, "MAX_BYTES", len(contents[1]) - 1)
    assert "bytes" in of_files(tmp_path, contents).broken[1]


def test_only_some_are_decoded(tmp_path: Path) -> None:
    whole = jpeg(noise(0))
    (tmp_path / "some").mkdir()
    files = [tmp_path / "some" / f"{i}.jpg" for i in range(5)]
    for i, file in enumerate(files):
        file.write_bytes(whole[: len(whole) // 2] if i in (1, 2) else whole)
    part = crops(files, range(5), [1] * 5)
    none, some, every = (scan(domain(part), decode=n) for n in (0, 3, None))
    assert [list(found.broken) for found in (none, some, every)] == [[], [2], [1, 2]]
    assert np.isnan(none.looks).all()
    assert np.flatnonzero(~np.isnan(some.looks[:, 0])).tolist() == [0, 4]
    assert none.sizes.tolist() == [[30, 70]] * 5, "the header tells it"


def test_a_picture_held_sideways_has_the_size_that_it_is_decoded_to(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = of_files(tmp_path, [jpeg(noise(0, 30, 70), exif=exif.tobytes())])
    assert found.sizes.tolist() == [[70, 30]]


def test_a_store_out_of_reach_is_no_broken_crop() -> None:
    class Away(Shard):
        def read(self) -> bytes:
            raise OSError("s3://bucket/shard cannot be used")

    with pytest.raises(OSError, match="cannot be used"):
        scan(domain(crops([Away("row 0", b"")], [1], [1])))


def test_progress_counts_every_crop() -> None:
    told: list[int] = []
    n = 2 * 64 + 5
    scan(domain(crops(np.zeros((n, 16, 16, 3), np.uint8), range(n), [1] * n)), progress=told.append)
    assert sum(told) == n
    assert len(told) == 3


def test_who_is_a_person() -> None:
    def persons(train: list[int], query: list[int], gallery: list[int]) -> list[int]:
        parts = [crops(np.zeros((len(p), 16, 16, 3), np.uint8), p, [1] * len(p))
                 for p in (train, query, gallery)]  # fmt: skip
        return scan(domain(*parts), decode=0).persons.tolist()

    assert persons([4, 2, 4], [2], [0, 2]) == [1, 0, 1, 2, -1, 2], "numbers may begin anew"
    assert persons([0, 1], [2], [2]) == [0, 1, 2, 2], "drawn people begin with 0"
    assert persons([], [0], [0, 1]) == [0, 0, 1]
    assert persons([], [], []) == []


def test_look_is_what_a_loop_measures() -> None:
    pixels = noise(3, 6, 7)
    luma = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in pixels.astype(float)]
    edges = [
        luma[y - 1][x] + luma[y + 1][x] + luma[y][x - 1] + luma[y][x + 1] - 4 * luma[y][x]
        for y in range(1, 6)
        for x in range(1, 5)
    ]
    flat = np.array([value for row in luma for value in row])
    expected = [*(pixels[..., c].mean() for c in range(3)), flat.mean(), flat.std(), np.var(edges)]
    np.testing.assert_allclose(look(pixels), expected, rtol=1e-4)


@given(st.integers(1, 500), st.integers(0, 600))
def test_a_spread_reaches_from_end_to_end(count: int, most: int) -> None:
    chosen = spread(count, most)
    assert len(chosen) == min(count, most)
    assert len(set(chosen.tolist())) == len(chosen)
    if most > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        steps = np.diff(chosen)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


@given(st.text(st.characters(), max_size=30))
def test_a_legible_text_can_be_printed_and_written(text: str) -> None:
    told = legible(text)
    assert told.isprintable()
    assert told.encode().decode() == told
    assert told == text or not text.isprintable()


def test_legible_keeps_every_alphabet_and_shows_what_hides() -> None:
    assert legible("日本 Привет שלום é") == "日本 Привет שלום é"
    assert legible("a\x1b[31m\n\u202eb\udcff") == r"a\x1b[31m\n\u202eb\udcff"
