import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from rayreid.__main__ import main
from rayreid.batch import Census
from rayreid.calibrate import CalibrationSettings, _sampled, calibrate, refuse_pairs
from rayreid.calibration_page import PAGE, page
from rayreid.checkpoint import Trained, build, load_trained, save_trained
from rayreid.cli import cli
from rayreid.data.sources import open_source
from rayreid.experiment import compose
from rayreid.gallery import Target
from rayreid.ranking.calibration import Calibration
from rayreid.ranking.identification import search_table
from rayreid.ranking.thresholds import NotEnough, PairThreshold, SearchThreshold
from rayreid.run import write_json
from tests.miniature import MINIATURE

SOURCE = "synthetic=plaza-noon"
SETTINGS = CalibrationSettings(rates=(0.1, 0.02, 1e-4), search_rates=(0.2,))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    experiment = compose(
        "baseline", MINIATURE | {"synthetic.test_people": 12, "synthetic.crops": 3}
    )
    census = Census({"snow": 8, "subway": 8})
    weights = build(experiment, census).state_dict()
    save_trained(folder / "best", experiment, census, weights)
    return folder


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load_trained(run)


def all_scores(trained: Trained) -> tuple[np.ndarray, Any, Any]:
    experiment = trained.experiment
    domain = open_source(SOURCE, experiment.loading, experiment.synthetic)
    scores = Target(domain, experiment.loading).scores(trained.method)
    return scores, domain.query, domain.gallery


def test_thresholds_are_those_of_all_pairs_of_the_domain(trained: Trained) -> None:
    found = calibrate(trained, SOURCE, SETTINGS)
    scores, query, gallery = all_scores(trained)
    same = query.identities[:, None] == gallery.identities
    genuine = scores[same & (query.cameras[:, None] != gallery.cameras)]
    negative = np.sort(scores[~same])[::-1]
    assert (found.genuine, found.impostors) == (len(genuine), len(negative))
    assert found.people == len(np.unique(np.concatenate([query.identities, gallery.identities])))
    first = found.pair_threshold(0.1)
    assert isinstance(first, PairThreshold)
    assert first.threshold == pytest.approx(negative[int(0.1 * len(negative))])
    assert isinstance(found.pair_threshold(1e-4), NotEnough)
    assert sum(found.distributions.genuine) == pytest.approx(1)
    search = found.search_threshold(5, 0.2)
    assert isinstance(search, SearchThreshold)
    assert (found.fingerprint, found.directions) == (trained.fingerprint, "one")


def test_a_query_set_too_large_to_be_scored_whole_is_thinned_evenly(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = calibrate(trained, SOURCE, SETTINGS)
    scores, _, _ = all_scores(trained)
    monkeypatch.setattr("rayreid.calibrate.MOST_PAIRS", scores.size // 2)
    part = calibrate(trained, SOURCE, SETTINGS)
    assert part.impostors == pytest.approx(whole.impostors / 2, rel=0.1)
    assert part.search is not None
    assert part.search.searches == -(-len(scores) // 2)


def test_galleries_of_so_many_crops_a_person_have_lower_thresholds_of_searches(
    trained: Trained,
) -> None:
    whole = calibrate(trained, SOURCE, SETTINGS)
    one = calibrate(trained, SOURCE, SETTINGS.model_copy(update={"samples": 1}))
    assert one.search is not None
    assert whole.search is not None
    assert one.search.samples == 1 < whole.search.samples
    assert one.search.rates[0].thresholds[0] is not None
    assert one.search.rates[0].thresholds[0] < whole.search.rates[0].thresholds[0]
    assert one.pairs == whole.pairs


def test_searches_for_somebody_enrolled_find_the_enrolled_crops_alone(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[np.ndarray] = []

    def kept(best: np.ndarray, own: np.ndarray, *rest: Any) -> Any:
        told.append(own)
        return search_table(best, own, *rest)

    monkeypatch.setattr("rayreid.calibrate.search_table", kept)
    settings = SETTINGS.model_copy(update={"samples": 1})
    calibrate(trained, SOURCE, settings)
    scores, query, gallery = all_scores(trained)
    enrolled = _sampled(gallery.identities, np.ones(len(gallery), bool), settings)
    own = np.full(len(query), -np.inf)
    for q in range(len(query)):
        for g in np.flatnonzero(enrolled):
            own_camera = gallery.cameras[g] == query.cameras[q]
            if gallery.identities[g] == query.identities[q] and not own_camera:
                own[q] = max(own[q], scores[q, g])
    assert 0 < np.isfinite(own).sum() < len(query), "some are enrolled by the query's own camera"
    np.testing.assert_allclose(told[0], own, atol=1e-5)


def test_an_asymmetric_score_counts_in_both_directions(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lopsided(queries: Tensor, gallery: Tensor) -> Tensor:
        return queries @ gallery.T + queries.sum(1)[:, None]

    class Lopsided(type(trained.method)):  # type: ignore[misc]
        score = staticmethod(lopsided)

    monkeypatch.setattr(trained.method, "__class__", Lopsided)
    found = calibrate(trained, SOURCE, SETTINGS)
    experiment = trained.experiment
    domain = open_source(SOURCE, experiment.loading, experiment.synthetic)
    queries, gallery = Target(domain, experiment.loading).embeddings(trained.method)
    different = domain.query.identities[:, None] != domain.gallery.identities
    both = np.concatenate(
        [
            lopsided(queries, gallery).numpy()[different],
            lopsided(gallery, queries).numpy().T[different],
        ]
    )
    assert found.directions == "both"
    assert "each pair was scored both ways" in page(found)
    assert found.impostors == different.sum()
    first = found.pair_threshold(0.1)
    assert isinstance(first, PairThreshold)
    assert first.measured == pytest.approx((both > first.threshold).mean())
    assert first.people_bounds is not None
    assert first.people_bounds[0] <= first.measured <= first.people_bounds[1]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_of_pairs_gives_the_thresholds_of_its_scores(
    trained: Trained, tmp_path: Path, kind: str
) -> None:
    experiment = trained.experiment
    domain = open_source(SOURCE, experiment.loading, experiment.synthetic)
    crops = domain.query
    count = min(16, len(crops))
    for i in range(count):
        Image.fromarray(np.asarray(crops.images[i])).save(tmp_path / f"{i}.png")
    who = crops.identities[:count]
    rows = [(i, j, who[i] == who[j]) for i in range(count) for j in range(i)]
    path = tmp_path / f"pairs.{kind}"
    if kind == "csv":
        lines = [f"{i}.png,{j}.png,{int(same)}" for i, j, same in rows]
        path.write_text("\n".join(["first,second,same", *lines]))
    else:
        import pyarrow as pa
        from pyarrow import parquet

        table = {"first": [f"{i}.png" for i, _, _ in rows],
                 "second": [f"{j}.png" for _, j, _ in rows],
                 "same": [bool(same) for _, _, same in rows]}  # fmt: skip
        parquet.write_table(pa.table(table), path)
    found = calibrate(trained, str(path), SETTINGS)
    embedded = Target(domain, experiment.loading).embeddings(trained.method)[0][:count]
    with torch.inference_mode():
        scores = trained.method.score(embedded, embedded).numpy()
    negative = np.sort([scores[i, j] for i, j, same in rows if not same])[::-1]
    first = found.pair_threshold(0.1)
    assert isinstance(first, PairThreshold)
    assert first.threshold == pytest.approx(negative[int(0.1 * len(negative))], abs=1e-5)
    assert found.people == len(np.unique(who))
    assert found.search is None
    assert "<svg" in page(found)


def test_people_that_the_run_has_learnt_and_targets_are_refused(
    trained: Trained, tmp_path: Path
) -> None:
    everybody = trained.experiment.model_copy(update={"sources": (f"market1501:all={tmp_path}",)})
    learnt = Trained(trained.method, everybody, trained.fingerprint)
    with pytest.raises(ValueError, match=r"has learnt the people of market1501:all"):
        refuse_pairs(learnt, f"market1501={tmp_path}")
    shared = trained.experiment.model_copy(update={"sources": (f"cuhk_sysu={tmp_path}",)})
    refuse_pairs(Trained(trained.method, shared, ""), f"viper={tmp_path / 'other'}")
    with pytest.raises(ValueError, match=r"is a target of this run: .*--on-target"):
        refuse_pairs(trained, SOURCE, (SOURCE,))
    refuse_pairs(trained, SOURCE, (SOURCE,), on_target=True)
    refuse_pairs(trained, SOURCE, ("synthetic=snow",))


def test_the_verb_keeps_a_file_and_a_page_and_prints_both_tables(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    command = ["calibrate", str(folder), "--pairs", SOURCE, "--rate", "0.1", "--rate", "1e-4"]
    answer = CliRunner().invoke(cli, command)
    assert answer.exit_code == 0, answer.output
    assert "false accept rate" in answer.output
    assert "not enough impostor pairs for a rate of 0.0001" in answer.output
    assert "enrolled" in answer.output
    trained = load_trained(folder)
    kept = Calibration.load(folder, fingerprint=trained.fingerprint)
    assert [type(one) for one in kept.pairs] == [PairThreshold, NotEnough]
    shown = (folder / "best" / PAGE).read_text()
    assert shown.count("<svg") == 2
    assert "script" not in shown
    write_json(folder / "ranking.json", {"targets": {SOURCE: {}}})
    refused = CliRunner().invoke(cli, command)
    assert "is a target of this run" in str(refused.exception)
    assert CliRunner().invoke(cli, [*command, "--on-target"]).exit_code == 0


def test_a_mistake_is_one_sentence(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["rayreid", "calibrate", str(run), "--pairs", SOURCE, "--rate", "2"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit):
        main()
    assert "rates lie between 0 and 0.5" in capsys.readouterr().err
