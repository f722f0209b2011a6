"""A study's charts: history, learning curves, slices, cost, importances."""

import math

from rayreid.study_report.axes import (
    Axis,
    Choices,
    across,
    chart,
    dot,
    line,
    path,
    short,
    text,
    up,
)
from rayreid.study_report.importance import CHANCE, Importances
from rayreid.study_report.record import Study, Trial

WIDTH, HEIGHT = 420.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 410.0, 22.0, 205.0


def told(study: Study, trial: Trial) -> str:
    """Return what a trial's mark tells: its end, its score, its settings."""
    values = ", ".join(f"{path} {short(value)}" for path, value in trial.settings.items())
    score = f"{trial.last(study.objective):.3f}" if trial.rows else "no score"
    return f"trial {trial.number}, {trial.state} at epoch {trial.epoch}: {score}\n{values}"


def history(study: Study) -> str:
    """Return each trial's last score in the order of the trials, and the best so far."""
    trials, goal = study.trials, study.objective
    x = Axis(0.5, max((t.number for t in trials), default=1) + 0.5, LEFT, RIGHT)
    y = Axis.over((t.last(goal) for t in trials), BOTTOM, TOP + 8)
    best: list[tuple[float, float]] = []
    running = -math.inf
    for trial in trials:
        score = trial.last(goal)
        if trial.ended and score > running:
            if best:
                best.append((x(trial.number), best[-1][1]))
            running = score
            best.append((x(trial.number), y(score)))
    if best:
        best.append((x(x.high), best[-1][1]))
    marks = [
        dot(
            x(t.number), y(t.last(goal)) if math.isfinite(t.last(goal)) else BOTTOM - 6,
            t.state, told(study, t), t.number,
        )
        for t in trials
    ]  # fmt: skip
    parts = [*up(y, LEFT, RIGHT), *_whole(x), path(best, "sofar"), *marks]
    return _plain(parts, "trial", goal, f"{goal} by trial, with the best so far")


def curves(study: Study) -> str:
    """Return each trial's score after each epoch: where it was stopped its line ends."""
    goal = study.objective
    best = study.best.number if study.best else 0
    x = Axis(0.8, study.epochs + 0.2, LEFT, RIGHT)
    every = [row.get(goal) for trial in study.trials for row in trial.rows]
    y = Axis.over((v for v in every if v is not None), BOTTOM, TOP + 8)
    drawn = []
    # The best lies over the others.
    for trial in sorted(study.trials, key=lambda t: t.number == best):
        points = [(x(row["epoch"]), y(trial.at(row["epoch"], goal))) for row in trial.rows
                  if math.isfinite(trial.at(row["epoch"], goal))]  # fmt: skip
        if not points:
            continue
        kind = "best" if trial.number == best else trial.state
        drawn.append(path(points, f"curve {kind}", told(study, trial), trial.number))
        if not trial.ended:
            drawn.append(dot(*points[-1], trial.state, told(study, trial), trial.number))
    parts = [*up(y, LEFT, RIGHT), *_whole(x), *drawn]
    return _plain(parts, "epoch", goal, f"{goal} by epoch, a line a trial")


def slices(study: Study) -> list[str]:
    """Return a chart a setting: its value against the score, a mark a trial."""
    return [_slice(study, path) for path in study.settings]


def _slice(study: Study, setting: str) -> str:
    goal = study.objective
    shown = [t for t in study.trials if setting in t.settings and math.isfinite(t.last(goal))]
    y = Axis.over((t.last(goal) for t in shown), BOTTOM, TOP + 8)
    values = [t.settings[setting] for t in shown]
    x = scale(study, setting, LEFT, RIGHT)
    marks = []
    for trial, value in zip(shown, values, strict=True):
        # Trials of one choice stand beside each other.
        aside = (trial.number * 7 % 11 - 5) * 2.5 if isinstance(x, Choices) else 0.0
        place = x(value) + aside
        marks.append(dot(place, y(trial.last(goal)), trial.state, told(study, trial), trial.number))
    second = 0  # Long names stand in two lines.
    if isinstance(x, Choices):
        room = (RIGHT - LEFT) / len(x.names)
        second = 13 * _crowded(x, room)
        ticks = [
            text(x(name), BOTTOM + 15 + second * (i % 2),
                 _cut(name, room * (2 if second else 1)), "middle")
            for i, name in enumerate(x.names)
        ]  # fmt: skip
    else:
        ticks = across(x, BOTTOM, TOP)
    parts = [*up(y, LEFT, RIGHT), *ticks, *marks]
    return _plain(parts, setting, goal, f"{goal} by {setting}", more=second)


def _crowded(axis: Choices, room: float) -> bool:
    return max(map(len, axis.names)) * 6.5 > room


def _cut(name: str, room: float) -> str:
    most = max(3, int(room / 6.5))
    return name if len(name) <= most else name[: most - 1] + "…"


def scale(study: Study, setting: str, start: float, end: float) -> Axis | Choices:
    """Return the axis of a setting: of its space's kind where that is told, else of its values."""
    values = [t.settings[setting] for t in study.trials if setting in t.settings]
    kind, keywords = study.distribution(setting)
    if kind == "categorical" or any(isinstance(v, str | bool) for v in values):
        told_choices = [str(choice) for choice in keywords.get("choices", ())]
        seen = sorted({str(v) for v in values})
        return Choices(list(dict.fromkeys([*told_choices, *seen])) or ["none"], start, end)
    ends = [keywords[key] for key in ("low", "high") if key in keywords]
    return Axis.over([*map(float, ends), *map(float, values)], start, end,
                     log=bool(keywords.get("log")))  # fmt: skip


def importances(found: Importances) -> str:
    """Return a bar a setting with the range over repetitions, and what chance alone reaches."""
    names = list(found.shares)
    step, left = 26.0, 190.0
    height = step * len(names) + 40
    x = Axis(0.0, max(high for _, _, high in found.shares.values()) * 1.02, left, RIGHT)
    parts = across(x, step * len(names) + 8, 0)
    for i, name in enumerate(names):
        middle, low, high = found.shares[name]
        y = i * step + 8
        kind = "chance" if name == CHANCE else "bar" if name in found.beyond_chance else "unsure"
        parts += [
            text(left - 8, y + 13, name, "end"),
            f'<rect class="{kind}" x="{left}" y="{y}" width="{max(0.5, x(middle) - left):.1f}" '
            f'height="{step - 8}"><title>{name}: {middle:.2f} ({low:.2f} to {high:.2f})'
            "</title></rect>",
            line(x(low), y + step / 2 - 4, x(high), y + step / 2 - 4, "range"),
        ]
    return chart(parts, WIDTH, height, "importance of each setting")


def pareto(study: Study) -> str:
    """Return the mean mAP against the cost of a pair, with those that nothing beats in both."""
    cost, goal = "cost_us_per_pair", "mean_mAP"
    shown = [t for t in study.ended if math.isfinite(t.last(cost))]
    x = Axis.over((t.last(cost) for t in shown), LEFT, RIGHT, log=True)
    y = Axis.over((t.last(goal) for t in shown), BOTTOM, TOP + 8)
    front = unbeaten(shown)
    edge = sorted((x(t.last(cost)), y(t.last(goal))) for t in front)
    marks = [dot(x(t.last(cost)), y(t.last(goal)), "best" if t in front else "stopped",
                 told(study, t), t.number) for t in shown]  # fmt: skip
    parts = [*up(y, LEFT, RIGHT), *across(x, BOTTOM, TOP), path(edge, "sofar"), *marks]
    return _plain(parts, "microseconds a pair", goal, "mean mAP by cost a pair")


def unbeaten(trials: list[Trial]) -> list[Trial]:
    """Return the trials than which none is at least as good in mAP and cost, and better in one."""

    def figures(trial: Trial) -> tuple[float, float]:
        return trial.last("mean_mAP"), -trial.last("cost_us_per_pair")

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    return [t for t in trials if not any(beats(figures(o), figures(t)) for o in trials)]


def times(study: Study) -> str:
    """Return where each trial's seconds went: set-up, learning, ranking."""
    kinds = ("seconds_setup", "seconds_learning", "seconds_ranking")
    spent = {t.number: [t.total(kind) for kind in kinds] for t in study.trials}
    step = min(20.0, 420.0 / max(1, len(spent)))
    bottom = step * len(spent) + 4
    x = Axis(0.0, max((sum(s) for s in spent.values()), default=1.0) or 1.0, LEFT, RIGHT)
    parts = across(x, bottom, 0)
    every = max(1, math.ceil(13 / step))
    for i, (number, seconds) in enumerate(spent.items()):
        if i % every == 0:
            parts.append(text(LEFT - 6, i * step + step / 2 + 4, str(number), "end"))
        done = 0.0
        for kind, part in zip(("setup", "learning", "ranking"), seconds, strict=True):
            parts.append(
                f'<rect class="{kind}" x="{x(done):.1f}" y="{i * step + 1:.1f}" '
                f'width="{x(done + part) - x(done):.1f}" height="{step * 0.8:.1f}">'
                f"<title>trial {number}: {kind} {part:.1f} s</title></rect>"
            )
            done += part
    parts.append(text((LEFT + RIGHT) / 2, bottom + 32, "seconds of computing", "middle", "name"))
    return chart(parts, WIDTH, bottom + 40, "seconds of each trial")


def _whole(axis: Axis) -> list[str]:
    """Return the ticks of an axis of whole numbers."""
    ticks = [tick for tick in axis.ticks(8) if float(tick).is_integer()]
    return [text(axis(tick), BOTTOM + 15, short(tick), "middle") for tick in ticks]


def _plain(parts: list[str], right: str, high: str, label: str, more: int = 0) -> str:
    """Return a chart with the names of its axes; ``more`` room is below the horizontal one."""
    named = [
        text((LEFT + RIGHT) / 2, HEIGHT - 8 + more, right, "middle", "name"),
        text(0, 12, high, "start", "name"),
        line(LEFT, BOTTOM, RIGHT, BOTTOM),
    ]
    return chart([*named, *parts], WIDTH, HEIGHT + more, label)
