"""A study's report as one HTML page: words first, then charts and tables."""

import base64
import hashlib
import math
from html import escape

from rayreid.study_report.charts import curves, history, pareto, slices, times
from rayreid.study_report.charts import importances as bars
from rayreid.study_report.html import LISTED, figure, legend, pretty, rest, section, table
from rayreid.study_report.importance import FEWEST, importances
from rayreid.study_report.noise import search_compared
from rayreid.study_report.parallel import parallel
from rayreid.study_report.record import Study
from rayreid.study_report.style import SCRIPT, STYLE
from rayreid.study_report.tables import NOISE, against, domains, final_stage, on_target, plan
from rayreid.study_report.timeline import share_outside, timeline
from rayreid.study_report.verdict import ends, verdict, warning


def page(study: Study) -> str:
    """Return the page."""
    name = escape(study.folder.resolve().name)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    says = [escape(pretty(sentence)) for sentence in verdict(study)]
    sections = [
        final_stage(study),
        on_target(study),
        _search(study),
        _parallel(study),
        _importances(study),
        _slices(study),
        domains(study),
        _timeline(study),
        _cost(study),
        plan(study),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Whatever a name might smuggle in: nothing is fetched, and no script runs but ours.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">\n"
        f"<title>Study {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>Study <bdi>{name}</bdi></h1>\n<p class="source">{_subtitle(study)}</p>\n'
        f'{_warned(study)}<div class="verdict"><p>{says[0]}</p>'
        + "".join(f"<p>{sentence}</p>" for sentence in says[1:])
        + "</div>\n"
        + "\n".join(section for section in sections if section)
        + f'\n<p id="picked" role="status"></p>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def _subtitle(study: Study) -> str:
    method = study.plan["experiment"]["method"]
    held_out = ", ".join(study.domains)
    return escape(
        f"{method}; {len(study.trials)} trials ({ends(study)}) of up to {study.epochs} "
        f"epochs; held out in turn: {held_out or 'nothing yet'}"
    )


def _warned(study: Study) -> str:
    said = warning(study)
    return f'<p class="wrong">{escape(said)}</p>' if said else ""


def _search(study: Study) -> str:
    if not study.trials:
        return ""
    compared = search_compared(study)
    rows = [
        [f"trial {each.trial}", str(each.own), *against(each),
         *(f"{study.of(each.trial).last(f'mAP/{domain}'):.3f}" for domain in study.domains)]
        for each in compared[:LISTED]
    ]  # fmt: skip
    header = ["", "held-out mAP", "behind the best", "", *study.domains]
    listed = table(header, rows, study) + rest(len(compared), "trials") if rows else ""
    figures = (
        figure("The trials in their order; the line is the best so far.", history(study)),
        figure("Each trial by epochs; a line that ends early was stopped.", curves(study)),
    )
    return section(
        "Search",
        f'<div class="plots">{"".join(figures)}</div>',
        legend(),
        listed,
        f"<p>Trials that ended, one run each. {NOISE}</p>" if len(rows) > 1 else "",
    )


def _parallel(study: Study) -> str:
    drawn = parallel(study)
    return section("Settings and score", drawn) if drawn else ""


def _importances(study: Study) -> str:
    if not study.trials:
        return ""
    found = importances(study)
    if found is None:
        return section(
            "Importance",
            f"<p>Fewer than {FEWEST} trials with different scores: too few to say which settings "
            "matter.</p>",
        )
    beyond = [name for name in found.beyond_chance if name != "(chance)"]
    first = (
        f"Above all that chance gives: {', '.join(beyond)}."
        if beyond
        else "No setting is above what chance gives: these trials do not say which settings matter."
    )
    left = f" Left out, as not all had them or all alike: {', '.join(found.left_out)}." * bool(
        found.left_out
    )
    return section(
        "Importance",
        f"<p>{escape(first)}</p>",
        figure("Share of the score's variance that a setting explains (fANOVA).", bars(found)),
        f"<p>Of the scores after epoch {found.epoch}, which {found.trials} trials reached. Bars "
        "are means over random forests on trials drawn with replacement, thin lines their range; "
        "<i>(chance)</i> is a setting that does nothing. With few trials, which a sampler crowded "
        f"where scores were good, this is a hint, not a measurement.{escape(left)}</p>",
    )


def _slices(study: Study) -> str:
    drawn = "".join(f"<figure>{chart}</figure>" for chart in slices(study)) if study.trials else ""
    return section("Each setting", f'<div class="plots">{drawn}</div>', legend()) if drawn else ""


def _timeline(study: Study) -> str:
    drawn = timeline(study)
    if not drawn:
        return ""
    return section(
        "When trials ran",
        f'<div class="wide">{drawn}</div>',
        "<p>A bar an epoch; a ring where a trial was stopped, a cross where it crashed.</p>",
    )


def _cost(study: Study) -> str:
    if not any(t.rows for t in study.trials):
        return ""
    parts = []
    if any(math.isfinite(t.last("cost_us_per_pair")) for t in study.ended):
        parts.append(
            figure(
                "Mean mAP against the time to score a pair; the line joins the trials that "
                "none beats in both.",
                pareto(study),
            )
        )
    parts.append(
        figure("Seconds of each trial: set-up, learning, ranking, of all its folds.", times(study))
    )
    outside = share_outside(study.trials)
    said = ""
    if outside:
        there, busy, share = outside
        epochs = sum(len(t.rows) for t in study.trials)
        whole = study.epochs * len(study.trials)
        said = (
            f"<p>{epochs} of {whole} epochs were learnt ({epochs / whole:.0%}). Trials were there "
            f"for {there:,.0f} s, {busy:,.0f} s of them in learning and ranking; the rest, "
            f"{share:.0%}, is set-up, reporting and waiting.</p>"
        )
    key = "".join(
        f'<span><i class="{kind}"></i>{words}</span>'
        for kind, words in (("setup", "set-up"), ("learning", "learning"), ("ranking", "ranking"))
    )
    return section(
        "Cost", f'<div class="plots">{"".join(parts)}</div>', f'<p class="legend">{key}</p>', said
    )
