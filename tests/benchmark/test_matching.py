import json
from pathlib import Path

import pytest
import torch

from rayreid.benchmark import matching as benchmark
from rayreid.benchmark.matching import Row, Sizes, matching, plain_maxima, plain_metric
from rayreid.matching.maxima import correlation_maxima
from rayreid.matching.metric_network import MetricNetwork

SMALL = Sizes(positions=6, channels=(4,), queries=5, gallery=26, batch=4, embedding=8,
              hidden=(3,), crops=300, product=16)  # fmt: skip


def test_the_page_has_both_forms_and_what_they_differ_in(tmp_path: Path) -> None:
    told: list[str] = []
    page = matching(tmp_path, told.append, rounds=1, sizes=SMALL)
    found = json.loads((tmp_path / "matching.json").read_text())
    # Best matches and M-Net with and without a hidden layer; without, in fp32 alone.
    counts = len({1, torch.get_num_threads()})
    assert len(found["rows"]) == len(told) == 5 * counts
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["ours"] / row["plain"])
        assert 0 < row["error"] < (1e-4 if row["precision"] == "fp32" else 0.5)
        assert f"| {row['name']} " in page
    assert len(found["training"]) == counts
    assert all(row["ours_seconds"] > 0 for row in found["training"])


def test_straightforward_forms_are_the_same_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, others = (torch.randn(k, 4, 6, generator=generator) for k in (3, 5))
    for one, other in zip(
        plain_maxima(maps, others), correlation_maxima(maps, others), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)
    net = MetricNetwork(8, 3, 1).eval()
    x, y = torch.randn(3, 8, generator=generator), torch.randn(7, 8, generator=generator)
    with torch.no_grad():
        assert torch.allclose(plain_metric(net, x, y, chunk=2), net.score(x, y), atol=1e-5)


def test_a_row_tells_ratio_and_share() -> None:
    row = Row("x", 1, "fp32", plain=2.0, ours=10.0, flop=3.0, peak=60.0, error=0.0)
    assert (row.ratio, row.share) == (5.0, 0.5)


def test_the_peak_is_a_rate() -> None:
    assert benchmark._peak(torch.float32, SMALL, 1) > 0
