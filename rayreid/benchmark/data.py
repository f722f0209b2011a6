"""The way of crops to a batch: images a second of one core, beside the way of published code."""

import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from rayreid.data.decoding import TURBO, decode_all
from rayreid.data.synthetic import GENERATOR_VERSION, draw_domain
from rayreid.data.views import ViewSettings, as_images, varied
from rayreid.report import table
from rayreid.run import commit

SIZES = ((128, 64), (300, 120), (256, 128))
"""Heights and widths of the JPEGs: Market-1501's, about those of MSMT17's, and the batch's own."""

HEIGHT, WIDTH = 256, 128
"""Of the batch."""

QUALITY = 90

VIEWS = ViewSettings(shift=10 / 256, shift_width=10 / 128, erasing=0.5)
"""What the published code does as well: flip, pad by 10 and crop, erase."""

Bytes = UInt8[np.ndarray, "b h w 3"]
Indices = Int64[np.ndarray, " b"]


@dataclass(frozen=True)
class Way:
    """A way to a batch."""

    name: str
    parts: tuple[str, ...]
    """What is timed; their times add up to the way's."""
    floor: float | None = None
    """How many times faster than the peers' it has to be."""


WAYS = (
    Way("peers: JPEG, PIL and torchvision v1, floats", ("peers",)),
    Way("JPEG, decoded and resized", ("jpeg",), 3.5),
    Way("JPEG, then the views of training, floats", ("jpeg", "views")),
    Way("cache, gathered", ("gather",), 100.0),
    Way("cache, gathered and varied as bytes", ("gather", "bytes"), 10.0),
    Way("cache, then the views of training, floats", ("gather", "views")),
)


def data(
    to: Path,
    tell: Callable[[str], None],
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    people: int = 32,
    kept: int = 2048,
    batch: int = 64,
    rounds: int = 30,
) -> str:
    """Measure the ways from files and from the cache to a batch; return a page with the table.

    Drawn people are stored as JPEGs of each size, and decoded into a memory map of ``kept`` crops,
    larger than a processor's caches; both then lie in the system's page cache. One batch of each
    part is timed in turn, ``rounds`` times, all on one thread, and medians are compared. The
    figures go to ``to/data.json``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: dict[str, Mapping[str, float]] = {}
    with _one_thread(), tempfile.TemporaryDirectory() as folder:
        for height, width in sizes:
            name = f"{height}x{width}"
            files = _stored(Path(folder) / name, height, width, people)
            pixels = _mapped(Path(folder) / f"{name}.pixels", files, kept)
            parts = _parts(files, pixels, batch, device)
            seconds = medians(parts, rounds)
            rows[name] = {part: seconds[part] / batch for part in parts}
            tell(f"{name}: {', '.join(f'{p} {1 / s:.0f}' for p, s in rows[name].items())} a second")
    found = {
        "machine": machine(),
        "device_of_views": str(device),
        "threads": 1,
        "batch": [batch, HEIGHT, WIDTH],
        "rounds": rounds,
        "generator": GENERATOR_VERSION,
        "commit": commit(),
        "seconds_an_image": rows,
        "ways": {way.name: _figures(way, rows) for way in WAYS},
    }
    to.mkdir(parents=True, exist_ok=True)
    (to / "data.json").write_text(json.dumps(found, indent=1) + "\n")
    cells = [
        (
            way.name,
            *(f"{s:.0f} ({r:.1f}x)" for s, r in zip(*_figures(way, rows).values(), strict=True)),
            "" if way.floor is None else f"{way.floor:g}x",
        )
        for way in WAYS
    ]
    return (
        f"{machine()}. Images a second on one thread (times the peers'), medians of {rounds} "
        f"interleaved batches of {batch} crops of {HEIGHT}x{WIDTH}; views on {device}.\n\n"
        + table(("JPEGs of", *rows, "floor"), cells)
    )


def machine() -> str:
    """Return the processor and the versions that decide on speed."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    keys = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", told, re.MULTILINE))
    model = keys.get("model name", platform.processor() or platform.machine())
    kind = f" (family {keys['cpu family']}, model {keys['model']})" if "cpu family" in keys else ""
    names = ("torch", "torchvision", "pillow", "numpy", *(("simplejpeg",) if TURBO else ()))
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{os.cpu_count()} cores of {model}{kind}, {versions}"


def varied_bytes(
    pixels: UInt8[Tensor, "b h w 3"], settings: ViewSettings, generator: torch.Generator
) -> UInt8[Tensor, "b h w 3"]:
    """Return what `varied` does of flips, shifts and erasing to grey, by the same draws, as bytes.

    For a batch in a processor's memory: rows are copied whole, where indices of pixels fit a GPU.
    """
    size, h, w, _ = pixels.shape
    draws = torch.rand(9, size, generator=generator)
    across = settings.shift if settings.shift_width is None else settings.shift_width
    down = ((2 * draws[1] - 1) * round(settings.shift * h)).round().long()
    right = ((2 * draws[2] - 1) * round(across * w)).round().long()
    moves = zip((draws[0] < settings.flip).tolist(), down.tolist(), right.tolist(), strict=True)
    result = torch.zeros_like(pixels)
    for i, (mirrored, d, r) in enumerate(moves):
        # As an image: torch mirrors channels-last bytes several pixels at a time.
        image = pixels[i].permute(2, 0, 1)[None]
        image = image.flip(3) if mirrored else image
        rows, columns = slice(max(-d, 0), h - max(d, 0)), slice(max(-r, 0), w - max(r, 0))
        moved = image[0, :, rows, columns].permute(1, 2, 0)
        result[i, max(d, 0) : h + min(d, 0), max(r, 0) : w + min(r, 0)] = moved
    if settings.erasing:
        shape = torch.rand(3, size, generator=generator)
        area = (0.02 + (settings.erasing_area - 0.02) * shape[0]) * h * w
        aspect = 0.3 ** (2 * shape[1] - 1)
        tall = _hole(draws[7] * h, (area * aspect).sqrt() / 2, h)
        wide = _hole(draws[8] * w, (area / aspect).sqrt() / 2, w)
        for i in (draws[6] < settings.erasing).nonzero().flatten().tolist():
            result[i, slice(*tall[i]), slice(*wide[i])] = 128
    return result


def _hole(centre: Tensor, half: Tensor, length: int) -> list[list[int]]:
    """Return which of ``length`` places are within half of each centre: from, to."""
    places = torch.arange(length) + 0.5
    within = (places[None] - centre[:, None]).abs() <= half[:, None]
    first = within.int().argmax(1)
    return torch.stack([first, first + within.sum(1)], 1).tolist()


def _parts(
    files: Sequence[Path], pixels: np.ndarray, batch: int, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Return what is timed: functions that make a batch, or vary one."""
    from torchvision import transforms

    peers = transforms.Compose(
        [
            transforms.Resize((HEIGHT, WIDTH)),
            transforms.RandomHorizontalFlip(),
            transforms.Pad(10),
            transforms.RandomCrop((HEIGHT, WIDTH)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            transforms.RandomErasing(),
        ]
    )
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    into = np.empty((batch, HEIGHT, WIDTH, 3), np.uint8)

    def chosen() -> list[Path]:
        return [files[i] for i in rng.integers(0, len(files), batch)]

    def by_peers() -> Tensor:
        return torch.stack([peers(Image.open(path).convert("RGB")) for path in chosen()])

    def gather() -> Bytes:
        # Straight into a batch that stays: fresh memory would cost more than the copy. "clip"
        # spares numpy's buffer, which would leave the batch as it was where an index is wrong.
        indices = rng.integers(0, len(pixels), batch)
        return np.take(pixels, indices, axis=0, out=into, mode="clip")

    def views() -> Tensor:
        images = as_images(torch.from_numpy(into).to(device))
        images = varied(images, VIEWS, generator)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return images

    return {
        "peers": by_peers,
        "jpeg": lambda: decode_all(chosen(), HEIGHT, WIDTH, threads=1),
        "gather": gather,
        "bytes": lambda: varied_bytes(torch.from_numpy(into), VIEWS, generator),
        "views": views,
    }


def medians(parts: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each part, all timed in turn after a round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(1 + rounds):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - started)
    return {name: median(taken[1:]) for name, taken in seconds.items()}


def _figures(way: Way, rows: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """Return images a second of a way, and how many times the peers', one for each size."""
    seconds = [sum(row[part] for part in way.parts) for row in rows.values()]
    ratios = [row["peers"] / s for row, s in zip(rows.values(), seconds, strict=True)]
    return {"images_a_second": [1 / s for s in seconds], "times_the_peers": ratios}


def _stored(folder: Path, height: int, width: int, people: int) -> list[Path]:
    """Return the JPEGs of a drawn domain."""
    folder.mkdir()
    drawn = draw_domain(
        "plaza-noon", train_people=people, test_people=1, cameras=4, crops=2,
        height=height, width=width,
    ).train.images  # fmt: skip
    files = [folder / f"{number}.jpg" for number in range(len(drawn))]
    for file, image in zip(files, drawn, strict=True):
        assert isinstance(image, np.ndarray)
        Image.fromarray(image).save(file, quality=QUALITY)
    return files


def _mapped(path: Path, files: Sequence[Path], kept: int) -> np.ndarray:
    """Return a memory map of ``kept`` decoded crops, those of the files over and over."""
    pixels = np.memmap(path, np.uint8, "w+", shape=(kept, HEIGHT, WIDTH, 3))
    once = min(kept, len(files))
    decode_all(files[:once], HEIGHT, WIDTH, into=pixels[:once])
    for start in range(once, kept, once):
        pixels[start : start + once] = pixels[: min(once, kept - start)]
    pixels.flush()
    return np.memmap(path, np.uint8, "r", shape=pixels.shape)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
