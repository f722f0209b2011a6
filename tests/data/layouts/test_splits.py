from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts.splits import (
    DRAWS,
    SPLITS,
    chosen_split,
    lots,
    numbered,
    one_each,
    published,
    ten_splits,
)


@pytest.mark.parametrize("name", DRAWS)
def test_a_published_file_is_its_drawing(name: str) -> None:
    file = files("rayreid.data.layouts").joinpath("splits", f"{name}.json")
    assert file.read_text("utf-8") == published(name)


@pytest.mark.parametrize("name", DRAWS)
def test_splits_are_ten_choices_of_people(name: str) -> None:
    splits = ten_splits(name)
    assert len(splits) == len(set(splits)) == SPLITS == 10
    for tested in splits:
        assert len(tested) == DRAWS[name].tested
        assert tested < set(range(1, DRAWS[name].people + 1))
    # Chosen at random, some people are tested more often than others.
    times = np.bincount([person for tested in splits for person in tested])[1:]
    assert len(times) == DRAWS[name].people
    assert abs(times.mean() - 10 * DRAWS[name].tested / DRAWS[name].people) < 1e-9
    assert 0.5 < times.std() < 3


def test_lots_are_what_they_were() -> None:
    # Published splits rest on these: a numpy that draws others must not go unseen.
    assert lots(2, 1).tolist() == [9441442522235856127, 17532960557476522086]
    assert lots(2, 1, 2).tolist() == [8271799387826207682, 7948369750201702571]
    assert lots(3, 7)[:2].tolist() == lots(2, 7).tolist()


def test_one_split_is_chosen() -> None:
    assert chosen_split(frozenset()) == 1
    assert chosen_split(frozenset({"swapped"})) == 1
    assert chosen_split(frozenset({"swapped", "10"})) == 10
    with pytest.raises(ValueError, match="splits 2 and 10 are asked for"):
        chosen_split(frozenset({"10", "2"}))


def test_people_are_numbered_in_order() -> None:
    people = [*range(0, 1240, 20), 5000, 4000, 6000, 7000, 9000, 8000, 20000, 10000, 20]
    numbers = numbered(people, "ward", Path("/data/ward"))
    assert len(numbers) == 70
    assert (numbers[0], numbers[20], numbers[1220], numbers[4000]) == (1, 2, 62, 63)
    assert (numbers[5000], numbers[20000]) == (64, 70)


@pytest.mark.parametrize("count", [0, 69, 71])
def test_missing_people_are_counted(count: int) -> None:
    with pytest.raises(ValueError, match=f"/data/ward shows {count} people, not the 70"):
        numbered(range(count), "ward", Path("/data/ward"))


def test_second_crops_are_named() -> None:
    found = [(Path(f"/x/{name}"), {"identity": name}) for name in ("003", "12")]
    assert one_each(found) == {3: found[0], 12: found[1]}
    with pytest.raises(ValueError, match="/x/3 and 003 show the same person"):
        one_each([*found, (Path("/x/3"), {"identity": "3"})])
