"""Measures what hidden states lose on the wire in float8, on the quickstart's model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dskd_ds.bench.measure import Figure
from dskd_ds.bench.real_text import ROWS, TeacherOnText, teacher_on_text
from dskd_ds.losses.sense import sense_loss
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.index.graph import knn, load_graph, load_projection
from dskd_ds.signals.parts.states import pack_hidden, unpack_hidden
from dskd_ds.spec.processes import HiddenFormat


def as_received(states: Tensor, hidden_format: HiddenFormat) -> Tensor:
    """Return states [P, D] as a student receives them, in float32."""
    return unpack_hidden(*pack_hidden(states, hidden_format), hidden_format).float()


@torch.inference_mode()
def bench_kl_error() -> list[Figure]:
    """Return the KL divergence from the teacher to a teacher whose head reads received states."""
    text = teacher_on_text()
    float8 = kl_to_received(text, "float8")
    bfloat16 = kl_to_received(text, "bfloat16")  # only for comparison
    return [
        Figure(
            key="fp8_kl_error",
            what="KL(teacher, teacher rebuilt by its head from float8 states) at tau 1, nats",
            value=float(float8.mean()),
            target=0.005,
            better="lower",
            notes={
                "worst position": f"{float(float8.max()):.3g}",
                "positions": len(float8),
                "same with bfloat16 states": f"{float(bfloat16.mean()):.3g}",
            },
        )
    ]


def kl_to_received(text: TeacherOnText, hidden_format: HiddenFormat) -> Tensor:
    """Return the KL divergence [N], in nats, at each supervised position."""
    values = []
    for sent in text.supervised.split(ROWS):
        received = as_received(sent, hidden_format)
        log_p, log_q = (
            torch.log_softmax(text.teacher.logits(states).float(), dim=1)
            for states in (sent, received)
        )
        values.append((log_p.exp() * (log_p - log_q)).sum(dim=1))
    return torch.cat(values)


@torch.inference_mode()
def bench_sense_error() -> list[Figure]:
    """Return the relative error of the sense term if received states choose the senses.

    The student's states are the teacher's: distances are then smallest, so wrong senses weigh most.
    """
    text = teacher_on_text()
    dictionary = open_dictionary(text.spec.senses.dictionary, verify=False)
    retriever = SenseRetriever(
        dictionary=dictionary,
        spec=text.spec.senses,
        loss=text.spec.loss,
        seed=0,
        projection=load_projection(dictionary),
        search=partial(knn, load_graph(dictionary)),
    )
    selection = retriever.select(text.batch)
    exact = text.states[torch.from_numpy(selection.positions)]
    top_k = text.top_k(exact)
    # The quickstart's margin is in units of this distance ([loss] margin_unit).
    margin = text.spec.loss.margin * float(dictionary.facts["median_antonym_distance"] or 1.0)

    def sense_term(states: Tensor) -> float:
        targets = retriever.targets(selection, states, top_k, 0)
        return float(sense_loss(exact, targets, text.spec.loss, margin).loss)

    value = sense_term(exact)
    float8 = abs(sense_term(as_received(exact, "float8")) / value - 1)
    bfloat16 = abs(sense_term(as_received(exact, "bfloat16")) / value - 1)
    return [
        Figure(
            key="fp8_sense_error",
            what="relative error of the sense term if float8 states choose its senses",
            value=float8,
            target=0.005,
            better="lower",
            notes={
                "sense positions": len(selection),
                "same with bfloat16 states": f"{bfloat16:.2g}",
            },
        )
    ]


BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "fp8_kl": bench_kl_error,
    "fp8_sense": bench_sense_error,
}
