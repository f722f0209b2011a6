"""Public sets, each a short grammar of the folder that it is unpacked to."""

from collections.abc import Mapping
from pathlib import Path

from rayreid.batch import Domain
from rayreid.data.layouts.grammar import Layout, Options, everybody
from rayreid.data.layouts.market1501 import MARKET1501
from rayreid.settings import unknown

FOLDERS: Mapping[str, Layout] = {
    "market1501": MARKET1501,
}
"""Layouts by the name that a source gives."""

ALL = "all"
"""The option of every layout to learn from everybody in the set, and rank nobody."""


def parse_layout(text: str) -> tuple[str, Options]:
    """Return name and options of ``layout`` or ``layout:option,option``.

    Raises `ValueError` for a layout that is not known, or an option that it does not have.
    """
    name, colon, words = text.partition(":")
    if name not in FOLDERS:
        raise unknown("layout", name, FOLDERS)
    options = frozenset(words.split(",")) if colon else frozenset()
    layout = FOLDERS[name]
    numbers = tuple(str(n) for n in range(1, layout.splits + 1))
    for word in sorted(options):
        if word not in (ALL, *layout.options, *numbers):
            raise unknown(f"option of the layout {name}", word, (ALL, *layout.options, *numbers))
    return name, options


def read_layout(layout: str, root: Path, domain: str) -> Domain:
    """Return the domain in a folder, read as ``layout`` or ``layout:option,option``.

    Raises `ValueError` or `FileNotFoundError` in a sentence, as `Layout.read` does.
    """
    name, options = parse_layout(layout)
    found = FOLDERS[name].read(root, domain, options - {ALL})
    return everybody(found) if ALL in options else found
