"""The final stage: fresh seeds, a winner by them, runs on all sources, one look at the target."""

import json
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import rayreid.evaluate
import rayreid.run
from rayreid.batch import Domain
from rayreid.checkpoint import load_trained
from rayreid.cli import cli
from rayreid.data.sources import open_source
from rayreid.evaluate import evaluate
from rayreid.experiment import compose, load_experiment
from rayreid.gallery import Target
from rayreid.learn import learn
from rayreid.protocols import leave_one_domain_out
from rayreid.run import Run, open_sources
from rayreid.search_space import parse_space
from rayreid.settings import FailureError
from rayreid.study_report import write_report
from rayreid.study_report.record import read_study
from rayreid.tune import StudySettings, study
from rayreid.tune.ending import look
from rayreid.tune.finals import COLUMNS, finalists_of, fresh_seeds, run_finals
from tests.miniature import MINIATURE
from tests.study_report import folders

SMALL = {**MINIATURE, "epochs": 2, "optimiser.lr": 3e-3, "optimiser.name": "adamw", "seed": 5}
SPACE = {"optimiser.lr": {"float": {"low": 1e-3, "high": 1e-2, "log": True}}}
TARGET = "synthetic=law-1"
SETTINGS = StudySettings(trials=2, parallel=2, stopping="none", finalists=1, final_seeds=2)


def test_finalists_are_distinct_and_the_start_is_one_of_them(tmp_path: Path) -> None:
    rows = folders.rows(8)
    best = read_study(folders.write(tmp_path / "a", rows)).ended[0]
    twice = [{**row, "trial": 9} for row in rows if row["trial"] == best.number]
    found = read_study(folders.write(tmp_path / "b", [*rows, *twice]))
    chosen = finalists_of(found, 3)
    assert found.ended[0].settings == found.ended[1].settings, "a tie of equal settings"
    assert list(chosen)[:3] == [found.ended[i].number for i in (0, 2, 3)]
    assert chosen.keys() - list(chosen)[:3] <= {1}
    assert 1 in chosen
    assert finalists_of(found, 8).keys() == {1, 2, 4, 5, 7, 8}, "those that ended, each once"
    assert 5 not in fresh_seeds(5, 4)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_session")
def test_the_winner_is_by_fresh_seeds_and_the_target_is_opened_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, start = tmp_path / "study", compose("baseline", SMALL)
    opened: list[str] = []

    def watched(source: str, *settings: object) -> Domain:
        if source == TARGET:
            # That it is looked at is written down before it is.
            assert json.loads((folder / "target.json").read_text())["target"] == TARGET
            assert (folder / "final" / "seed-7" / "best").is_dir(), "all is chosen and learnt"
        opened.append(source)
        return open_source(source, *settings)

    monkeypatch.setattr(rayreid.run, "open_source", watched)
    monkeypatch.setattr(rayreid.evaluate, "open_source", watched)
    told: list[str] = []
    best = study(start, parse_space(SPACE), folder, SETTINGS, target=TARGET, tell=told.append)
    assert opened == [*start.sources, TARGET, TARGET], "once a run, after all else"

    rows = pq.read_table(folder / "finals.parquet").to_pylist()
    found = read_study(folder)
    finalists = {row["trial"] for row in rows}
    assert {row["seed"] for row in rows} == {6, 7}, "not the search's, which is 5"
    assert len(rows) == len(finalists) * 2 * 2
    assert 1 in finalists
    by_trial = {t: mean(row["mAP"] for row in rows if row["trial"] == t) for t in finalists}
    winner = max(by_trial, key=lambda trial: by_trial[trial])
    assert best == start.replaced(found.of(winner).settings)
    assert load_experiment(folder / "best.yaml") == best
    # A cell is what learning it alone gives.
    fold = leave_one_domain_out(start.sources)[0]
    domains = dict(zip(start.sources, open_sources(start), strict=True))
    *_, last = learn(
        best.replaced({"sources": fold.sources, "seed": 7}),
        [domains[source] for source in fold.sources],
        targets=[Target(domains[fold.held_out], start.loading)],
    )
    ((name, ranking),) = last.rankings.items()
    assert (ranking.map,) == tuple(
        row["mAP"] for row in rows
        if (row["trial"], row["seed"], row["held_out"]) == (winner, 7, name)
    )  # fmt: skip

    looked = json.loads((folder / "target.json").read_text())
    maps = []
    for seed in (6, 7):
        run = Run(folder / "final" / f"seed-{seed}", best.replaced({"seed": seed}))
        maps.append(evaluate(load_trained(run.best), TARGET).ranking.map)
    assert [each["mAP"] for each in looked["seeds"]] == pytest.approx(maps)
    assert (looked["mAP"], looked["sd"]) == pytest.approx((mean(maps), stdev(maps)))
    assert looked["command"]
    assert found.plan["outcome"]["final"]["best"] == winner
    said = write_report(folder).read_text()
    assert f"Best is trial {winner} (optimiser.lr" in said
    assert f"The target {TARGET} was looked at once, at {looked['looked']}" in said

    before = (folder / "target.json").read_bytes()
    opened.clear()
    again = study(
        start, parse_space(SPACE), folder, SETTINGS, target=TARGET, resume=True, tell=told.append
    )
    assert (again, opened) == (best, [])
    assert "is finished" in told[-2]
    assert f"looked at on {looked['looked']}" in told[-1]
    assert str(folder / "target.json") in told[-1]
    # A further look by hand is not refused, and not passed over in silence.
    seen = CliRunner().invoke(cli, ["evaluate", str(folder / "final" / "seed-6"),
                                    "--target", TARGET, "--target", "synthetic=law-2"])  # fmt: skip
    assert seen.exit_code == 0, seen.output
    assert seen.output.count("this is a further look") == 1
    assert told[-1] in seen.output
    runs = [Run(folder / "final" / f"seed-{s}", best.replaced({"seed": s})) for s in (6, 7)]
    with pytest.raises(ValueError, match=r"was looked at on .* figures are in .*target\.json"):
        look(runs, TARGET, folder, told.append)
    assert (folder / "target.json").read_bytes() == before

    # A look that was cut short is gone on with: what is there is kept, though it be wrong.
    cut = {**looked, "seeds": [{**looked["seeds"][0], "mAP": 0.5}]}
    (folder / "target.json").write_text(json.dumps(cut))
    look(runs, TARGET, folder, told.append)
    mended = json.loads((folder / "target.json").read_text())
    assert [each["mAP"] for each in mended["seeds"]] == pytest.approx([0.5, maps[1]])
    assert mended["looked"] == looked["looked"]


def searched(folder: Path, domains: dict[str, Domain], lr: float) -> Path:
    """Write a study of two trials that ended, of which the second is the better."""
    names = [domain.name for domain in domains.values()]
    rows = [
        {"trial": trial, "state": "ended", "epoch": 2, "mean_mAP": score, "worst_mAP": score,
         **{f"mAP/{name}": score for name in names}, "setting/optimiser.lr": rate,
         "setting/sampling.identities": people}
        for trial, score, rate, people in ((1, 0.1, 3e-3, 3), (2, 0.2, lr, 3))
    ]  # fmt: skip
    space = {"optimiser.lr": SPACE["optimiser.lr"], "sampling.identities": {"int": {"low": 2}}}
    return folders.write(folder, rows, space=space)


@pytest.mark.usefixtures("ray_session")
def test_what_is_kept_is_not_run_again_and_who_fails_does_not_win(tmp_path: Path) -> None:
    start = compose("baseline", SMALL)
    domains = dict(zip(start.sources, open_sources(start), strict=True))
    folds = leave_one_domain_out(start.sources)
    # Its gradient is not finite: what Adam makes of the rate overflows at once.
    folder = searched(tmp_path / "s", domains, lr=1e38)
    kept = {"trial": 1, "seed": 6, "held_out": "snow", "mAP": 0.75, "rank1": 0.5,
            "seconds": 1.0, "error": None}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([kept], schema=COLUMNS), folder / "finals.parquet")
    told: list[str] = []
    settings = SETTINGS.model_copy(update={"final_seeds": 1})
    winner, best = run_finals(start, domains, folds, folder, settings, told.append)
    rows = pq.read_table(folder / "finals.parquet").to_pylist()
    assert kept in rows
    assert "3 runs to go" in told[0]
    failed = [row for row in rows if row["trial"] == 2]
    assert all(row["mAP"] is None and row["error"] for row in failed)
    assert (winner, best) == (1, start)
    own = [row["mAP"] for row in rows if row["trial"] == 1]
    assert read_study(folder).cells(1) == pytest.approx(np.array([own]))
    assert "Trial 2 came to nothing" in write_report(folder).read_text()

    only = searched(tmp_path / "t", domains, lr=1e38)
    rows = [row for row in pq.read_table(only / "trials.parquet").to_pylist() if row["trial"] == 2]
    pq.write_table(pa.Table.from_pylist(rows), only / "trials.parquet")
    with pytest.raises(FailureError, match="no finalist came through"):
        run_finals(start, domains, folds, only, settings, told.append)
