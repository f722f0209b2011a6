"""The losses that a method learns from, term by term against sums over crops and pairs."""

from collections.abc import Callable
from copy import deepcopy
from itertools import combinations

import pytest
import torch
from torch import Tensor

from rayreid.batch import Batch, Census
from rayreid.methods.baseline import Baseline, BaselineConfig
from rayreid.methods.gmn import GMN, GMNConfig
from rayreid.nn.trunk import TrunkSettings

TRUNK = TrunkSettings(name="test_resnet", stride_one_stages=2)
CENSUS = Census({"one": 3, "two": 2})
# Two domains in no order; identity 4 has one crop, so no positive pair and no anchor.
PEOPLE = [3, 0, 1, 0, 2, 3, 1, 0, 4, 2, 3, 1]


def batch() -> Batch:
    identities = torch.tensor(PEOPLE)
    images = torch.rand(len(PEOPLE), 3, 64, 32, generator=torch.Generator().manual_seed(1))
    return Batch(images, identities, torch.zeros_like(identities), (identities >= 3).long())


def spread(method: GMN | Baseline) -> None:
    """Put the method in training mode, its layers far from the small or plain initial ones.

    Near-zero logits, or scales of one, would let one feature pass for another.
    """
    method.train()
    with torch.no_grad():
        method.classifier.weight.normal_(0, 0.3)
        for norm in method.modules():
            if isinstance(norm, torch.nn.BatchNorm1d):
                norm.weight.uniform_(0.5, 2)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)


def gmn(**config: object) -> GMN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = GMNConfig.model_validate(
            {"hidden": 16, "negative_ratio": 0, "dropout_rate": 0.0, **config}
        )
        method = GMN(settings, TRUNK, CENSUS, (64, 32))
        spread(method)
    return method


def baseline(**config: object) -> Baseline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = Baseline(BaselineConfig.model_validate(config), TRUNK, CENSUS, (64, 32))
        spread(method)
    return method


def features(method: GMN | Baseline) -> tuple[Tensor, Tensor]:
    """Return t and f by this batch's statistics, as in a step of training."""
    pooled = deepcopy(method).trunk(batch().images).mean((2, 3))
    deviation = (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    return pooled, (pooled - pooled.mean(0)) / deviation * method.neck.norm.weight


def slow_identity(method: GMN | Baseline, smoothing: float) -> float:
    _, f = features(method)
    terms = []
    for crop, person in zip(f, PEOPLE, strict=True):
        logits = method.classifier.weight @ crop
        surprise = [(logits.exp().sum().log() - logit).item() for logit in logits]
        terms.append((1 - smoothing) * surprise[person] + smoothing * sum(surprise) / len(surprise))
    return sum(terms) / len(terms)


def slow_triplet(method: GMN | Baseline, margin: float) -> float:
    t, _ = features(method)
    terms = []
    for a, person in enumerate(PEOPLE):
        apart = [(t[a] - t[b]).norm().item() for b in range(len(PEOPLE))]
        same = [apart[b] for b, who in enumerate(PEOPLE) if who == person and b != a]
        others = [apart[b] for b, who in enumerate(PEOPLE) if who != person]
        if same:
            terms.append(max(0.0, max(same) - min(others) + margin))
    return sum(terms) / len(terms)


def scaled(method: GMN) -> Tensor:
    _, f = features(method)
    if method.config.feature_norm == "l2":
        f = torch.stack([crop / crop.norm() * len(crop) ** 0.5 for crop in f])
    return f


def pairs(across: bool) -> list[tuple[int, int]]:
    """Return all pairs of crops, or those of one domain."""
    domains = batch().domains.tolist()
    every = combinations(range(len(PEOPLE)), 2)
    return [(a, b) for a, b in every if across or domains[a] == domains[b]]


def slow_pair(method: GMN) -> float:
    f, config = scaled(method), method.config
    counted = pairs(config.cross_domain_negatives)
    positives = [pair for pair in counted if PEOPLE[pair[0]] == PEOPLE[pair[1]]]
    negatives = [pair for pair in counted if PEOPLE[pair[0]] != PEOPLE[pair[1]]]
    if config.negative_ratio:
        frozen = deepcopy(method.metric).eval()
        negatives.sort(key=lambda p: -frozen((f[p[0]] - f[p[1]])[None] ** 2).item())
        negatives = negatives[: config.negative_ratio * len(positives)]
    chosen = positives + negatives
    logits = deepcopy(method.metric)(torch.stack([(f[a] - f[b]) ** 2 for a, b in chosen]))
    surprise = 1 + (logits * torch.tensor([-1.0] * len(positives) + [1.0] * len(negatives))).exp()
    terms = surprise.log().tolist()
    split = len(positives)
    return sum(terms[:split]) / split / 2 + sum(terms[split:]) / len(negatives) / 2


def slow_pair_centre(method: GMN) -> float:
    # Pairs of two domains are in no pair-identity, whichever negatives M-Net learns from.
    f = scaled(method)
    by_identity: dict[frozenset[int], list[Tensor]] = {}
    for a, b in pairs(across=False):
        by_identity.setdefault(frozenset({PEOPLE[a], PEOPLE[b]}), []).append((f[a] - f[b]) ** 2)
    kinds: dict[bool, list[float]] = {True: [], False: []}
    for who, members in by_identity.items():
        centre = torch.stack(members).mean(0)
        kinds[len(who) == 1] += [((s - centre) ** 2).mean().item() for s in members]
    return sum(sum(kind) / len(kind) for kind in kinds.values()) / 2


@pytest.mark.parametrize("make", [gmn, baseline])
@pytest.mark.parametrize(("smoothing", "margin"), [(0.1, 0.3), (0.4, 2.0)])
def test_classifier_sees_f_and_the_triplet_loss_sees_t(
    make: Callable[..., GMN | Baseline], smoothing: float, margin: float
) -> None:
    method = make(smoothing=smoothing, margin=margin, identity_weight=2.0, triplet_weight=0.5)
    losses = deepcopy(method)(batch())
    assert losses["identity"].item() == pytest.approx(2 * slow_identity(method, smoothing), 1e-3)
    assert losses["triplet"].item() == pytest.approx(slow_triplet(method, margin) / 2, 1e-3)
    assert losses["triplet"].item() > 0


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"depth": 0},
        {"cross_domain_negatives": True},
        {"feature_norm": "l2"},
        {"negative_ratio": 1},
        {"negative_ratio": 2, "cross_domain_negatives": True, "depth": 2},
    ],
)
def test_pair_losses_are_sums_over_pairs(config: dict[str, object]) -> None:
    method = gmn(pair_weight=2.0, pair_centre_weight=0.5, **config)
    losses = deepcopy(method)(batch())
    assert set(losses) == {"identity", "triplet", "pair", "pair_centre"}
    assert losses["pair"].item() == pytest.approx(2 * slow_pair(method), 1e-3)
    assert losses["pair_centre"].item() == pytest.approx(slow_pair_centre(method) / 2, 1e-3)


def test_features_are_those_of_the_trunk_and_the_neck() -> None:
    # What the slow sums above start from, in eval mode: f as it is ranked.
    for method in (gmn(), baseline()):
        pooled = method.eval().trunk(batch().images).mean((2, 3))
        norm = method.neck.norm
        f = (pooled - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight
        assert torch.allclose(method.embed(batch().images), f, atol=1e-4)
