"""[optimizer], [train], [checkpoint], [monitor], [eval]: how a run goes, and what is kept of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dskd_ds.spec.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
)

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Weight of the past in a running mean."""


class OptimizerSpec(Part):
    """AdamW and its schedule. These settings are written into the DeepSpeed configuration."""

    lr: PositiveFloat = 2e-4
    """Peak learning rate."""
    scale_lr_by_ranks: bool = False
    """Multiply `lr` by the number of student ranks (paper)."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's betas."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: NonNegativeFloat = 1e-3
    """AdamW's weight decay (paper: 1e-3)."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps in which the rate rises linearly; it then falls along a cosine."""
    min_lr_fraction: Fraction = 0.0
    """Where the cosine ends, as a share of `lr`."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Global gradient norm is clipped to this; 0 turns clipping off."""


class TrainSpec(Part):
    """How long, and how much at a time. Batches are global: they do not depend on the number of ranks."""

    num_steps: PositiveInt | None = None
    """Optimiser steps; or give `num_epochs`."""
    num_epochs: PositiveFloat | None = None
    """Passes over the data; or give `num_steps`."""
    global_batch_blocks: PositiveInt
    """Blocks in an optimiser step, over all ranks and accumulation steps."""
    micro_batch_blocks: PositiveInt = 1
    """Blocks in one forward of one rank. The number of accumulation steps follows."""
    on_policy_fraction: Fraction = 0.0
    """Share of the steps, evenly spread, that train on the student's own continuations, scored by the teacher (GKD's lambda)."""
    on_policy_prompt_tokens: PositiveInt = 64
    """How much of a text the student is given; of a chat's prompt (where only completions are targets) at most its end of this length."""
    on_policy_new_tokens: PositiveInt = 64
    """At most this many tokens are written after each beginning; only they are targets."""
    on_policy_temperature: NonNegativeFloat = 1.0
    """Temperature they are drawn at; 0: the likeliest token each time."""


class CheckpointSpec(Part):
    """Saving and resuming."""

    every_steps: NonNegativeInt = 0
    """Save each time this many steps are done; 0: only at the end."""
    keep: PositiveInt = 2
    """How many checkpoints to keep."""


class MonitorSpec(Part):
    """What is written down while training."""

    tensorboard: bool = True
    """Write TensorBoard event files."""
    log_every_steps: PositiveInt = 1
    """A line of metrics.jsonl each this many steps, and one for the last step."""


class EvalSpec(Part):
    """What `dskd eval` and the report measure."""

    num_tokens: PositiveInt = 16_384
    """Held-out tokens for perplexity and KL."""
    num_samples: NonNegativeInt = 3
    """Held-out beginnings that teacher and students continue, for reading."""
    sample_tokens: PositiveInt = 40
    """Length of each continuation."""
