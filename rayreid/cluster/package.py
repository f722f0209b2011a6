"""The working tree as one archive: what git would take, no secrets, and not too large."""

import fnmatch
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rayreid.cluster import arrival

LIMIT = 100 * 2**20
"""Bytes of files in a package: it goes through the head's memory, and to each node."""

ARRIVAL = "rayreid_arrival.py"
"""Name that the package has what runs first by, at its top, where nodes can import it."""

SECRET_FILES = (".env", ".env.*", "*.pem", "*.key", ".netrc", ".pgpass", "auth_token", "*.token")
"""Names of files that are left out unless git keeps them."""


@dataclass(frozen=True)
class Package:
    """What is taken along, by paths in the tree, and what is not and might be missed."""

    root: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def carries_rayreid(self) -> bool:
        """Return whether the tree is a clone of rayreid, whose code then runs on the cluster."""
        return "rayreid/__main__.py" in self.files

    @property
    def commit(self) -> str | None:
        """Return the commit of rayreid's own code in the tree, None where it carries none."""
        if not self.carries_rayreid or not _in_git(self.root):
            return None
        answer = _git(self.root, "describe", "--always", "--dirty", "--abbrev=12")
        return answer.stdout.decode().strip() or None

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return sum((self.root / file).stat().st_size for file in self.files)

    def write(self, path: Path) -> None:
        """Write the archive: the same files give the same bytes, which a cluster has but once."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in self.files:
                mode = (self.root / file).stat().st_mode
                _add(archive, file, (self.root / file).read_bytes(), mode)
            _add(archive, ARRIVAL, Path(arrival.__file__).read_bytes(), 0o100644)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980, whenever the file was changed
    entry.external_attr = (0o100755 if mode & 0o100 else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)


def pack(root: Path, also: Iterable[str] = (), *, limit: int = LIMIT) -> Package:
    """Return what the tree at ``root`` is taken along as: tracked files, and untracked ones.

    Not those that .gitignore leaves out, except ``also``, which a command names; not links to
    what lies outside, nor untracked files named like secrets.

    Raises `ValueError` for a tree that is too large, naming its largest files, `OSError` where
    git is missing.
    """
    root = root.resolve()
    tracked = set(_listed(root, "--cached")) if _in_git(root) else set()
    listed = tracked | set(_listed(root, "--others"))
    taken, left = set(also), []
    for name in sorted(listed):
        path = root / name
        if not path.exists():
            continue  # removed, and not yet committed
        if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root)):
            left.append(f"{name} (a link out of the tree, or to a folder)")
        elif name not in tracked and any(fnmatch.fnmatch(path.name, k) for k in SECRET_FILES):
            left.append(f"{name} (by its name a secret)")
        elif path.is_file():
            taken.add(name)
    package = Package(root, tuple(sorted(taken)), tuple(left))
    if package.bytes > limit:
        sizes = sorted(((root / file).stat().st_size, file) for file in package.files)
        largest = ", ".join(f"{file} ({_size(size)})" for size, file in reversed(sizes[-3:]))
        raise ValueError(
            f"the working tree at {root} has {_size(package.bytes)}, more than the "
            f"{_size(limit)} that a job may bring; its largest files are {largest}: name them in "
            ".gitignore, or keep them in a store"
        )
    return package


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _in_git(root: Path) -> bool:
    return _git(root, "rev-parse", "--is-inside-work-tree").stdout.strip() == b"true"


def _listed(root: Path, which: str) -> Iterator[str]:
    """Yield the files below ``root``, tracked or not and not ignored, as git sees them."""
    with tempfile.TemporaryDirectory() as scratch:
        place = []
        if not _in_git(root):
            # git reads .gitignore wherever it has a repository; an empty one elsewhere will do.
            _git(root, "init", "--quiet", "--bare", scratch)
            place = [f"--git-dir={scratch}", f"--work-tree={root}"]
        answer = _git(root, *place, "ls-files", "-z", which, "--exclude-standard")
    if answer.returncode:
        raise OSError(f"git cannot list {root}: {os.fsdecode(answer.stderr).strip()}")
    for name in os.fsdecode(answer.stdout).split("\0"):
        path = root / name
        if name and path.is_dir() and not path.is_symlink():
            # A repository of its own: git names it, and not what is in it.
            inner = [*_listed(path, "--cached"), *_listed(path, "--others")]
            yield from (f"{name.rstrip('/')}/{file}" for file in inner)
        elif name:
            yield name


def _git(root: Path, *command: str) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(["git", *command], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        raise FileNotFoundError(
            "git is not installed, which knows what .gitignore leaves out; install it"
        ) from None
