"""GMN that fails as a test wants, or tells what its process holds."""

import gc
import time
from pathlib import Path

import numpy as np
import torch

from rayreid.batch import Batch, Crops
from rayreid.method import Method
from rayreid.methods.gmn import GMN


class Wrapped(Method):
    """GMN, held by another method."""

    Config = GMN.Config
    recipe = GMN.recipe

    def __init__(self, config: object, *built_with: object) -> None:
        super().__init__(config, *built_with)
        self.inner = GMN(config, *built_with)
        self.config = config

    def embed(self, images: object) -> object:
        return self.inner.embed(images)

    def score(self, queries: object, gallery: object) -> object:
        return self.inner.score(queries, gallery)

    def forward(self, batch: Batch) -> dict[str, object]:
        return self.inner(batch)


class Fragile(Wrapped):
    """A method that raises under one of the values that a search may try."""

    def forward(self, batch: Batch) -> dict[str, object]:
        if self.config.pair_weight == 666.0:
            raise RuntimeError("crashed on purpose")
        return self.inner(batch)


class Slow(Wrapped):
    """A method whose epochs take long enough to be interrupted."""

    def start_epoch(self, epoch: int, target: object = None) -> None:
        time.sleep(0.3)
        self.inner.start_epoch(epoch, target)


class Witness(Fragile):
    """A method that tells, among its losses, where its process has the sources' pixels."""

    def __init__(self, config: object, *built_with: object) -> None:
        super().__init__(config, *built_with)
        self.shared, self.owned = shared_and_owned()

    def forward(self, batch: Batch) -> dict[str, object]:
        told = {"shared": float(self.shared), "owned": float(self.owned)}
        losses = super().forward(batch)
        return losses | {name: torch.tensor(value) for name, value in told.items()}


def shared_and_owned() -> tuple[int, int]:
    """Return how many crops' pixels lie in Ray's object store, and how many in memory of our own.

    The store is a file that is mapped by all processes of a node.
    """
    store = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, *_, name = line.split(maxsplit=5)
        if "plasma" in name:
            store.append([int(end, 16) for end in where.split("-")])
    found = {id(c.images): c.images for c in gc.get_objects() if type(c) is Crops}
    shared = owned = 0
    for pixels in found.values():
        assert isinstance(pixels, np.ndarray)
        address = pixels.__array_interface__["data"][0]
        inside = any(low <= address < high for low, high in store)
        if inside and not pixels.flags.writeable:
            shared += 1
        else:
            owned += 1
    return shared, owned
