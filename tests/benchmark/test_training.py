"""The structure of the benchmark's tables; its steps are the learner's own."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayreid.batch import Batch
from rayreid.benchmark import training as benchmark
from rayreid.benchmark.capacity import batch_of, bf16_peak, largest_batch, usage
from rayreid.benchmark.training import COMPILED, FORMS, ON_CPU, ON_CUDA, PLAIN, Case
from rayreid.learner import Learner
from rayreid.methods import METHODS

SMALL = [Case(name, "test_resnet", 64, 32, batch=8) for name in ("baseline", "daam")]
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "ON_CPU", SMALL)
    monkeypatch.setattr(benchmark, "best_device", lambda: CPU)


def cells_of(page: str) -> list[list[str]]:
    """Return the cells of all lines of a page's tables."""
    lines = (line for line in page.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.usefixtures("small")
def test_cases_are_measured_one_by_one_and_kept(tmp_path: Path) -> None:
    told: list[str] = []
    benchmark.training(tmp_path, told.append, only=["daam"], rounds=1)
    page = benchmark.training(tmp_path, told.append, only=[SMALL[0].name], rounds=1)
    assert (tmp_path / "README.md").read_text() == page + "\n"
    assert [line.split(":")[0] for line in told] == [SMALL[1].name, SMALL[0].name]
    header, _, *lines = cells_of(page)
    assert header == ["step", "batch", *FORMS]
    assert [line[0] for line in lines] == [SMALL[1].name, SMALL[0].name]
    for row in json.loads((tmp_path / "training.json").read_text()).values():
        speeds = row["images_a_second"]
        assert list(speeds) == list(FORMS)
        assert row["times_the_plain"][PLAIN] == 1
        for form, speed in speeds.items():
            assert row["times_the_plain"][form] == pytest.approx(speed / speeds[PLAIN])


@pytest.mark.usefixtures("small")
def test_a_case_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no case 'basline'"):
        benchmark.training(tmp_path, print, only=["basline"])


def test_every_method_has_a_case_on_either_device() -> None:
    for cases in (ON_CPU, ON_CUDA):
        assert {case.method for case in cases} == set(METHODS)
        assert len({case.name for case in cases}) == len(cases)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.method)
def test_forms_differ_in_arithmetic_and_layout_alone(case: Case) -> None:
    plain, last = (benchmark.learner_of(case, FORMS[name], CPU) for name in (PLAIN, "fp32"))
    losses, formats = [], []
    for learner, form in ((plain, FORMS[PLAIN]), (last, FORMS["fp32"])):
        batch = benchmark.a_batch(learner, form.layout)
        images = [batch.images] if batch.target is None else [batch.images, batch.target]
        weights = [p for p in learner.method.parameters() if p.ndim == 4]
        assert all(x.is_contiguous(memory_format=form.layout) for x in (*images, *weights))
        formats.append(images[0].is_contiguous())
        torch.manual_seed(0)
        losses.append({k: v.item() for k, v in learner.step(batch, 1.0).items()})
    assert formats == [True, False]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    if case.method == "daam":
        assert plain.method.labels is not None


def test_the_compiled_form_is_the_default_one_compiled() -> None:
    (form,) = COMPILED.values()
    assert form == replace(FORMS["bf16"], compile=True)
    made = benchmark.experiment_of(SMALL[0], form)
    assert made == benchmark.experiment_of(SMALL[0], FORMS["bf16"]).replaced({"compile": True})


def learner() -> Learner:
    return benchmark.learner_of(SMALL[1], FORMS["bf16"], CPU)


def test_batches_are_doubled_until_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def step(_: Learner, batch: Batch, __: float) -> None:
        tried.append(len(batch.images))
        if tried[-1] > 20:
            raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr("rayreid.benchmark.capacity.MOST", 64)
    assert largest_batch(learner(), 4) == 16
    assert tried == [4, 8, 16, 32]
    assert largest_batch(learner(), 24) == 0
    monkeypatch.setattr(Learner, "step", lambda *_: None)
    assert largest_batch(learner(), 16) == 64


def test_a_batch_of_noise_can_be_learnt_from() -> None:
    made = learner()
    batch = batch_of(made, 24)
    assert batch.images.shape == batch.target.shape == (24, 3, 64, 32)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert int(batch.identities.max()) < made.census.total
    assert all(loss.isfinite() for loss in made.step(batch, 1.0).values())


def test_usage_is_in_shares_of_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayreid.benchmark.capacity.MOST", 8)
    made = learner()
    found = usage(made, benchmark.a_batch(made, torch.channels_last), 2.0, 1e9)
    # Forward and backward of 16 crops.
    assert found["flops_a_step"] > 3 * 16 * 1e6
    assert found["share_of_the_peak"] == pytest.approx(found["flops_a_step"] / 2e9)
    assert 0 <= found["waiting"] < 1
    assert found["largest_batch"] == 8
    assert bf16_peak(CPU, side=64, rounds=1) > 0


def test_the_page_shows_what_a_gpu_and_a_compiler_add() -> None:
    speeds = {PLAIN: 100.0, "bf16": 400.0, "bf16, compiled": 500.0}
    row = {
        "device": "a GPU", "machine": "a machine", "batch": 64, "images_a_second": speeds,
        "times_the_plain": {name: speed / 100 for name, speed in speeds.items()},
        "seconds_of_the_first_step": dict.fromkeys(speeds, 31.0),
        "flops_a_step": 2e12, "bf16_peak": 8e14, "waiting": 0.015, "largest_batch": 1024,
        "share_of_the_peak": 0.25,
    }  # fmt: skip
    plain = {name: row[name] for name in (*list(row)[:3],)} | {
        "device": "a CPU", "images_a_second": {PLAIN: 1.0}, "times_the_plain": {PLAIN: 1.0},
    }  # fmt: skip
    cells = cells_of(benchmark.page({"snr on cuda": row, "gmn on cpu": plain}))
    assert ["snr", "64", "100 (1.00x)", "400 (4.00x)", "500 (5.00x; 31 s)"] in cells
    assert ["snr", "2.00", "800", "25%", "2%", "1024"] in cells
    assert ["gmn", "64", "1.0 (1.00x)"] in cells


def test_it_runs_where_there_is_no_click() -> None:
    code = "import sys; sys.modules['click'] = None; import rayreid.benchmark.training"
    subprocess.run([sys.executable, "-c", code], check=True)
    answer = subprocess.run(
        [sys.executable, "-m", "rayreid.benchmark.training", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--compiled" in answer.stdout


def test_the_published_form_learns_the_same() -> None:
    case = Case("qaconv_ms", "test_resnet", 64, 32, batch=8)
    losses = []
    for form in (FORMS[PLAIN], *benchmark.ALL_HELD.values()):
        learner = benchmark.learner_of(case, form, CPU)
        batch = benchmark.a_batch(learner, form.layout)
        torch.manual_seed(0)
        steps = [learner.step(batch, 1.0) for _ in range(2)]
        losses.append([{k: v.item() for k, v in step.items()} for step in steps])
    assert losses[0][0] != losses[0][1]
    for ours, held in zip(*losses, strict=True):
        assert ours == pytest.approx(held, rel=1e-3)
