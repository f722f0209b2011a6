"""The training step: images a second of each method, beside its straightforward form.

`python -m rayreid.benchmark.training` is `rayreid benchmark training` where there is no click.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rayreid.batch import Batch, Domain
from rayreid.benchmark.capacity import bf16_peak, usage
from rayreid.benchmark.data import machine
from rayreid.benchmark.matching import plain_maxima
from rayreid.benchmark.timing import medians
from rayreid.data.synthetic import draw_domain
from rayreid.experiment import Experiment, compose
from rayreid.learner import Learner
from rayreid.methods import METHODS, find_method
from rayreid.methods.qaconv_ms import QAConvMS
from rayreid.report import table
from rayreid.run import best_device, commit, device_name, write_json
from rayreid.settings import unknown

SOURCE, TARGET = "plaza-noon", "subway"
CROPS = 4
"""Of each identity in a batch."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A method with a trunk, on crops of a size, in batches of a size."""

    method: str
    trunk: str = "resnet18"
    height: int = 128
    width: int = 64
    batch: int = 64

    @property
    def name(self) -> str:
        """Return what tells the case from others."""
        return f"{self.method}, {self.trunk}, {self.height}x{self.width}"


ON_CPU = (
    *(Case(name) for name in METHODS),
    Case("baseline", "resnet50", 256, 128, batch=32),
    Case("baseline", "mobilenetv4_conv_small"),
)
ON_CUDA = (
    *(Case(name, "resnet50", 256, 128) for name in METHODS),
    Case("baseline", "mobilenetv4_conv_small", 256, 128),
)


@dataclass(frozen=True)
class Form:
    """A way to compute a step."""

    precision: str
    layout: torch.memory_format = torch.channels_last
    compile: bool = False
    all_held: bool = False
    """Whether correlations of all pairs are held, where a method matches maps: as published."""


PLAIN = "fp32, contiguous"
FORMS = {
    PLAIN: Form("fp32", torch.contiguous_format),
    "fp32": Form("fp32"),
    "bf16": Form("bf16"),
}
"""The straightforward form, and the learner's two precisions; bf16 is the default."""
COMPILED = {"bf16, compiled": Form("bf16", compile=True)}
ALL_HELD = {"fp32, all pairs held": Form("fp32", torch.contiguous_format, all_held=True)}
"""The straightforward form of what matches maps; `PLAIN` has this project's matching too."""


def training(
    to: Path,
    tell: Callable[[str], None],
    *,
    only: Sequence[str] = (),
    compiled: bool = False,
    rounds: int = 5,
) -> str:
    """Measure the steps of all methods on the device there is; return a page with the tables.

    A step is `Learner.step`: forward, backward, clipping and the optimiser, on one batch of drawn
    people. The forms of a case are timed in turn, ``rounds`` times after one to warm up, and
    medians are compared. ``only`` names cases (or methods) to measure; what else ``to`` holds
    stays. Figures go to ``to/training.json``, the page to ``to/README.md``.

    Raises `ValueError` for a case that is not there.
    """
    device = best_device()
    cases = chosen(ON_CUDA if device.type == "cuda" else ON_CPU, only)
    kept = to / "training.json"
    rows: dict[str, Row] = json.loads(kept.read_text()) if kept.is_file() else {}
    forms = FORMS | (COMPILED if compiled else {})
    peak = bf16_peak(device) if device.type == "cuda" else 0.0
    to.mkdir(parents=True, exist_ok=True)
    for case in cases:
        matching = ALL_HELD if issubclass(find_method(case.method), QAConvMS) else {}
        row = measured(case, forms | matching, rounds, device, peak)
        rows[f"{case.name} on {device.type}"] = row
        write_json(kept, rows)
        speeds = (f"{form} {speed:.0f}" for form, speed in row["images_a_second"].items())
        tell(f"{case.name}: {', '.join(speeds)} images a second")
    text = page(rows)
    (to / "README.md").write_text(text + "\n")
    return text


def chosen(cases: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """Return the cases of some names or methods, by default all.

    Raises `ValueError` for one that is not there.
    """
    for name in only:
        if not any(name in (case.name, case.method) for case in cases):
            raise unknown("case", name, [case.name for case in cases])
    return [case for case in cases if not only or {case.name, case.method} & set(only)]


def measured(
    case: Case, forms: Mapping[str, Form], rounds: int, device: torch.device, peak: float
) -> Row:
    """Return the figures of a case; where a device's matrix peak is given, its usage as well."""
    learners = {name: learner_of(case, form, device) for name, form in forms.items()}
    batches = {name: a_batch(learners[name], form.layout) for name, form in forms.items()}

    def step(name: str) -> None:
        learners[name].step(batches[name], 1.0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    first = {}
    for name in forms:
        started = time.perf_counter()
        step(name)
        first[name] = time.perf_counter() - started
    seconds = medians({name: partial(step, name) for name in forms}, rounds)
    row = {
        "machine": machine(),
        "device": device_name(),
        "commit": commit(),
        "batch": case.batch,
        "rounds": rounds,
        "images_a_second": {name: case.batch / taken for name, taken in seconds.items()},
        "times_the_plain": {name: seconds[PLAIN] / taken for name, taken in seconds.items()},
        "seconds_of_the_first_step": first,
    }
    if not peak:
        return row
    learner, batch = learners["bf16"], batches["bf16"]
    # Their memory is the largest batch's.
    del learners, batches
    return row | usage(learner, batch, seconds["bf16"], peak)


def learner_of(case: Case, form: Form, device: torch.device) -> Learner:
    """Return the learner of a case, its weights laid out in memory as a form says."""
    adapting = find_method(case.method).adapts
    target = _drawn(TARGET, case.height, case.width).train if adapting else None
    sources = [_drawn(SOURCE, case.height, case.width)]
    learner = Learner(experiment_of(case, form), sources, target, rank=0, world=1, device=device)
    learner.method.to(memory_format=form.layout)
    learner.method.start_epoch(0, learner.feed.target)
    learner.parallel.train()
    if form.all_held:
        assert isinstance(learner.method, QAConvMS)
        learner.method._pair_scores = partial(_held_scores, learner.method)  # type: ignore[method-assign]
    return learner


def _held_scores(method: QAConvMS, maps: Float[Tensor, "b slices c n"]) -> Float[Tensor, "b b"]:
    """Return ``_pair_scores`` by the whole correlation of all pairs, through autograd."""
    scores = [head(*plain_maxima(maps[:, i], maps[:, i])) for i, head in enumerate(method.heads)]
    summed = torch.stack(scores).sum(0)
    if method.sum_norm is None:
        return summed
    normalised: Tensor = method.sum_norm(summed.view(-1, 1))
    return normalised.view_as(summed)


def experiment_of(case: Case, form: Form) -> Experiment:
    """Return a case as an experiment: the method's recipe, from scratch, on drawn people."""
    adapting = find_method(case.method).adapts
    return compose(
        case.method,
        {
            "sources": [f"synthetic={SOURCE}"],
            "trunk.name": case.trunk,
            "trunk.weights": "none",
            "trunk.frozen_norms": False,
            "loading.height": case.height,
            "loading.width": case.width,
            "sampling.kind": "identities",
            "sampling.identities": case.batch // CROPS,
            "sampling.crops": CROPS,
            "steps_per_epoch": 20,
            "precision": form.precision,
            "compile": form.compile,
        },
        {} if case.trunk.startswith("resnet") else {"trunk.stride_one_stages": 0},
        # Labelled from the first epoch on.
        {"target": f"synthetic={TARGET}", "config.target_from_epoch": 0} if adapting else {},
    )


def a_batch(learner: Learner, layout: torch.memory_format) -> Batch:
    """Return the first batch of a learner's first epoch, its images laid out in memory so."""
    raw = next(iter(learner.feed.epoch(0, learner.method)))
    batch = learner.feed.batch(raw, torch.Generator().manual_seed(0))

    def laid_out(images: Tensor | None) -> Tensor | None:
        return None if images is None else images.contiguous(memory_format=layout)

    images = batch.images.contiguous(memory_format=layout)
    return replace(batch, images=images, target=laid_out(batch.target))


@cache
def _drawn(name: str, height: int, width: int) -> Domain:
    return draw_domain(
        name, train_people=32, test_people=1, cameras=2, crops=2, height=height, width=width
    )


def page(rows: Mapping[str, Row]) -> str:
    """Return the tables of all rows that were measured, a device each."""
    parts = []
    for device in dict.fromkeys(row["device"] for row in rows.values()):
        here = {name: row for name, row in rows.items() if row["device"] == device}
        forms = list(dict.fromkeys(f for row in here.values() for f in row["images_a_second"]))
        cells = [
            (name.rpartition(" on ")[0], row["batch"], *(_cell(row, f) for f in forms))
            for name, row in here.items()
        ]
        parts.append(
            f"{device}; {next(iter(here.values()))['machine']}. Images a second of a training step "
            f"(times the straightforward form; where compiled, seconds until the first was done), "
            f"medians of interleaved steps.\n\n" + table(("step", "batch", *forms), cells)
        )
        if on_gpu := {name: row for name, row in here.items() if "bf16_peak" in row}:
            parts.append(_gpu_table(on_gpu))
    return "\n\n".join(parts)


def _cell(row: Row, form: str) -> str:
    if form not in row["images_a_second"]:
        return ""
    speed, ratio = row["images_a_second"][form], row["times_the_plain"][form]
    begin = f"; {row['seconds_of_the_first_step'][form]:.0f} s" if form in COMPILED else ""
    return f"{speed:.{int(speed < 10)}f} ({ratio:.2f}x{begin})"


def _gpu_table(rows: Mapping[str, Row]) -> str:
    cells = [
        (
            name.rpartition(" on ")[0],
            f"{row['flops_a_step'] / 1e12:.2f}",
            f"{row['bf16_peak'] / 1e12:.0f}",
            f"{row['share_of_the_peak']:.0%}",
            f"{row['waiting']:.0%}",
            row["largest_batch"],
        )
        for name, row in rows.items()
    ]
    header = ("step", "TFLOP", "peak TFLOP/s", "share of it", "waiting for data", "largest batch")
    return (
        "In bf16: operations of a step, the rate of a large bf16 matrix product in the same run, "
        "the step's share of that, the share of an epoch spent waiting for data, and the largest "
        "batch of those doubled until memory was full.\n\n" + table(header, cells)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("results/training"))
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    given = vars(parser.parse_args())
    tell = partial(print, file=sys.stderr, flush=True)
    sys.stdout.write(training(given.pop("to"), tell, **given) + "\n")
