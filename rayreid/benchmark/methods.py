"""The methods compared: leave-one-domain-out on drawn domains, ranked on many unseen ones."""

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from rayreid.adabn import adapted_norms
from rayreid.batch import Domain
from rayreid.benchmark.comparison import draw, page
from rayreid.benchmark.plan import Cell, Plan, cells
from rayreid.checkpoint import build
from rayreid.data.loading import decoded
from rayreid.data.sources import canonical, domain_name
from rayreid.evaluate import open_target, rank_by_histogram
from rayreid.experiment import Experiment
from rayreid.feed import TargetCrops
from rayreid.gallery import Target
from rayreid.learn import learn
from rayreid.learner import Learner
from rayreid.method import Method
from rayreid.protocols import Fold, leave_one_domain_out, refuse_target
from rayreid.run import best_device, circumstances, write_json

CELLS, CIRCUMSTANCES = "cells.jsonl", "circumstances.json"

Row = dict[str, Any]
"""One trained method's figures: entry, ranked by, seed, held_out, mAP by domain, costs."""


def compare(
    plan: Plan,
    folder: Path,
    tell: Callable[[str], None],
    *,
    folds: Sequence[Fold] = (),
    processes: int = 2,
) -> list[Row]:
    """Run what of a plan is not in ``folder`` yet, one thread a process; return all rows.

    ``folds`` are by default the plan's sources left out one by one. Rows are kept in cells.jsonl
    as they come, so an interrupted comparison goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(cells(plan, folds))
    kept = read_rows(folder)
    with (folder / CELLS).open("w") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in kept)
    done = {row["key"] for row in kept}
    todo = [cell for cell in wanted if cell.key not in done]
    write_json(folder / CIRCUMSTANCES, circumstances(wanted[0].experiment))
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_alone) as pool:
        waiting = {pool.submit(run_cell, cell, plan): cell for cell in todo}
        for number, future in enumerate(as_completed(waiting), 1):
            rows = future.result()
            with (folder / CELLS).open("a") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in rows)
            kept += rows
            cell, minutes = waiting[future], (time.perf_counter() - started) / 60
            tell(
                f"[{minutes:5.1f} min] {number}/{len(todo)} {cell.entry}, seed {cell.seed}, "
                f"without {domain_name(cell.held_out)}: " + ", ".join(map(_line, rows))
            )
    keys = {cell.key for cell in wanted}
    return [row for row in kept if row["key"] in keys]


def folds_of(plan: Plan, source: str | None) -> list[Fold]:
    """Return the folds: each of the plan's sources left out, or one from a source to a target.

    The first unseen domain is then the one "held out", to which a method that adapts does.
    """
    if source is None:
        return leave_one_domain_out(plan.sources)
    refuse_target((source,), plan.unseen[0])
    return [Fold((canonical(source),), canonical(plan.unseen[0]))]


def write_page(plan: Plan, rows: Sequence[Row], folder: Path) -> str:
    """Write tables and figure of a comparison to its folder; return the tables."""
    text = page(plan, rows)
    (folder / "README.md").write_text(text)
    draw(plan, rows, folder / "unseen.svg")
    return text


def read_rows(folder: Path) -> list[Row]:
    """Return the rows kept in a folder; a line that an interruption cut short is left out."""
    path = folder / CELLS
    text = path.read_text() if path.is_file() else ""
    # What a lost machine left is the beginning of a line, without its end.
    whole, _, _ = text.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _alone() -> None:
    torch.set_num_threads(1)


def run_cell(cell: Cell, plan: Plan) -> list[Row]:
    """Learn one cell and rank it on its sources, the one held out and the unseen, in all ways."""
    experiment, entry = cell.experiment, plan.entries[cell.entry]
    sources = [_domain(source, experiment) for source in experiment.sources]
    held_out = _domain(cell.held_out, experiment)
    target = held_out.train if experiment.Method.adapts else None
    started = time.perf_counter()
    *_, last = learn(experiment, sources, target=target, device=best_device())
    seconds = time.perf_counter() - started
    others = [name for name in plan.unseen if name != cell.held_out]
    judged = [held_out, *(_domain(name, experiment) for name in others)]
    elsewhere = [_domain(name, experiment) for name in plan.elsewhere]
    row = {
        "key": cell.key,
        "entry": cell.entry,
        "seed": cell.seed,
        "held_out": domain_name(cell.held_out),
        "seconds": round(seconds, 1),
        "losses": dict(last.losses),
        "monitors": dict(last.monitors),
        **costs(last.learner.averaged.eval(), experiment),
    }
    rows = []
    for way in ("", *entry.also):
        figures = partial(_figures, last.learner, way)
        rows.append(
            row
            | {
                "ranked by": way,
                "seen": {d.name: figures(d) for d in sources if len(d.query)},
                "unseen": {d.name: figures(d) for d in judged},
                "elsewhere": {d.name: figures(d) for d in elsewhere},
            }
        )
    return rows


def _figures(learner: Learner, way: str, domain: Domain) -> list[float] | None:
    """Return mAP and R1 of a domain ranked in a way; None where it cannot be."""
    experiment, method = learner.experiment, learner.averaged.eval()
    if way == "adabn":
        if not len(domain.train):
            return None
        crops = TargetCrops.of(domain.train, experiment.loading, best_device())
        method = adapted_norms(method, crops)
    elif way == "cosine":
        method = deepcopy(method)
        method.score = partial(Method.score, method)  # type: ignore[method-assign]
    elif way == "untrained":
        method = build(experiment, learner.census).eval()
    if way == "colour histogram":
        ranking = rank_by_histogram(domain, experiment.loading)
    else:
        ranking = Target(domain, experiment.loading).rank(method)
    return [round(ranking.map, 4), round(ranking.rank1, 4)]


@torch.inference_mode()
def costs(method: Method, experiment: Experiment) -> Mapping[str, int]:
    """Return parameters, multiply-adds of scoring one pair, and bytes of an embedding as kept."""
    size = (experiment.loading.height, experiment.loading.width)
    embedding = method.embed(torch.zeros(1, 3, *size, device=best_device())).float()
    crops = embedding.expand(16, *embedding.shape[1:]).contiguous()
    with FlopCounterMode(display=False) as counter:
        method.score(crops, crops)
    return {
        "parameters": sum(p.numel() for p in method.parameters()),
        "macs per pair": counter.get_total_flops() // 2 // 16**2,
        "bytes per image": embedding.numel() * embedding.element_size(),
    }


_DRAWN: dict[tuple[object, ...], Domain] = {}


def _domain(source: str, experiment: Experiment) -> Domain:
    """Return a domain, drawn once a process for each seed and size."""
    loading, synthetic = experiment.loading, experiment.synthetic
    key = (source, loading.height, loading.width, synthetic)
    if key not in _DRAWN:
        if any(other[3] != synthetic for other in _DRAWN):
            _DRAWN.clear()  # cells come seed after seed
        _DRAWN[key] = decoded(open_target(source, experiment), loading)
    return _DRAWN[key]


def _line(row: Row) -> str:
    maps = [value[0] for value in row["unseen"].values() if value]
    way = f" ({row['ranked by']})" if row["ranked by"] else ""
    return f"unseen mAP {mean(maps):.3f}{way}" if maps else f"not ranked{way}"
