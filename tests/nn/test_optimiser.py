"""Groups of the optimiser, the clipping of each, and the schedule of one fall."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from rayreid.data.synthetic import draw_domain
from rayreid.experiment import compose
from rayreid.learner import Learner
from rayreid.nn.optimiser import OptimiserSettings, clip_gradients, optimiser_of, rate_after
from tests.miniature import MINIATURE

SIZE = {"train_people": 6, "test_people": 4, "cameras": 2, "crops": 2, "height": 64, "width": 32}


def two_parts() -> nn.Module:
    """Return a model with a trunk and a rest, of gradients of very different norms."""
    model = nn.Module()
    model.trunk, model.head = nn.Linear(4, 3), nn.Linear(3, 2)
    # Not of the trunk, whatever its name begins with.
    model.trunks_shadow = nn.Linear(2, 2)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 10.0 if name.startswith("trunk.") else 1.0
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return model


def names_by_group(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimiser.param_groups]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_trunk_with_its_own_rate_is_a_group_of_its_own(name: str) -> None:
    model = two_parts()
    model.head.bias.requires_grad_(False)
    optimiser = optimiser_of(model, OptimiserSettings(name=name, trunk_rate=0.1))
    assert [group["rate"] for group in optimiser.param_groups] == [0.1, 1.0]
    assert names_by_group(model, optimiser) == [
        {"trunk.weight", "trunk.bias"},
        {"head.weight", "trunks_shadow.weight", "trunks_shadow.bias"},
    ]
    (whole,) = optimiser_of(model, OptimiserSettings(name=name)).param_groups
    assert whole["rate"] == 1.0
    assert len(whole["params"]) == 5


def test_a_step_moves_the_trunk_by_its_own_rate() -> None:
    made = compose(
        "baseline", MINIATURE,
        {
            "optimiser.name": "sgd", "optimiser.lr": 0.1, "optimiser.trunk_rate": 0.25,
            "optimiser.weight_decay": 0.0, "optimiser.clip": 0.0, "precision": "fp32",
        },
    )  # fmt: skip
    sources = [draw_domain(name, **SIZE) for name in ("snow", "subway")]
    learner = Learner(made, sources, None, rank=0, world=1, device=torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in learner.method.named_parameters()}
    learner.method.train()
    raw = next(learner.feed.epoch(0, learner.method))
    learner.step(learner.feed.batch(raw, torch.Generator()), 0.5)
    moved = set()
    for name, parameter in learner.method.named_parameters():
        if parameter.grad is None:
            continue
        rate = 0.5 * 0.1 * (0.25 if name.startswith("trunk.") else 1.0)
        # Nesterov's first step is 1 + 0.9 times the gradient.
        expected = before[name] - rate * 1.9 * parameter.grad
        assert torch.allclose(parameter, expected, atol=1e-6), name
        if not torch.equal(parameter, before[name]):
            moved.add(name.split(".")[0])
    assert {"trunk", "classifier"} <= moved


def norm(*parts: nn.Module) -> float:
    gradients = [p.grad.flatten() for part in parts for p in part.parameters()]
    return torch.cat(gradients).norm().item()


def test_two_groups_are_clipped_each_by_itself() -> None:
    model, other = two_parts(), two_parts()
    settings = OptimiserSettings(trunk_rate=0.1, clip=2.0)
    rest = [other.head, other.trunks_shadow]
    norms = norm(other.trunk), norm(*rest)
    assert norms[0] > 2 * norms[1] > 4
    found = clip_gradients(optimiser_of(model, settings), settings)
    assert found.item() == pytest.approx(max(norms)), "the largest norm, before clipping"
    nn.utils.clip_grad_norm_(other.trunk.parameters(), 2.0)
    nn.utils.clip_grad_norm_([p for part in rest for p in part.parameters()], 2.0)
    for one, wanted in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one.grad, wanted.grad)
    assert norm(model.trunk) == pytest.approx(2, rel=1e-4)
    assert norm(model.head, model.trunks_shadow) == pytest.approx(2, rel=1e-4)


def test_one_group_is_clipped_as_a_whole() -> None:
    model, other = two_parts(), two_parts()
    settings = OptimiserSettings(clip=2.0)
    found = clip_gradients(optimiser_of(model, settings), settings)
    assert found.item() == pytest.approx(norm(other))
    nn.utils.clip_grad_norm_(other.parameters(), 2.0)
    for one, wanted in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one.grad, wanted.grad)


@pytest.mark.parametrize("trunk_rate", [1.0, 0.1])
def test_without_a_limit_gradients_stay(trunk_rate: float) -> None:
    model, other = two_parts(), two_parts()
    settings = OptimiserSettings(clip=0.0, trunk_rate=trunk_rate)
    clip_gradients(optimiser_of(model, settings), settings)
    for one, wanted in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, wanted.grad)


@pytest.mark.parametrize("part", ["trunk", "head"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_in_either_group_is_told(part: str, value: float) -> None:
    model = two_parts()
    model.get_submodule(part).bias.grad[0] = value
    settings = OptimiserSettings(trunk_rate=0.1)
    assert not clip_gradients(optimiser_of(model, settings), settings).isfinite()


@pytest.mark.parametrize(("epochs", "steps"), [(15, 7), (3, 11), (9, 1)])
def test_last_step_falls_once_after_two_thirds(epochs: int, steps: int) -> None:
    settings = OptimiserSettings(schedule="last_step", warmup=0.0)
    total = epochs * steps
    rates = [rate_after(settings, step / total) for step in range(total)]
    kept = epochs * 2 // 3 * steps
    assert rates == [1.0] * kept + [0.1] * (total - kept)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_steps_are_those_of_the_plain_optimiser(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, (2, 3)), nn.BatchNorm2d(5))
    model.to(memory_format=torch.channels_last)
    other = deepcopy(model)
    fused = optimiser_of(model, OptimiserSettings(name=name, lr=0.1))
    assert fused.defaults["fused"]
    options = {key: fused.defaults[key] for key in ("lr", "weight_decay")}
    if name == "sgd":
        options |= {"momentum": 0.9, "nesterov": True}
    plain = type(fused)(other.parameters(), **options, fused=False)
    for _ in range(3):
        for one, wanted in zip(model.parameters(), other.parameters(), strict=True):
            one.grad, wanted.grad = torch.empty_like(one), torch.empty_like(wanted)
            wanted.grad.copy_(one.grad.normal_())
        fused.step()
        plain.step()
    for one, wanted in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, wanted, atol=1e-6)
