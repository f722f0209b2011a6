"""Pre-trained weights of a trunk from a local file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a .safetensors file, or in a .pt / .pth file of tensors alone.

    Raises `FileNotFoundError`, or `ValueError` where it is neither.
    """
    if not path.is_file():
        raise FileNotFoundError(f"trunk.weights: there is no file {path}")
    state: object
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"trunk.weights: {path} is not a safetensors file ({error})") from None
    else:
        state = _unpickled(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"trunk.weights: {path} holds no state dict of tensors by name")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _unpickled(path: Path) -> object:
    """Return the tensors and plain containers in a file; code in it is refused, never run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # A damaged file fails in a dozen ways; what torch says of code is how to run it all the same.
    except Exception:
        raise ValueError(
            f"trunk.weights: {path} is not a plain state dict: it is damaged, or holds more than "
            "tensors; save its tensors as .safetensors"
        ) from None


def load_weights(net: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict that has at least the tensors of ``net``.

    Raises `ValueError` where tensors are missing or of other shapes.
    """
    own = net.state_dict()
    # Counters of old checkpoints' batch normalisations are not there; nothing reads them.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"trunk.weights: {path} lacks {len(missing)} tensors of this trunk, "
            f"among them {missing[0]!r}; was it saved from another model?"
        )
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape]
    if wrong:
        raise ValueError(
            f"trunk.weights: {path} has {wrong[0]!r} of shape {tuple(state[wrong[0]].shape)}, this "
            f"trunk of {tuple(own[wrong[0]].shape)}; was it saved from another model?"
        )
    net.load_state_dict({n: state.get(n, own[n]) for n in own})
