import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.data.views import GREY, ViewSettings, as_images, varied

NOTHING = ViewSettings(flip=0, shift=0)


def images(seed: int = 0, size: int = 6) -> torch.Tensor:
    return torch.rand(size, 3, 20, 10, generator=torch.Generator().manual_seed(seed))


def vary(settings: ViewSettings, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return varied(x, settings, torch.Generator().manual_seed(seed))


def test_pixels_become_images() -> None:
    pixels = torch.arange(2 * 4 * 3 * 3, dtype=torch.uint8).view(2, 4, 3, 3)
    made = as_images(pixels)
    assert made.shape == (2, 3, 4, 3)
    assert made[1, 2, 3, 1] == pixels[1, 3, 1, 2] / 255
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_no_variation_leaves_images_alone() -> None:
    assert torch.equal(vary(NOTHING, images()), images())


def test_a_certain_flip_mirrors() -> None:
    assert torch.equal(vary(ViewSettings(flip=1, shift=0), images()), images().flip(3))


@given(seed=st.integers(0, 999), flip=st.sampled_from([0.0, 1.0]))
def test_a_shift_moves_whole_pixels_and_fills_with_zeros(seed: int, flip: float) -> None:
    x = images(seed)
    moved = vary(ViewSettings(flip=flip, shift=0.2), x, seed)
    source = x.flip(3) if flip else x
    for image, result in zip(source, moved, strict=True):
        found = False
        for down in range(-4, 5):
            for right in range(-2, 3):
                shifted = torch.roll(image, (down, right), (1, 2)).clone()
                if down > 0:
                    shifted[:, :down] = 0
                elif down < 0:
                    shifted[:, down:] = 0
                if right > 0:
                    shifted[:, :, :right] = 0
                elif right < 0:
                    shifted[:, :, right:] = 0
                found |= torch.equal(shifted, result)
        assert found


@given(seed=st.integers(0, 999))
def test_colours_stay_in_range_and_grey_stays_grey(seed: int) -> None:
    settings = ViewSettings(flip=0, shift=0, brightness=0.4, contrast=0.4, saturation=0.4)
    changed = vary(settings, images(seed), seed)
    assert changed.min() >= 0
    assert changed.max() <= 1
    grey = images(seed)[:, :1].expand(-1, 3, -1, -1)
    changed = vary(settings, grey, seed)
    assert torch.allclose(changed, changed[:, :1].expand_as(changed), atol=1e-6)
    assert sum(GREY) == pytest.approx(1)


@given(seed=st.integers(0, 999))
def test_erasing_cuts_one_rectangle_of_the_stated_size(seed: int) -> None:
    x = torch.ones(4, 3, 40, 20)
    erased = vary(ViewSettings(flip=0, shift=0, erasing=1), x, seed)
    for image in erased:
        hole = (image != 1).all(0)
        assert torch.equal(hole, (image == 0.5).all(0))
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns, "a rectangle"
        assert hole.sum() <= 0.2 * 40 * 20 * 1.3 + 40


def test_views_follow_from_the_generator_alone() -> None:
    settings = ViewSettings(shift=0.2, brightness=0.3, erasing=0.5)
    assert torch.equal(vary(settings, images(), 5), vary(settings, images(), 5))
    assert not torch.equal(vary(settings, images(), 5), vary(settings, images(), 6))


def test_images_of_a_batch_are_varied_each_by_its_own_draw() -> None:
    x = images(size=1).expand(20, -1, -1, -1)
    assert len({tuple(image.flatten().tolist()) for image in vary(ViewSettings(), x)}) > 5
