"""When trials ran: start, epochs and end, a row a trial."""

from collections.abc import Sequence
from html import escape

from rayreid.study_report.axes import Axis, across, chart, dot, of_trial, text
from rayreid.study_report.charts import told
from rayreid.study_report.record import Row, Study, Trial

_WIDTH, _LEFT, _RIGHT = 860.0, 40.0, 840.0


def timeline(study: Study) -> str:
    """Return the chart; epochs are alternately darker, and a gap is time without the trial."""
    shown = [t for t in study.trials if t.rows and t.rows[0].get("started") is not None]
    if not shown:
        return ""
    begun = min(row["started"] for t in shown for row in t.rows)
    over = max(row["reported"] for t in shown for row in t.rows)
    # Hundreds of trials are rows of a few units, a name every so often.
    step = min(18.0, max(3.0, 900.0 / len(shown)))
    bottom = step * len(shown) + 6
    x = Axis(0.0, max(over - begun, 1e-3), _LEFT, _RIGHT)
    parts = across(x, bottom, 0, most=8)
    every = max(1, round(13 / step))
    for i, trial in enumerate(shown):
        y = i * step + 2
        if i % every == 0:
            parts.append(text(_LEFT - 6, y + step / 2 + 3, str(trial.number), "end"))
        parts += _row(study, trial, x, begun, y, step)
    parts.append(text((_LEFT + _RIGHT) / 2, bottom + 32, "seconds since the first trial began",
                      "middle", "name"))  # fmt: skip
    return chart(parts, _WIDTH, bottom + 42, "when each trial ran", "large")


def _row(study: Study, trial: Trial, x: Axis, begun: float, y: float, step: float) -> list[str]:
    parts = []
    for number, row in enumerate(trial.rows):
        start = row["started"]
        left, right = x(start - begun), x(row["reported"] - begun)
        title = escape(
            f"trial {trial.number}, epoch {row['epoch']}: {row['reported'] - start:.1f} s"
        )
        parts.append(
            f'<rect class="span {trial.state} {"odd" if number % 2 else "even"}"'
            f'{of_trial(trial.number)} x="{left:.1f}" y="{y:.1f}" '
            f'width="{max(0.5, right - left):.1f}" height="{step * 0.72:.1f}">'
            f"<title>{title}</title></rect>"
        )
    if step >= 10 and not trial.ended:
        end = x(trial.rows[-1]["reported"] - begun)
        parts.append(dot(end + 6, y + step * 0.36, trial.state, told(study, trial), trial.number))
    return parts


def share_outside(trials: Sequence[Trial]) -> tuple[float, float, float] | None:
    """Return trials' seconds there, those in learning or ranking, and the share of the rest.

    Of the time between each trial's start and its last report. None where it was not measured.
    """
    measured = [t for t in trials if t.rows and t.rows[0].get("started") is not None]
    if not measured:
        return None
    there = sum(_there(t) for t in measured)
    busy = sum(t.total("seconds_learning") + t.total("seconds_ranking") for t in measured)
    return (there, busy, 1 - busy / there) if there else None


def _there(trial: Trial) -> float:
    """Return the seconds from start to last report, summed over attempts."""
    attempts: dict[int, list[Row]] = {}
    for row in trial.rows:
        attempts.setdefault(row.get("attempt") or 0, []).append(row)
    return sum(
        float(max(row["reported"] for row in rows) - min(row["started"] for row in rows))
        for rows in attempts.values()
    )
