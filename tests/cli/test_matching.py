"""What the verb that asks a service makes of files that are not there."""

from pathlib import Path

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
