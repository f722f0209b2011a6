from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rayreid.nn.neck import Neck
from rayreid.nn.trunk import Trunk, TrunkSettings

IMAGES = torch.rand(2, 3, 64, 32)


@pytest.mark.parametrize(("stages", "size"), [(0, (2, 1)), (1, (4, 2)), (2, (8, 4))])
def test_stages_at_stride_one_keep_resolution(stages: int, size: tuple[int, int]) -> None:
    trunk = Trunk(TrunkSettings(name="test_resnet", stride_one_stages=stages))
    assert trunk(IMAGES).shape == (2, trunk.channels, *size)


def test_average_pooling_shortcuts_keep_resolution_too() -> None:
    trunk = Trunk(TrunkSettings(name="resnet26d", stride_one_stages=1))
    assert trunk(IMAGES).shape[2:] == (4, 2)


def test_image_normalisation_ignores_gain_and_offset() -> None:
    trunk = Trunk(TrunkSettings(name="test_resnet", normalise="image")).eval()
    cast = IMAGES * torch.tensor([0.5, 0.8, 0.3]).view(1, 3, 1, 1) + 0.1
    assert torch.allclose(trunk(IMAGES), trunk(cast), atol=1e-3)
    assert trunk(torch.full_like(IMAGES, 0.5)).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (TrunkSettings(name="resnet5"), "there is no timm model 'resnet5'; did you mean"),
        (TrunkSettings(name="vit_tiny_patch16_224"), "yields tokens, not a map"),
        (TrunkSettings(name="convnext_atto"), "set trunk.stride_one_stages=0"),
    ],
)
def test_a_trunk_that_cannot_serve_is_refused(settings: TrunkSettings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Trunk(settings)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = Trunk(TrunkSettings(name="test_resnet")).eval()
    save_file(dict(one.net.state_dict()), tmp_path / "trunk.safetensors")
    settings = TrunkSettings(name="test_resnet", weights=str(tmp_path / "trunk.safetensors"))
    assert torch.equal(Trunk(settings).eval()(IMAGES), one(IMAGES))


def test_a_wrong_weights_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    with pytest.raises(FileNotFoundError, match=str(path)):
        Trunk(TrunkSettings(name="test_resnet", weights=str(path)))
    path.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        Trunk(TrunkSettings(name="test_resnet", weights=str(path)))
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="was it saved from another model"):
        Trunk(TrunkSettings(name="test_resnet", weights=str(path)))


def test_neck_by_batch_is_training_mode_without_a_trace() -> None:
    neck = Neck(6)
    maps = torch.randn(5, 6, 4, 2)
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    by_batch = neck.by_batch(maps)
    assert all(torch.equal(before[name], value) for name, value in neck.state_dict().items())
    assert torch.allclose(by_batch, neck.train()(maps)[1])
