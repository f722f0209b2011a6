"""Sources: data sets by name, ``layout=location`` or ``layout:option,option=location``."""

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from rayreid.batch import Domain
from rayreid.data.layouts import ALL, FOLDERS, parse_layout, read_layout
from rayreid.data.loading import LoadingSettings, fingerprint
from rayreid.data.synthetic import draw_domain, style_of
from rayreid.settings import Settings, unknown

LAYOUTS = ("synthetic", *FOLDERS)


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

    Raises `ValueError` for another grammar, an unknown layout or an unknown drawn domain.
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
    parse_layout(layout)
    return f"{layout}={Path(location).expanduser().resolve()}"


def same_place(one: str, other: str) -> bool:
    """Return whether two sources show the same people, whatever layout they are read by."""
    one, other = canonical(one), canonical(other)
    return one.partition("=")[2] == other.partition("=")[2]


def ranks_nobody(source: str) -> bool:
    """Return whether a source is read with everybody in it to learn from."""
    layout = source.partition("=")[0]
    return ALL in layout.partition(":")[2].split(",")


def domain_name(source: str) -> str:
    """Return the short name of a source: the drawn domain's, or the folder's."""
    return Path(source.partition("=")[2]).name


def open_source(source: str, loading: LoadingSettings, synthetic: SyntheticSettings) -> Domain:
    """Return the domain of a source.

    Raises `ValueError` or `FileNotFoundError` as its reader does.
    """
    layout, _, location = canonical(source).partition("=")
    if layout == "synthetic":
        domain = draw_domain(
            location, height=loading.height, width=loading.width, **synthetic.model_dump()
        )
    else:
        domain = read_layout(layout, Path(location), domain_name(source))
    return replace(domain, fingerprint=fingerprint(domain))
