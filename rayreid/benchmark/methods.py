"""The methods compared: leave-one-domain-out on drawn domains, ranked on many unseen ones."""

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
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
from rayreid.protocols import Fold, distinct, leave_one_domain_out, refuse_target
from rayreid.run import best_device, circumstances

CELLS = "cells.jsonl"

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
    refuse_leaks(plan, folds)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(cells(plan, folds))
    rows = read_rows(folder)
    todo = [cell for cell in wanted if not _whole(cell, plan, rows)]
    again = {cell.key for cell in todo}
    kept = [row for row in rows if row["key"] not in again]
    with (folder / CELLS).open("w") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in kept)
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_alone)
    try:
        waiting = {pool.submit(run_cell, cell, plan): cell for cell in todo}
        for number, future in enumerate(as_completed(waiting), 1):
            found = future.result()
            with (folder / CELLS).open("a") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in found)
            kept += found
            cell, minutes = waiting[future], (time.perf_counter() - started) / 60
            tell(
                f"[{minutes:5.1f} min] {number}/{len(todo)} {cell.entry}, seed {cell.seed}, "
                f"without {domain_name(cell.held_out)}: " + ", ".join(map(_line, found))
            )
    finally:
        # After a mistake, or Ctrl-C, what has not begun is not waited for.
        pool.shutdown(cancel_futures=True)
    keys = {cell.key for cell in wanted}
    return [row for row in kept if row["key"] in keys]


def refuse_leaks(plan: Plan, folds: Sequence[Fold] = ()) -> None:
    """Raise `ValueError` where a domain that is ranked as unseen is learnt from in some fold.

    Also where two domains share a name, by which figures are kept.
    """
    folds = folds or leave_one_domain_out(plan.sources)
    for fold in folds:
        for target in (fold.held_out, *plan.unseen, *plan.elsewhere):
            refuse_target(fold.sources, target)
    others = [name for name in plan.unseen if name not in {f.held_out for f in folds}]
    distinct((*dict.fromkeys(s for f in folds for s in (*f.sources, f.held_out)), *others))
    distinct(plan.elsewhere)


def _whole(cell: Cell, plan: Plan, rows: Sequence[Row]) -> bool:
    """Return whether the rows of a cell hold all ways of ranking and all domains of the plan."""
    mine = [row for row in rows if row["key"] == cell.key]
    unseen = {domain_name(name) for name in (cell.held_out, *plan.unseen)}
    elsewhere = {domain_name(name) for name in plan.elsewhere}
    return {"", *plan.entries[cell.entry].also} <= {row["ranked by"] for row in mine} and all(
        set(row["unseen"]) == unseen and set(row["elsewhere"]) == elsewhere for row in mine
    )


def folds_of(plan: Plan, source: str | None) -> list[Fold]:
    """Return the folds: each of the plan's sources left out, or one from a source to a target.

    The first unseen domain is then the one "held out", to which a method that adapts does.
    """
    if source is None:
        return leave_one_domain_out(plan.sources)
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
    # Ctrl-C ends a worker; as an exception it would be one cell's, and the next would begin.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_cell(cell: Cell, plan: Plan) -> list[Row]:
    """Learn one cell and rank it on its sources, the one held out and the unseen, in all ways."""
    experiment, entry = cell.experiment, plan.entries[cell.entry]
    sources = [_domain(source, experiment) for source in experiment.sources]
    held_out = _domain(cell.held_out, experiment)
    adapting_to = decoded(held_out, experiment.loading, parts=["train"]).train
    target = adapting_to if experiment.Method.adapts else None
    started = time.perf_counter()
    learnt = [decoded(source, experiment.loading, parts=["train"]) for source in sources]
    *_, last = learn(experiment, learnt, target=target, device=best_device())
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
        "made with": circumstances(experiment),
    }
    rows = []
    for way in ("", *entry.also):
        figures = partial(_figures, last.learner, way)
        rows.append(
            row
            | {
                "ranked by": way,
                "costs": costs(last.learner.averaged.eval(), experiment, way),
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
        method = _by_cosine(method)
    elif way == "untrained":
        method = build(experiment, learner.census).eval()
    if way == "colour histogram":
        ranking = rank_by_histogram(domain, experiment.loading)
    else:
        ranking = Target(domain, experiment.loading).rank(method)
    return [round(ranking.map, 4), round(ranking.rank1, 4)]


def _by_cosine(method: Method) -> Method:
    copy = deepcopy(method)
    copy.score = partial(Method.score, copy)  # type: ignore[method-assign]
    return copy


@torch.inference_mode()
def costs(method: Method, experiment: Experiment, way: str) -> dict[str, int]:
    """Return parameters, multiply-adds of scoring one pair, and bytes of an embedding in fp32.

    Of a way of ranking what is its own: nothing for what shares the method's.
    """
    if way not in ("", "cosine"):
        return {}
    if way == "cosine":
        method = _by_cosine(method)
    size = (experiment.loading.height, experiment.loading.width)
    embedding = method.embed(torch.zeros(1, 3, *size, device=best_device())).float()
    crops = embedding.expand(16, *embedding.shape[1:]).contiguous()
    with FlopCounterMode(display=False) as counter:
        method.score(crops, crops)
    own = {} if way else {"parameters": sum(p.numel() for p in method.parameters())}
    return own | {
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
        # Files are decoded when they are used: the colour histogram has a size of its own.
        _DRAWN[key] = open_target(source, experiment)
    return _DRAWN[key]


def _line(row: Row) -> str:
    maps = [value[0] for value in row["unseen"].values() if value]
    way = f" ({row['ranked by']})" if row["ranked by"] else ""
    return f"unseen mAP {mean(maps):.3f}{way}" if maps else f"not ranked{way}"
