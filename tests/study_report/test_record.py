"""What is read of a study's folder."""

from pathlib import Path

import numpy as np
import pytest

from rayreid.study_report.record import looked_at, read_study
from tests.study_report import folders


def test_a_trials_history_is_its_rows(tmp_path: Path) -> None:
    rows = folders.rows(6)
    repeated = {**rows[0], "mean_mAP": 0.5, "attempt": 1}
    study = read_study(folders.write(tmp_path / "s", [*rows, repeated]))
    assert [t.number for t in study.trials] == [1, 2, 3, 4, 5, 6]
    assert [t.state for t in study.trials] == ["ended", "ended", "stopped"] * 2
    first, third = study.of(1), study.of(3)
    assert (first.epoch, third.epoch) == (5, 2)
    assert first.at(1, "mean_mAP") == 0.5, "of an epoch that was repeated, the last"
    assert np.isnan(third.at(3, "mean_mAP"))
    assert first.total("seconds_learning") == 20.0
    assert first.total("seconds_setup") == 2.5
    inactive = [t for t in study.trials if t.settings["config.dropout_site"] == "trunk"]
    assert inactive, "the seed draws one"
    assert all("config.dropout_warmup_epochs" not in t.settings for t in inactive)
    assert study.domains == list(folders.DOMAINS)


def test_a_trial_that_crashed_at_once_has_no_epochs(tmp_path: Path) -> None:
    rows = folders.rows(2)
    crashed = dict.fromkeys(rows[0], None) | {"trial": 3, "state": "crashed", "epoch": 0}
    study = read_study(folders.write(tmp_path / "s", [*rows, crashed]))
    assert study.of(3).rows == []
    assert study.of(3).epoch == 0
    assert np.isnan(study.of(3).last("mean_mAP"))


def test_the_best_is_the_final_stages_not_the_searchs(tmp_path: Path) -> None:
    rows = folders.rows(5)
    searched = read_study(folders.write(tmp_path / "a", rows))
    assert searched.best == max(
        (t for t in searched.trials if t.ended), key=lambda t: t.last("mean_mAP")
    )
    other = next(t.number for t in searched.ended[::-1])
    final = folders.finals({searched.ended[0].number: 0.0, other: 0.1})
    assert read_study(folders.write(tmp_path / "b", rows, final=final)).best == searched.of(other)


def test_a_folder_without_a_study_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no study in .*it has no study\.yaml"):
        read_study(tmp_path)
    (tmp_path / "study.yaml").write_text("space: {}\n")
    with pytest.raises(ValueError, match="has no folds, experiment"):
        read_study(tmp_path)


def test_a_look_is_told_of_its_own_target_alone(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "s", folders.rows(2), looked=folders.target())
    said = looked_at(folder)
    assert said is not None
    assert "looked at on 2026-01-02T03:04:05+00:00" in said
    assert str(folder / "target.json") in said
    assert looked_at(folder, "market1501=/data/Market-1501") == said
    assert looked_at(folder, "market1501=/data/../data/Market-1501/") == said
    assert looked_at(folder, "market1501=/data/other") is None
    assert looked_at(folders.write(tmp_path / "t", folders.rows(2))) is None
    (tmp_path / "target.json").write_text("[]")
    assert looked_at(tmp_path) is None, "somebody's own file, in a folder that is no study"
