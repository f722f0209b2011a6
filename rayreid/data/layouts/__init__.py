"""Sets, public ones and one's own, each a short grammar of the folder that it lies in."""

from collections.abc import Mapping
from pathlib import Path

from rayreid.batch import Domain
from rayreid.data.layouts.clonedperson import CLONEDPERSON
from rayreid.data.layouts.cuhk01 import CUHK01
from rayreid.data.layouts.cuhk02 import CUHK02
from rayreid.data.layouts.cuhk03 import CUHK03
from rayreid.data.layouts.cuhk_sysu import CUHK_SYSU
from rayreid.data.layouts.grammar import Layout, Options, everybody
from rayreid.data.layouts.grid import GRID
from rayreid.data.layouts.ilids import ILIDS
from rayreid.data.layouts.manifest import MANIFEST
from rayreid.data.layouts.market1501 import MARKET1501
from rayreid.data.layouts.msmt17 import MSMT17
from rayreid.data.layouts.people import PEOPLE
from rayreid.data.layouts.personx import PERSONX
from rayreid.data.layouts.prid2011 import PRID2011
from rayreid.data.layouts.randperson import RANDPERSON
from rayreid.data.layouts.unrealperson import UNREALPERSON
from rayreid.data.layouts.viper import VIPER
from rayreid.data.layouts.ward import WARD
from rayreid.settings import unknown

FOLDERS: Mapping[str, Layout] = {
    "market1501": MARKET1501,
    "msmt17": MSMT17,
    "cuhk01": CUHK01,
    "cuhk02": CUHK02,
    "cuhk03": CUHK03,
    "cuhk_sysu": CUHK_SYSU,
    "viper": VIPER,
    "prid2011": PRID2011,
    "grid": GRID,
    "ilids": ILIDS,
    "ward": WARD,
    "randperson": RANDPERSON,
    "clonedperson": CLONEDPERSON,
    "personx": PERSONX,
    "unrealperson": UNREALPERSON,
    "people": PEOPLE,
    "manifest": MANIFEST,
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
