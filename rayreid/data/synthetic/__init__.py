"""Drawn people: labelled crops of any number of domains, identities and cameras, from a seed.

A domain is a `Style`, by name or from a law; a person is drawn from the domain's law of people,
a scene from that of its cameras. ``styles`` says how domains differ, ``people`` and ``scenes`` what
an identity, a camera and a crop are, ``figure`` and ``backdrop`` paint them on a ``canvas`` by
signed distances, ``degrading`` makes photographs of them, and ``drawing`` labels the crops.
"""

from rayreid.data.synthetic.drawing import draw_crops, draw_domain
from rayreid.data.synthetic.sheet import contact_sheet
from rayreid.data.synthetic.styles import NAMED_STYLES, Style, sampled_style, style_of

GENERATOR_VERSION: int = 1
"""Changes whenever a picture of the same arguments does: results name what they were drawn by."""

__all__ = [
    "GENERATOR_VERSION",
    "NAMED_STYLES",
    "Style",
    "contact_sheet",
    "draw_crops",
    "draw_domain",
    "sampled_style",
    "style_of",
]
