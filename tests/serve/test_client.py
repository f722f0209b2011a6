"""The typed client against the whole service: every call of the contract, over real HTTP."""

import io
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rayreid.checkpoint import Trained, preprocessing_fingerprint
from rayreid.cli import cli
from rayreid.client import Client, Sample, ServiceError
from rayreid.guard.tokens import Scope, add_token
from rayreid.ranking.thresholds import SearchRate
from tests.ranking.test_calibration import SEARCH, calibration, pair
from tests.serve.pictures import TIMEOUT, expected, picture
from tests.serve.whole import whole

PICTURES = [picture(seed) for seed in range(5)]
PAIRS = [(0, 1), (0, 2), (1, 2), (3, 4), (2, 2)]


@pytest.fixture(scope="module")
def scores(trained: Trained) -> np.ndarray:
    """Return the scores of `PAIRS`, by the method alone."""
    return expected(trained, PICTURES, PAIRS)


@pytest.fixture(scope="module")
def thresholds(scores: np.ndarray) -> tuple[float, float]:
    """Return a threshold of match and one of review that divide these scores."""
    low, middle, high = np.sort(scores)[[0, 2, 4]]
    return float(middle + high) / 2, float(low + middle) / 2


@pytest.fixture(scope="module")
def client(
    run: Path,
    trained: Trained,
    thresholds: tuple[float, float],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    """Yield a client that holds a token of a service of a calibrated model and its galleries."""
    folder = tmp_path_factory.mktemp("service")
    shutil.copytree(run, folder / "tiny")
    match, review = thresholds
    rates = (SearchRate(rate=0.1, thresholds=(match,) * 3, people_bounds=None, identified=None),)
    calibration(
        fingerprint=trained.fingerprint,
        preprocessing=preprocessing_fingerprint(trained.experiment),
        pairs=(pair(0.1, review), pair(0.01, match)),
        review=review,
        search=SEARCH.model_copy(update={"rates": rates, "review": review}),
    ).save(folder / "tiny")
    tokens, mine = folder / "tokens.json", folder / "mine"
    mine.touch(mode=0o600)
    mine.write_text(add_token(tokens, "all", list(Scope), 1000.0))
    settings = {"tokens": tokens, "galleries": folder / "galleries"}
    with (
        whole(folder / "tiny", **settings) as port,
        Client(f"http://127.0.0.1:{port}", token_file=mine, timeout=float(TIMEOUT)) as client,
    ):
        yield client


@pytest.fixture
def gallery(client: Client) -> Iterator[str]:
    """Yield a new gallery with anna (s0, s1) and bo (s2)."""
    name = "the hall"
    client.create_gallery(name)
    client.enrol(
        name,
        ["anna", "anna", "bo"],
        images=PICTURES[:3],
        cameras=["door", None, "stairs"],
        times=["2026-01-01T10:00:00Z", None, "2026-01-01T12:00:00+01:00"],
        tags=[["red"], [], ["red", "bag"]],
        ids=["s0", "s1", "s2"],
    )
    yield name
    client.delete_gallery(name)


def test_the_service_tells_what_it_is(client: Client, trained: Trained) -> None:
    assert client.ready()
    (model,) = client.models()
    assert (model.name, model.method, model.fingerprint) == ("tiny", "gmn", trained.fingerprint)
    assert (model.input, model.loaded, model.replicas) == ([64, 32], True, 1)
    assert model.calibration is not None
    assert model.calibration["default_false_accept_rate"] == 0.01
    assert "rayreid_requests_total" in client.metrics()


def test_without_the_token_nothing_is_told(client: Client) -> None:
    with Client(client.connection.url) as stranger, pytest.raises(ServiceError) as refused:
        stranger.models()
    assert refused.value.status == 401


def test_pairs_come_with_decisions_by_the_calibration(
    client: Client, scores: np.ndarray, thresholds: tuple[float, float]
) -> None:
    answer = client.match_pairs(PAIRS, images=PICTURES)
    np.testing.assert_allclose(answer.scores, scores, atol=1e-5)
    assert (answer.model, answer.embedded) == ("tiny", 5)
    assert set(answer.timings_ms) >= {"decode", "embed", "score"}
    match, review = thresholds
    named = ["match" if s > match else "review" if s > review else "no_match" for s in scores]
    assert answer.decisions == named
    assert set(named) == {"match", "review", "no_match"}
    assert (answer.thresholds.match, answer.thresholds.review) == thresholds
    assert answer.thresholds.false_accept_rate == 0.01
    assert answer.thresholds.rate_bounds == pytest.approx([0.01 / 3, 0.03])
    looser = client.match_pairs(PAIRS, images=PICTURES, false_accept_rate=0.1)
    assert looser.decisions == ["match" if s > review else "no_match" for s in scores]
    with pytest.raises(ServiceError, match="not calibrated at a false accept rate") as refused:
        client.match_pairs(PAIRS, images=PICTURES, false_accept_rate=0.5)
    assert refused.value.status == 422


def test_images_embeddings_and_samples_are_one_row_of_items(
    client: Client, gallery: str, scores: np.ndarray
) -> None:
    (embedded,) = client.embed(PICTURES[1:2]).embeddings
    items = {
        "images": PICTURES[:1],
        "embeddings": [embedded],
        "samples": [Sample(gallery, "s2")],
    }
    answer = client.match_pairs(PAIRS[:3], **items)
    np.testing.assert_allclose(answer.scores, scores[:3], atol=1e-4)
    assert answer.embedded == 1
    matrix = client.match_matrix([0, 1], [1, 2], **items)
    assert matrix.scores[0] == pytest.approx(list(scores[:2]), abs=1e-4)
    assert matrix.scores[1][1] == pytest.approx(scores[2], abs=1e-4)


def test_regions_are_explained_as_numbers_and_as_a_picture(
    client: Client, scores: np.ndarray
) -> None:
    answer = client.explain(PICTURES[0], PICTURES[1], lines=3)
    assert answer.explanation["score"] == pytest.approx(scores[0], abs=1e-4)
    rows, columns = answer.explanation["grid"]
    assert np.shape(answer.explanation["first"]) == (rows, columns)
    png = client.explain_png(PICTURES[0], PICTURES[1])
    assert Image.open(io.BytesIO(png)).format == "PNG"


def test_a_gallery_is_made_listed_and_searched(
    client: Client, gallery: str, trained: Trained, thresholds: tuple[float, float]
) -> None:
    client.create_gallery("another", model="tiny")
    assert {one.name for one in client.galleries()} == {gallery, "another"}
    client.delete_gallery("another")
    there = client.gallery(gallery)
    assert (there.identities, there.samples, there.model) == (2, 3, "tiny")
    assert there.fingerprint == trained.fingerprint
    assert datetime.fromisoformat(there.created).tzinfo is not None
    found = client.search(gallery, images=PICTURES[3:], top_k=1, shortlist=3)
    assert (found.gallery, found.snapshot) == (gallery, there.version)
    assert found.enrolled == {"identities": 2, "samples": 3}
    assert found.threshold == thresholds[0]
    wanted = expected(trained, PICTURES, [(q, s) for q in (3, 4) for s in range(3)]).reshape(2, 3)
    for result, row in zip(found.results, wanted, strict=True):
        (best,) = result.matches
        assert best.sample == f"s{row.argmax()}"
        assert best.score == pytest.approx(row.max(), abs=1e-4)
        assert result.decision == best.decision
        assert result.searched == 3
        match, review = thresholds
        decided = row.max() > match, row.max() > review
        assert best.decision == {
            (True, True): "match", (False, True): "review", (False, False): "no_match",
        }[decided]  # fmt: skip
    few = client.search(
        gallery,
        samples=[Sample(gallery, "s0")],
        filters={"tags": ["red"], "from": "2026-01-01T10:30:00Z", "to": "2026-01-02T00:00:00Z"},
        false_positive_identification_rate=0.1,
    )
    (result,) = few.results
    (match,) = result.matches
    assert (match.identity, match.camera, match.tags) == ("bo", "stairs", ["red", "bag"])
    assert match.time is not None
    assert datetime.fromisoformat(match.time) == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert result.thresholds.false_positive_identification_rate == 0.1
    none = client.search(gallery, images=PICTURES[:1], filters={"cameras": ["roof"]})
    assert (none.results[0].decision, none.results[0].matches) == ("no_match", [])
    groups = {"images": PICTURES[3:], "queries": [[0, 1]]}
    for fusion, rows in {"mean": wanted.mean(0), "max": wanted.max(0)}.items():
        (one,) = client.search(gallery, fusion=fusion, **groups).results
        told = {match.sample: match.score for match in one.matches}
        for sample, score in told.items():
            assert score == pytest.approx(rows[int(sample[1:])], abs=1e-4)


def test_people_are_renamed_merged_and_deleted(client: Client, gallery: str) -> None:
    assert [(one.name, one.samples) for one in client.identities(gallery)] == [
        ("anna", 2),
        ("bo", 1),
    ]
    version = client.gallery(gallery).version
    odd = "Bö & Co. 100%?#"
    assert client.rename_identity(gallery, "bo", odd) == version + 1
    assert client.identity(gallery, odd).samples == 1
    (bo,) = client.samples(gallery, odd)
    assert (bo.id, bo.identity, bo.camera, bo.tags) == ("s2", odd, "stairs", ["red", "bag"])
    assert client.merge_identities(gallery, odd, into="anna") == version + 2
    assert [one.id for one in client.samples(gallery)] == ["s0", "s1", "s2"]
    assert client.delete_sample(gallery, "s1") == version + 3
    assert client.identity(gallery, "anna").samples == 2
    assert client.delete_identity(gallery, "anna") == version + 4
    assert list(client.identities(gallery)) == []
    with pytest.raises(ServiceError, match="anna") as refused:
        client.identity(gallery, "anna")
    assert refused.value.status == 404


def test_the_same_sample_twice_is_a_conflict_and_a_purge_has_a_receipt(
    client: Client, gallery: str
) -> None:
    (embedded,) = client.embed(PICTURES[4:]).embeddings
    enrolled = client.enrol(gallery, ["cy"], embeddings=[embedded], ids=["s4"])
    assert (enrolled.ids, enrolled.gallery) == (["s4"], gallery)
    with pytest.raises(ServiceError) as refused:
        client.enrol(gallery, ["cy"], embeddings=[embedded], ids=["s4"])
    assert refused.value.status == 409
    (made,) = client.enrol(gallery, ["di"], images=PICTURES[3:4]).ids
    receipt = client.purge(gallery, identities=["anna", "ghost"], samples=["s4"])
    assert (receipt.identities, receipt.samples, receipt.missing) == (2, 3, ["ghost"])
    assert (receipt.replicas, receipt.check["remains"]) == (1, [])
    assert receipt.check["searched_bytes"] > 0
    assert receipt.version == client.gallery(gallery).version
    assert [one.id for one in client.samples(gallery)] == sorted(["s2", made])
    everybody = client.purge(gallery, everything=True)
    assert everybody.samples == 2
    assert client.gallery(gallery).samples == 0


def test_the_verb_tells_scores_and_decisions(
    client: Client, tmp_path: Path, scores: np.ndarray, thresholds: tuple[float, float]
) -> None:
    for number, image in enumerate(PICTURES):
        (tmp_path / f"{number}.png").write_bytes(image)
    (tmp_path / "pairs.csv").write_text("".join(f"{a}.png,{b}.png\n" for a, b in PAIRS))
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(str(client.connection.token))
    asked = ["match", f"--pairs={tmp_path / 'pairs.csv'}", f"--url={client.connection.url}"]
    asked += [f"--token-file={token}", "--false-accept-rate=0.01"]
    told = CliRunner().invoke(cli, [*asked, "--json"], catch_exceptions=False).output
    rows = [json.loads(line) for line in told.splitlines()]
    np.testing.assert_allclose([row["score"] for row in rows], scores, atol=1e-5)
    assert [row["decision"] == "match" for row in rows] == list(scores > thresholds[0])
    shown = CliRunner().invoke(cli, asked, catch_exceptions=False).output
    assert f"{scores[0]:.4f}  {rows[0]['decision']}\n" in shown
    assert shown.endswith("higher = more alike\n")
