"""A study's report: what it found, how sure that is, and what it cost, in one HTML file."""

from pathlib import Path

from rayreid.study_report.page import page
from rayreid.study_report.record import read_study

REPORT = "report.html"


def write_report(folder: Path) -> Path:
    """Write report.html to a study's folder, from what is in it so far; return its path.

    Raises `FileNotFoundError` where there is no study, and `ValueError` for what is not one.
    """
    path = folder / REPORT
    draft = path.with_suffix(".tmp")
    draft.write_text(page(read_study(folder)), encoding="utf-8")
    draft.replace(path)
    return path
