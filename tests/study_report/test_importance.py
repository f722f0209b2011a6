"""Importances on scores whose causes are known."""

from pathlib import Path

from rayreid.study_report.importance import CHANCE, importances
from rayreid.study_report.record import read_study
from tests.study_report import folders


def test_what_causes_the_score_is_above_chance_and_the_rest_is_not(tmp_path: Path) -> None:
    study = read_study(folders.write(tmp_path / "s", folders.rows(24)))
    found = importances(study)
    assert found is not None
    assert found.beyond_chance == ["optimiser.lr"]
    assert next(iter(found.shares)) == "optimiser.lr"
    assert abs(sum(mean for mean, _, _ in found.shares.values()) - 1) < 1e-6
    assert CHANCE in found.shares
    assert found.left_out == ("config.dropout_warmup_epochs",), "some trials did not have it"
    assert (found.epoch, found.trials) == (2, 24), "the stopped ones count, at their epoch"


def test_too_few_trials_or_no_difference_say_nothing(tmp_path: Path) -> None:
    assert importances(read_study(folders.write(tmp_path / "a", folders.rows(5)))) is None
    alike = [{**row, "mean_mAP": 0.25} for row in folders.rows(12)]
    assert importances(read_study(folders.write(tmp_path / "b", alike))) is None
    assert importances(read_study(folders.write(tmp_path / "c", []))) is None
