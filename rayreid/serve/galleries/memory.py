"""A growing array of embeddings on the model's device."""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_FIRST = 256
_BLOCK = 1024


class Embeddings:
    """Rows of one tensor with room for more, so that rows which come do not move those there."""

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        self.rows = torch.empty(0, *shape, device=device)
        self.count = 0

    @property
    def bytes(self) -> int:
        """Return how much memory is taken."""
        return self.rows.numel() * self.rows.element_size()

    def view(self) -> Float32[Tensor, "n *e"]:
        """Return the rows that are there."""
        return self.rows[: self.count]

    def make_room(self, count: int) -> None:
        """Have room for so many rows, and not just for them where there were some before."""
        if count > len(self.rows):
            grown = torch.empty(
                max(count, _FIRST, len(self.rows) + len(self.rows) // 4),
                *self.rows.shape[1:],
                device=self.rows.device,
            )
            grown[: self.count] = self.rows[: self.count]
            self.rows = grown

    def write(self, at: int, rows: Float32[Tensor, "m *e"]) -> None:
        """Put rows where there is room for them, and where `take_over` will find them."""
        assert at >= self.count, "a row that is there would be overwritten"
        assert at + len(rows) <= len(self.rows), "there is no room for them"
        self.rows[at : at + len(rows)] = rows

    def take_over(self, count: int) -> None:
        """Let so many rows be those that are there."""
        self.count = count

    def keep(self, kept: Int64[Tensor, " k"]) -> None:
        """Drop all other rows and overwrite what they leave; ``kept`` is in ascending order."""
        for start in range(0, len(kept), _BLOCK):
            some = kept[start : start + _BLOCK]
            # A row moves towards the front only, to where nothing is that is still to move.
            self.rows[start : start + len(some)] = self.rows[some]
        self.rows[len(kept) : self.count] = 0
        self.count = len(kept)
