from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayreid.batch import Census
from rayreid.checkpoint import CARD, WEIGHTS, build, load_trained, save_trained, weights_fingerprint
from rayreid.experiment import compose

CENSUS = Census({"snow": 3})
MADE = compose(
    "baseline",
    {"sources": ["synthetic=snow"], "trunk.name": "test_resnet", "trunk.weights": "none"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_trained(tmp_path, MADE, CENSUS, build(MADE, CENSUS).state_dict())
    return tmp_path


def test_loading_asks_no_hub(folder: Path) -> None:
    pretrained = MADE.replaced({"trunk.weights": "timm"})
    save_trained(folder, pretrained, CENSUS, build(MADE, CENSUS).state_dict())
    assert load_trained(folder).experiment.trunk.weights == "timm"


def test_a_fingerprint_is_of_values_names_and_types() -> None:
    weights = {"a": torch.arange(4.0), "b": torch.zeros(2, 2)}
    same = {"b": torch.zeros(2, 2), "a": torch.arange(4.0)}
    assert weights_fingerprint(weights) == weights_fingerprint(same)
    for other in (
        {**weights, "b": torch.zeros(4)},
        {**weights, "a": torch.arange(4.0) + 1e-7},
        {**weights, "b": torch.zeros(2, 2, dtype=torch.int32)},
        {"c": weights["a"], "b": weights["b"]},
    ):
        assert weights_fingerprint(other) != weights_fingerprint(weights)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} is no trained run"):
        load_trained(tmp_path)


def test_what_is_broken_is_named(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is broken"):
        load_trained(folder)
    (folder / WEIGHTS).write_bytes(whole)
    weights = load_file(folder / WEIGHTS)
    weights.pop("neck.norm.weight")
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match="does not fit its experiment"):
        load_trained(folder)
    (folder / WEIGHTS).write_bytes(whole)
    (folder / CARD).write_text("{}")
    with pytest.raises(ValueError, match="is broken"):
        load_trained(folder)
