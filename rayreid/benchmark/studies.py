"""What studies cost: epochs that early stopping saves, time outside learning, memory shared."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from rayreid.benchmark.replaying import Replay, replay_table, replays
from rayreid.benchmark.scale import draw, scale, scale_table
from rayreid.benchmark.sharing import sharing
from rayreid.experiment import compose
from rayreid.quickstart.sizes import FEW, OWN, SMALL, SPACES
from rayreid.report import table
from rayreid.run import circumstances, write_json
from rayreid.search_space import parse_space
from rayreid.session import session
from rayreid.settings import checked
from rayreid.spread import spread
from rayreid.study_report.record import Study, read_study
from rayreid.tune import StudySettings, study

FIGURES, WORK = "studies.json", "work"
METHOD, TRIALS, CORES = "gmn", 12, 2
MANY = 48
"""Trials of a study that early stopping lets last as long as one of `TRIALS` without."""
LENGTH: Mapping[str, object] = {"epochs": 9, "steps_per_epoch": 22}
"""As many steps as the quickstart's trials have, in epochs of which halving has three rungs."""
STOPPINGS = ("none", "asha")

Row = dict[str, Any]
Teller = Callable[[str], None]


def studies(folder: Path, tell: Teller, seeds: int = 3, only: Sequence[str] = ()) -> str:
    """Run what is not in ``folder`` yet, or ``only`` some of it; write and return the page.

    Each seed's settings are drawn at random, the same for both ways of stopping, and learning is
    exact, so that a trial that both let end has one score.
    """
    found = read_figures(folder)
    rows: list[Row] = found.setdefault("stopping", [])
    for seed in range(seeds):
        for stopping in STOPPINGS:
            done = any((row["seed"], row["stopping"]) == (seed, stopping) for row in rows)
            if not done and (not only or f"{stopping}-{seed}" in only):
                rows.append(_study(folder / WORK, seed, stopping, TRIALS, tell))
                write_json(folder / FIGURES, found)
    if "long" not in found and (not only or "long" in only):
        found["long"] = _study(folder / WORK, 0, "asha", MANY, tell)
        write_json(folder / FIGURES, found)
    if "sharing" not in found and (not only or "sharing" in only):
        found["sharing"] = sharing(folder / WORK / "sharing", tell)
        write_json(folder / FIGURES, found)
    return write_page(folder)


def many_trials(folder: Path, tell: Teller, trials: int) -> str:
    """Measure one study of many trivial trials; write and return the page."""
    found = read_figures(folder)
    work = folder / WORK / "scale"
    shutil.rmtree(work, ignore_errors=True)

    def keep(measured: Row) -> None:
        made = circumstances(compose(METHOD, SMALL, OWN[METHOD], FEW))
        found["scale"] = {**measured, "made with": made}
        write_json(folder / FIGURES, found)

    keep(scale(work, trials, tell, keep))
    return write_page(folder)


def read_figures(folder: Path) -> Row:
    """Return the figures kept in a folder, by what they are of."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FIGURES
    kept: Row = json.loads(path.read_text()) if path.is_file() else {}
    return kept


def write_page(folder: Path) -> str:
    """Write the tables of what has been measured to a folder's README.md; return them."""
    found = read_figures(folder)
    parts = ["# What studies cost"]
    if found.get("stopping"):
        parts.append(stopping_table(found["stopping"]))
        again = {
            row["seed"]: [Replay(**one) for one in row["replays"]]
            for row in sorted(found["stopping"], key=lambda row: int(row["seed"]))
            if "replays" in row
        }
        if again:
            parts.append(replay_table(list(again), list(again.values())))
        parts.append(time_table([*found["stopping"], *filter(None, [found.get("long")])]))
    if found.get("sharing"):
        parts.append(_sharing_table(found["sharing"]))
    if found.get("scale"):
        draw(found["scale"], folder / "scale.svg")
        parts += [scale_table(found["scale"]), "![A study over its trials](scale.svg)"]
    text = "\n\n".join(parts) + "\n"
    (folder / "README.md").write_text(text)
    return text


def _study(work: Path, seed: int, stopping: str, trials: int, tell: Teller) -> Row:
    """Run a study, or what is left of it, and return its figures."""
    experiment = compose(METHOD, SMALL, OWN[METHOD], FEW, LENGTH, {"seed": seed})
    settings = checked(
        StudySettings,
        {
            "trials": trials,
            "sampler": "random",
            "stopping": stopping,
            "seed": seed,
            "finalists": 0,
            "parallel": CORES,
        },
    )
    name = f"{stopping}-{seed}" if trials == TRIALS else f"{stopping}-{seed}-{trials}"
    began = time.perf_counter()
    with session(cpus=CORES):
        ready = time.perf_counter() - began
        study(
            experiment, parse_space(SPACES[METHOD]), work / name, settings,
            resume=(work / name / "study.yaml").is_file(),
            tell=lambda line: tell(f"{name}: {line}"),
        )  # fmt: skip
        whole = time.perf_counter() - began
    done = read_study(work / name)
    again = [asdict(one) for one in replays(done, settings)] if stopping == "none" else []
    return {
        "seed": seed,
        "stopping": stopping,
        "trials": trials,
        "rule": [settings.grace_epochs, settings.reduction],
        **summary(done),
        **({"replays": again} if again else {}),
        "seconds_ray": ready,
        "seconds_whole": whole,
        "made with": circumstances(experiment),
    }


def summary(found: Study) -> Row:
    """Return what a study used, what it came to, and where its time went."""
    best = found.ended[0]
    until = best.rows[-1]["reported"]
    reported = [row["reported"] for trial in found.trials for row in trial.rows]
    wall = float(found.plan["outcome"]["wall_seconds"])
    kinds = ("seconds_learning", "seconds_ranking", "seconds_setup", "seconds_saving")
    parts = {kind: sum(trial.total(kind) for trial in found.trials) for kind in kinds}
    return {
        "best": best.number,
        "score": best.last(found.objective),
        "epochs": sum(trial.epoch for trial in found.trials),
        "epochs to the best": sum(at <= until for at in reported),
        "ended": len(found.ended),
        "seconds": wall,
        "sessions": len(found.plan["sessions"]),
        **parts,
        **_gaps(found, wall),
    }


def _gaps(found: Study, wall: float) -> dict[str, float]:
    """Return core seconds without a trial: before the first ones, between two, at the end."""
    begun = float(found.plan["sessions"][-1])
    spans = sorted((t.rows[0]["started"], t.rows[-1]["reported"]) for t in found.trials if t.rows)
    free = [begun] * CORES
    before = between = 0.0
    for started, ended in spans:
        core = min(range(CORES), key=lambda c: free[c])
        gap = max(0.0, started - free[core])
        if free[core] == begun:
            before += gap
        else:
            between += gap
        free[core] = ended
    last = max(free)
    return {
        "seconds_before": before,
        "seconds_between": between,
        "seconds_one_left": sum(last - end for end in free),
        "seconds_after": CORES * max(0.0, begun + wall - last),
        "seconds_in_trials": sum(ended - started for started, ended in spans),
    }


def stopping_table(rows: Sequence[Row]) -> str:
    """Return epochs and best scores of both ways of stopping, a line a seed."""
    # A resumed study draws other settings than one that nothing interrupted.
    whole = [row for row in rows if row.get("sessions", 1) == 1]
    by_key = {(row["seed"], row["stopping"]): row for row in whole}
    seeds = [
        seed
        for seed in sorted({row["seed"] for row in rows})
        if all((seed, stopping) in by_key for stopping in STOPPINGS)
    ]
    lines, gaps, shares = [], [], []
    for seed in seeds:
        plain, asha = by_key[seed, "none"], by_key[seed, "asha"]
        gaps.append(asha["score"] - plain["score"])
        shares.append(asha["epochs"] / plain["epochs"])
        lines.append(
            [
                seed, plain["score"], asha["score"], plain["best"], asha["best"], plain["epochs"],
                asha["epochs"], f"{shares[-1]:.0%}", plain["epochs to the best"],
                asha["epochs to the best"],
            ]
        )  # fmt: skip
    rules = {tuple(row["rule"]) for row in rows if row["stopping"] == "asha"}
    told = " or ".join(f"grace {grace}, reduction {by}" for grace, by in sorted(rules))
    header = (
        "seed", "best, none", "best, ASHA", "trial", "trial", "epochs, none", "epochs, ASHA",
        "share", "until the best, none", "until the best, ASHA",
    )  # fmt: skip
    words = (
        f"Over the seeds ASHA's best is {spread(gaps).signed()} beside that of no stopping, with "
        f"{mean(shares):.0%} of its epochs."
        if gaps
        else ""
    )
    return (
        "## Early stopping\n\n"
        f"`rayreid benchmark studies`: {TRIALS} trials of {METHOD}, quickstart-sized, "
        f"{LENGTH['epochs']} epochs, three sources, settings drawn at random, the same for both "
        "(seeds whose studies nothing interrupted: a resumed one draws others); "
        f"ASHA in lockstep ({told}). Best is the highest held-out mean mAP of "
        "a trial that learnt all its epochs.\n\n" + table(header, lines) + f"\n\n{words}"
    )


def time_table(rows: Sequence[Row]) -> str:
    """Return where the core seconds went of each study that nothing interrupted."""
    lines = []
    for row in rows:
        if row.get("sessions", 1) > 1:
            continue
        wall = row["seconds_ray"] + row["seconds"]
        cores = CORES * wall
        busy = row["seconds_learning"] + row["seconds_ranking"]
        inside = row["seconds_in_trials"] - busy
        parts = (
            busy, row["seconds_setup"], row["seconds_saving"],
            inside - row["seconds_setup"] - row["seconds_saving"],
            CORES * row["seconds_ray"], row["seconds_before"],
            row["seconds_between"], row["seconds_one_left"], row["seconds_after"],
        )  # fmt: skip
        share = 1 - busy / cores
        without = 1 - busy / (cores - row["seconds_one_left"])
        lines.append(
            [
                f"{row['stopping']}, {row['seed']}",
                row["trials"],
                f"{wall:.0f}",
                *(f"{100 * part / cores:.1f}" for part in parts),
                f"{share:.0%}",
                f"{without:.0%}",
            ]
        )
    header = (
        "", "trials", "s", "learning, ranking", "set-up", "saving", "reporting", "Ray's start",
        "before", "between", "one core left", "after", "outside", "but for the last trial",
    )  # fmt: skip
    return (
        "## Time outside learning\n\n"
        f"Percent of {CORES} cores times the study's wall seconds, from Ray's start on. Outside is "
        "all but learning and ranking; the last column leaves out the core that waits for the last "
        "trial. What is before the first trials (processes start, and import torch) is the same "
        "seconds however long a study lasts.\n\n" + table(header, lines)
    )


def _sharing_table(found: Sequence[Row]) -> str:
    rows = [
        (
            f"{row['mib']:.0f}",
            row["processes"],
            f"{row['proportional_mib']:.0f}",
            f"{row['private_mib']:.1f}",
            f"{row['proportional_mib'] / row['mib']:.2f}",
        )
        for row in found
    ]
    header = ("data, MiB", "trials", "PSS of all, MiB", "private a trial, MiB", "copies")
    return (
        "## Decoded data\n\n"
        "Trials of one node, side by side, after each has read all pixels: growth of their "
        "proportional set sizes together, and of what one has to itself.\n\n" + table(header, rows)
    )
