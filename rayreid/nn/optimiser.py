"""How weights follow gradients: the optimiser, and its learning rate over a run."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from rayreid.settings import Settings


class OptimiserSettings(Settings):
    """How weights follow gradients."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """``sgd`` is with Nesterov momentum 0.9."""
    lr: float = Field(3.5e-4, gt=0)
    """The highest learning rate of the schedule."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay (decoupled for adamw)."""
    schedule: Literal["steps", "cosine", "one_cycle"] = "cosine"
    """``steps``: x 0.1 after 1/3 and after 2/3 of the epochs; ``cosine``: down to 0;
    ``one_cycle``: up for 30 % of all steps, then down to 0, both along a cosine."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of all steps in which the rate rises linearly (not for one_cycle)."""
    clip: float = Field(8.0, ge=0)
    """Largest norm of the gradient; 0 = unlimited."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay a step of the averaged weights that are ranked and saved; 0 = the last weights."""


def optimiser_of(method: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Return the optimiser of a method's learnable parameters."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters, settings.lr, 0.9, weight_decay=settings.weight_decay, nesterov=True
        )
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(parameters, settings.lr, weight_decay=settings.weight_decay)


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
    else:
        # The tiny addition keeps steps at exactly 1/3 and 2/3 from being rounded down.
        factor = 0.1 ** math.floor(done * 3 + 1e-9)
    if done < settings.warmup:
        factor *= 0.01 + 0.99 * done / settings.warmup
    return factor
