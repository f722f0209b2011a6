"""A trained method as a folder: weights, the experiment it came from, a card.

Weights are safetensors, and a method that is not one of METHODS is imported only where it is
trusted: what is read here runs no code of a stranger.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rayreid.batch import Census
from rayreid.data.decoding import RESIZING
from rayreid.experiment import Experiment, load_experiment
from rayreid.method import Method
from rayreid.nn.trunk import TrunkSettings
from rayreid.settings import Settings, checked

WEIGHTS, CARD, EXPERIMENT = "weights.safetensors", "card.json", "experiment.yaml"


class Card(Settings):
    """What a trained method is, beside its weights."""

    method: str
    experiment: str
    """Fingerprint of the experiment."""
    sources: tuple[str, ...]
    identities: dict[str, PositiveInt]
    """Identities learnt of each source: the size of the classifier."""
    rayreid: str
    torch: str


@dataclass(frozen=True)
class Trained:
    """A method in eval mode, with what it came from."""

    method: Method
    experiment: Experiment
    fingerprint: str
    """Short hash of the weights."""


def build(experiment: Experiment, census: Census, trunk: TrunkSettings | None = None) -> Method:
    """Return the untrained method of an experiment, its weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        kind = experiment.Method
        size = (experiment.loading.height, experiment.loading.width)
        return kind(experiment.config, trunk or experiment.trunk, census, size)


def plain(tensor: Tensor) -> Tensor:
    """Return a copy as safetensors holds it: on the CPU, row-major, sharing no memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def save_trained(
    folder: Path, experiment: Experiment, census: Census, weights: dict[str, Tensor]
) -> None:
    """Write a trained method: its weights (a state dict), experiment and card."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: w.detach().cpu().contiguous() for name, w in weights.items()}, folder / WEIGHTS
    )
    experiment.save(folder / EXPERIMENT)
    card = Card(
        method=experiment.method,
        experiment=experiment.fingerprint,
        sources=experiment.sources,
        identities=dict(census.identities),
        rayreid=version("rayreid"),
        torch=version("torch"),
    )
    (folder / CARD).write_text(card.model_dump_json(indent=2) + "\n")


def load_trained(folder: Path, *, trusted: str = "") -> Trained:
    """Return the method saved in a folder, or in its ``best`` subfolder, in eval mode.

    ``trusted`` as in `rayreid.experiment.load_experiment`.

    Raises `FileNotFoundError` where there is none, `ValueError` where it is broken.
    """
    if not (folder / WEIGHTS).is_file() and (folder / "best" / WEIGHTS).is_file():
        folder = folder / "best"
    for name in (WEIGHTS, CARD, EXPERIMENT):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no trained run: there is no {name}; "
                "give the folder that rayreid train wrote"
            )
    experiment = load_experiment(folder / EXPERIMENT, trusted=trusted)
    try:
        card = checked(Card, json.loads((folder / CARD).read_text()))
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{folder} is broken ({type(error).__name__}: {error})") from None
    census = Census(card.identities)
    # The trained weights hold the trunk's; a hub or a file need not be at hand again.
    scratch = experiment.trunk.model_copy(update={"weights": "none"})
    method = build(experiment, census, scratch)
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / WEIGHTS} does not fit its experiment: {reason}") from None
    return Trained(method.eval(), experiment, weights_fingerprint(weights))


def preprocessing_fingerprint(experiment: Experiment) -> str:
    """Return a short hash of how an encoded image becomes a method's input.

    Embeddings can be compared where it is equal and the weights are: of the size in pixels, the
    rule of resizing, and the normalisation.
    """
    rules = {
        "height": experiment.loading.height,
        "width": experiment.loading.width,
        "resizing": RESIZING,
        "normalise": experiment.trunk.normalise,
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """Return a short hash of a state dict: equal weights, equal fingerprint."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = plain(weights[name])
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
