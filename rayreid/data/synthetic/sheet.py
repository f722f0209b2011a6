"""A contact sheet: domains, people and cameras side by side, for the eye."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rayreid.data.synthetic.drawing import draw_crops

_MARGIN = 2
_LABEL = 14
"""Height of a line of text, in pixels."""


def contact_sheet(
    names: Sequence[str],
    *,
    people: int,
    cameras: int,
    height: int,
    width: int,
    crops: int = 1,
    strength: float = 1.0,
    seed: int = 0,
) -> Image.Image:
    """Return a sheet of a block per domain, a row per person, and a cell per camera and crop.

    Raises:
        ValueError: An argument is out of its range, or there is no such domain (see `draw_crops`).

    """
    if not names:
        raise ValueError("A contact sheet needs at least one domain.")
    cell_height, cell_width = height + _MARGIN, width + _MARGIN
    columns = cameras * crops
    block_width = columns * cell_width + 4 * _MARGIN
    side = 3 * _LABEL
    sheet = Image.new(
        "RGB", (side + len(names) * block_width, 2 * _LABEL + people * cell_height), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for person in range(people):
        y = 2 * _LABEL + person * cell_height + cell_height // 2 - _LABEL // 2
        pen.text((_MARGIN, y), f"id {person}", fill="black")
    for block, name in enumerate(names):
        left = side + block * block_width
        pen.text((left, 0), name, fill="black")
        for camera in range(cameras):
            pen.text((left + camera * crops * cell_width, _LABEL), f"c{camera + 1}", fill="grey")
        drawn = draw_crops(
            name, people=range(people), cameras=cameras, crops=crops, height=height, width=width,
            strength=strength, seed=seed,
        )  # fmt: skip
        for i, picture in enumerate(np.asarray(drawn.images)):
            row, column = divmod(i, columns)
            place = (left + column * cell_width, 2 * _LABEL + row * cell_height)
            sheet.paste(Image.fromarray(picture), place)
    return sheet
