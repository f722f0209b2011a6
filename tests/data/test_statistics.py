"""Statistics: the same as loops count them."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayreid.batch import Domain
from rayreid.data.scanning import scan
from rayreid.data.statistics import copies, listed, one_moment, people_of, unmatched
from tests.data.folders import crops, domain

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(0, 2)), max_size=12)


def labelled(*parts: list[tuple[int, int, int]]) -> Domain:
    """Make a domain of (identity, camera, picture); the picture is also the time."""
    made = []
    for labels in parts:
        rows = np.array(labels, np.int64).reshape(-1, 3)
        pixels = np.broadcast_to(
            rows[:, 2].astype(np.uint8)[:, None, None, None], (len(rows), 16, 16, 3)
        )
        made.append(crops(np.array(pixels), rows[:, 0].tolist(), rows[:, 1].tolist(),
                          rows[:, 2].astype(float).tolist()))  # fmt: skip
    return domain(*made)


@given(LABELS, LABELS, LABELS)
def test_counted_as_loops_count(train: list[tuple[int, int, int]],
                                query: list[tuple[int, int, int]],
                                gallery: list[tuple[int, int, int]]) -> None:  # fmt: skip
    found = scan(labelled(train, query, gallery), decode=0)
    looked_for = {identity for identity, _, _ in query}
    rows = [("learnt", *row) for row in train] + [("tested", *row) for row in query]
    rows += [("tested" if i or 0 in looked_for else "nobody", i, c, t) for i, c, t in gallery]

    known = people_of(found)
    number: Counter[tuple[str, int]] = Counter((where, i) for where, i, _, _ in rows)
    cameras = defaultdict(set)
    for where, identity, camera, _ in rows:
        cameras[where, identity].add(camera)
    people = sorted((where, i) for where, i in number if where != "nobody")
    names = ["learnt" if learnt else "tested" for learnt in known.learnt]
    assert list(zip(names, known.identities.tolist(), strict=True)) == people
    assert known.crops.tolist() == [number[person] for person in people]
    assert known.cameras.tolist() == [len(cameras[person]) for person in people]

    same = defaultdict(list)
    for crop, (*_, picture) in enumerate(rows):
        same[picture].append(crop)
    assert copies(found) == sorted(tuple(group) for group in same.values() if len(group) > 1)

    moments = defaultdict(list)
    for crop, row in enumerate(rows):
        if row[0] != "nobody":
            moments[row].append(crop)
    assert sorted(one_moment(found)) == sorted(tuple(m) for m in moments.values() if len(m) > 1)

    assert unmatched(found) == [
        len(train) + q
        for q, (identity, camera, _) in enumerate(query)
        if not any(i == identity and c != camera for i, c, _ in gallery)
    ]


def test_without_times_there_are_no_moments() -> None:
    pixels = np.zeros((3, 16, 16, 3), np.uint8)
    timed, untimed = crops(pixels, [1, 1, 1], [1, 1, 1], [0, 0, 1]), crops(pixels, [1] * 3, [1] * 3)
    assert list(one_moment(scan(domain(timed)))) == [(0, 1)]
    assert list(one_moment(scan(domain(untimed)))) == []
    assert list(one_moment(scan(domain(timed, timed, untimed)))) == []


def test_distractors_of_one_moment_are_not_one_person() -> None:
    found = scan(labelled([], [(1, 1, 0)], [(0, 2, 5), (0, 2, 5), (1, 2, 5), (1, 2, 5)]))
    assert list(one_moment(found)) == [(3, 4)]
    assert people_of(found).crops.tolist() == [3]


def test_what_cannot_be_read_is_no_copy_of_another(tmp_path: object) -> None:
    from pathlib import Path

    files = [Path(str(tmp_path)) / name for name in ("absent", "gone")]
    assert copies(scan(domain(crops(files, [1, 2], [1, 1])))) == []


def test_lists_are_cut_off() -> None:
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert all(
        len(listed(["x"] * n, 3)) <= len(listed(["x"] * m, 3)) for n, m in pairwise(range(9))
    )
