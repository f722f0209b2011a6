"""Batch normalisation with statistics of its own for each of two domains, source and target.

Light and cameras differ between domains, so their channel statistics do. Normalised by the
statistics of a mixed batch, each crop tells of the other domain ("leaks"), and the running
statistics fit neither. Gain and shift stay one for both domains (Li et al., "AdaBN", 2017,
rather than Chang et al., "DSBN", CVPR 2019), so that whatever is learnt on the source serves
the target.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class DomainNorm(nn.Module):
    """A batch normalisation that is the target's, except inside `source_statistics`.

    Both domains start from the statistics that ``norm`` came with. What is deployed serves
    the target, and runs ``norm`` as it is, in however many threads.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        self.norm = norm
        self.of_source = False
        for name in STATISTICS:
            self.register_buffer(f"source_{name}", norm.get_buffer(name).clone())

    def forward(self, x: Float[Tensor, "b c *hw"]) -> Float[Tensor, "b c *hw"]:
        """Return ``x`` normalised as a batch of the domain that is selected."""
        if not self.of_source:
            by_target: Tensor = self.norm(x)
            return by_target
        # In training the statistics passed in are updated in place, the norm's own untouched.
        statistics = {name: self.get_buffer(f"source_{name}") for name in STATISTICS}
        by_source: Tensor = functional_call(self.norm, statistics, (x,))
        return by_source


def separate_domains(module: nn.Module) -> None:
    """Put a `DomainNorm` around every batch normalisation with running statistics below."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            if child.running_mean is not None:
                module.register_module(name, DomainNorm(child))
        elif not isinstance(child, DomainNorm):
            separate_domains(child)


@contextmanager
def source_statistics(module: nn.Module) -> Iterator[None]:
    """Select the source's statistics in every `DomainNorm` below; without one, change nothing."""
    norms = [child for child in module.modules() if isinstance(child, DomainNorm)]
    try:
        for norm in norms:
            norm.of_source = True
        yield
    finally:
        for norm in norms:
            norm.of_source = False
