"""Parallel coordinates: a line a trial through all its settings to its score."""

import math

from rayreid.study_report.axes import Axis, Choices, chart, line, path, short, text
from rayreid.study_report.charts import scale, told
from rayreid.study_report.record import Study, Trial

_STEP, _TOP, _BOTTOM, _ROOM = 150.0, 44.0, 300.0, 70.0


def parallel(study: Study) -> str:
    """Return the chart, an axis a setting and the score at the right; the best lie on top.

    A line goes past an axis whose setting the trial did not have, at the axis's foot.
    """
    goal = study.objective
    shown = sorted(
        (t for t in study.trials if math.isfinite(t.last(goal))),
        key=lambda t: (t == study.best, t.ended, t.last(goal)),
    )
    if not shown:
        return ""
    names = [*study.settings, goal]
    places = [_ROOM + i * _STEP for i in range(len(names))]
    scales = [scale(study, name, _BOTTOM, _TOP) for name in study.settings]
    score = Axis.over((t.last(goal) for t in shown), _BOTTOM, _TOP)
    parts: list[str] = []
    for i, (name, x) in enumerate(zip(names, places, strict=True)):
        parts.append(line(x, _TOP, x, _BOTTOM))
        head = name.partition(".")[2] if name != goal else name
        # Long names take turns at two heights.
        parts.append(text(x, 14 if i % 2 else 30, head or name, "middle", "name"))
    rank = {t.number: r for r, t in enumerate(reversed(shown))}
    for trial in shown:
        points = [
            (x, _place(axis, trial, name))
            for x, axis, name in zip(places, scales, study.settings, strict=False)
        ]
        points.append((places[-1], score(trial.last(goal))))
        first = rank[trial.number] == 0
        kind = "best" if first else trial.state
        drawn = path(points, f"thread {kind}", told(study, trial), trial.number)
        parts.append(f'<g data-rank="{rank[trial.number]}">{drawn}</g>')
    for x, axis in zip(places, [*scales, score], strict=True):
        parts += _marks(axis, x)
    for x, name in zip(places, study.settings, strict=False):
        if any(name not in trial.settings for trial in shown):
            parts.append(text(x + 5, _BOTTOM + 16, "not active", kind="mark"))
    chart_ = chart(
        parts, places[-1] + _ROOM, _BOTTOM + 24, f"settings of each trial and {goal}", "large"
    )
    most = len(shown)
    return (
        f'<label class="filter">Show the best <input type="range" id="most" min="1" max="{most}" '
        f'value="{most}"> <output id="shown">{most}</output> of {most}</label>'
        f'<div class="wide">{chart_}</div>'
    )


def _place(axis: Axis | Choices, trial: Trial, name: str) -> float:
    if name not in trial.settings:
        return _BOTTOM + 12
    return axis(trial.settings[name])


def _marks(axis: Axis | Choices, x: float) -> list[str]:
    """Return the values along an axis, over the lines, on a ground of their own."""
    named = (
        [(axis(tick), short(tick)) for tick in axis.ticks(4)]
        if isinstance(axis, Axis)
        else [(axis(name), name if len(name) <= 22 else name[:21] + "…") for name in axis.names]
    )
    return [text(x + 5, y + 4, words, kind="mark") for y, words in named]
