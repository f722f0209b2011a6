"""The scaling benchmark measures what it says, and says what it is of."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from rayreid.benchmark import scaling
from rayreid.benchmark.scaling import Case, Speed, case_of, measured
from tests.miniature import MINIATURE


def test_two_workers_learn_together_and_exchange() -> None:
    small = {k: v for k, v in MINIATURE.items() if k != "epochs"}
    speed = measured(Case(2, 1), case_of("test_resnet").replaced(small), 1)
    assert speed.images_per_second > 0
    assert 0 <= speed.exchange < 1


def test_the_table_says_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {
        Case(1, 1): Speed(50.0, 0.0),
        Case(2, 1): Speed(80.0, 0.1),
        Case(1, 2): Speed(90.0, 0.0),
    }
    monkeypatch.setattr(scaling, "measured", lambda case, *_: speeds[case])
    monkeypatch.setattr(scaling, "on_ray", lambda workers, *_: [40.0, 70.0][workers - 1])
    monkeypatch.setattr(scaling, "session", lambda **_: nullcontext())
    monkeypatch.setattr(scaling, "nodes", lambda: 2)
    text = scaling.scaling(tmp_path, lambda _: None)
    assert "not of two machines" in text
    assert "Ray Train, 2 node(s)" in text
    assert "1.75" in text
    assert "1.60" in text
    assert "10%" in text
    kept = json.loads((tmp_path / "scaling.json").read_text())["cases"]
    assert kept["ray 2x1"] == {"images_per_second": 70, "nodes": 2}
    assert kept["2x1"] == {"images_per_second": 80, "exchange": 0.1}
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_of_ray_train_tells_its_speed() -> None:
    small = {k: v for k, v in MINIATURE.items() if k != "epochs"}
    assert scaling.on_ray(1, case_of("test_resnet").replaced(small), 1) > 0
