import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.batch import Domain
from rayreid.checkpoint import build
from rayreid.data import augmentation
from rayreid.data.synthetic import draw_domain
from rayreid.data.views import PRESETS, ViewSettings, as_images, unfolded, varied
from rayreid.experiment import Experiment, compose
from rayreid.feed import Feed
from rayreid.learn import learn
from tests.miniature import MINIATURE

NOTHING = ViewSettings(flip=0, shift=0)
ALONE = {
    "flip": {"flip": 0.5},
    "shift": {"shift": 0.3},
    "shift_width": {"shift_width": 0.3},
    "rotation": {"rotation": 20.0},
    "brightness": {"brightness": 0.5},
    "contrast": {"contrast": 0.5},
    "saturation": {"saturation": 0.5},
    "hue": {"hue": 0.5},
    "greyscale": {"greyscale": 0.5},
    "blur": {"blur": 0.5},
    "trivial_augment": {"trivial_augment": 0.9},
    "occlusion": {"occlusion": 0.5},
    "white_square": {"white_square": 0.9},
    "erasing": {"erasing": 0.5},
    "erasing_mean": {"erasing": 0.5, "erasing_fill": "imagenet_mean"},
    "erasing_noise": {"erasing": 0.5, "erasing_fill": "noise", "erasing_area": 0.6},
}
"""Of each variation, settings under which it alone is on."""
ALL = {name: value for settings in ALONE.values() for name, value in settings.items()}


def images(seed: int = 0, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return as_images(torch.randint(256, (size, 20, 10, 3), generator=generator).to(torch.uint8))


def vary(settings: ViewSettings, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return varied(as_pixels(x), settings, torch.Generator().manual_seed(seed))


def as_pixels(x: torch.Tensor) -> torch.Tensor:
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def test_pixels_become_images() -> None:
    pixels = torch.arange(2 * 4 * 3 * 3, dtype=torch.uint8).view(2, 4, 3, 3)
    made = as_images(pixels)
    assert made.shape == (2, 3, 4, 3)
    assert made[1, 2, 3, 1] == pixels[1, 3, 1, 2] / 255
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_no_variation_leaves_images_alone() -> None:
    assert torch.equal(vary(NOTHING, images()), images())


def test_a_certain_flip_mirrors() -> None:
    assert torch.equal(vary(ViewSettings(flip=1, shift=0), images()), images().flip(3))


@given(seed=st.integers(0, 999), flip=st.sampled_from([0.0, 1.0]))
def test_a_shift_moves_whole_pixels_and_fills_with_zeros(seed: int, flip: float) -> None:
    x = images(seed)
    moved = vary(ViewSettings(flip=flip, shift=0.2), x, seed)
    source = x.flip(3) if flip else x
    for image, result in zip(source, moved, strict=True):
        found = False
        for down in range(-4, 5):
            for right in range(-2, 3):
                shifted = torch.roll(image, (down, right), (1, 2)).clone()
                if down > 0:
                    shifted[:, :down] = 0
                elif down < 0:
                    shifted[:, down:] = 0
                if right > 0:
                    shifted[:, :, :right] = 0
                elif right < 0:
                    shifted[:, :, right:] = 0
                found |= torch.equal(shifted, result)
        assert found


@given(seed=st.integers(0, 999))
def test_colours_stay_in_range_and_grey_stays_grey(seed: int) -> None:
    settings = ViewSettings(flip=0, shift=0, brightness=0.4, contrast=0.4, saturation=0.4)
    changed = vary(settings, images(seed), seed)
    assert changed.min() >= 0
    assert changed.max() <= 1
    grey = images(seed)[:, :1].expand(-1, 3, -1, -1)
    changed = vary(settings, grey, seed)
    assert torch.allclose(changed, changed[:, :1].expand_as(changed), atol=1e-6)


@given(seed=st.integers(0, 999))
def test_erasing_cuts_one_rectangle_of_the_stated_size(seed: int) -> None:
    x = torch.ones(4, 3, 40, 20)
    erased = vary(ViewSettings(flip=0, shift=0, erasing=1), x, seed)
    for image in erased:
        hole = (image != 1).all(0)
        assert torch.equal(hole, (image == 0.5).all(0))
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns, "a rectangle"
        assert hole.sum() <= 0.2 * 40 * 20 * 1.3 + 40


# The views that figures were measured with.


@pytest.mark.parametrize(
    ("settings", "pixels"),
    [
        ({}, "aeec225b755a302d"),
        ({"shift": 0.3}, "4f9b05c5a9ee5465"),
        ({"erasing": 0.5}, "ee327843dc7d6150"),
    ],
)
def test_whole_pixels_move_as_they_did_when_figures_were_measured(
    settings: dict[str, float], pixels: str
) -> None:
    found = (measured(settings)[0] * 255).round().to(torch.uint8)
    assert hashlib.sha256(found.numpy().tobytes()).hexdigest()[:16] == pixels


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (
            {"brightness": 0.2, "contrast": 0.15},
            [0.056353, 0.3724053, 0.1707301, 0.7699792, 1.0, 0.7358989, 0.1340771, 0.5114469],
        ),
        (
            {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5},
            [0.0075117, 0.3861344, 0.2553101, 0.710031, 1.0, 0.9280769, 0.2620387, 0.5879397],
        ),
        (
            {"shift": 0.1, "brightness": 0.3, "contrast": 0.4, "saturation": 0.2, "erasing": 0.7},
            [0.0499793, 0.6762801, 0.5, 0.5036155, 0.2360804, 0.2365412, 0.6766969, 0.4918084],
        ),
    ],
)
def test_colours_change_as_they_did_when_figures_were_measured(
    settings: dict[str, float], values: list[float]
) -> None:
    images, following = measured(settings)
    assert images[1].flatten()[::377][:8].tolist() == pytest.approx(values, abs=1e-6)
    assert following == (617109780 if "erasing" in settings else 2037174149)


def measured(settings: dict[str, float]) -> tuple[torch.Tensor, int]:
    """Return two batches' views one after the other, and what the generator gives next."""
    pixels = torch.randint(
        0, 256, (6, 20, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    generator = torch.Generator().manual_seed(5)
    views = [varied(pixels, ViewSettings(**settings), generator) for _ in range(2)]
    following = int(torch.randint(2**31, (), generator=generator))
    return torch.stack([view.contiguous() for view in views]), following


# What a view depends on.


def test_views_follow_from_the_generator_alone() -> None:
    settings = ViewSettings(shift=0.2, brightness=0.3, erasing=0.5)
    assert torch.equal(vary(settings, images(), 5), vary(settings, images(), 5))
    assert not torch.equal(vary(settings, images(), 5), vary(settings, images(), 6))


def test_images_of_a_batch_are_varied_each_by_its_own_draw() -> None:
    x = images(size=1).expand(20, -1, -1, -1)
    assert len({tuple(image.flatten().tolist()) for image in vary(ViewSettings(), x)}) > 5


@pytest.mark.parametrize("name", sorted(set(ALONE) - {"occlusion"}))
def test_each_image_is_varied_apart_from_what_the_others_show(name: str) -> None:
    settings = NOTHING.model_copy(update=ALONE[name])

    @given(seed=st.integers(0, 999), i=st.integers(0, 5))
    def check(seed: int, i: int) -> None:
        others = images(seed + 1)
        others[i] = images(seed)[i]
        one, other = vary(settings, images(seed), seed)[i], vary(settings, others, seed)[i]
        assert torch.allclose(one, other, atol=1e-6)

    check()


@given(seed=st.integers(0, 999))
def test_an_occluded_image_shows_one_rectangle_of_another(seed: int) -> None:
    x = torch.arange(6).view(-1, 1, 1, 1).expand(-1, 3, 20, 10) / 5
    for image, found in zip(
        x, vary(ViewSettings(flip=0, shift=0, occlusion=1), x, seed), strict=True
    ):
        hidden = (found != image).all(0)
        assert hidden.sum() == hidden.any(1).sum() * hidden.any(0).sum() > 0
        assert len(found[:, hidden].unique()) == 1


@pytest.mark.parametrize("name", ALONE)
def test_each_image_has_draws_of_its_own_and_stays_in_range(name: str) -> None:
    settings = NOTHING.model_copy(update=ALONE[name])
    x = torch.cat([images(size=1).expand(20, -1, -1, -1), images(1, size=1)])
    found = vary(settings, x)
    # Of a yes and no there are two views.
    assert len({str(image.tolist()) for image in found[:20]}) > (1 if name in TWO_VIEWS else 5)
    assert found.min() >= -1e-6
    assert found.max() <= 1 + 1e-6
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(vary(settings, x, 1), found)


TWO_VIEWS = ("flip", "greyscale")


@pytest.mark.parametrize("name", ["flip", "greyscale", "blur", "occlusion", "erasing"])
def test_a_variation_is_as_probable_as_it_is_set(name: str) -> None:
    x = images(size=600)
    found = vary(NOTHING.model_copy(update={name: 0.2}), x)
    assert (found != x).flatten(1).any(1).float().mean() == pytest.approx(0.2, abs=0.06)


def test_trivial_augment_is_as_probable_as_it_is_set() -> None:
    x = images(size=200)
    changed = [
        (vary(NOTHING.model_copy(update={"trivial_augment": p}), x) != x).flatten(1).any(1).sum()
        for p in (0.2, 0.8, 1.0)
    ]
    # Of its operations one is the identity, and others may be too weak to be seen.
    assert changed[2] > 100
    assert [int(n) / int(changed[2]) for n in changed[:2]] == pytest.approx([0.2, 0.8], abs=0.1)


@pytest.mark.parametrize(
    ("variation", "settings", "place", "least", "most"),
    [
        ("rotated", {"rotation": 20.0}, 1, -20.0, 20.0),
        ("hue_turned", {"hue": 0.3}, 1, -0.3, 0.3),
        ("blurred", {"blur": 0.5, "blur_sigma": 1.5}, 2, 0.1, 1.5),
    ],
)
def test_a_strength_is_drawn_from_its_whole_range(
    variation: str,
    settings: dict[str, float],
    place: int,
    least: float,
    most: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []
    real = getattr(augmentation, variation)
    monkeypatch.setattr(
        augmentation, variation, lambda *args: given.append(args[place]) or real(*args)
    )
    vary(NOTHING.model_copy(update=settings), images(size=300))
    (strengths,) = given
    assert strengths.min() >= least - 1e-6
    assert strengths.max() <= most + 1e-6
    assert strengths.mean() == pytest.approx((least + most) / 2, abs=0.06 * (most - least))
    assert strengths.max() - strengths.min() > 0.95 * (most - least)


def test_erased_rectangles_are_as_large_as_they_may_be() -> None:
    settings = ViewSettings(flip=0, shift=0, erasing=1, erasing_area=0.9)
    holes = (vary(settings, torch.ones(300, 3, 40, 40)) != 1).all(1).float().mean((1, 2))
    assert 0.6 < holes.max() <= 0.95


@pytest.mark.parametrize("name", sorted(set(ALONE) - {"erasing", "erasing_mean", "erasing_noise"}))
def test_a_variation_leaves_the_draws_of_the_others_as_they_are(name: str) -> None:
    before = {"flip": 0.5, "shift": 0.2, "rotation": 9.0, "greyscale": 0.5, "white_square": 0.5}
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    x = torch.zeros(6, 3, 20, 10)
    for settings, generator in zip((before, before | ALONE[name]), generators, strict=True):
        varied(as_pixels(x), ViewSettings(**settings), generator)
    one, other = (generator.get_state() for generator in generators)
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    "name", ["brightness", "contrast", "saturation", "hue", "greyscale", "blur", "occlusion"]
)
def test_a_variation_that_shows_nothing_changes_nothing(name: str) -> None:
    # On black there is the white square alone to see, which comes after all of these.
    before = {"flip": 0.5, "shift": 0.2, "rotation": 9.0, "white_square": 0.5, "erasing": 0.5}
    x = torch.zeros(6, 3, 20, 10)
    assert torch.equal(*(vary(ViewSettings(**s), x) for s in (before, before | ALONE[name])))


@given(settings=st.sets(st.sampled_from(sorted(ALONE))), seed=st.integers(0, 99))
def test_views_leave_the_processes_random_numbers_alone(settings: set[str], seed: int) -> None:
    chosen = {key: value for name in settings for key, value in ALONE[name].items()}
    before = torch.get_rng_state()
    one = vary(ViewSettings(**chosen), images(), seed)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert torch.equal(vary(ViewSettings(**chosen), images(), seed), one)


def test_the_width_has_a_shift_of_its_own() -> None:
    x = torch.ones(50, 3, 20, 10)
    tall = vary(ViewSettings(flip=0, shift=0.3, shift_width=0), x)
    wide = vary(ViewSettings(flip=0, shift=0, shift_width=0.3), x)
    assert {int(image[0, :, 0].sum()) for image in tall} == set(range(14, 21))
    assert {int(image[0, 0].sum()) for image in wide} == set(range(7, 11))
    assert all(len(image.unique(dim=2)[0, 0]) == 1 for image in tall)


@pytest.mark.parametrize(
    ("fill", "colour"), [("grey", (0.5, 0.5, 0.5)), ("imagenet_mean", (0.485, 0.456, 0.406))]
)
def test_erased_rectangles_show_their_fill(fill: str, colour: tuple[float, ...]) -> None:
    erased = vary(
        ViewSettings(flip=0, shift=0, erasing=1, erasing_fill=fill), torch.ones(9, 3, 20, 10)
    )
    for image in erased:
        hole = (image != 1).all(0)
        assert hole.any()
        assert torch.allclose(image[:, hole], torch.tensor(colour)[:, None])


def test_noise_is_uniform_and_not_the_same_in_two_images() -> None:
    settings = ViewSettings(flip=0, shift=0, erasing=1, erasing_area=1, erasing_fill="noise")
    erased = vary(settings, torch.ones(40, 3, 20, 10))
    noise = torch.cat([image[image != 1] for image in erased])
    assert noise.min() >= 0
    assert noise.max() < 1
    counts = torch.histc(noise, 4, 0, 1) / len(noise)
    assert counts.tolist() == pytest.approx([0.25] * 4, abs=0.05)
    shared = [
        (one[both], other[both])
        for one, other in pairwise(erased)
        if (both := (one != 2) & (other != 2)).sum() > 30
    ]
    assert shared
    assert not any(torch.equal(one, other) for one, other in shared)


# Presets.


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_it_names_and_nothing_else(name: str) -> None:
    expected = NOTHING.model_dump() | PRESETS[name] | {"preset": name}
    assert ViewSettings(preset=name).model_dump() == expected


def test_explicit_settings_lie_above_the_preset() -> None:
    made = ViewSettings(preset="qaconv", hue=0.0, blur=0.5)
    expected = NOTHING.model_dump() | PRESETS["qaconv"]
    assert made.model_dump() == expected | {"preset": "qaconv", "hue": 0.0, "blur": 0.5}


def test_pad_and_crop_is_a_shift_of_so_many_pixels() -> None:
    x = torch.ones(300, 3, 256, 128)
    made = vary(ViewSettings(preset="bag_of_tricks", erasing=0.0), x)
    assert {256 - int(image[0].amax(1).sum()) for image in made} == set(range(11))
    assert {128 - int(image[0].amax(0).sum()) for image in made} == set(range(11))


def test_a_complete_tree_makes_the_same_settings_again() -> None:
    made = ViewSettings(preset="gmn", flip=0.0)
    assert ViewSettings(**made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("bag_of_trick", r"^setting 'views.preset': there is no preset 'bag_of_trick'; "
                         r"did you mean 'bag_of_tricks'\?$"),
        (["gmn"], r"^setting 'views.preset': .* found \['gmn'\]$"),
    ],
)  # fmt: skip
def test_an_unknown_preset_is_one_sentence(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compose("baseline", MINIATURE, {"views.preset": value})


def test_a_preset_unfolds_beneath_the_assignments_beside_it() -> None:
    found = unfolded({"views.preset": "snr", "views.flip": 0.0, "epochs": 4})
    assert found.pop("epochs") == 4
    expected = ViewSettings(preset="snr", flip=0.0).model_dump()
    assert {path.removeprefix("views."): value for path, value in found.items()} == expected
    assert unfolded({"views.preset": "nowhere"}) == {"views.preset": "nowhere"}
    assert unfolded({"epochs": 4}) == {"epochs": 4}


# In a run.

VARIED = {f"views.{name}": value for name, value in ALL.items()}


@pytest.fixture(scope="module")
def domains() -> list[Domain]:
    size = {"train_people": 7, "test_people": 4, "cameras": 2, "crops": 2}
    return [draw_domain(name, **size, height=64, width=32) for name in ("snow", "subway")]


def run(workers: int = 0) -> Experiment:
    return compose("baseline", MINIATURE, VARIED, {"loading.workers": workers})


def test_views_are_the_same_whatever_the_number_of_loader_processes(domains: list[Domain]) -> None:
    seen = []
    for workers in (0, 2):
        feed = Feed(run(workers), domains, None, rank=0, world=1, device=torch.device("cpu"))
        method, views = build(run(workers), feed.census), torch.Generator().manual_seed(1)
        seen.append([feed.batch(raw, views).images for raw in feed.epoch(1, method)])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_run_is_the_same_whatever_the_number_of_loader_processes(domains: list[Domain]) -> None:
    losses = [[epoch.losses for epoch in learn(run(workers), domains)] for workers in (0, 2)]
    assert losses[0] == losses[1]


def test_a_resumed_run_varies_as_one_straight_through(
    domains: list[Domain], tmp_path: Path
) -> None:
    straight = list(learn(run(), domains))
    first = next(learn(run(), domains))
    first.learner.save(tmp_path)
    resumed = list(learn(run(), domains, state=tmp_path))
    assert [epoch.losses for epoch in resumed] == [epoch.losses for epoch in straight[1:]]
