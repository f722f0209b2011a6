"""The page: what it says of studies that came to all kinds of ends, and that it needs nothing."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayreid.cli import cli
from rayreid.study_report import write_report
from tests.study_report import folders


def words(path: Path) -> str:
    """Return the text of a report, and find tags that are not closed."""
    found: list[str] = []
    opened: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
            if tag not in {"meta", "input", "circle", "path", "rect", "line", "polyline"}:
                opened.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            if opened and opened[-1] == tag:
                opened.pop()

        def handle_data(self, data: str) -> None:
            found.append(data)

    text = path.read_text(encoding="utf-8")
    # A line drawn with a title has an end of its own.
    Reader().feed(re.sub(r"</(?:polyline|circle|rect|path)>", "", text))
    assert opened == []
    return " ".join(found)


def test_the_whole_report_says_what_was_found(tmp_path: Path) -> None:
    final = folders.finals({2: 0.2, 4: 0.195, 1: 0.0})
    folder = folders.write(
        tmp_path / "study", folders.rows(8, crash=7), final=final, looked=folders.target(),
        target="market1501=/data/Market-1501",
    )  # fmt: skip
    said = words(write_report(folder))
    assert "Best is trial 2 (config.dropout_rate" in said
    assert (
        "cannot be told apart from trial 4; it is better than the other 1 by more than the noise"
        in said
    )
    assert re.search(
        r"Over the starting settings \(trial 1\) it gains \+0\.\d+ ± 0\.\d+: above", said
    )
    assert "would seem" in said, "what luck alone would give"
    assert "was looked at once, at 2026-01-02T03:04:05+00:00" in said
    assert "mAP 0.210 ± 0.025 over 3 seeds" in said
    assert "5 ended, 2 stopped, 1 crashed" in said
    titles = "Final stage, On the target, Search, Settings and score, Importance, Each setting"
    for title in (*titles.split(", "), "Each domain", "When trials ran", "Cost", "Searched"):
        assert title in said


def test_the_verb_writes_it_again(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "s", folders.rows(3))
    done = CliRunner().invoke(cli, ["report", str(folder)])
    assert (done.exit_code, done.output) == (0, f"{folder / 'report.html'}\n")
    nowhere = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert isinstance(nowhere.exception, FileNotFoundError)


def test_a_search_alone_warns_of_its_luck(tmp_path: Path) -> None:
    said = words(write_report(folders.write(tmp_path / "s", folders.rows(8))))
    assert "the best of 6 that ended was chosen by the score told here: part of it is luck" in said
    assert "No target was named; none has been looked at." in said
    assert "Final stage" not in said


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "No trial has reported anything yet"),
        (folders.rows(1), "the only trial that came to its end (1 ended)"),
        (
            [row for row in folders.rows(6, crash=1) if row["trial"] in (1, 3)],
            "No trial came to its end (1 stopped, 1 crashed), so nothing is best",
        ),
    ],
)
def test_a_study_that_came_to_little_is_told_in_a_sentence(
    tmp_path: Path, rows: list[dict[str, object]], sentence: str
) -> None:
    said = words(write_report(folders.write(tmp_path / "s", rows, target="market1501=/m")))
    assert sentence in said
    if rows and "only" in sentence:
        assert "The target market1501=/m has not been looked at." in said


def test_an_interrupted_final_stage_says_so(tmp_path: Path) -> None:
    final = folders.finals({2: 0.2})[:2]
    folder = folders.write(tmp_path / "s", folders.rows(5), final=final)
    assert "final stage was interrupted" in words(write_report(folder))


def test_nothing_is_fetched_and_nothing_smuggled_in(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script><img src="http://evil.example/x">'
    rows = [{**row, "setting/config.dropout_site": evil} for row in folders.rows(3)]
    folder = folders.write(tmp_path / "s", rows, circumstances={"commit": evil, "seed": 1})
    text = write_report(folder).read_text(encoding="utf-8")
    assert text.count("<script>") == 1
    assert "<img" not in text
    assert "default-src 'none'" in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r"""(?:src|href)=["']?(?:http|//)""", text.replace(evil, ""))


def test_all_tables_of_a_study_that_selected_on_its_target_say_so(tmp_path: Path) -> None:
    folder = folders.write(
        tmp_path / "s", folders.rows(6), final=folders.finals({1: 0.0, 2: 0.1}),
        looked=folders.target(), warning="selected on the target: so it is", target="market1501=/m",
    )  # fmt: skip
    text = write_report(folder).read_text(encoding="utf-8")
    tables = re.findall(r"<table.*?</table>", text, re.S)
    assert len(tables) == 5
    assert "has not been looked at" not in text
    assert all("<caption" in table and "Selected on the target" in table for table in tables)


def test_ranges_and_conditions_are_told_as_they_were_searched(tmp_path: Path) -> None:
    space: dict[str, object] = {
        **folders.SPACE,
        "config.hidden": {"int": {"low": 128, "high": 512, "step": 128},
                          "when": {"config.dropout_site": ["pair", "trunk"]}},
        "config.norm": {"categorical": {"choices": [False, True]}},
    }  # fmt: skip
    said = words(write_report(folders.write(tmp_path / "s", folders.rows(3), space=space)))
    for told in (
        "0 to 0.7", "0 to 4", "0.001 to 0.01, logarithmic", "pair, instance_shared, trunk",
        "128 to 512, in steps of 128; when config.dropout_site is pair or trunk", "False, True",
    ):  # fmt: skip
        assert told in said


def test_a_start_that_nothing_beats_is_said_to_be_the_start(tmp_path: Path) -> None:
    final = folders.finals({1: 0.2, 4: 0.0})
    said = words(write_report(folders.write(tmp_path / "s", folders.rows(8), final=final)))
    assert "Best is trial 1 " in said
    assert "These are the settings that the search started from: it found no better ones." in said
