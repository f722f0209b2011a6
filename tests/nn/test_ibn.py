"""IBN against slow transcriptions, and weights under the authors' names."""

from pathlib import Path
from typing import Any, Literal

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from rayreid.nn.ibn import IBN, has_ibn, insert_ibn, renamed
from rayreid.nn.trunk import Trunk, TrunkSettings

IMAGES = torch.rand(2, 3, 64, 64)
NETS = ["test_resnet", "resnet18"]
"""Bottlenecks in the third stage; basic blocks alone."""


def made(name: str, ibn: Literal["none", "a", "b"] = "none", **settings: Any) -> Trunk:
    """Return a trunk whose normalisations all differ from those of a new one."""
    torch.manual_seed(1)
    trunk = Trunk(TrunkSettings(name=name, ibn=ibn, normalise="none", **settings)).eval()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.get_buffer("running_mean"), std=0.3)
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    return trunk


def per_image(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Instance normalisation, one map at a time."""
    out = torch.empty_like(x)
    for b in range(len(x)):
        for c in range(x.shape[1]):
            one = x[b, c]
            spread = ((one - one.mean()) ** 2).mean()
            out[b, c] = (one - one.mean()) / (spread + 1e-5).sqrt() * gain[c] + shift[c]
    return out


def frozen(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    return F.batch_norm(x, mean, var, norm.weight, norm.bias, False, 0.0, norm.eps)


def slow(trunk: Trunk, images: Tensor, kind: str) -> Tensor:
    """The whole ResNet, a line of the papers at a time."""
    net: Any = trunk.net
    x = net.conv1(images)
    x = per_image(x, net.bn1.weight, net.bn1.bias) if kind == "b" else frozen(x, net.bn1)
    x = net.maxpool(x.relu())
    for number in (1, 2, 3, 4):
        blocks = list(net.get_submodule(f"layer{number}"))
        for block in blocks:
            shortcut = block.downsample(x) if block.downsample else x
            y = block.conv1(x)
            if kind == "a" and number < 4:
                half = y.shape[1] // 2
                first = per_image(y[:, :half], block.bn1.IN.weight, block.bn1.IN.bias)
                y = torch.cat([first, frozen(y[:, half:], block.bn1.BN)], 1)
            else:
                y = frozen(y, block.bn1)
            y = frozen(block.conv2(y.relu()), block.bn2)
            basic = isinstance(block, BasicBlock)
            if not basic:
                y = frozen(block.conv3(y.relu()), block.bn3)
            y = y + shortcut
            if kind == "b" and number < 3 and block is blocks[-1]:
                norm = (block.act2 if basic else block.act3)[0]
                y = per_image(y, norm.weight, norm.bias)
            x = y.relu()
    return x


@pytest.mark.parametrize("name", [*NETS, "resnet26"])
@pytest.mark.parametrize("kind", ["none", "a", "b"])
@torch.no_grad()
def test_equals_a_transcription(name: str, kind: Literal["none", "a", "b"]) -> None:
    trunk = made(name, kind)
    torch.testing.assert_close(trunk(IMAGES), slow(trunk, IMAGES, kind), rtol=1e-3, atol=1e-3)


def instance_norms(trunk: Trunk) -> set[str]:
    return {n for n, m in trunk.net.named_modules() if isinstance(m, nn.InstanceNorm2d)}


def test_which_modules_normalise_by_instance() -> None:
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]
    assert instance_norms(made("resnet18")) == set()
    assert instance_norms(made("resnet18", "a")) == {f"{block}.bn1.IN" for block in blocks}
    assert instance_norms(made("resnet18", "b")) == {"bn1", "layer1.1.act2.0", "layer2.1.act2.0"}
    deep = instance_norms(made("resnet26", "b"))
    assert deep == {"bn1", "layer1.1.act3.0", "layer2.1.act3.0"}


@pytest.mark.parametrize("kind", ["a", "b"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_what_is_cut_away_needs_no_ibn(kind: Literal["a", "b"], stages: int) -> None:
    found = instance_norms(made("resnet18", kind, stages=stages))
    assert max(int(name[5]) for name in found if name != "bn1") == min(stages, 3 - (kind == "b"))


@pytest.mark.parametrize("channels", [6, 7])
def test_ibn_a_lends_from_the_normalisation_it_replaces(channels: int) -> None:
    norm = nn.BatchNorm2d(channels, eps=0.01, momentum=0.3)
    for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert value is not None
        value.uniform_(0.5, 1.5)
    x, ibn = torch.randn(3, channels, 4, 5), IBN(norm).eval()
    half = channels // 2
    assert ibn.BN.momentum == 0.3
    torch.testing.assert_close(ibn(x)[:, half:], norm.eval()(x)[:, half:])
    expected = per_image(x[:, :half], norm.weight, norm.bias)
    torch.testing.assert_close(ibn(x)[:, :half], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["a", "b"])
def test_a_plain_resnets_weights_are_lent(tmp_path: Path, kind: Literal["a", "b"]) -> None:
    plain = made("test_resnet")
    save_file(plain.net.state_dict(), tmp_path / "plain.safetensors")
    torch.manual_seed(2)
    trunk = Trunk(
        TrunkSettings(name="test_resnet", ibn=kind, weights=str(tmp_path / "plain.safetensors"))
    )
    lent, own = plain.net.state_dict(), trunk.net.state_dict()
    same = [name for name in own if name in lent and torch.equal(own[name], lent[name])]
    fresh = {name for name in own if name not in same}
    gain = lent["layer1.0.bn1.weight" if kind == "a" else "bn1.weight"]
    if kind == "a":
        half = len(gain) // 2
        assert torch.equal(own["layer1.0.bn1.IN.weight"], gain[:half])
        assert torch.equal(own["layer1.0.bn1.BN.weight"], gain[half:])
        mean = lent["layer1.0.bn1.running_mean"]
        assert torch.equal(own["layer1.0.bn1.BN.running_mean"], mean[half:])
        assert all(".bn1." in name for name in fresh)
    else:
        assert torch.equal(own["bn1.weight"], gain)
        assert torch.equal(own["bn1.bias"], lent["bn1.bias"])
        assert all(".0.weight" in name or ".0.bias" in name for name in fresh)
        assert all("act" in name for name in fresh)


def official(trunk: Trunk) -> dict[str, Tensor]:
    """Return weights as the authors publish them: IBN-b's under the block, and a classifier."""
    state = {}
    for name, value in trunk.net.state_dict().items():
        for act in ("act2", "act3"):
            name = name.replace(f"{act}.0.", "IN.")
        state[name] = value
    return {**state, "fc.weight": torch.zeros(9, 4), "fc.bias": torch.zeros(9)}


@pytest.mark.parametrize("name", [*NETS, "resnet26"])
@pytest.mark.parametrize("kind", ["a", "b"])
def test_the_authors_weights_load(tmp_path: Path, name: str, kind: Literal["a", "b"]) -> None:
    one = made(name, kind)
    state = official(one)
    assert ("layer1.0.bn1.IN.weight" if kind == "a" else "layer2.1.IN.weight") in state or (
        name == "test_resnet"
    )
    assert not any("act" in key for key in state)
    torch.save(state, tmp_path / "official.pth")
    torch.manual_seed(2)
    settings = TrunkSettings(
        name=name, ibn=kind, normalise="none", weights=str(tmp_path / "official.pth")
    )
    assert torch.equal(Trunk(settings).eval()(IMAGES), one(IMAGES))


@pytest.mark.parametrize(("of", "into"), [("a", "b"), ("b", "a"), ("a", "none"), ("b", "none")])
def test_weights_of_another_ibn_are_refused(
    tmp_path: Path, of: Literal["a", "b"], into: Literal["a", "b", "none"]
) -> None:
    torch.save(official(made("test_resnet", of)), tmp_path / "official.pth")
    with pytest.raises(ValueError, match="was it saved from another model"):
        Trunk(TrunkSettings(name="test_resnet", ibn=into, weights=str(tmp_path / "official.pth")))


def test_names_of_a_plain_resnet_stay() -> None:
    state = dict(timm.create_model("test_resnet").state_dict())
    assert renamed(state).keys() == state.keys()
    assert not has_ibn(state)


def test_inserting_keeps_the_activation() -> None:
    net: Any = timm.create_model("resnet18")
    before = net.layer1[1].act2
    insert_ibn(net, "b")
    assert net.layer1[1].act2[1] is before
