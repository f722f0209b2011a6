"""Each part of DAAM against a slow transcription of its equation, and every switch of it."""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rayreid.batch import Batch, Census, Unlabelled
from rayreid.methods.daam import DAAM, DAAMConfig
from rayreid.nn.adaptation import (
    Adversary,
    LogisticOneClass,
    OneClass,
    away_from_zero,
    domain_accuracy,
    domain_loss,
    domain_probe,
    logistic_one_class_loss,
    one_class_loss,
    reversed_gradient,
)
from rayreid.nn.attention import SplitAttention
from rayreid.nn.domain_norm import DomainNorm, source_statistics
from rayreid.nn.pseudo_labels import (
    Clusters,
    Neighbours,
    neighbour_labels,
    soft_cross_entropy,
    soft_labels,
)
from rayreid.nn.trunk import TrunkSettings

TRUNK = TrunkSettings(name="test_resnet", stride_one_stages=2)
SEEDS = st.integers(0, 10**6)
# Untrained embeddings lie in a narrow cone: two people of the street are .08 apart.
NEAR = 0.05
LOSSES = {"identity", "triplet", "domain", "specific", "target"}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(seed: int, *shape: int) -> Tensor:
    return F.normalize(random(seed, *shape), dim=-1)


class Street:
    """Crops of a target: a few people's, each with some noise of its own.

    Its cameras, one after the other, show all people.
    """

    def __init__(self, crops: int = 24, people: int = 4, cameras: int = 1):
        looks = random(100, people, 3, 64, 32)
        noise = 0.05 * random(101, crops, 3, 64, 32)
        self.people = np.arange(crops) % people
        self.cameras = np.arange(crops) // people % cameras
        self.images = (looks[self.people] + noise).sigmoid()

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Tensor]:
        yield from self.images.split(min(size, 7))


STREET = Street()


def batch(seed: int = 0, target: int = 12) -> Batch:
    identities = torch.arange(4).repeat_interleave(3)
    indices = torch.arange(target) * 5 % len(STREET)
    return Batch(
        images=random(seed, 12, 3, 64, 32).sigmoid(),
        identities=identities,
        cameras=torch.zeros(12, dtype=torch.int64),
        domains=identities // 2,
        target=STREET.images[indices],
        target_indices=indices,
    )


def daam(**config: object) -> DAAM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"projection": 16, "target_from_epoch": 0, "dbscan_radius": NEAR}
        # Few crops: each is among the 20 nearest of any other.
        small |= {"dbscan_distance": "euclidean", "initial_share": 0.5}
        settings = DAAMConfig.model_validate(small | config)
        return DAAM(settings, TRUNK, Census({"one": 2, "two": 2}), (64, 32)).train()


def losses(method: DAAM, one: Batch | None = None, epoch: int = 0) -> dict[str, float]:
    """Return the losses of a copy's first step of an epoch."""
    method = deepcopy(method)
    method.start_epoch(epoch, STREET)
    return {name: loss.item() for name, loss in method(one or batch()).items()}


# The equations.


@given(seed=SEEDS, source=st.integers(1, 5), target=st.integers(1, 5))
def test_one_class_loss_is_its_equation(seed: int, source: int, target: int) -> None:
    s, t, c = random(seed, source, 3), random(seed + 1, target, 3), random(seed + 2, 3)
    per_domain = [sum(math.dist(x, c) ** 2 for x in d) / len(d) for d in (s, t)]
    loss = one_class_loss(s, t, c).item()
    assert loss == pytest.approx(sum(per_domain) / 2, rel=1e-4)
    assert loss >= 0
    if source == target:
        total = sum(math.dist(x, c) ** 2 for x in torch.cat([s, t]))
        assert loss == pytest.approx(total / (2 * source), rel=1e-4), "1/(2B) of the sum"


@given(seed=SEEDS, moved=st.integers(0, 6))
def test_one_class_loss_is_zero_where_all_are_at_the_centre_alone(seed: int, moved: int) -> None:
    c = random(seed, 4)
    points = c.repeat(7, 1)
    assert one_class_loss(points[:3], points[3:], c).item() == 0
    points[moved, 0] += 0.1
    assert one_class_loss(points[:3], points[3:], c).item() > 1e-4


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=9))
def test_a_centre_is_pushed_away_from_zero(values: list[float]) -> None:
    for before, after in zip(values, away_from_zero(torch.tensor(values)).tolist(), strict=True):
        wanted = math.copysign(max(abs(before), 0.1), before if before else 1.0)
        assert after == pytest.approx(wanted)


@given(seed=SEEDS)
def test_logistic_one_class_loss_is_its_equation(seed: int) -> None:
    shared = random(seed, 3), random(seed + 1, 5)
    specific = random(seed + 2, 3), random(seed + 3, 5)

    def d(z: Tensor) -> float:
        return 1 / (1 + math.exp(-z))

    own = [sum(math.log(d(z)) for z in part) / len(part) for part in shared]
    others = [sum(math.log(1 - d(z)) for z in part) / len(part) for part in specific]
    slow = -sum(own) / 2 - sum(others) / 2
    assert logistic_one_class_loss(shared, specific).item() == pytest.approx(slow, rel=1e-4)


@given(seed=SEEDS, source=st.integers(1, 5), target=st.integers(1, 5))
def test_domain_loss_and_accuracy_weigh_the_domains_alike(
    seed: int, source: int, target: int
) -> None:
    s, t = random(seed, source, 2), random(seed + 1, target, 2)
    terms = [
        sum(math.log(sum(z.exp())) - z[k] for z in part) / len(part)
        for k, part in enumerate((s.double(), t.double()))
    ]
    assert domain_loss(s, t).item() == pytest.approx(sum(terms).item() / 2, rel=1e-4)
    right = [sum(z[0] >= z[1] for z in s) / source, sum(z[1] > z[0] for z in t) / target]
    assert domain_accuracy(s, t).item() == pytest.approx(sum(right).item() / 2)


def test_the_probe_tells_domains_by_crops_whose_people_it_has_not_seen() -> None:
    identities = torch.tensor([7, 7, 3, 3, 9, 9])
    s, t = random(0, 6, 4), random(1, 5, 4)
    # 3, 7, 9 are numbered 0, 1, 2: the mean is of 3 and 9, and 7 is tried.
    means = [s[2:].mean(0), t[[0, 2, 4]].mean(0)]
    right = [
        [math.dist(x, means[k]) < math.dist(x, means[1 - k]) for x in part]
        for k, part in enumerate((s[:2], t[[1, 3]]))
    ]
    slow = sum(sum(part) / len(part) for part in right) / 2
    assert domain_probe(s, t, identities).item() == pytest.approx(slow)
    assert domain_probe(s + 10, t - 10, identities).item() == 1
    many = torch.arange(2000)
    chance = domain_probe(random(2, 2000, 8), random(3, 2000, 8), many).item()
    assert chance == pytest.approx(0.5, abs=0.05)


@given(seed=SEEDS, labels=st.lists(st.integers(-1, 2), min_size=1, max_size=7))
def test_soft_labels_are_their_equation(seed: int, labels: list[int]) -> None:
    f, centres = unit(seed, len(labels), 5), unit(seed + 1, 3, 5)
    found = soft_labels(f, torch.tensor(labels), centres, 0.2, 0.5)
    for crop, label, row in zip(f, labels, found, strict=True):
        near = [math.exp(-math.dist(crop, centre) / 0.5) for centre in centres]
        spread = [0.2 * value / sum(near) + 0.8 * (k == label) for k, value in enumerate(near)]
        wanted = spread if label >= 0 else [0.0] * 3
        assert row.tolist() == pytest.approx(wanted, abs=1e-3)


@given(seed=SEEDS, labelled=st.lists(st.booleans(), min_size=1, max_size=6))
def test_soft_cross_entropy_is_of_the_labelled_alone(seed: int, labelled: list[bool]) -> None:
    logits = random(seed, len(labelled), 4)
    labels = random(seed + 1, len(labelled), 4).softmax(1) * torch.tensor(labelled)[:, None]
    terms = []
    for z, y, counted in zip(logits, labels, labelled, strict=True):
        total = sum(math.exp(v) for v in z)
        if counted:
            terms.append(-sum(p * (v - math.log(total)) for v, p in zip(z, y, strict=True)))
    slow = float(sum(terms)) / max(len(terms), 1)
    assert soft_cross_entropy(logits, labels).item() == pytest.approx(slow, rel=1e-4, abs=1e-6)


@given(seed=SEEDS, size=st.integers(1, 9), k=st.integers(1, 6))
def test_neighbour_labels_are_half_itself_half_the_nearest(seed: int, size: int, k: int) -> None:
    memory = unit(seed, size, 4)
    indices = torch.arange(size).flip(0)
    for i, row in zip(indices.tolist(), neighbour_labels(memory, indices, k), strict=True):
        others = sorted((math.dist(memory[i], memory[j]), j) for j in range(size) if j != i)[:k]
        wanted = [0.0] * size
        wanted[i] = 0.5 if others else 1.0
        for _, j in others:
            wanted[j] = 0.5 / len(others)
        assert row.tolist() == pytest.approx(wanted)


def test_losses_pass_gradcheck() -> None:
    def double(seed: int, *shape: int) -> Tensor:
        return random(seed, *shape).double().requires_grad_()

    def check(function: object, *inputs: Tensor) -> bool:
        return torch.autograd.gradcheck(function, inputs)

    centre = random(0, 3).double()
    assert check(lambda s, t: one_class_loss(s, t, centre), double(1, 4, 3), double(2, 5, 3))
    logits = [double(seed, 4) for seed in range(4)]
    assert check(lambda a, b, c, d: logistic_one_class_loss((a, b), (c, d)), *logits)
    assert check(domain_loss, double(5, 4, 2), double(6, 3, 2))
    f, memory = double(7, 4, 5), F.normalize(random(8, 9, 5)).double()
    labels = soft_labels(memory[:4], torch.tensor([0, 2, -1, 1]), memory[:3], 0.1, 0.2)
    assert check(lambda x: soft_cross_entropy(F.normalize(x) @ memory[:3].T, labels), f)
    neighbours = Neighbours(memory, 3, 0.5, 0.9)
    assert check(lambda x: neighbours.loss(F.normalize(x), torch.arange(4)), f)


# Attention.


@given(seed=SEEDS, kind=st.sampled_from(["channel", "spatial", "both"]))
@torch.no_grad()
def test_attention_is_the_product_of_its_gates(seed: int, kind: str) -> None:
    torch.manual_seed(seed)
    attention = SplitAttention(6, 2, kind, 0.5)
    maps = random(seed, 2, 6, 4, 3)
    wanted = torch.ones_like(maps)
    assert set(attention.gates) == ({"channel", "spatial"} if kind == "both" else {kind})
    if kind != "spatial":
        _, squeeze, _, expand = attention.gates["channel"]
        for b in range(2):
            inner = squeeze.weight[:, :, 0, 0] @ maps[b].mean((1, 2)) + squeeze.bias
            outer = expand.weight[:, :, 0, 0] @ inner.relu() + expand.bias
            wanted[b] *= outer.sigmoid()[:, None, None]
    if kind != "channel":
        mean, around = attention.gates["spatial"]
        assert torch.allclose(mean(maps), maps.mean(1, keepdim=True), atol=1e-6)
        padded = F.pad(maps.mean(1), (1, 1, 1, 1))
        for i in range(4):
            for j in range(3):
                near = (padded[:, i : i + 3, j : j + 3] * around.weight[0, 0]).sum((1, 2))
                wanted[:, :, i, j] *= (near + around.bias).sigmoid()[:, None]
    found = attention(maps)
    assert found.shape == maps.shape
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (found > 0).all()
    assert (found < 1).all()


@pytest.mark.parametrize("kind", ["channel", "spatial", "both"])
def test_attention_begins_at_a_half_and_reaches_every_parameter(kind: str) -> None:
    attention = SplitAttention(32, 4, kind, 0.5)
    assert attention(torch.zeros(2, 32, 4, 2)).mean().item() == pytest.approx(0.5, abs=0.1)
    attention(random(0, 4, 32, 4, 2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in attention.parameters())


@given(seed=SEEDS)
def test_both_maps_add_up_to_the_trunks(seed: int) -> None:
    method = daam().eval()
    images = random(seed, 2, 3, 64, 32).sigmoid()
    with torch.no_grad():
        whole = method.trunk(images)
        a = method.attention(whole)
        found = method._features(images)
    assert torch.allclose(found.shared + found.specific, whole.mean((2, 3)), atol=1e-5)
    assert torch.allclose(found.shared, (a * whole).mean((2, 3)), atol=1e-5)
    assert torch.allclose(found.specific, ((1 - a) * whole).mean((2, 3)), atol=1e-5)
    assert ((a > 0) & (a < 1)).all()


# Domain similarity.


def pair(seed: int) -> tuple[Tensor, Tensor]:
    return random(seed, 6, 8) + 1, random(seed + 1, 4, 8) - 1


def test_the_centre_is_the_first_mean_then_follows_or_stays() -> None:
    for decay in (1.0, 0.5):
        torch.manual_seed(0)
        one = OneClass(8, 5, decay)
        assert one.projection.bias is None
        assert not one.centre.any()
        centre = None
        for step in range(3):
            phi = [F.normalize(f) @ one.projection.weight.T for f in pair(10 * step)]
            mean = sum(p.mean(0) for p in phi) / 2
            centre = away_from_zero(mean) if centre is None else centre
            loss = one(pair(10 * step), pair(99))
            assert loss.item() == pytest.approx(one_class_loss(*phi, centre).item(), rel=1e-5)
            centre = away_from_zero(decay * centre + (1 - decay) * mean)
            assert torch.allclose(one.centre, centre, atol=1e-6)
        one.eval()(pair(50), pair(99))
        assert torch.allclose(one.centre, centre, atol=1e-6), "only training moves it"
        assert "centre" in one.state_dict()


@pytest.mark.parametrize("kind", [OneClass, LogisticOneClass, Adversary])
def test_shrinking_features_lowers_no_domain_loss(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    loss = kind(8, 5, 1.0) if kind is OneClass else kind(8)
    shared, specific = pair(0), pair(2)
    small = tuple(f * 1e-3 for f in shared)
    assert loss(small, specific).item() == pytest.approx(loss(shared, specific).item(), rel=1e-5)


def test_logistic_scores_specific_features_as_counter_examples() -> None:
    loss = LogisticOneClass(8)
    shared, specific = pair(0), pair(2)
    scores = [
        tuple(F.normalize(f) @ loss.scorer.weight[0] + loss.scorer.bias for f in kind)
        for kind in (shared, specific)
    ]
    assert loss(shared, specific).item() == pytest.approx(logistic_one_class_loss(*scores).item())


def test_reversal_flips_the_gradient_of_features_alone() -> None:
    x = random(0, 3, 4).requires_grad_()
    assert torch.equal(reversed_gradient(x), x)
    (reversed_gradient(x) * random(1, 3, 4)).sum().backward()
    assert torch.equal(x.grad, -random(1, 3, 4))
    loss = Adversary(8)
    shared = tuple(f.requires_grad_() for f in pair(0))
    loss(shared, pair(2)).backward()
    told = loss.classifier.weight.grad.clone()
    against = [f.grad.clone() for f in shared]
    plain = tuple(f.detach().requires_grad_() for f in shared)
    loss.zero_grad()
    domain_loss(*(loss.classifier(F.normalize(f)) for f in plain)).backward()
    assert torch.allclose(loss.classifier.weight.grad, told)
    for flipped, f in zip(against, plain, strict=True):
        assert torch.allclose(flipped, -f.grad)


@pytest.mark.parametrize("kind", ["svdd", "logistic", "reversal"])
def test_domain_losses_ignore_who_is_who(kind: str) -> None:
    one = batch()
    other = replace(one, identities=one.identities.flip(0) * 2 % 4)
    before, after = (losses(daam(domain_loss=kind), b) for b in (one, other))
    assert after["domain"] == before["domain"]
    assert after["specific"] == before["specific"]
    assert after["target"] == before["target"]
    assert after["identity"] != before["identity"]


# Pseudo labels.


def _same_groups(labels: Tensor, groups: np.ndarray) -> bool:
    pairs = set(zip(labels.tolist(), groups.tolist(), strict=True))
    return len(pairs) == len(set(labels.tolist())) == len(set(groups.tolist()))


def prepared(**config: object) -> DAAM:
    """Return a method that has labelled the street's crops."""
    method = daam(**config)
    method.start_epoch(0, STREET)
    return method


CLUSTERED = {
    "dbscan": {"clustering": "dbscan"},
    "kmeans": {"clustering": "kmeans", "kmeans_clusters": 5},
    "neighbours": {"target_loss": "neighbours", "neighbours": 3},
}


@pytest.mark.parametrize("kind", CLUSTERED)
def test_labels_follow_from_weights_and_crops_alone(kind: str) -> None:
    method, twin = daam(**CLUSTERED[kind]), daam(**CLUSTERED[kind])
    weights = {name: value.clone() for name, value in method.state_dict().items()}
    method.start_epoch(0, STREET)
    assert method.training
    assert all(torch.equal(value, weights[name]) for name, value in method.state_dict().items())
    assert method.state_dict().keys() == weights.keys(), "labels are no part of the state"
    twin.start_epoch(3, STREET)
    twin(batch())
    torch.rand(5)
    twin.load_state_dict(weights)
    twin.eval().start_epoch(0, STREET)
    assert not twin.training
    if kind == "neighbours":
        assert torch.equal(method.labels.memory, twin.labels.memory)
    else:
        assert torch.equal(method.labels.labels, twin.labels.labels)
        assert torch.equal(method.labels.centres, twin.labels.centres)


def test_crops_are_embedded_in_eval_mode_at_unit_length() -> None:
    method = prepared(target_loss="neighbours")
    wanted = F.normalize(method.eval().embed(STREET.images))
    assert torch.allclose(method.labels.memory, wanted, atol=1e-5)
    assert not method.labels.memory.requires_grad
    assert isinstance(STREET, Unlabelled)


def test_frozen_norms_stay_frozen_through_an_epochs_start() -> None:
    settings = DAAMConfig(target_from_epoch=0)
    trunk = TRUNK.model_copy(update={"frozen_norms": True})
    method = DAAM(settings, trunk, Census({"one": 4}), (64, 32)).train()
    method.start_epoch(0, STREET)
    frozen = [m for m in method.trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert frozen
    assert not any(m.training for m in frozen)
    assert method.neck.training


def test_the_street_is_clustered_by_its_people() -> None:
    method = prepared(**CLUSTERED["dbscan"])
    assert method.labels.labels.tolist() == [i % 4 for i in range(24)]
    method(batch())
    assert method.monitors()["clusters"].item() == 4
    assert method.monitors()["clustered"].item() == 1


@pytest.mark.parametrize("kind", ["dbscan", "kmeans"])
@pytest.mark.parametrize("centred", [True, False])
def test_what_a_camera_does_to_all_its_crops_makes_no_clusters(
    kind: str, centred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    street = Street(cameras=2)
    person, camera = torch.eye(6), 9 * torch.eye(6)[4:]
    seen = F.normalize(person[street.people] + camera[street.cameras])
    monkeypatch.setattr(DAAM, "_embedded", lambda *_: seen)
    method = daam(**CLUSTERED[kind] | {"kmeans_clusters": 4 if centred else 2}, dbscan_radius=0.4,
                  centre_cameras=centred)  # fmt: skip
    method.start_epoch(0, street)
    assert _same_groups(method.labels.labels, street.people if centred else street.cameras)


def test_cluster_loss_is_its_sum() -> None:
    embeddings, f = unit(0, 6, 5), unit(1, 3, 5)
    labels = torch.tensor([0, 1, -1, 1, 0, 2])
    clusters = Clusters(embeddings, labels, 0.2, 0.5, 0.1)
    indices = torch.tensor([4, 2, 1])
    centres = [F.normalize(embeddings[labels == k].mean(0), dim=0) for k in range(3)]
    terms = []
    for crop, i in zip(f, indices.tolist(), strict=True):
        if labels[i] < 0:
            continue
        near = torch.tensor([-math.dist(embeddings[i], c) / 0.5 for c in centres]).softmax(0)
        y = 0.8 * F.one_hot(labels[i], 3) + 0.2 * near
        logits = torch.stack([crop @ c / 0.1 for c in centres])
        terms.append(-(y * (logits - logits.exp().sum().log())).sum().item())
    assert clusters.loss(f, indices).item() == pytest.approx(sum(terms) / 2, rel=1e-3)
    assert (clusters.count, clusters.share) == (3, pytest.approx(5 / 6))


def test_without_a_cluster_the_loss_is_zero_with_a_graph() -> None:
    method = prepared(dbscan_radius=1e-3)
    found = method(batch())
    assert found["target"].item() == 0
    sum(found.values()).backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert method.monitors()["clusters"].item() == method.monitors()["clustered"].item() == 0


def test_neighbour_loss_is_its_sum_and_memory_follows() -> None:
    memory, f, indices = unit(0, 7, 5), unit(1, 2, 5), torch.tensor([3, 6])
    neighbours = Neighbours(memory, 2, 0.1, 0.75)
    terms = []
    for crop, i in zip(f, indices.tolist(), strict=True):
        cosines = [(memory[i] @ memory[j]).item() for j in range(7)]
        nearest = sorted((j for j in range(7) if j != i), key=lambda j: -cosines[j])[:2]
        logits = torch.stack([crop @ m / 0.1 for m in memory])
        surprise = logits.exp().sum().log() - logits
        terms.append((surprise[i] / 2 + surprise[nearest].sum() / 4).item())
    assert neighbours.loss(f, indices).item() == pytest.approx(sum(terms) / 2, rel=1e-3)
    neighbours.remember(f, indices)
    for j in range(7):
        wanted = memory[j]
        if j in indices:
            wanted = F.normalize(0.75 * wanted + 0.25 * f[indices.tolist().index(j)], dim=0)
        assert torch.allclose(neighbours.memory[j], wanted, atol=1e-6)
    kept = neighbours.memory
    neighbours.remember(torch.full((2, 5), torch.nan), indices)
    assert torch.equal(neighbours.memory, kept), "NaN is not remembered"


@pytest.mark.parametrize("kind", CLUSTERED)
def test_target_loss_begins_at_its_epoch_and_names_stay(kind: str) -> None:
    method = daam(**CLUSTERED[kind] | {"target_from_epoch": 2})
    seen = [losses(method, epoch=epoch) for epoch in range(4)]
    assert [one["target"] > 0 for one in seen] == [False, False, True, True]
    assert all(set(one) == LOSSES for one in seen)
    method.start_epoch(2, STREET)
    method.start_epoch(1, STREET)
    assert method.labels is None, "an earlier epoch knows no labels"
    method.start_epoch(0)
    with pytest.raises(ValueError, match="unlabelled crops of a target"):
        method.start_epoch(2)


# The whole.


@pytest.mark.parametrize("kind", CLUSTERED)
@pytest.mark.parametrize("domain", ["svdd", "logistic", "reversal"])
@pytest.mark.parametrize("norms", ["specific", "separate", "shared"])
def test_every_parameter_learns_in_every_step(kind: str, domain: str, norms: str) -> None:
    method = daam(**CLUSTERED[kind], domain_loss=domain, norms=norms)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 1e-3)
    for epoch in range(2):
        # One step first: residual branches start with a gain of zero, which no gradient passes.
        method.start_epoch(epoch, STREET)
        optimiser.zero_grad()
        sum(method(batch(epoch)).values()).backward()
        optimiser.step()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("config", "gone", "modules"),
    [
        ({"domain_weight": 0.0}, {"domain"}, {"similarity"}),
        ({"specific_weight": 0.0}, {"specific"}, {"specific"}),
        ({"target_weight": 0.0}, {"target"}, set()),
        ({"source_only": True}, LOSSES - {"identity", "triplet"}, {"similarity", "specific"}),
    ],
)
def test_what_has_no_weight_is_not_there(
    config: dict[str, object], gone: set[str], modules: set[str]
) -> None:
    method, whole = daam(**config), daam()
    assert set(losses(method)) == LOSSES - gone
    left = {name for name, _ in whole.named_children()} - {n for n, _ in method.named_children()}
    assert left == modules
    sum(method(batch()).values()).backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    monitors = set(method.monitors())
    assert ("specific_domain_accuracy" in monitors) == ("specific" not in gone)
    assert ("clusters" in monitors) == ("target" not in gone)
    assert "attention" in monitors


def of_target(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with plain normalisations for those by domain, which are the target's."""
    by_domain = [k.removesuffix("source_running_mean") for k in state if "source_running_mean" in k]
    plain = {k: v for k, v in state.items() if ".source_" not in k}
    for name in by_domain:
        plain = {k.replace(f"{name}norm.", name): v for k, v in plain.items()}
    return plain


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ({"identity_weight": 2.0}, {"identity"}),
        ({"triplet_weight": 2.0}, {"triplet"}),
        ({"domain_weight": 0.2}, {"domain"}),
        ({"specific_weight": 0.2}, {"specific"}),
        ({"target_weight": 2.0}, {"target"}),
        ({"smoothing": 0.3}, {"identity"}),
        ({"margin": 1.0}, {"triplet"}),
        ({"soften": 0.3}, {"target"}),
        ({"soften_temperature": 1.0}, {"target"}),
        ({"temperature": 0.1}, {"target"}),
        ({"clustering": "kmeans", "kmeans_clusters": 7}, {"target"}),
        ({"target_loss": "neighbours"}, {"target"}),
        ({"dbscan_radius": 1e-3}, {"target"}),
        ({"dbscan_distance": "jaccard", "dbscan_radius": 0.999}, {"target"}),
        ({"dbscan_neighbours": 7}, {"target"}),
        ({"target_from_epoch": 1}, {"target"}),
        ({"centre_decay": 1.0}, set()),
        ({"memory_momentum": 0.5}, set()),
        ({"norms": "separate"}, set()),
        ({"norms": "shared"}, LOSSES),
        ({"initial_share": 0.9}, set()),  # the weights of the first are loaded into the second
        ({"attention": "channel"}, LOSSES),
        ({"attention": "spatial"}, LOSSES),
    ],
)
def test_a_switch_changes_its_losses_and_no_other(
    changed: dict[str, object], moved: set[str]
) -> None:
    # The modules that both have get the same weights, trained a little: no gain is the first.
    plain, other = daam(), daam(**changed)
    optimiser = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], 1e-2)
    for step in range(3):
        sum(plain(batch(step + 1)).values()).backward()
        optimiser.step()
    state = plain.state_dict()
    if changed.get("norms"):
        state = of_target(state)
    other.load_state_dict(state, strict="attention" not in changed)
    before, after = losses(plain), losses(other)
    assert {name for name in LOSSES if after[name] != before[name]} == moved


def test_domain_losses_differ_in_the_domain_loss_alone() -> None:
    plain, found = daam(), {}
    for kind in ("svdd", "logistic", "reversal"):
        other = daam(domain_loss=kind)
        own = {k: v for k, v in other.state_dict().items() if k.startswith("similarity")}
        shared = {k: v for k, v in plain.state_dict().items() if not k.startswith("similarity")}
        other.load_state_dict(shared | own)
        found[kind] = losses(other)
    domain = [one.pop("domain") for one in found.values()]
    assert len(set(domain)) == 3
    assert found["svdd"] == found["logistic"] == found["reversal"]


def test_norms_are_of_each_domain_alone() -> None:
    def changed(norms: str, domain: str) -> set[str]:
        """Return which statistics another batch of a domain leaves otherwise."""
        states = []
        for seed in (0, 1):
            method, one = daam(norms=norms), batch()
            part = {domain: random(seed, 12, 3, 64, 32).sigmoid()}
            method(replace(one, **part))
            states.append(method.state_dict())
        return {
            name
            for name, value in states[0].items()
            if "running" in name and not torch.equal(value, states[1][name])
        }

    for domain, prefix in (("images", "source_"), ("target", "norm.running")):
        before_dsp = {n for n in changed("specific", domain) if not n.startswith("specific")}
        assert before_dsp
        assert all(prefix in name for name in before_dsp)
    assert changed("separate", "images") == changed("separate", "target")
    assert not any(isinstance(m, DomainNorm) for m in daam(norms="separate").modules())
    assert not any(isinstance(m, DomainNorm) for m in daam().specific.modules())


def test_mixed_batches_leak_and_separate_ones_do_not() -> None:
    one = batch()
    other = replace(one, target=random(7, 12, 3, 64, 32).sigmoid())
    for norms in ("specific", "separate", "shared"):
        before, after = (losses(daam(norms=norms), b) for b in (one, other))
        assert (before["identity"] == after["identity"]) == (norms != "shared")


def test_embeddings_are_by_the_targets_statistics() -> None:
    method = daam()
    for seed in range(3):
        method(batch(seed))
    method.eval()
    with torch.no_grad():
        embedded = method.embed(STREET.images[:4])
        with source_statistics(method):
            by_source = method.embed(STREET.images[:4])
        for module in method.modules():
            if isinstance(module, DomainNorm):
                module.source_running_mean.zero_()
        assert torch.equal(method.embed(STREET.images[:4]), embedded)
        alone = torch.cat([method.embed(image[None]) for image in STREET.images[:4]])
        norm = method.neck.norm.norm
        f = method._features(STREET.images[:4]).shared
        f = (f - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight
        assert torch.equal(method._features(STREET.images[:4]).embedding, embedded)
    assert not torch.allclose(by_source, embedded, rtol=0.1)
    assert torch.allclose(alone, embedded, atol=1e-4)
    assert torch.allclose(f, embedded, atol=1e-4)


def test_source_only_is_plain_and_knows_no_target() -> None:
    method = daam(source_only=True)
    assert not any(isinstance(m, DomainNorm) for m in method.modules())
    alone = replace(batch(), target=None, target_indices=None)
    method.start_epoch(0)
    assert losses(method, alone) == losses(method, batch())
    assert set(method(alone)) == {"identity", "triplet"}


def test_a_batch_without_a_target_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"this batch has none; set target=LAYOUT=LOCATION$"):
        daam()(replace(batch(), target=None, target_indices=None))


def test_monitors_are_figures_of_the_last_forward() -> None:
    method = prepared()
    assert method.monitors() == {}
    method(batch())
    monitors = method.monitors()
    assert set(monitors) == {
        "attention",
        "shared_domain_accuracy",
        "specific_domain_accuracy",
        "clusters",
        "clustered",
    }
    assert all(v.ndim == 0 and v.isfinite() and not v.requires_grad for v in monitors.values())
    assert 0.2 < monitors["attention"] < 0.8
    assert all(0 <= monitors[name] <= 1 for name in monitors if name != "clusters")
    deepcopy(method)


def test_the_specific_branch_learns_to_tell_the_domains() -> None:
    method = daam(target_weight=0.0, specific_weight=1.0)
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 1e-3)
    for _ in range(8):
        optimiser.zero_grad()
        sum(method(batch()).values()).backward()
        optimiser.step()
    assert method.monitors()["specific_domain_accuracy"] > 0.9


def test_losses_are_fp32_in_bf16() -> None:
    for config in CLUSTERED.values():
        method = daam(**config)
        with torch.autocast("cpu", torch.bfloat16):
            method.start_epoch(0, STREET)
            found = method(batch())
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in found.values())
        sum(found.values()).backward()


GOLDEN = [
    (
        {},
        {
            "identity": 1.38698,
            "triplet": 0.453851,
            "domain": 0.00683778,
            "specific": 0.0800141,
            "target": 1.03948,
        },
    ),
    (
        CLUSTERED["kmeans"]
        | {"domain_loss": "logistic", "norms": "separate", "attention": "channel"},
        {
            "identity": 1.38443,
            "triplet": 0.441565,
            "domain": 0.138534,
            "specific": 0.0734622,
            "target": 1.26135,
        },
    ),
    (
        {
            "target_loss": "neighbours",
            "domain_loss": "reversal",
            "norms": "shared",
            "attention": "spatial",
        },
        {
            "identity": 1.38827,
            "triplet": 0.451144,
            "domain": 0.068958,
            "specific": 0.0850858,
            "target": 2.79535,
        },
    ),
]


@pytest.mark.parametrize(("config", "golden"), GOLDEN)
def test_losses_are_what_they_were(config: dict[str, object], golden: dict[str, float]) -> None:
    assert losses(daam(**config), batch(3)) == pytest.approx(golden, rel=1e-3)
