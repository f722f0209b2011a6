"""The tables of a report: final stage, target, domains, space."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from rayreid.spread import spread
from rayreid.study_report.axes import short
from rayreid.study_report.html import section, table
from rayreid.study_report.noise import Compared, finals_compared
from rayreid.study_report.record import Study


def final_stage(study: Study) -> str:
    """Return the candidates over fresh seeds, if there was a final stage."""
    compared = finals_compared(study)
    if not compared:
        return ""
    by_number = {trial.number: trial for trial in study.trials}
    rows = []
    for each in compared:
        cells, trial = study.cells(each.trial), by_number.get(each.trial)
        rows.append(
            [
                f"trial {each.trial}",
                f"{trial.last('mean_mAP'):.3f}" if trial and trial.rows else "",
                str(each.own),
                *against(each),
                *(f"{value:.3f}" for value in cells.mean(axis=0)),
            ]
        )
    header = ["", "in the search", "fresh seeds", "behind the best", "", *study.domains]
    seeds = study.cells(compared[0].trial).shape[0]
    return section(
        "Final stage",
        table(header, rows, study),
        f"<p>The best settings of the search, run again with {seeds} fresh seeds, leaving out one "
        "domain at a time. The winner is the best of these means, not of the search's scores. "
        f"{NOISE}</p>",
        *(
            f"<p>Trial {number} came to nothing: {escape(why)}</p>"
            for number, why in study.failed.items()
        ),
    )


NOISE = (
    "± is the wider of two 95 % intervals (Student's t): over the seeds, and over the folds, which "
    "say how far a difference carries to other domains; differences are paired by seed and fold. "
    "Intervals are not corrected for their number."
)


def against(each: Compared) -> tuple[str, str]:
    """Return how far a trial is behind the best, and whether that is above the noise."""
    if each.behind is None:
        return ("", "best")
    said = "above the noise" if each.told_apart else "cannot be told apart"
    return (str(each.behind), said)


def on_target(study: Study) -> str:
    """Return what was found on the target, if it has been looked at."""
    found = study.target
    if found is None:
        return ""
    figures = [name for name in ("mAP", "rank1", "mINP") if name in found["seeds"][0]]
    rows = [
        [f"seed {each['seed']}", *(f"{each[name]:.3f}" for name in figures)]
        for each in found["seeds"]
    ]
    means = [spread([float(each[name]) for each in found["seeds"]]) for name in figures]
    rows.append(["mean", *map(str, means)])
    if "colour histogram" in found:
        rows.append(
            ["colour histogram", *(f"{found['colour histogram'][name]:.3f}" for name in figures)]
        )
    return section(
        "On the target",
        f"<p>The winner's settings, learnt from all sources with {len(found['seeds'])} seeds, "
        f"ranked on <bdi>{escape(str(found['target']))}</bdi>: looked at once, at "
        f"{escape(str(found['looked']))}, by <code>{escape(str(found['command']))}</code>. "
        "± is a 95 % interval over the seeds.</p>",
        table(["", *figures], rows, study),
    )


def domains(study: Study) -> str:
    """Return each domain's mAP: of the best trial, and over all."""
    reached = [t for t in study.trials if t.rows]
    if not reached:
        return ""
    ended = study.ended or reached
    best = study.best or ended[0]
    rows = []
    for domain in study.domains:
        values = [t.last(f"mAP/{domain}") for t in ended]
        highest = max(ended, key=lambda t: t.last(f"mAP/{domain}"))
        rows.append(
            [
                domain,
                f"{best.last(f'mAP/{domain}'):.3f}",
                f"{highest.last(f'mAP/{domain}'):.3f} (trial {highest.number})",
                f"{float(np.median(values)):.3f}",
                f"{min(values):.3f}",
            ]
        )
    header = ["held out", f"best (trial {best.number})", "highest", "median", "lowest"]
    return section(
        "Each domain",
        table(header, rows, study),
        f"<p>mAP at the last epoch, over {len(ended)} trials that "
        f"{'ended' if study.ended else 'reported'}.</p>",
    )


def plan(study: Study) -> str:
    """Return the space that was searched, and what the study was made with."""
    rows = []
    for path in study.settings:
        kind, keywords = study.distribution(path)
        entry = study.plan["space"][path]
        rows.append([path, kind or str(entry), _range(keywords) + _condition(entry)])
    made = study.plan.get("circumstances") or {}
    facts = ", ".join(
        f"{name} {made[name]}" for name in ("commit", "written", "seed") if made.get(name)
    )
    return section(
        "Searched", table(["setting", "kind", "range"], rows, study, kind="words"),
        f"<p class=\"source\">{escape(facts)}</p>" if facts else "",
    )  # fmt: skip


def _range(keywords: Mapping[str, Any]) -> str:
    """Return what a setting's distribution draws from."""
    if "choices" in keywords:
        return ", ".join(map(short, keywords["choices"]))
    ends = [short(keywords[key]) for key in ("low", "high") if key in keywords]
    step = [f"in steps of {short(keywords['step'])}"] if keywords.get("step") else []
    return ", ".join([" to ".join(ends), *step, *["logarithmic"] * bool(keywords.get("log"))])


def _condition(entry: object) -> str:
    """Return under which values of others a setting is searched; nothing where it always is."""
    when = entry.get("when") if isinstance(entry, Mapping) else None
    told = [f"{path} is {' or '.join(map(short, values))}" for path, values in (when or {}).items()]
    return f"; when {' and '.join(told)}" if told else ""
