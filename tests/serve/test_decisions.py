from datetime import UTC, datetime

import numpy as np
import pytest

from rayreid.serve.decisions import decide, decide_search, refuse_unless_calibrated
from rayreid.serve.galleries.records import Binding, Gallery
from rayreid.serve.models import Served
from rayreid.serve.refusals import RefusalError
from tests.ranking.test_calibration import calibration

SCORES = np.array([0.7, 0.5, 0.1], np.float32)


def served(**changed: object) -> Served:
    return Served("m", "gmn", "weights", "pixels", 64, 32, (2,), calibration=calibration(**changed))


def gallery(identities: int, samples: int) -> Gallery:
    binding = Binding("m", "weights", "pixels", (2,))
    return Gallery("g", binding, datetime.now(UTC), 1, identities, samples)


def test_pairs_are_decided_at_the_rate_asked_for_or_the_strictest_known() -> None:
    for rate in (0.01, None):
        found = decide(served(), SCORES, rate)
        assert found.decisions == ["match", "review", "no_match"]
        assert found.thresholds.false_accept_rate == 0.01
        assert (found.thresholds.match, found.thresholds.review) == (0.6, 0.4)
        assert found.thresholds.rate_bounds == pytest.approx((0.01 / 3, 0.03))


def test_without_a_calibration_or_enough_pairs_nothing_is_decided() -> None:
    bare = Served("m", "gmn", "weights", "pixels", 64, 32, (2,))
    for found in (decide(bare, SCORES, 0.01), decide(served(), SCORES, 1e-4)):
        assert found.decisions == ["uncalibrated"] * 3
        assert found.thresholds.match is None
        assert found.thresholds.reason
    refuse_unless_calibrated(bare, 0.3)


def test_a_rate_that_was_not_calibrated_is_refused_before_anything_is_scored() -> None:
    with pytest.raises(RefusalError, match="model 'm': pairs are not calibrated") as refused:
        refuse_unless_calibrated(served(), 0.3)
    assert refused.value.status == 422
    with pytest.raises(RefusalError, match="searches are not calibrated"):
        decide_search(served(), [], gallery(5, 5), 1, 0.3)


def test_searches_are_decided_by_how_many_are_enrolled() -> None:
    few = decide_search(served(), [0.7, 0.55, 0.1], gallery(5, 5), 1, None)
    assert few.decisions == ["match", "match", "no_match"]
    assert few.thresholds.false_positive_identification_rate == 0.1
    many = decide_search(served(), [0.7, 0.55, 0.1], gallery(200, 200), 1, 0.1)
    assert many.decisions == ["match", "review", "no_match"]
    too_many = decide_search(served(), [0.7], gallery(9000, 9000), 1, 0.1)
    assert too_many.decisions == ["uncalibrated"]
    assert "a gallery of 9000" in too_many.thresholds.reason
    unknown = decide_search(served(search=None), [0.7], gallery(5, 5), 1, None)
    assert unknown.decisions == ["uncalibrated"]
