"""AdaBN against statistics taken by hand."""

import torch

from rayreid.adabn import adapted_norms
from rayreid.batch import Census
from rayreid.checkpoint import build
from rayreid.data.sources import open_source
from rayreid.experiment import compose
from rayreid.feed import TargetCrops
from tests.miniature import MINIATURE


def test_statistics_are_the_targets_and_weights_are_not_touched() -> None:
    experiment = compose("gmn", MINIATURE)
    domain = open_source("synthetic=law-7", experiment.loading, experiment.synthetic)
    method = build(experiment, Census({"snow": 4})).eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    crops = TargetCrops.of(domain.train, experiment.loading, torch.device("cpu"))
    adapted = adapted_norms(method, crops, batch=8)
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name
    statistics = {n for n in before if "running" in n or "num_batches" in n}
    changed = {n for n, v in adapted.state_dict().items() if not torch.equal(v, before[n])}
    embedded = {n for n in statistics if not n.startswith("metric.")}
    assert changed == embedded, "of what an embedding passes, and of nothing else"
    # The neck's mean over batches of eight, each normalised by its own statistics before.
    method.train()
    (images,) = crops.batches(len(crops))
    means = [method.trunk(part).mean((0, 2, 3)) for part in images.split(8)]
    assert torch.allclose(adapted.neck.norm.running_mean, torch.stack(means).mean(0), atol=1e-4)
    assert not adapted.training
    # One crop more than a batch leaves no batch of one, which has no deviation.
    adapted_norms(method, crops, batch=len(crops) - 1)
