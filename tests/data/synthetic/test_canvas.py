import numpy as np
import pytest

from rayreid.data.synthetic.canvas import Canvas, Capsule, ellipse, mixed, trapezium


def column(value: float) -> np.ndarray:
    return np.full((1, 1, 1), value, dtype=np.float32)


def canvas(size: int = 200, softness: float = 0.01) -> Canvas:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    pixels = np.zeros((1, 3, size, size), dtype=np.float32)
    return Canvas(pixels, axis[None, None, :], axis[None, :, None], column(softness))


def area(cover: np.ndarray) -> float:
    return float(cover.mean())


def test_a_capsule_has_the_area_of_a_rectangle_and_a_disc() -> None:
    page = canvas()
    capsule = Capsule(*(column(v) for v in (0.3, 0.4, 0.7, 0.6, 0.1, 0.1)))
    distance, along = capsule.on(page)
    length = (0.4**2 + 0.2**2) ** 0.5
    assert area(page.cover(distance)) == pytest.approx(0.2 * length + np.pi * 0.01, rel=0.01)
    assert along.min() == 0
    assert along.max() == 1


def test_an_ellipse_has_its_area_and_its_own_coordinates() -> None:
    page = canvas()
    distance, u, v = ellipse(page, 0.5, 0.4, 0.2, 0.3)
    assert area(page.cover(distance)) == pytest.approx(np.pi * 0.06, rel=0.01)
    assert distance[0, 80, 190] == pytest.approx(page.x[0, 0, 190] - 0.7, abs=0.01)
    assert distance[0, 190, 100] == pytest.approx(page.y[0, 190, 0] - 0.7, abs=0.01)
    np.testing.assert_array_equal(distance < 0, u * u + v * v < 1)


def test_a_trapezium_has_the_area_of_its_sides_less_its_corners() -> None:
    page = canvas()
    half = 0.1 + 0.25 * (page.y - 0.2)
    distance = trapezium(page, column(0.5), half, 0.2, 0.8, column(1e-4))
    assert area(page.cover(distance)) == pytest.approx(0.6 * (0.2 + 0.5) / 2, rel=0.02)


def test_paint_covers_in_proportion() -> None:
    page = canvas(4)
    red = np.array([1, 0, 0], dtype=np.float32).reshape(1, 3, 1, 1)
    page.paint(np.full((1, 4, 4), 0.25, dtype=np.float32), red)
    np.testing.assert_array_equal(page.pixels[0, :, 1, 2], [0.25, 0, 0])
    np.testing.assert_array_equal(mixed(red, red * 0, column(0.75)).ravel(), [0.25, 0, 0])


def test_a_part_is_a_window_onto_the_same_pixels() -> None:
    page = canvas(100)
    part = page.part(0.2, 0.4, 0.5, 0.8)
    assert part.pixels.shape == (1, 3, 32, 22)
    part.pixels[...] = 1
    assert page.pixels.sum() == part.pixels.size
    assert page.part(1.5, 1.7, 0.0, 1.0).pixels.size == 0


def test_waves_too_fine_to_see_fade_into_their_mean() -> None:
    page = canvas()
    coarse = page.wave(page.x * 4, column(4))
    fine = page.wave(page.x * 400, column(400))
    assert coarse.min() == 0
    assert coarse.max() == 1
    assert coarse.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(fine, 0.5, atol=0.1)
