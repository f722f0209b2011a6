"""What of a working tree is taken along: what git would, no secrets, and not too much."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from rayreid.cluster.package import ARRIVAL, pack


def git(root: Path, *command: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *command], cwd=root, check=True, capture_output=True)


@pytest.fixture(params=["git", "no git"])
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    root = tmp_path / "tree"
    for name in (
        "code.py", "data/big.bin", "data/keep.txt", "sub/.hidden", "results/run/best.yaml",
        "sub/ignored.log", "name with spaces.txt", "ünïcode.txt",
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / ".gitignore").write_text("data/*\n!data/keep.txt\nresults/\n")
    (root / "sub" / ".gitignore").write_text("*.log\n")
    if request.param == "git":
        git(root, "init", "-q")
        git(root, "add", "code.py")
    return root


TAKEN = {
    ".gitignore", "code.py", "data/keep.txt", "sub/.gitignore", "sub/.hidden",
    "name with spaces.txt", "ünïcode.txt",
}  # fmt: skip


def test_gitignore_is_honoured_at_every_depth(tree: Path) -> None:
    package = pack(tree)
    assert set(package.files) == TAKEN
    assert package.left_out == ()
    assert not package.carries_rayreid


def test_a_file_that_the_command_names_goes_along(tree: Path) -> None:
    assert set(pack(tree, ["results/run/best.yaml"]).files) == TAKEN | {"results/run/best.yaml"}


def test_secrets_and_links_out_are_left_and_told(tree: Path) -> None:
    (tree / ".env").write_text("KEY=hush")
    (tree / "lab.token").write_text("hush")
    (tree / "away").symlink_to("/etc/passwd")
    (tree / "folder").symlink_to(tree / "data")
    (tree / "near").symlink_to("code.py")
    package = pack(tree)
    assert set(package.files) == TAKEN | {"near"}
    assert [left.split()[0] for left in package.left_out] == [
        ".env", "away", "folder", "lab.token",
    ]  # fmt: skip


def test_a_repository_within_goes_along_too(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    git(tmp_path / "outer", "init", "-q")
    git(inner, "init", "-q")
    (inner / "a.py").write_text("")
    (inner / "b.log").write_text("")
    (inner / ".gitignore").write_text("*.log")
    assert pack(tmp_path / "outer").files == ("inner/.gitignore", "inner/a.py")


def test_a_removed_file_is_not_missed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    for name in ("a", "b"):
        (tmp_path / name).write_text("")
    git(tmp_path, "add", ".")
    (tmp_path / "a").unlink()
    assert pack(tmp_path).files == ("b",)


def test_a_tree_that_is_too_large_names_its_largest_files(tree: Path) -> None:
    (tree / "model.bin").write_bytes(bytes(3000))
    (tree / "other.bin").write_bytes(bytes(2000))
    with pytest.raises(ValueError, match=r"more than the 4\.0 KiB.*model.bin \(2\.9 KiB\), other"):
        pack(tree, limit=4096)
    pack(tree, limit=8192)


def test_the_same_tree_gives_the_same_archive_which_runs_what_arrives(
    tree: Path, tmp_path: Path
) -> None:
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    one, two = tmp_path / "one.zip", tmp_path / "two.zip"
    pack(tree).write(one)
    (tree / "code.py").touch()
    pack(tree).write(two)
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert set(archive.namelist()) == TAKEN | {"run.sh", ARRIVAL}
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755
        assert b"def give_references" in archive.read(ARRIVAL)
    (tree / "code.py").write_text("changed")
    pack(tree).write(two)
    assert one.read_bytes() != two.read_bytes()


def test_this_clone_carries_its_own_code() -> None:
    package = pack(Path(__file__).parents[2])
    assert package.carries_rayreid
    assert "rayreid/cluster/arrival.py" in package.files
