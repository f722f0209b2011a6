"""AdaBN: a trained method whose normalisations have seen the target (a control).

Paper: Li, Wang, Shi, Liu, Hou, "Revisiting Batch Normalization for Practical Domain Adaptation",
2016. Nothing is learnt: the statistics of the batch normalisations that an embedding passes are
taken anew from unlabelled crops of the target.
"""

import math
from copy import deepcopy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rayreid.batch import Unlabelled
from rayreid.method import Method


@torch.inference_mode()
def adapted_norms(method: Method, target: Unlabelled, *, batch: int = 256) -> Method:
    """Return a copy of a method with the statistics of a target's crops; the rest is as it was."""
    copy = deepcopy(method).eval()
    used: set[nn.Module] = set()
    norms = [module for module in copy.modules() if isinstance(module, _BatchNorm)]
    handles = [norm.register_forward_pre_hook(lambda m, _: used.add(m)) for norm in norms]
    copy.embed(next(iter(target.batches(1))))
    for handle in handles:
        handle.remove()
    for norm in norms:
        # What a metric network normalises is pairs, not crops, and stays.
        if norm in used:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
    # Parts of about one size, none of a single crop: each counts as much as another.
    parts = math.ceil(len(target) / batch)
    for images in target.batches(math.ceil(len(target) / parts)):
        copy.embed(images)
    return copy.eval()
