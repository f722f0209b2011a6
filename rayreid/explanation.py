"""What a pair's score comes from: the shares of the places of two crops, and what matches what."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Matches:
    """Places of the first crop and of the second that match, and what each match adds to a score.

    Places are numbered row by row. ``parts`` names what matched, e.g. templates of a size, and
    ``part`` says of each match which.
    """

    first: Int64[Tensor, " m"]
    second: Int64[Tensor, " m"]
    adds: Float[Tensor, " m"]
    part: Int64[Tensor, " m"]
    parts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Explanation:
    """A pair's score, divided among the places of its crops.

    With ``sums`` "each", the shares of either crop alone sum to the score less ``constant``; with
    "together" those of both do; with "no" they are what the score loses without each place, which
    need not sum to anything.
    """

    score: float
    constant: float
    first: Float[Tensor, "h w"]
    second: Float[Tensor, "h w"]
    sums: Literal["each", "together", "no"]
    says: str
    """What the shares are, in a sentence."""
    matches: Matches | None = None
    attention: tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]] | None = None
    """Of methods that attend, how much of each place they let through, in [0, 1]."""
