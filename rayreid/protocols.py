"""Protocols: which domains teach, which judge, and what may not be looked at.

The published ones (https://arxiv.org/abs/2506.12413 surveys them) stand here without DukeMTMC,
which was withdrawn, as papers have had them since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayreid.data.layouts import ALL, FOLDERS, parse_layout
from rayreid.data.sources import canonical, domain_name, ranked_part_of, same_place
from rayreid.settings import unknown


@dataclass(frozen=True)
class Round:
    """One training run of a protocol: learn on ``sources``, rank on ``targets``.

    Layouts, with their options, in a protocol; sources, with their locations, in use.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]


def _left_out(option: str) -> dict[str, Round]:
    """Return a round for each of three sets, with CUHK-SYSU, which has no test split, a source."""
    ranked = ("market1501", "msmt17", "cuhk03")
    learnt = {name: name + option for name in ranked}
    return {
        target: Round(
            (*(learnt[name] for name in ranked if name != target), "cuhk_sysu"), (target,)
        )
        for target in ranked
    }


_SINGLE = ("market1501", "msmt17", "cuhk03")

PROTOCOLS: Mapping[str, Mapping[str, Round]] = {
    # Everybody in four sets; four small sets, the mean of ten splits each.
    "P1": {
        "": Round(
            ("market1501:all", "cuhk02:all", "cuhk03:all", "cuhk_sysu"),
            ("prid2011", "grid", "viper", "ilids"),
        )
    },
    # The training splits of three of four sets; the test split of the one left out.
    "P2": _left_out(""),
    # As P2, but of a source everybody is learnt.
    "P3": _left_out(":all"),
    # The training split of one set; the test splits of the others.
    "single": {
        one: Round((one,), tuple(other for other in _SINGLE if other != one)) for one in _SINGLE
    },
}
"""Rounds by the protocol's name, then by what tells them apart: the set that is left out of all
others, or the only one that is learnt. CUHK03 is *detected*, unless its place says otherwise."""


def round_of(
    name: str, places: Mapping[str, str], *, parts: Sequence[str] = ("sources", "targets")
) -> Round:
    """Return a round, ``P1`` or ``P2:market1501``, with each set at its place.

    ``parts`` are what is wanted of it; the other is left empty, and its sets need no place.
    ``places`` are folders by layout, or URIs of packed sets; a layout there may have options of
    its own (``cuhk03:labeled``). Raises `ValueError` for a round that is not known, and for sets
    without a place.
    """
    protocol, _, which = name.partition(":")
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    rounds = PROTOCOLS[protocol]
    if which not in rounds:
        known = ", ".join(f"{protocol}:{one}" for one in rounds if one) or protocol
        raise ValueError(
            f"there is no round {name!r} of the protocol {protocol}; there are {known}"
        )
    wanted = rounds[which]
    at = {parse_layout(layout)[0]: (layout, place) for layout, place in places.items()}
    sources = wanted.sources if "sources" in parts else ()
    targets = wanted.targets if "targets" in parts else ()
    sets = [parse_layout(layout)[0] for layout in (*sources, *targets)]
    missing = [layout for layout in sets if layout not in at]
    if missing:
        raise ValueError(
            f"protocol {name} needs {', '.join(missing)} too; say where, "
            + " ".join(f"--data {layout}=FOLDER" for layout in missing)
        )
    return Round(
        tuple(_placed(layout, at) for layout in sources),
        tuple(_placed(layout, at) for layout in targets),
    )


def _placed(layout: str, places: Mapping[str, tuple[str, str]]) -> str:
    name, options = parse_layout(layout)
    own, place = places[name]
    packed = "://" in place
    words = sorted({*options, *(() if packed else parse_layout(own)[1])})
    colon = ":" if words else ""
    return canonical(f"{'packed' if packed else name}{colon}{','.join(words)}={place}")


def splits_of(target: str, *, both_directions: bool = False) -> tuple[str, ...]:
    """Return the published splits of a target that has several and names none, else itself.

    ``both_directions`` adds each split with query and gallery changed over, where the set has two
    cameras. Raises `ValueError` as `canonical` does.
    """
    layout, _, location = canonical(target).partition("=")
    name = layout.partition(":")[0]
    if name not in FOLDERS:
        return (target,)
    _, options = parse_layout(layout)
    found = FOLDERS[name]
    numbers = [str(n) for n in range(1, found.splits + 1)]
    has_splits = numbers and found.splits_with in ("", *options)
    if not has_splits or options & {ALL, *numbers}:
        return (target,)
    directions = [options]
    if both_directions and "swapped" in found.options and "swapped" not in options:
        directions.append(options | {"swapped"})
    return tuple(
        f"{name}:{','.join([number, *sorted(words)])}={location}"
        for words in directions
        for number in numbers
    )


@dataclass(frozen=True)
class Fold:
    """One round of leave-one-domain-out: learn on ``sources``, rank on ``held_out``."""

    sources: tuple[str, ...]
    held_out: str


def distinct(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sources in canonical form; `ValueError` where two are one or share a name."""
    canon = tuple(canonical(source) for source in sources)
    names = [domain_name(source) for source in canon]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two sources are called {name!r}: {', '.join(canon)}; name each domain once"
            )
    return canon


def leave_one_domain_out(sources: tuple[str, ...]) -> list[Fold]:
    """Return a fold for each source, held out in its turn: ranked on its own query / gallery.

    Nothing outside the sources is in any fold. Of a source that is learnt whole, the test part is
    ranked; one without a test part is never held out. Raises `ValueError` for fewer than two
    sources, or where none can be ranked.
    """
    canon = distinct(sources)
    if len(canon) < 2:
        raise ValueError(
            f"leave-one-domain-out needs at least two sources, found {len(canon)}: "
            "with one, nothing is left to learn from"
        )
    folds = [
        Fold(tuple(other for other in canon if other != source), held_out)
        for source in canon
        if (held_out := ranked_part_of(source))
    ]
    if not folds:
        raise ValueError(
            f"none of {', '.join(canon)} has a query and a gallery, so that none can be held out"
        )
    return folds


def refuse_target(sources: tuple[str, ...], target: str | None) -> None:
    """Raise `ValueError` where the target is also a source, or shows people that one shows."""
    if target is None:
        return
    for source in sources:
        if same_place(target, source):
            raise ValueError(
                f"{target} is the target and a source; an unseen domain may not be learnt from or "
                "selected on: remove it from the sources"
            )
        one, other = (canonical(s).partition("=")[0].partition(":")[0] for s in (source, target))
        if one in FOLDERS and other in FOLDERS[one].shares_people_with:
            raise ValueError(
                f"{target} and the source {source} show some of the same people, so that the "
                "target would not be unseen: remove one of them"
            )
