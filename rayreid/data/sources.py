"""Sources: data sets by name, ``layout=location`` or ``layout:option,option=location``."""

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from rayreid.batch import Domain
from rayreid.data.cache import cache_place
from rayreid.data.content import fingerprint
from rayreid.data.layouts import ALL, FOLDERS, parse_layout, read_layout
from rayreid.data.layouts.grammar import everybody
from rayreid.data.loading import LoadingSettings
from rayreid.data.packed import read_packed
from rayreid.data.storage import canonical_address, last_part, without_options
from rayreid.data.synthetic import draw_domain, style_of
from rayreid.settings import Settings, unknown

PACKED = "packed"
LAYOUTS = ("synthetic", PACKED, *FOLDERS)


class SyntheticSettings(Settings):
    """Size and difficulty of the drawn domains."""

    train_people: int = Field(60, ge=2)
    """People of each domain to learn from."""
    test_people: int = Field(30, ge=2)
    """Other people of each domain, in its query and gallery."""
    cameras: int = Field(4, ge=2)
    """Cameras of each domain."""
    crops: int = Field(4, ge=2)
    """Crops of each person in each camera."""
    strength: float = Field(1.0, ge=0, le=3)
    """How far domains are apart; 0 = not at all."""
    seed: int = Field(0, ge=0)
    """Seed of the people, the cameras and the crops."""


def canonical(source: str) -> str:
    """Return ``layout=location`` with its path made absolute, so that it is one on all nodes.

    The address of a packed set in an object store stays an address. Raises `ValueError` for another
    grammar, an unknown layout, an unknown drawn domain, or an address that cannot be one.
    """
    layout, equals, location = source.partition("=")
    if not equals or not location:
        raise ValueError(
            f"{source!r} is not a data set; write layout=location, "
            "e.g. synthetic=plaza-noon or market1501=/data/Market-1501"
        )
    if layout == "synthetic":
        style_of(location)
        return source
    if layout.partition(":")[0] not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if is_packed(layout):
        if layout not in (PACKED, f"{PACKED}:{ALL}"):
            raise unknown(f"option of the layout {PACKED}", layout.partition(":")[2], [ALL])
        return f"{layout}={canonical_address(location)}"
    parse_layout(layout)
    return f"{layout}={Path(location).expanduser().resolve()}"


def same_place(one: str, other: str) -> bool:
    """Return whether two sources show the same people, whatever layout they are read by.

    How an address in an object store is reached does not count.
    """
    place, other_place = (
        without_options(canonical(source).partition("=")[2]) for source in (one, other)
    )
    return place == other_place


def ranks_nobody(source: str) -> bool:
    """Return whether a source is there to learn from alone: everybody in it, or by its nature."""
    name, _, options = source.partition("=")[0].partition(":")
    return ALL in options.split(",") or (name in FOLDERS and FOLDERS[name].train_only)


def ranked_part_of(source: str) -> str | None:
    """Return the source that ranks what a source has to rank; None where that is nobody."""
    layout, _, location = source.partition("=")
    name, _, options = layout.partition(":")
    if name in FOLDERS and FOLDERS[name].train_only:
        return None
    others = [word for word in options.split(",") if word not in ("", ALL)]
    return f"{name}{':' if others else ''}{','.join(others)}={location}"


def domain_name(source: str) -> str:
    """Return the short name of a source: the drawn domain's, or that of the folder or prefix."""
    layout, _, location = source.partition("=")
    return last_part(location) if is_packed(layout) else Path(location).name


def is_packed(layout: str) -> bool:
    """Return whether a layout, with or without options, is that of packed sets."""
    return layout.partition(":")[0] == PACKED


def open_source(source: str, loading: LoadingSettings, synthetic: SyntheticSettings) -> Domain:
    """Return the domain of a source.

    Raises `ValueError`, `FileNotFoundError` or `OSError` as its reader does.
    """
    layout, _, location = canonical(source).partition("=")
    if layout == "synthetic":
        domain = draw_domain(
            location, height=loading.height, width=loading.width, **synthetic.model_dump()
        )
    elif is_packed(layout):
        domain = read_packed(location, domain_name(source))
        domain = everybody(domain) if ranks_nobody(source) else domain
    else:
        domain = read_layout(layout, Path(location), domain_name(source))
    place = cache_place(loading.cache)
    return replace(domain, fingerprint=fingerprint(domain, place and place.hashes))
