"""Batch normalisation by domain, against the plain one that it holds."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from rayreid.nn.domain_norm import DomainNorm, separate_domains, source_statistics

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def batch(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (6, 4, 3, 2), generator=generator) * (seed + 1) + seed


def norm() -> nn.BatchNorm2d:
    """Return a normalisation that has seen something: no gain or statistic is the initial one."""
    plain = nn.BatchNorm2d(4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (plain.weight, plain.bias, plain.running_mean, plain.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(4, generator=generator) + 0.5)
    return plain


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Conv2d(4, 4, 1), norm(), nn.ReLU())
        return nn.Sequential(inner, nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5))


def test_each_domain_is_normalised_as_if_alone() -> None:
    both, source, target = DomainNorm(norm()), norm(), norm()
    for step in range(3):
        with source_statistics(both):
            assert torch.equal(both(batch(step)), source(batch(step)))
        assert torch.equal(both(batch(step + 5)), target(batch(step + 5)))
    for name in STATISTICS:
        assert torch.equal(both.get_buffer(f"source_{name}"), source.get_buffer(name))
        assert torch.equal(both.norm.get_buffer(name), target.get_buffer(name))
    both.eval()
    source.eval()
    target.eval()
    with source_statistics(both):
        assert torch.equal(both(batch(9)), source(batch(9)))
    assert torch.equal(both(batch(9)), target(batch(9)))
    assert not torch.equal(source(batch(9)), target(batch(9)))


def test_a_pass_leaves_the_other_domains_statistics_alone() -> None:
    both = DomainNorm(norm())
    before = {name: value.clone() for name, value in both.state_dict().items()}
    with source_statistics(both):
        both(batch(1))
    changed = {n for n, value in both.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {f"source_{name}" for name in STATISTICS}
    before = {name: value.clone() for name, value in both.state_dict().items()}
    both(batch(2))
    changed = {n for n, value in both.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {f"norm.{name}" for name in STATISTICS}


def test_both_domains_teach_one_gain_and_shift() -> None:
    both, plain = DomainNorm(norm()), norm()
    weights = batch(3)
    with source_statistics(both):
        (both(batch(1)) * weights).sum().backward()
    (both(batch(2)) * weights).sum().backward()
    (plain(batch(1)) * weights).sum().backward()
    (plain(batch(2)) * weights).sum().backward()
    assert torch.allclose(both.norm.weight.grad, plain.weight.grad)
    assert torch.allclose(both.norm.bias.grad, plain.bias.grad)


def test_every_norm_below_is_converted_and_nothing_else_changes() -> None:
    plain, converted = net(), net()
    separate_domains(converted)
    kinds = [type(module) for module in converted.modules()]
    assert kinds.count(DomainNorm) == 2
    assert sum(p.numel() for p in converted.parameters()) == sum(
        p.numel() for p in plain.parameters()
    )
    assert torch.equal(converted.eval()(batch(0)), plain.eval()(batch(0)))
    separate_domains(converted)
    assert [type(module) for module in converted.modules()] == kinds, "twice is once"


def test_norms_without_running_statistics_stay() -> None:
    plain = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4))
    separate_domains(plain)
    assert not any(isinstance(module, DomainNorm) for module in plain.modules())


def test_the_selection_ends_with_an_error_too() -> None:
    converted = net()
    separate_domains(converted)
    with pytest.raises(RuntimeError, match="shapes"), source_statistics(converted):
        converted(torch.zeros(2, 4, 1, 1))
    with source_statistics(nn.Linear(2, 2)):
        pass
    assert not any(m.of_source for m in converted.modules() if isinstance(m, DomainNorm))


def test_copies_and_saved_states_hold_both_domains() -> None:
    one = net()
    separate_domains(one)
    with source_statistics(one):
        one(batch(1))
    one(batch(2))
    other = net()
    separate_domains(other)
    # Safetensors refuses tensors that share memory.
    other.load_state_dict(load(save(one.state_dict())))
    for twin in (deepcopy(one), other):
        twin.eval()
        assert torch.equal(twin(batch(3)), one.eval()(batch(3)))
        with source_statistics(twin), source_statistics(one):
            assert torch.equal(twin(batch(3)), one(batch(3)))
    twin = deepcopy(one).train()
    twin(batch(4))
    assert not torch.equal(twin[0][1].norm.running_mean, one[0][1].norm.running_mean)
