"""A job's results, out of the store that they went to."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rayreid.claim import FILE
from rayreid.cluster.job import Job
from rayreid.data.storage import Storage, is_remote, last_part

RAYS_OWN = "ray"
"""Folder of a run or a study that serves to go on with it, and stays where it is."""


def fetch(job: Job, to: Path, tell: Callable[[int], None], *, everything: bool = False) -> Path:
    """Copy what a job left into a folder below ``to``, and return that.

    Without what only serves to go on (``everything`` takes that too). ``tell`` is told the bytes
    of each file as it arrives.

    Raises `ValueError` for a job without results, `FileNotFoundError` where there are none yet
    or this machine does not see them.
    """
    name, place = job.name, job.results
    if place is None:
        raise ValueError(f"{name} has left nothing but its log: rayreid logs {name}")
    if not is_remote(place) and not Path(place).is_dir():
        raise FileNotFoundError(
            f"the results of {name} are in {place} on the cluster, a folder that is not here; copy "
            "it from a node (rsync -a NODE:FOLDER), or keep results in a store: --results s3://..."
        )
    storage = Storage(place)
    files = {
        file: size
        for file, size in storage.files().items()
        if file != FILE and (everything or PurePosixPath(file).parts[0] != RAYS_OWN)
    }
    if not files:
        raise FileNotFoundError(f"there is nothing at {storage.public} yet; {name} is {job.state}")
    folder = to / last_part(place)
    for file, size in sorted(files.items()):
        path = folder / _inside(file)
        draft = path.with_name(f"{path.name}.draft")
        storage.download(file, draft)
        draft.replace(path)
        tell(size)
    return folder


def _inside(file: str) -> PurePosixPath:
    """Return a relative path that stays below; an object may be named ``../x``."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the store has {file!r}, which would lie outside the folder; remove it")
    return path
