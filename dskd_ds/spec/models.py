"""[teacher], [student]: which models, and what the student keeps of its teacher. Each field's docstring is its documentation."""

from __future__ import annotations

from typing import Literal

from dskd_ds.spec.base import Dtype, NonNegativeInt, Part, PositiveInt


class TeacherSpec(Part):
    """The frozen model that is distilled."""

    model: str
    """Hub name, folder of safetensors, or a `.gguf` file. `~` and `$VARIABLES` are expanded; `$DSKD_HOME` has a default."""
    dtype: Dtype = "auto"
    """Number format of the teacher's weights and forward pass."""
    compile: bool = False
    """Have `torch.compile` fuse what each layer does between its matrix products; pays for long runs. On a CPU it needs g++."""


class StudentSpec(Part):
    """The model that learns: some layers of the teacher, or a model of its own with the teacher's tokenizer."""

    model: str | None = None
    """Hub name or folder; left out, the student is cut from the teacher."""
    layers: Literal["all", "first", "list", "by_impact"] = "all"
    """Which layers to keep: all, the first `num_layers` (paper), `keep_layers`, or the `num_layers` hardest to do without."""
    num_layers: PositiveInt | None = None
    """How many layers to keep, for `first` and `by_impact`."""
    keep_layers: tuple[NonNegativeInt, ...] = ()
    """The layers to keep, for `list`, in ascending order."""
    impact_tokens: PositiveInt = 512
    """How many held-in tokens `by_impact` measures each layer's removal on."""
    train_last_layers: PositiveInt | None = None
    """Train only the last this-many layers, everything else frozen (paper: 2); left out, everything is trained."""
    dtype: Dtype = "auto"
    """Number format of the student's forward and backward; master weights and Adam's moments are float32 in any case."""
    activation_checkpointing: bool = False
    """Keep only each layer's input and compute the rest again in backward: less memory, about a third more time."""
    compile: bool = False
    """The same for the student: less time and less memory a step, once the first step has compiled."""
