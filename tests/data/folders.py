"""Miniature sets on disk: noise in files that are named like people."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rayreid.batch import Crops, Domain

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
PEOPLE = {"train": (1, 2, 3), "query": (5, 6), "gallery": (0, 5, 6)}
SEEN = {(3, 2), (6, 1)}
"""Who, and by which camera, is not seen: 3 is in one camera only, and so is 6."""


def noise(seed: int, width: int = 30, height: int = 70) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def crop_file(root: Path, part: str, identity: int, camera: int, box: int = 0) -> Path:
    frame = identity * 10 + ("train", "query", "gallery").index(part)
    return root / FOLDERS[part] / f"{identity:04}_c{camera}s1_{frame:06}_{box:02}.jpg"


def market(root: Path) -> Path:
    """Make a set in Market-1501's layout: three people to learn from, two to find, a distractor."""
    for number, (part, people) in enumerate(PEOPLE.items()):
        (root / FOLDERS[part]).mkdir(parents=True)
        for identity in people:
            for camera in (1, 2):
                if (identity, camera) in SEEN:
                    continue
                seed = 100 * number + 10 * identity + camera
                picture = Image.fromarray(noise(seed, 20 + 5 * identity, 60 + camera))
                picture.save(crop_file(root, part, identity, camera), quality=90)
    return root


@dataclass(frozen=True)
class Shard:
    """An encoded image that is no file."""

    name: str
    data: bytes

    def read(self) -> bytes:
        return self.data


def crops(
    images: Sequence[object] | np.ndarray, identities: Sequence[int], cameras: Sequence[int],
    times: Sequence[float] | None = None,
) -> Crops:  # fmt: skip
    return Crops(
        "mini",
        images if isinstance(images, np.ndarray) else list(images),  # type: ignore[arg-type]
        np.array(identities, np.int64),
        np.array(cameras, np.int64),
        None if times is None else np.array(times, np.float64),
    )


def domain(train: Crops | None = None, query: Crops | None = None,
           gallery: Crops | None = None) -> Domain:  # fmt: skip
    none = crops([], [], [])
    return Domain("mini", train or none, query or none, gallery or none)
