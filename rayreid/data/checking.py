"""Checking a set before anything is trained on it: whole, readable, labelled without a conflict."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayreid.data.layouts import FOLDERS
from rayreid.data.layouts.grammar import Layout
from rayreid.data.loading import LoadingSettings
from rayreid.data.scanning import PARTS, TRAIN, Scan, crops_in, legible, scan
from rayreid.data.sources import SyntheticSettings, canonical, open_source
from rayreid.data.statistics import copies, listed, one_moment, people_of, unmatched

_COUNT = re.compile(r"(train|query|gallery) (\d+)(?:/(\d+))?")

_FAULTY, _NOTED = 10, 3
"""How many crops are named of a fault, and of a note."""

Counts = Mapping[str, tuple[int, int | None]]
"""Crops, and people where they are known, of some parts."""


@dataclass(frozen=True)
class Finding:
    """What is to be said about a set, and the crops that it is said of."""

    says: str
    names: Sequence[str] = ()
    fault: bool = True
    """Whether something must be done; else it is worth knowing."""


@dataclass(frozen=True)
class Checked:
    """A source with what was counted and found."""

    source: str
    counted: Sequence[str]
    findings: Sequence[Finding]

    @property
    def faults(self) -> int:
        """Return how many findings are faults."""
        return sum(finding.fault for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """Yield the report: counts, then faults (!) and notes (-) with the first of their crops."""
        yield legible(self.source)
        yield from (f"  {line}" for line in self.counted)
        for finding in sorted(self.findings, key=lambda finding: not finding.fault):
            mark, most = ("!", _FAULTY) if finding.fault else ("-", _NOTED)
            yield f"  {mark} {finding.says}"
            yield from (f"      {name}" for name in finding.names[:most])
            if len(finding.names) > most:
                yield f"      and {len(finding.names) - most:,} more"


def check(
    source: str,
    *,
    decode: bool = False,
    broken_is_fault: bool = True,
    whole: bool = True,
    synthetic: SyntheticSettings | None = None,
    progress: Callable[[str, int], Callable[[int], object]] | None = None,
) -> Checked:
    """Return what was found in a source: every file is read, its header or, decoded, its pixels.

    ``whole`` says that it is the public set of its layout, to be compared with the published
    counts, not another set in its layout. ``progress`` is called with the source and the number of
    its crops, and what it returns with the number of those done since its last call.

    That a source cannot be opened is a finding too. Raises `ValueError` for a text that is no
    source, OSError where a store cannot be used.
    """
    source = canonical(source)
    try:
        domain = open_source(source, LoadingSettings(), synthetic or SyntheticSettings())
    except (ValueError, FileNotFoundError) as error:
        return Checked(source, (), [Finding(legible(" ".join(str(error).split())))])
    add = progress(source, crops_in(domain)) if progress else None
    found = scan(domain, decode=None if decode else 0, progress=add)
    full = published(source.partition("=")[0]) if whole else {}
    return Checked(
        source,
        list(_counted(found, full)),
        [
            *_missing(found, full),
            *_broken(found, fault=broken_is_fault),
            *_copied(found),
            *_matchless(found),
            *_alone(found),
            *_crowded(found),
        ],
    )


def published(layout: str, folders: Mapping[str, Layout] = FOLDERS) -> Counts:
    """Return the published counts of a set read by ``layout:options``, as far as there are any.

    A number among the options chooses a split, and all splits of a set are of one size.
    """
    name, _, words = layout.partition(":")
    options = {word for word in words.split(",") if word and not word.isdigit()}
    for way, text in folders[name].counts.items() if name in folders else ():
        if set(filter(None, way.split(","))) == options:
            return {
                part: (int(crops), int(people) if people else None)
                for part, crops, people in _COUNT.findall(text)
            }
    return {}


def _counted(found: Scan, full: Counts) -> Iterator[str]:
    for part, (crops, people, distractors) in _counts(found).items():
        of = f" of {full[part][0]:,}" if part in full else ""
        if not crops and not of:
            continue
        cameras = len(np.unique(found.cameras[found.parts == PARTS.index(part)]))
        more = f", {distractors:,} distractors" if distractors else ""
        yield (
            f"{part}: {crops:,}{of} crops, {people:,} {'identity' if people == 1 else 'identities'}"
            f"{more}, {cameras:,} camera{'s' * (cameras != 1)}"
        )


def _counts(found: Scan) -> dict[str, tuple[int, int, int]]:
    """Return the crops, the people and the crops of distractors of each part."""
    counts = {}
    for number, part in enumerate(PARTS):
        persons = found.persons[found.parts == number]
        people = len(np.unique(persons[persons >= 0]))
        counts[part] = len(persons), people, int((persons < 0).sum())
    return counts


def _missing(found: Scan, full: Counts) -> Iterator[Finding]:
    fewer, more = [], []
    for part, (crops, people, _) in _counts(found).items():
        whole, identities = full.get(part, (crops, None))
        if crops < whole:
            fewer.append(f"{whole - crops:,} {part}")
        elif crops > whole:
            more.append(f"{crops - whole:,} {part}")
        elif identities is not None and people != identities:
            yield Finding(
                f"{people:,} identities in {part}, where the full set has {identities:,}: files "
                "were renamed or replaced; unpack it again"
            )
    for parts, than, do in (
        (fewer, "fewer", "unpack it again"),
        (more, "more", "remove what was added"),
    ):
        if parts:
            yield Finding(
                f"{', '.join(parts)} crops {than} than the full set: {do}, or say --no-counts "
                "if this is another set in its layout"
            )


def _broken(found: Scan, *, fault: bool) -> Iterator[Finding]:
    if found.broken:
        names = [f"{found.name(crop)}: {reason}" for crop, reason in found.broken.items()]
        yield Finding(f"{_many(names, 'broken crop')}: replace or remove", names, fault)


def _copied(found: Scan) -> Iterator[Finding]:
    """Yield what crops of the same bytes come to, the gravest first."""
    leaks, people, cameras, rest = [], [], [], []
    for group in copies(found):
        chosen = list(group)
        learnt = found.parts[chosen] == TRAIN
        if learnt.any() and not learnt.all():
            leaks.append(group)
        elif len(np.unique(found.persons[chosen])) > 1:
            people.append(group)
        elif len(np.unique(found.cameras[chosen])) > 1:
            cameras.append(group)
        else:
            rest.append(group)
    for groups, means, fault in (
        (leaks, "in train and in query or gallery too: a leak", True),
        (people, "with different identities: a labelling mistake", True),
        (cameras, "with different cameras: a labelling mistake", True),
        (rest, "of one identity in one camera", False),
    ):
        if groups:
            names = [
                listed(
                    [
                        f"{found.name(crop)} (id {found.identities[crop]}, c{found.cameras[crop]})"
                        for crop in group
                    ],
                    5,
                )
                for group in groups
            ]
            yield Finding(f"{_many(groups, 'group')} of exact copies {means}", names, fault)


def _matchless(found: Scan) -> Iterator[Finding]:
    names = [found.name(crop) for crop in unmatched(found)]
    if names:
        yield Finding(
            f"{len(names):,} of {(found.parts == 1).sum():,} queries can never match: no other "
            "camera has a gallery crop of their identity",
            names,
        )


def _alone(found: Scan) -> Iterator[Finding]:
    known = people_of(found)
    for where, here in (("train", known.learnt), ("query and gallery", ~known.learnt)):
        alone = known.identities[here & (known.cameras == 1)]
        if len(alone):
            says = f"{len(alone):,} of {here.sum():,} identities in {where} are in one camera only"
            yield Finding(says, [f"id {identity}" for identity in alone], fault=False)


def _crowded(found: Scan) -> Iterator[Finding]:
    # Detectors box a person more than once, so that full public sets have such crops.
    names = [listed([*map(found.name, group)], 5) for group in one_moment(found)]
    if names:
        yield Finding(
            f"{len(names):,} times there is more than one crop of one identity, camera and frame",
            names,
            fault=False,
        )


def _many(things: Sequence[object], name: str) -> str:
    return f"{len(things):,} {name}{'s' * (len(things) != 1)}"
