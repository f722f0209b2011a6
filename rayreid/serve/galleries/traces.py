"""Looking for what is left of erased embeddings and names in files, byte for byte."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt64

WINDOW = 64
"""An embedding is looked for in pieces of so many bytes: a piece that is left is found."""
TEXT_BYTES = 6
"""Shorter names may be anywhere by chance."""

_WORD = 8
_CHUNK = 16 * 2**20
_SLOTS = 24
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Knuth's multiplier: its products' high bits depend on all bits of a word."""


@dataclass(frozen=True)
class Trace:
    """Where a piece of something erased is."""

    path: Path
    at: int
    """Byte of the file."""


class Sought:
    """Pieces of embeddings, and texts, that must be in no file.

    A file is read once and by whole words, whatever the number of pieces: a piece lies at some
    offset to the file's words, so the words that its first bytes have at all eight are looked up.
    Pieces that repeat one word, as zeros after a rectifier, tell nothing and are left out.
    """

    def __init__(self, embeddings: Sequence[bytes], texts: Iterable[str]):
        self.texts = [text.encode() for text in texts]
        self.embeddings = list(embeddings)
        starts = [
            (number, start)
            for number, one in enumerate(self.embeddings)
            for start in range(0, len(one) - WINDOW + 1, WINDOW)
            if len(set(one[start : start + 2 * _WORD])) > _WORD // 2
        ]
        first = b"".join(
            self.embeddings[n][s + i : s + i + _WORD] for n, s in starts for i in range(_WORD)
        )
        words = np.frombuffer(first, np.uint64)
        order = np.argsort(words, kind="stable")
        self.words, self.of = words[order], order
        self.starts = starts
        self.slots: Bool[np.ndarray, " slots"] = np.zeros(2**_SLOTS, bool)
        self.slots[_slot(words)] = True

    def found_in(self, path: Path) -> tuple[Trace | None, int]:
        """Return the first trace in a file, if there is one, and the bytes that were read."""
        size = 0
        for at, chunk in _chunks(path):
            size = at + len(chunk)
            for text in self.texts:
                if (place := chunk.find(text)) >= 0:
                    return Trace(path, at + place), size
            piece = self._piece_in(chunk)
            if piece is not None:
                return Trace(path, at + piece), size
        return None, size

    def _piece_in(self, chunk: bytes) -> int | None:
        words = np.frombuffer(chunk[: len(chunk) // _WORD * _WORD], np.uint64)
        for place in np.flatnonzero(self.slots[_slot(words)]).tolist():
            low, high = (
                int(np.searchsorted(self.words, words[place], side)) for side in ("left", "right")
            )
            for probe in self.of[low:high].tolist():
                number, start = self.starts[probe // _WORD]
                begin: int = place * _WORD - probe % _WORD
                piece = self.embeddings[number][start : start + WINDOW]
                if begin >= 0 and chunk[begin : begin + WINDOW] == piece:
                    return begin
        return None


def _slot(words: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    slots: np.ndarray = (words * _MIX) >> np.uint64(64 - _SLOTS)
    return slots


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield a file's bytes and where they begin, with what spans two of them in both."""
    overlap = 1024
    with path.open("rb") as file:
        at, chunk = 0, file.read(_CHUNK)
        while chunk:
            yield at, chunk
            at, before = at + len(chunk) - overlap, chunk[-overlap:]
            more = file.read(_CHUNK)
            if not more:
                return
            chunk = before + more
