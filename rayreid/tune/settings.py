"""How a study searches: what a user may set, and which settings do not go together."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from rayreid.settings import Settings
from rayreid.tune.storage import canonical_url


class StudySettings(Settings):
    """How a study searches."""

    trials: int = Field(20, ge=1)
    """Settings to try, the starting experiment's own among them."""
    objective: Literal["mean", "worst", "mean+cost"] = "mean"
    """``mean``: the mean over the folds of the held-out domain's mAP; ``worst``: the lowest;
    ``mean+cost``: the mean, and the cost of scoring a pair: what no other trial beats in both is
    kept."""
    selection: Literal["sources", "target"] = "sources"
    """What the trials are ranked on: each source held out in its turn, or the target itself, whose
    figures then say nothing about unseen domains."""
    sampler: Literal["tpe", "cmaes", "random", "nsga2"] = "tpe"
    """What proposes settings: tree-structured Parzen estimators; CMA-ES (for numbers alone, and it
    learns only from trials that ended); at random; NSGA-II, which needs hundreds of trials."""
    stopping: Literal["asha", "median", "none"] = "asha"
    """Which trials are stopped early: at each rung all but the best (successive halving); those
    whose best is below the median of the others' means so far; none."""
    grace_epochs: int = Field(1, ge=1)
    """Epochs before a trial may be stopped: asha's first rung."""
    reduction: int = Field(3, ge=2)
    """At each of asha's rungs, one in this many trials goes on."""
    storage: str = ""
    """Where Optuna keeps the trials: by default optuna.journal in the study's folder, or a data
    base, ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``, whose password comes from the
    environment (PGPASSWORD) or from ~/.pgpass."""
    retries: int = Field(2, ge=0)
    """Times that settings are tried again after their process died; each time from their last
    epoch. What raises an error is not tried again."""
    states_every: int = Field(1, ge=1)
    """Epochs between two states of a trial on disk, to go on from after a loss."""
    finalists: int = Field(3, ge=0)
    """Settings that are run again, with fresh seeds, when the search is over: as many of the best,
    and the starting ones; 0 = the search's best is the study's."""
    final_seeds: int = Field(3, ge=1)
    """Fresh seeds of each finalist, and of the winner when it is learnt from all sources."""
    seed: int = Field(0, ge=0)
    """Seed of the sampler."""
    parallel: int = Field(0, ge=0)
    """Trials at a time; 0 = as many as the cluster has room for."""
    cpus_per_trial: float = Field(1.0, gt=0)
    """Cores of a trial."""
    gpus_per_trial: float = Field(0.0, ge=0)
    """GPUs of a trial; a fraction shares one."""
    pack: bool = False
    """Whether trials share GPUs by the memory that they need: a step of the starting settings is
    measured, and as many trials have a GPU as it holds with a margin; replaces gpus_per_trial."""

    @field_validator("storage")
    @classmethod
    def _canonical_storage(cls, value: str) -> str:
        return canonical_url(value) if value else ""

    @model_validator(mode="after")
    def _one_objective_for_cmaes(self) -> "StudySettings":
        if self.sampler == "cmaes" and self.objective == "mean+cost":
            raise ValueError(
                "sampler=cmaes follows one objective, and mean+cost are two; "
                "take sampler=nsga2 or tpe, or objective=mean"
            )
        return self
