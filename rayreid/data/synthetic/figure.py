"""Painting a person: a body in three dimensions, turned, seen by a camera, dressed.

In the body's axes x is towards its left, y down, z ahead of it. Turned by an angle, a point is
seen at x cos + z sin, and its nearness to the camera is z cos - x sin.
"""

import numpy as np

from rayreid.data.synthetic.canvas import (
    Canvas,
    Capsule,
    Length,
    Plane,
    ellipse,
    mixed,
    trapezium,
)
from rayreid.data.synthetic.draws import Column
from rayreid.data.synthetic.garments import top_cloth
from rayreid.data.synthetic.people import SHOULDER, People
from rayreid.data.synthetic.scenes import Scenes

Point = tuple[Column, Column]

_WAIST, _HIP, _ANKLE = 0.38, 0.5, 0.955
"""How far down they are, in body heights."""


class Figure:
    """The people of a chunk of crops, posed before their cameras."""

    def __init__(self, canvas: Canvas, people: People, scenes: Scenes) -> None:
        self.canvas, self.people, self.scenes = canvas, people, scenes
        self.facing: Column = (scenes.cosine > 0).astype(np.float32)
        self.near: Column = 1 - 2 * (scenes.sine > 0).astype(np.float32)
        """The side of the body that is nearer to the camera: -1 right, 1 left."""
        self.chest = self._width(people.shoulders + 0.012, people.depth)
        self.waist = self._width(people.hips * 0.96, people.depth)
        self.hip = self._width(people.hips * 1.1, people.depth * 1.15)

    def paint(self) -> None:
        """Paint everything, from what is behind to what is in front."""
        self._shadow()
        self._backpack(self.facing)
        self._long_hair(self.facing)
        self._arm(-self.near)
        self._leg(-self.near, 0.82)
        self._leg(self.near, 1.0)
        self._skirt()
        self._torso()
        self._backpack(1 - self.facing)
        self._head()
        self._long_hair(1 - self.facing)
        self._arm(self.near)
        self._bag()

    def _seen(self, x: Length, y: Length, z: Length) -> Point:
        """Return where a point of the body is seen."""
        scenes = self.scenes
        nearness = z * scenes.cosine - x * scenes.sine
        seen_x = x * scenes.cosine + z * scenes.sine + scenes.lean * (1 - y)
        return seen_x, y + scenes.plunge * nearness

    def _width(self, x: Column, z: Column) -> Column:
        """Return the half-width at which an elliptic cylinder of half-axes x and z is seen."""
        wide, deep = x * self.scenes.cosine, z * self.scenes.sine
        half: Column = np.sqrt(wide * wide + deep * deep)
        return half

    def _shadow(self) -> None:
        half, flat = 0.17, 0.012 + 0.06 * self.scenes.plunge
        x, y = self.scenes.side_light * -0.06, 0.97
        # The distance to so flat an ellipse is too small beyond its tips, by half / flat at most.
        reach = half * (1 + self.canvas.softness / flat)
        part = self.canvas.part(x - reach, x + reach, y - flat, y + flat)
        distance, _, _ = ellipse(part, x, y, half, flat)
        part.paint(part.cover(distance) * 0.45, self.scenes.ground * 0.25)

    def _leg(self, side: Column, light: float) -> None:
        people, stride = self.people, self.scenes.stride * side
        x = side * people.hips * 0.55
        hip = self._seen(x, people.crotch - 0.03, 0.0)
        bend = np.abs(self.scenes.stride) * 0.23
        knee = self._seen(x, people.crotch * 0.5 + 0.48, stride * 0.5 + bend)
        ankle = self._seen(x, _ANKLE - np.maximum(-stride, 0) * 0.25, stride)
        toe = self._seen(x * 1.3, _ANKLE + 0.022, stride + 0.07)
        thigh, calf, shin = people.build * 0.052, people.build * 0.038, people.build * 0.027

        part = _around(self.canvas, thigh, hip, knee, ankle)
        upper, _ = Capsule(*hip, *knee, thigh, calf).on(part)
        lower, _ = Capsule(*knee, *ankle, calf, shin).on(part)
        distance = np.minimum(upper, lower)
        bare = np.maximum(part.cover(people.trouser_end - part.y), people.skirt)
        seam = part.cover(np.abs(distance + thigh * 0.75) - 0.012) * (1 - bare)
        cloth = mixed(people.trousers, people.skin, bare)
        cloth = cloth + (people.side_stripe * seam)[:, None]
        shade = light * (0.72 + 8 * np.clip(-distance, 0, 0.035))
        part.paint(part.cover(distance), cloth * shade[:, None])

        part = _around(self.canvas, thigh, ankle, toe)
        heel = ankle[1] + 0.012
        distance, _ = Capsule(ankle[0], heel, *toe, thigh * 0.5, thigh * 0.42).on(part)
        part.paint(part.cover(distance), people.shoes * light)

    def _skirt(self) -> None:
        people, bottom = self.people, self.people.skirt_end
        hem = np.maximum(people.flare, self.hip)
        reach = hem + np.abs(self.scenes.lean)
        part = self.canvas.part(-reach, reach, _WAIST, bottom)
        slope = np.clip((part.y - _WAIST) / (bottom - _WAIST), 0, 1)
        half = self.waist + slope * (hem - self.waist)
        axis = self.scenes.lean * (1 - part.y)
        distance = trapezium(part, axis, half, _WAIST, bottom, hem * 0.08)
        u = (part.x - axis) / half
        folds = part.wave(u * 3, 3 / hem)
        shade = _light(u) * (0.9 + 0.1 * folds)
        part.paint(part.cover(distance) * people.skirt, people.trousers * shade[:, None])

    def _torso(self) -> None:
        people = self.people
        loose = 1 + 0.14 * people.coat
        reach = np.maximum(self.chest, self.hip) * loose + np.abs(self.scenes.lean)
        part = self.canvas.part(-reach, reach, SHOULDER, people.hem)
        above = np.clip((part.y - SHOULDER) / (_WAIST - SHOULDER), 0, 1)
        below = np.clip((part.y - _WAIST) / (_HIP - _WAIST), 0, 1)
        half = self.chest + above * (self.waist - self.chest) + below * (self.hip - self.waist)
        half = half * loose
        axis = self.scenes.lean * (1 - part.y)
        distance = trapezium(part, axis, half, SHOULDER, people.hem, self.chest * 0.4)
        u = np.clip((part.x - axis) / half, -1, 1)
        v = (part.y - SHOULDER) / (people.hem - SHOULDER)
        cloth = top_cloth(part, u, v, people, self.scenes)
        part.paint(part.cover(distance), cloth * _light(u)[:, None])

    def _head(self) -> None:
        people, scenes = self.people, self.scenes
        a = people.head * (1 + 0.12 * np.abs(scenes.sine))
        # The body was shortened by looking down on it and stretched to its box; a ball was not.
        b = people.head * 1.28 / scenes.squat
        x, y = self._seen(0.0, 0.072, people.head * 0.25)
        collar = scenes.lean * (1 - SHOULDER)
        part = _around(self.canvas, b + 0.02, (x, y), (collar, SHOULDER + x * 0))
        neck = Capsule(x, y, collar, SHOULDER + 0.01, people.head * 0.6, people.head * 0.72)
        distance, _ = neck.on(part)
        part.paint(part.cover(distance), people.skin * 0.8)

        distance, u, v = ellipse(part, x, y, a, b)
        u, v = np.clip(u, -1, 1), np.clip(v, -1, 1)
        normal = np.sqrt(np.maximum(1 - u * u - v * v, 0))
        z = u * scenes.sine + normal * scenes.cosine
        # The face is where the head looks ahead and a little down; the rest is hair.
        scalp = part.cover((z * 0.8 + v * 0.65 - 0.18) * people.head) * (1 - people.bald)
        looks = mixed(people.skin, people.hair, scalp)
        looks = mixed(looks, people.hat_colour, part.cover((v + 0.15) * b) * people.hat)
        brim = part.cover(np.abs(v + 0.2) * b - 0.008) * people.hat
        part.paint(part.cover(distance - brim * 0.018), looks * _light(u)[:, None])

    def _long_hair(self, shown: Column) -> None:
        people, a = self.people, self.people.head
        nape = self._seen(0.0, 0.075, a * -0.45)
        tip = self._seen(0.0, people.hair_length, -people.depth)
        part = _around(self.canvas, a, nape, tip)
        distance, _ = Capsule(*nape, *tip, a * 0.85, a * 0.7).on(part)
        present = people.long_hair * (1 - people.bald) * shown
        part.paint(part.cover(distance) * present, people.hair * 0.95)

    def _arm(self, side: Column) -> None:
        people, swing = self.people, self.scenes.stride * side * -0.8
        x = side * people.shoulders
        shoulder = self._seen(x, SHOULDER + 0.04, 0.0)
        elbow = self._seen(x * 1.2, 0.33, swing * 0.5 - 0.02)
        hand = self._seen(x * 1.22, 0.47, swing + 0.03)
        thick = people.build * 0.031 * (1 + 0.2 * people.coat)
        part = _around(self.canvas, thick, shoulder, elbow, hand)
        upper, to_elbow = Capsule(*shoulder, *elbow, thick, thick * 0.85).on(part)
        lower, to_hand = Capsule(*elbow, *hand, thick * 0.85, thick * 0.62).on(part)
        distance = np.minimum(upper, lower)
        bare = part.cover((people.sleeve - to_elbow - to_hand) * 0.15)
        sleeve = mixed(people.top, people.second, people.stripes * 0.5)
        sleeve = mixed(sleeve, people.coat_colour, people.coat)
        shade = 0.7 + 9 * np.clip(-distance, 0, 0.03)
        part.paint(part.cover(distance), mixed(sleeve, people.skin, bare) * shade[:, None])

    def _backpack(self, shown: Column) -> None:
        people, size = self.people, self.people.bag_size
        x, _ = self._seen(0.0, 0.3, people.depth * -1.5)
        half = self._width(size * 0.085, size * 0.055)
        top, bottom = 0.19, 0.19 + 0.21 * size
        part = self.canvas.part(x - half, x + half, top, bottom)
        distance = trapezium(part, x, half, top, bottom, half * 0.5)
        pocket = part.cover(0.31 - part.y)
        shade = _light(np.clip((part.x - x) / half, -1, 1)) - 0.18 * pocket
        cover = part.cover(distance) * (people.backpack * shown)
        part.paint(cover, people.pack_colour * shade[:, None])

    def _bag(self) -> None:
        people, held, side = self.people, self.people.hand_bag, self.people.bag_side
        x, y = self._seen(
            side * (people.hips + 0.03),
            0.5 + 0.1 * held,
            0.02 - self.scenes.stride * side * held * 0.6,
        )
        hidden = np.clip(-side * self.near * np.abs(self.scenes.sine) * 3 - 1, 0, 1)
        half = self._width(people.bag_size * 0.03, people.bag_size * 0.075)
        tall = people.bag_size * (0.055 + 0.025 * held)
        part = self.canvas.part(x - half, x + half, y - tall, y + tall)
        distance = trapezium(part, x, half, y - tall, y + tall, half * 0.3)
        shade = 1.05 - 0.25 * part.cover(part.y - y + tall * 0.4)
        carried = (held + people.shoulder_bag) * (1 - hidden)
        part.paint(part.cover(distance) * carried, people.bag_colour * shade[:, None])


def _light(u: Plane) -> Plane:
    """Return the light on a cylinder at u in [-1, 1] across it: its edges turn away."""
    light: Plane = 1.04 - 0.3 * (u * u)
    return light


def _around(canvas: Canvas, reach: Column, *points: Point) -> Canvas:
    """Return the window of what is within ``reach`` of lines between points."""
    left = np.minimum.reduce([x for x, _ in points]) - reach
    right = np.maximum.reduce([x for x, _ in points]) + reach
    top = np.minimum.reduce([y for _, y in points]) - reach
    bottom = np.maximum.reduce([y for _, y in points]) + reach
    return canvas.part(left, right, top, bottom)
