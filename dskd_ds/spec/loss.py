"""[loss]: the terms of the objective and their weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import NonNegativeFloat, Part, PositiveFloat, PositiveInt

Divergence = Literal["forward", "reverse", "jensen_shannon"]
"""KL(teacher || student), KL(student || teacher), or half of each to their mean (losses/divergence.py)."""
SignalName = Literal["topk", "exact", "sampled", "hidden"]


class LossSpec(Part):
    """`CE + alpha tau^2 KL + lambda SENSE` (docs/method.md, "The losses")."""

    signal: SignalName = "topk"
    """What the KL is computed from: the teacher's top k and a bucket for the rest; full logits, rebuilt on the student from hidden
    states; draws from the teacher's distribution (unbiased). `hidden`: no KL, the teacher's states serve the sense term alone."""
    divergence: Divergence = "forward"
    """Which way the KL runs. `sampled` knows only `forward`."""
    top_k: PositiveInt = 64
    """k of the top-k signal."""
    num_draws: Annotated[int, Field(gt=0, le=65_535)] = 100
    """Draws at each position, for `sampled`. 100 fall on about 31 different tokens: 99 bytes."""
    kd_weight: NonNegativeFloat = 0.7
    """alpha, the weight of the KL term (paper: 0.7)."""
    temperature: PositiveFloat = 1.0
    """tau of the KL term. Above 1 the k tokens hold little of the mass: then prefer `exact` (paper: 2)."""
    sense_weight: NonNegativeFloat = 1.0
    """lambda, the weight of the sense term (paper: 1.0 to 1.5)."""
    sense_weighting: Literal["uniform", "teacher_probability"] = "uniform"
    """Weight of a position in the sense term: 1 (paper), or the teacher's probability of the right token."""
    pull: NonNegativeFloat = 1.0
    """Weight of the pull towards S+."""
    push: NonNegativeFloat = 1.0
    """Weight of the push from S-."""
    margin: PositiveFloat = 1.0
    """Squared distance per dimension beyond which a sense in S- no longer pushes (paper: 1.0)."""
    margin_unit: Literal["absolute", "median_antonym"] = "absolute"
    """`median_antonym`: the margin counts in the dictionary's median squared distance between antonyms' senses."""
    chunk_positions: PositiveInt = 256
    """Logits exist for this many positions at a time."""
