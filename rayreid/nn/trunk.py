"""Trunks: timm backbones that turn images into feature maps."""

from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import ResNet
from torch import Tensor, nn

from rayreid.settings import Settings, unknown


class TrunkSettings(Settings):
    """Which backbone, from which weights, at which stride."""

    name: str = "resnet50"
    """A timm model whose features are a map, by its timm name."""
    weights: str = "none"
    """``none`` (from scratch), ``timm`` (pre-trained, from timm's hub), or a .safetensors file."""
    stride_one_stages: int = Field(1, ge=0, le=3)
    """How many of a ResNet's last stages keep their input's resolution; 1 = "last stride 1"."""
    normalise: Literal["imagenet", "image"] = "imagenet"
    """``imagenet``: by ImageNet's channel statistics; ``image``: each image by its own."""

    @field_validator("weights")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """Make the path one that a worker in another folder finds too."""
        return value if value in ("none", "timm") else str(Path(value).expanduser().resolve())


class Trunk(nn.Module):
    """Images in, feature map out; the input's normalisation is part of the model.

    Raises `ValueError` for a name timm does not know, or a model that cannot serve.
    """

    def __init__(self, settings: TrunkSettings):
        super().__init__()
        self.normalise = settings.normalise
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1), False)
        net: Any = _create(settings)
        if settings.stride_one_stages:
            _keep_resolution(net, settings)
        self.net = net
        self.channels: int = net.num_features

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """Return the map of RGB images in [0, 1]."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        if self.normalise == "image":
            std, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
            # A flat crop (deviation 0) becomes zeros, not infinities; 1/255 is one grey level.
            std = std.clamp(min=1 / 255)
        features: Tensor = cast(Any, self.net).forward_features((images - mean) / std)
        return features


def _create(settings: TrunkSettings) -> nn.Module:
    name = settings.name
    if not timm.is_model(name.split(".")[0]):
        raise unknown("timm model", name, timm.list_models())
    hub = settings.weights == "timm"
    try:
        net: nn.Module = timm.create_model(name, pretrained=hub, num_classes=0)
    except Exception as error:
        # The hub's client raises errors of half a dozen libraries; all mean the same to a user.
        if not hub:
            raise
        raise ConnectionError(
            f"the weights of {name} could not be had from timm's hub ({type(error).__name__}); "
            "set trunk.weights to a .safetensors file, or to none to learn from scratch"
        ) from error
    _refuse_unless_map(net, name)
    if settings.weights not in ("none", "timm"):
        _load(net, Path(settings.weights))
    return net


def _refuse_unless_map(net: nn.Module, name: str) -> None:
    if not hasattr(net, "forward_features"):
        raise ValueError(f"trunk {name} has no features; choose a backbone such as resnet50")
    stages = getattr(net, "feature_info", None)
    if not stages or "reduction" not in stages[0] or hasattr(net, "pos_embed"):
        raise ValueError(
            f"trunk {name} yields tokens, not a map; choose a convolutional backbone "
            "such as resnet50 or convnext_tiny"
        )


def _load(net: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"trunk.weights: there is no file {path}")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"trunk.weights: {path} is not a safetensors file ({error})") from None
    missing, _ = net.load_state_dict(state, strict=False)
    if missing:
        raise ValueError(
            f"trunk.weights: {path} lacks {len(missing)} tensors of this trunk, "
            f"among them {missing[0]!r}; was it saved from another model?"
        )


def _keep_resolution(net: nn.Module, settings: TrunkSettings) -> None:
    """Set the strides of the last stages to 1, without timm's dilation (the field's custom)."""
    if not isinstance(net, ResNet):
        raise ValueError(
            f"trunk {settings.name} is not a ResNet, whose strides can be set; "
            "set trunk.stride_one_stages=0"
        )
    stages: list[nn.Module] = [net.get_submodule(f"layer{i}") for i in (4, 3, 2)]
    for stage in stages[: settings.stride_one_stages]:
        for module in stage.modules():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)
            elif isinstance(module, nn.AvgPool2d):
                module.kernel_size = module.stride = 1
