"""Settings of a study: what does not go together is said in a sentence."""

from pathlib import Path

import pytest

from rayreid.search_space import parse_space
from rayreid.settings import checked
from rayreid.tune import StudySettings
from rayreid.tune.samplers import refuse_unless_sampled


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sampler": "cmaes", "objective": "mean+cost"}, "cmaes follows one objective"),
        ({"sampler": "tpes"}, "setting 'sampler': input should be 'tpe'.*found 'tpes'"),
        ({"objective": "best"}, "setting 'objective': input should be 'mean'"),
        ({"stopping": "hyperband"}, "setting 'stopping'"),
        ({"selection": "test"}, "setting 'selection': input should be 'sources' or 'target'"),
        ({"storage": "results"}, "'results' is no URL of a data base"),
        ({"storage": "sqlite://"}, "keeps nothing"),
        ({"storage": "postgresql://me:secret@host/db"}, "holds a password"),
        ({"storage": "postgresql://host/db?password=secret"}, "holds a password"),
    ],
)
def test_a_mistake_is_a_sentence(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        checked(StudySettings, values)
    assert "secret" not in str(error.value)


def test_a_file_of_a_storage_is_one_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert StudySettings(storage="sqlite:///a.db").storage == f"sqlite:///{tmp_path}/a.db"
    assert StudySettings(storage="postgresql://me@host/db").storage == "postgresql://me@host/db"


def test_cmaes_searches_numbers_that_always_exist() -> None:
    settings = StudySettings(sampler="cmaes")
    numbers = {"a": {"float": {"low": 0, "high": 1}}, "b": {"int": {"low": 0, "high": 9}}}
    refuse_unless_sampled(settings, parse_space(numbers))
    chosen = numbers | {"c": {"categorical": {"choices": ["x", "y"]}}}
    with pytest.raises(ValueError, match="numbers alone, and c are chosen from lists"):
        refuse_unless_sampled(settings, parse_space(chosen))
    conditional = numbers | {"c": {"int": {"low": 0, "high": 1}, "when": {"b": [3]}}}
    with pytest.raises(ValueError, match="this space has conditions"):
        refuse_unless_sampled(settings, parse_space(conditional))
    refuse_unless_sampled(StudySettings(sampler="nsga2"), parse_space(chosen))
