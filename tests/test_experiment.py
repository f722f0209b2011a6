from pathlib import Path

import pytest

from rayreid.data.storage import Storage, below, canonical_address
from rayreid.data.views import ViewSettings
from rayreid.experiment import compose, load_assignments, load_experiment
from rayreid.methods import METHODS
from tests.store import ObjectStore

SNOW = {"sources": ["synthetic=snow"]}


def test_later_layers_win() -> None:
    recipe = METHODS["gmn"].recipe["optimiser.lr"]
    assert compose("gmn", SNOW).optimiser.lr == recipe
    assert compose("gmn", SNOW, {"optimiser.lr": 1}, {"optimiser.lr": 2}).optimiser.lr == 2


def test_an_experiment_survives_its_file(tmp_path: Path) -> None:
    made = compose("gmn", SNOW, {"config.dropout_rate": 0.25, "seed": 3})
    made.save(tmp_path / "experiment.yaml")
    assert load_experiment(tmp_path / "experiment.yaml") == made
    again = compose("gmn", load_assignments(tmp_path / "experiment.yaml"))
    assert again == made
    assert again.fingerprint == made.fingerprint


def test_settings_are_read_from_a_store(object_store: ObjectStore, tmp_path: Path) -> None:
    made = compose("gmn", SNOW, {"seed": 3})
    made.save(tmp_path / "best.yaml")
    address = canonical_address(object_store.address("study"))
    Storage(address).upload(tmp_path / "best.yaml", "best.yaml")
    assert compose("gmn", load_assignments(below(address, "best.yaml"))) == made
    with pytest.raises(FileNotFoundError, match=r"study/absent\.yaml"):
        load_assignments(below(address, "absent.yaml"))
    with pytest.raises(ValueError, match="is a whole bucket, not a file"):
        load_assignments("s3://bucket")
    Storage(address).write("much.yaml", b"#" * 2_000_000)
    with pytest.raises(ValueError, match="2,000,000 bytes, more than"):
        load_assignments(below(address, "much.yaml"))


def test_replaced_changes_what_it_names_and_the_fingerprint() -> None:
    made = compose("gmn", SNOW)
    other = made.replaced({"config.dropout_rate": 0.25})
    assert other.config.dropout_rate == 0.25
    assert other.fingerprint != made.fingerprint
    assert other.replaced({"config.dropout_rate": made.config.dropout_rate}) == made


def test_how_it_is_computed_is_no_part_of_the_fingerprint() -> None:
    made = compose("gmn", SNOW)
    compiled = made.replaced({"compile": True})
    assert compiled.compile
    assert compiled.fingerprint == made.fingerprint
    assert made.replaced({"precision": "fp32"}).fingerprint != made.fingerprint


def test_paths_of_sources_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = compose("gmn", {"sources": ["market1501=here"]})
    assert made.sources == (f"market1501={tmp_path / 'here'}",)


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (
            {"config.dropout_rat": 0.5},
            "there is no setting 'config.dropout_rat'; did you mean 'dropout_rate'",
        ),
        ({"config.dropout_rate": 1.5}, "dropout_rate"),
        ({"trunk.nme": "x"}, "there is no setting 'trunk.nme'; did you mean 'name'"),
        ({"sources": []}, "setting 'sources'"),
        ({"sources": ["snow"]}, "'snow' is not a data set; write layout=location"),
        ({"sources": ["coco=x"]}, "there is no layout 'coco'"),
        ({"sources": ["synthetic=snow", "synthetic=snow"]}, "two sources are called 'snow'"),
        ({"config": 3}, "holds 3, not settings by name"),
    ],
)
def test_a_mistake_is_said(assignments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compose("gmn", SNOW, assignments)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    with pytest.raises(FileNotFoundError, match=str(path)):
        load_experiment(path)
    path.write_text("method: gnm\n")
    with pytest.raises(ValueError, match=f"{path}: .*did you mean 'gmn'"):
        load_experiment(path)


def test_a_preset_of_views_lies_above_the_recipe_and_below_what_is_set() -> None:
    made = compose("gmn", SNOW, {"views.preset": "none"})
    assert made.views == ViewSettings(preset="none")
    changed = made.replaced({"views.preset": "qaconv", "views.hue": 0.0})
    assert changed.views == ViewSettings(preset="qaconv", hue=0.0)
