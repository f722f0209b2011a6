import colorsys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayreid.data.decoding import decode_all
from rayreid.data.layouts.market1501 import read_market1501
from rayreid.ranking import histogram
from rayreid.ranking.histogram import colour_histogram, rgb_to_hsv
from rayreid.ranking.metrics import rank

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def crops(count: int = 5, height: int = 25, width: int = 17) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def transcribed(image: np.ndarray) -> np.ndarray:
    """The definition, one pixel at a time."""
    height, width, _ = image.shape
    parts = []
    for stripe in range(6):
        colours, values = np.zeros((16, 4)), np.zeros(16)
        for y in range(stripe * height // 6, (stripe + 1) * height // 6):
            for x in range(width // 8, width - width // 8):
                hue, saturation, value = colorsys.rgb_to_hsv(*(image[y, x] / 255))
                colours[min(int(16 * hue), 15), min(int(4 * saturation), 3)] += 1
                values[min(int(16 * value), 15)] += 1
        parts += [np.sqrt(colours / colours.sum()).ravel(), np.sqrt(values / values.sum())]
    whole = np.concatenate(parts)
    return whole / np.linalg.norm(whole)


@settings(deadline=None)
@given(pixels=hnp.arrays(np.uint8, (7, 3), elements=st.integers(0, 255)))
def test_hsv_is_that_of_colorsys(pixels: np.ndarray) -> None:
    expected = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels / 255]
    np.testing.assert_allclose(rgb_to_hsv(pixels), expected, rtol=0, atol=1e-12)


def test_hsv_of_greys_and_pure_colours() -> None:
    levels = [0, 1, 128, 255]
    pixels = np.array([[r, g, b] for r in levels for g in levels for b in levels], dtype=np.uint8)
    expected = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels / 255]
    np.testing.assert_allclose(rgb_to_hsv(pixels), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(25, 17), (6, 1), (12, 8), (48, 24)])
def test_equals_a_transcription_of_the_definition(height: int, width: int) -> None:
    images = crops(3, height, width)
    np.testing.assert_allclose(
        colour_histogram(images), [transcribed(image) for image in images], atol=1e-6
    )


def test_embeddings_have_unit_length_and_scores_lie_in_0_1() -> None:
    embeddings = colour_histogram(crops())
    assert embeddings.shape == (5, 480)
    scores = embeddings @ embeddings.T
    np.testing.assert_allclose(np.diag(scores), 1, atol=1e-6)
    assert (scores >= 0).all()


def test_red_and_blue_have_nothing_in_common_but_brightness() -> None:
    red, blue = np.zeros((2, 12, 8, 3), dtype=np.uint8)
    red[..., 0] = blue[..., 2] = 255
    first, second = colour_histogram(np.stack([red, blue]))
    assert float(first @ second) == pytest.approx(0.5, abs=1e-6)


def test_the_outer_columns_do_not_count() -> None:
    images = crops(width=16)
    framed = images.copy()
    framed[:, :, :2], framed[:, :, -2:] = 0, 255
    np.testing.assert_array_equal(colour_histogram(framed), colour_histogram(images))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = colour_histogram(crops())
    monkeypatch.setattr(histogram, "_CHUNK_PIXELS", 2 * 25 * 17)
    np.testing.assert_array_equal(colour_histogram(crops()), whole)


def test_no_images_have_no_embeddings() -> None:
    assert colour_histogram(crops(0)).shape == (0, 480)


@pytest.mark.parametrize(("height", "width"), [(5, 8), (6, 0)])
def test_images_too_small_for_stripes_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height} x {width} pixels are too small"):
        colour_histogram(crops(1, height, width))


@pytest.mark.parametrize(
    ("name", "rank1", "mean_ap", "mean_inp"),
    [
        ("multiviewx_a", 93.84615, 57.47498, 17.49886),
        ("multiviewx_b", 89.65517, 76.18684, 54.63822),
    ],
)
def test_rendered_pedestrians(name: str, rank1: float, mean_ap: float, mean_inp: float) -> None:
    """Measured with this module; the docstring says how near the recorded numbers are."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"no data set at {SHARED / name}")
    domain = read_market1501(SHARED / name, name)
    query, gallery = (
        colour_histogram(decode_all(crops.images, 128, 64))
        for crops in (domain.query, domain.gallery)
    )
    ranking = rank(
        query @ gallery.T,
        domain.query.identities,
        domain.gallery.identities,
        domain.query.cameras,
        domain.gallery.cameras,
    )
    measured = (100 * ranking.rank1, 100 * ranking.map, 100 * ranking.minp)
    # The slack is for JPEG decoders and dot products that differ in their last bits.
    assert measured == pytest.approx((rank1, mean_ap, mean_inp), abs=0.05)
