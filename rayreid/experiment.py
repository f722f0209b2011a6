"""Experiment: everything that a training run depends on, as one frozen value."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rayreid.data.loading import LoadingSettings
from rayreid.data.sampling import SamplingSettings
from rayreid.data.sources import SyntheticSettings, canonical, ranks_nobody
from rayreid.data.storage import Storage, canonical_address, is_remote, parted
from rayreid.data.views import ViewSettings, unfolded
from rayreid.method import Method
from rayreid.methods import find_method
from rayreid.nn.optimiser import OptimiserSettings
from rayreid.nn.trunk import TrunkSettings
from rayreid.protocols import distinct, refuse_target
from rayreid.scaling import ScalingSettings
from rayreid.settings import Settings, checked, dotted, nested, read_yaml

TRUSTED = "RAYREID_METHODS"
"""Environment variable that names methods of other packages which may be imported."""

MOST = 2**20
"""Bytes of a file of settings in a store."""


class Experiment(Settings):
    """One training run: what is learnt, from what, how long, from which seed."""

    method: str
    """A method's name, or ``package.module:Class``."""
    config: SerializeAsAny[Settings]
    """The method's hyper-parameters."""
    sources: tuple[str, ...] = Field(min_length=1)
    """Domains to learn from, each ``layout=location``."""
    target: str = ""
    """Domain whose unlabelled training crops a method that adapts learns from too."""
    trunk: TrunkSettings = TrunkSettings()
    """The backbone."""
    loading: LoadingSettings = LoadingSettings()
    """Resolution of the crops, and how they come into memory."""
    synthetic: SyntheticSettings = SyntheticSettings()
    """Size and difficulty of the drawn domains, where sources are."""
    views: ViewSettings = ViewSettings()
    """How crops are varied in training."""
    sampling: SamplingSettings = SamplingSettings()
    """Size of a worker's batch."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """How weights follow gradients."""
    scaling: ScalingSettings = ScalingSettings()
    """What the number of workers does to the batch and to the learning rate."""
    epochs: int = Field(60, ge=1)
    """Epochs of training."""
    steps_per_epoch: int = Field(0, ge=0)
    """Batches an epoch; 0 = as many as pass the largest domain's identities once."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the trunk in training; losses, scores and rankings are always fp32. On a CPU
    bf16 is faster for ResNets, slower for depthwise nets such as MobileNets."""
    compile: bool = False
    """Whether torch generates code for a step's forward and backward: minutes to begin with, of use
    in long runs, on a GPU first of all. Results change by rounding, nothing else does, so a run may
    go on with it or without."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the initial weights, the batches, the views and the perturbations."""

    @model_validator(mode="before")
    @classmethod
    def _config_of_method(cls, values: Any) -> Any:
        """Read the hyper-parameters as the method's own settings."""
        if not isinstance(values, Mapping) or not isinstance(values.get("method"), str):
            return values
        config = values.get("config", {})
        if isinstance(config, Settings):
            config = config.model_dump()
        if not isinstance(config, Mapping):
            raise ValueError(f"setting 'config' holds {config!r}, not settings by name")
        kind = find_method(values["method"]).Config
        return {**values, "config": checked(kind, config, below="config")}

    @field_validator("sources")
    @classmethod
    def _canonical_sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(value)

    @model_validator(mode="after")
    def _target_apart(self) -> "Experiment":
        refuse_target(self.sources, self.target or None)
        return self

    @field_validator("target")
    @classmethod
    def _canonical_target(cls, value: str) -> str:
        if ranks_nobody(value):
            raise ValueError(
                "an adapting method may see a target's training crops alone, and with the option "
                f"all {value} has its query and gallery among them; leave the option away"
            )
        return canonical(value) if value else ""

    def refuse_unless_adapting(self, target: bool) -> None:
        """Raise `ValueError` where a method that adapts has no target, or another has one."""
        if self.Method.adapts and not target:
            raise ValueError(
                f"{self.method} adapts to a target, of which it needs unlabelled crops; "
                "add --set target=LAYOUT=LOCATION"
            )
        if target and not self.Method.adapts:
            raise ValueError(
                f"{self.method} does not adapt, so it learns nothing from target={self.target}; "
                "leave it away"
            )

    @property
    def Method(self) -> type[Method]:  # noqa: N802 - it is a class
        """Return the method's class."""
        return find_method(self.method)

    def tree(self) -> dict[str, Any]:
        """Return all settings as plain values, complete: `compose` makes it again."""
        tree: dict[str, Any] = self.model_dump(mode="json")
        return tree

    def replaced(self, assignments: Mapping[str, object]) -> "Experiment":
        """Return this experiment under dotted assignments; `ValueError` for a mistake."""
        return checked(Experiment, nested(dotted(self.tree()) | unfolded(assignments)))

    @property
    def fingerprint(self) -> str:
        """Return a short hash of all settings that say what is learnt: all but ``compile``.

        Rules of scaling that are left at their defaults scale nothing, and are left out.
        """
        tree = self.tree()
        del tree["compile"]
        if self.scaling == ScalingSettings():
            del tree["scaling"]
        canonical = json.dumps(tree, sort_keys=True).encode()
        return hashlib.sha256(canonical).hexdigest()[:10]

    def save(self, path: Path) -> None:
        """Write all settings as YAML, whole or not at all."""
        draft = path.with_suffix(".tmp")
        draft.write_text(yaml.safe_dump(self.tree(), sort_keys=False))
        draft.replace(path)


def compose(method: str, *layers: Mapping[str, object]) -> Experiment:
    """Return the experiment of a method's recipe under layers of dotted assignments.

    A later layer wins over an earlier one, and each over the recipe, which wins over the
    defaults. Raises `ValueError`, a sentence for each mistake.
    """
    assignments: dict[str, object] = {"method": method, **unfolded(find_method(method).recipe)}
    for layer in layers:
        if layer.get("method", method) != method:
            raise ValueError(f"these are settings of {layer['method']}, not of {method}")
        assignments |= unfolded(layer)
    return checked(Experiment, nested(assignments))


def load_assignments(place: Path | str) -> dict[str, object]:
    """Return the dotted assignments in a YAML file, nested or dotted; it may be in a store.

    Raises `FileNotFoundError`, `OSError` for a store that cannot be read, or `ValueError` where
    the file is not readable as settings.
    """
    if is_remote(str(place)):
        folder, name = parted(canonical_address(str(place)))
        storage = Storage(folder)
        return dotted(read_yaml(bytes(storage.read(name, MOST)).decode(), storage.where(name)))
    path = Path(place)
    if not path.is_file():
        raise FileNotFoundError(f"there is no settings file {path}")
    return dotted(read_yaml(path.read_text(), path))


def load_experiment(path: Path, *, trusted: str = "") -> Experiment:
    """Return a saved experiment; errors as `load_assignments`, or for a setting.

    A method that is not one of METHODS is code that loading would import: only one that is
    ``trusted``, or named in the environment's RAYREID_METHODS (comma-separated), is.
    """
    assignments = load_assignments(path)
    named = str(assignments.get("method", ""))
    if ":" in named and named not in (trusted, *os.environ.get(TRUSTED, "").split(",")):
        raise ValueError(
            f"{path} is of the method {named}, whose code would be imported; "
            f"set {TRUSTED}={named} if you trust it"
        )
    try:
        return checked(Experiment, nested(assignments))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
