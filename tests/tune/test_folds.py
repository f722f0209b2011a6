"""What a study opens, and that the target is not among it."""

from pathlib import Path

import pytest

import rayreid.run
from rayreid.data.sources import open_source
from rayreid.experiment import compose
from rayreid.protocols import Fold
from rayreid.search_space import parse_space
from rayreid.tune import StudySettings, study
from rayreid.tune.folds import folds_of, open_folds
from tests.miniature import MINIATURE

SNOW, SUBWAY = MINIATURE["sources"]
SPACE = parse_space({"config.margin": {"float": {"low": 0.0, "high": 1.0}}})
ON_TARGET = StudySettings(selection="target")


def test_folds_are_of_the_sources_alone(forbidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def watch(source: str, *settings: object) -> object:
        opened.append(source)
        return open_source(source, *settings)

    monkeypatch.setattr(rayreid.run, "open_source", watch)
    made = compose("baseline", MINIATURE)
    folds = folds_of(made, StudySettings(), forbidden)
    assert folds == [Fold((SUBWAY,), SNOW), Fold((SNOW,), SUBWAY)]
    assert set(open_folds(made, folds)) == set(opened) == {SNOW, SUBWAY}


def test_selecting_on_the_target_needs_the_word_and_the_target(forbidden: str) -> None:
    made = compose("baseline", MINIATURE)
    with pytest.raises(ValueError, match="selection=target ranks trials on the target; name it"):
        folds_of(made, ON_TARGET, None)
    with pytest.raises(ValueError, match="is the target and a source"):
        folds_of(made, ON_TARGET, SNOW)
    folds = folds_of(made, ON_TARGET, forbidden)
    assert folds == [Fold((SNOW, SUBWAY), forbidden)]
    # And then it is opened, by the reader that the other tests trust to raise.
    with pytest.raises(PermissionError, match="was opened"):
        open_folds(made, folds)


def test_a_study_on_the_target_opens_it_before_anything_begins(
    tmp_path: Path, forbidden: str
) -> None:
    made = compose("baseline", MINIATURE)
    with pytest.raises(PermissionError, match="was opened"):
        study(made, SPACE, tmp_path / "s", ON_TARGET, target=forbidden, tell=print)
    assert not (tmp_path / "s").exists()
