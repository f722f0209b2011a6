"""The law of people: what belongs to an identity and is the same before every camera."""

from dataclasses import dataclass

import numpy as np

from rayreid.data.synthetic.draws import Colour, Column, Draws, Keys, rgb
from rayreid.data.synthetic.styles import Style

SHOULDER = 0.165
"""How far down everyone's tops begin, in body heights."""


@dataclass(frozen=True)
class People:
    """One person per crop. Lengths are in body heights, from the crown (0) to the ground (1).

    What may be absent is a number that is 1 where a person has it and 0 elsewhere.
    """

    build: Column
    """Girth, about 1."""
    shoulders: Column
    hips: Column
    depth: Column
    """Half-widths of the body: at the shoulders, at the hips, and from back to front."""
    crotch: Column
    """How far down the legs begin."""
    head: Column
    """Half-width of the head."""
    skin: Colour
    hair: Colour
    bald: Column
    long_hair: Column
    hair_length: Column
    """How far down long hair hangs."""
    hat: Column
    hat_colour: Colour

    top: Colour
    """The shirt's colour."""
    second: Colour
    """The shirt's other colour: that of its stripes, checks, band, yoke."""
    stripes: Column
    """Share of horizontal stripes in the pattern: 1 stripes, 0.5 with ``pales`` for checks."""
    pales: Column
    """Share of vertical stripes in the pattern."""
    period: Column
    """Stripes down the length of the top."""
    band_start: Column
    band_end: Column
    """Where a band of the second colour begins and ends, as shares of the top's length."""
    logo: Column
    """Half-width of the print on the chest, as a share of the body's; 0 for none."""
    back_print: Column
    """Half-width of the print on the back, as a share of the body's; 0 for none."""
    sleeve: Column
    """Where the sleeve ends: 0 at the shoulder, 1 at the elbow, 2 at the wrist."""
    hem: Column
    """How far down the top, or the coat over it, reaches."""
    coat: Column
    coat_colour: Colour
    opening: Column
    """Half-width of the coat's opening in front, as a share of the body's."""

    trousers: Colour
    trouser_end: Column
    """How far down the trousers reach."""
    side_stripe: Column
    """Brightness that a stripe along the leg adds, 0 for none."""
    skirt: Column
    skirt_end: Column
    flare: Column
    """Half-width of the skirt's hem."""
    shoes: Colour

    backpack: Column
    pack_colour: Colour
    shoulder_bag: Column
    hand_bag: Column
    bag_colour: Colour
    bag_size: Column
    bag_side: Column
    """The side on which a bag is carried: -1 right, 1 left."""


def _garment(draws: Draws, name: str, style: Style) -> Colour:
    """Draw a garment's colour: a few greys or a few dyes, each slightly worn."""
    coloured = draws.chance(f"{name} is coloured", style.clothes_colour)
    dye = draws.one_of(
        f"{name} hue",
        [0.0, 0.03, 0.08, 0.13, 0.28, 0.36, 0.48, 0.57, 0.63, 0.75, 0.92],
        [3.0, 1.0, 2.0, 1.5, 1.0, 1.5, 1.0, 2.0, 3.0, 1.0, 1.5],
    )
    hue = dye + draws.normal(f"{name} wear of hue", 0.02, 0.008)
    saturation = np.where(
        coloured,
        draws.uniform(f"{name} saturation", 0.35, 0.9),
        draws.uniform(f"{name} trace of colour", 0.0, 0.12),
    )
    grey = draws.one_of(f"{name} grey", [0.06, 0.16, 0.36, 0.62, 0.88], [3.0, 2.0, 2.0, 1.5, 2.0])
    bright = draws.uniform(f"{name} brightness", 0.22, 0.9)
    lift = 1.6 * (style.clothes_value - 0.5)
    value = np.where(coloured, bright, grey + draws.normal(f"{name} fading", 0.0, 0.02))
    value = value + lift * value * (1.2 - value)
    return rgb(hue, saturation, np.clip(value, 0.03, 0.95))


def people_of(keys: Keys, style: Style) -> People:
    """Draw the person of every key, dressed as people of this style are."""
    draws = Draws(keys)
    yes = draws.chance
    one = np.float32(1)

    def has(name: str, share: float) -> Column:
        return yes(name, share).astype(np.float32)

    coat = has("coat", style.coats)
    skirt = has("skirt", style.skirts)
    short = yes("short sleeves", style.short_sleeves)
    shorts = yes("shorts", style.shorts)
    build = draws.normal("build", 1.0, 0.11)
    kind = draws.uniform("kind of pattern") + np.where(yes("pattern", style.patterns), 0, one)
    band = (kind >= 0.6) & (kind < 1)
    start = draws.one_of("band start", [0.0, 0.0, 0.25, 0.45], [2.0, 1.0, 2.0, 1.0])
    span = draws.one_of("band span", [0.25, 0.42, 0.55], [2.0, 2.0, 1.0])
    complexion = draws.uniform("complexion")
    age = draws.uniform("hair colour")
    carries = np.where(yes("carries", style.bags), draws.uniform("carried thing"), 2)
    return People(
        build=build,
        shoulders=build * draws.normal("shoulders", 0.1, 0.009),
        hips=build * draws.normal("hips", 0.086, 0.009),
        depth=build * draws.normal("depth", 0.07, 0.008),
        crotch=draws.normal("crotch", 0.52, 0.014),
        head=draws.normal("head", 0.05, 0.003),
        skin=rgb(
            draws.uniform("undertone", 0.045, 0.085),
            0.3 + 0.3 * complexion,
            0.95 - 0.6 * complexion,
        ),
        hair=rgb(
            draws.uniform("hair hue", 0.04, 0.12),
            draws.uniform("hair saturation", 0.1, 0.6),
            0.06 + 0.75 * age * age * age * age,
        ),
        bald=has("bald", 0.07),
        long_hair=has("long hair", 0.4),
        hair_length=draws.uniform("hair length", 0.17, 0.32),
        hat=has("hat", style.hats),
        hat_colour=_garment(draws, "hat", style),
        top=_garment(draws, "top", style),
        second=_garment(draws, "second", style),
        stripes=np.where(kind < 0.25, one, np.where((kind >= 0.42) & (kind < 0.6), one / 2, 0)),
        pales=np.where((kind >= 0.25) & (kind < 0.42), one, 0)
        + np.where((kind >= 0.42) & (kind < 0.6), one / 2, 0),
        period=draws.one_of("period", [2.5, 3.5, 5.0], [1.0, 2.0, 1.0]),
        band_start=np.where(band, start, 2),
        band_end=np.where(band, start + span, 3),
        logo=np.where(yes("logo", 0.4), draws.uniform("logo size", 0.25, 0.6), 0),
        back_print=np.where(yes("back print", 0.3), draws.uniform("back size", 0.3, 0.7), 0),
        sleeve=np.where(short & (coat == 0), draws.uniform("sleeve", 0.35, 1.0), one * 1.8),
        hem=np.where(
            coat > 0,
            draws.one_of("coat hem", [0.54, 0.6, 0.72], [3.0, 2.0, 2.0]),
            draws.uniform("hem", 0.49, 0.56),
        ).astype(np.float32),
        coat=coat,
        coat_colour=_garment(draws, "coat", style),
        opening=draws.uniform("opening", 0.15, 0.5),
        trousers=_garment(draws, "trousers", style),
        trouser_end=np.where(shorts, draws.uniform("shorts", 0.62, 0.74), one * 0.95),
        side_stripe=np.where(yes("side stripe", 0.12), one * 0.4, 0),
        skirt=skirt,
        skirt_end=draws.uniform("skirt end", 0.62, 0.86),
        flare=draws.uniform("flare", 0.1, 0.17),
        shoes=_garment(draws, "shoes", style),
        backpack=((carries < 0.4).astype(np.float32)),
        pack_colour=_garment(draws, "pack", style),
        shoulder_bag=((carries >= 0.4) & (carries < 0.72)).astype(np.float32),
        hand_bag=((carries >= 0.72) & (carries < 1)).astype(np.float32),
        bag_colour=_garment(draws, "bag", style),
        bag_size=draws.uniform("bag size", 0.8, 1.35),
        bag_side=draws.sign("bag side"),
    )
