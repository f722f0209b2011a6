"""What a request may hold, as types: its items (images, embeddings, samples) and what of them.

These types make the service's /openapi.json; `rayreid.serve.reading` makes them of bodies.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

# As bytes: a single rare character would make a text four times as large as it came.
Base64 = Annotated[bytes, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
]
"""Name of a gallery, an identity, a sample, a camera: data, never a path.

It has no control characters. Not all who read an OpenAPI file know them as ``Cc``.
"""

Pair = tuple[int, int]


class Body(BaseModel):
    """What all bodies have in common: strict about names and types."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class EmbeddingBody(Body):
    """An embedding as /v1/embed returned it."""

    fingerprint: Annotated[str, StringConstraints(max_length=64)]
    """Of the weights that made it."""
    shape: list[Annotated[int, Field(ge=1, le=2**24)]] = Field(min_length=1, max_length=8)
    data: Base64
    """Little-endian 32-bit floats in base64, the last axis fastest."""


class SampleBody(Body):
    """An enrolled sample."""

    gallery: Name
    sample: Name


class ItemsBody(Body):
    """The items of a request, numbered in this order: images, embeddings, samples."""

    model: str | None = None
    """Name of a served model; by default the first."""
    images: list[Base64] = []
    """Encoded images in base64; in a form they are its files instead."""
    embeddings: list[EmbeddingBody] = []
    samples: list[SampleBody] = []


class ImagesBody(Body):
    """The images of a request."""

    model: str | None = None
    """Name of a served model; by default the first."""
    images: list[Base64] = []
    """Encoded images in base64; in a form they are its files instead."""


class EmbedBody(ImagesBody):
    """Images to embed."""


class PairsBody(ItemsBody):
    """Pairs of items to score."""

    pairs: list[Pair]
    """Pairs of items' numbers; of a pair the first is the query."""
    false_accept_rate: float | None = Field(None, gt=0, lt=1)
    """Rate of false matches that decisions are to hold; by default the calibration's."""


class MatrixBody(ItemsBody):
    """Queries to score against a gallery, both items of this request."""

    queries: list[int]
    """Numbers of items."""
    gallery: list[int]
    """Numbers of items."""


class ExplainBody(ImagesBody):
    """Two images whose match is to be explained."""

    format: Literal["json", "png"] = "json"
    lines: int = Field(20, ge=0, le=200)
    """Most matches of places that are told, those that add most to the score first."""


def documented(kind: type[Body]) -> dict[str, Any]:
    """Return the part of an OpenAPI operation that says which bodies it takes."""
    schema = _inlined(kind.model_json_schema())
    rest = dict(schema["properties"])
    images = rest.pop("images", None)
    content = {"application/json": {"schema": schema}}
    if images is not None:
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        without = {**schema, "properties": rest}
        properties: dict[str, Any] = {
            "images": files,
            "request": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": without,
                "description": "The JSON object, without its images, as one text.",
            },
        }
        if "pairs" in rest:
            properties["pairs"] = {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": rest["pairs"],
                "description": "Instead of `request`, the pairs alone.",
                "examples": ["[[0, 1], [0, 2]]"],
            }
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": properties}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema with its definitions where they are used, as OpenAPI needs."""
    definitions = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inlined(definitions[node["$ref"].rpartition("/")[2]])
            return {key: inlined(value) for key, value in node.items()}
        return [inlined(one) for one in node] if isinstance(node, list) else node

    result: dict[str, Any] = inlined(schema)
    return result
