"""What the verb that asks a service makes of files that are not there."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from rayreid.cli import cli


def test_a_folder_among_pairs_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "pairs.csv").write_text("a,a\n")
    done = CliRunner().invoke(cli, ["match", "--pairs", str(tmp_path / "pairs.csv")])
    assert isinstance(done.exception, ValueError)
    assert str(done.exception) == f"{tmp_path / 'a'} is a folder; name the images in it"


def test_a_missing_image_is_told_before_anybody_is_asked(tmp_path: Path) -> None:
    there, gone = tmp_path / "a.jpg", tmp_path / "b.jpg"
    there.write_bytes(b"x")
    done = CliRunner().invoke(cli, ["match", str(there), str(gone)])
    assert isinstance(done.exception, FileNotFoundError)
    assert str(done.exception) == f"there is no image {gone}; check the path"


@pytest.mark.parametrize(
    "content",
    ["é.png,b.png\n".encode("latin-1"), b"\x89PNG\r\n\x1a\n" + bytes(300), bytes(200_000),
     "a.png,b.png\n".encode("utf-16")],
    ids=["latin-1", "a picture", "nothing but zeros", "utf-16"],
)  # fmt: skip
def test_a_list_that_is_no_text_is_told_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(content)
    error = CliRunner().invoke(cli, ["match", "--pairs", str(file)]).exception
    assert type(error) is ValueError
    wanted = "is no table of pairs; give a CSV in UTF-8 with two files, a,b, a line"
    assert str(error) == f"{file} {wanted}"


def test_the_mark_of_a_spreadsheet_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a.jpg,b.jpg\n", encoding="utf-8-sig")
    done = CliRunner().invoke(cli, ["match", "--pairs", str(tmp_path / "pairs.csv")])
    assert str(done.exception) == f"there is no image {tmp_path / 'a.jpg'}; check the path"
