"""Each part of QAConv-MS against a slow transcription of its equation, and every switch of it."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rayreid.batch import Batch, Census
from rayreid.experiment import compose
from rayreid.matching.tiles import score_all
from rayreid.methods.qaconv_ms import (
    QACONV,
    QAConvMS,
    QAConvMSConfig,
    hard_accuracy,
    over_positions,
    pairwise_matching_loss,
    score_triplet_loss,
)
from rayreid.nn.trunk import TrunkSettings
from rayreid.settings import checked

TRUNK = TrunkSettings(name="test_resnet", stages=3, ibn="b", frozen_norms=True, normalise="none")
SIZE = (64, 32)
N = 8
"""Positions of the map, 4 x 2."""
CONFIG = {"channels": 6, "hidden": 5, "global_hidden": 7}
PLAIN = {"scales": (), "global_branch": False, "hidden": 0, "loss": "triplet"}
"""QAConv."""
# Identity 3 has one crop, so no positive pair and no anchor of a triplet.
PEOPLE = torch.tensor([2, 0, 1, 0, 2, 1, 0, 3])
SEEDS = st.integers(0, 10**6)
LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=8)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(seed: int = 0) -> Tensor:
    return random(seed, len(PEOPLE), 3, *SIZE).sigmoid()


def batch(seed: int = 0) -> Batch:
    zeros = torch.zeros_like(PEOPLE)
    return Batch(images(seed), PEOPLE, zeros, zeros)


def initial(**config: Any) -> QAConvMS:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = QAConvMSConfig.model_validate({**CONFIG, **config})
        return QAConvMS(made, TRUNK, Census({"one": 4}), SIZE)


def spread(method: QAConvMS) -> QAConvMS:
    """Put the matcher's weights and statistics far from their plain initial values."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for head in method.heads:
            head.logit.weight.normal_()
        for norm in method.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.weight.uniform_(0.5, 2)
                norm.bias.normal_()
                norm.running_mean.normal_(std=0.3)
                norm.running_var.uniform_(0.5, 2)
    return method


def qaconv_ms(**config: Any) -> QAConvMS:
    return spread(initial(**config))


METHODS = {"qaconv": qaconv_ms(**PLAIN).eval(), "qaconv_ms": qaconv_ms().eval()}
"""Methods in eval mode, shared by tests that change nothing of them."""
KIND = st.sampled_from(sorted(METHODS))


def maps(method: QAConvMS, seed: int, count: int) -> Tensor:
    """Return random maps, at unit length over channels as the plain one is."""
    return F.normalize(random(seed, count, len(method.heads), 6, N), dim=2)


# Scores.


@given(kind=KIND, seed=SEEDS)
def test_scores_are_symmetric(kind: str, seed: int) -> None:
    method = METHODS[kind]
    a, b = maps(method, seed, 3), maps(method, seed + 1, 4)
    assert torch.allclose(method.score(a, b), method.score(b, a).T, atol=1e-4)


@given(kind=KIND, seed=SEEDS, pairs=st.integers(1, 12))
def test_scores_ignore_tiling(kind: str, seed: int, pairs: int) -> None:
    method = METHODS[kind]
    a, b = maps(method, seed, 3), maps(method, seed + 1, 4)
    tile = pairs * method.pair_bytes(tuple(a.shape[1:]))
    whole = method.score(a, b)
    assert torch.allclose(score_all(method, a, b, tile_bytes=tile), whole, atol=1e-4)


@given(kind=KIND, seed=SEEDS)
def test_a_score_is_that_of_the_matcher_with_frozen_statistics(kind: str, seed: int) -> None:
    method = METHODS[kind]
    a = maps(method, seed, 4)
    assert torch.allclose(method.score(a, a), method._pair_scores(a), atol=1e-3)


@given(seed=SEEDS)
def test_with_weights_of_one_sign_nothing_is_more_like_a_crop_than_itself(seed: int) -> None:
    method = qaconv_ms(**PLAIN).eval()
    with torch.no_grad():
        method.heads[0].logit.weight.abs_()
    a = maps(method, seed, 5)
    scores = method.score(a, a)
    assert (scores.diagonal()[:, None] >= scores - 1e-5).all()


@given(seed=SEEDS, side=st.booleans())
def test_order_of_positions_counts_only_once_weights_were_learnt(seed: int, side: bool) -> None:
    new, learnt = initial(**PLAIN).eval(), METHODS["qaconv"]
    a, b = maps(new, seed, 3), maps(new, seed + 1, 3)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    moved = (a[..., order], b) if side else (a, b[..., order])
    assert torch.allclose(new.score(*moved), new.score(a, b), atol=1e-4)
    if not torch.equal(order, torch.arange(N)):
        assert not torch.allclose(learnt.score(*moved), learnt.score(a, b), atol=1e-4)


@given(seed=SEEDS)
def test_weights_of_each_direction_would_not_be_symmetric(seed: int) -> None:
    """QAConv before version 2.1, as a control of the tests above."""
    w, a = random(seed, 2 * N), maps(METHODS["qaconv"], seed + 1, 3)[:, 0]
    correlation = torch.einsum("pcs,gcr->pgrs", a, a)
    scores = torch.cat([correlation.amax(2), correlation.amax(3)], 2) @ w
    assert not torch.allclose(scores, scores.T, atol=1e-3)


def test_without_templates_and_attention_it_is_qaconv() -> None:
    method = METHODS["qaconv"]
    a, b = maps(method, 3, 3), maps(method, 4, 4)
    (head,) = method.heads
    assert method.sum_norm is None

    def frozen(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
        return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + (
            norm.bias
        )

    for p in range(3):
        for g in range(4):
            correlation = b[g, 0].T @ a[p, 0]
            forth, back = correlation.amax(0), correlation.amax(1)
            logits = [
                (frozen(side, head.norm) * head.logit.weight[0]).sum() for side in (forth, back)
            ]
            expected = frozen(logits[0] + logits[1], head.score_norm)
            assert method.score(a, b)[p, g].item() == pytest.approx(expected.item(), abs=1e-4)


# Maps.


@hypothesis_settings(max_examples=10)
@given(seed=SEEDS)
def test_templates_ignore_gains_of_positions(seed: int) -> None:
    method = METHODS["qaconv_ms"]
    with torch.inference_mode():
        before = method.embed(images()[:2])
        gains = random(seed, 2, 1, 4, 2).exp()
        hook = method.neck.register_forward_hook(lambda *call: call[2] * gains)
        after = method.embed(images()[:2])
        hook.remove()
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-5)
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-3), "Z sees the gains"


@hypothesis_settings(max_examples=10)
@given(seed=SEEDS)
def test_each_channel_of_a_template_has_unit_energy(seed: int) -> None:
    with torch.inference_mode():
        made = METHODS["qaconv_ms"].embed(images(seed)[:2])
    assert torch.allclose(made[:, 1:4].square().sum(3), torch.ones(2, 3, 6), atol=1e-5)
    assert torch.allclose(made[:, 0].square().sum(1), torch.ones(2, N), atol=1e-5)


@given(seed=SEEDS)
def test_normalisation_over_positions_ignores_gains_of_channels(seed: int) -> None:
    answers, gains = random(seed, 2, 3, 4, 2), random(seed + 1, 2, 3, 1, 1).exp()
    assert torch.allclose(over_positions(answers * gains), over_positions(answers), atol=1e-5)


def slow_convolution(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Return the sum over a kernel's offsets of a map that is zero outside."""
    k, (h, w) = layer.kernel_size[0], x.shape[2:]
    outside = k // 2
    padded = torch.zeros(len(x), x.shape[1], h + 2 * outside, w + 2 * outside)
    padded[:, :, outside : outside + h, outside : outside + w] = x
    total = layer.bias[None, :, None, None].expand(len(x), -1, h, w)
    for i in range(k):
        for j in range(k):
            moved = padded[:, :, i : i + h, j : j + w]
            total = total + torch.einsum("oc,bchw->bohw", layer.weight[:, :, i, j], moved)
    return total


def slow_maps(method: QAConvMS, x: Tensor) -> list[Tensor]:
    """Return N, U_k of each scale and Z, [b, c, n] each, from X."""
    config = method.config
    b, c, h, w = x.shape
    local = x / x.square().sum(1, keepdim=True).sqrt()
    made = [local.reshape(b, c, h * w)]
    for scale, template in zip(config.scales, method.templates, strict=True):
        assert template.kernel_size == (scale, scale)
        y = slow_convolution(local, template).reshape(b, c, h * w)
        axis = 2 if config.orthogonal_norm else 1
        made.append(y / y.square().sum(axis, keepdim=True).sqrt())
    if config.global_branch:
        tokens = torch.stack([x[:, :, i // w, i % w] for i in range(h * w)], 1)
        z = method.attention(tokens).transpose(1, 2)
        made.append(z / z.square().sum(1, keepdim=True).sqrt() if config.global_norm else z)
    return made


def batch_norm(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Return [rows, channels] normalised by their own statistics."""
    centred = x - x.mean(0)
    return centred / (centred.square().mean(0) + norm.eps).sqrt() * norm.weight + norm.bias


def slow_scores(method: QAConvMS, made: list[Tensor]) -> Tensor:
    """Return the scores of all pairs by this batch's statistics."""
    b, total = len(made[0]), 0
    for each, head in zip(made, method.heads, strict=True):
        correlation = torch.einsum("pcs,gcr->pgrs", each, each)
        sides = torch.stack([correlation.amax(2), correlation.amax(3)], 2)
        x = batch_norm(sides.reshape(-1, 1), head.norm).view(b * b * 2, N)
        if head.hidden is not None:
            x = batch_norm(x @ head.hidden.weight.T, head.hidden_norm).clamp(min=0)
        summed = (x @ head.logit.weight[0]).view(b * b, 2).sum(1, keepdim=True)
        total = total + batch_norm(summed, head.score_norm)
    if len(made) > 1:
        total = batch_norm(total, method.sum_norm)
    return total.view(b, b)


def slow_pairs(scores: Tensor, people: list[int]) -> float:
    rows = []
    for i, who in enumerate(people):
        signs = [1 if who == other else -1 for other in people]
        rows.append(
            sum(math.log1p(math.exp(-sign * scores[i, j].item())) for j, sign in enumerate(signs))
        )
    return sum(rows) / len(rows)


def slow_hardest(scores: Tensor, people: list[int]) -> list[tuple[float, float]]:
    """Return the lowest positive and the highest negative of each anchor that has both."""
    found = []
    for i, who in enumerate(people):
        row = list(enumerate(scores[i].tolist()))
        positives = [score for j, score in row if people[j] == who and j != i]
        negatives = [score for j, score in row if people[j] != who]
        if positives and negatives:
            found.append((min(positives), max(negatives)))
    return found


def slow_triplet(scores: Tensor, people: list[int], margin: float) -> float:
    terms = [max(0.0, margin - (p - n)) for p, n in slow_hardest(scores, people)]
    return sum(terms) / len(terms) if terms else 0.0


SWITCHES: list[dict[str, Any]] = [
    {},
    PLAIN,
    {"scales": ()},
    {"scales": (3,), "global_branch": False},
    {"global_branch": False},
    {"global_norm": True},
    {"orthogonal_norm": False},
    {"hidden": 0},
    {"loss": "triplet", "margin": 3.0},
]


@pytest.mark.parametrize("config", SWITCHES, ids=str)
def test_training_is_its_equations(config: dict[str, Any]) -> None:
    method = qaconv_ms(**config).train()
    with torch.no_grad():
        made = slow_maps(method, method.neck(method.trunk(images())))
        assert torch.allclose(method.embed(images()), torch.stack(made, 1), atol=1e-4)
        scores = slow_scores(method, made)
        losses = method(batch())
    people = PEOPLE.tolist()
    if method.config.loss == "pairs":
        assert losses.keys() == {"pairs"}
        assert losses["pairs"].item() == pytest.approx(slow_pairs(scores, people), rel=1e-3)
    else:
        slow = slow_triplet(scores, people, method.config.margin)
        assert losses.keys() == {"triplet"}
        assert losses["triplet"].item() == pytest.approx(slow, rel=1e-3)
    anchors = slow_hardest(scores, people)
    share = sum(p > n for p, n in anchors) / len(anchors)
    assert method.monitors()["hard_accuracy"].item() == pytest.approx(share)


# Losses.


def same_identity(people: list[int]) -> Tensor:
    identities = torch.tensor(people)
    return identities[:, None] == identities[None]


@given(seed=SEEDS, people=LABELS)
def test_matching_loss_counts_a_crop_with_itself_as_positive(seed: int, people: list[int]) -> None:
    scores = 5 * random(seed, len(people), len(people))
    loss = pairwise_matching_loss(scores, same_identity(people))
    assert loss.item() == pytest.approx(slow_pairs(scores, people), rel=1e-4)


@given(seed=SEEDS, people=LABELS, margin=st.floats(0.1, 20))
def test_triplet_loss_leaves_itself_and_anchors_without_a_triplet_out(
    seed: int, people: list[int], margin: float
) -> None:
    scores = 5 * random(seed, len(people), len(people))
    loss = score_triplet_loss(scores, same_identity(people), margin)
    assert loss.item() == pytest.approx(slow_triplet(scores, people, margin), rel=1e-4, abs=1e-5)
    # Whatever a crop's score with itself is, nothing changes.
    scores.fill_diagonal_(-100)
    assert score_triplet_loss(scores, same_identity(people), margin).item() == loss.item()


@given(seed=SEEDS, people=LABELS)
def test_accuracy_is_the_share_of_anchors_whose_hardest_pairs_are_in_order(
    seed: int, people: list[int]
) -> None:
    scores = random(seed, len(people), len(people))
    anchors = slow_hardest(scores, people)
    share = sum(p > n for p, n in anchors) / len(anchors) if anchors else 0.0
    found = hard_accuracy(scores, same_identity(people))
    assert found.item() == pytest.approx(share)


@pytest.mark.parametrize("people", [[0, 1, 2], [0, 0, 0]])
def test_a_batch_without_triplets_has_a_gradient_of_zero(people: list[int]) -> None:
    scores = random(0, 3, 3).requires_grad_()
    score_triplet_loss(scores, same_identity(people), 16.0).backward()
    assert torch.equal(scores.grad, torch.zeros(3, 3))


def test_losses_pass_gradcheck() -> None:
    scores = random(1, 8, 8).double().requires_grad_()
    same = same_identity(PEOPLE.tolist())
    assert torch.autograd.gradcheck(lambda x: pairwise_matching_loss(x, same), scores)
    assert torch.autograd.gradcheck(lambda x: score_triplet_loss(x, same, 1.0), scores)


@pytest.mark.parametrize(
    ("config", "loss"),
    [
        ({}, 7.33506),
        ({"scales": (3,), "global_norm": True, "hidden": 0}, 4.82515),
        (PLAIN, 16.65943),
    ],
)
def test_losses_are_what_they_were(config: dict[str, Any], loss: float) -> None:
    (found,) = initial(**config).train()(batch(7)).values()
    assert found.item() == pytest.approx(loss, rel=1e-3)


# Switches.


def with_weights_of(method: QAConvMS, **config: Any) -> QAConvMS:
    """Return a method of other settings with all weights of this one that fit it by name."""
    other = qaconv_ms(**config).train(method.training)
    own = other.state_dict()
    theirs = method.state_dict()
    shared = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
    other.load_state_dict({**own, **shared})
    return other


def changed_slices(**config: Any) -> list[int]:
    """Return which slices of the default's embedding a switch changes."""
    plain = METHODS["qaconv_ms"]
    switched = with_weights_of(plain, **config)
    with torch.inference_mode():
        before, after = plain.embed(images()), switched.embed(images())
    assert before.shape == after.shape
    return [i for i in range(5) if not torch.equal(before[:, i], after[:, i])]


@pytest.mark.parametrize(
    ("config", "slices"),
    [
        ({"global_norm": True}, [4]),
        ({"orthogonal_norm": False}, [1, 2, 3]),
        ({"hidden": 0}, []),
        ({"loss": "triplet"}, []),
        ({"margin": 3.0}, []),
    ],
)
def test_a_switch_changes_its_slices_and_no_other(
    config: dict[str, Any], slices: list[int]
) -> None:
    assert changed_slices(**config) == slices


def test_off_normalises_templates_over_channels() -> None:
    with torch.inference_mode():
        made = qaconv_ms(orthogonal_norm=False, global_norm=True).eval().embed(images())
    assert torch.allclose(made.square().sum(2), torch.ones(len(PEOPLE), 5, N), atol=1e-5)


def test_each_slice_has_a_head_of_its_own() -> None:
    for config in SWITCHES:
        method = initial(**config)
        made = method.config
        slices = 1 + len(made.scales) + made.global_branch
        assert len(method.heads) == method.embed(images()[:2]).shape[1] == slices
        assert (method.attention is not None) == made.global_branch
        assert (method.sum_norm is not None) == (slices > 1)
        assert [t.kernel_size[0] for t in method.templates] == list(made.scales)
        assert all((head.hidden is not None) == (made.hidden > 0) for head in method.heads)


def test_slices_that_stay_are_as_they_were() -> None:
    plain = METHODS["qaconv_ms"]
    with torch.inference_mode():
        before = plain.embed(images())
        without_attention = with_weights_of(plain, global_branch=False).embed(images())
        without_templates = with_weights_of(plain, scales=()).embed(images())
        alone = with_weights_of(plain, scales=(), global_branch=False).embed(images())
    assert torch.equal(without_attention, before[:, :4])
    assert torch.equal(without_templates, before[:, [0, 4]])
    assert torch.equal(alone, before[:, :1])


def test_the_loss_follows_its_switch_and_its_margin() -> None:
    method = qaconv_ms().train()
    assert method(batch()).keys() == {"pairs"}
    small, large = (
        with_weights_of(method, loss="triplet", margin=m)(batch()) for m in (50.0, 60.0)
    )
    assert small.keys() == large.keys() == {"triplet"}
    assert large["triplet"].item() == pytest.approx(small["triplet"].item() + 10, rel=1e-4)


@pytest.mark.parametrize("config", SWITCHES, ids=str)
def test_every_parameter_has_a_gradient(config: dict[str, Any]) -> None:
    method = qaconv_ms(**config).train()
    sum(method(batch()).values()).backward()
    missing = [name for name, p in method.named_parameters() if p.grad is None]
    assert missing == [], "DDP would wait for them"


def test_encoder_layers_start_apart() -> None:
    weights = [layer.linear1.weight for layer in initial().attention.layers]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("scales", [(2,), (1, 4), (3, 3), (0,), (-1,), "1,2"])
def test_bad_scales_are_named(scales: object) -> None:
    with pytest.raises(ValueError, match=r"^setting 'config\.scales': holds .* odd numbers .*5$"):
        checked(QAConvMSConfig, {"scales": scales}, below="config")


def test_scales_may_be_text() -> None:
    assert checked(QAConvMSConfig, {"scales": "1,3,5"}).scales == (1, 3, 5)
    assert checked(QAConvMSConfig, {"scales": ""}).scales == ()


# The recipe.


def test_the_recipe_is_that_of_the_authors_code() -> None:
    made = compose("qaconv_ms", {"sources": ["synthetic=snow"]})
    assert (made.loading.height, made.loading.width) == (384, 128)
    trunk = made.trunk
    assert (trunk.name, trunk.stages, trunk.ibn, trunk.frozen_norms, trunk.normalise) == (
        "resnet50", 3, "b", True, "none",
    )  # fmt: skip
    assert (made.sampling.kind, made.sampling.identities, made.sampling.crops) == ("graph", 16, 4)
    optimiser = made.optimiser
    assert (optimiser.name, optimiser.lr, optimiser.trunk_rate) == ("sgd", 0.005, 0.1)
    assert (optimiser.weight_decay, optimiser.clip) == (5e-4, 4.0)
    assert (optimiser.schedule, optimiser.warmup, made.epochs) == ("last_step", 0.0, 15)
    assert made.config.scales == (1, 3, 5)
    assert made.config.global_branch
    assert not made.config.global_norm


def test_qaconv_is_settings_on_top_of_the_recipe() -> None:
    made = compose("qaconv_ms", {"sources": ["synthetic=snow"]}, QACONV)
    assert made.config.scales == ()
    assert (made.config.channels, made.config.hidden, made.config.loss) == (128, 0, "triplet")
    assert (made.sampling.identities, made.sampling.crops, made.optimiser.clip) == (32, 2, 8.0)


def test_frozen_statistics_are_the_trunks_and_not_the_matchers() -> None:
    method = qaconv_ms().train()
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    for seed in range(2):
        method(batch(seed))
    moved = {n for n, buffer in method.named_buffers() if not torch.equal(buffer, before[n])}
    assert moved
    assert {name for name in before if not name.startswith("trunk.")} == moved
