"""Changes to a generated set that are taken back, so that tests can share the set."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def added(path: Path) -> Iterator[None]:
    """Let there be an empty file."""
    path.touch()
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def hidden(*paths: Path) -> Iterator[None]:
    """Let files or folders be missing: readers pass over what is hidden."""
    away = [path.rename(path.with_name(f".{path.name}")) for path in paths]
    try:
        yield
    finally:
        for path, where in zip(paths, away, strict=True):
            where.rename(path)
