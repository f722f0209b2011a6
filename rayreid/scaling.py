"""What the number of workers does to the batch and to the learning rate."""

from typing import Literal

from pydantic import Field

from rayreid.settings import Settings


class ScalingSettings(Settings):
    """Rules for a number of workers other than the one that the settings are meant for.

    They hold whenever a run goes on, so that one that loses or gains workers follows them from its
    next epoch on. The schedule is over epochs, whatever a worker's steps in one.
    """

    workers: int = Field(1, ge=1)
    """Workers that ``sampling.identities`` and ``optimiser.lr`` are meant for."""
    batch: Literal["worker", "whole"] = "worker"
    """``worker``: each worker's batch is as set, so that the whole batch grows with the workers;
    ``whole``: the whole batch is as of ``scaling.workers``, its identities divided among those that
    there are, rounded, at least 2 each: losses within a batch then see fewer negatives."""
    lr: Literal["constant", "sqrt", "linear"] = "constant"
    """How ``optimiser.lr`` follows the whole batch, as a share of that of ``scaling.workers``:
    ``sqrt`` of it keeps Adam's noise (Malladi et al., NeurIPS 2022), ``linear`` keeps SGD's (Goyal
    et al., 2017); ``constant``: a published rate is used as it was published."""

    def identities(self, set_for: int, world: int) -> int:
        """Return the identities of a domain in a worker's batch, ``set_for`` being the setting."""
        if self.batch == "worker":
            return set_for
        return max(2, round(set_for * self.workers / world))

    def rate(self, set_for: int, world: int) -> float:
        """Return the factor on the learning rate, ``set_for`` being the identities as set."""
        share = self.identities(set_for, world) * world / (set_for * self.workers)
        power = {"constant": 0.0, "sqrt": 0.5, "linear": 1.0}[self.lr]
        return float(share**power)
