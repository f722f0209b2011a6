"""Who is seen where, and what is in a domain twice: counted from its scan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from rayreid.data.scanning import GALLERY, QUERY, TRAIN, Scan


@dataclass(frozen=True, eq=False)
class People:
    """The people of a domain, by their number in `Scan.persons`."""

    identities: Int64[np.ndarray, " p"]
    learnt: Bool[np.ndarray, " p"]
    """Whether they are in the training part."""
    crops: Int64[np.ndarray, " p"]
    """How many there are of each."""
    cameras: Int64[np.ndarray, " p"]
    """How many cameras see each."""

    def __len__(self) -> int:
        """Return the number of people."""
        return len(self.identities)


def people_of(scan: Scan) -> People:
    """Return the people of a domain; distractors are nobody."""
    known = scan.persons >= 0
    persons = scan.persons[known]
    _, first, crops = np.unique(persons, return_index=True, return_counts=True)
    seen = np.unique(np.stack([persons, scan.cameras[known]]), axis=1)[0]
    return People(
        scan.identities[known][first],
        scan.parts[known][first] == TRAIN,
        crops,
        np.bincount(seen, minlength=len(first)),
    )


def copies(scan: Scan) -> list[tuple[int, ...]]:
    """Return the groups of crops whose bytes are the same, in order of their first."""
    order = np.argsort(scan.digests, kind="stable")
    order = order[scan.digests[order] != b""]
    ends = np.flatnonzero(scan.digests[order][1:] != scan.digests[order][:-1]) + 1
    groups = (tuple(group.tolist()) for group in np.split(order, ends))
    return sorted(group for group in groups if len(group) > 1)


def one_moment(scan: Scan) -> Iterator[tuple[int, ...]]:
    """Yield the crops of one person by one camera at one time; nothing where no times are told."""
    if scan.times is None:
        return
    known = np.flatnonzero(scan.persons >= 0)
    moments: dict[tuple[int, int, float], list[int]] = {}
    columns = (scan.persons[known], scan.cameras[known], scan.times[known])
    for crop, *moment in zip(known.tolist(), *(c.tolist() for c in columns), strict=True):
        moments.setdefault((moment[0], moment[1], moment[2]), []).append(crop)
    yield from (tuple(crops) for crops in moments.values() if len(crops) > 1)


def unmatched(scan: Scan) -> list[int]:
    """Return the queries of whose person no other camera has a gallery crop: none can match."""
    seen: dict[int, set[int]] = {}
    gallery = scan.parts == GALLERY
    for person, camera in zip(scan.persons[gallery], scan.cameras[gallery], strict=True):
        seen.setdefault(int(person), set()).add(int(camera))
    return [
        crop
        for crop in np.flatnonzero(scan.parts == QUERY).tolist()
        if not seen.get(int(scan.persons[crop]), set()) - {int(scan.cameras[crop])}
    ]


def listed(names: Sequence[str], most: int) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
