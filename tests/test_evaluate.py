"""Temporal lifting and re-ranking of a trained method, over a folder in Market-1501's layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from rayreid.batch import Census, Domain
from rayreid.checkpoint import build, load_trained, save_trained
from rayreid.cli import cli
from rayreid.data.decoding import decode_all
from rayreid.data.layouts.market1501 import read_market1501
from rayreid.data.synthetic import draw_domain
from rayreid.evaluate import evaluate
from rayreid.experiment import compose
from rayreid.gallery import ranked
from rayreid.matching.tiles import score_all
from rayreid.ranking.histogram import colour_histogram
from rayreid.ranking.metrics import Ranking, RankingSettings
from rayreid.ranking.rerank import RerankSettings
from rayreid.ranking.temporal_lift import LiftSettings, temporal_lift
from tests.miniature import MINIATURE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a method, saved as it was made: it knows nothing of people."""
    folder = tmp_path_factory.mktemp("run") / "best"
    experiment = compose("baseline", MINIATURE, {"seed": 3})
    census = Census({"snow": 8, "subway": 8})
    save_trained(folder, experiment, census, build(experiment, census).state_dict())
    return folder


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of drawn people who walk by a quarter of an hour apart."""
    root = tmp_path_factory.mktemp("data") / "market"
    drawn = draw_domain(
        "snow", train_people=1, test_people=8, cameras=2, crops=4, height=64, width=32
    )
    for folder, crops in (("query", drawn.query), ("bounding_box_test", drawn.gallery)):
        (root / folder).mkdir(parents=True)
        people = zip(crops.images, crops.identities, crops.cameras, strict=True)
        for i, (pixels, identity, camera) in enumerate(people):
            assert isinstance(pixels, np.ndarray)
            frame = int(identity) * 15 * 60 * 25 + i
            name = f"{identity + 1:04d}_c{camera + 1}s1_{frame:06d}_{i:02d}.png"
            Image.fromarray(pixels).save(root / folder / name)
    return root


def lifted(scores: np.ndarray, domain: Domain, settings: LiftSettings) -> Ranking:
    query, gallery = domain.query, domain.gallery
    columns = (query.cameras, query.times, gallery.cameras, gallery.times)
    return ranked(temporal_lift(scores, *columns, settings), query, gallery)


def test_the_methods_scores_are_lifted_and_computed_once(
    run: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def once(*arguments: Any, **rest: Any) -> torch.Tensor:
        computed.append(score_all(*arguments, **rest))
        return computed[-1]

    monkeypatch.setattr("rayreid.evaluate.score_all", once)
    settings, target = LiftSettings(neighbours=3), f"market1501={market}"
    found = evaluate(load_trained(run), target, lift=settings)
    (of_method,) = computed
    assert found.lifted == lifted(of_method.numpy(), read_market1501(market, "market"), settings)
    assert found.lifted != found.ranking
    plain = evaluate(load_trained(run), target)
    assert plain.lifted is None
    assert (plain.ranking, plain.reference) == (found.ranking, found.reference)


def test_lifting_helps_scores_that_know_something(market: Path) -> None:
    domain = read_market1501(market, "market")
    query, gallery = (
        colour_histogram(decode_all(part.images, 64, 32)) for part in (domain.query, domain.gallery)
    )
    scores = query @ gallery.T
    plain = ranked(scores, domain.query, domain.gallery)
    assert lifted(scores, domain, LiftSettings(neighbours=2)).map > plain.map + 0.05


def verb(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *arguments])


def test_the_verb_prints_lifted_beside_plain(run: Path, market: Path) -> None:
    target = f"market1501={market}"
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in verb(str(run), "--target", target, "--temporal-lift").output.splitlines()
        if line.startswith("| market1501")
    ]
    assert [row[1] for row in rows] == ["baseline", "baseline + temporal lift", "colour histogram"]
    expected = evaluate(load_trained(run), target, lift=LiftSettings())
    assert expected.lifted is not None
    assert [row[3] for row in rows] == [
        f"{ranking.map:.3f}" for ranking in (expected.ranking, expected.lifted, expected.reference)
    ]
    assert "temporal lift" not in verb(str(run), "--target", target).output


def test_other_rules_are_recorded_with_what_they_gave(run: Path, market: Path) -> None:
    recorded, target = run / "ranking.json", f"market1501={market}"
    recorded.write_text("{}")
    plain = verb(str(run), "--target", target)
    (first,) = json.loads(recorded.read_text())["targets"].values()
    assert "settings" not in first
    rate = first["method"]["TPR@FPR=1e-2"]
    assert f"TPR@FPR=1e-2 {rate:.3f}" in plain.output
    verb(str(run), "--target", target, "--average-precision", "trapezoid", "--single-gallery-shot")
    (other,) = json.loads(recorded.read_text())["targets"].values()
    assert other["settings"] == {"average_precision": "trapezoid", "single_gallery_shot": True}
    wanted = RankingSettings(average_precision="trapezoid", single_gallery_shot=True)
    expected = evaluate(load_trained(run), target, settings=wanted)
    assert other["method"]["mAP"] == expected.ranking.map != first["method"]["mAP"]
    assert other["colour histogram"]["rank1"] == expected.reference.rank1
    recorded.unlink()


def test_a_target_without_times_is_named(run: Path) -> None:
    answer = verb(str(run), "--target", "synthetic=snow", "--temporal-lift")
    assert isinstance(answer.exception, ValueError)
    assert str(answer.exception) == (
        "synthetic=snow does not tell the times of its crops, which temporal lifting needs; "
        "rank it without"
    )


def test_the_verb_prints_and_keeps_what_re_ranking_gives(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder / "best")
    (folder / "ranking.json").write_text("{}")
    answer = verb(str(folder), "--target", "synthetic=snow", "--rerank")
    assert answer.exception is None, answer.output
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in answer.output.splitlines()
        if line.startswith("| synthetic")
    ]
    assert [row[1] for row in rows] == ["baseline", "baseline + re-ranking", "colour histogram"]
    expected = evaluate(load_trained(run), "synthetic=snow", rerank=RerankSettings())
    assert expected.reranked is not None
    assert expected.reranked != expected.ranking
    assert rows[1][3] == f"{expected.reranked.map:.3f}"
    assert "re-ranking: k1 20, k2 6, lambda 0.3; it looks at all queries together" in answer.output
    kept = json.loads((folder / "ranking.json").read_text())["targets"]["synthetic=snow"]
    assert kept["re-ranking"]["mAP"] == expected.reranked.map
    assert kept["re-ranking"]["settings"] == {"neighbours": 20, "expansion": 6, "original": 0.3}
    plain = verb(str(folder), "--target", "synthetic=snow")
    assert "re-ranking" not in plain.output
    kept = json.loads((folder / "ranking.json").read_text())["targets"]["synthetic=snow"]
    assert set(kept) == {"method", "colour histogram"}


def test_a_shortlist_is_told_with_what_it_loses(run: Path, market: Path) -> None:
    recorded, target = run / "ranking.json", f"market1501={market}"
    recorded.write_text("{}")
    answer = verb(str(run), "--target", target, "--shortlist", "3", "--precision", "half")
    assert answer.exit_code == 0, answer.output
    assert "baseline, 3 shortlisted" in answer.output
    # A cosine's approximation is the cosine.
    assert "1.000 have their first crop and 1.000 of their first 3 on the list" in answer.output
    (kept,) = json.loads(recorded.read_text())["targets"].values()
    assert kept["shortlist"]["recall"] == 1
    assert kept["settings"] == {"precision": "half"}
    recorded.unlink()


def test_what_needs_all_scores_is_refused_beside_a_shortlist(run: Path, market: Path) -> None:
    for also in ("--rerank", "--temporal-lift"):
        answer = verb(str(run), "--target", f"market1501={market}", "--shortlist", "3", also)
        assert answer.exit_code != 0
        assert "a shortlist leaves most scores approximate" in str(answer.exception)
