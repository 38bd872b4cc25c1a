"""What a row of the catalogue must look like: for tests and for files of your own, off the way of a plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vram_planner.errors import CatalogueError
from vram_planner.hardware_profiles.rows import gpu_from_row

if TYPE_CHECKING:
    from pathlib import Path

    from vram_planner.hardware_profiles.gpu import Gpu

Bytes = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
Dtype = Literal["fp32", "fp16", "bf16", "fp8", "int8", "fp4"]
MonthOrYear = Annotated[str, Field(pattern=r"^20[0-9]{2}(-(0[1-9]|1[0-2]))?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PriceRow(_Strict):
    """US dollars for an hour of one card, or for the card: never without who asked it and when."""

    seller: Text
    date: MonthOrYear
    low: Rate
    high: Rate
    source: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class GpuRow(_Strict):
    """One product. A misspelt key, a missing source or a size that cannot be is refused."""

    name: Text
    aliases: list[Text] = []
    device_names: list[Text] = []
    vendor: Text
    architecture: Text
    compute_capability: str | None = None
    memory_kind: Literal["hbm", "gddr", "gddr-ecc", "unified"] | None = None
    nameplate_bytes: Bytes
    reported_bytes: Bytes | None = None
    torch_total_bytes: Bytes | None = None
    multiprocessors: Annotated[int, Field(gt=0)] | None = None
    bandwidth_bytes_per_s: Bytes | None = None
    dense_tflops: dict[Dtype, Rate] = {}
    measured_gemm_tflops: dict[Dtype, Rate] = {}
    unsupported: list[Dtype] = []
    link_bytes_per_s: Annotated[int, Field(ge=0)] | None = None
    node_gpus: Annotated[int, Field(gt=0)] | None = None
    pcie: Annotated[str, Field(pattern=r"^[3-6]\.0 x(1|2|4|8|16)$")] | None = None
    tdp_w: Annotated[int, Field(gt=0)] | None = None
    msrp_usd: Annotated[int, Field(gt=0)] | None = None
    prices: list[PriceRow] = []
    purchases: list[PriceRow] = []
    release: MonthOrYear | None = None
    source: Annotated[list[Text], Field(min_length=1)]
    date: MonthOrYear
    verified_fields: list[Text] = []
    conflicts: list[Text] = []
    confidence: Literal["high", "medium", "low", "unverified"] = "unverified"
    notes: str = ""

    @model_validator(mode="after")
    def _sizes_are_ordered(self) -> Self:
        """What is seen is never more than what is reported, and that never more than what is sold."""
        sizes = [self.torch_total_bytes, self.reported_bytes, self.nameplate_bytes]
        known = [size for size in sizes if size is not None]
        if known != sorted(known):
            raise ValueError("torch_total_bytes ≤ reported_bytes ≤ nameplate_bytes does not hold")
        return self

    @model_validator(mode="after")
    def _no_rate_for_what_is_unsupported(self) -> Self:
        both = set(self.dense_tflops) & set(self.unsupported)
        if both:
            raise ValueError(f"both a rate and unsupported: {', '.join(sorted(both))}")
        return self

    @model_validator(mode="after")
    def _verified_fields_exist(self) -> Self:
        for field in self.verified_fields:
            head, _, dtype = field.partition(".")
            if head not in type(self).model_fields or (dtype and dtype not in self.dense_tflops):
                raise ValueError(f"verified_fields names {field!r}, which this row has not")
        return self


def check_row(line: str, *, where: str) -> GpuRow:
    """One line of a catalogue as a checked row."""
    try:
        return GpuRow.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the row"
        raise CatalogueError(
            f"{where}: {field}: {first['msg']}", hint="docs/how-to/add-a-gpu.md lists the fields"
        ) from error


def gpus_from_file(path: Path) -> tuple[Gpu, ...]:
    """The cards of a file of your own, in the catalogue's format: one JSON object a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(
            f"cannot read {path}: {error}", hint="one JSON object a line, in UTF-8"
        ) from error
    checked = [
        check_row(line, where=f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    return tuple(gpu_from_row(json.loads(row.model_dump_json())) for row in checked)
