"""What the service of this folder's tests is."""

from pathlib import Path

from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.settings import Limits, ModelSettings, ServiceSettings


def settings_of(run: Path, port: int, folder: Path) -> ServiceSettings:
    """Return a service of a run under two names, and of a third that waits to be asked for."""
    return ServiceSettings(
        models=(
            ModelSettings(run=run),
            ModelSettings(name="twin", run=run),
            ModelSettings(name="spare", run=run, on_demand=True, idle_seconds=1),
        ),
        port=port,
        galleries=GalleriesSettings(store=str(folder)),
        limits=Limits(admitted=16, waiting=16),
    )
