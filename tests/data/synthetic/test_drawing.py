import hashlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayreid.batch import Crops
from rayreid.data.synthetic import GENERATOR_VERSION, NAMED_STYLES, draw_crops, draw_domain, drawing
from rayreid.data.synthetic.canvas import Canvas
from rayreid.data.synthetic.draws import combined
from rayreid.data.synthetic.people import people_of
from rayreid.data.synthetic.scenes import scenes_of
from rayreid.data.synthetic.styles import Style

SMALL: dict[str, Any] = {"people": range(4), "cameras": 2, "crops": 2, "height": 32, "width": 16}

FINGERPRINT = (
    "c6afb9fefffffffff8fdfdfbb5a0a573675bf3ece6feffffa6909cffedce693520fcf8f58f7f820501007262"
    "6deae3d9fed271373895f2f3d3fffd8efbca6b9e8db1f6f0b4ffff8bf7c969e3c9ccfbf192fefc8bf4c367fb"
    "c96af8e474fff185f9f3fdffead6f8fefafcfefdefdfe2b96177fcebfdfffbffdbc8ce9656c4af32a8ffe1f0"
    "e0b99c7a5f7ee4cbacead6b5ffd573255e008c812ffed8759b764c464332efd48fffd278392409493b30a878"
    "38fece79351d0542352cd3a567ffcb75"
)


def pixels(crops: Crops) -> np.ndarray:
    assert isinstance(crops.images, np.ndarray)
    return crops.images


def drawn(name: str = "subway", **changes: Any) -> np.ndarray:
    return pixels(draw_crops(name, **{**SMALL, **changes}))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 32), (33, 47), (128, 64)])
def test_crops_are_rgb_bytes_of_the_size_asked_for(height: int, width: int) -> None:
    crops = draw_crops("snow", **{**SMALL, "height": height, "width": width})
    assert crops.domain == "snow"
    assert pixels(crops).dtype == np.uint8
    assert pixels(crops).shape == (16, height, width, 3)
    assert pixels(crops).std(axis=(1, 2, 3)).min() > 3


def test_crops_are_ordered_by_person_then_camera_then_crop() -> None:
    crops = draw_crops("snow", **{**SMALL, "people": range(3, 6)})
    assert crops.identities.tolist() == [3] * 4 + [4] * 4 + [5] * 4
    assert crops.cameras.tolist() == [1, 1, 2, 2] * 3
    assert len({picture.tobytes() for picture in pixels(crops)}) == len(crops)


@pytest.mark.parametrize("name", [*NAMED_STYLES, "law-0", "law-1", "law-2"])
def test_every_domain_is_drawn_differently(name: str) -> None:
    # Not too dark and not too bright to see a person: the middle half of greys has a spread.
    crops = drawn(name, people=range(12), height=64, width=32)
    low, high = np.percentile(crops, [5, 95])
    assert high - low > 40
    assert not np.array_equal(drawn(name), drawn("law-9"))


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from([*NAMED_STYLES, "law-4"]),
    person=st.integers(0, 6),
    camera=st.integers(1, 3),
    crop=st.integers(0, 2),
    chunk=st.sampled_from([1, 3000, 10**9]),
)
def test_a_crop_is_the_same_picture_whatever_else_is_drawn(
    name: str, person: int, camera: int, crop: int, chunk: int
) -> None:
    size = {"height": 32, "width": 20, "seed": 5, "strength": 0.7}
    together = draw_crops(name, people=range(7), cameras=3, crops=3, **size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_CHUNK_PIXELS", chunk)
        alone = draw_crops(name, people=range(person, person + 1), cameras=camera, crops=crop + 1,
                           **size)  # fmt: skip
    index = (person * 3 + camera - 1) * 3 + crop
    np.testing.assert_array_equal(pixels(alone)[-1], pixels(together)[index])


def test_windows_save_time_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"people": range(60), "height": 64, "width": 40, "strength": 1.5}
    windowed = [drawn(name, **size) for name in ("night-market", "law-8")]
    monkeypatch.setattr(Canvas, "part", lambda canvas, *_: canvas)
    whole = [drawn(name, **size) for name in ("night-market", "law-8")]
    np.testing.assert_array_equal(windowed, whole)


def test_another_process_draws_the_same_bytes() -> None:
    script = (
        "import hashlib; from rayreid.data.synthetic import draw_crops;"
        "crops = draw_crops('subway', people=range(4), cameras=2, crops=2, height=32, width=16);"
        "print(hashlib.sha256(crops.images.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                           check=True, env={"PYTHONHASHSEED": "123"})  # fmt: skip
    assert other.stdout.strip() == hashlib.sha256(drawn().tobytes()).hexdigest()


def test_this_version_draws_these_pictures() -> None:
    # Every eighth pixel of two crops; other decoders of JPEG may be a grey level off.
    assert GENERATOR_VERSION == 1
    picture = drawn("plaza-noon", height=64, width=32)[[0, 9], 4::8, 4::8]
    expected = np.frombuffer(bytes.fromhex(FINGERPRINT), dtype=np.uint8).reshape(2, 8, 4, 3)
    assert np.abs(picture.astype(int) - expected).max() <= 1


def test_seeds_people_and_domains_are_drawn_afresh() -> None:
    assert not np.array_equal(drawn(seed=1), drawn(seed=2))
    # At strength 0 the domains look alike, but other people walk through them.
    assert not np.array_equal(drawn("snow", strength=0.0), drawn("subway", strength=0.0))


def test_without_strength_domains_look_the_same_and_with_it_they_do_not() -> None:
    def looks(name: str, strength: float) -> np.ndarray:
        crops = drawn(name, people=range(40), cameras=6, strength=strength).astype(float)
        return np.array([crops.mean(), crops.std(), np.ptp(crops.mean(axis=(0, 1, 2)))])

    names = ["snow", "dusk-car-park", "night-market"]
    gaps = [np.ptp([looks(name, s) for name in names], axis=0)[0] for s in (0.0, 0.5, 1.0)]
    assert gaps[0] < 25
    assert gaps[0] < gaps[1] < gaps[2]
    assert gaps[2] > 60


def test_the_front_and_the_back_differ_more_than_two_fronts() -> None:
    style = Style(clutter=0.0, occlusion=0.0, noise=0.0)
    keys = combined("front", np.arange(80, dtype=np.uint64)[:, None, None])
    scenes = scenes_of(keys * 0, keys * 0, style)

    def seen(cosine: float) -> np.ndarray:
        turned = type(scenes)(
            **{**vars(scenes), "cosine": scenes.cosine * 0 + cosine, "sine": scenes.sine * 0}
        )
        return drawing.rendered(people_of(keys, style), turned, style, 64, 32).astype(float)

    front, nearly_front, back = seen(1.0), seen(0.98), seen(-1.0)
    turned = np.abs(front - back).mean(axis=(1, 2, 3))
    assert (turned > 2 * np.abs(front - nearly_front).mean(axis=(1, 2, 3))).all()
    assert np.median(turned) > 3


def test_a_person_looks_alike_to_all_cameras_and_unlike_others() -> None:
    crops = draw_crops("plaza-noon", people=range(40), cameras=4, crops=3, height=64, width=32)
    # The mean colours of trunk and legs, less what a camera does to everyone.
    looks = pixels(crops).astype(float)[:, :, 12:20]
    looks = np.concatenate([looks[:, 18:30].mean((1, 2)), looks[:, 36:50].mean((1, 2))], axis=1)
    for camera in range(1, 5):
        looks[crops.cameras == camera] -= looks[crops.cameras == camera].mean(axis=0)
    gaps = np.linalg.norm(looks[:, None] - looks[None], axis=2)
    across = crops.cameras[:, None] != crops.cameras[None]
    same = crops.identities[:, None] == crops.identities[None]
    assert np.median(gaps[same & across]) < 0.6 * np.median(gaps[~same & across])


def test_progress_counts_the_crops() -> None:
    done: list[int] = []
    draw_crops("snow", people=range(20), cameras=2, crops=2, height=64, width=32,
               progress=done.append)  # fmt: skip
    assert done == [32, 64, 80]


def test_a_domain_has_people_to_learn_from_and_others_to_ask_for() -> None:
    domain = draw_domain("law-17", train_people=3, test_people=2, cameras=2, crops=3, height=32,
                         width=16, seed=4)  # fmt: skip
    assert domain.name == "law-17"
    assert set(domain.train.identities) == {0, 1, 2}
    assert domain.query.identities.tolist() == [3, 3, 4, 4]
    assert domain.query.cameras.tolist() == [1, 2, 1, 2]
    assert domain.gallery.identities.tolist() == [3] * 4 + [4] * 4
    whole = draw_crops("law-17", people=range(5), cameras=2, crops=3, height=32, width=16, seed=4)
    np.testing.assert_array_equal(pixels(domain.train), pixels(whole)[:18])
    np.testing.assert_array_equal(pixels(domain.query), pixels(whole)[18::3])
    assert len(domain.gallery) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_people": 0}, "A domain needs train_people of at least 1, not 0."),
        ({"test_people": -1}, "A domain needs test_people of at least 1, not -1."),
        ({"cameras": 1}, "A domain needs cameras of at least 2, not 1."),
        ({"crops": 1}, "A domain needs crops of at least 2, not 1."),
        ({"height": 15}, "A crop's height must be at least 16 pixels, not 15."),
        ({"width": 0}, "A crop's width must be at least 16 pixels, not 0."),
        ({"strength": -0.1}, "The strength of a gap must be in [0, 3], not -0.1."),
        ({"strength": 3.5}, "The strength of a gap must be in [0, 3], not 3.5."),
        ({"strength": float("nan")}, "The strength of a gap must be in [0, 3], not nan."),
    ],
)
def test_a_domain_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "train_people": 2, "test_people": 2, "cameras": 2, "crops": 2, "height": 32, "width": 16
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        draw_domain("snow", **{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": range(0)}, "at least 1 of people"),
        ({"cameras": 0}, "at least 1 of cameras"),
        ({"crops": 0}, "at least 1 of crops"),
        ({"people": range(-1, 2)}, "numbered from 0"),
        ({"width": 3}, "width must be at least 16"),
        ({"strength": float("inf")}, "strength of a gap"),
        ({"name": "snowy"}, "did you mean 'snow'"),
    ],
)
def test_crops_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        draw_crops(**{"name": "snow", **SMALL, **change})
