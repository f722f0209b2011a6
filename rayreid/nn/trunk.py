"""Trunks: timm backbones that turn images into feature maps, stage by stage."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from rayreid.nn.ibn import has_ibn, insert_ibn, renamed
from rayreid.nn.weights import load_weights, read_weights
from rayreid.settings import Settings, unknown

log = logging.getLogger(__name__)

AfterStage = Callable[[int, Tensor], Tensor]
"""Given a stage's number (from 1) and its map, returns the map that goes on to the next."""


class TrunkSettings(Settings):
    """Which backbone, from which weights, cut where, normalised how."""

    name: str = "resnet50"
    """A timm model whose features are a map or a grid of tokens, by its timm name."""
    weights: str = "none"
    """``none`` (from scratch), ``timm`` (pre-trained, from timm's hub), or a file: .safetensors, or
    a .pt / .pth state dict of tensors alone."""
    stages: int = Field(4, ge=1, le=4)
    """The stage after which it is cut (ResNets and ConvNeXts; 4 = whole)."""
    stride_one_stages: int = Field(1, ge=0, le=3)
    """How many of a ResNet's stages, from the fourth down, keep their input's resolution; 1 = "last
    stride 1"."""
    ibn: Literal["none", "a", "b"] = "none"
    """Instance normalisation in a ResNet: IBN-a in half the channels of each block, IBN-b after the
    stem and the first two stages."""
    frozen_norms: bool = False
    """Whether batch normalisations keep the statistics they came with (for pre-trained trunks)."""
    normalise: Literal["imagenet", "image", "none"] = "imagenet"
    """``imagenet``: by ImageNet's channel statistics; ``image``: each image by its own; ``none``:
    RGB in [0, 1] as it is."""

    @field_validator("weights")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """Make the path one that a worker in another folder finds too."""
        return value if value in ("none", "timm") else str(Path(value).expanduser().resolve())


class Trunk(nn.Module):
    """Images in, feature map out; the input's normalisation is part of the model.

    ``channels`` are those of the map, ``stage_channels`` those after each stage (empty for a
    trunk that is not run stage by stage).

    Raises `ValueError` for a name timm does not know, or a model that cannot serve.
    """

    def __init__(self, settings: TrunkSettings):
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1), False)
        net: Any = _create(settings)
        self.stage_channels: tuple[int, ...] = ()
        if isinstance(net, ResNet | ConvNeXt):
            info: Any = net.feature_info[-4:]
            self.stage_channels = tuple(stage["num_chs"] for stage in info[: settings.stages])
        self.channels: int = self.stage_channels[-1] if self.stage_channels else net.num_features
        self.net = net

    def forward(
        self, images: Float[Tensor, "b 3 height width"], after: AfterStage | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Return the map of RGB images in [0, 1].

        ``after`` sees the map of every stage and returns what the next one receives.
        """
        net: Any = self.net
        x = self._normalised(images)
        if not self.stage_channels:
            assert after is None, "this trunk is not run stage by stage"
            return _as_map(net, net.forward_features(x), images)
        if isinstance(net, ResNet):
            x = net.maxpool(net.act1(net.bn1(net.conv1(x))))
            stages = [net.get_submodule(f"layer{i + 1}") for i in range(len(self.stage_channels))]
        else:
            x = net.stem(x)
            stages = list(net.stages)
        for number, stage in enumerate(stages, 1):
            x = stage(x)
            if after:
                x = after(number, x)
        return net.norm_pre(x) if isinstance(net, ConvNeXt) else x

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the map of crops of a size in pixels."""
        training = self.training
        with torch.no_grad():
            images = self.get_buffer("mean").new_zeros(1, 3, height, width)
            _, _, h, w = self.eval()(images).shape
        self.train(training)
        return h, w

    def train(self, mode: bool = True) -> "Trunk":
        """Set training mode; frozen normalisations stay in eval mode."""
        super().train(mode)
        if self.settings.frozen_norms:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _normalised(self, images: Tensor) -> Tensor:
        kind = self.settings.normalise
        if kind == "none":
            return images
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        if kind == "image":
            std, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
            # A flat crop (deviation 0) becomes zeros, not infinities; 1/255 is one grey level.
            std = std.clamp(min=1 / 255)
        return (images - mean) / std


def has_depthwise(module: nn.Module) -> bool:
    """Return whether there are convolutions of each channel by itself."""
    convolutions = (each for each in module.modules() if isinstance(each, nn.Conv2d))
    return any(each.groups == each.in_channels > 1 for each in convolutions)


def _create(settings: TrunkSettings) -> nn.Module:
    net = _of_timm(settings)
    _refuse_settings_of_others(net, settings)
    _cut(net, settings.stages)
    if not isinstance(net, ResNet | ConvNeXt):
        _probe(net, settings.name)
    path = None if settings.weights in ("none", "timm") else Path(settings.weights)
    state = renamed(read_weights(path)) if path else {}
    # Weights of a plain ResNet lend IBN theirs; those of one with IBN fit it alone.
    with_ibn = has_ibn(state)
    if path and not with_ibn:
        load_weights(net, state, path)
    if settings.ibn != "none" and settings.frozen_norms and not with_ibn:
        log.warning(
            "trunk.frozen_norms keeps statistics that %s has without IBN-%s, which changes what "
            "comes after it; give weights learnt with IBN, or set trunk.frozen_norms=false",
            settings.name,
            settings.ibn,
        )
    if settings.ibn != "none":
        assert isinstance(net, ResNet)
        insert_ibn(net, settings.ibn)
    if path and with_ibn:
        load_weights(net, state, path)
    if settings.stride_one_stages:
        _keep_resolution(net, settings.stride_one_stages)
    return net


def _of_timm(settings: TrunkSettings) -> nn.Module:
    name, hub = settings.name, settings.weights == "timm"
    if not timm.is_model(name.split(".")[0]):
        raise unknown("timm model", name, timm.list_models())
    if "." in name and not timm.models.is_model_pretrained(name):
        raise unknown("timm model", name, timm.list_pretrained())
    try:
        try:
            # Vision transformers: positions are interpolated to whatever grid a crop has, and a
            # crop that patches do not divide is padded with zeros.
            net: Any = timm.create_model(name, pretrained=hub, num_classes=0, dynamic_img_size=True)
            net.patch_embed.dynamic_img_pad = True
        except TypeError:
            net = timm.create_model(name, pretrained=hub, num_classes=0)
    except Exception as error:
        # The hub's client raises errors of half a dozen libraries; all mean the same to a user.
        if not hub:
            raise
        raise ConnectionError(
            f"the weights of {name} could not be had from timm's hub ({type(error).__name__}); "
            "set trunk.weights to a file, or to none to learn from scratch"
        ) from error
    made: nn.Module = net
    return made


def _probe(net: Any, name: str) -> None:
    """Try a net that is not run stage by stage at a size that is not its own.

    Raises `ValueError` where no map comes of it. Parameters that the map does not depend on
    (of a head) are not learnt: without a gradient they would stop DDP.
    """
    images = torch.zeros(1, 3, 256, 128)
    parameters = [p for p in net.parameters() if p.requires_grad]
    training = net.training
    try:
        with torch.enable_grad():
            features = _as_map(net.eval(), net.forward_features(images), images)
            total = features.sum()
        if features.shape[:2] != (1, net.num_features):
            raise ValueError(f"features are {tuple(features.shape)}")
    # Each model has its own way of failing at a size or a shape that it is not made for.
    except Exception as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(
            f"trunk {name} yields neither a map nor a grid of tokens of crops of any size "
            f"({reason}); choose a backbone such as resnet50, convnext_tiny or "
            "vit_small_patch16_224"
        ) from None
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    net.train(training)


def _refuse_settings_of_others(net: nn.Module, settings: TrunkSettings) -> None:
    """Raise `ValueError` for settings that this kind of trunk does not have."""
    name = settings.name
    if not isinstance(net, ResNet) and settings.stride_one_stages:
        raise ValueError(
            f"trunk {name} is not a ResNet, whose strides can be set; set trunk.stride_one_stages=0"
        )
    if settings.ibn != "none":
        blocks = list(net.get_submodule("layer1").children()) if isinstance(net, ResNet) else []
        plain = blocks and isinstance(blocks[0], BasicBlock | Bottleneck)
        if not plain or not isinstance(blocks[0].bn1, nn.BatchNorm2d):
            raise ValueError(
                f"trunk {name} is not a plain ResNet, which IBN-{settings.ibn} is for; "
                "set trunk.ibn=none"
            )
    if settings.stages < 4 and not isinstance(net, ResNet | ConvNeXt):
        raise ValueError(
            f"trunk {name} is not run stage by stage, so it cannot be cut; set trunk.stages=4, "
            "or choose a ResNet or a ConvNeXt"
        )


def _cut(net: nn.Module, stages: int) -> None:
    """Drop what comes after a stage, and a head: parameters without a gradient stop DDP."""
    if isinstance(net, ResNet):
        for number in range(stages + 1, 5):
            net.register_module(f"layer{number}", nn.Identity())
    elif isinstance(net, ConvNeXt):
        net.stages = nn.Sequential(*list(net.stages)[:stages])
        net.register_module("head", nn.Identity())
        if stages < 4:
            net.register_module("norm_pre", nn.Identity())


def _as_map(net: Any, features: Tensor, images: Tensor) -> Tensor:
    """Return a map as it is, and the tokens of an image's patches as the grid they are."""
    if features.ndim == 4:
        last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if last else features
    h, w = net.patch_embed.dynamic_feat_size(images.shape[2:])
    # Tokens of the class and registers come first.
    patches: Tensor = features[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))
    return patches


def _keep_resolution(net: nn.Module, stages: int) -> None:
    """Set the strides of the last stages to 1, without timm's dilation (the field's custom)."""
    for number in range(4, 4 - stages, -1):
        for module in net.get_submodule(f"layer{number}").modules():
            # A block's own record of its stride is set too; nothing reads it.
            if getattr(module, "stride", 1) in (2, (2, 2)):
                module.stride = 1 if module.stride == 2 else (1, 1)  # type: ignore[assignment]
                # The 2 x 2 pooling of a shortcut would shrink the map by a pixel.
                if isinstance(module, nn.AvgPool2d) and not module.padding:
                    module.kernel_size = 1
