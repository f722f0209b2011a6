"""Views: random variations of a batch of crops, computed on the batch's device."""

import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from rayreid.data import augmentation
from rayreid.data.augmentation import IMAGENET_MEAN
from rayreid.settings import Settings, unknown

PRESETS: Mapping[str, Mapping[str, float | str]] = {
    # Crops as they are.
    "none": {},
    # Luo et al., CVPRW 2019, github michuanhaohao/reid-strong-baseline: data/transforms/build.py.
    # Theirs fills with the mean's numbers after normalising, not with the mean.
    "bag_of_tricks": {
        "flip": 0.5, "shift": 10 / 256, "shift_width": 10 / 128,
        "erasing": 0.5, "erasing_area": 0.4, "erasing_fill": "imagenet_mean",
    },
    # He et al., ICCV 2021, github damo-cv/TransReID: datasets/make_dataloader.py; erasing is
    # timm's. Its noise is Gaussian, ours uniform over all colours.
    "transreid": {
        "flip": 0.5, "shift": 10 / 256, "shift_width": 10 / 128,
        "erasing": 0.5, "erasing_area": 1 / 3, "erasing_fill": "noise",
    },
    # Liao and Shao, CVPR 2022, github ShengcaiLiao/QAConv: main.py, at 384 x 128. Theirs rotates
    # to the nearest pixel, and its factors of brightness, contrast and saturation are in .5 to 2.
    "qaconv": {
        "flip": 0.5, "shift": 10 / 384, "shift_width": 10 / 128, "rotation": 5.0,
        "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.1, "white_square": 0.8,
    },
    # Jin et al., CVPR 2020, after github SunTongtongtong/FedReid: torchreid, without erasing across
    # domains. Theirs enlarges half of the crops by 1/8 and cuts them: no border comes in.
    "snr": {"flip": 0.5, "shift": 1 / 16, "brightness": 0.2, "contrast": 0.15},
    # Qi et al., TCSVT 2024, does not tell; what its protocol's peers do, with SNR's colours.
    "gmn": {
        "flip": 0.5, "shift": 10 / 256, "shift_width": 10 / 128,
        "brightness": 0.2, "contrast": 0.15,
    },
}  # fmt: skip
"""What papers vary, by name; all that is not named is off.

"Pad 10 and crop" at 256 x 128 is a shift of up to 10 rows and 10 columns: 10/256 of the height and
10/128 of the width.
"""

OFF = {"flip": 0.0, "shift": 0.0}
"""What switches off those that are on by default."""


class ViewSettings(Settings):
    """How a crop is varied in training; 0 switches a variation off."""

    preset: str = ""
    """A paper's views, for the settings that are not set here; none leaves crops as they are."""

    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    shift: float = Field(0.05, ge=0, le=0.5)
    """Largest shift, as a share of height and of width; the border is filled with zeros, as by
    padding and cropping (10 pixels at 256 x 128 are 0.039 of the height, 0.078 of the width)."""
    shift_width: float | None = Field(None, ge=0, le=0.5)
    """Largest shift along the width, as a share of it; null: as ``shift``."""
    rotation: float = Field(0.0, ge=0, le=45)
    """Largest rotation to either side, in degrees; the border is filled with zeros."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Brightness is multiplied by a factor in 1 -+ this."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Distance to the crop's mean grey is multiplied by a factor in 1 -+ this."""
    saturation: float = Field(0.0, ge=0, lt=1)
    """Distance to the pixel's own grey is multiplied by a factor in 1 -+ this."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Largest turn of the hue to either side, as a share of the colour circle."""
    greyscale: float = Field(0.0, ge=0, le=1)
    """Probability that a crop loses its colour."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of a Gaussian blur."""
    blur_sigma: float = Field(2.0, ge=0.1, le=3)
    """Largest standard deviation of the blur, in pixels; the least is 0.1."""
    trivial_augment: float = Field(0.0, ge=0, le=1)
    """Probability of one operation of TrivialAugment, of any strength; image by image, so slow."""
    occlusion: float = Field(0.0, ge=0, le=1)
    """Probability that a rectangle of another crop of the batch is pasted over a crop."""
    white_square: float = Field(0.0, ge=0, lt=1)
    """Largest side of a white square put on every crop, as a share of its shorter side."""
    erasing: float = Field(0.0, ge=0, le=1)
    """Probability that a random rectangle of the crop is erased."""
    erasing_area: float = Field(0.2, ge=0.02, le=1)
    """Largest share of the crop that is erased; the least is 0.02."""
    erasing_fill: Literal["grey", "imagenet_mean", "noise"] = "grey"
    """What an erased rectangle shows: mid grey, ImageNet's mean colour, or noise."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        """Fill what is not set with what the preset says."""
        name = values.get("preset") if isinstance(values, Mapping) else None
        if not isinstance(name, str) or name not in PRESETS:
            return values
        return {**OFF, **PRESETS[name], **values}

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value and value not in PRESETS:
            raise unknown("preset", value, PRESETS)
        return value


def unfolded(assignments: Mapping[str, object]) -> dict[str, object]:
    """Return dotted assignments with all that ``views.preset`` stands for, beneath the others.

    So a preset wins over whatever was assigned before, as any other assignment does.
    """
    name = assignments.get("views.preset")
    if not isinstance(name, str) or name not in PRESETS:
        return dict(assignments)
    meant = ViewSettings(preset=name).model_dump()
    return {f"views.{field}": value for field, value in meant.items()} | dict(assignments)


def as_images(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Return RGB pixels as images in [0, 1], channels first (channels last in memory)."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def varied(
    pixels: UInt8[Tensor, "b h w 3"], settings: ViewSettings, generator: torch.Generator
) -> Float[Tensor, "b 3 h w"]:
    """Return RGB pixels as images in [0, 1], each varied by its own random draw.

    Bytes are moved before they become images, which are four times as large.
    All draws follow from ``generator`` (on the CPU), in a fixed order and number, so a batch's
    views depend on its state alone, not on the device.
    """
    size, h, w, _ = pixels.shape
    device = pixels.device
    own = _OwnDraws(generator, size, device)
    draws = torch.rand(9, size, generator=generator).to(device)
    either_side = draws * 2 - 1
    across = settings.shift if settings.shift_width is None else settings.shift_width
    moved = augmentation.moved(
        pixels.permute(0, 3, 1, 2),
        draws[0] < settings.flip,
        either_side[1] * round(settings.shift * h),
        either_side[2] * round(across * w),
    )
    images = as_images(moved.permute(0, 2, 3, 1))
    if settings.rotation:
        (turn,) = own("rotation", 1) * 2 - 1
        images = augmentation.rotated(images, turn * settings.rotation)
    ranges = (settings.brightness, settings.contrast, settings.saturation)
    if any(ranges):
        factors = (1 + span * either_side[3 + i] for i, span in enumerate(ranges))
        images = augmentation.coloured(images, *factors)
    if settings.hue:
        (turn,) = own("hue", 1) * 2 - 1
        images = augmentation.hue_turned(images, turn * settings.hue)
    if settings.greyscale:
        (chance,) = own("greyscale", 1)
        images = augmentation.greyed(images, chance < settings.greyscale)
    if settings.blur:
        chance, soft = own("blur", 2)
        sigma = 0.1 + (settings.blur_sigma - 0.1) * soft
        images = augmentation.blurred(images, chance < settings.blur, sigma, settings.blur_sigma)
    if settings.trivial_augment:
        chance, seeds = own("trivial_augment", 2).cpu()
        chosen = chance < settings.trivial_augment
        images = augmentation.trivially_augmented(images, chosen, (seeds * 2**24).long())
    if settings.occlusion:
        chance, *rest = own("occlusion", 8)
        images = augmentation.occluded(images, chance < settings.occlusion, torch.stack(rest))
    if settings.white_square:
        images = augmentation.squared(images, settings.white_square, own("white_square", 3))
    if settings.erasing:
        shape = torch.rand(3, size, generator=generator).to(device)
        images = augmentation.erased(
            images,
            draws[6] < settings.erasing,
            draws[7:9],
            shape[:2],
            settings.erasing_area,
            _fill(settings, own, images),
        )
    return images.contiguous(memory_format=torch.channels_last)


class _OwnDraws:
    """Draws of a variation's own: those of the others are the same whether it is on or off."""

    def __init__(self, generator: torch.Generator, size: int, device: torch.device):
        # Read off a copy: what the generator gives next to others stays as it is.
        twin = generator.clone_state()
        self.seed = int(torch.randint(2**62, (), generator=twin))
        self.size, self.device = size, device

    def __call__(self, variation: str, count: int, *size: int) -> Tensor:
        rng = np.random.default_rng((self.seed, zlib.crc32(variation.encode())))
        draws = rng.random((count, *(size or (self.size,))), dtype=np.float32)
        return torch.from_numpy(draws).to(self.device)


def _fill(
    settings: ViewSettings, own: _OwnDraws, images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "#b 3 #h #w"]:
    """Return what erased rectangles show."""
    if settings.erasing_fill == "noise":
        # One sheet, read by each image from a place of its own: a sheet for each would be as many
        # draws on the CPU as the batch has numbers.
        count = images[0].numel()
        (sheet,) = own("noise", 1, count)
        start = (own("noise_start", 1)[0] * count).long()
        places = (start[:, None] + torch.arange(count, device=images.device)) % count
        noise: Tensor = sheet[places]
        return noise.view(images.shape)
    colour = IMAGENET_MEAN if settings.erasing_fill == "imagenet_mean" else (0.5,) * 3
    return torch.tensor(colour, device=images.device).view(1, 3, 1, 1)
