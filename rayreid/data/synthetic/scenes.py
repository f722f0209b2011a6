"""The law of scenes: what belongs to a camera, and what to the moment of a crop."""

from dataclasses import dataclass
from math import pi, radians

import numpy as np

from rayreid.data.synthetic.draws import Colour, Column, Draws, Keys, rgb, snapped
from rayreid.data.synthetic.styles import Style


@dataclass(frozen=True)
class Scenes:
    """One scene per crop. Lengths are in body heights unless said otherwise."""

    cosine: Column
    sine: Column
    """Of the angle that the body is turned by: 0 faces the camera, then towards its left."""
    squat: Column
    """Cosine of the angle at which the camera looks down; bodies look shorter by it."""
    plunge: Column
    """Sine of the angle at which the camera looks down."""
    stride: Column
    """How far the left foot is ahead."""
    lean: Column
    """How far the head is to the right of the feet: the camera's roll."""
    scale: Column
    """Height of the body as a share of the crop's."""
    shift: Column
    """How far the body stands right of the crop's middle, in crop heights."""
    drop: Column
    """How far the crown is below the crop's upper edge, in crop heights."""
    blur: Column
    """Width over which lens and movement blur an edge."""

    gain: Colour
    """Factors on red, green and blue: exposure and white balance."""
    contrast: Column
    saturation: Column
    side_light: Column
    """How much brighter the right is than the left, a fraction, at a body's width."""
    top_light: Column
    """How much brighter the head is than the feet, a fraction."""

    ground: Colour
    wall: Colour
    accent: Colour
    """The colour of doors, pillars and joints."""
    horizon: Column
    """How far down the ground begins."""
    place: Column
    """Where along its wall the camera looks."""
    spacing: Column
    """From one pillar to the next."""
    breadth: Column
    """Of a pillar."""
    passer: Column
    """1 where a passer-by walks behind the person, 0 elsewhere."""
    passer_place: Column
    passer_size: Column
    passer_top: Colour
    passer_bottom: Colour
    passer_skin: Colour

    occluder: Column
    """1 where something stands in front of the person, 0 elsewhere."""
    occluder_left: Column
    occluder_right: Column
    occluder_top: Column
    """The occluder's edges; it reaches the ground."""
    occluder_colour: Colour

    lines: Column
    """Height of the sensor's picture of the crop, in pixels."""
    quality: Column
    """JPEG quality of the crop, in Pillow's scale."""


def _surface(draws: Draws, name: str, red: float, green: float, blue: float) -> Colour:
    """Draw a camera's own shade of a domain's surface."""
    shade = draws.normal(f"{name} shade", 1.0, 0.16)
    channels = [
        value * shade + draws.normal(f"{name} channel {i}", 0.0, 0.05)
        for i, value in enumerate((red, green, blue))
    ]
    colour: Colour = np.clip(np.stack(channels, axis=1), 0.02, 0.98)
    return colour


def scenes_of(cameras: Keys, crops: Keys, style: Style) -> Scenes:
    """Draw the scene of every pair of a camera's key and a crop's key."""
    camera, crop = Draws(cameras), Draws(crops)

    main = camera.uniform("view", 0.0, 2.0 * pi).astype(np.float64)
    about = np.where(crop.chance("walks back", 0.1), pi, 0.0)
    yaw = main + about + crop.normal("view", 0.0, radians(style.sway))
    pitch = radians(style.pitch) * camera.uniform("pitch", 0.5, 1.5).astype(np.float64)

    exposure = (
        style.exposure + camera.normal("exposure", 0.0, 0.22) + crop.normal("exposure", 0.0, 0.14)
    )
    warmth = style.warmth + camera.normal("warmth", 0.0, 0.2) + crop.normal("warmth", 0.0, 0.06)
    tint = style.tint + camera.normal("tint", 0.0, 0.09) + crop.normal("tint", 0.0, 0.03)
    stops = np.stack([exposure + warmth / 2, exposure + tint, exposure - warmth / 2], axis=1)

    high = crop.chance("stands high", 0.4)
    edge = crop.sign("occluder side") * crop.uniform("occluder place", 0.03, 0.16)
    half = np.where(high, crop.uniform("pole", 0.02, 0.06), crop.uniform("box", 0.1, 0.24))
    return Scenes(
        cosine=snapped(np.cos(yaw)),
        sine=snapped(np.sin(yaw)),
        squat=snapped(np.cos(pitch)),
        plunge=snapped(np.sin(pitch)),
        stride=crop.uniform("stride", -0.15, 0.15),
        lean=camera.normal("roll", 0.0, 0.02) + crop.normal("lean", 0.0, 0.015),
        scale=camera.normal("scale", 0.88, 0.03) + crop.normal("scale", 0.0, style.framing),
        shift=crop.normal("shift", 0.0, 0.6 * style.framing),
        drop=camera.normal("drop", 0.05, 0.01) + crop.normal("drop", 0.0, 0.7 * style.framing),
        blur=style.blur * camera.uniform("focus", 0.6, 1.4) * crop.uniform("blur", 0.6, 1.4),
        gain=snapped(np.exp2(stops.astype(np.float64))),
        contrast=style.contrast * camera.uniform("contrast", 0.9, 1.1),
        saturation=style.saturation * camera.uniform("saturation", 0.9, 1.1),
        side_light=style.lamp * camera.normal("side light", 0.0, 0.9),
        top_light=style.lamp * camera.uniform("top light", -0.1, 0.6),
        ground=_surface(camera, "ground", style.ground_red, style.ground_green, style.ground_blue),
        wall=_surface(camera, "wall", style.wall_red, style.wall_green, style.wall_blue),
        accent=rgb(
            camera.uniform("accent hue"),
            style.clutter * camera.uniform("accent saturation", 0.0, 0.8),
            camera.uniform("accent value", 0.1, 0.9),
        ),
        horizon=camera.uniform("horizon", 0.3, 0.85) - 0.012 * style.pitch,
        place=crop.uniform("place", 0.0, 16.0),
        spacing=camera.uniform("spacing", 0.35, 1.2),
        breadth=style.clutter * camera.uniform("breadth", 0.02, 0.28),
        passer=crop.chance("passer-by", 0.35 * style.clutter).astype(np.float32),
        passer_place=crop.sign("passer side") * crop.uniform("passer place", 0.08, 0.3),
        passer_size=crop.uniform("passer size", 0.5, 0.95),
        passer_top=rgb(
            crop.uniform("passer hue"), crop.uniform("passer dye", 0.0, 0.7), crop.uniform("passer")
        ),
        passer_bottom=rgb(
            crop.uniform("leg hue"),
            crop.uniform("leg dye", 0.0, 0.5),
            crop.uniform("leg", 0.0, 0.6),
        ),
        passer_skin=rgb(
            crop.uniform("passer undertone", 0.045, 0.085),
            crop.uniform("passer complexion", 0.3, 0.6),
            crop.uniform("passer skin", 0.25, 0.9),
        ),
        occluder=crop.chance("occluder", style.occlusion).astype(np.float32),
        occluder_left=edge - half,
        occluder_right=edge + half,
        occluder_top=np.where(high, np.float32(-0.2), crop.uniform("occluder top", 0.55, 0.85)),
        occluder_colour=rgb(
            crop.uniform("occluder hue"),
            crop.uniform("occluder saturation", 0.0, 0.4),
            crop.uniform("occluder value", 0.1, 0.85),
        ),
        lines=style.lines * camera.uniform("distance", 0.8, 1.25) * crop.uniform("near", 0.75, 1.3),
        quality=style.quality + crop.normal("quality", 0.0, 6.0),
    )
