"""Pictures, and what a method alone says of them."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from rayreid.checkpoint import Trained
from rayreid.data.decoding import decode_bytes
from rayreid.data.views import as_images

HEIGHT, WIDTH = 64, 32
TIMEOUT = 20
PATH = "/v1/match/pairs"


def picture(seed: int, kind: str = "PNG") -> bytes:
    """Return an encoded image of coloured blocks."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((40, 80), Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def in_json(images: list[bytes], pairs: object) -> dict[str, object]:
    return {"images": [base64.b64encode(image).decode() for image in images], "pairs": pairs}


def decoded(image: bytes) -> np.ndarray:
    return decode_bytes(image, "image", HEIGHT, WIDTH)


def expected(trained: Trained, images: list[bytes], pairs: list[tuple[int, int]]) -> np.ndarray:
    """Return the scores by the method alone, an image and a pair at a time."""
    with torch.inference_mode():
        f = [trained.method.embed(as_images(torch.from_numpy(decoded(i))[None])) for i in images]
        return np.array([trained.method.score(f[a], f[b]).item() for a, b in pairs])


def raw(body: bytes, kind: str = "application/json") -> dict[str, object]:
    return {"content": body, "headers": {"Content-Type": kind}}
