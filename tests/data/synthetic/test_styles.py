import re
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.data.synthetic import NAMED_STYLES, Style, sampled_style, style_of


def test_there_are_at_least_six_named_styles_and_all_differ() -> None:
    assert len(NAMED_STYLES) >= 6
    assert len(set(NAMED_STYLES.values())) == len(NAMED_STYLES)
    assert Style() not in NAMED_STYLES.values()


@pytest.mark.parametrize(
    "name",
    ["exposure", "warmth", "contrast", "blur", "noise", "quality", "ground_red", "clothes_value"],
)
def test_named_styles_differ_in_every_respect_of_the_gap(name: str) -> None:
    values = {getattr(style, name) for style in NAMED_STYLES.values()}
    assert len(values) > len(NAMED_STYLES) // 2


@given(st.sampled_from([*NAMED_STYLES, "law-3", "law-17"]))
def test_strength_scales_the_gap(name: str) -> None:
    style = style_of(name)
    assert style.scaled(0.0) == Style()
    half, whole = style.scaled(0.5), style.scaled(1.0)
    for each in fields(Style):
        neutral, designed = getattr(Style(), each.name), getattr(style, each.name)
        assert getattr(whole, each.name) == pytest.approx(designed)
        assert getattr(half, each.name) == pytest.approx((neutral + designed) / 2)


@given(st.integers(0, 10_000), st.floats(0, 3))
def test_every_law_style_is_valid_at_every_strength(seed: int, strength: float) -> None:
    sampled_style(seed).scaled(strength)


def test_a_strong_gap_is_wider_than_the_designed_one() -> None:
    style = style_of("snow")
    assert style.scaled(2.0).warmth == pytest.approx(2 * style.warmth)
    assert style.scaled(3.0).coats == 1.0


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_law_seeds_differ(first: int, second: int) -> None:
    assert (sampled_style(first) == sampled_style(second)) == (first == second)
    assert style_of(f"law-{first}") == sampled_style(first)


@pytest.mark.parametrize("name", ["sno", "law-", "law-x", "law--1", "law-007", "", "Subway"])
def test_an_unknown_name_is_refused_with_the_names_and_a_suggestion(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))) as caught:
        style_of(name)
    assert all(known in str(caught.value) for known in NAMED_STYLES)
    assert "law-17" in str(caught.value)


def test_the_suggestion_is_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'subway'"):
        style_of("sub-way")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 3.0])
def test_a_style_refuses_numbers_outside_its_limits(value: float) -> None:
    with pytest.raises(ValueError, match="haze must be in"):
        replace(Style(), haze=value)
