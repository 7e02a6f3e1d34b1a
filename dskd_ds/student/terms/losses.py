"""The losses below the head of one student: their values, weights and measured gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import deepspeed
import torch
from torch import Tensor, nn

from dskd_ds.observe.charts import TERM_COSINE, TERM_LOSS, TERM_PEAKED, TERM_SHARE, TERM_WEIGHT
from dskd_ds.student.counts import Counts
from dskd_ds.student.terms.gradients import GradientMeasure, TermGradients, measures_of
from dskd_ds.student.terms.layers import LayerTerm, student_layers_of
from dskd_ds.student.terms.values import TermBatch, peaked_counts, read_states, term_sums
from dskd_ds.student.terms.weights import TermWeights


class TermLosses(nn.Module):
    """What [[loss.terms]] add to the loss; a module because its maps are trained."""

    def __init__(self, terms: Sequence[LayerTerm] = (), maps: nn.ModuleDict | None = None) -> None:
        """maps: of the terms that need one (terms/maps.py)."""
        super().__init__()
        self.terms = tuple(terms)
        self.maps = nn.ModuleDict() if maps is None else maps
        self.weights = TermWeights([term.spec for term in terms])
        self.loss_names = tuple(term.key(TERM_LOSS) for term in terms)
        self.peaked_names = tuple(
            term.key(TERM_PEAKED) for term in terms if term.spec.kind == "posterior"
        )
        self.stat_names = (*self.loss_names, *self.peaked_names)
        self.student_layers = student_layers_of(self.terms)
        self._gradients = TermGradients(len(terms))
        self._measures: list[GradientMeasure] = []

    def add_up(
        self, captured: Mapping[int, Tensor], batch: TermBatch, share_done: float
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of all terms over the positions, and the sums of `stat_names`.

        captured: the student's states [B, T, D] of `student_layers`. share_done: share of the run
        before this step. The coming backward pass measures the terms' gradients.
        """
        positions = batch.teacher.positions
        read = read_states(self.terms, captured, positions)
        sums = term_sums(self.terms, self._mapped(read), batch)
        for layer, state in captured.items():
            at_layer = {
                index: states
                for index, states in enumerate(read)
                if self.terms[index].spec.student_layer == layer
            }
            self._gradients.watch(state, positions, at_layer)
        weights = sums.new_tensor(self.weights.begin_step(share_done))
        peaked = peaked_counts(self.terms, batch)
        return (weights * sums).sum(), torch.cat([sums.detach(), peaked.to(sums)])

    def _mapped(self, read: Sequence[Tensor]) -> list[Tensor]:
        """Return the states [N, D] that each term reads in the space of its target."""
        mapped = list(read)
        for index, term_map in self.maps.items():
            mapped[int(index)] = term_map(read[int(index)])
        return mapped

    def record(self, total: Mapping[str, float], counts: Counts) -> tuple[float, dict[str, float]]:
        """Return the terms' part of a step's loss, and their keys in metrics.jsonl.

        total: sums over all ranks, by their names in `stat_names`.
        """
        num_tokens = max(counts.tokens, 1)
        losses = [total[name] / num_tokens for name in self.loss_names]
        weights = self.weights.in_step
        weighted = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        keys = {
            **self._by_term(TERM_LOSS, losses),
            **self._by_term(TERM_WEIGHT, weights),
            **self._by_term(TERM_SHARE, [measure.share for measure in self._measures]),
            **self._by_term(TERM_COSINE, [measure.cosine for measure in self._measures]),
            **{name: total[name] / num_tokens for name in self.peaked_names},
        }
        return weighted, keys

    def _by_term(self, beginning: str, values: Sequence[float]) -> dict[str, float]:
        """Return a value of each term by its key in metrics.jsonl; nothing if there are none."""
        return {term.key(beginning): value for term, value in zip(self.terms, values, strict=False)}

    def all_reduce_gradient_measures(self, device: torch.device) -> None:
        """Compare each term's gradient with that of all other losses. A collective call.

        Terms with a `grad_share` get their weights of the next step from it.
        """
        if not self.terms:
            return
        sums = self._gradients.take(device)
        deepspeed.comm.all_reduce(sums)
        self._measures = measures_of(sums)
        self.weights.follow([measure.share for measure in self._measures])
