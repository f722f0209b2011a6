"""Trunks against timm's own models, whole and cut."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@pytest.mark.parametrize("name", ["resnetblur18", "resnest14d", "res2net50_14w_8s"])
def test_whatever_shrinks_a_map_is_set_to_stride_one(name: str) -> None:
    trunk = Trunk(TrunkSettings(name=name, stride_one_stages=2)).eval()
    assert trunk(IMAGES).shape[2:] == (8, 4)


REFUSED = [
    (TrunkSettings(name="resnet5"), "there is no timm model 'resnet5'; did you mean"),
    (TrunkSettings(name="resnet50.foo"), "there is no timm model 'resnet50.foo'; did you mean"),
    (TrunkSettings(name="test_vit"), "trunk test_vit is not a ResNet, whose strides can be set"),
    (TrunkSettings(name="convnext_atto"), "set trunk.stride_one_stages=0"),
    (
        TrunkSettings(name="test_vit", stages=2, stride_one_stages=0),
        "trunk test_vit is not run stage by stage, so it cannot be cut",
    ),
    (
        TrunkSettings(name="test_convnext", ibn="a", stride_one_stages=0),
        "trunk test_convnext is not a plain ResNet, which IBN-a is for",
    ),
    (TrunkSettings(name="resnet50_gn", ibn="b"), "trunk resnet50_gn is not a plain ResNet"),
    (TrunkSettings(name="resnest14d", ibn="b"), "trunk resnest14d is not a plain ResNet"),
    (
        TrunkSettings(name="mixer_s32_224", stride_one_stages=0),
        "trunk mixer_s32_224 yields neither a map nor a grid of tokens .*doesn't match model",
    ),
    (
        TrunkSettings(name="crossvit_tiny_240", stride_one_stages=0),
        "trunk crossvit_tiny_240 yields neither a map nor a grid of tokens",
    ),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_a_trunk_that_cannot_serve_is_refused(settings: TrunkSettings, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Trunk(settings)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_hub_out_of_reach_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = timm.create_model

    def offline(name: str, pretrained: bool = False, **more: Any) -> nn.Module:
        model = real(name, **more)
        if pretrained:
            raise OSError("[Errno -3] Temporary failure in name resolution\nand so on")
        return model

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConnectionError) as caught:
        Trunk(TrunkSettings(name=name, weights="timm", stride_one_stages=0))
    assert str(caught.value) == (
        f"the weights of {name} could not be had from timm's hub (OSError); "
        "set trunk.weights to a file, or to none to learn from scratch"
    )


def timms(settings: TrunkSettings, **more: Any) -> tuple[Trunk, Any]:
    """Return a trunk, and timm's whole model with its weights."""
    trunk = Trunk(settings.model_copy(update={"normalise": "none"})).eval()
    torch.manual_seed(1)
    for parameter in trunk.parameters():
        if parameter.ndim == 1:  # among them the gains of residuals, 0 in a new model
            nn.init.normal_(parameter, 0.5, 0.2)
    net = timm.create_model(settings.name, num_classes=0, **more).eval()
    net.load_state_dict(trunk.net.state_dict(), strict=False)
    return trunk, net


STAGED = ["test_resnet", "resnet26d", "resnet18", "test_convnext", "convnext_tiny_hnf"]
OTHERS = ["test_vit", "test_vit2", "test_vit3", "test_efficientnet", "test_mambaout",
          "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]  # fmt: skip


@pytest.mark.parametrize("name", STAGED)
@torch.no_grad()
def test_stage_by_stage_is_timms_forward(name: str) -> None:
    trunk, net = timms(TrunkSettings(name=name, stride_one_stages=0))
    seen: list[tuple[int, tuple[int, ...]]] = []

    def after(number: int, x: Tensor) -> Tensor:
        seen.append((number, tuple(x.shape)))
        return x

    expected = net.forward_features(IMAGES)
    assert torch.equal(trunk(IMAGES), expected)
    assert torch.equal(trunk(IMAGES, after), expected)
    sizes = [(16, 8), (8, 4), (4, 2), (2, 1)]
    assert seen == [
        (i + 1, (2, c, *size))
        for i, (c, size) in enumerate(zip(trunk.stage_channels, sizes, strict=True))
    ]
    assert trunk.channels == trunk.stage_channels[-1] == expected.shape[1]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
@torch.no_grad()
def test_what_after_returns_goes_on(name: str) -> None:
    trunk, net = timms(TrunkSettings(name=name, stride_one_stages=0))
    stages = net.stages if name == "test_convnext" else [net.get_submodule(f"layer{i + 1}")
                                                         for i in range(4)]  # fmt: skip
    x = net.stem(IMAGES) if name == "test_convnext" else net.maxpool(
        net.act1(net.bn1(net.conv1(IMAGES)))
    )  # fmt: skip
    for number, stage in enumerate(stages, 1):
        x = stage(x) * number + 0.1
    assert torch.equal(trunk(IMAGES, lambda number, x: x * number + 0.1), x)


@pytest.mark.parametrize("name", ["test_resnet", "resnet26d", "test_convnext", "convnext_tiny_hnf"])
@pytest.mark.parametrize("stages", [1, 2, 3])
@torch.no_grad()
def test_cut_after_a_stage(name: str, stages: int) -> None:
    trunk, net = timms(TrunkSettings(name=name, stages=stages, stride_one_stages=0))
    maps: dict[int, Tensor] = {}

    def keep(number: int, x: Tensor) -> Tensor:
        maps[number] = x
        return x

    whole = Trunk(TrunkSettings(name=name, stride_one_stages=0, normalise="none")).eval()
    whole.net.load_state_dict(net.state_dict(), strict=False)
    whole(IMAGES, keep)
    found = trunk(IMAGES)
    assert torch.equal(found, maps[stages])
    assert trunk.channels == found.shape[1] == whole.stage_channels[stages - 1]
    assert len(trunk.stage_channels) == stages
    assert trunk.grid(64, 32) == found.shape[2:]


@pytest.mark.parametrize(
    ("name", "stages"), [*((n, s) for n in STAGED for s in (1, 2, 3, 4)), *((n, 4) for n in OTHERS)]
)
def test_no_learnt_parameter_is_without_a_gradient(name: str, stages: int) -> None:
    trunk = Trunk(TrunkSettings(name=name, stages=stages, stride_one_stages=0))
    trunk(torch.rand(2, 3, 128, 64)).square().sum().backward()
    without = [n for n, p in trunk.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert any(p.requires_grad for p in trunk.parameters())


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3", "vit_tiny_r_s16_p8_224"])
@pytest.mark.parametrize(("height", "width"), [(64, 32), (32, 96), (160, 160)])
@torch.no_grad()
def test_tokens_are_the_grid_of_the_patches(name: str, height: int, width: int) -> None:
    settings = TrunkSettings(name=name, stride_one_stages=0)
    trunk, net = timms(settings, dynamic_img_size=True)
    images = torch.rand(2, 3, height, width)
    patch = 32 if "_r_" in name else 16
    h, w = trunk.grid(height, width)
    assert (h, w) == (height // patch, width // patch)
    tokens = net.forward_features(images)[:, net.num_prefix_tokens :]
    found = trunk(images)
    assert found.shape == (2, trunk.channels, h, w)
    for row in range(h):
        for column in range(w):
            assert torch.equal(found[:, :, row, column], tokens[:, row * w + column])


def test_each_place_sees_its_patch() -> None:
    """Without attention between them, a token changes with its own patch alone."""
    trunk = Trunk(TrunkSettings(name="test_vit", stride_one_stages=0)).eval()
    net: Any = trunk.net
    net.blocks = nn.Identity()
    images = IMAGES.clone()
    images[:, :, 16:32, 16:32] += 0.5
    changed = (trunk(images) - trunk(IMAGES)).abs().amax(dim=(0, 1)) > 0
    assert changed.nonzero().tolist() == [[1, 1]]


def test_crops_that_patches_do_not_divide_are_padded() -> None:
    trunk = Trunk(TrunkSettings(name="test_vit", stride_one_stages=0, normalise="none")).eval()
    images = torch.rand(2, 3, 60, 30)
    padded = F.pad(images, (0, 2, 0, 4))
    assert trunk.grid(60, 30) == (4, 2)
    assert torch.equal(trunk(images), trunk(padded))


def test_maps_of_channels_last_models_are_channels_first() -> None:
    trunk, net = timms(
        TrunkSettings(name="swin_tiny_patch4_window7_224", stride_one_stages=0),
        dynamic_img_size=True,
    )
    with torch.no_grad():
        assert torch.equal(trunk(IMAGES), net.forward_features(IMAGES).permute(0, 3, 1, 2))


def statistics(trunk: Trunk) -> dict[str, Tensor]:
    return {n: b.clone() for n, b in trunk.named_buffers() if "running" in n or "tracked" in n}


@pytest.mark.parametrize("ibn", ["none", "a", "b"])
@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_statistics_do_not_move_but_gains_learn(ibn: str, frozen: bool) -> None:
    values = {"name": "test_resnet", "frozen_norms": frozen, "ibn": ibn}
    trunk = Trunk(TrunkSettings.model_validate(values))
    gains = [m.weight for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    for gain in gains:
        nn.init.ones_(gain)  # 0 in a new residual, where nothing would reach the gains before
    for _ in range(2):
        trunk.train()
        assert trunk.training
        assert trunk.net.training
        before = statistics(trunk)
        trunk(IMAGES).square().sum().backward()
        same = [torch.equal(before[n], b) for n, b in statistics(trunk).items()]
        assert all(same) if frozen else not any(same)
        assert all(gain.grad is not None and gain.grad.any() for gain in gains)
        trunk.eval()
        assert not any(module.training for module in trunk.modules())
    trunk.train()
    assert trunk.grid(64, 32) == (4, 2)
    norms = [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert trunk.training
    assert all(norm.training != frozen for norm in norms)


def test_without_normalisation_rgb_is_fed_as_it_is() -> None:
    trunk, net = timms(TrunkSettings(name="test_resnet", stride_one_stages=0))
    plain = Trunk(TrunkSettings(name="test_resnet", stride_one_stages=0)).eval()
    plain.net.load_state_dict(trunk.net.state_dict())
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.equal(trunk(IMAGES), net.forward_features(IMAGES))
        assert torch.equal(plain(IMAGES), trunk((IMAGES - mean) / std))


def test_neck_by_batch_is_training_mode_without_a_trace() -> None:
    neck = Neck(6)
    maps = torch.randn(5, 6, 4, 2)
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    by_batch = neck.by_batch(maps)
    assert all(torch.equal(before[name], value) for name, value in neck.state_dict().items())
    assert torch.allclose(by_batch, neck.train()(maps)[1])


def test_frozen_statistics_that_do_not_fit_are_said_aloud(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Trunk(TrunkSettings(name="test_resnet", ibn="b", frozen_norms=True))
    assert "give weights learnt with IBN" in caplog.text
    caplog.clear()
    Trunk(TrunkSettings(name="test_resnet", ibn="b"))
    Trunk(TrunkSettings(name="test_resnet", frozen_norms=True))
    assert not caplog.text
