"""The verbs that look at data sets: what they print, leave, and end with."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rayreid.cli import cli
from tests.data.folders import crop_file, market


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["data", *arguments])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = market(tmp_path / "mini <script> Привет")
    crop_file(made, "query", 6, 2).unlink()
    return made


def test_show_leaves_a_page_and_a_sheet(root: Path, tmp_path: Path) -> None:
    crop_file(root, "train", 1, 1).write_bytes(b"")
    result = run("show", f"market1501={root}", "--to", str(tmp_path / "a" / "page"), "--people=2")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    assert line.endswith("page/sheet.png; 1 broken crop passed over, named on the page")
    assert {path.name for path in (tmp_path / "a" / "page").iterdir()} == {
        "index.html",
        "sheet.png",
    }
    assert result.stderr == "", "no progress in a file"


def test_check_says_that_all_is_well(root: Path) -> None:
    result = run("check", f"market1501={root}", "--no-counts")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"market1501={root}"
    assert lines[1] == "  train: 5 crops, 3 identities, 2 cameras"
    assert lines[-1] == "no faults"


def test_check_ends_with_1_and_a_line_where_something_is_wrong(root: Path) -> None:
    shutil.copy(crop_file(root, "train", 1, 1), crop_file(root, "gallery", 5, 1))
    source = f"market1501={root}"
    result = run("check", source, source, "--no-counts")
    assert result.exit_code == 1
    assert result.stderr == "Error: 2 faults in 2 sources, marked with ! above\n"
    assert (
        result.stdout.count("! 1 group of exact copies in train and in query or gallery too") == 2
    )
    result = run("check", source)
    assert result.exit_code == 1
    assert "5 of 12,936 crops" in result.stdout
    assert "12,931 train, 3,366 query, 15,908 gallery crops fewer" in result.stdout


def test_broken_crops_decide_the_exit_code_unless_they_are_skipped(root: Path) -> None:
    file = crop_file(root, "train", 1, 1)
    file.write_bytes(file.read_bytes()[:-600])
    arguments = ("check", f"market1501={root}", "--no-counts")
    assert run(*arguments).exit_code == 0, "headers alone are read"
    assert run(*arguments, "--decode").exit_code == 1
    result = run(*arguments, "--decode", "--on-error=skip")
    assert result.exit_code == 0
    assert f"      {file}: it is a damaged image" in result.stdout


def test_check_goes_on_after_a_source_that_cannot_be_opened(root: Path, tmp_path: Path) -> None:
    result = run("check", f"market1501={tmp_path / 'absent'}", f"market1501={root}", "--no-counts")
    assert result.exit_code == 1
    assert "! no data set at" in result.stdout
    assert "train: 5 crops" in result.stdout


@pytest.mark.parametrize("verb", ["show", "check"])
def test_what_is_no_source_is_a_mistake_of_one_sentence(verb: str, tmp_path: Path) -> None:
    more = ["--to", str(tmp_path / "page")] if verb == "show" else []
    result = run(verb, "synthetic=snow", "snow", *more)
    assert isinstance(result.exception, ValueError)
    assert "'snow' is not a data set" in str(result.exception)
    assert result.stdout == "", "before anything is read"
    assert run(verb, *more).exit_code == 2
