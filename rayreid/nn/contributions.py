"""The shares of places in scores of pooled features, which are means over places.

A feature that is the mean of vectors at n places, f = (1 / n) sum_p phi_p, makes a cosine the sum

    cos(f, g) = sum_p sum_r <phi_p, psi_r> / (n^2 |f| |g|),

to which each place, and each pair of places, adds a term of its own. This is exact, where maps of
channel energy or of gradients (CAM; Zhou et al., CVPR 2016) only resemble it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rayreid.explanation import Explanation, Matches

OCCLUDED = (8, 4)
"""Rows and columns of patches that are covered in turn."""


def cosine_explanation(
    maps: Float[Tensor, "2 c h w"], attention: Float[Tensor, "2 h w"] | None = None
) -> Explanation:
    """Return the shares of the places of two maps in the cosine of their means.

    A match is a place of the first crop with the place of the second that adds most beside it.
    """
    h, w = maps.shape[2:]
    one, other = maps.double().flatten(2)  # [c, n] each
    f, g = one.mean(1), other.mean(1)
    scale = 1 / (f.norm() * g.norm()).clamp(min=torch.finfo(torch.float32).tiny)
    together = scale / (h * w) ** 2 * one.T @ other
    best, places = together.max(1)
    return Explanation(
        score=float(scale * f @ g),
        constant=0.0,
        first=together.sum(1).view(h, w).float(),
        second=together.sum(0).view(h, w).float(),
        sums="each",
        says=(
            "the score is the cosine of two means over places: shares of places, and of pairs of "
            "places, sum to it exactly"
        ),
        matches=Matches(
            torch.arange(h * w, device=maps.device),
            places,
            best.float(),
            torch.zeros_like(places),
            ("places",),
        ),
        attention=None if attention is None else (attention[0].float(), attention[1].float()),
    )


def difference_explanation(
    maps: Float[Tensor, "2 c h w"],
    slope: Float[Tensor, " c"],
    constant: float,
) -> Explanation:
    """Return the shares of places in ``slope . (f - g)^2 + constant`` of the means of two maps.

    Since the mean of ``phi_p - g`` over places is f - g, a place p of the first crop adds
    ``slope . (f - g) (phi_p - g) / n``, and likewise one of the second: the shares of either sum to
    the same.
    """
    h, w = maps.shape[2:]
    one, other = maps.double().flatten(2)
    f, g = one.mean(1), other.mean(1)
    towards = slope.double() * (f - g) / (h * w)
    first, second = towards @ (one - g[:, None]), towards @ (f[:, None] - other)
    return Explanation(
        score=float(first.sum() + constant),
        constant=constant,
        first=first.view(h, w).float(),
        second=second.view(h, w).float(),
        sums="each",
        says=(
            "the score falls with the differences of two means over places: shares of the places "
            "of either crop, which are mostly below zero, and the constant sum to it exactly"
        ),
    )


def covered(
    image: Float[Tensor, "3 height width"], grid: tuple[int, int] = OCCLUDED
) -> Float[Tensor, "n 3 height width"]:
    """Return an image with each patch of a grid in turn covered by the image's mean colour."""
    _, height, width = image.shape
    rows, columns = grid
    row = torch.arange(height, device=image.device) * rows // height
    column = torch.arange(width, device=image.device) * columns // width
    patch = row[:, None] * columns + column
    hidden = patch == torch.arange(rows * columns, device=image.device)[:, None, None]
    return torch.where(hidden[:, None], image.mean((1, 2))[:, None, None], image)


def occlusion_explanation(
    score: float, first: Float[Tensor, " n"], second: Float[Tensor, " n"]
) -> Explanation:
    """Return what a score loses when the patches of one crop, and of the other, are covered.

    ``first`` and ``second`` are the scores without each patch (Zeiler and Fergus, ECCV 2014).
    """
    shares = [(score - without).float().view(*OCCLUDED) for without in (first, second)]
    return Explanation(
        score=score,
        constant=0.0,
        first=shares[0],
        second=shares[1],
        sums="no",
        says=(
            "each patch is covered in turn: shares are what the score loses without it, and need "
            "not sum to the score"
        ),
    )
