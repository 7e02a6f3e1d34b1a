"""[loss]: the terms of the objective and their weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import NonNegativeFloat, Part, PositiveFloat, PositiveInt
from dskd_ds.spec.terms import LayerTermSpec

Divergence = Literal["forward", "reverse", "jensen_shannon"]
"""KL(teacher || student), KL(student || teacher), or the mean of each one's KL to their average
(losses/divergence.py)."""
SignalName = Literal["topk", "exact", "sampled", "hidden"]
"""What the teacher sends for the KL term."""


class LossSpec(Part):
    """`ce_weight CE + alpha tau^2 KL + lambda SENSE` (docs/method.md, "The losses")."""

    signal: SignalName = "topk"
    """What the KL term is computed from. `topk`: the teacher's k likeliest tokens and one bucket
    for the rest. `exact`: full logits, rebuilt on the student from hidden states. `sampled`: draws
    from the teacher's distribution (unbiased). `hidden`: no KL; the teacher's hidden states are
    used by the sense term only."""
    divergence: Divergence = "forward"
    """Direction of the KL: `forward` is KL(teacher || student), `reverse` is KL(student ||
    teacher), `jensen_shannon` is half of each distribution's KL to their mean. signal = "sampled"
    allows only `forward`."""
    top_k: PositiveInt = 64
    """Number of tokens that the teacher sends per position, for signal = "topk"."""
    num_draws: Annotated[int, Field(gt=0, le=65_535)] = 100
    """Draws per position, for signal = "sampled". 100 draws hit about 31 different tokens: 99
    bytes."""
    ce_weight: NonNegativeFloat = 1.0
    """Weight of the cross-entropy with the text's own next token (paper: 1). 0 leaves it out: the
    student then learns from the teacher alone."""
    kd_weight: NonNegativeFloat = 0.7
    """alpha, the weight of the KL term (paper: 0.7)."""
    temperature: PositiveFloat = 1.0
    """tau, the temperature of the KL term (paper: 2). Above 1 the top k tokens hold little of the
    probability: use signal = "exact" there."""
    sense_weight: NonNegativeFloat = 1.0
    """lambda, the weight of the sense term (paper: 1.0 to 1.5)."""
    sense_weighting: Literal["uniform", "teacher_probability"] = "uniform"
    """Weight of each position in the sense term. `uniform`: 1 (paper). `teacher_probability`: the
    teacher's probability of the right token."""
    shuffled_senses: bool = False
    """Give each token the senses and relations of another token in the sense term, drawn with the
    run's seed: the control that shows whether it matters which senses a token has. The index then
    adds no sense of the token itself, nor one of its synonyms; other neighbours stay."""
    pull: NonNegativeFloat = 1.0
    """Weight of the pull towards S+, the senses of the right token and its synonyms."""
    push: NonNegativeFloat = 1.0
    """Weight of the push away from S-, the senses of the right token's antonyms."""
    margin: PositiveFloat = 1.0
    """Squared distance per dimension beyond which a sense in S- no longer pushes (paper: 1.0)."""
    margin_unit: Literal["absolute", "median_antonym"] = "absolute"
    """Unit of `margin`. `absolute`: squared distance per dimension. `median_antonym`: multiples of
    the dictionary's median squared distance between senses of antonyms."""
    normalise: Literal["global", "sequence"] = "global"
    """What a term of the loss is the mean of. `global`: of all positions of a step. `sequence`: of
    the means of the step's sequences, so that a short sequence weighs as much as a long one
    (paper); it needs [data] packing = "none"."""
    terms: tuple[LayerTermSpec, ...] = ()
    """Losses on states below the head, as [[loss.terms]]. If the student has another hidden size, a
    trained map takes its states into the teacher's space."""
    chunk_positions: PositiveInt = 256
    """Positions whose logits exist at the same time: less takes less memory."""
