"""What the wire costs and what it loses: bytes a token from the real codec, and errors of float8 states, on the quickstart's real model.

Needs the quickstart's teacher, texts and dictionary (`make quickstart` brings all three).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from dskd_ds.bench.measure import Figure
from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.data.blocks import heldout_blocks
from dskd_ds.link import codec
from dskd_ds.link.messages import Reply, Request, SensesWanted, Wanted
from dskd_ds.losses.distributions import TopK
from dskd_ds.losses.sense import sense_loss
from dskd_ds.models.frozen import TeacherModel, load_teacher
from dskd_ds.models.named import NamedModel
from dskd_ds.plan.traffic import SignalBytes, signal_bytes
from dskd_ds.senses.choose.retrieve import Selection, SenseRetriever
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.index.graph import knn, load_graph, load_projection
from dskd_ds.signals.kind import signal_kind
from dskd_ds.signals.parts.chosen import Chosen
from dskd_ds.signals.parts.chunks import concatenate
from dskd_ds.signals.parts.draws import Draws, take_draws
from dskd_ds.signals.parts.states import pack_hidden, unpack_hidden
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.signals.reply import ReplyParts, reply_arrays
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.processes import HiddenFormat
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.student.requests import selection_arrays
from dskd_ds.teacher.answer import CACHE_ROWS

QUICKSTART = "ds_configs/runs/quickstart.toml"
NUM_POSITIONS = 2048
ROWS = 128
LARGE_VOCABULARY, LARGE_HIDDEN = 128_256, 4096
"""Llama-3-8B's."""
LARGE_ROWS = 10 * LARGE_VOCABULARY
"""Of a dictionary of it, ten senses a token."""


@dataclass(frozen=True)
class Real:
    """The quickstart's teacher on held-out text."""

    spec: RunSpec
    teacher: TeacherModel
    batch: Batch
    states: Tensor
    """[B * T, D] float32"""

    @property
    def supervised(self) -> Tensor:
        """[N, D] states at positions with a target."""
        return self.states[self.batch.supervised]


@lru_cache(maxsize=1)
def real() -> Real:
    """Once for all figures."""
    spec = load_spec(QUICKSTART)
    named = NamedModel(spec.teacher.model, dtype="float32", compiled=spec.teacher.compile)
    teacher = load_teacher(named, torch.device("cpu"))
    blocks = heldout_blocks(spec.data, named.tokenizer)
    number = NUM_POSITIONS // spec.data.block_tokens
    batch = make_batch(
        [blocks[i * (len(blocks) // number)] for i in range(number)],
        [Sample(0, i) for i in range(number)],
    )
    states = torch.cat(
        [
            teacher.hidden_states(ids[None], positions[None])[0].float()
            for ids, positions in zip(batch.input_ids, batch.position_ids, strict=True)
        ]
    )
    return Real(spec, teacher, batch, states)


def as_received(states: Tensor, hidden_format: HiddenFormat) -> Tensor:
    """States [P, D] after their journey, float32."""
    return unpack_hidden(*pack_hidden(states, hidden_format), hidden_format).float()


@torch.inference_mode()
def kl_error() -> list[Figure]:
    """KL of the teacher to the teacher whose head reads received states."""
    made = real()
    kl: dict[HiddenFormat, Tensor] = {
        "float8": kl_to_received(made, "float8"),
        "bfloat16": kl_to_received(made, "bfloat16"),
    }
    return [
        Figure(
            "fp8_kl_error",
            "KL(teacher, teacher rebuilt from float8 states by its head) at tau 1, nats",
            float(kl["float8"].mean()),
            0.005,
            "lower",
            {
                "worst position": f"{float(kl['float8'].max()):.3g}",
                "positions": len(kl["float8"]),
                "same with bfloat16 states": f"{float(kl['bfloat16'].mean()):.3g}",
            },
        )
    ]


def kl_to_received(made: Real, hidden_format: HiddenFormat) -> Tensor:
    """[N] in nats."""
    values = []
    for rows in made.supervised.split(ROWS):
        received = as_received(rows, hidden_format)
        log_p, log_q = (
            torch.log_softmax(made.teacher.logits(states).float(), dim=1)
            for states in (rows, received)
        )
        values.append((log_p.exp() * (log_p - log_q)).sum(dim=1))
    return torch.cat(values)


@torch.inference_mode()
def sense_error() -> list[Figure]:
    """The sense term of a student whose states are the teacher's: distances are then smallest, and wrong candidates show most."""
    made = real()
    dictionary = open_dictionary(made.spec.senses.dictionary, verify=False)
    search = partial(knn, load_graph(dictionary))
    retriever = SenseRetriever(
        dictionary, made.spec.senses, made.spec.loss, 0, load_projection(dictionary), search
    )
    selection = retriever.select(made.batch)
    exact = made.states[torch.from_numpy(selection.positions)]
    top_k = _top_k(made, exact)
    margin = made.spec.loss.margin * float(dictionary.facts["median_antonym_distance"] or 1.0)

    def term(states: Tensor) -> float:
        return float(
            sense_loss(
                exact, retriever.targets(selection, states, top_k, 0), made.spec.loss, margin
            ).loss
        )

    value = term(exact)
    errors = {
        name: abs(term(as_received(exact, name)) / value - 1) for name in ("float8", "bfloat16")
    }
    return [
        Figure(
            "fp8_sense_error",
            "relative error of the sense term when float8 states pick its candidates",
            errors["float8"],
            0.005,
            "lower",
            {
                "sense positions": len(selection),
                "same with bfloat16 states": f"{errors['bfloat16']:.2g}",
            },
        )
    ]


def _top_k(made: Real, states: Tensor) -> TopK:
    return concatenate(
        [
            take_top_k(made.teacher.logits(rows), made.spec.loss.top_k, (1.0,))
            for rows in states.split(ROWS)
        ]
    )


@torch.inference_mode()
def bytes_per_token() -> list[Figure]:
    """Request and reply of the paper's rule at Llama-3-8B's sizes, through the real codec."""
    made = real()
    dictionary = open_dictionary(made.spec.senses.dictionary, verify=False)
    rule = SensesSpec(
        dictionary=made.spec.senses.dictionary, candidates="lexical"
    )  # 25 or 40 %, and as many again
    selection = SenseRetriever(dictionary, rule, made.spec.loss, 0).select(made.batch)
    sizes = {name: _measured(made.batch, selection, name) for name in ("bfloat16", "float8")}
    share = len(selection) / made.batch.input_ids.numel()
    spec = made.spec
    # Where every target has relations, 40 % of the positions and as many others are sense positions.
    worst = {
        name: _split(
            signal_bytes(
                spec.model_copy(
                    update={"link": spec.link.model_copy(update={"hidden_format": name})}
                ),
                LARGE_VOCABULARY,
                LARGE_HIDDEN,
                0.8,
            )
        )
        for name in ("bfloat16", "float8")
    }
    return [
        Figure(
            "bytes_per_token",
            f"request and reply, top-64 and {spec.link.hidden_format} hidden states at sense positions, D 4,096",
            sizes[spec.link.hidden_format].total,
            4400,
            "lower",
            {
                "sense positions": f"{share:.0%} (the paper's rule on Wikipedia, WordNet's relations)",
                **{f"{name}": _split(size) for name, size in sizes.items()},
                **{f"{name}, were 80 % sense positions": text for name, text in worst.items()},
            },
        )
    ]


@torch.inference_mode()
def chosen_bytes() -> list[Figure]:
    """The same where the teacher chooses the senses: their numbers travel, no hidden states.

    What is chosen is the quickstart's: of its small dictionary few sets are full. The last lines say what full ones take.
    """
    made = real()
    dictionary = open_dictionary(made.spec.senses.dictionary, verify=False)
    projection, search = load_projection(dictionary), partial(knn, load_graph(dictionary))
    sizes: dict[str, SignalBytes] = {}
    full: dict[str, SignalBytes] = {}
    for candidates in ("lexical", "hybrid"):
        rule = SensesSpec.model_validate(
            {"dictionary": made.spec.senses.dictionary, "candidates": candidates}
        )
        retriever = SenseRetriever(dictionary, rule, made.spec.loss, 0, projection, search)
        selection = retriever.select(made.batch)
        states = made.states[torch.from_numpy(selection.positions)]
        chosen = retriever.choose(selection, states, _top_k(made, states), 0)
        form = retriever.wanted.model_copy(update={"num_rows": LARGE_ROWS})
        sizes[candidates] = _measured(made.batch, selection, "bfloat16", chosen, form)
        spec = made.spec.model_copy(
            update={"senses": rule.model_copy(update={"retrieve_on": "teacher"})}
        )
        for share in (sizes[candidates].sense_share, 0.8):
            full[f"{candidates}, were all sets full at {share:.0%} sense positions"] = signal_bytes(
                spec, LARGE_VOCABULARY, LARGE_HIDDEN, share, LARGE_ROWS
            )
    return [
        Figure(
            "bytes_per_token_chosen",
            "request and reply, top-64 and numbers of the senses that the teacher chose, D 4,096",
            sizes["lexical"].total,
            400,
            "lower",
            {
                "sense positions": f"{sizes['lexical'].sense_share:.0%}",
                **{name: _split(size) for name, size in (sizes | full).items()},
            },
        )
    ]


def _split(size: SignalBytes) -> str:
    name, value = ("senses", size.senses) if size.senses else ("hidden", size.hidden)
    return f"{size.total:,.0f} = top-k {size.top_k:,.0f} + {name} {value:,.0f} + request and headers {size.request:,.0f}"


def _measured(
    batch: Batch,
    selection: Selection,
    hidden_format: HiddenFormat,
    chosen: Chosen | None = None,
    senses: SensesWanted | None = None,
) -> SignalBytes:
    """Bytes of a request and its reply, for each token of the batch. Numbers are random: their bytes do not depend on them.

    chosen, senses: by the teacher, in place of hidden states.
    """
    wanted = Wanted(
        top_k=64,
        temperatures=(1.0,),
        num_draws=50,
        draw_temperature=1.0,
        draw_seed=0,
        hidden_format=hidden_format,
        senses=senses,
    )
    at = signal_kind(LossSpec()).positions(
        batch.supervised.numpy(), selection.positions[:0] if senses else selection.positions
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(LARGE_VOCABULARY, (len(at["top_k"]), 64), generator=generator)
    top_k = TopK(ids, torch.zeros(ids.shape, dtype=torch.float16), torch.zeros(len(ids), 1))
    none = torch.zeros(0, dtype=torch.int64)
    parts = ReplyParts(
        top_k,
        Draws(none, none, none, torch.zeros(0)),
        torch.randn(len(at["hidden"]), LARGE_HIDDEN, generator=generator),
        chosen or Chosen.nothing(),
    )
    arrays = reply_arrays(parts, wanted, LARGE_VOCABULARY)
    reply = codec.num_bytes(codec.encode(Reply(request_id=0, forward_seconds=0.1), arrays))
    request = codec.num_bytes(
        codec.encode(
            Request(request_id=0, wanted=wanted),
            {
                "input_ids": batch.input_ids.numpy().astype(np.int32),
                "position_ids": batch.position_ids.numpy().astype(np.int32),
                **{
                    f"{name}_positions": positions.astype(np.int32)
                    for name, positions in at.items()
                },
                **selection_arrays(batch if senses else None),
            },
        )
    )
    tokens = batch.input_ids.numel()
    hidden = arrays["hidden"].nbytes + arrays["hidden_scales"].nbytes
    top = sum(arrays[name].nbytes for name in ("top_k_ids", "top_k_logits", "tail"))
    numbers = sum(
        array.nbytes
        for name, array in arrays.items()
        if name.startswith(("sense_", "pull_", "push_"))
    )
    return SignalBytes(
        top / tokens,
        0.0,
        hidden / tokens,
        numbers / tokens,
        (reply + request - hidden - top - numbers) / tokens,
        len(selection) / tokens,
    )


@torch.inference_mode()
def sampled_bytes() -> list[Figure]:
    """Draws from the real teacher: their bytes, and what drawing takes beside a top-k of the same logits."""
    made = real()
    num_draws = made.spec.loss.num_draws
    generator = torch.Generator().manual_seed(0)
    wanted = Wanted(
        top_k=1,
        temperatures=(),
        num_draws=num_draws,
        draw_temperature=1.0,
        draw_seed=0,
        hidden_format="bfloat16",
    )
    num_bytes = num_tokens = 0
    seconds = {"draws": 0.0, "top-64 of the same logits": 0.0}
    logits = torch.cat([made.teacher.logits(rows) for rows in made.supervised.split(ROWS)])
    for rows in logits.split(CACHE_ROWS):
        uniforms = torch.rand(len(rows), num_draws, dtype=torch.float64, generator=generator)
        started = time.perf_counter()
        draws = take_draws(rows, 1.0, uniforms)
        drawn = time.perf_counter()
        none = take_top_k(rows, 64, (1.0,)).rows(slice(0, 0))
        seconds["draws"] += drawn - started
        seconds["top-64 of the same logits"] += time.perf_counter() - drawn
        arrays = reply_arrays(
            ReplyParts(none, draws, made.states[:0]), wanted, made.teacher.vocab_size
        )
        num_bytes += sum(
            arrays[name].nbytes
            for name in ("draw_lengths", "draw_ids", "draw_counts", "draw_log_probs")
        )
        num_tokens += len(draws.ids)
    number = len(made.supervised)
    return [
        Figure(
            "sampled_bytes",
            f"bytes of {num_draws} draws at a position, tau 1",
            num_bytes / number,
            200,
            "lower",
            {
                "different tokens a position": f"{num_tokens / number:.1f}",
                **{
                    f"ms a position, {name}": f"{1e3 * value / number:.3f}"
                    for name, value in seconds.items()
                },
            },
        )
    ]


BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "fp8_kl": kl_error,
    "fp8_sense": sense_error,
    "bytes_per_token": bytes_per_token,
    "chosen_bytes": chosen_bytes,
    "sampled_bytes": sampled_bytes,
}
