"""Where galleries are kept, how much they hold, and how they are searched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from rayreid.serve.galleries.opening import check_address, is_served
from rayreid.serve.galleries.records import GalleryLimits
from rayreid.serve.galleries.search import SearchSettings
from rayreid.settings import Settings


class GalleriesSettings(Settings):
    """The enrolled galleries of a service; as a text, the store's address alone."""

    store: str
    """A folder on this machine's disk, or ``postgresql://user@host:port/database``, which all
    machines of a cluster reach."""
    limits: GalleryLimits = GalleryLimits()
    """How much they may hold."""
    memory_bytes: int = Field(8 * 2**30, ge=1)
    """What a replica of a model holds of galleries to search them, in bytes; those not asked for go
    first. A sample takes its embedding, of a score that is no product (GMN, QAConv-MS) beside the
    vector of the cheap one."""
    search: SearchSettings = SearchSettings()
    """How they are searched; ``most``, ``most_shortlisted`` and ``most_scored`` are the most that a
    request may ask for."""

    @model_validator(mode="before")
    @classmethod
    def _an_address_alone(cls, values: Any) -> Any:
        if isinstance(values, str | Path):
            return {"store": str(values)}
        if isinstance(values, Mapping) and isinstance(values.get("store"), Path):
            return {**values, "store": str(values["store"])}
        return values

    @field_validator("store")
    @classmethod
    def _an_address(cls, store: str) -> str:
        check_address(store)
        return store

    def below(self, folder: Path) -> "GalleriesSettings":
        """Return the same with the store's folder absolute, if relative then to ``folder``."""
        if is_served(self.store):
            return self
        path = (folder / Path(self.store).expanduser()).absolute()
        return self.model_copy(update={"store": str(path)})
