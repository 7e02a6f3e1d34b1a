"""Trains with KL, and with KL and one loss below the head, and measures the steps.

    python -m dskd_ds.bench.terms_loop --spec FILE.toml --output FILE.json [--set KEY=VALUE ...]

One rank, one engine. The teacher answers before the measurement. As in a run, a thread prepares the
input of the next step (it reads the replies and chooses senses) while a step computes; a measured
step ends when both have ended. The senses are those of the run's dictionary, whatever layer it
holds: their number and size decide the time, not their values.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from dskd_ds.bench.one_rank import measure_and_write
from dskd_ds.data.batches import read_batch
from dskd_ds.data.source import open_source
from dskd_ds.link.messages import Array
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import RunModels
from dskd_ds.runtime.launchers import read_launch
from dskd_ds.runtime.topology import assign
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.senses.choose.open import open_retriever
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.signals.reply import ReplyParts
from dskd_ds.spec import RunSpec
from dskd_ds.spec.terms import LayerTermSpec
from dskd_ds.student.counts import Counts
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.depth import student_init
from dskd_ds.student.engine import make_engine, take_step
from dskd_ds.student.replies.feed import MicroBatch, StepInput
from dskd_ds.student.replies.requests import RequestBuilder, TeacherRequest
from dskd_ds.student.terms.layers import LayerTerm, default_teacher_layer, kept_layers_of
from dskd_ds.student.terms.losses import TermLosses
from dskd_ds.teacher.answer import answer

KINDS: Mapping[str, Mapping[str, Any]] = {
    "mse": {},
    "cosine": {},
    "gram": {},
    "sense": {},
    "posterior": {},
    "contrast": {},
    "smoothed_cosine": {"kind": "cosine", "smoothing": 0.5},
}
"""Name of a figure -> settings of its term; the kind, unless given, is the name."""
WARM_UP_ROUNDS = 1


@dataclass
class Variant:
    """One setting of the loss, with a step's requests and their replies."""

    losses: TermLosses
    builder: RequestBuilder
    answered: list[tuple[TeacherRequest, ReplyParts]]

    def prepare(self) -> StepInput:
        """Do what the background thread of a run does for a step (student/replies/feed.py)."""
        prepared = []
        for request, reply in self.answered:
            teacher, senses = self.builder.targets(request, reply)
            batch = request.batch
            prepared.append(MicroBatch(batch.input_ids, batch.position_ids, teacher, senses))
        return StepInput(prepared, teacher_wait_seconds=0, sense_wait_seconds=0, link_bytes=0)


class Steps:
    """Takes steps of one engine with different losses."""

    def __init__(self, spec: RunSpec, engine: Engine) -> None:
        self._spec, self._engine = spec, engine
        self._thread = ThreadPoolExecutor(1)

    def timed(self, variant: Variant, step_input: StepInput) -> tuple[float, float]:
        """Return the seconds of a step and of the preparation of the next one beside it."""
        student: Any = self._engine.module
        student.term_losses = variant.losses
        tokens = sum(len(batch.teacher.positions) for batch in step_input.micro_batches)
        started = time.perf_counter()
        prepared = self._thread.submit(_timed_preparation, variant)
        take_step(self._spec, self._engine, step_input, Counts(tokens, 0))
        prepare_seconds = prepared.result()
        return time.perf_counter() - started, prepare_seconds


def _timed_preparation(variant: Variant) -> float:
    started = time.perf_counter()
    variant.prepare()
    return time.perf_counter() - started


def measure(spec: RunSpec, rounds: int) -> dict[str, Any]:
    """Return the seconds of all steps: of each kind, and of KL alone just before."""
    with ExitStack() as cleanup:
        retriever = open_retriever(spec, assign(read_launch(os.environ), spec.topology), cleanup)
        return measure_with(retriever, spec, rounds)


def measure_with(retriever: SenseRetriever, spec: RunSpec, rounds: int) -> dict[str, Any]:
    """Return what `measure` does. retriever: of the run's dictionary."""
    models = RunModels.of(spec)
    engine = make_engine(spec, models, student_init(spec, models), None)
    kept = kept_layers_of(spec, models)
    layer = layer_above_a_cut(kept)
    target = default_teacher_layer(kept, layer, models.teacher.num_layers)
    variants = _variants(spec, models, retriever, (layer, target))
    inputs = {name: variant.prepare() for name, variant in variants.items()}
    steps = Steps(spec, engine)
    names = [name for name in variants if name != "kl"]
    found: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "kl_seconds": [], "prepare_seconds": []} for name in names
    }
    for index in range(WARM_UP_ROUNDS + rounds):
        for name in names:
            alone, _ = steps.timed(variants["kl"], inputs["kl"])
            seconds, prepare_seconds = steps.timed(variants[name], inputs[name])
            if index >= WARM_UP_ROUNDS:
                found[name]["kl_seconds"].append(alone)
                found[name]["seconds"].append(seconds)
                found[name]["prepare_seconds"].append(prepare_seconds)
    return {"kinds": found, "student_layer": layer, "num_tokens": inputs["kl"].num_tokens}


def layer_above_a_cut(kept: Sequence[int]) -> int:
    """Return the number of the last of the student's layers in front of a gap, else its middle."""
    gaps = [index for index in range(1, len(kept)) if kept[index] != kept[index - 1] + 1]
    return gaps[-1] if gaps else max(1, len(kept) // 2)


def _variants(
    spec: RunSpec, models: RunModels, retriever: SenseRetriever, layers: tuple[int, int]
) -> dict[str, Variant]:
    """Return each setting with the teacher's replies to it.

    layers: the student's, and the teacher's that it is compared with.
    """
    teacher = load_frozen(models.teacher, vocab_size=models.shared_vocab_size)
    settings: dict[str, Sequence[LayerTermSpec]] = {"kl": ()}
    for name, values in KINDS.items():
        term = {"kind": name, "student_layer": layers[0], "weight": 0.1, **values}
        settings[name] = (LayerTermSpec.model_validate(term),)
    variants = {}
    for name, terms in settings.items():
        of_layers = [LayerTerm(term, layers[1]) for term in terms]
        found = [
            TermRetriever(retriever, term, margin=1.0) if term.needs_senses else None
            for term in terms
        ]
        builder = RequestBuilder(
            spec,
            None,
            models.shared_vocab_size,
            models.teacher.hidden_size,
            terms=of_layers,
            term_retrievers=found,
        )
        answered = _answered(spec, models, builder, teacher)
        variants[name] = Variant(TermLosses(of_layers), builder, answered)
    return variants


def _answered(
    spec: RunSpec, models: RunModels, builder: RequestBuilder, teacher: FrozenModel
) -> list[tuple[TeacherRequest, ReplyParts]]:
    """Return the requests of the first step, and the teacher's replies."""
    blocks = spec.train.global_batch_blocks
    source = open_source(spec.data, models.teacher.tokenizer, seed=spec.seed, step_blocks=blocks)
    size = blocks // spec.num_accumulation_steps
    answered = []
    for start in range(0, blocks, size):
        request = builder.request(read_batch(source, range(start, start + size)))
        arrays: dict[str, Array] = answer(teacher, request.arrays, request.wanted)
        answered.append((request, builder.parts(request, arrays)))
    return answered


if __name__ == "__main__":
    measure_and_write(__doc__, measure)
