"""The base class of every section of a run spec, and number types with ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class OnResume:
    """Marks a field or a section, in `Annotated`: may it differ when a run is resumed?"""

    may_change: bool
    effect: str = ""
    """What a changed value does to the results; it is printed as a warning."""


MAY_CHANGE = OnResume(may_change=True)
"""For settings that do not decide what is trained. Without a mark, a setting must stay."""
OTHER_ROUNDING = OnResume(
    may_change=True, effect="sums round differently, so results are not equal bit for bit"
)
"""For settings that decide how the work is split, but not what is computed."""
MUST_STAY = OnResume(may_change=False)
"""For a field that must stay although its section may change."""

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
"""Number format of a model.

`auto` is bfloat16 on a GPU and on a CPU with bf16 instructions, and float32 elsewhere (bf16 is
several times slower on such CPUs). `float16` is for GPUs without bf16 (V100, T4): the student is
then trained with DeepSpeed's dynamic loss scale, and steps that overflow are skipped.
"""


class Part(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )
