"""[optimizer], [train], [checkpoint], [monitor], [eval]: how a run trains and what it writes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dskd_ds.spec.base import (
    MAY_CHANGE,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OnResume,
    Part,
    PositiveFloat,
    PositiveInt,
)

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Weight of the past in a running mean."""


OTHER_SKIPS = OnResume(may_change=True, effect="from now on, other steps may be skipped")


class OptimizerSpec(Part):
    """AdamW and its schedule. These settings are written into the DeepSpeed configuration."""

    lr: PositiveFloat = 2e-4
    """Peak learning rate."""
    scale_lr_by_ranks: bool = False
    """Multiply `lr` by the number of student ranks (paper)."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's betas: the weights of the past in the means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: NonNegativeFloat = 1e-3
    """AdamW's weight decay (paper: 1e-3)."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps in which the learning rate rises linearly; it then falls along a
    cosine."""
    min_lr_fraction: Fraction = 0.0
    """Learning rate at the end of the cosine, as a share of `lr`."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Maximum global gradient norm; a larger gradient is clipped. 0 turns clipping off."""


class TrainSpec(Part):
    """Length of the run and size of its batches. Batches do not depend on the number of ranks."""

    num_steps: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Number of optimiser steps; or give `num_epochs`."""
    num_epochs: Annotated[PositiveFloat | None, MAY_CHANGE] = None
    """Number of passes over the data; or give `num_steps`."""
    global_batch_blocks: PositiveInt
    """Blocks per optimiser step (rows, with [data] packing = "none"), summed over all ranks and
    accumulation steps."""
    micro_batch_blocks: PositiveInt = 1
    """Blocks per forward pass of one rank (rows, with [data] packing = "none"). The number of
    accumulation steps follows from it."""
    on_policy_fraction: Fraction = 0.0
    """Share of the steps, evenly spread, that train on the student's own continuations, scored by
    the teacher (GKD's lambda)."""
    on_policy_prompt_tokens: PositiveInt = 64
    """Prompt length of on-policy steps: the tokens of a text that the student continues. Of a chat
    with supervise = "completions", at most this many of the prompt's last tokens."""
    on_policy_new_tokens: PositiveInt = 64
    """Maximum number of tokens that the student writes after each prompt in on-policy steps. Only
    they are targets."""
    on_policy_temperature: NonNegativeFloat = 1.0
    """Sampling temperature of the student's continuations in on-policy steps; 0 takes the likeliest
    token each time."""

    skip_loss_spikes: Annotated[NonNegativeFloat, OTHER_SKIPS] = 0.0
    """Skip a step whose loss is more than this many standard deviations above the mean of the last
    `spike_window_steps` losses (6 is common); 0 turns this off. Steps whose loss or gradients are
    not finite are always skipped."""
    spike_window_steps: Annotated[int, Field(ge=8), OTHER_SKIPS] = 128
    """Number of steps whose losses decide whether the next loss is a spike. No step is a spike
    before so many are done."""
    rollback_after_skips: Annotated[NonNegativeInt, MAY_CHANGE] = 10
    """Number of steps skipped in a row after which weights and optimiser go back to an earlier
    checkpoint, while the data go on; 0 turns this off. The run ends if there is no earlier
    checkpoint, or if three rollbacks do not help."""

    hang_seconds: Annotated[NonNegativeFloat, MAY_CHANGE] = 1800.0
    """How long a student rank may stay in one phase of its work (forward, backward, a collective
    call, a save) before it counts as stuck: it prints the stacks of its threads and ends the run
    with exit code 1. Twenty median steps are allowed in any case. 0 turns this off."""
    stop_grace_seconds: Annotated[NonNegativeFloat, MAY_CHANGE] = 120.0
    """How long a student rank may stay in one phase of its work after SIGTERM or SIGUSR1, except
    while it saves: then it counts as stuck, prints the stacks of its threads and ends the run with
    exit code 1. Twenty median steps are allowed in any case. 0 turns this off."""


class CheckpointSpec(Part):
    """Saving and resuming."""

    every_steps: NonNegativeInt = 0
    """Save a checkpoint each time this many steps are done; 0 turns this off. The end of a run is
    always saved."""
    every_minutes: NonNegativeFloat = 15.0
    """Save a checkpoint when the last one, or the start of training, is this many minutes ago, by
    the clock of student 0; 0 turns this off."""
    keep: PositiveInt = 2
    """Number of checkpoints to keep; older ones are deleted."""
    keep_best: bool = False
    """Measure the loss on held-out text before each save, and keep the checkpoint with the lowest
    one besides the newest `keep`. [monitor] heldout_tokens says how much text is measured.
    `dskd export SPEC --tag best` writes its student."""
    asynchronous: bool = False
    """Write checkpoints in a thread while training goes on, from a copy in host memory (12 bytes
    per parameter, divided by the number of students). The last save of a run is synchronous."""


class MonitorSpec(Part):
    """What is recorded during training."""

    tensorboard: bool = True
    """Write TensorBoard event files."""
    log_every_steps: PositiveInt = 1
    """Write a line of metrics.jsonl every this many steps, and one for the last step."""
    heldout_every_steps: NonNegativeInt = 0
    """Measure the student's cross-entropy on held-out text each time this many steps are done; 0
    turns this off. [checkpoint] keep_best measures it before each save too."""
    heldout_tokens: PositiveInt = 8_192
    """Number of held-out tokens whose cross-entropy is measured during training: blocks that are
    evenly spread over the held-out text, the same ones each time."""


class EvalSpec(Part):
    """What `dskd eval` and the report measure."""

    num_tokens: PositiveInt = 16_384
    """Number of held-out tokens for perplexity and KL."""
    num_samples: NonNegativeInt = 3
    """Number of held-out texts that teacher and students continue, for reading."""
    sample_tokens: PositiveInt = 40
    """Length of each sample continuation in tokens."""
