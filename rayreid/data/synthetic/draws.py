"""Keyed random numbers: every draw is a pure function of integers, on any machine.

A draw is found by hashing (key of the thing, name of the quantity), not by advancing a
state, so nobody's looks depend on who else is drawn, nor on the order. Everything is
integer arithmetic or single rounded float32 operations, hence the same bits everywhere.
"""

from zlib import crc32

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt64

Keys = UInt64[np.ndarray, "n 1 1"]
"""One key per crop, shaped to broadcast against pictures [n, height, width]."""

Column = Float32[np.ndarray, "n 1 1"]
"""One number per crop, shaped to broadcast against pictures [n, height, width]."""

Colour = Float32[np.ndarray, "n 3 1 1"]
"""One RGB colour per crop, nominally in [0, 1]."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def combined(*parts: UInt64[np.ndarray, "..."] | int | str) -> UInt64[np.ndarray, "..."]:
    """Return the key of a tuple of integers, names and arrays of keys (these broadcast).

    Each part is folded in by one round of SplitMix64.
    """
    key = np.zeros((1, 1, 1), dtype=np.uint64)
    for part in parts:
        if isinstance(part, str):
            part = crc32(part.encode())
        word = np.uint64(part % 2**64) if isinstance(part, int) else part
        key = (key ^ word) + _STEP
        key = (key ^ (key >> np.uint64(30))) * _FIRST
        key = (key ^ (key >> np.uint64(27))) * _SECOND
        key = key ^ (key >> np.uint64(31))
    return key


def snapped(values: Float64[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Round to multiples of 2**-12, which hides the last bits in which sines and powers differ."""
    return (np.round(values * 4096.0) / 4096.0).astype(np.float32)


class Draws:
    """Named draws for an array of keys: ``Draws(keys).uniform("height", 1.5, 2.0)``."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def words(self, name: str) -> Keys:
        """Return 64 random bits per key."""
        return combined(self.keys, name)

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Column:
        """Return a number in [low, high) per key."""
        unit = (self.words(name) >> np.uint64(40)).astype(np.float32) * 2.0**-24
        return low + (high - low) * unit

    def normal(self, name: str, mean: float, deviation: float) -> Column:
        """Return a bell-shaped number per key: a sum of four uniforms, so never beyond 3.5 sd."""
        words = self.words(name)
        quarters = [(words >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)]
        total = (quarters[0] + quarters[1] + quarters[2] + quarters[3]).astype(np.float32)
        standard = total * (3**0.5 / 65536) - 2 * 3**0.5
        value: Column = mean + deviation * standard
        return value

    def chance(self, name: str, probability: float) -> Bool[np.ndarray, "n 1 1"]:
        """Return whether something of this probability happens, per key."""
        return self.uniform(name) < probability

    def sign(self, name: str) -> Column:
        """Return -1 or 1 per key."""
        return np.where(self.chance(name, 0.5), np.float32(1), np.float32(-1))

    def one_of(self, name: str, values: list[float], weights: list[float]) -> Column:
        """Return one of ``values`` per key, in proportion to ``weights``."""
        bounds = np.cumsum(np.asarray(weights, dtype=np.float64))
        index = np.searchsorted(bounds / bounds[-1], self.uniform(name), side="right")
        return np.asarray(values, dtype=np.float32)[np.minimum(index, len(values) - 1)]


def rgb(hue: Column, saturation: Column, value: Column) -> Colour:
    """Return the colours of a hue in turns, a saturation and a value, all in [0, 1]."""
    channels = []
    for shift in (5.0, 3.0, 1.0):
        k = (shift + hue * 6) % 6
        slope = np.clip(np.minimum(k, 4 - k), 0, 1)
        channels.append(value - value * saturation * slope)
    return np.stack(channels, axis=1)
