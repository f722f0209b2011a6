"""Styles: all that makes one domain's pictures differ from another's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from math import isfinite
from types import MappingProxyType
from typing import Any

from rayreid.data.synthetic.draws import Draws, combined


def _number(neutral: float, law: tuple[float, float], limits: tuple[float, float]) -> Any:
    """Declare a field: its value at strength 0, the law's range, and what is allowed."""
    return field(default=neutral, metadata={"law": law, "limits": limits})


@dataclass(frozen=True)
class Style:
    """How a domain looks; ``Style()`` is the neutral one, which every domain has at strength 0.

    Raises:
        ValueError: A number is outside its limits or not finite.

    """

    exposure: float = _number(0.0, (-0.9, 0.6), (-1.5, 1.1))
    """Brightness of the light, in stops (doublings)."""
    warmth: float = _number(0.0, (-0.7, 0.7), (-1.3, 1.3))
    """Colour cast from blue (negative) to orange (positive): red over blue, in stops."""
    tint: float = _number(0.0, (-0.4, 0.4), (-0.7, 0.7))
    """Colour cast from magenta (negative) to green (positive), in stops."""
    contrast: float = _number(1.0, (0.7, 1.35), (0.5, 1.7))
    """Slope of the tone curve about middle grey, a factor."""
    tone: float = _number(0.0, (-0.2, 0.35), (-0.4, 0.6))
    """Bend of the tone curve: negative darkens and positive lifts middle greys, a fraction."""
    saturation: float = _number(1.0, (0.55, 1.4), (0.2, 1.9))
    """Colourfulness of the picture, a factor; 0 is black and white."""
    haze: float = _number(0.0, (0.0, 0.25), (0.0, 0.5))
    """Share of grey veil (fog, snow, dirty glass) over the picture, in [0, 1)."""
    lamp: float = _number(0.25, (0.0, 0.9), (0.0, 1.2))
    """Strength of the light from one side or from above, a fraction."""
    blur: float = _number(0.008, (0.003, 0.022), (0.0, 0.045))
    """Width of the lens' and the movement's blur, in body heights."""
    lines: float = _number(110.0, (60.0, 150.0), (36.0, 400.0))
    """Sensor lines that an average crop's height spans; fewer than asked for look coarse."""
    noise: float = _number(4.0, (1.0, 10.0), (0.0, 24.0))
    """Standard deviation of the sensor's noise, in grey levels of 255."""
    quality: float = _number(80.0, (35.0, 95.0), (14.0, 98.0))
    """JPEG quality of an average crop, in Pillow's scale up to 100."""
    ground_red: float = _number(0.45, (0.12, 0.8), (0.0, 1.0))
    """Red of the ground, in [0, 1]."""
    ground_green: float = _number(0.45, (0.12, 0.8), (0.0, 1.0))
    """Green of the ground, in [0, 1]."""
    ground_blue: float = _number(0.45, (0.12, 0.8), (0.0, 1.0))
    """Blue of the ground, in [0, 1]."""
    wall_red: float = _number(0.55, (0.12, 0.9), (0.0, 1.0))
    """Red of what stands behind, in [0, 1]."""
    wall_green: float = _number(0.55, (0.12, 0.9), (0.0, 1.0))
    """Green of what stands behind, in [0, 1]."""
    wall_blue: float = _number(0.55, (0.12, 0.9), (0.0, 1.0))
    """Blue of what stands behind, in [0, 1]."""
    clutter: float = _number(0.4, (0.1, 1.0), (0.0, 1.6))
    """How much doors, pillars, joints and passers-by fill the background, a fraction."""
    pitch: float = _number(12.0, (0.0, 32.0), (0.0, 50.0))
    """How far an average camera looks down, in degrees."""
    sway: float = _number(22.0, (12.0, 40.0), (0.0, 90.0))
    """Standard deviation of the way people face a camera, about its own mean, in degrees."""
    framing: float = _number(0.035, (0.02, 0.07), (0.0, 0.15))
    """Standard deviation of a detector's errors in place and size, in crop heights."""
    occlusion: float = _number(0.15, (0.0, 0.3), (0.0, 0.6))
    """Share of crops in which something stands in front of the person."""
    clothes_value: float = _number(0.5, (0.25, 0.75), (0.1, 0.9))
    """Mean brightness of garments, in [0, 1]."""
    clothes_colour: float = _number(0.5, (0.15, 0.85), (0.0, 1.0))
    """Share of garments that are coloured rather than black, grey or white."""
    coats: float = _number(0.3, (0.0, 0.9), (0.0, 1.0))
    """Share of people in an open jacket or coat."""
    short_sleeves: float = _number(0.4, (0.0, 0.9), (0.0, 1.0))
    """Share of tops with short sleeves."""
    skirts: float = _number(0.2, (0.0, 0.4), (0.0, 1.0))
    """Share of people in a skirt."""
    shorts: float = _number(0.2, (0.0, 0.5), (0.0, 1.0))
    """Share of trousers that end above the knee."""
    patterns: float = _number(0.55, (0.3, 0.8), (0.0, 1.0))
    """Share of tops that are striped, checked, banded or two-coloured."""
    hats: float = _number(0.15, (0.0, 0.6), (0.0, 1.0))
    """Share of people in a hat."""
    bags: float = _number(0.5, (0.2, 0.8), (0.0, 1.0))
    """Share of people who carry something."""

    def __post_init__(self) -> None:
        for name, (low, high) in _ranges("limits").items():
            value = getattr(self, name)
            if not (isfinite(value) and low <= value <= high):
                raise ValueError(f"A style's {name} must be in [{low}, {high}], not {value}.")

    def scaled(self, strength: float) -> "Style":
        """Return the style ``strength`` times as far from the neutral one, within the limits."""
        neutral = Style()
        scaled = {}
        for name, (low, high) in _ranges("limits").items():
            start = getattr(neutral, name)
            value = start + strength * (getattr(self, name) - start)
            scaled[name] = min(max(value, low), high)
        return Style(**scaled)


def _ranges(which: str) -> dict[str, tuple[float, float]]:
    return {each.name: each.metadata[which] for each in fields(Style)}


NAMED_STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "plaza-noon": Style(
            exposure=0.3, warmth=0.15, contrast=1.25, saturation=1.25, lamp=0.6, blur=0.004,
            lines=130.0, noise=2.0, quality=90.0, ground_red=0.72, ground_green=0.66,
            ground_blue=0.55, wall_red=0.62, wall_green=0.7, wall_blue=0.78, clutter=0.5,
            pitch=14.0, clothes_value=0.62, clothes_colour=0.7, coats=0.1, short_sleeves=0.75,
            shorts=0.35,
        ),
        "subway": Style(
            exposure=-0.3, warmth=0.1, tint=0.3, contrast=0.9, saturation=0.85, lamp=0.4,
            blur=0.016, lines=72.0, noise=5.0, quality=55.0, ground_red=0.3, ground_green=0.31,
            ground_blue=0.29, wall_red=0.62, wall_green=0.64, wall_blue=0.55, clutter=0.9,
            pitch=24.0, occlusion=0.2, clothes_value=0.44, clothes_colour=0.45, coats=0.5, bags=0.7,
        ),
        "snow": Style(
            exposure=0.2, warmth=-0.55, contrast=0.8, tone=0.2, saturation=0.7, haze=0.2, lamp=0.1,
            blur=0.02, lines=80.0, noise=5.0, quality=65.0, ground_red=0.86, ground_green=0.89,
            ground_blue=0.94, wall_red=0.68, wall_green=0.72, wall_blue=0.76, clutter=0.3,
            pitch=8.0, clothes_value=0.42, clothes_colour=0.45, coats=0.85, short_sleeves=0.0,
            shorts=0.0, skirts=0.05, hats=0.6,
        ),
        "dusk-car-park": Style(
            exposure=-0.7, warmth=0.65, tint=-0.1, contrast=1.1, tone=0.3, saturation=0.75,
            lamp=0.7, blur=0.013, lines=78.0, noise=8.0, quality=50.0, ground_red=0.24,
            ground_green=0.24, ground_blue=0.27, wall_red=0.36, wall_green=0.3, wall_blue=0.34,
            clutter=0.8, pitch=26.0, occlusion=0.2, clothes_value=0.45, clothes_colour=0.5,
            coats=0.4, framing=0.05,
        ),
        "shopping-mall": Style(
            exposure=0.05, warmth=0.4, tint=0.05, contrast=1.0, saturation=1.3, lamp=0.15,
            blur=0.008, lines=100.0, noise=4.0, quality=70.0, ground_red=0.78, ground_green=0.74,
            ground_blue=0.66, wall_red=0.75, wall_green=0.6, wall_blue=0.5, clutter=1.0, pitch=20.0,
            occlusion=0.2, clothes_value=0.58, clothes_colour=0.6, coats=0.25, skirts=0.35,
            bags=0.8,
        ),
        "rainy-street": Style(
            exposure=-0.25, warmth=-0.4, tint=0.1, contrast=0.9, saturation=0.8, haze=0.12,
            lamp=0.05, blur=0.018, lines=80.0, noise=4.0, quality=50.0, ground_red=0.26,
            ground_green=0.29, ground_blue=0.33, wall_red=0.42, wall_green=0.45, wall_blue=0.48,
            clutter=0.7, pitch=10.0, occlusion=0.2, clothes_value=0.45, clothes_colour=0.5,
            coats=0.75, short_sleeves=0.1, shorts=0.02, hats=0.35,
        ),
        "beach-promenade": Style(
            exposure=0.4, warmth=0.35, contrast=1.15, tone=0.15, saturation=1.4, lamp=0.5,
            blur=0.005, lines=120.0, noise=3.0, quality=85.0, ground_red=0.85, ground_green=0.76,
            ground_blue=0.55, wall_red=0.4, wall_green=0.62, wall_blue=0.85, clutter=0.15,
            pitch=4.0, occlusion=0.05, clothes_value=0.7, clothes_colour=0.8, coats=0.02,
            short_sleeves=0.9, shorts=0.5, skirts=0.35, hats=0.35,
        ),
        "night-market": Style(
            exposure=-0.3, warmth=0.3, tint=-0.3, contrast=1.25, tone=0.1, saturation=1.2, lamp=0.7,
            blur=0.012, lines=86.0, noise=7.0, quality=45.0, ground_red=0.2, ground_green=0.17,
            ground_blue=0.22, wall_red=0.5, wall_green=0.24, wall_blue=0.3, clutter=1.2, pitch=16.0,
            occlusion=0.2, clothes_value=0.55, clothes_colour=0.65,
        ),
    }
)  # fmt: skip
"""The domains drawn by hand, by name."""


def sampled_style(seed: int) -> Style:
    """Return a style drawn from the law: every number uniform in its range.

    Red, green and blue of a backdrop are drawn about a common grey, as real ones are.
    """
    draws = Draws(combined("law of styles", seed))
    drawn = {
        name: float(draws.uniform(name, low, high).item())
        for name, (low, high) in _ranges("law").items()
    }
    for surface in ("ground", "wall"):
        level = drawn[f"{surface}_green"]
        for channel in ("red", "blue"):
            key = f"{surface}_{channel}"
            drawn[key] = 0.65 * level + 0.35 * drawn[key]
    return Style(**drawn)


def style_of(name: str) -> Style:
    """Return the style of a domain: a key of `NAMED_STYLES`, or ``law-<seed>`` as in ``law-17``.

    Raises:
        ValueError: There is no such domain.

    """
    if name in NAMED_STYLES:
        return NAMED_STYLES[name]
    seed = name.removeprefix("law-")
    if seed != name and seed.isascii() and seed.isdecimal() and str(int(seed)) == seed:
        return sampled_style(int(seed))
    nearest = get_close_matches(name, NAMED_STYLES, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"No drawn domain is called {name!r}: there are {', '.join(NAMED_STYLES)}"
        f" and law-<seed>, as in law-17; did you mean {nearest!r}?"
    )
