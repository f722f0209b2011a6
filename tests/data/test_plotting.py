"""Plots: nothing is lost in a bin, and what is written is XML whatever it says."""

import re
from xml.etree import ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayreid.data.plotting import bars, binned, size_map

NUMBERS = st.lists(st.integers(1, 5000), min_size=1, max_size=50)


@given(NUMBERS)
def test_every_value_is_in_the_bin_that_names_it(values: list[int]) -> None:
    names, counts = binned(np.array(values))
    assert sum(counts) == len(values)
    assert len(names) == len(counts) <= 24
    for name, count in zip(names, counts, strict=True):
        low, _, high = name.replace(",", "").partition("-")
        assert sum(int(low) <= value <= int(high or low) for value in values) == count


def test_few_values_have_a_bin_each() -> None:
    assert binned(np.array([2, 3, 3, 5])) == (["2", "3", "4", "5"], [1, 2, 0, 1])
    assert binned(np.array([], np.int64)) == ([], [])


def told(svg: str) -> list[int]:
    titles = [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag == "title"]
    return [int(re.sub(r".*: ", "", title).replace(",", "")) for title in titles]


@given(NUMBERS)
def test_bars_are_as_tall_as_their_counts(values: list[int]) -> None:
    names, counts = binned(np.array(values))
    svg = bars(names, counts, across="<crops>", up="people & others")
    assert told(svg) == counts
    rects = [e for e in ElementTree.fromstring(svg) if e.tag == "rect"]
    tall = np.array([float(rect.attrib["height"]) for rect in rects])
    np.testing.assert_allclose(tall / tall.max(), np.array(counts) / max(counts), atol=2e-3)
    assert all(0 <= float(r.attrib["x"]) <= 360 - float(r.attrib["width"]) for r in rects)


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=40))
def test_a_size_map_has_every_crop(sizes: list[tuple[int, int]]) -> None:
    svg = size_map(np.array(sizes))
    assert sum(told(svg)) == len(sizes)
    rects = [e for e in ElementTree.fromstring(svg) if e.tag == "rect"]
    assert all(0.15 < float(rect.attrib["fill-opacity"]) <= 1 for rect in rects)
    widest = max(width for width, _ in sizes)
    assert f">{widest:,}<" in svg


def test_nothing_to_plot_is_an_empty_plot() -> None:
    assert told(size_map(np.zeros((0, 2), np.int64))) == []
    assert told(bars([], [], across="", up="")) == []
