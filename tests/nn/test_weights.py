"""Files of weights: what is read, and what is refused in one sentence."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rayreid.nn.trunk import Trunk, TrunkSettings
from rayreid.nn.weights import load_weights, read_weights

IMAGES = torch.rand(2, 3, 64, 32)


@pytest.fixture
def one() -> Trunk:
    torch.manual_seed(1)
    return Trunk(TrunkSettings(name="test_resnet")).eval()


def trunk_of(path: Path, **settings: object) -> Trunk:
    torch.manual_seed(2)
    values = {"name": "test_resnet", "weights": str(path), **settings}
    return Trunk(TrunkSettings.model_validate(values)).eval()


def plain(state: dict[str, Tensor]) -> object:
    return state


def wrapped(state: dict[str, Tensor]) -> object:
    return {"state_dict": state, "epoch": 90, "best": 0.7}


def of_ddp(state: dict[str, Tensor]) -> object:
    return {f"module.{name}": value for name, value in state.items()}


def with_a_classifier(state: dict[str, Tensor]) -> object:
    return {**state, "fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}


def without_counters(state: dict[str, Tensor]) -> object:
    return {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}


def wrapped_of_ddp(state: dict[str, Tensor]) -> object:
    return {"state_dict": of_ddp(state)}


KINDS = [plain, wrapped, of_ddp, with_a_classifier, without_counters, wrapped_of_ddp]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [False, True])
def test_a_state_dict_is_read(tmp_path: Path, one: Trunk, kind: object, old: bool) -> None:
    assert callable(kind)
    path = tmp_path / "trunk.pth"
    torch.save(kind(one.net.state_dict()), path, _use_new_zipfile_serialization=not old)
    assert torch.equal(trunk_of(path)(IMAGES), one(IMAGES))


@pytest.mark.parametrize("kind", [plain, of_ddp, with_a_classifier, without_counters])
def test_safetensors_are_read(tmp_path: Path, one: Trunk, kind: object) -> None:
    assert callable(kind)
    save_file(kind(one.net.state_dict()), tmp_path / "trunk.safetensors")
    assert torch.equal(trunk_of(tmp_path / "trunk.safetensors")(IMAGES), one(IMAGES))


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_cut_trunk_takes_its_own_weights_and_those_of_the_whole(
    tmp_path: Path, one: Trunk, stages: int
) -> None:
    save_file(one.net.state_dict(), tmp_path / "whole.safetensors")
    cut = trunk_of(tmp_path / "whole.safetensors", stages=stages)
    save_file(cut.net.state_dict(), tmp_path / "cut.safetensors")
    again = trunk_of(tmp_path / "cut.safetensors", stages=stages)
    assert torch.equal(again(IMAGES), cut(IMAGES))


class Code:
    """What a pickle can do to who reads it."""

    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.victim,)  # type: ignore[return-value]


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r"trunk\.weights: ") as caught:
        trunk_of(path)
    (line,) = str(caught.value).splitlines()
    assert str(path) in line
    return line


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("kind", ["zip", "old", "pickle"])
def test_code_is_refused_and_never_run(tmp_path: Path, one: Trunk, within: bool, kind: str) -> None:
    path, victim = tmp_path / "trunk.pth", tmp_path / "victim"
    content = {**one.net.state_dict(), "more": Code(victim)} if within else Code(victim)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    assert "holds more than tensors" in refusal(path)
    assert not victim.exists()
    if kind == "pickle" and not within:
        pickle.loads(path.read_bytes())
        assert victim.exists(), "read without care, it runs"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_damaged_file_is_named(tmp_path: Path, one: Trunk, old: bool, share: float) -> None:
    path = tmp_path / "trunk.pth"
    torch.save(one.net.state_dict(), path, _use_new_zipfile_serialization=not old)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "is damaged" in refusal(path)
    path = tmp_path / "trunk.safetensors"
    save_file(one.net.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "is not a safetensors file" in refusal(path)


@pytest.mark.parametrize("text", [b"not tensors", b"<html>404</html>"])
def test_text_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "trunk.pt").write_bytes(text)
    assert "is not a plain state dict" in refusal(tmp_path / "trunk.pt")


@pytest.mark.parametrize("content", [torch.zeros(2), [torch.zeros(2)], {"epoch": 3}, {"a": [1]}])
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "trunk.pt")
    assert "holds no state dict of tensors by name" in refusal(tmp_path / "trunk.pt")


@pytest.mark.parametrize("name", ["trunk.pth", "trunk.safetensors", "."])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"trunk.weights: there is no file") as caught:
        read_weights(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_what_is_missing_or_of_another_shape_is_named() -> None:
    net, path = nn.Linear(2, 3), Path("file.pth")
    with pytest.raises(ValueError, match=r"file.pth lacks 1 tensors of .* among them 'bias'"):
        load_weights(net, {"weight": torch.zeros(3, 2)}, path)
    state = {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"'weight' of shape \(2, 3\), this trunk of \(3, 2\)"):
        load_weights(net, state, path)
