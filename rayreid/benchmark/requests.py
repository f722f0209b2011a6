"""Requests for a service under test: drawn crops as JPEGs, in forms."""

import json
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Int64
from PIL import Image

from rayreid.benchmark.load import post
from rayreid.data.synthetic import draw_domain

IMAGES, FEW = 16, 4
"""Of a request: a few people's crops, half of them matched with the other half. `FEW` for a model
that embeds less than `SLOW` images a second."""
SLOW = 100.0

PEOPLE, CAMERAS, CROPS = 64, 4, 2
"""512 crops: with twelve requests at a time, no crop is in two of them."""


def drawn_crops(height: int, width: int) -> list[bytes]:
    """Return JPEGs of drawn people."""
    drawn = draw_domain(
        "plaza-noon", train_people=PEOPLE, test_people=1, cameras=CAMERAS, crops=CROPS,
        height=height, width=width,
    ).train.images  # fmt: skip
    return [jpeg(image) for image in drawn if isinstance(image, np.ndarray)]


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """Return an image as a JPEG."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def pairs_of(images: int) -> Int64[np.ndarray, "p 2"]:
    """Return each image of the first half of every `IMAGES` with each of their second half."""
    groups = []
    for start in range(0, images, IMAGES):
        end = min(images, start + IMAGES)
        half = (start + end) // 2
        left, right = np.meshgrid(np.arange(start, half), np.arange(half, end), indexing="ij")
        groups.append(np.stack([left.ravel(), right.ravel()], 1))
    return np.concatenate(groups)


def requests(
    crops: Sequence[bytes], images: int = IMAGES, path: str = "/v1/match/pairs"
) -> list[bytes]:
    """Return requests for pairs that have all crops among them, each crop in one."""
    pairs = json.dumps(pairs_of(images).tolist()).encode()
    return [
        post(path, *form(crops[start : start + images], {"pairs": pairs}))
        for start in range(0, len(crops) - images + 1, images)
    ]


def form(images: Sequence[bytes], texts: dict[str, bytes]) -> tuple[bytes, str]:
    """Return a form and its content type."""
    boundary = b"--rayreid"
    parts = [
        b'Content-Disposition: form-data; name="images"; filename="%d"\r\n\r\n%s' % (i, image)
        for i, image in enumerate(images)
    ]
    parts += [
        b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (name.encode(), text)
        for name, text in texts.items()
    ]
    body = b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts)
    body += b"--%s--\r\n" % boundary
    return body, f"multipart/form-data; boundary={boundary.decode()}"
