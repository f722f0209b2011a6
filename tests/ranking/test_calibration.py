import json
from pathlib import Path
from typing import Any

import pytest

from rayreid.ranking.calibration import CALIBRATION, Calibration, Distributions
from rayreid.ranking.thresholds import NotEnough, PairThreshold, SearchRate, SearchTable


def pair(rate: float, threshold: float) -> PairThreshold:
    return PairThreshold(
        false_accept_rate=rate,
        threshold=threshold,
        threshold_bounds=(threshold - 0.1, threshold + 0.1),
        measured=rate,
        bounds=(rate / 2, rate * 2),
        people_bounds=(rate / 3, rate * 3),
        true_accept_rate=0.7,
        true_accept_bounds=(0.6, 0.8),
        true_accept_people_bounds=None,
    )


SEARCH = SearchTable(
    sizes=(1, 10, 100),
    rates=(
        SearchRate(rate=0.1, thresholds=(0.3, 0.5, 0.6), people_bounds=(0.05, 0.2), identified=0.8),
        SearchRate(rate=0.01, thresholds=(0.5, 0.7, None), people_bounds=None, identified=None),
    ),
    stricter=((0.02, 0.75), (0.05, 0.65), (0.1, 0.6)),
    searches=500,
    samples=2.5,
    review=0.4,
)


def calibration(**changed: Any) -> Calibration:
    values: dict[str, Any] = {
        "method": "gmn",
        "fingerprint": "weights",
        "preprocessing": "pixels",
        "source": "synthetic=law-1",
        "data": "abc",
        "genuine": 300,
        "impostors": 20_000,
        "people": 40,
        "directions": "one",
        "pairs": (
            pair(0.1, 0.2),
            pair(0.01, 0.6),
            NotEnough(rate=1e-4, found=20_000, needed=100_000),
        ),
        "review": 0.4,
        "search": SEARCH,
        "distributions": Distributions(edges=(0, 1), genuine=(1,), impostor=(1,)),
        "written": "2026-01-01",
    }
    return Calibration(**values | changed)


def test_a_score_matches_above_the_threshold_and_is_looked_at_between_the_two() -> None:
    found = calibration().pair_decision([0.61, 0.6, 0.41, 0.4, -3.0], 0.01)
    assert found.decisions == ["match", "review", "review", "no_match", "no_match"]
    assert (found.match, found.review, found.reason) == (0.6, 0.4, "")


def test_where_most_pairs_of_one_person_score_above_the_threshold_nothing_is_for_review() -> None:
    # At a tenth the threshold is 0.2: 0.3 matches, though few pairs of one person score it.
    for known in (calibration(), calibration(review=None)):
        found = known.pair_decision([0.3, 0.2], 0.1)
        assert found.decisions == ["match", "no_match"]
        assert found.review is None


def test_too_few_impostors_decide_nothing_and_say_so() -> None:
    found = calibration().pair_decision([9.0, -9.0], 1e-4)
    assert found.decisions == ["uncalibrated"] * 2
    assert found.match is found.review is None
    assert "not enough impostor pairs" in found.reason


def test_rates_that_were_not_asked_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rate of 0.5; there are 0.1, 0.01, 0.0001"):
        calibration().pair_decision([0.0], 0.5)
    with pytest.raises(ValueError, match=r"rate of 0.5; there are 0.1, 0.01"):
        calibration().search_threshold(5, 0.5)
    with pytest.raises(ValueError, match="without people to search for"):
        calibration(search=None).search_threshold(5, 0.1)


@pytest.mark.parametrize(
    ("enrolled", "rate", "threshold", "extrapolated"),
    [(0, 0.1, 0.3, False), (1, 0.1, 0.3, False), (2, 0.1, 0.5, False), (100, 0.1, 0.6, False),
     (101, 0.1, 0.65, True), (200, 0.1, 0.65, True), (201, 0.1, 0.75, True),
     (500, 0.1, 0.75, True)],
)  # fmt: skip
def test_a_gallery_has_the_threshold_of_the_next_larger_one_measured_or_of_a_stricter_rate(
    enrolled: int, rate: float, threshold: float, extrapolated: bool
) -> None:
    found = calibration().search_threshold(enrolled, rate)
    assert not isinstance(found, NotEnough)
    assert (found.threshold, found.extrapolated) == (threshold, extrapolated)
    decided = calibration().search_decision([threshold + 0.01, threshold], enrolled, rate)
    below = "review" if threshold > 0.4 else "no_match"
    assert decided.decisions == ["match", below]


@pytest.mark.parametrize(("enrolled", "rate"), [(501, 0.1), (100, 0.01), (10_000, 0.01)])
def test_a_gallery_too_large_for_the_searches_at_hand_is_not_decided(
    enrolled: int, rate: float
) -> None:
    found = calibration().search_decision([9.0], enrolled, rate)
    assert found.decisions == ["uncalibrated"]
    assert f"a gallery of {enrolled}" in found.reason


def test_it_is_kept_beside_the_weights_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    kept = calibration()
    assert kept.save(tmp_path) == tmp_path / "best" / CALIBRATION
    for folder in (tmp_path, tmp_path / "best"):
        assert Calibration.load(folder, fingerprint="weights", preprocessing="pixels") == kept


def test_that_of_other_weights_or_pixels_is_refused(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    with pytest.raises(ValueError, match="of weights with the fingerprint weights, not others"):
        Calibration.load(tmp_path, fingerprint="others")
    with pytest.raises(ValueError, match="of a preprocessing with the fingerprint pixels"):
        Calibration.load(tmp_path, fingerprint="weights", preprocessing="others")


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file | {"thresold": 1},
        lambda file: file | {"review": float("nan")},
        lambda file: file | {"format": 2},
        lambda file: file | {"search": file["search"] | {"sizes": [10, 1, 100]}},
        lambda file: file | {"search": file["search"] | {"stricter": [[0.1, 1.0], [0.05, 2.0]]}},
        lambda file: file | {"search": file["search"] | {"sizes": [1, 10]}},
    ],
)
def test_a_file_that_is_not_as_written_is_refused_in_a_sentence(
    tmp_path: Path, change: Any
) -> None:
    path = calibration().save(tmp_path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=r"is broken .*; calibrate again"):
        Calibration.load(tmp_path)


def test_a_model_without_one_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="rayreid calibrate"):
        Calibration.load(tmp_path)


def test_the_summary_is_plain_and_says_what_can_be_asked() -> None:
    told = json.loads(json.dumps(calibration().summary()))
    assert told["default_false_accept_rate"] == 0.01
    assert told["default_false_positive_identification_rate"] == 0.1
    assert told["search"] == {"rates": [0.1, 0.01], "people": 100}
    assert "takes 100,000" in told["pairs"][2]["reason"]


def test_queries_of_several_crops_and_fuller_galleries_ask_for_more() -> None:
    known = calibration()
    one = known.search_threshold(100, 0.1)
    assert not isinstance(one, NotEnough)
    # Of two crops either may err: each may at half the rate, as at 0.05 against all people.
    two = known.search_threshold(10, 0.1, crops=2)
    assert not isinstance(two, NotEnough)
    assert (two.threshold, two.extrapolated) == (0.65, True)
    assert isinstance(known.search_threshold(10, 0.1, crops=6), NotEnough)
    # 250 crops, 2.5 of each person in the calibration, count as 100 people.
    assert known.search_threshold(20, 0.1, samples=250) == one
    assert known.search_threshold(20, 0.1, samples=50) == known.search_threshold(20, 0.1)
