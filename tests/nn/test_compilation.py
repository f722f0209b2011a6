"""A compiled run learns what a plain one does, and either goes on where the other stopped."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from rayreid.data.synthetic import draw_domain
from rayreid.experiment import Experiment, compose
from rayreid.learn import learn
from rayreid.learner import Learner
from rayreid.nn.compilation import compiled
from tests.miniature import MINIATURE

SIZE = {"train_people": 6, "test_people": 4, "cameras": 2, "crops": 2, "height": 64, "width": 32}
ROOT = Path(__file__).parents[2]
DOMAINS = [draw_domain(name, **SIZE) for name in ("snow", "subway")]


def experiment(compile: bool) -> Experiment:
    # With dropout, which must draw alike.
    perturbed = {"config.hidden": 8, "config.dropout_warmup_epochs": 0}
    settings = {"precision": "fp32", "optimiser.ema": 0.9, "compile": compile}
    return compose("gmn", MINIATURE, perturbed, settings)


def test_weights_have_their_names() -> None:
    plain, other = (
        Learner(experiment(kind), DOMAINS, None, rank=0, world=1, device=torch.device("cpu"))
        for kind in (False, True)
    )
    assert list(other.method.state_dict()) == list(plain.method.state_dict())
    assert list(other.averaged.state_dict()) == list(plain.averaged.state_dict())
    assert type(other.averaged) is type(plain.averaged)
    assert other.parallel is not other.method


def test_a_missing_compiler_is_said_before_anything_is_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(FileNotFoundError, match=r"there is no no-such-compiler; install it, name"):
        next(learn(experiment(True), DOMAINS))
    next(learn(experiment(False), DOMAINS))


@pytest.mark.parametrize("set_to", ["g++", ""])
def test_the_module_itself_stays_as_it_is(set_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", set_to) if set_to else monkeypatch.delenv("CXX", raising=False)
    module = torch.nn.Linear(3, 2)
    made = compiled(module)
    assert next(made.parameters()) is next(module.parameters())
    assert list(module.state_dict()) == ["weight", "bias"]


def switched(first: bool, folder: Path) -> list[dict[str, float]]:
    """Return the losses of a run that one epoch in goes on compiled, or no longer compiled."""
    (begun,) = islice(learn(experiment(first), DOMAINS), 1)
    begun.learner.save(folder)
    rest = learn(experiment(not first), DOMAINS, state=folder)
    return [dict(epoch.losses) for epoch in (begun, *rest)]


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
def test_a_run_goes_on_compiled_or_not(first: bool, tmp_path: Path) -> None:
    # In a process of its own: the checks of shapes here cannot be compiled.
    code = f"""
import json, torch
from pathlib import Path
from {__name__} import switched
torch.set_num_threads(1)
print(json.dumps(switched({first}, Path({str(tmp_path)!r}))))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    for epoch, losses in zip(learn(experiment(False), DOMAINS), found, strict=True):
        assert losses == pytest.approx(epoch.losses, rel=1e-3)
