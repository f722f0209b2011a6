import contextlib
import os
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from rayreid.benchmark.fuzzing import bombs
from rayreid.data import decoding
from rayreid.data.decoding import Broken, decode, decode_all, decode_bytes, pixels_of

needs_turbo = pytest.mark.skipif(not decoding.TURBO, reason="simplejpeg is not installed")


@pytest.fixture(params=[pytest.param(True, marks=needs_turbo, id="turbo"), False])
def turbo(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test with simplejpeg, and as on a machine without it."""
    monkeypatch.setattr(decoding, "TURBO", request.param)


def pixels(height: int = 40, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colours: int, samples: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    rows = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(samples)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + rows


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size without having the pixels."""
    return png(width, height, 8, 2, b"\0" * 64)


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


@needs_turbo
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    mode=st.sampled_from(["RGB", "L"]),
    progressive=st.booleans(),
    restarts=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_both_decoders_give_the_same_pixels(
    height: int,
    width: int,
    quality: int,
    subsampling: str,
    mode: str,
    progressive: bool,
    restarts: int,
    seed: int,
) -> None:
    small = Image.fromarray(pixels(height // 4 + 1, width // 4 + 1, seed))
    image = small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    options = {"quality": quality, "progressive": progressive, "subsampling": subsampling}
    data = encoded(image, "JPEG", **options, restart_marker_blocks=restarts)
    fast = decoding._decoded_by_turbo(data)
    assert fast is not None
    np.testing.assert_array_equal(fast, decoding._decoded_by_pillow(data, "crop"))
    np.testing.assert_array_equal(fast, np.asarray(Image.open(BytesIO(data)).convert("RGB")))


@needs_turbo
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_both_decoders_give_the_same_pixels_of_rarer_subsamplings(subsampling: str) -> None:
    from simplejpeg import encode_jpeg

    data = encode_jpeg(pixels(45, 23), colorsubsampling=subsampling)
    fast = decoding._decoded_by_turbo(data)
    assert fast is not None
    np.testing.assert_array_equal(fast, decoding._decoded_by_pillow(data, "crop"))


@needs_turbo
def test_what_one_decoder_takes_of_damaged_jpegs_the_other_takes_alike() -> None:
    random, taken = np.random.default_rng(0), 0
    data = encoded(Image.fromarray(pixels()), "JPEG")
    for _ in range(300):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 2):
            damaged[place] = random.integers(256)
        cut = bytes(damaged[: random.integers(len(data) // 2, 2 * len(data))])
        fast = decoding._decoded_by_turbo(cut)
        if fast is not None:
            taken += 1
            np.testing.assert_array_equal(fast, decoding._decoded_by_pillow(cut, "crop"))
    assert taken > 20


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    to=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_resizing_is_within_one_level_of_pillow(
    size: tuple[int, int], to: tuple[int, int], seed: int, extreme: bool
) -> None:
    image = pixels(*size, seed)
    image = np.where(image < 128, 0, 255).astype(np.uint8) if extreme else image
    # Columns, then rows: from version 13 on Pillow begins with what is less work.
    wide = Image.fromarray(image).resize((to[1], size[0]), Image.Resampling.BILINEAR)
    expected = np.asarray(wide.resize((to[1], to[0]), Image.Resampling.BILINEAR), int)
    assert np.abs(decoding._resized(image, *to) - expected).max() <= 1


def test_enlarging_to_powers_of_two_is_as_in_pillow() -> None:
    for height, width in ((128, 64), (100, 37), (255, 127)):
        image = pixels(height, width)
        expected = Image.fromarray(image).resize((128, 256), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(decoding._resized(image, 256, 128), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.usefixtures("turbo")
def test_a_camera_that_was_held_sideways_is_turned_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels(40, 24)), form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert upright is not None
    image = decode_bytes(data, "crop", upright.height, upright.width)
    np.testing.assert_array_equal(image, upright)


@pytest.mark.usefixtures("turbo")
def test_xmp_tells_how_a_camera_was_held_too() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(Image.fromarray(pixels(40, 24)), "JPEG", xmp=xmp)
    stored = np.asarray(Image.open(BytesIO(data)))
    np.testing.assert_array_equal(decode_bytes(data, "crop", 24, 40), np.rot90(stored, -1))


@pytest.mark.usefixtures("turbo")
def test_damaged_exif_leaves_the_picture_as_it_is_stored() -> None:
    image = Image.fromarray(pixels())
    data = encoded(image, "PNG", exif=b"Exif\0\0this is no TIFF")
    np.testing.assert_array_equal(decode_bytes(data, "crop", 40, 20), pixels())


def test_sixteen_bits_of_grey_keep_their_upper_eight() -> None:
    grey = np.arange(0, 65536, 82, dtype=np.uint16)[:800].reshape(40, 20)
    image = decode_bytes(encoded(Image.fromarray(grey), "PNG"), "crop", 40, 20)
    np.testing.assert_array_equal(image, np.repeat((grey >> 8)[..., None], 3, axis=2))


def test_sixteen_bits_of_colour_keep_their_upper_eight() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (4, 3, 3)).astype(">u2")
    samples = b"".join(b"\0" + row.tobytes() for row in deep)
    image = decode_bytes(png(3, 4, 16, 2, samples), "crop", 4, 3)
    np.testing.assert_array_equal(image, deep >> 8)


def on_black(image: Image.Image) -> np.ndarray:
    rgba = np.asarray(image.convert("RGBA"), float)
    return rgba[..., :3] * rgba[..., 3:] / 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparent_pixels_lie_on_black(mode: str) -> None:
    image = Image.fromarray(pixels()).convert(mode)
    keys = {"P": bytes(range(256)), "RGB": tuple(int(v) for v in pixels()[3, 4]), "L": 77}
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(pixels(seed=1)[..., 0]))
        data = encoded(image, "PNG")
    else:
        data = encoded(image, "PNG", transparency=keys[mode])
    seen = decode_bytes(data, "crop", 40, 20)
    np.testing.assert_allclose(seen, on_black(Image.open(BytesIO(data))), atol=1)
    assert (seen != np.asarray(image.convert("RGB"))).any()


def test_ink_is_read_as_its_colour() -> None:
    ink = (200, 40, 90, 30)
    data = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
    colour = [(255 - value) * (255 - ink[3]) / 255 for value in ink[:3]]
    np.testing.assert_allclose(decode_bytes(data, "crop", 1, 1)[0, 0], colour, atol=2)


def test_ink_as_luma_and_chroma_is_read_as_its_colour() -> None:
    ink = (155, 100, 110, 30)
    stored = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
    transform = stored.index(b"Adobe") + 11
    assert stored[transform] == 0
    data = stored[:transform] + b"\2" + stored[transform + 1 :]
    # Adobe's files hold 255 - ink, and YCCK the luma and chroma of what CMY are inverted.
    luma, blue, red = (
        255 - value - shift for value, shift in zip(ink, (0, 128, 128), strict=False)
    )
    cmy = (luma + 1.402 * red, luma - 0.344 * blue - 0.714 * red, luma + 1.772 * blue)
    colour = [(255 - value) * (255 - ink[3]) / 255 for value in cmy]
    np.testing.assert_allclose(decode_bytes(data, "crop", 1, 1)[0, 0], colour, atol=3)


@pytest.mark.usefixtures("turbo")
def test_colour_profiles_are_left_alone() -> None:
    image = Image.fromarray(pixels())
    plain, profiled = encoded(image, "JPEG"), encoded(image, "JPEG", icc_profile=b"Adobe RGB" * 40)
    assert plain != profiled
    np.testing.assert_array_equal(
        decode_bytes(plain, "crop", 40, 20), decode_bytes(profiled, "crop", 40, 20)
    )


@pytest.mark.parametrize("form", ["PNG", "WEBP", "MPO"])
@pytest.mark.usefixtures("turbo")
def test_of_an_animation_the_first_picture_is_taken(form: str) -> None:
    first, second = Image.new("RGB", (20, 40), (200, 90, 30)), Image.new("RGB", (20, 40), "blue")
    data = encoded(first, form, save_all=True, append_images=[second])
    assert getattr(Image.open(BytesIO(data)), "n_frames", 1) == 2
    np.testing.assert_allclose(decode_bytes(data, "crop", 1, 1)[0, 0], (200, 90, 30), atol=3)


@pytest.mark.usefixtures("turbo")
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_one_pixel_is_an_image(form: str) -> None:
    image = decode_bytes(encoded(Image.new("RGB", (1, 1), (90, 90, 90)), form), "crop", 40, 20)
    np.testing.assert_allclose(image, 90, atol=2)


@pytest.mark.usefixtures("turbo")
def test_a_very_wide_image_is_read_where_it_has_few_pixels() -> None:
    data = encoded(Image.new("RGB", (20_000, 3), (90, 90, 90)), "JPEG")
    np.testing.assert_allclose(decode_bytes(data, "crop", 40, 20), 90, atol=2)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "crop.jpg").touch()
    with pytest.raises(ValueError, match=r"crop\.jpg is an empty file and not an image"):
        decode(tmp_path / "crop.jpg", 40, 20)


def test_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "crop.jpg").write_text("These crops were removed on request.")
    with pytest.raises(ValueError, match=r"crop\.jpg is not an image in a format"):
        decode(tmp_path / "crop.jpg", 40, 20)


def test_names_of_any_alphabet_are_read(tmp_path: Path) -> None:
    path = tmp_path / "чело́век 行人 (1).jpg"
    path.write_bytes(encoded(Image.new("RGB", (20, 40), "white"), "JPEG"))
    assert (decode(path, 40, 20) == 255).all()


def test_a_link_to_nowhere_says_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "crop.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(FileNotFoundError, match=r"crop\.jpg is a link to .*gone\.jpg"):
        decode(tmp_path / "crop.jpg", 40, 20)


def test_links_in_a_circle_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image"):
        decode(tmp_path / "a.jpg", 40, 20)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "crop.jpg")
    with pytest.raises(ValueError, match="it is a folder or a device"):
        decode(tmp_path / "crop.jpg", 40, 20)


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "crop.jpg").touch()
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(ValueError, match=r"crop\.jpg cannot be read .*\(Permission denied\)"):
        decode(tmp_path / "crop.jpg", 40, 20)


def test_a_huge_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "crop.jpg").open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}"))
    with pytest.raises(ValueError, match="more than 200,000,000 bytes"):
        decode(tmp_path / "crop.jpg", 40, 20)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        decode(tmp_path / "crop.jpg", 40, 20)
    assert str(tmp_path / "crop.jpg") in str(caught.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
@pytest.mark.usefixtures("turbo")
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


@pytest.mark.parametrize(
    ("width", "height"), [(20000, 2501), (5001, 10000), (10000, 10000), (60000, 60000)]
)
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="upload has more than 50,000,000 pixels"):
        decode_bytes(png_header(width, height), "upload", 40, 20)


@pytest.mark.usefixtures("turbo")
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_limit_itself_is_decoded(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(pixels(40, 20)), form)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 800)
    assert decode_bytes(data, "upload", 4, 2).shape == (4, 2, 3)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 799)
    with pytest.raises(ValueError, match="more than 799"):
        decode_bytes(data, "upload", 4, 2)


@pytest.mark.usefixtures("turbo")
@pytest.mark.parametrize(
    "kind",
    ["jpeg of 2,000 scans", "jpeg of 70,000 parts", "png of 20,000 parts", "bmp of 100,000 runs"],
)
def test_what_takes_long_for_what_it_shows_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"^it is a (JPEG of .* scans|damaged .* small pieces)"):
        decode_bytes(bombs()[kind], "it", 64, 32)
    if kind.startswith("png"):
        assert pixels_of(bombs()[kind]) == 0  # its header is behind them


@pytest.mark.usefixtures("turbo")
def test_what_takes_long_is_an_image_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SCANS", 10**9)
    monkeypatch.setattr(decoding, "PIECES", 10**9)
    for kind in ("jpeg of 2,000 scans", "jpeg of 70,000 parts", "png of 20,000 parts"):
        assert decode_bytes(bombs()[kind], "it", 64, 32).shape == (64, 32, 3)


def test_a_large_image_in_small_parts_is_read() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 700, 3), np.uint8)
    file = BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "MAXBLOCK", 0)  # parts of as many bytes as a line has
        Image.fromarray(noise).save(file, "PNG")
    assert file.getvalue().count(b"IDAT") > 100
    np.testing.assert_array_equal(decode_bytes(file.getvalue(), "it", 900, 700), noise)


@pytest.mark.usefixtures("turbo")
def test_what_lies_behind_a_picture_is_no_scan() -> None:
    # A film, of a telephone: bytes like any.
    film = np.random.default_rng(0).bytes(8_000_000)
    assert film.count(b"\xff\xda") > decoding.SCANS
    red = encoded(Image.new("RGB", (16, 16), "red"), "JPEG") + film
    assert decode_bytes(red, "it", 16, 16)[8, 8, 0] > 250


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


@dataclass(frozen=True)
class Shard:
    name: str
    data: bytes | None

    def read(self) -> bytes:
        if self.data is None:
            raise OSError(f"{self.name} cannot be read: the shard is gone")
        return self.data


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_broken_images_are_told_and_left_black(tmp_path: Path, threads: int | None) -> None:
    whole = encoded(Image.fromarray(pixels()), "PNG")
    (tmp_path / "whole.png").write_bytes(whole)
    (tmp_path / "text.png").write_text("no image")
    images = [
        tmp_path / "text.png",
        tmp_path / "whole.png",
        tmp_path / "missing.png",
        Shard("a/1", whole),
        Shard("a/2", b""),
        Shard("a/3", None),
    ]
    broken: list[Broken] = []
    done: list[int] = []
    into = np.full((6, 40, 20, 3), 7, np.uint8)
    made = decode_all(
        images, 40, 20, progress=done.append, threads=threads, broken=broken, into=into
    )
    assert made is into
    assert [one.index for one in broken] == [0, 2, 4, 5]
    for one, said in zip(broken, ("not an image", "no image at", "empty", "gone"), strict=True):
        assert said in one.reason
    black = np.zeros((40, 20, 3), np.uint8)
    np.testing.assert_array_equal(made, [black, pixels(), black, pixels(), black, black])
    assert done == [1] * 6


def test_a_memory_map_is_filled(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(pixels()), "PNG")
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=(5, 40, 20, 3))
    decode_all([Shard(str(i), data) for i in range(5)], 40, 20, into=mapped)
    mapped.flush()
    stored = np.fromfile(tmp_path / "pixels", np.uint8).reshape(5, 40, 20, 3)
    np.testing.assert_array_equal(stored, [pixels()] * 5)


def test_without_a_list_the_first_error_in_order_ends_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        decode_all([tmp_path / "missing.png", Shard("empty", b"")], 40, 20, threads=1)
    with pytest.raises(OSError, match="gone"):
        decode_all([Shard("a", None), Shard("empty", b"")], 40, 20)
