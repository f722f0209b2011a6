"""What a job does first where it arrives; it travels beside the working tree, and runs alone.

It needs the standard library only, for what it checks is whether the rest is there: the version
of Python, the packages, and rayreid itself. Then it becomes ``python -m rayreid ...``. Variables
that a job has by reference it reads from their files, in the driver and, as Ray's setup hook, in
each worker; so their values are in no message of Ray's, in no metadata and in no log.
"""

import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path

PYTHON_NEEDED = (3, 11)
PACKAGES_NEEDED = ("click", "optuna", "pyarrow", "pydantic", "ray", "timm", "torch", "yaml")
REFERENCES, VERSION = "RAYREID_REFERENCES", "RAYREID_SUBMITTED_BY"
FORMAT = "NAME, for a variable that the nodes have, or NAME=@/FILE, for a file there"


def give_references() -> None:
    """Set the variables that this job has by reference; Ray calls this in each worker.

    Raises `RuntimeError` with a sentence that names what is not there.
    """
    missing = _give()
    if missing:
        raise RuntimeError(missing)


def _give() -> "str | None":
    for reference in json.loads(os.environ.get(REFERENCES, "[]")):
        name, _, file = reference.partition("=@")
        if file:
            try:
                os.environ[name] = Path(file).read_text().strip()
            except OSError as error:
                return f"{name} is to be read from {file} on {_host()}: {error.strerror}"
        elif name not in os.environ:
            return (
                f"{name} is not set on {_host()}; set it where Ray is started, on every node, or "
                f"give it by a file: --env {name}=@/FILE"
            )
    return None


def _host() -> str:
    return os.uname().nodename


def _unfit() -> "str | None":
    """Return why rayreid cannot run here, if it cannot."""
    if sys.version_info < PYTHON_NEEDED:
        needed, found = (".".join(map(str, v)) for v in (PYTHON_NEEDED, sys.version_info[:2]))
        return (
            f"the cluster's {sys.executable} is Python {found}, and rayreid needs {needed} or "
            "newer; set python: of the cluster to one, or build its nodes with clusters/Dockerfile"
        )
    missing = [name for name in PACKAGES_NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"the cluster's {sys.executable} lacks {', '.join(missing)}; install rayreid there, "
            "on every node, or build them with clusters/Dockerfile"
        )
    if (Path(__file__).parent / "rayreid" / "__main__.py").is_file():
        return None
    ours = os.environ[VERSION]
    try:
        theirs = importlib.metadata.version("rayreid")
    except importlib.metadata.PackageNotFoundError:
        return (
            f"rayreid is not installed for the cluster's {sys.executable}; install rayreid {ours} "
            "there, on every node, or submit from a clone of rayreid, whose code travels along"
        )
    if theirs != ours:
        return (
            f"the cluster has rayreid {theirs}, and this was submitted by {ours}; install {ours} "
            "there, or submit from a clone of rayreid, whose code travels along"
        )
    return None


def main() -> None:
    """Check what is here, and become ``python -m rayreid`` with the arguments given."""
    problem = _unfit() or _give()
    if problem:
        sys.stderr.write(f"Error: {problem}\n")
        sys.exit(2)
    os.execv(sys.executable, [sys.executable, "-m", "rayreid", *sys.argv[1:]])


if __name__ == "__main__":
    main()
