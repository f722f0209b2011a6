"""What the learner is fed: the graph sampler in a run, and the crops of a target."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from rayreid.batch import Domain
from rayreid.checkpoint import build
from rayreid.data.synthetic import draw_domain
from rayreid.data.views import as_images
from rayreid.experiment import Experiment, compose
from rayreid.feed import Feed
from rayreid.learn import Epoch, learn
from tests.miniature import MINIATURE

SIZE = {"train_people": 7, "test_people": 4, "cameras": 2, "crops": 2, "height": 64, "width": 32}
CPU = torch.device("cpu")
NO_VIEWS = {"views.flip": 0.0, "views.shift": 0.0, "views.erasing": 0.0}
ADAPTING = {"sources": ["synthetic=snow"], "target": "synthetic=subway"}


def drawn(*names: str) -> list[Domain]:
    return [draw_domain(name, **SIZE) for name in names]


@pytest.fixture(scope="module")
def domains() -> list[Domain]:
    return drawn("snow", "subway")


def experiment(method: str = "baseline", **assignments: object) -> Experiment:
    return compose(
        method,
        MINIATURE,
        {"sampling.kind": "graph", "epochs": 2},
        {path.replace("__", "."): value for path, value in assignments.items()},
    )


def weights(epoch: Epoch) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in epoch.learner.method.state_dict().items()}


def fed(made: Experiment, domains: list[Domain], rank: int = 0, world: int = 1) -> Feed:
    return Feed(made, domains, None, rank=rank, world=world, device=CPU)


# The graph.


def test_a_run_learns_from_batches_of_the_graph(domains: list[Domain]) -> None:
    epochs = list(learn(experiment(), domains))
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert all(np.isfinite(loss) for epoch in epochs for loss in epoch.losses.values())


def test_a_resumed_run_finds_the_same_graph(domains: list[Domain], tmp_path: Path) -> None:
    made = experiment(epochs=3)
    straight = list(learn(made, domains))
    (interrupted,) = islice(learn(made, domains), 1)
    interrupted.learner.save(tmp_path)
    resumed = list(learn(made, domains, state=tmp_path))
    assert [epoch.losses for epoch in resumed] == [epoch.losses for epoch in straight[1:]]
    for name, value in weights(straight[-1]).items():
        assert torch.equal(value, weights(resumed[-1])[name]), name


def test_the_graph_is_of_the_methods_scores_of_the_representatives(domains: list[Domain]) -> None:
    made = experiment()
    feed = fed(made, domains)
    method = build(made, feed.census).train()
    for found, chosen in zip(feed._graph(1, method), feed.sampler.representatives(1), strict=True):
        images = as_images(feed.crops[chosen][0])
        with torch.inference_mode():
            method.eval()
            maps = method.embed(images)
            slow = method.score(maps, maps).numpy()
            method.train()
        assert np.allclose(found, slow, atol=1e-5)


def test_batches_follow_the_weights_and_leave_the_mode(domains: list[Domain]) -> None:
    made = experiment(steps_per_epoch=7)
    feed = fed(made, domains)
    one = build(made, feed.census).train()
    other = build(made.replaced({"seed": 1}), feed.census).train()
    before = {name: value.clone() for name, value in one.state_dict().items()}
    batches = [
        [raw[1].tolist() for raw in feed.epoch(0, method)] for method in (one, other, one)
    ]  # fmt: skip
    assert batches[0] == batches[2] != batches[1]
    assert one.training
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def work(rank: int, folder: str) -> None:
    """Learn as one of two workers, and write down what this one saw."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    domains = drawn("snow", "subway")
    made = experiment(steps_per_epoch=3)
    feed = fed(made, domains, rank, 2)
    # Rank 1's own weights would give another graph.
    method = build(made.replaced({"seed": rank}), feed.census)
    graph = feed._graph(0, method)
    people = [raw[1] for raw in feed.epoch(0, method)]
    (*_, last) = learn(made, domains, rank=rank, world=2)
    torch.save(
        {
            "graph": [torch.from_numpy(scores) for scores in graph],
            "people": torch.stack(people),
            "weights": dict(last.learner.method.named_parameters()),
        },
        f"{folder}/rank{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def test_ranks_share_the_graph_and_learn_from_other_batches(
    domains: list[Domain], tmp_path: Path
) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for a, b in zip(one["graph"], other["graph"], strict=True):
        assert torch.equal(a, b)
    # It is the graph of rank 0, as found without any other.
    made = experiment()
    alone = fed(made, domains)
    expected = alone._graph(0, build(made, alone.census))
    for a, scores in zip(one["graph"], expected, strict=True):
        assert torch.allclose(a, torch.from_numpy(scores), atol=1e-5)
    turns = [
        {int(row[d * 6 + 5]) for row in seen["people"]} for seen in (one, other) for d in range(2)
    ]
    assert turns[0].isdisjoint(turns[2])
    assert turns[1].isdisjoint(turns[3])
    for name, value in one["weights"].items():
        assert torch.equal(value, other["weights"][name]), name


# A target.


@pytest.mark.parametrize("kind", ["identities", "graph"])
def test_a_method_that_adapts_sees_the_targets_crops(domains: list[Domain], kind: str) -> None:
    made = compose("daam", MINIATURE, ADAPTING, NO_VIEWS, {"sampling.kind": kind})
    source, target = domains[0], domains[1].train
    feed = Feed(made, [source], target, rank=0, world=1, device=CPU)
    method = build(made, feed.census).train()
    seen = []
    for raw in feed.epoch(0, method):
        batch = feed.batch(raw, torch.Generator())
        assert torch.equal(
            batch.target, as_images(torch.from_numpy(target.images[batch.target_indices.numpy()]))
        )
        assert len(batch.target) == len(batch.images)
        seen += batch.target_indices.tolist()
    assert len(set(seen)) == min(len(seen), len(target))


def test_target_crops_are_all_there_in_order_and_unvaried(domains: list[Domain]) -> None:
    made = compose("daam", MINIATURE, ADAPTING)
    target = domains[1].train
    feed = Feed(made, domains[:1], target, rank=0, world=1, device=CPU)
    assert len(feed.target) == len(target)
    parts = list(feed.target.batches(10))
    assert [len(part) for part in parts[:-1]] == [10] * (len(parts) - 1)
    assert torch.equal(torch.cat(parts), as_images(torch.from_numpy(target.images)))


def test_adapting_without_a_target_is_refused_in_a_sentence(domains: list[Domain]) -> None:
    made = compose("daam", MINIATURE, ADAPTING)
    with pytest.raises(ValueError, match=r"^daam adapts .*; add --set target=LAYOUT=LOCATION$"):
        Feed(made, domains[:1], None, rank=0, world=1, device=CPU)


def test_a_target_for_a_method_that_does_not_adapt_is_refused(domains: list[Domain]) -> None:
    made = compose("baseline", MINIATURE, ADAPTING)
    said = r"^baseline does not adapt, .* target=synthetic=subway; leave it away$"
    with pytest.raises(ValueError, match=said):
        Feed(made, domains[:1], domains[1].train, rank=0, world=1, device=CPU)


def test_a_target_without_crops_for_every_worker_is_named(domains: list[Domain]) -> None:
    made = compose("daam", MINIATURE, ADAPTING, {"sampling.identities": 2})
    train = domains[1].train
    none = type(train)("subway", train.images[:0], train.identities[:0], train.cameras[:0])
    with pytest.raises(ValueError, match="target subway has no training crops to adapt to"):
        Feed(made, domains[:1], none, rank=0, world=1, device=CPU)
