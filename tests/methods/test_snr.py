"""Each part of SNR against a slow transcription of its equation, and what follows from them."""

import math
from copy import deepcopy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rayreid.batch import Batch, Census
from rayreid.methods.snr import (
    SNR,
    InstanceNorm,
    Restitution,
    SNRConfig,
    distances,
    dual_causality_loss,
    pooled,
)
from rayreid.nn.trunk import TrunkSettings
from rayreid.settings import checked

TRUNK = TrunkSettings(name="test_resnet", stride_one_stages=2)
CENSUS = Census({"one": 3, "two": 2})
# Two domains in no order; identity 4 has one crop, so no positive and no anchor.
PEOPLE = [3, 0, 1, 0, 2, 3, 1, 0, 4, 2, 3, 1]
LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=8)
SEEDS = st.integers(0, 10**6)
DISTANCES = ["cosine", "euclidean"]
POOLS = ["gap", "gap_relu", "gem"]
STAGES = [(1,), (4,), (2, 3), (1, 2, 3), (1, 2, 3, 4)]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(seed: int = 1) -> Batch:
    """Return crops with a tint each, which a random trunk tells apart."""
    identities = torch.tensor(PEOPLE)
    tints, noise = random(seed, len(PEOPLE), 3, 1, 1), random(seed + 1, len(PEOPLE), 3, 64, 32)
    images = (3 * tints + noise / 2).sigmoid()
    return Batch(images, identities, torch.zeros_like(identities), (identities >= 3).long())


def spread(module: torch.nn.Module) -> None:
    """Move norms and classifiers far from their initial values, where terms could be confused."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, InstanceNorm | torch.nn.BatchNorm1d):
                part.weight.uniform_(0.5, 2)
                part.bias.normal_(0, 0.3 if part.bias.requires_grad else 0)
            if isinstance(part, Restitution):
                for linear in (part.gate[0], part.gate[2]):
                    linear.weight.normal_(0, 2 * linear.in_features**-0.5)
            if isinstance(part, torch.nn.BatchNorm1d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
        if isinstance(module, SNR):
            module.classifier.weight.normal_(0, 0.3)


def snr(seed: int = 0, trunk: TrunkSettings = TRUNK, **config: object) -> SNR:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SNR(SNRConfig.model_validate(config), trunk, CENSUS, (64, 32)).train()


def trained(seed: int = 0, **config: object) -> SNR:
    method = snr(seed, **config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        spread(method)
    return method


def restitution(seed: int, channels: int = 6) -> Restitution:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Restitution(channels, 2)
        spread(module)
    return module


def losses(method: SNR, seed: int = 1) -> dict[str, float]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return {name: loss.item() for name, loss in method(batch(seed)).items()}


def beyond(config: SNRConfig, found: dict[str, float]) -> dict[str, float]:
    """Return the losses, those of a stage without the ln 2 a term that equal spaces cost.

    What a random trunk's cosines add to it is a hundredth or less, and easily missed.
    """
    equal = (4 if config.comparisons == "both" else 2) * math.log(2)
    return {
        name: loss / (config.low_weight if name[-1] in "12" else config.high_weight) - equal
        if name.startswith("causality")
        else loss
        for name, loss in found.items()
    }


# Slow transcriptions


def slow_branches(module: Restitution, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return F~, F+ and F-, crop by crop and channel by channel."""
    first, _, second, _ = module.gate
    branches = []
    for crop in maps:
        normalised = torch.empty_like(crop)
        for c, plane in enumerate(crop):
            deviation = (((plane - plane.mean()) ** 2).mean() + 1e-5).sqrt()
            normalised[c] = (plane - plane.mean()) / deviation * module.norm.weight[c]
            normalised[c] += module.norm.bias[c]
        residual = crop - normalised
        mean = torch.stack([plane.mean() for plane in residual])
        hidden = torch.stack(
            [(row @ mean + b).clamp(min=0) for row, b in zip(first.weight, first.bias, strict=True)]
        )
        a = torch.stack(
            [
                1 / (1 + (-(row @ hidden + b)).exp())
                for row, b in zip(second.weight, second.bias, strict=True)
            ]
        )
        given_back = torch.stack([a[c] * residual[c] for c in range(len(crop))])
        rest = torch.stack([(1 - a[c]) * residual[c] for c in range(len(crop))])
        branches.append((normalised, normalised + given_back, normalised + rest))
    normalised, restored, contaminated = zip(*branches, strict=True)
    return torch.stack(normalised), torch.stack(restored), torch.stack(contaminated)


def slow_pool(maps: Tensor, kind: str) -> Tensor:
    def one(plane: Tensor) -> float:
        values = [v.item() for v in plane.flatten()]
        if kind == "gem":
            return (sum(max(v, 1e-6) ** 3 for v in values) / len(values)) ** (1 / 3)
        return sum(max(v, 0) if kind == "gap_relu" else v for v in values) / len(values)

    return torch.tensor([[one(plane) for plane in crop] for crop in maps])


def slow_distance(x: Tensor, y: Tensor, kind: str) -> float:
    a, b = x.double().tolist(), y.double().tolist()
    if kind == "euclidean":
        return math.sqrt(max(1e-12, sum((i - j) ** 2 for i, j in zip(a, b, strict=True))))
    dot = sum(i * j for i, j in zip(a, b, strict=True))
    return 0.5 - dot / math.sqrt(sum(i * i for i in a) * sum(j * j for j in b))


def slow_hardest(f: Tensor, identities: list[int], a: int, kind: str) -> tuple[int, int]:
    def d(b: int) -> float:
        return slow_distance(f[a], f[b], kind)

    others = [b for b in range(len(f)) if b != a]
    positive = max((b for b in others if identities[b] == identities[a]), key=d)
    return positive, min((b for b in others if identities[b] != identities[a]), key=d)


def anchors(identities: list[int]) -> list[int]:
    """Return the crops that have a positive and a negative."""
    return [
        a
        for a, who in enumerate(identities)
        if identities.count(who) > 1 and len(set(identities)) > 1
    ]


Triplet = tuple[int, int, int]


def slow_terms(
    spaces: tuple[Tensor, Tensor, Tensor], triplets: tuple[Triplet, Triplet, Triplet], kind: str
) -> tuple[float, float]:
    """Return the terms of positive and those of negative pairs of L+ + L-, of one anchor."""
    (a, p, n), (a_plus, p_plus, n_plus), (a_minus, p_minus, n_minus) = triplets
    f, f_plus, f_minus = spaces
    near, far = (slow_distance(f[a], f[x], kind) for x in (p, n))
    near_plus, far_plus = (slow_distance(f_plus[a_plus], f_plus[x], kind) for x in (p_plus, n_plus))
    near_minus, far_minus = (
        slow_distance(f_minus[a_minus], f_minus[x], kind) for x in (p_minus, n_minus)
    )

    def sp(x: float) -> float:
        return math.log1p(math.exp(x))

    return (
        sp(near_plus - near) + sp(near - near_minus),
        sp(far - far_plus) + sp(far_minus - far),
    )


def slow_loss(
    spaces: tuple[Tensor, Tensor, Tensor],
    identities: list[int],
    kind: str,
    mining: str,
    comparisons: str = "both",
) -> float:
    sums = []
    for a in anchors(identities):
        mined = spaces if mining == "hard_each" else (spaces[1],) * 3
        triplets = tuple((a, *slow_hardest(f, identities, a, kind)) for f in mined)
        positive, negative = slow_terms(spaces, triplets, kind)
        kept = {"positive": positive, "negative": negative, "both": positive + negative}
        sums.append(kept[comparisons])
    return sum(sums) / len(sums) if sums else 0.0


def slow_losses(method: SNR) -> dict[str, float]:
    """Return all losses of a step of training from the trunk's stages on."""
    method = deepcopy(method)
    config, found = method.config, {}

    def after(number: int, maps: Tensor) -> Tensor:
        if number not in config.stages:
            return maps
        branches = slow_branches(method.after[str(number)], maps)
        weight = config.low_weight if number in (1, 2) else config.high_weight
        spaces = tuple(slow_pool(branch, config.ref_pool) for branch in branches)
        found[f"causality_{number}"] = weight * slow_loss(
            spaces, PEOPLE, config.distance, config.mining, config.comparisons
        )
        return branches[1]

    t = method.trunk(batch().images, after).mean((2, 3))
    f = (t - t.mean(0)) / (t.var(0, unbiased=False) + 1e-5).sqrt() * method.neck.norm.weight
    terms = []
    for crop, person in zip(f, PEOPLE, strict=True):
        logits = method.classifier.weight @ crop
        surprise = [(logits.exp().sum().log() - logit).item() for logit in logits]
        eps = config.smoothing
        terms.append((1 - eps) * surprise[person] + eps * sum(surprise) / len(surprise))
    found["identity"] = config.identity_weight * sum(terms) / len(terms)
    gaps = []
    for a in anchors(PEOPLE):
        p, n = slow_hardest(t, PEOPLE, a, "euclidean")
        gaps.append((t[a] - t[p]).norm().item() - (t[a] - t[n]).norm().item())
    soft = [math.log1p(math.exp(gap)) for gap in gaps]
    hinge = [max(0.0, gap + config.margin) for gap in gaps]
    found["triplet"] = config.triplet_weight * sum(hinge if config.margin else soft) / len(gaps)
    return found


# The module


@torch.no_grad()
def test_the_module_is_its_equations() -> None:
    module, maps = restitution(0), random(0, 4, 6, 3, 2)
    for branch, slow in zip(module.branches(maps), slow_branches(module, maps), strict=True):
        assert torch.allclose(branch, slow, atol=1e-5)
    assert torch.equal(module(maps), module.branches(maps)[1])


@given(seed=SEEDS, scale=st.floats(0.1, 2))
@torch.no_grad()
def test_averages_of_the_branches_are_those_of_their_maps(seed: int, scale: float) -> None:
    module, maps = restitution(seed), random(seed, 3, 6, 4, 2) * scale
    restored, averages = module.averages(maps)
    branches = slow_branches(module, maps)
    assert torch.allclose(restored, branches[1], rtol=1e-4, atol=1e-4)
    for average, branch in zip(averages, branches, strict=True):
        assert torch.allclose(average, branch.mean((2, 3)), rtol=1e-4, atol=1e-4)


@given(seed=SEEDS, scale=st.floats(0.1, 2))
@torch.no_grad()
def test_identities_of_the_module(seed: int, scale: float) -> None:
    module, maps = restitution(seed), random(seed, 3, 6, 4, 2) * scale
    normalised, restored, contaminated = module.branches(maps)
    assert torch.allclose(restored + contaminated, maps + normalised, rtol=1e-4, atol=1e-4)
    beta = module.norm.bias.expand(3, -1)
    assert torch.allclose(normalised.mean((2, 3)), beta, atol=1e-5)
    a = module.gate((maps - normalised).mean((2, 3)))
    assert ((a > 0) & (a < 1)).all()
    restored_mean = beta + a * (maps.mean((2, 3)) - beta)
    assert torch.allclose(restored.mean((2, 3)), restored_mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("everything", [True, False])
@torch.no_grad()
def test_an_open_gate_gives_all_back_and_a_closed_one_nothing(everything: bool) -> None:
    module, maps = restitution(1), random(1, 3, 6, 4, 2)
    module.gate[2].weight.zero_()
    module.gate[2].bias.fill_(40.0 if everything else -40.0)
    normalised = F.instance_norm(maps, weight=module.norm.weight, bias=module.norm.bias)
    expected, other = (maps, normalised) if everything else (normalised, maps)
    _, restored, contaminated = module.branches(maps)
    assert torch.allclose(restored, expected, atol=1e-6)
    assert torch.allclose(contaminated, other, atol=1e-6)


def test_a_gate_has_a_unit_to_so_many_channels_and_at_least_eight() -> None:
    widths = [Restitution(c, r).gate[0].out_features for c, r in [(256, 16), (256, 8), (64, 16)]]
    assert widths == [16, 32, 8]


@pytest.mark.parametrize("kind", POOLS)
def test_pools_are_their_means(kind: str) -> None:
    maps = random(2, 3, 5, 4, 2)
    assert torch.allclose(pooled(maps, kind), slow_pool(maps, kind), atol=1e-6)


@pytest.mark.parametrize("kind", POOLS)
def test_pools_of_a_dark_map_have_finite_gradients(kind: str) -> None:
    maps = -random(3, 2, 3, 4, 2).abs()
    maps[0] = 0
    maps.requires_grad_()
    pooled(maps, kind).sum().backward()
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("kind", POOLS)
@torch.no_grad()
def test_only_the_paper_s_pool_makes_the_normalised_feature_constant(kind: str) -> None:
    module, maps = restitution(2), random(4, 6, 6, 4, 2).exp()
    f = pooled(module.branches(maps)[0], kind)
    apart = [distances(f, f.roll(k, 0), d) for k in range(1, 6) for d in DISTANCES]
    by_distance = [torch.cat(apart[i::2]) for i in range(2)]
    constant = [(d.max() - d.min()).item() < 1e-5 for d in by_distance]
    assert constant == [kind == "gap"] * 2
    assert torch.allclose(f, f[:1].expand_as(f), atol=1e-5) == (kind == "gap")


def test_gradcheck_of_the_module() -> None:
    module, maps = restitution(3).double(), random(5, 2, 6, 3, 2).double().requires_grad_()
    names, weights = zip(*module.named_parameters(), strict=True)

    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.module.branches(x)

    def branches(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        given = {f"module.{name}": v for name, v in zip(names, values, strict=True)}
        return torch.func.functional_call(Branches(), given, x)

    values = [w.detach().clone().requires_grad_() for w in weights]
    assert torch.autograd.gradcheck(branches, (maps, *values))
    assert torch.autograd.gradcheck(module, maps)


def test_autocast_leaves_the_module_s_precision_alone() -> None:
    module, maps = restitution(4), random(6, 2, 6, 3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = (*module.branches(maps), module(maps), module.norm(maps.bfloat16()))
    assert all(x.dtype == torch.float32 for x in inside)
    outside = (*module.branches(maps), module(maps), module.norm(maps.bfloat16().float()))
    assert all(torch.equal(x, y) for x, y in zip(inside, outside, strict=True))


# The dual causality loss


def spaces(seed: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    f, f_plus, f_minus = random(seed, 3, size, 4)
    return f, f_plus, f_minus


@given(
    seed=SEEDS,
    identities=LABELS,
    kind=st.sampled_from(DISTANCES),
    mining=st.sampled_from(["hard", "hard_each"]),
    comparisons=st.sampled_from(["both", "positive", "negative"]),
)
def test_dual_causality_loss_is_its_equation(
    seed: int, identities: list[int], kind: str, mining: str, comparisons: str
) -> None:
    f = spaces(seed, len(identities))
    loss = dual_causality_loss(*f, torch.tensor(identities), kind, mining, comparisons)
    slow = slow_loss(f, identities, kind, mining, comparisons)
    assert loss.item() == pytest.approx(slow, rel=1e-4, abs=1e-6)
    assert loss.item() >= 0


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("mining", ["random", "hard", "hard_each"])
def test_equal_spaces_cost_four_ln_2_a_triplet(kind: str, mining: str) -> None:
    f = random(7, len(PEOPLE), 4)
    identities = torch.tensor(PEOPLE)
    both = dual_causality_loss(f, f, f, identities, kind, mining, "both").item()
    assert both == pytest.approx(4 * math.log(2), rel=1e-6)
    for comparisons in ("positive", "negative"):
        one = dual_causality_loss(f, f, f, identities, kind, mining, comparisons).item()
        assert one == pytest.approx(2 * math.log(2), rel=1e-6)


def test_loss_falls_as_the_restored_space_separates_and_the_contaminated_one_does_not() -> None:
    people = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    mixed = people[[0, 2, 1, 3]]
    middle, identities = torch.ones(4, 2), torch.tensor([0, 0, 1, 1])
    for kind in DISTANCES:
        how = (identities, kind, "hard", "both")
        as_wanted = dual_causality_loss(middle, people, mixed, *how)
        neutral = dual_causality_loss(middle, middle, middle, *how)
        reverse = dual_causality_loss(middle, mixed, people, *how)
        assert as_wanted < neutral < reverse


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("mining", ["random", "hard", "hard_each"])
@pytest.mark.parametrize("vector", [[0.0, 0.0], [1.0, -2.0]])
def test_loss_and_gradients_are_finite_at_zero_distance(
    kind: str, mining: str, vector: list[float]
) -> None:
    f = [torch.tensor([vector] * 6).requires_grad_() for _ in range(3)]
    loss = dual_causality_loss(*f, torch.tensor([0, 0, 1, 1, 2, 2]), kind, mining, "both")
    loss.backward()
    assert loss.item() == pytest.approx(4 * math.log(2), rel=1e-6)
    assert all(x.grad.isfinite().all() for x in f)
    assert all(x.grad.abs().max() < 1e-3 for x in f), "equal vectors have nowhere to go"


@pytest.mark.parametrize("mining", ["random", "hard", "hard_each"])
@pytest.mark.parametrize("identities", [[0, 1, 2], [0, 0, 0], [0]])
def test_a_batch_without_anchors_costs_nothing_and_keeps_the_graph(
    mining: str, identities: list[int]
) -> None:
    f = [x.requires_grad_() for x in spaces(8, len(identities))]
    loss = dual_causality_loss(*f, torch.tensor(identities), "cosine", mining, "both")
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in f)


@pytest.mark.parametrize(
    ("identities", "choices"), [([0, 0, 1], 1), ([0, 0, 1, 1], 15), ([0, 0, 0, 1], 7)]
)
@pytest.mark.parametrize("kind", DISTANCES)
def test_random_triplets_are_shared_and_each_is_drawn(
    identities: list[int], choices: int, kind: str
) -> None:
    f = spaces(9, len(identities))
    options = []
    for a in anchors(identities):
        others = [b for b in range(len(identities)) if b != a]
        positives = [b for b in others if identities[b] == identities[a]]
        negatives = [b for b in others if identities[b] != identities[a]]
        terms = [
            sum(slow_terms(f, ((a, p, n),) * 3, kind)) for p, n in product(positives, negatives)
        ]
        options.append(terms)
    # Some draws cost the same: d is symmetric.
    possible = sorted({round(sum(terms) / len(terms), 9) for terms in product(*options)})
    assert len(possible) == choices
    seen = set()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(40 * choices if choices > 1 else 1):
            how = (torch.tensor(identities), kind, "random", "both")
            loss = dual_causality_loss(*f, *how).item()
            nearest = min(range(choices), key=lambda i: abs(possible[i] - loss))
            assert loss == pytest.approx(possible[nearest], rel=1e-5)
            seen.add(nearest)
    assert len(seen) == choices


@given(seed=SEEDS, kind=st.sampled_from(DISTANCES), mining=st.sampled_from(["hard", "hard_each"]))
def test_dual_causality_loss_ignores_order_and_names(seed: int, kind: str, mining: str) -> None:
    f, identities = spaces(seed, len(PEOPLE)), torch.tensor(PEOPLE)
    order = torch.randperm(len(PEOPLE), generator=torch.Generator().manual_seed(seed))
    straight = dual_causality_loss(*f, identities, kind, mining, "both")
    shuffled = dual_causality_loss(
        *(x[order] for x in f), 9 - identities[order], kind, mining, "both"
    )
    assert torch.allclose(straight, shuffled, rtol=1e-4)


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("mining", ["hard", "hard_each"])
def test_gradcheck_of_the_dual_causality_loss(kind: str, mining: str) -> None:
    f = [x.double().requires_grad_() for x in spaces(10, 7)]
    identities = torch.tensor([0, 0, 1, 1, 2, 2, 3])
    assert torch.autograd.gradcheck(
        lambda *x: dual_causality_loss(*x, identities, kind, mining, "both"), f
    )


# The method


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"distance": "euclidean", "mining": "hard_each", "ref_pool": "gap_relu"},
        {"ref_pool": "gem", "comparisons": "positive", "stages": (2, 4)},
        {"ref_pool": "gap_relu", "comparisons": "negative", "margin": 0.3, "smoothing": 0.4},
        {
            "identity_weight": 2.0,
            "triplet_weight": 0.5,
            "low_weight": 0.3,
            "high_weight": 2.0,
            "distance": "euclidean",
        },
    ],
)
@torch.no_grad()
def test_losses_are_sums_over_crops_and_triplets(config: dict[str, object]) -> None:
    method = trained(**config)
    found, slow = losses(method), slow_losses(method)
    assert found == pytest.approx(slow, rel=1e-4)
    assert beyond(method.config, found) == pytest.approx(
        beyond(method.config, slow), rel=1e-3, abs=2e-6
    )


@pytest.mark.parametrize("stages", STAGES)
def test_stages_choose_where_modules_are_and_what_is_learnt_from(stages: tuple[int, ...]) -> None:
    method, everywhere = snr(stages=stages), snr()
    assert set(method.after) == {str(number) for number in stages}
    for name, weight in method.state_dict().items():
        assert weight.shape == everywhere.state_dict()[name].shape
        if not name.startswith("after"):
            assert torch.equal(weight, everywhere.state_dict()[name]), name
    assert set(losses(method)) == {"identity", "triplet", *(f"causality_{n}" for n in stages)}


@pytest.mark.parametrize("stages", STAGES)
@torch.no_grad()
def test_embeddings_are_of_what_goes_on_after_the_stages(stages: tuple[int, ...]) -> None:
    method = trained(stages=stages).eval()

    def after(number: int, maps: Tensor) -> Tensor:
        return slow_branches(method.after[str(number)], maps)[1] if number in stages else maps

    images = batch().images[:3]
    pooled_map, norm = method.trunk(images, after).mean((2, 3)), method.neck.norm
    expected = (pooled_map - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight
    assert torch.allclose(method.embed(images), expected, atol=1e-3)


@torch.no_grad()
def test_the_module_after_the_last_stage_is_a_gate_on_the_pooled_vector() -> None:
    method = trained(stages=(4,)).eval()
    module = method.after["4"]
    mean = method.trunk(batch().images).mean((2, 3))
    beta = module.norm.bias
    gated = beta + module.gate(mean - beta) * (mean - beta)
    assert torch.allclose(method.embed(batch().images), method.neck.norm(gated), atol=1e-4)
    module.norm.weight.mul_(3)
    assert torch.allclose(method.embed(batch().images), method.neck.norm(gated), atol=1e-4)


@torch.no_grad()
def test_without_restitution_instance_normalisation_follows_the_stages() -> None:
    method = trained(restitution=False, stages=(1, 3)).eval()
    ours = {name for name in method.state_dict() if name.startswith("after")}
    assert ours == {f"after.{n}.{kind}" for n in (1, 3) for kind in ("weight", "bias")}

    def after(number: int, maps: Tensor) -> Tensor:
        if number not in (1, 3):
            return maps
        norm = method.after[str(number)]
        return F.instance_norm(maps, weight=norm.weight, bias=norm.bias)

    expected = method.neck(method.trunk(batch().images, after))[1]
    assert torch.allclose(method.embed(batch().images), expected, atol=1e-5)
    assert set(losses(method.train())) == {"identity", "triplet"}


def test_plain_instance_normalisation_after_the_last_stage_is_refused() -> None:
    with pytest.raises(ValueError, match=r"IN after the last stage \(4\) .* leave 4 out of"):
        trained(restitution=False, stages=(1, 4))


@pytest.mark.parametrize(
    ("setting", "scaled"),
    [
        ("identity_weight", {"identity"}),
        ("triplet_weight", {"triplet"}),
        ("low_weight", {"causality_1", "causality_2"}),
        ("high_weight", {"causality_3", "causality_4"}),
    ],
)
def test_weights_scale_their_losses_and_nothing_else(setting: str, scaled: set[str]) -> None:
    plain = losses(trained(**{setting: 1.0}))
    expected = {name: loss * (3 if name in scaled else 1) for name, loss in plain.items()}
    assert losses(trained(**{setting: 3.0})) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "switch",
    [
        {"distance": "euclidean"},
        {"mining": "random"},
        {"mining": "hard_each"},
        {"ref_pool": "gap_relu"},
        {"ref_pool": "gem"},
        {"comparisons": "positive"},
        {"comparisons": "negative"},
    ],
)
@torch.no_grad()
def test_switches_of_the_dual_causality_loss_change_it_alone(switch: dict[str, str]) -> None:
    plain, switched = trained(), trained(**switch)
    assert plain.state_dict().keys() == switched.state_dict().keys()
    images = batch().images
    assert torch.equal(plain.eval().embed(images), switched.eval().embed(images))
    one, other = losses(plain.train()), losses(switched.train())
    for name, loss in one.items():
        assert (other[name] == loss) == (not name.startswith("causality")), name


def test_positive_and_negative_comparisons_sum_to_both() -> None:
    one, other, both = (losses(trained(comparisons=c)) for c in ("positive", "negative", "both"))
    for number in range(1, 5):
        name = f"causality_{number}"
        assert one[name] + other[name] == pytest.approx(both[name], rel=1e-5)


def test_the_reduction_changes_the_gates_alone() -> None:
    one, other = (snr(reduction=r).state_dict() for r in (8, 16))
    differing = {name for name in one if one[name].shape != other[name].shape}
    assert differing == {
        "after.3.gate.0.weight",
        "after.3.gate.0.bias",
        "after.3.gate.2.weight",
    } | {
        "after.4.gate.0.weight",
        "after.4.gate.0.bias",
        "after.4.gate.2.weight",
    }


def test_the_auxiliary_branches_are_computed_for_the_loss_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    widths = []
    computed = Restitution.averages

    def counted(module: Restitution, maps: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        widths.append(maps.shape[1])
        return computed(module, maps)

    monkeypatch.setattr(Restitution, "averages", counted)
    method = snr()
    method(batch())
    assert widths == list(method.trunk.stage_channels)
    for mode in (True, False):
        widths.clear()
        method.train(mode).embed(batch().images)
        assert not widths
    low_alone = snr(high_weight=0.0)
    assert set(losses(low_alone)) == {"identity", "triplet", "causality_1", "causality_2"}
    assert widths == list(method.trunk.stage_channels[:2])
    widths.clear()
    assert set(losses(snr(low_weight=0.0, high_weight=0.0))) == {"identity", "triplet"}
    assert not widths


def test_the_losses_see_what_is_embedded() -> None:
    # With the auxiliary branches or without, the same map goes on.
    with_loss, without = trained(), trained(low_weight=0.0, high_weight=0.0)
    one, other = losses(with_loss), losses(without)
    assert {name: one[name] for name in other} == other


@pytest.mark.parametrize("kind", POOLS)
def test_gradients_are_tame_at_the_start(kind: str) -> None:
    # There beta is 0, and so is f~ by the paper's pooling: a cosine of nothing.
    method = snr(ref_pool=kind, low_weight=1.0, high_weight=1.0)
    sum(method(batch()).values()).backward()
    largest = max(p.grad.abs().max().item() for p in method.parameters() if p.requires_grad)
    assert largest < 10


def test_losses_are_fp32_and_near_in_bf16() -> None:
    exact = losses(trained())
    with torch.autocast("cpu", torch.bfloat16):
        found = trained()(batch())
    assert all(loss.dtype == torch.float32 for loss in found.values())
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(exact, rel=0.1)


# Seed, settings, and the losses they had when the slow sums above were first met.
GOLDEN: dict[str, tuple[int, dict[str, object], dict[str, float]]] = {
    "default": (
        0,
        {},
        {
            "identity": 7.0265608,
            "triplet": 0.7501964,
            "causality_1": 0.2776621,
            "causality_2": 0.279432,
            "causality_3": 1.3875352,
            "causality_4": 1.3868145,
        },
    ),
    "authors": (
        1,
        {"distance": "euclidean", "mining": "hard_each", "ref_pool": "gap_relu"},
        {
            "identity": 4.304296,
            "triplet": 0.7771275,
            "causality_1": 0.44125944,
            "causality_2": 0.30772147,
            "causality_3": 1.445092,
            "causality_4": 1.3898346,
        },
    ),
    "gem": (
        2,
        {"ref_pool": "gem", "comparisons": "positive", "stages": (2, 3)},
        {
            "identity": 6.0573683,
            "triplet": 1.0244036,
            "causality_2": 0.13700104,
            "causality_3": 0.69278342,
        },
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_losses_are_those_measured_once(case: str) -> None:
    seed, config, measured = GOLDEN[case]
    method = trained(seed, **config)
    found = losses(method, seed)
    assert found == pytest.approx(measured, rel=1e-3)
    assert beyond(method.config, found) == pytest.approx(
        beyond(method.config, measured), rel=2e-2, abs=1e-5
    )


# Trunks and settings


def test_a_trunk_that_is_not_run_stage_by_stage_is_refused() -> None:
    said = (
        "trunk test_vit is not run stage by stage, which snr needs for its modules between stages; "
        "choose a ResNet or a ConvNeXt"
    )
    with pytest.raises(ValueError, match=said):
        snr(trunk=TrunkSettings(name="test_vit", stride_one_stages=0))


def test_a_stage_that_the_trunk_lacks_is_refused() -> None:
    cut = TrunkSettings(name="test_resnet", stages=2)
    with pytest.raises(ValueError, match=r"has 2 stages, but config\.stages names stage 4"):
        snr(trunk=cut)
    assert set(losses(snr(trunk=cut, stages=(1, 2)))) >= {"causality_1", "causality_2"}


def test_crops_too_small_for_a_style_are_refused() -> None:
    with pytest.raises(ValueError, match="4 x 4 pixels leave a map of one position"):
        SNR(SNRConfig(), TRUNK, CENSUS, (4, 4))


def test_a_convnext_serves() -> None:
    method = snr(trunk=TrunkSettings(name="test_convnext", stride_one_stages=0))
    found = method(batch())
    assert set(found) == {"identity", "triplet", *(f"causality_{n}" for n in range(1, 5))}
    assert all(loss.isfinite() for loss in found.values())
    assert method.eval().embed(batch().images).shape == (len(PEOPLE), method.trunk.channels)


@pytest.mark.parametrize("stages", [(), (2, 1), (1, 1), (0, 1), (5,)])
def test_stages_are_some_of_four_in_order(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="some of the stages 1, 2, 3, 4, in order, found"):
        checked(SNRConfig, {"stages": stages})
    for written in ([1, 3], "1,3"):
        assert checked(SNRConfig, {"stages": written}).stages == (1, 3)
