"""[[loss.terms]]: losses on the student's states below the head."""

from __future__ import annotations

from typing import Literal

from dskd_ds.spec.base import Fraction, Part, PositiveFloat, PositiveInt

TermKind = Literal["mse", "cosine", "gram", "sense", "posterior", "contrast"]
"""What a loss below the head compares (docs/method.md, "Terms below the head")."""
Attribution = Literal["on", "predicts"]
"""Which token a state belongs to: the one that it sits on, or the one that it predicts."""
DISTANCE_KINDS: tuple[TermKind, ...] = ("mse", "cosine")
"""Kinds that compare two states, which `smoothing` may change."""
SENSE_KINDS: tuple[TermKind, ...] = ("sense", "posterior", "contrast")
"""Kinds that need a dictionary."""
CANDIDATE_KINDS: tuple[TermKind, ...] = ("posterior", "contrast")
"""Kinds that compare a state with some senses, at every supervised position. Of the teacher's state
they need its distances from these senses, and nothing else."""


class LayerTermSpec(Part):
    """A loss on the student's state after one of its layers.

    Layers are counted by their outputs: k is the state after the k-th layer, before the final norm.
    """

    kind: TermKind
    """What the term compares with the teacher's state. `mse`: the squared error over the variance
    of that state. `cosine`: 1 - cosine. `gram`: which positions of the same token in a block are
    alike. `sense`: the paper's pull and push. `posterior`: the distribution over the token's senses
    and other senses near them, by KL. `contrast`: InfoNCE with the token's sense against others."""
    student_layer: PositiveInt
    """Number of the student's layer whose output the term reads, from 1."""
    teacher_layer: PositiveInt | None = None
    """Number of the teacher's layer whose output is the target, from 1. Without it: the layer that
    the student's layer was cut from; in front of a gap, the layer before the next kept one."""
    weight: PositiveFloat
    """Weight of the term beside cross-entropy and KL: its value is a mean over all supervised
    positions, of which those without senses count 0."""
    grad_share: PositiveFloat | None = None
    """Norm that the term's gradient shall have, as a share of the norm of the gradient of all other
    losses, both at the state that the term reads. Both are measured in every step, and the weight
    follows, by a factor of at most 1.25 per step; `weight` is then that of the first step. Without
    it, the weight is fixed."""
    decay: tuple[Fraction, Fraction] | None = None
    """Two shares of the run between which the weight (or `grad_share`) falls linearly to 0:
    `[0.67, 1.0]` is the last third. Without it, the weight does not fall."""
    dictionary: str | None = None
    """Folder of the dictionary that the term's senses come from. It must be built from the states
    of `teacher_layer` (`[senses] hidden_layer`). `kappa`, `candidates`, `num_related_words`,
    `num_neighbours` and the positions of `sense` are those of [senses]."""
    attribution: Attribution = "on"
    """Token that a state belongs to: `on`, the token that it sits on, or `predicts`, the token that
    follows. A dictionary must have been built in the same way ([senses] attribution = "on", or else
    "argmax" or "next")."""
    smoothing: Fraction = 0.0
    """Share of the target of `mse` or `cosine` that is the mean of its token's senses, weighted by
    how near the teacher's state is to each. 0: the target is the teacher's state itself."""
    temperature: PositiveFloat = 0.1
    """Temperature of `contrast` (on cosines), of `posterior` and of the weights of `smoothing` (on
    squared distances, in units of the squared distance of a typical state from its sense)."""
    shuffled_senses: bool = False
    """Give each token the senses and relations of another token, drawn with the run's seed: the
    control that shows whether it matters which senses a token has. The index then adds no sense of
    the token itself, nor one of its synonyms; other neighbours stay."""

    @property
    def needs_senses(self) -> bool:
        """Whether the term reads a dictionary."""
        return self.kind in SENSE_KINDS or self.smoothing > 0
