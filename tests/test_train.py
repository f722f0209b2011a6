"""Training in this process and on Ray Train workers, for real."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

import rayreid.run
from rayreid.batch import Batch
from rayreid.checkpoint import build, load_trained
from rayreid.data.loading import TrainingSet
from rayreid.data.sampling import IdentitySampler
from rayreid.data.views import as_images
from rayreid.experiment import Experiment, compose, load_experiment
from rayreid.nn.optimiser import optimiser_of, rate_after
from rayreid.run import Run, commit, learn_here, open_sources
from rayreid.train import learn_side_by_side, train_on_ray
from tests.miniature import MINIATURE


def experiment(method: str = "baseline", **assignments: object) -> Experiment:
    return compose(method, MINIATURE, {k.replace("__", "."): v for k, v in assignments.items()})


def losses(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k.startswith("loss/")} for row in run.metrics()]


def test_a_run_leaves_all_that_repeats_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", experiment())
    told: list[float] = []
    learn_here(run, open_sources(run.experiment), lambda m: told.append(m["epoch"]))
    assert told == [1, 2, 3]
    assert [row["epoch"] for row in run.metrics()] == told
    recorded = run.ranking()
    assert recorded["seen"].keys() == recorded["data"].keys() == {"snow", "subway"}
    assert recorded["fingerprint"] == load_trained(run.folder).fingerprint
    again = Run(tmp_path / "again", compose("baseline", MINIATURE))
    learn_here(again, open_sources(again.experiment), lambda _: None)
    assert losses(again) == losses(run)
    assert again.ranking()["fingerprint"] == recorded["fingerprint"]
    # Finished: nothing to do, nothing changed.
    learn_here(run, [], lambda _: pytest.fail("learnt again"))


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    straight = Run(tmp_path / "straight", experiment("gmn", config__hidden=8))
    sources = open_sources(straight.experiment)
    learn_here(straight, sources, lambda _: None)

    def interrupt(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            raise KeyboardInterrupt

    run = Run(tmp_path / "run", straight.experiment)
    with pytest.raises(KeyboardInterrupt):
        learn_here(run, sources, interrupt)
    learn_here(Run(tmp_path / "run", straight.experiment), sources, lambda _: None)
    assert losses(run) == losses(straight)
    assert run.ranking()["fingerprint"] == straight.ranking()["fingerprint"]


def reference_losses(
    made: Experiment, world: int, until: int | None = None
) -> list[dict[str, float]]:
    """Learn the workers' batches in one process: gradients averaged over the ranks' batches."""
    crops = TrainingSet(open_sources(made), made.loading)
    method = build(made, crops.census).to(memory_format=torch.channels_last).train()
    optimiser = optimiser_of(method, made.optimiser)
    samplers = [
        IdentitySampler(
            made.sampling, crops.identities, crops.domains, crops.names,
            seed=made.seed, rank=rank, world=world,
        )
        for rank in range(world)
    ]  # fmt: skip
    epochs = []
    for epoch in range(until or made.epochs):
        per_rank = [list(s.epoch(epoch, made.steps_per_epoch)) for s in samplers]
        sums: dict[str, float] = {}
        for step in range(made.steps_per_epoch):
            optimiser.zero_grad()
            for rank in range(world):
                pixels, *labels = crops[per_rank[rank][step]]
                found = method(Batch(as_images(pixels), *labels))
                (sum(found.values()) / world).backward()
                for name, loss in found.items():
                    share = loss.item() / world / made.steps_per_epoch
                    sums[f"loss/{name}"] = sums.get(f"loss/{name}", 0) + share
            done = (epoch * made.steps_per_epoch + step) / (made.epochs * made.steps_per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = made.optimiser.lr * rate_after(made.optimiser, done)
            torch.nn.utils.clip_grad_norm_(method.parameters(), made.optimiser.clip)
            optimiser.step()
        epochs.append(sums)
    return epochs


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("method", [pytest.param("baseline", marks=pytest.mark.slow), "gmn"])
def test_two_workers_equal_one_process_on_the_same_batches(tmp_path: Path, method: str) -> None:
    # Without random views or perturbation and in fp32, so that the batches are the same to the bit.
    plain = {"views__flip": 0, "views__shift": 0, "precision": "fp32", "epochs": 2}
    if method == "gmn":
        plain |= {"views__brightness": 0, "views__contrast": 0, "config__dropout_rate": 0}
        # M-Net mines by the frozen statistics of its rank; all negatives leave no choice.
        plain |= {"config__hidden": 8, "config__negative_ratio": 0}
    made = experiment(method, **plain)
    run = Run(tmp_path / "run", made)
    told: list[float] = []
    train_on_ray(run, 2, lambda m: told.append(m["epoch"]))
    assert told == [1, 2]
    for found, expected in zip(losses(run), reference_losses(made, 2), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    assert run.ranking()["workers"] == 2
    trained = load_trained(run.folder)
    assert trained.experiment == made
    with torch.inference_mode():
        assert trained.method.embed(torch.rand(2, 3, 64, 32)).isfinite().all()


WHOLE = {"trunk.stages": 4, "trunk.frozen_norms": False, "epochs": 2}
"""Overrides what a recipe would cut or freeze, for a trunk from scratch."""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("snr", {}),
        (
            "qaconv_ms",
            {"config.channels": 8, "config.hidden": 8, "config.global_hidden": 8,
             "sampling.kind": "graph"},
        ),
        ("daam", {"config.target_from_epoch": 1, "target": "synthetic=law-1"}),
    ],
)  # fmt: skip
def test_two_workers_learn_every_method(
    tmp_path: Path, method: str, own: dict[str, object]
) -> None:
    run = Run(tmp_path / "run", compose(method, MINIATURE, WHOLE, own))
    train_on_ray(run, 2, lambda _: None)
    assert [row["epoch"] for row in run.metrics()] == [1, 2]
    assert all(row["skipped"] == 0 for row in run.metrics())
    assert set(run.ranking()["seen"]) == {"snow", "subway"}
    assert load_trained(run.folder).experiment == run.experiment


@pytest.mark.usefixtures("ray_session")
def test_runs_side_by_side_are_what_they_are_alone(tmp_path: Path) -> None:
    runs = [Run(tmp_path / f"seed{seed}", experiment(seed=seed, epochs=1)) for seed in (0, 1)]
    sources = open_sources(runs[0].experiment)
    told: list[tuple[str, int]] = []
    learn_side_by_side(
        runs, sources, lambda run: lambda m: told.append((run.folder.name, m["epoch"]))
    )
    assert sorted(told) == [("seed0", 1), ("seed1", 1)]
    alone = Run(tmp_path / "alone", runs[1].experiment)
    learn_here(alone, sources, lambda _: None)
    assert losses(runs[1]) == losses(alone)
    assert runs[1].ranking()["fingerprint"] == alone.ranking()["fingerprint"]
    wrong = Run(tmp_path / "wrong", experiment(sampling__identities=99))
    with pytest.raises(ValueError, match="too few for"):
        learn_side_by_side([wrong], sources, lambda _: lambda _: None)


@pytest.mark.usefixtures("ray_session")
def test_a_method_that_lacks_what_it_needs_is_refused_before_workers_start(tmp_path: Path) -> None:
    wrong = {"trunk.name": "test_vit", "trunk.stride_one_stages": 0}
    for made, said in (
        (compose("daam", MINIATURE), "adapts to a target"),
        (compose("snr", MINIATURE, wrong), "is not run stage by stage"),
    ):
        with pytest.raises(ValueError, match=said):
            train_on_ray(Run(tmp_path / made.method, made), 2, lambda _: None)


def test_a_range_of_workers_cannot_have_a_node_each(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one number of workers, or take spread"):
        train_on_ray(
            Run(tmp_path / "run", experiment()), (1, 2), lambda _: None, placement="strict_spread"
        )


@pytest.mark.usefixtures("ray_session")
def test_a_users_mistake_comes_back_from_the_workers_as_one(tmp_path: Path) -> None:
    made = experiment(sources=[f"market1501={tmp_path / 'nowhere'}"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train_on_ray(Run(tmp_path / "run", made), 1, lambda _: None)


def test_a_mistake_leaves_a_name_free(tmp_path: Path) -> None:
    Run(tmp_path, experiment(seed=1))
    Run(tmp_path, experiment()).log({"epoch": 1})
    with pytest.raises(ValueError, match="other settings"):
        Run(tmp_path, experiment(seed=1))


def test_a_torn_line_loses_itself_alone(tmp_path: Path) -> None:
    run = Run(tmp_path, experiment())
    run.log({"epoch": 1})
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"epoch": 2, "los')
    assert [row["epoch"] for row in run.metrics()] == [1]
    run.log({"epoch": 2})
    assert [row["epoch"] for row in run.metrics()] == [1, 2]


def test_no_git_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None


def test_a_run_is_finished_only_when_it_is_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run", experiment())
    sources = open_sources(run.experiment)
    monkeypatch.setattr(rayreid.run, "write_json", lambda *_: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception):
        learn_here(run, sources, lambda _: None)
    assert not run.finished
    monkeypatch.undo()
    # People of whom no camera but the query's saw anything cannot be ranked; all else goes on.
    alone = replace(sources[0], gallery=sources[0].query)
    learn_here(run, [alone, sources[1]], lambda _: pytest.fail("learnt again"))
    assert run.finished
    assert run.ranking()["seen"]["subway"]["mAP"] > 0


def test_a_method_of_another_package_is_imported_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment.yaml").write_text("method: this:zen\nsources: [synthetic=snow]\n")
    with pytest.raises(ValueError, match="set RAYREID_METHODS=this:zen if you trust it"):
        load_experiment(tmp_path / "experiment.yaml")
    assert "this" not in sys.modules
    monkeypatch.setenv("RAYREID_METHODS", "this:zen")
    with pytest.raises(ValueError, match="could not be imported"):
        load_experiment(tmp_path / "experiment.yaml")


def worker_processes(driver: int) -> list[psutil.Process]:
    """Return the Ray Train workers of a driver's private cluster."""
    family = psutil.Process(driver).children(recursive=True)
    return [p for p in family if "RayTrainWorker" in " ".join(p.cmdline())]


def command(folder: Path, *more: str) -> list[str]:
    settings = [
        f"--set={path}={json.dumps(value)}"
        for path, value in MINIATURE.items()
        if path != "sources"
    ]
    sources = [f"--source={source}" for source in MINIATURE["sources"]]
    place = [f"--results={folder}", "--name=run", "--workers=2"]
    code = "from rayreid.__main__ import main; main()"
    return [sys.executable, "-c", code, "train", "baseline", *sources, *settings, *place, *more]


def wait_for_epoch(run: Path, epoch: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = run / "metrics.jsonl"
        if path.is_file() and len(path.read_text().splitlines()) >= epoch:
            return
        assert process.poll() is None, "ended too early"
        time.sleep(0.1)
    pytest.fail(f"no epoch {epoch} in time")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_killed_worker_or_driver_loses_no_finished_epoch(tmp_path: Path, victim: str) -> None:
    long = ["--set=epochs=12", "--set=steps_per_epoch=40"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(command(tmp_path, *long), env=environment)
    wait_for_epoch(tmp_path / "run", 3, process)
    if victim == "worker":
        workers = worker_processes(process.pid)
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
    else:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        before = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        assert before < 12, "it was over before it was killed"
        process = subprocess.Popen(command(tmp_path, *long), env=environment)
    assert process.wait(400) == 0
    run = Run(tmp_path / "run", load_trained(tmp_path / "run").experiment)
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(row)["epoch"] for row in rows]
    assert sorted(set(epochs)) == list(range(1, 13))
    # An epoch that was learnt twice came out twice alike: going on is exact.
    by_epoch: dict[int, list[dict[str, float]]] = {}
    for row in map(json.loads, rows):
        by_epoch.setdefault(row["epoch"], []).append(
            {k: v for k, v in row.items() if k.startswith("loss/")}
        )
    for repeats in by_epoch.values():
        for repeat in repeats[1:]:
            assert repeat == pytest.approx(repeats[0], rel=1e-3)
    assert len(epochs) <= 12 + 3, "epochs that were checkpointed were learnt again"
    assert run.finished
    # Going on is exact: the losses are those of a run that nothing interrupted.
    straight = subprocess.run(command(tmp_path / "straight", *long), env=environment, check=False)
    assert straight.returncode == 0
    expected = losses(Run(tmp_path / "straight" / "run", run.experiment))
    for found, wanted in zip(losses(run), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-3)
