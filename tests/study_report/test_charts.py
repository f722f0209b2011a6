"""Charts: places of values, and the trials that none beats."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.study_report.axes import Axis, Choices, short
from rayreid.study_report.charts import curves, history, pareto, scale, slices, times, unbeaten
from rayreid.study_report.parallel import parallel
from rayreid.study_report.record import Trial, read_study
from rayreid.study_report.timeline import share_outside, timeline
from tests.study_report import folders

numbers = st.floats(1e-6, 1e6)


@given(st.lists(numbers, min_size=1, max_size=8), st.booleans())
def test_an_axis_holds_its_values_in_order_and_its_ticks(values: list[float], log: bool) -> None:
    axis = Axis.over(values, 10.0, 110.0, log=log)
    places = [axis(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10 <= place <= 110 for place in places)
    assert all(axis.low * (1 - 1e-9) <= tick <= axis.high * (1 + 1e-9) for tick in axis.ticks())
    assert len(axis.ticks(5)) <= 14


def test_an_axis_by_magnitude_gives_each_decade_the_same_room() -> None:
    axis = Axis(1e-4, 1e-1, 0.0, 300.0, log=True)
    assert [axis(v) for v in (1e-4, 1e-3, 1e-2, 1e-1)] == pytest.approx([0, 100, 200, 300])
    assert axis.ticks(4) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert Axis(0.0, 1.0, 0, 1).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert [short(v) for v in (0.12345, 3, 2.0, "pair", True)] == [
        "0.123",
        "3",
        "2",
        "pair",
        "True",
    ]


def marks(svg: str, kind: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<circle class="{kind}"[^>]*cx="([\d.]+)" cy="([\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_the_line_of_the_best_rises_with_the_trials_that_ended(tmp_path: Path) -> None:
    study = read_study(folders.write(tmp_path / "s", folders.rows(9, crash=5)))
    svg = history(study)
    ended, stopped = marks(svg, "ended"), marks(svg, "stopped")
    assert (len(ended), len(stopped), svg.count('class="crashed"')) == (5, 3, 1)
    best = re.findall(r'class="sofar" points="([^"]*)"', svg)[0]
    heights = [float(point.split(",")[1]) for point in best.split()]
    # Upwards is less in SVG.
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == min(y for _, y in ended)
    assert heights[0] == ended[0][1], "trial 1 was the first best"


def test_a_curve_ends_where_its_trial_was_stopped(tmp_path: Path) -> None:
    study = read_study(folders.write(tmp_path / "s", folders.rows(6)))
    lines = re.findall(r'<polyline class="curve (\w+)" data-trial="(\d)" points="([^"]*)"',
                       curves(study))  # fmt: skip
    points = {int(number): len(points.split()) for _, number, points in lines}
    assert points == {1: 5, 2: 5, 3: 2, 4: 5, 5: 5, 6: 2}
    assert lines[-1][0] == "best"
    assert int(lines[-1][1]) == study.ended[0].number


def test_settings_are_laid_out_as_they_were_searched(tmp_path: Path) -> None:
    study = read_study(folders.write(tmp_path / "s", folders.rows(6)))
    rate, site = (scale(study, path, 0.0, 1.0) for path in list(folders.SPACE)[:2])
    assert isinstance(rate, Axis)
    assert rate.low <= 0 < 0.7 <= rate.high
    assert not rate.log
    assert isinstance(site, Choices)
    assert site.names == ["pair", "instance_shared", "trunk"]
    lr = scale(study, "optimiser.lr", 0.0, 1.0)
    assert isinstance(lr, Axis)
    assert lr.log
    without = sum("config.dropout_warmup_epochs" not in t.settings for t in study.trials)
    drawn = slices(study)
    assert drawn[2].count("<circle") == 6 - without
    threads = parallel(study)
    assert threads.count('class="thread') == 6
    assert ("not active" in threads) == (without > 0)


def test_none_beats_what_is_on_the_front() -> None:
    generator = np.random.default_rng(0)
    trials = [
        Trial(n, "ended", {}, [{"epoch": 1, "mean_mAP": m, "cost_us_per_pair": c}])
        for n, (m, c) in enumerate(generator.integers(0, 6, (40, 2)) / 10)
    ]
    front = {t.number for t in unbeaten(trials)}
    for t in trials:
        beaten = False
        for o in trials:
            as_good = o.last("mean_mAP") >= t.last("mean_mAP")
            as_cheap = o.last("cost_us_per_pair") <= t.last("cost_us_per_pair")
            better = o.last("mean_mAP") > t.last("mean_mAP") or o.last("cost_us_per_pair") < t.last(
                "cost_us_per_pair"
            )
            beaten |= as_good and as_cheap and better
        assert (t.number in front) == (not beaten)


def test_measured_costs_are_drawn(tmp_path: Path) -> None:
    rows = [{**row, "cost_us_per_pair": 1.0 + row["trial"]} for row in folders.rows(6)]
    study = read_study(folders.write(tmp_path / "s", rows))
    front = unbeaten(study.ended)
    assert len(marks(pareto(study), "best")) == len(front)
    assert len(marks(pareto(study), "stopped")) == len(study.ended) - len(front)


def test_the_timeline_has_a_bar_an_epoch(tmp_path: Path) -> None:
    study = read_study(folders.write(tmp_path / "s", folders.rows(6)))
    assert timeline(study).count("<rect") == 4 * 5 + 2 * 2
    assert times(study).count("learning 20.0 s") == 4
    outside = share_outside(study.trials)
    assert outside is not None
    there, busy, share = outside
    # 3 + 5 seconds an epoch, less a tenth before the last report; 4.5 of an epoch are work.
    assert there == pytest.approx(4 * 27.9 + 2 * 12.9)
    assert busy == pytest.approx(24 * 4.5)
    assert share == pytest.approx(1 - busy / there)
