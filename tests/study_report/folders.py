"""Study folders as the search leaves them, with scores that a formula gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DOMAINS = ("plaza-noon", "snow", "subway")
SPACE: dict[str, dict[str, dict[str, Any]]] = {
    "config.dropout_rate": {"float": {"low": 0.0, "high": 0.7}},
    "config.dropout_site": {"categorical": {"choices": ["pair", "instance_shared", "trunk"]}},
    "config.dropout_warmup_epochs": {"int": {"low": 0, "high": 4}},
    "optimiser.lr": {"float": {"low": 1e-3, "high": 1e-2, "log": True}},
}


def plan(**changes: Any) -> dict[str, Any]:
    """Return what study.yaml says."""
    return {
        "settings": {"trials": 8},
        "objectives": ["mean_mAP"],
        "space": SPACE,
        "folds": [{"sources": ["synthetic=x"], "held_out": f"synthetic={d}"} for d in DOMAINS],
        "target": None,
        "selection": "sources",
        "circumstances": {"commit": "0123456789ab", "seed": 0},
        "experiment": {"method": "gmn", "epochs": 5},
        **changes,
    }


def rows(
    trials: int, *, seed: int = 0, stop: bool = True, epochs: int = 5, crash: int = 0
) -> list[dict[str, Any]]:
    """Return rows of trials whose score grows with the learning rate's logarithm, and with epochs.

    Every third is stopped after its second epoch; ``crash`` is the number of one that crashed.
    """
    generator = np.random.default_rng(seed)
    found = []
    for number in range(1, trials + 1):
        site = ("pair", "instance_shared", "trunk")[int(generator.integers(3))]
        settings = {
            "config.dropout_rate": float(generator.uniform(0, 0.7)),
            "config.dropout_site": site,
            # Only where there is something to warm up to.
            "config.dropout_warmup_epochs": None if site == "trunk" else int(number % 5),
            "optimiser.lr": float(10 ** generator.uniform(-3, -2)),
        }
        worth = 0.25 + 0.1 * (np.log10(settings["optimiser.lr"]) + 2.5)
        stopped = stop and number % 3 == 0
        state = "crashed" if number == crash else "stopped" if stopped else "ended"
        started = 1.7e9 + 30.0 * ((number - 1) // 2) + number % 2
        for epoch in range(1, (2 if state != "ended" else epochs) + 1):
            share = (epoch / epochs) ** 0.5
            maps = {
                f"mAP/{domain}": float(worth * share + 0.05 * i + generator.normal(0, 0.01))
                for i, domain in enumerate(DOMAINS)
            }
            found.append(
                {
                    "trial": number, "trial_id": f"t{number}", "state": state, "epoch": epoch,
                    "mean_mAP": sum(maps.values()) / 3, "worst_mAP": min(maps.values()),
                    "cost_us_per_pair": None, **maps, "loss/identity": 2.0 / epoch,
                    **{f"setting/{path}": value for path, value in settings.items()},
                    "started": started + (3 + 5 * (epoch - 1)) * (epoch > 1),
                    "reported": started + 3 + 5 * epoch - 0.1,
                    "seconds_learning": 4.0, "seconds_ranking": 0.5,
                    "seconds_setup": 2.5 * (epoch == 1),
                    "node": "n1", "attempt": 0,
                }
            )  # fmt: skip
    return found


def finals(gains: dict[int, float], seeds: int = 3, noise: float = 0.01) -> list[dict[str, Any]]:
    """Return the final stage's rows: a candidate's gain over .3, seeds and folds with noise."""
    generator = np.random.default_rng(1)
    return [
        {
            "trial": trial, "seed": 100 + seed, "held_out": domain,
            "mAP": float(0.3 + gain + 0.05 * i + generator.normal(0, noise)), "rank1": 0.4,
            "seconds": 9.0,
        }
        for trial, gain in gains.items()
        for seed in range(seeds)
        for i, domain in enumerate(DOMAINS)
    ]  # fmt: skip


def target(seeds: int = 3) -> dict[str, Any]:
    """Return what target.json says."""
    return {
        "target": "market1501=/data/Market-1501",
        "looked": "2026-01-02T03:04:05+00:00",
        "command": "rayreid tune gmn search_spaces/gmn.yaml",
        "seeds": [
            {"seed": 7 + s, "mAP": 0.2 + 0.01 * s, "rank1": 0.3, "mINP": 0.1} for s in range(seeds)
        ],
        "colour histogram": {"mAP": 0.05, "rank1": 0.1, "mINP": 0.02},
    }


def write(
    folder: Path,
    trials: list[dict[str, Any]],
    *,
    final: list[dict[str, Any]] | None = None,
    looked: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a study's folder."""
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(plan(**changes), sort_keys=False))
    if trials:
        pq.write_table(pa.Table.from_pylist(trials), folder / "trials.parquet")
    if final:
        pq.write_table(pa.Table.from_pylist(final), folder / "finals.parquet")
    if looked:
        (folder / "target.json").write_text(json.dumps(looked))
    return folder
