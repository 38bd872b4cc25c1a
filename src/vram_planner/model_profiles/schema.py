"""What a row of a model catalogue must look like. Used where rows are written or checked, never to resolve a name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Provenance = Literal[
    "verbatim",  # the model's own config.json, read
    "from package",  # read in a package that carries the figures
    "reconstructed from stated facts",
    "recalled, no source read",
    "copy of a sibling",  # the same architecture by all we know, yet not read
]
# One of the two last, whose sizes, heads, biases, windows and tied tables were found again in a public source.
Verified = Annotated[str, Field(pattern=r"^verified against \S.*$")]


class CatalogueRow(BaseModel):
    """
    One model. `parameters_meta_device` is the count of transformers' own module, None where it has none.

    `basis` says what stands behind a row that is not verbatim; `parameters_published` and `note` tell of a
    published total that differs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
    source: str = Field(min_length=1)
    provenance: Provenance | Verified
    parameters_meta_device: int | None = Field(gt=0)
    parameters_published: int | None = Field(default=None, gt=0)
    basis: str | None = None
    note: str | None = None
    config: dict[str, Any]


class OwnRow(CatalogueRow):
    """A row of a user's own catalogue: without an organisation where it has none; its source still has to be named."""

    model: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$", max_length=200)
    provenance: Provenance | Verified | Literal["own catalogue"] = "own catalogue"
    parameters_meta_device: int | None = Field(default=None, gt=0)
