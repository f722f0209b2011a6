"""The methods by name; a new one is a file here and a line below."""

import importlib
import inspect

from rayreid.method import Method
from rayreid.methods.baseline import Baseline
from rayreid.methods.daam import DAAM
from rayreid.methods.gmn import GMN
from rayreid.methods.qaconv_ms import QAConvMS
from rayreid.methods.snr import SNR
from rayreid.settings import unknown

METHODS: dict[str, type[Method]] = {
    "baseline": Baseline,
    "gmn": GMN,
    "snr": SNR,
    "qaconv_ms": QAConvMS,
    "daam": DAAM,
}


def find_method(name: str) -> type[Method]:
    """Return the method of that name, or the class at ``package.module:Class``.

    Raises `ValueError` for a name that is neither.
    """
    if ":" not in name:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
        return METHODS[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {name!r} could not be imported: {error}") from None
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise ValueError(f"{name!r} is not a subclass of rayreid.method.Method")
    return found
