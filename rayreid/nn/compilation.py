"""A module computed by code that torch generates for it, and the compiler that this needs."""

import os
import shlex
import shutil
from typing import cast

import torch
from torch import nn


def compiled(module: nn.Module) -> nn.Module:
    """Return a module that computes what ``module`` does, up to rounding, on the same weights.

    ``module`` stays as it is: calls of its own are not compiled. The first call takes up to
    minutes, and so do those of the first other shapes.

    Raises `FileNotFoundError` where there is no C++ compiler, or the one that CXX names.
    """
    compiler = shlex.split(os.environ.get("CXX", "g++"))[0]
    if shutil.which(compiler) is None:
        raise FileNotFoundError(
            f"compile=true needs a C++ compiler, and there is no {compiler}; install it, name "
            "another in the environment's CXX, or set compile=false"
        )
    # Random numbers as without it: dropout would draw others.
    return cast(nn.Module, torch.compile(module, options={"fallback_random": True}))
