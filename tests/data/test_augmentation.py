"""Each variation against torchvision's own, or against a slow transcription of what it says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from torchvision.transforms.v2 import InterpolationMode, TrivialAugmentWide
from torchvision.transforms.v2 import functional as reference

from rayreid.data import augmentation
from rayreid.data.augmentation import GREY, IMAGENET_MEAN

SEEDS = st.integers(0, 999)
H, W = 24, 12


def images(seed: int = 0, size: int = 5) -> torch.Tensor:
    return torch.rand(size, 3, H, W, generator=torch.Generator().manual_seed(seed))


def draws(seed: int, count: int, size: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, size), np.float32))


def test_published_constants() -> None:
    assert IMAGENET_MEAN == IMAGENET_DEFAULT_MEAN
    assert sum(GREY) == pytest.approx(1)


@given(seed=SEEDS, farthest=st.sampled_from([0, 3, 11, 30]))
def test_copied_and_gathered_images_are_moved_alike(seed: int, farthest: int) -> None:
    x = images(seed).to(memory_format=torch.channels_last)
    flipped = draws(seed, 1)[0] < 0.5
    down, right = (draws(seed + 1, 2) * 2 - 1) * farthest
    copied = augmentation._copied(x, flipped, down, right)
    assert torch.equal(copied, augmentation._gathered(x, flipped, down, right))


@given(seed=SEEDS, farthest=st.sampled_from([0, 3, 30]))
def test_bytes_are_moved_as_the_images_that_they_become(seed: int, farthest: int) -> None:
    pixels = (images(seed) * 255).to(torch.uint8).to(memory_format=torch.channels_last)
    moves = draws(seed, 1)[0] < 0.5, *((draws(seed + 1, 2) * 2 - 1) * farthest)
    for way in (augmentation._copied, augmentation._gathered):
        found = way(pixels, *moves)
        assert found.dtype == torch.uint8
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(found / 255, augmentation._gathered(pixels / 255, *moves))


@given(seed=SEEDS)
def test_rotation_is_torchvisions(seed: int) -> None:
    x, degrees = images(seed), 90 * draws(seed, 1)[0] - 45
    for image, angle, found in zip(x, degrees, augmentation.rotated(x, degrees), strict=True):
        expected = reference.rotate(image, float(angle), InterpolationMode.BILINEAR)
        assert torch.allclose(found, expected, atol=1e-4)


@given(seed=SEEDS)
def test_hue_is_torchvisions(seed: int) -> None:
    x, turns = images(seed), draws(seed, 1)[0] - 0.5
    x[0, :, :9] = torch.tensor([0.0, 1.0, 0.3]).view(3, 1, 1)
    x[1, 1] = x[1, 0]  # Two channels are the largest.
    x[2] = x[2, :1]  # And grey has no hue.
    for image, turn, found in zip(x, turns, augmentation.hue_turned(x, turns), strict=True):
        assert torch.allclose(found, reference.adjust_hue(image, float(turn)), atol=1e-5)


@given(seed=SEEDS)
def test_colours_are_torchvisions_one_after_the_other(seed: int) -> None:
    x, factors = images(seed) / 2, 0.6 + 0.4 * draws(seed, 3)
    found = augmentation.coloured(x, *factors)
    for image, (bright, contrast, saturation), result in zip(x, factors.T, found, strict=True):
        image = reference.adjust_brightness(image, float(bright))
        image = reference.adjust_saturation(image, float(saturation))
        # Its weights of grey are rounded otherwise.
        image = reference.adjust_contrast(image, float(contrast))
        assert torch.allclose(result, image, atol=1e-3)


@given(seed=SEEDS)
def test_grey_is_torchvisions(seed: int) -> None:
    x, chosen = images(seed), draws(seed, 1)[0] < 0.5
    for image, is_grey, found in zip(x, chosen, augmentation.greyed(x, chosen), strict=True):
        expected = reference.rgb_to_grayscale(image, 3) if is_grey else image
        assert torch.allclose(found, expected, atol=1e-3)


@given(seed=SEEDS, largest=st.sampled_from([0.5, 1.3, 3.0]))
def test_blur_is_torchvisions(seed: int, largest: float) -> None:
    x, (chance, soft) = images(seed), draws(seed, 2)
    chosen, sigma = chance < 0.7, 0.1 + soft * (largest - 0.1)
    found = augmentation.blurred(x, chosen, sigma, largest)
    size = 2 * int(np.ceil(3 * largest)) + 1
    for image, one, deviation, result in zip(x, chosen, sigma, found, strict=True):
        expected = reference.gaussian_blur(image, [size, size], [float(deviation)])
        assert torch.allclose(result, expected if one else image, atol=1e-5)


@given(seed=SEEDS)
def test_trivial_augment_is_torchvisions_under_each_images_seed(seed: int) -> None:
    x, (chance, seeds) = images(seed), draws(seed, 2)
    chosen, seeds = chance < 0.7, (seeds * 1000).long()
    before = torch.get_rng_state()
    found = augmentation.trivially_augmented(x, chosen, seeds)
    assert torch.equal(torch.get_rng_state(), before), "the process's own numbers are left alone"
    for image, one, number, result in zip(x, chosen, seeds, found, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(number))
            pixels = TrivialAugmentWide()((image * 255).round().to(torch.uint8))
        assert torch.equal(result, pixels / 255 if one else image)


@given(seed=SEEDS, size=st.integers(1, 6))
def test_an_occluder_is_cut_from_another_image_and_pasted(seed: int, size: int) -> None:
    x, numbers = images(seed, size), draws(seed, 7, size)
    chosen = draws(seed + 1, 1, size)[0] < 0.7
    found = augmentation.occluded(x, chosen, numbers)
    for i, (partner, tall, wide, *places) in enumerate(numbers.T):
        expected = x[i].clone()
        if chosen[i]:
            other = x[(i + 1 + int(partner * (size - 1))) % size]
            height, width = round(float(0.2 + 0.4 * tall) * H), round(float(0.2 + 0.4 * wide) * W)
            room = (H - height + 1, W - width + 1) * 2
            top, left, from_top, from_left = (
                int(place * count) for place, count in zip(places, room, strict=True)
            )
            patch = other[:, from_top : from_top + height, from_left : from_left + width]
            assert patch.shape[1:] == (height, width), "wholly inside the other"
            expected[:, top : top + height, left : left + width] = patch
            assert 0.15 * H <= height <= 0.65 * H
            assert 0.15 * W <= width <= 0.65 * W
        assert torch.equal(found[i], expected)


def test_occluders_come_from_all_others_and_never_from_the_image_itself() -> None:
    numbers = torch.cat([torch.arange(100)[None] / 100, draws(0, 6, 100)])
    x = torch.arange(4).repeat(25).float().view(-1, 1, 1, 1).expand(-1, 3, H, W) / 4
    four = [augmentation.occluded(x[:4], torch.ones(4, dtype=torch.bool), numbers[:, i : i + 4])
            for i in range(0, 100, 4)]  # fmt: skip
    for i in range(4):
        shown = {float(value) for batch in four for value in batch[i].unique()}
        assert shown == {0.0, 0.25, 0.5, 0.75}
        assert all(len(batch[i].unique()) == 2 for batch in four)


@given(seed=SEEDS, largest=st.floats(0, 0.99))
def test_a_white_square_lies_inside(seed: int, largest: float) -> None:
    found = augmentation.squared(torch.zeros(40, 3, H, W), largest, draws(seed, 3, 40))
    for image in found:
        white = (image == 1).all(0)
        rows, columns = int(white.any(1).sum()), int(white.any(0).sum())
        assert rows == columns
        assert white.sum() == rows * columns == (image > 0).any(0).sum()
        assert 1 <= rows <= max(1, largest * W)


def test_white_squares_are_of_all_sizes_and_everywhere() -> None:
    found = augmentation.squared(torch.zeros(900, 3, H, W), 0.8, draws(0, 3, 900))
    white = (found == 1).all(1)
    assert {int(each.any(0).sum()) for each in white} == set(range(1, 9))
    assert white.any(0).all(), "every pixel is hidden at times"


@given(seed=SEEDS, largest=st.floats(0.02, 1))
def test_an_erased_rectangle_is_of_the_drawn_area_and_aspect(seed: int, largest: float) -> None:
    x, (chance, *rest) = images(seed), draws(seed, 5)
    chosen, centre, shape = chance < 0.7, torch.stack(rest[:2]), torch.stack(rest[2:])
    fill = torch.full((1, 3, 1, 1), 2.0)
    found = augmentation.erased(x, chosen, centre, shape, largest, fill)
    for i in range(len(x)):
        expected = x[i].clone()
        if chosen[i]:
            area = (0.02 + (largest - 0.02) * float(shape[0, i])) * H * W
            aspect = 0.3 ** (2 * float(shape[1, i]) - 1)
            middle = float(centre[0, i]) * H, float(centre[1, i]) * W
            for row in range(H):
                for column in range(W):
                    down, right = abs(row + 0.5 - middle[0]), abs(column + 0.5 - middle[1])
                    if down <= (area * aspect) ** 0.5 / 2 and right <= (area / aspect) ** 0.5 / 2:
                        expected[:, row, column] = 2
        assert torch.equal(found[i], expected)
