"""Views: random variations of a batch of crops, computed on the batch's device."""

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

from rayreid.settings import Settings


class ViewSettings(Settings):
    """How a crop is varied in training; 0 switches a variation off."""

    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    shift: float = Field(0.05, ge=0, le=0.5)
    """Largest shift, as a share of height and of width; the border is filled with zeros."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Brightness is multiplied by a factor in 1 -+ this."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Distance to the crop's mean grey is multiplied by a factor in 1 -+ this."""
    saturation: float = Field(0.0, ge=0, lt=1)
    """Distance to the pixel's own grey is multiplied by a factor in 1 -+ this."""
    erasing: float = Field(0.0, ge=0, le=1)
    """Probability that a random rectangle of 2 to 20 % of the crop is erased (to mid grey)."""


GREY = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601)."""


def as_images(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Return RGB pixels as images in [0, 1], channels first (channels last in memory)."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def varied(
    images: Float[Tensor, "b 3 h w"], settings: ViewSettings, generator: torch.Generator
) -> Float[Tensor, "b 3 h w"]:
    """Return each image varied by its own random draw.

    All draws come from ``generator`` (on the CPU) in a fixed order and number, so a batch's
    views depend on its state alone, not on the device.
    """
    size = len(images)
    draws = torch.rand(9, size, generator=generator).to(images.device)
    images = _moved(images, draws[0] < settings.flip, draws[1:3] * 2 - 1, settings.shift)
    images = _coloured(images, draws[3:6] * 2 - 1, settings)
    if settings.erasing:
        shape = torch.rand(3, size, generator=generator).to(images.device)
        images = _erased(images, draws[6] < settings.erasing, draws[7:9], shape)
    return images


def _moved(images: Tensor, flipped: Tensor, towards: Tensor, largest: float) -> Tensor:
    """Flip, then shift by whole pixels: resampling would blur what small crops have left."""
    b, _, h, w = images.shape
    device = images.device
    down = (towards[0] * round(largest * h)).round().long()
    right = (towards[1] * round(largest * w)).round().long()
    rows = torch.arange(h, device=device)[None] - down[:, None]
    columns = torch.arange(w, device=device)[None] - right[:, None]
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None]
    columns = torch.where(flipped[:, None], w - 1 - columns, columns)
    rows, columns = rows.clamp(0, h - 1), columns.clamp(0, w - 1)
    batch = torch.arange(b, device=device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None]]
    return (moved * inside[..., None]).permute(0, 3, 1, 2)


def _coloured(images: Tensor, towards: Tensor, settings: ViewSettings) -> Tensor:
    if not (settings.brightness or settings.contrast or settings.saturation):
        return images
    ranges = (settings.brightness, settings.contrast, settings.saturation)
    brightness, contrast, saturation = (
        (1 + span * towards[i]).view(-1, 1, 1, 1) for i, span in enumerate(ranges)
    )
    images = images * brightness
    weights = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    grey = (images * weights).sum(1, keepdim=True)
    images = grey + (images - grey) * saturation
    mean = grey.mean((2, 3), keepdim=True)
    return (mean + (images - mean) * contrast).clamp(0, 1)


def _erased(images: Tensor, chosen: Tensor, centre: Tensor, shape: Tensor) -> Tensor:
    """Random erasing (Zhong et al., AAAI 2020): area 2-20 %, aspect 0.3 to 1 / 0.3."""
    _, _, h, w = images.shape
    area = (0.02 + 0.18 * shape[0]) * h * w
    # Log-uniform, so that wide and tall rectangles are equally likely.
    aspect = 0.3 ** (2 * shape[1] - 1)
    half_h, half_w = (area * aspect).sqrt() / 2, (area / aspect).sqrt() / 2
    rows = torch.arange(h, device=images.device) + 0.5
    columns = torch.arange(w, device=images.device) + 0.5
    in_rows = (rows[None] - centre[0][:, None] * h).abs() <= half_h[:, None]
    in_columns = (columns[None] - centre[1][:, None] * w).abs() <= half_w[:, None]
    hole = in_rows[:, :, None] & in_columns[:, None] & chosen[:, None, None]
    return torch.where(hole[:, None], 0.5, images)
