"""The verb that serves."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rayreid.serve.settings import ServiceSettings


@click.command()
@click.argument("runs", nargs=-1)
@click.option("--config", type=click.Path(path_type=Path), metavar="MODELS.YAML",
              help="Models with names, replicas and GPUs, limits, tokens, galleries.")  # fmt: skip
@click.option("--host", help="Address to listen at [127.0.0.1]; any other needs --tokens.")
@click.option("--port", type=click.IntRange(1, 65535), help="[8000]")
@click.option("--tokens", type=click.Path(path_type=Path), help="File of tokens, mode 0600.")
@click.option("--galleries", type=click.Path(path_type=Path), help="Folder of galleries.")
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True,
              help="Processes that hold each RUN.")  # fmt: skip
@click.option("--gpus", type=click.FloatRange(0), default=0.0, show_default=True,
              help="GPUs of a replica; a fraction shares one.")  # fmt: skip
@click.option("--write-serve-config", "to", type=click.Path(path_type=Path), metavar="FILE",
              help="Instead of serving, write what serve deploy and KubeRay take.")  # fmt: skip
def serve(runs: tuple[str, ...], config: Path | None, host: str | None, port: int | None,
          tokens: Path | None, galleries: Path | None, replicas: int, gpus: float,
          to: Path | None) -> None:  # fmt: skip
    """Serve trained RUNs, or the models of a file, over HTTP until Ctrl-C or SIGTERM.

    A RUN is a folder, or s3://bucket/run or gs://bucket/run.

    What is under way then is still answered. SIGHUP reads the runs, or the file, again, and
    replaces what has changed without losing a request.
    """
    from rayreid.serve.settings import ServiceSettings, load_service, service_of

    if bool(runs) == bool(config):
        raise ValueError("say what to serve: RUN folders, or --config MODELS.YAML, not both")
    chosen = {"host": host, "port": port, "tokens": tokens, "galleries": galleries}
    given = {name: value for name, value in chosen.items() if value is not None}

    def settings() -> ServiceSettings:
        if config:
            return load_service(config, **given)
        return service_of(runs, replicas=replicas, gpus=gpus, **given)

    if to:
        from rayreid.serve.deploying import write_serve_config

        write_serve_config(settings(), to)
        click.echo(f"wrote {to}; serve deploy {to} puts it on the cluster at hand")
        return
    from rayreid.serve import check, start, stop
    from rayreid.session import session

    again = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: again.set())
    first = settings()
    served = check(first)  # what is mistaken is told before Ray is started for it
    with session():
        # Ray has put a handler of its own there, which would not wait for anybody.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            url = start(first, served)
            names = ", ".join(model.name for model in first.models)
            click.echo(f"serving {names} at {url}; Ctrl-C stops it")
            while True:
                again.wait()
                again.clear()
                _replace(settings, start)
        except KeyboardInterrupt:
            click.echo("stopping; what is under way is still answered")
        finally:
            stop()


def _replace(settings: "Callable[[], ServiceSettings]", start: "Callable[..., str]") -> None:
    """Serve what the settings now say; where that cannot be, say why, and go on as before."""
    from rayreid.settings import FailureError

    try:
        now = settings()
        start(now)
    except (ValueError, OSError, FailureError) as error:
        click.echo(f"still serving as before: {error}", err=True)
    else:
        click.echo(f"serving {', '.join(model.name for model in now.models)} anew")
