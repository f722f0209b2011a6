"""The program: runs the command line, and tells mistakes and interruptions in a line."""

import logging
import os
import signal
import sys

import click

from rayreid.cli import cli

MISTAKES = (ValueError, OSError, FloatingPointError)
"""Errors whose message is for the user, beside FailureError; RAYREID_TRACEBACK=1 shows more."""


def main() -> None:
    """Run the command line; mistakes end in one sentence and exit code 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    # A service manager's polite stop ends like Ctrl-C, so that Ray's processes end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        from rayreid.settings import FailureError

        if interrupted(error):
            click.echo("interrupted", err=True)
            sys.exit(130)
        told = isinstance(error, (*MISTAKES, FailureError))
        if not told or os.environ.get("RAYREID_TRACEBACK"):
            raise
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


def interrupted(error: BaseException | None) -> bool:
    """Return whether an error is what Ctrl-C left of something that it broke into."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


if __name__ == "__main__":
    main()
