import contextlib
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayreid.data import decoding
from rayreid.data.decoding import decode, decode_all, decode_bytes


def pixels(height: int = 40, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size without having the pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 64)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_same_size_keeps_the_pixels(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "crop.png")
    np.testing.assert_array_equal(decode(tmp_path / "crop.png", 40, 20), pixels())


def test_size_is_height_then_width() -> None:
    image = decode_bytes(encoded(Image.fromarray(pixels()), "PNG"), "crop", 64, 32)
    assert image.shape == (64, 32, 3)
    expected = Image.fromarray(pixels()).resize((32, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image, np.asarray(expected))
    assert image.flags.writeable


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
def test_formats_that_are_read(form: str) -> None:
    flat = Image.new("RGB", (20, 40), (200, 100, 50))
    image = decode_bytes(encoded(flat, form), "crop", 40, 20)
    np.testing.assert_allclose(image, np.broadcast_to([200, 100, 50], (40, 20, 3)), atol=3)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(ValueError, match="upload 7 is not an image in a format"):
        decode_bytes(encoded(Image.fromarray(pixels()), form), "upload 7", 40, 20)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (20, 40), (255, 255, 255)).convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    np.testing.assert_allclose(decode_bytes(data, "crop", 40, 20), 255, atol=3)


def test_palette_with_transparency_is_read_without_a_warning() -> None:
    image = Image.fromarray(pixels()).convert("P")
    data = encoded(image, "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode_bytes(data, "crop", 40, 20), image.convert("RGB"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        decode(tmp_path / "crop.jpg", 40, 20)
    assert str(tmp_path / "crop.jpg") in str(caught.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_file_is_named(tmp_path: Path, form: str, share: float) -> None:
    data = encoded(Image.fromarray(pixels()), form)
    path = tmp_path / "crop.img"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="image") as caught:
        decode(path, 40, 20)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
def test_damaged_bytes_raise_nothing_but_value_error(form: str) -> None:
    random = np.random.default_rng(0)
    data = encoded(Image.fromarray(pixels()), form)
    for _ in range(200):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 4):
            damaged[place] = random.integers(256)
        with contextlib.suppress(ValueError):
            assert decode_bytes(bytes(damaged), "upload", 8, 4).shape == (8, 4, 3)


def test_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read") as caught:
        decode(tmp_path, 40, 20)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(5001, 10000), (10000, 10000), (60000, 60000)])
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="upload has more than 50,000,000 pixels"):
        decode_bytes(png_header(width, height), "upload", 40, 20)


def test_the_limit_itself_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(pixels(40, 20)), "PNG")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 800)
    assert decode_bytes(data, "upload", 4, 2).shape == (4, 2, 3)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 799)
    with pytest.raises(ValueError, match="more than 799"):
        decode_bytes(data, "upload", 4, 2)


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_all_images_in_order(tmp_path: Path, threads: int | None) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(17)]
    for index, path in enumerate(paths):
        Image.fromarray(pixels(seed=index)).save(path)
    done: list[int] = []
    images = decode_all(paths, 40, 20, progress=done.append, threads=threads)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, [pixels(seed=index) for index in range(17)])
    assert done == [1] * 17


def test_no_images_are_an_empty_array() -> None:
    assert decode_all([], 40, 20).shape == (0, 40, 20, 3)


def test_an_error_among_many_images_is_the_first_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for path in paths:
        Image.fromarray(pixels()).save(path)
    paths[2].write_bytes(b"not an image")
    paths[4].unlink()
    with pytest.raises(ValueError, match="not an image") as caught:
        decode_all(paths, 40, 20)
    assert str(paths[2]) in str(caught.value)
    paths[2].unlink()
    with pytest.raises(FileNotFoundError) as missing:
        decode_all(paths, 40, 20)
    assert str(paths[2]) in str(missing.value)
