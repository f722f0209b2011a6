"""Each part of GMN against a slow transcription of its equation."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.batch import Batch, Census
from rayreid.methods.gmn import GMN, GMNConfig, pair_centre_loss, pair_centres, pair_loss
from rayreid.nn.trunk import TrunkSettings

TRUNK = TrunkSettings(name="test_resnet", stride_one_stages=2)
LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=8)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def all_pairs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.triu_indices(size, size, 1)
    return a, b


def gmn(**config: object) -> GMN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = GMNConfig.model_validate({"hidden": 16, **config})
        return GMN(settings, TRUNK, Census({"one": 4, "two": 4}), (64, 32))


def batch(seed: int = 0) -> Batch:
    identities = torch.arange(8).repeat_interleave(3)
    return Batch(
        images=random(seed, 24, 3, 64, 32).sigmoid(),
        identities=identities,
        cameras=torch.zeros(24, dtype=torch.int64),
        domains=identities // 4,
    )


@given(logits=st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=12))
def test_pair_loss_balances_both_kinds(logits: list[tuple[float, bool]]) -> None:
    z = [value for value, _ in logits]
    positives = [math.log1p(math.exp(-v)) for v, positive in logits if positive]
    negatives = [math.log1p(math.exp(v)) for v, positive in logits if not positive]
    slow = sum(sum(kind) / len(kind) for kind in (positives, negatives) if kind) / 2
    loss = pair_loss(torch.tensor(z), torch.tensor([positive for _, positive in logits]))
    assert loss.item() == pytest.approx(slow, abs=1e-5)


@given(seed=st.integers(0, 10**6), identities=LABELS)
def test_centres_from_moments_are_means_over_pairs(seed: int, identities: list[int]) -> None:
    f, size = random(seed, len(identities), 3).double(), len(identities)
    members: dict[frozenset[int], list[torch.Tensor]] = {}
    for a, b in combinations(range(size), 2):
        who = frozenset({identities[a], identities[b]})
        members.setdefault(who, []).append((f[a] - f[b]) ** 2)
    centres = pair_centres(f, torch.tensor(identities), all_pairs(size))
    for (a, b), centre in zip(combinations(range(size), 2), centres, strict=True):
        mean = torch.stack(members[frozenset({identities[a], identities[b]})]).mean(0)
        assert torch.allclose(centre, mean, atol=1e-9)


@given(
    seed=st.integers(0, 10**6),
    identities=LABELS,
    kinds=st.sampled_from(["positive", "negative", "both"]),
)
def test_pair_centre_loss_is_its_equation(seed: int, identities: list[int], kinds: str) -> None:
    f, size = random(seed, len(identities), 3), len(identities)
    centres = pair_centres(f, torch.tensor(identities), all_pairs(size))
    terms: dict[bool, list[float]] = {True: [], False: []}
    for (a, b), centre in zip(combinations(range(size), 2), centres, strict=True):
        s = [(f[a][k] - f[b][k]).item() ** 2 for k in range(3)]
        distance = sum((s[k] - centre[k].item()) ** 2 for k in range(3)) / 3
        terms[identities[a] == identities[b]].append(distance)
    wanted = {"positive": [True], "negative": [False], "both": [True, False]}[kinds]
    means = [sum(terms[kind]) / len(terms[kind]) for kind in wanted if terms[kind]]
    slow = sum(means) / len(means) if means else 0.0
    loss = pair_centre_loss(f, torch.tensor(identities), all_pairs(size), kinds)
    assert loss.item() == pytest.approx(slow, rel=1e-3, abs=1e-5)
    assert loss.item() >= 0


def test_pair_centre_loss_vanishes_only_where_pairs_agree() -> None:
    people = torch.tensor([[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]])
    identities = torch.arange(3).repeat_interleave(3)
    collapsed = people[identities]
    pairs = all_pairs(9)
    assert pair_centre_loss(collapsed, identities, pairs, "both").item() == 0
    moved = collapsed.clone()
    moved[0, 0] += 1
    assert pair_centre_loss(moved, identities, pairs, "both").item() > 1e-3


def test_two_crops_of_a_person_have_no_spread_of_positive_pairs() -> None:
    f, identities = random(0, 6, 4), torch.arange(3).repeat_interleave(2)
    loss = pair_centre_loss(f, identities, all_pairs(6), "positive")
    assert loss.item() == pytest.approx(0, abs=1e-10)


@given(seed=st.integers(0, 999))
def test_pair_centre_loss_ignores_order(seed: int) -> None:
    f, identities = random(seed, 9, 4), torch.arange(3).repeat_interleave(3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    straight = pair_centre_loss(f, identities, all_pairs(9), "both")
    shuffled = pair_centre_loss(f[order], identities[order], all_pairs(9), "both")
    assert torch.allclose(straight, shuffled, rtol=1e-4)


def test_pair_losses_pass_gradcheck() -> None:
    f = random(1, 6, 3).double().requires_grad_()
    identities = torch.arange(2).repeat_interleave(3)
    positive = identities[all_pairs(6)[0]] == identities[all_pairs(6)[1]]

    def centre(x: torch.Tensor) -> torch.Tensor:
        a, b = all_pairs(6)
        s = (x[a] - x[b]).square()
        return (s - pair_centres(x, identities, (a, b))).square().mean()

    assert torch.autograd.gradcheck(centre, f)
    z = random(2, 15).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pair_loss(x, positive), z)


class TestPerturbation:
    """Each site of DP, on features whose pairs are known."""

    f = random(3, 8, 96)
    pairs = all_pairs(8)

    def features(self, site: str, **config: object) -> torch.Tensor:
        method = gmn(dropout_site=site, dropout_rate=0.5, **config).train()
        method.perturbing = True
        torch.manual_seed(7)
        return method._pair_features(self.f, torch.ones(8, 96, 2, 2), self.pairs)

    def clean(self) -> torch.Tensor:
        a, b = self.pairs
        return torch.stack([(self.f[i] - self.f[j]) ** 2 for i, j in zip(a, b, strict=True)])

    def test_pair_masks_every_pair_by_itself(self) -> None:
        dropped, clean = self.features("pair"), self.clean()
        kept = dropped != 0
        assert torch.allclose(dropped[kept], 2 * clean[kept])
        assert 0.4 < kept.float().mean() < 0.6
        assert (kept.any(0) & ~kept.all(0)).all(), "no channel is treated alike in all pairs"

    def test_instance_shared_drops_one_set_of_channels(self) -> None:
        dropped, clean = self.features("instance_shared"), self.clean()
        kept = dropped.any(0)
        assert 0.2 < kept.float().mean() < 0.8
        assert torch.allclose(dropped[:, kept], 2 * clean[:, kept])
        assert not dropped[:, ~kept].any()

    def test_instance_independent_masks_every_crop(self) -> None:
        dropped = self.features("instance_independent")
        a, b = self.pairs
        torch.manual_seed(7)
        masked = self.f * (torch.nn.functional.dropout(torch.ones_like(self.f), 0.5))
        assert torch.allclose(dropped, (masked[a] - masked[b]) ** 2)

    def test_trunk_masks_the_map_and_leaves_the_neck_alone(self) -> None:
        method = gmn(dropout_site="trunk", dropout_rate=0.5).train()
        method.perturbing = True
        maps = random(4, 8, 96, 2, 2)
        before = method.neck.norm.running_mean.clone()
        torch.manual_seed(7)
        dropped = method._pair_features(self.f, maps, self.pairs)
        torch.manual_seed(7)
        t = torch.nn.functional.dropout(maps, 0.5).mean((2, 3))
        f = (t - t.mean(0)) / (t.var(0, unbiased=False) + 1e-5).sqrt()
        a, b = self.pairs
        assert torch.allclose(dropped, (f[a] - f[b]) ** 2, atol=1e-4)
        assert torch.equal(method.neck.norm.running_mean, before)

    @pytest.mark.parametrize("site", ["pair", "instance_shared"])
    def test_dropping_keeps_the_mean(self, site: str) -> None:
        method = gmn(dropout_site=site, dropout_rate=0.3).train()
        method.perturbing = True
        maps = torch.ones(8, 96, 2, 2)
        torch.manual_seed(0)
        draws = [method._pair_features(self.f, maps, self.pairs) for _ in range(400)]
        assert torch.allclose(torch.stack(draws).mean((0, 1)), self.clean().mean(0), rtol=0.2)

    @pytest.mark.parametrize("site", ["pair", "instance_shared", "instance_independent", "trunk"])
    def test_only_training_after_the_warm_up_drops(self, site: str) -> None:
        method = gmn(dropout_site=site, dropout_rate=0.5, dropout_warmup_epochs=2).train()
        maps = random(5, 8, 96, 2, 2)

        def perturbed() -> bool:
            return not torch.equal(method._pair_features(self.f, maps, self.pairs), self.clean())

        seen = []
        for epoch in range(4):
            method.start_epoch(epoch)
            seen.append(perturbed())
        assert seen == [False, False, True, True]
        method.eval()
        assert not perturbed()


def test_negatives_are_the_hardest_of_the_wanted_number() -> None:
    method = gmn(negative_ratio=1)
    f = random(6, 24, 96)
    pairs = method._pairs(batch())
    positive = batch().identities[pairs[0]] == batch().identities[pairs[1]]
    chosen = method._mined(f, pairs, positive)
    logits = method.metric.frozen((f[pairs[0]] - f[pairs[1]]).square())
    negatives = chosen[~positive[chosen]]
    assert positive[chosen].sum() == positive.sum() == len(negatives)
    left_out = (~positive).nonzero()[:, 0]
    left_out = left_out[~torch.isin(left_out, negatives)]
    assert logits[negatives].min() >= logits[left_out].max()
    everything = gmn(negative_ratio=0)._mined(f, pairs, positive)
    assert len(everything) == len(positive)


def test_pairs_stay_within_a_domain_unless_asked() -> None:
    one = batch()
    a, b = gmn()._pairs(one)
    assert (one.domains[a] == one.domains[b]).all()
    assert len(a) == 2 * (12 * 11 // 2)
    a, b = gmn(cross_domain_negatives=True)._pairs(one)
    assert len(a) == 24 * 23 // 2


def test_weights_scale_their_losses_and_nothing_else() -> None:
    def losses(**config: object) -> dict[str, float]:
        torch.manual_seed(1)
        return {k: v.item() for k, v in gmn(**config).train()(batch()).items()}

    plain = losses()
    for name, setting in {
        "identity": "identity_weight",
        "triplet": "triplet_weight",
        "pair": "pair_weight",
    }.items():
        scaled = losses(**{setting: 3.0})
        assert scaled[name] == pytest.approx(3 * plain[name], rel=1e-4)
        assert {k: v for k, v in scaled.items() if k != name} == pytest.approx(
            {k: v for k, v in plain.items() if k != name}
        )
    assert losses(pair_centre_weight=0.3)["pair_centre"] == pytest.approx(
        3 * plain["pair_centre"], rel=1e-4
    )
    assert "pair_centre" not in losses(pair_centre_weight=0.0)


def test_l2_features_lie_on_the_sphere_of_radius_root_d() -> None:
    f = gmn(feature_norm="l2").eval().embed(batch().images)
    assert torch.allclose(f.norm(dim=1), torch.full((24,), 96**0.5), rtol=1e-4)
