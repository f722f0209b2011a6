"""Variations of images [b, 3, h, w] in [0, 1], each image by its own draws, on their device.

Draws are uniform in [0, 1), a row of b for each number that a variation needs. Where an image is
not ``chosen`` it stays as it is.
"""

import math
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean colour of ImageNet, which trunks with its weights take for zero."""

Images = Float[Tensor, "b 3 h w"]
Movable = Images | UInt8[Tensor, "b 3 h w"]
Each = Float[Tensor, " b"]
Chosen = Bool[Tensor, " b"]


def moved(images: Movable, flipped: Chosen, down: Each, right: Each) -> Movable:
    """Flip, then shift by whole pixels: resampling would blur what small crops have left."""
    if images.device.type == "cpu":
        return _copied(images, flipped, down, right)
    return _gathered(images, flipped, down, right)


def _copied(images: Movable, flipped: Chosen, down: Each, right: Each) -> Movable:
    """Copy what stays in sight, an image at a time: on a CPU, faster than gathering pixels."""
    h, w = images.shape[2:]
    found = torch.zeros_like(images)
    rows, columns = down.round().long().clamp(-h, h), right.round().long().clamp(-w, w)
    moves = (flipped.tolist(), rows.tolist(), columns.tolist())
    for i, (mirrored, d, r) in enumerate(zip(*moves, strict=True)):
        # As a batch of one: torch then mirrors channels-last bytes several pixels at a time.
        image = images[i : i + 1].flip(3)[0] if mirrored else images[i]
        found[i, :, max(d, 0) : h + min(d, 0), max(r, 0) : w + min(r, 0)] = image[
            :, max(-d, 0) : h - max(d, 0), max(-r, 0) : w - max(r, 0)
        ]
    return found


def _gathered(images: Movable, flipped: Chosen, down: Each, right: Each) -> Movable:
    """Look each pixel up, all images at once."""
    b, _, h, w = images.shape
    device = images.device
    rows = torch.arange(h, device=device)[None] - down.round().long()[:, None]
    columns = torch.arange(w, device=device)[None] - right.round().long()[:, None]
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None]
    columns = torch.where(flipped[:, None], w - 1 - columns, columns)
    rows, columns = rows.clamp(0, h - 1), columns.clamp(0, w - 1)
    batch = torch.arange(b, device=device)[:, None, None]
    found = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None]]
    return (found * inside[..., None]).permute(0, 3, 1, 2)


def rotated(images: Images, degrees: Each) -> Images:
    """Turn each image about its middle, counter-clockwise, bilinearly; zeros come in."""
    h, w = images.shape[2:]
    angle = torch.deg2rad(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Coordinates run from -1 to 1 along either side, however long it is.
    matrix = torch.stack([cos, -sin * h / w, zero, sin * w / h, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def coloured(images: Images, brightness: Each, contrast: Each, saturation: Each) -> Images:
    """Multiply by factors of brightness, then saturation, then contrast."""
    images = images * _each(brightness)
    grey = _grey(images)
    images = grey + (images - grey) * _each(saturation)
    mean = grey.mean((2, 3), keepdim=True)
    return (mean + (images - mean) * _each(contrast)).clamp(0, 1)


def hue_turned(images: Images, turns: Each) -> Images:
    """Turn each pixel's hue by a share of the colour circle (that of HSV)."""
    value, largest = images.max(1)
    chroma = value - images.amin(1)
    red, green, blue = images.unbind(1)
    # In sixths of the circle, from the largest channel: red is 0, green 2 and blue 4.
    apart = torch.stack([green - blue, blue - red, red - green], 1)
    apart = apart.gather(1, largest[:, None]).squeeze(1) / chroma.clamp(min=1e-12)
    hue = apart + 2 * largest + 6 * turns.view(-1, 1, 1)
    # A channel has full value within a sixth of its own hue, and none beyond two sixths.
    channels = []
    for own in (5, 3, 1):
        place = (hue + own) % 6
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, 1)


def greyed(images: Images, chosen: Chosen) -> Images:
    """Take the colour out of the chosen images."""
    return torch.where(_each(chosen), _grey(images), images)


def blurred(images: Images, chosen: Chosen, sigma: Each, largest: float) -> Images:
    """Blur the chosen images by a Gaussian of deviation ``sigma`` <= ``largest``, in pixels."""
    reach = math.ceil(3 * largest)
    places = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (places / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    soft = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    # A sum of shifted images, not a convolution: that may be in TF32 on a GPU.
    for dim in (2, 3):
        taps = [soft.narrow(dim, i, images.shape[dim]) for i in range(len(places))]
        soft = reduce(torch.add, map(torch.mul, taps, map(_each, kernel.unbind(1))))
    return torch.where(_each(chosen), soft, images)


def trivially_augmented(images: Images, chosen: Chosen, seeds: Int64[Tensor, " b"]) -> Images:
    """Apply to each chosen image, in 8 bits, one operation of a strength, both drawn evenly.

    TrivialAugment (Müller and Hutter, ICCV 2021), torchvision's "wide" set of operations; image
    by image. ``chosen`` and ``seeds`` are on the CPU.
    """
    from torchvision.transforms.v2 import TrivialAugmentWide

    augment, changed = TrivialAugmentWide(), list(images)
    with torch.random.fork_rng(devices=[]):
        for i in chosen.nonzero().flatten().tolist():
            # Of the CPU alone, where torchvision draws: `torch.manual_seed` would set a GPU's too.
            torch.default_generator.manual_seed(int(seeds[i]))
            eight_bits = (images[i] * 255).round().to(torch.uint8)
            changed[i] = augment(eight_bits).float() / 255
    return torch.stack(changed)


def occluded(images: Images, chosen: Chosen, draws: Float[Tensor, "7 b"]) -> Images:
    """Hide a rectangle of .2 to .6 of the height and width behind one of another image.

    The other is any of the batch, and its rectangle from anywhere in it. Cut and pasted as CutMix
    does (Yun et al., ICCV 2019), but the label stays, since what is pasted is an occluder; that
    any set of whole people yields occluded ones is from Chen et al., "Occlude Them All"
    (ICCV 2021), whose masks and places of occluders are left out.
    """
    b, _, h, w = images.shape
    device = images.device
    # The last image's next is the first; a batch of one occludes itself.
    step = 1 + (draws[0] * (b - 1)).long()
    other = (torch.arange(b, device=device) + step) % b
    height, width = ((0.2 + 0.4 * draws[1]) * h).round(), ((0.2 + 0.4 * draws[2]) * w).round()
    top, left = (draws[3] * (h - height + 1)).long(), (draws[4] * (w - width + 1)).long()
    from_top, from_left = (draws[5] * (h - height + 1)).long(), (draws[6] * (w - width + 1)).long()
    hidden = _rectangle(images, top, left, height, width) & chosen[:, None, None]
    rows = torch.arange(h, device=device)[None] + (from_top - top)[:, None]
    columns = torch.arange(w, device=device)[None] + (from_left - left)[:, None]
    rows, columns = rows.clamp(0, h - 1)[:, :, None], columns.clamp(0, w - 1)[:, None]
    occluders = images.permute(0, 2, 3, 1)[other[:, None, None], rows, columns]
    return torch.where(hidden[:, None], occluders.permute(0, 3, 1, 2), images)


def squared(images: Images, largest: float, draws: Float[Tensor, "3 b"]) -> Images:
    """Hide a white square of one pixel to ``largest`` of the shorter side, wholly inside."""
    h, w = images.shape[2:]
    side = 1 + (draws[0] * (int(largest * min(h, w)) - 1)).floor().clamp(min=0)
    top, left = (draws[1] * (h - side + 1)).long(), (draws[2] * (w - side + 1)).long()
    return torch.where(_rectangle(images, top, left, side, side)[:, None], 1.0, images)


def erased(
    images: Images,
    chosen: Chosen,
    centre: Float[Tensor, "2 b"],
    shape: Float[Tensor, "2 b"],
    largest: float,
    fill: Float[Tensor, "#b 3 #h #w"],
) -> Images:
    """Random erasing (Zhong et al., AAAI 2020): area 2 % to ``largest``, aspect 0.3 to 1 / 0.3.

    A rectangle that reaches over the border is cut off there; the paper draws another. On a CPU
    ``images`` are overwritten, which costs a fraction of another batch of memory.
    """
    _, _, h, w = images.shape
    area = (0.02 + (largest - 0.02) * shape[0]) * h * w
    # Log-uniform, so that wide and tall rectangles are equally likely.
    aspect = 0.3 ** (2 * shape[1] - 1)
    half_h, half_w = (area * aspect).sqrt() / 2, (area / aspect).sqrt() / 2
    rows = torch.arange(h, device=images.device) + 0.5
    columns = torch.arange(w, device=images.device) + 0.5
    in_rows = (rows[None] - centre[0][:, None] * h).abs() <= half_h[:, None]
    in_columns = (columns[None] - centre[1][:, None] * w).abs() <= half_w[:, None]
    if images.device.type == "cpu":
        fill = fill.expand_as(images)
        tall, wide = _run(in_rows), _run(in_columns)
        for i in chosen.nonzero().flatten().tolist():
            place = (i, slice(None), slice(*tall[i]), slice(*wide[i]))
            images[place] = fill[place]
        return images
    hole = in_rows[:, :, None] & in_columns[:, None] & chosen[:, None, None]
    return torch.where(hole[:, None], fill, images)


def _run(inside: Bool[Tensor, "b n"]) -> list[list[int]]:
    """Return from where to where the one run of each row's places that are inside goes."""
    first = inside.int().argmax(1)
    both: list[list[int]] = torch.stack([first, first + inside.sum(1)], 1).tolist()
    return both


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _rectangle(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor
) -> Bool[Tensor, "b h w"]:
    rows = torch.arange(images.shape[2], device=images.device)[None] - top[:, None]
    columns = torch.arange(images.shape[3], device=images.device)[None] - left[:, None]
    in_rows = (rows >= 0) & (rows < height[:, None])
    in_columns = (columns >= 0) & (columns < width[:, None])
    return in_rows[:, :, None] & in_columns[:, None]
