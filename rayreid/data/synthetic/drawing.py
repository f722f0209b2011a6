"""Drawing labelled crops, and whole domains, of people who do not exist."""

from collections.abc import Callable
from math import isfinite
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from rayreid.batch import Crops, Domain
from rayreid.data.synthetic.backdrop import paint_occluder, paint_place
from rayreid.data.synthetic.canvas import Canvas
from rayreid.data.synthetic.degrading import Recorder, developed
from rayreid.data.synthetic.draws import Draws, combined
from rayreid.data.synthetic.figure import Figure
from rayreid.data.synthetic.people import People, people_of
from rayreid.data.synthetic.scenes import Scenes, scenes_of
from rayreid.data.synthetic.styles import Style, style_of

_CHUNK_PIXELS = 1 << 16
"""Pixels painted at a time: few enough to stay in a core's cache."""


Columns = TypeVar("Columns", People, Scenes)


def _rows(columns: Columns, chosen: slice) -> Columns:
    """Return the people or the scenes of the crops ``chosen``."""
    return type(columns)(**{name: column[chosen] for name, column in vars(columns).items()})


def _canvas(scenes: Scenes, height: int, width: int) -> Canvas:
    """Return blank pictures, seen in the units of the bodies that stand in them."""
    across = (np.arange(width, dtype=np.float32) + (1 - width) / 2) / height
    down = (np.arange(height, dtype=np.float32) + 0.5) / height
    # Looking down shortens the body; a box fitted to it makes it look wider instead.
    x = (across - scenes.shift) / scenes.scale * scenes.squat
    y = (down[:, None] - scenes.drop) / scenes.scale
    pixel = 1 / (height * scenes.scale)
    softness = np.sqrt(pixel * pixel + scenes.blur * scenes.blur)
    pixels = np.empty((len(x), 3, height, width), dtype=np.float32)
    return Canvas(pixels, x, y, softness)


def rendered(
    people: People, scenes: Scenes, style: Style, height: int, width: int
) -> UInt8[np.ndarray, "n h w 3"]:
    """Return pictures of people in scenes, before a sensor's noise and JPEG."""
    canvas = _canvas(scenes, height, width)
    paint_place(canvas, scenes)
    Figure(canvas, people, scenes).paint()
    paint_occluder(canvas, scenes)
    return developed(canvas, scenes, style)


def draw_crops(
    name: str,
    *,
    people: range,
    cameras: int,
    crops: int,
    height: int,
    width: int,
    strength: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Crops:
    """Draw crops of a domain's people: uint8 RGB pictures [N, height, width, 3] in memory.

    A crop depends on its own (name, person, camera, crop, height, width, strength, seed) only,
    never on how many others are drawn with it. Domains share no people.

    Args:
        name: A named style or ``law-<seed>``, see `style_of`.
        people: The numbers of the people, which become the identities.
        cameras: How many cameras see everyone; they are numbered from 1.
        crops: How many crops each camera has of each person.
        height: Of a crop, in pixels.
        width: Of a crop, in pixels.
        strength: How far apart the domains' styles are: 0 the same, 1 as designed.
        seed: Of everything that is drawn at random.
        progress: Called with the number of crops done, after every chunk.

    Returns:
        N = people x cameras x crops crops, ordered by person, then camera, then crop.

    Raises:
        ValueError: An argument is out of its range, or there is no such domain.

    """
    _check(strength, height, width)
    for what, count in (("people", len(people)), ("cameras", cameras), ("crops", crops)):
        if count < 1:
            raise ValueError(f"Drawing needs at least 1 of {what}, not {count}.")
    if min(people) < 0:
        raise ValueError(f"People are numbered from 0, so {people} has numbers that no one has.")
    style = style_of(name).scaled(strength)

    persons, views, moments = (
        axis.reshape(-1).astype(np.uint64)
        for axis in np.meshgrid(people, range(1, cameras + 1), range(crops), indexing="ij")
    )
    domain = combined("domain", seed, name)
    person_keys = combined(domain, "person", persons[:, None, None])
    camera_keys = combined(domain, "camera", views[:, None, None])
    crop_keys = combined(person_keys, "crop", camera_keys, moments[:, None, None])
    everyone = people_of(person_keys, style)
    everywhere = scenes_of(camera_keys, crop_keys, style)
    grains = Draws(crop_keys).words("grain") % 65536

    recorder = Recorder(style)
    pictures = np.empty((len(persons), height, width, 3), dtype=np.uint8)
    chunk = max(1, _CHUNK_PIXELS // (height * width))
    for start in range(0, len(pictures), chunk):
        rows = slice(start, min(start + chunk, len(pictures)))
        clean = rendered(_rows(everyone, rows), _rows(everywhere, rows), style, height, width)
        for i, picture in enumerate(clean, start):
            pictures[i] = recorder.recorded(
                picture,
                grains[i].item(),
                everywhere.lines[i].item(),
                everywhere.quality[i].item(),
            )
        if progress is not None:
            progress(rows.stop)
    return Crops(name, pictures, persons.astype(np.int64), views.astype(np.int64))


def draw_domain(
    name: str,
    *,
    train_people: int,
    test_people: int,
    cameras: int,
    crops: int,
    height: int,
    width: int,
    strength: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Domain:
    """Draw a domain: people 0 .. train_people - 1 to learn from, the next for query and gallery.

    The first crop of every test person and camera is a query, the others are the gallery.
    See `draw_crops` for the arguments.

    Raises:
        ValueError: An argument is out of its range, or there is no such domain.

    """
    _check(strength, height, width)
    for what, count, least in (
        ("train_people", train_people, 1),
        ("test_people", test_people, 1),
        ("cameras", cameras, 2),
        ("crops", crops, 2),
    ):
        if count < least:
            raise ValueError(f"A domain needs {what} of at least {least}, not {count}.")
    everyone = draw_crops(
        name,
        people=range(train_people + test_people),
        cameras=cameras,
        crops=crops,
        height=height,
        width=width,
        strength=strength,
        seed=seed,
        progress=progress,
    )
    index = np.arange(len(everyone))
    learnt = everyone.identities < train_people
    asked = ~learnt & (index % crops == 0)
    return Domain(
        name,
        train=_selected(everyone, learnt),
        query=_selected(everyone, asked),
        gallery=_selected(everyone, ~learnt & ~asked),
    )


def _selected(crops: Crops, which: np.ndarray) -> Crops:
    images = crops.images
    assert isinstance(images, np.ndarray)
    return Crops(crops.domain, images[which], crops.identities[which], crops.cameras[which])


def _check(strength: float, height: int, width: int) -> None:
    if not (isfinite(strength) and 0 <= strength <= 3):
        raise ValueError(f"The strength of a gap must be in [0, 3], not {strength}.")
    for what, count in (("height", height), ("width", width)):
        if count < 16:
            raise ValueError(f"A crop's {what} must be at least 16 pixels, not {count}.")
