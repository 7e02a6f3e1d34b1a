"""What every section of a run spec is made of: number types with ranges, and the strict base class."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
"""`auto`: bfloat16 on a GPU or on a CPU with bf16 instructions, float32 elsewhere (there bf16 is several times slower). `float16` is
for GPUs without bf16 (V100, T4): a student is then trained with DeepSpeed's dynamic loss scale, and steps that overflow are skipped."""


class Part(BaseModel):
    """Base of all sections: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )
