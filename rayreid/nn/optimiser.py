"""How weights follow gradients: the optimiser, and its learning rate over a run."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from rayreid.settings import Settings


class OptimiserSettings(Settings):
    """How weights follow gradients."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """``sgd`` is with Nesterov momentum 0.9."""
    lr: float = Field(3.5e-4, gt=0)
    """The highest learning rate of the schedule."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay (decoupled for adamw)."""
    trunk_rate: float = Field(1.0, gt=0, le=1)
    """Factor on the trunk's learning rate, for pre-trained ones; below 1, the gradients of the
    trunk and of the rest are also clipped each by itself."""
    schedule: Literal["steps", "last_step", "cosine", "one_cycle"] = "cosine"
    """``steps``: x 0.1 after 1/3 and after 2/3 of the epochs; ``last_step``: after 2/3 alone;
    ``cosine``: down to 0; ``one_cycle``: up for 30 % of all steps, then down to 0, both along a
    cosine."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of all steps in which the rate rises linearly (not for one_cycle)."""
    clip: float = Field(8.0, ge=0)
    """Largest norm of the gradient; 0 = unlimited."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay a step of the averaged weights that are ranked and saved; 0 = the last weights."""


def optimiser_of(method: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Return the optimiser of a method's learnable parameters, one pass over each a step."""
    learnable = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    groups = [{"params": [p for _, p in learnable], "rate": 1.0}]
    if settings.trunk_rate < 1:
        trunk = [p for name, p in learnable if name.startswith("trunk.")]
        rest = [p for name, p in learnable if not name.startswith("trunk.")]
        groups = [{"params": trunk, "rate": settings.trunk_rate}, {"params": rest, "rate": 1.0}]
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups, settings.lr, 0.9, weight_decay=settings.weight_decay, nesterov=True, fused=True
        )
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, settings.lr, weight_decay=settings.weight_decay, fused=True)


def clip_gradients(optimiser: torch.optim.Optimizer, settings: OptimiserSettings) -> Tensor:
    """Limit the gradient's norm, of each group by itself; return the largest norm found."""
    limit = settings.clip or math.inf
    groups = optimiser.param_groups
    return torch.stack([clip_grad_norm_(group["params"], limit) for group in groups]).max()


def rate_after(settings: OptimiserSettings, done: float) -> float:
    """Return the factor on the learning rate after a share ``done`` in [0, 1) of all steps."""

    def cosine(start: float, stop: float, share: float) -> float:
        return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2

    if settings.schedule == "one_cycle":
        rise = 0.3
        if done < rise:
            return cosine(0.04, 1.0, done / rise)
        return cosine(1.0, 0.0, (done - rise) / (1 - rise))
    if settings.schedule == "cosine":
        factor = cosine(1.0, 0.0, done)
    elif settings.schedule == "last_step":
        factor = 0.1 if done + 1e-9 >= 2 / 3 else 1.0
    else:
        # The tiny addition keeps steps at exactly 1/3 and 2/3 from being rounded down.
        factor = 0.1 ** math.floor(done * 3 + 1e-9)
    if done < settings.warmup:
        factor *= 0.01 + 0.99 * done / settings.warmup
    return factor
