"""What every method of METHODS must do, whatever it is."""

import pytest
import torch

from rayreid.batch import Batch, Census
from rayreid.checkpoint import build, load_trained, save_trained
from rayreid.experiment import Experiment, compose
from rayreid.matching.tiles import score_all
from rayreid.method import Method
from rayreid.methods import METHODS, find_method

CENSUS = Census({"one": 4, "two": 4})
SMALL = {
    "sources": ["synthetic=snow", "synthetic=subway"],
    "trunk.name": "test_resnet",
    "trunk.weights": "none",
    # Statistics that stay those of an untrained trunk would leave nothing to tell apart.
    "trunk.frozen_norms": False,
    "loading.height": 64,
    "loading.width": 32,
}


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 64, 32, generator=torch.Generator().manual_seed(seed))


def batch(seed: int = 0) -> Batch:
    """Return a batch of two domains; its target is looked at by methods that adapt alone."""
    identities = torch.arange(8).repeat_interleave(3)
    return Batch(
        images(24, seed),
        identities,
        torch.zeros_like(identities),
        identities // 4,
        images(10, seed + 50),
        torch.arange(10),
    )


def experiment(name: str) -> Experiment:
    return compose(name, SMALL)


def learnt(name: str) -> Method:
    """Return a method whose running statistics have seen a few batches."""
    method = build(experiment(name), CENSUS).train()
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 1e-3)
    for seed in range(3):
        sum(method(batch(seed)).values()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return method.eval()


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_embedding_of_an_image_ignores_its_batch(name: str) -> None:
    method = learnt(name)
    with torch.inference_mode():
        together = method.embed(images(5))
        alone = torch.cat([method.embed(image[None]) for image in images(5)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_scores_are_fp32_and_ignore_tiling(name: str) -> None:
    method = learnt(name)
    with torch.inference_mode():
        queries, gallery = method.embed(images(5)), method.embed(images(7, 1))
        whole = method.score(queries, gallery)
    pair = method.pair_bytes(tuple(gallery.shape[1:]))
    assert whole.shape == (5, 7)
    assert whole.dtype == torch.float32
    for pairs in (1, 3, 10, 10**6):
        tiled = score_all(method, queries, gallery, tile_bytes=pairs * pair)
        assert torch.allclose(tiled, whole, atol=1e-4), f"in tiles of {pairs} pairs"


def test_a_set_is_scored_with_itself_as_with_any(name: str) -> None:
    method = learnt(name)
    with torch.inference_mode():
        crops = method.embed(images(7))
    itself = score_all(method, crops, crops, tile_bytes=10 * method.pair_bytes(crops.shape[1:]))
    assert torch.equal(itself, itself.T)
    assert torch.allclose(itself, score_all(method, crops, crops.clone()), atol=1e-4)


def test_approximate_scores_are_fp32_and_those_of_a_cosine_exact(name: str) -> None:
    method = learnt(name)
    with torch.inference_mode():
        queries, gallery = method.embed(images(5)), method.embed(images(7, 1))
        rough, exact = method.approximate(queries, gallery), method.score(queries, gallery)
        # Vectors of one embedding at a time, prepared before, have the same products.
        vectors = torch.cat([method.rough(one[None], queries=False) for one in gallery])
        prepared = method.rough(queries, queries=True) @ vectors.T
    assert rough.dtype == torch.float32
    assert rough.shape == (5, 7)
    assert rough.isfinite().all()
    assert torch.allclose(prepared, rough, atol=1e-4 * float(exact.std()) + 1e-5)
    assert torch.equal(rough, exact) == (name not in ("gmn", "qaconv_ms"))


def test_scores_of_half_precision_products_are_near_and_fp32(name: str) -> None:
    method = learnt(name)
    with torch.inference_mode():
        queries, gallery = method.embed(images(5)), method.embed(images(7, 1))
    exact = score_all(method, queries, gallery)
    half = score_all(method, queries, gallery, half=True)
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() <= 0.2 * exact.std()
    # Cosines take one product, which fp32 makes cheap enough.
    assert torch.equal(half, exact) == (name not in ("gmn", "qaconv_ms"))


def test_losses_are_finite_and_reach_every_parameter(name: str) -> None:
    # One step first: residual branches start with a gain of zero, which no gradient passes.
    method = learnt(name).train()
    method.start_epoch(0)
    losses = method(batch())
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for parameter_name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any(), parameter_name


def test_losses_are_finite_in_bf16(name: str) -> None:
    method = build(experiment(name), CENSUS).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = method(batch())
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())


def test_one_seed_gives_one_method(name: str) -> None:
    one, other = (build(experiment(name), CENSUS).train() for _ in range(2))
    for method in (one, other):
        torch.manual_seed(3)
        method.losses_seen = [v.item() for v in method(batch()).values()]
    assert one.losses_seen == other.losses_seen
    reseeded = build(experiment(name).replaced({"seed": 1}), CENSUS)
    weights = zip(one.parameters(), reseeded.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in weights)


def test_saved_and_loaded_scores_are_bit_equal(name: str, tmp_path) -> None:
    method = learnt(name)
    save_trained(tmp_path / "best", experiment(name), CENSUS, method.state_dict())
    trained = load_trained(tmp_path)
    with torch.inference_mode():
        expected = method.score(method.embed(images(3)), method.embed(images(4, 1)))
        again = trained.method
        found = again.score(again.embed(images(3)), again.embed(images(4, 1)))
    assert torch.equal(found, expected)
    assert trained.experiment == experiment(name)


def test_the_recipe_makes_an_experiment(name: str) -> None:
    made = compose(name, {"sources": ["synthetic=snow"]})
    assert made.method == name
    assert find_method(f"{METHODS[name].__module__}:{METHODS[name].__name__}") is METHODS[name]


def test_every_hyper_parameter_has_a_help(name: str) -> None:
    for field, info in METHODS[name].Config.model_fields.items():
        assert info.description, f"{name}: config.{field} says nothing about itself"


def test_methods_inherit_from_method_alone(name: str) -> None:
    assert METHODS[name].__bases__ == (Method,)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("gnm", "did you mean 'gmn'"),
        ("nowhere:Thing", "could not be imported"),
        ("rayreid.batch:Batch", "is not a subclass"),
    ],
)
def test_an_unknown_method_is_named(wrong: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_method(wrong)
