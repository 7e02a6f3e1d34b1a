"""Measures the bytes per token on the wire with the real codec, at Llama-3-8B's sizes.

Texts, sense positions and chosen senses are the quickstart's (bench/real_text.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from dskd_ds.bench.measure import Figure
from dskd_ds.bench.real_text import ROWS, TeacherOnText, teacher_on_text
from dskd_ds.costs.traffic import SignalBytes, signal_bytes
from dskd_ds.data.batches import Batch
from dskd_ds.link import codec
from dskd_ds.link.messages import Array, Reply, Request, SensesWanted, Wanted
from dskd_ds.losses.distributions import TopK
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.index.graph import knn, load_graph, load_projection
from dskd_ds.signals.kind import Ints, Part, signal_kind
from dskd_ds.signals.parts.chosen import Chosen
from dskd_ds.signals.parts.draws import Draws, take_draws
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.signals.reply import ReplyParts, reply_arrays
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.processes import HiddenFormat
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.student.replies.requests import selection_arrays
from dskd_ds.teacher.answer import CACHE_ROWS

LARGE_VOCABULARY, LARGE_HIDDEN = 128_256, 4096
"""Vocabulary and hidden size of Llama-3-8B."""
LARGE_ROWS = 10 * LARGE_VOCABULARY
"""Rows of a dictionary with ten senses per token of LARGE_VOCABULARY."""
MOST_SENSE_POSITIONS = 0.8
"""Share of sense positions if every target has relations: 40 % pull and push, 40 % only pull."""
TOP_K = 64


@torch.inference_mode()
def bench_hidden_bytes() -> list[Figure]:
    """Return the bytes of a request and its reply with the paper's rule for sense positions."""
    text = teacher_on_text()
    spec = text.spec
    dictionary = open_dictionary(spec.senses.dictionary, verify=False)
    # Not the spec's rule: the defaults are the paper's numbers (docs/method.md, "Positions").
    rule = SensesSpec(dictionary=spec.senses.dictionary, candidates="lexical")
    selection = SenseRetriever(dictionary, rule, spec.loss, seed=0).select(text.batch)
    formats: tuple[HiddenFormat, ...] = ("bfloat16", "float8")
    sizes = {name: measured_bytes(text.batch, selection, name) for name in formats}
    share = len(selection) / text.batch.input_ids.numel()
    notes = {"sense positions": f"{share:.0%} (the paper's rule on Wikipedia, WordNet's relations)"}
    notes |= {name: describe(size) for name, size in sizes.items()}
    notes |= {
        f"{name}, were 80 % sense positions": describe(_most_bytes(text, name)) for name in formats
    }
    used = spec.link.hidden_format
    return [
        Figure(
            key="bytes_per_token",
            what=f"request and reply: top-64, {used} hidden states at sense positions, D 4,096",
            value=sizes[used].total,
            target=4400,
            better="lower",
            notes=notes,
        )
    ]


def _most_bytes(text: TeacherOnText, hidden_format: HiddenFormat) -> SignalBytes:
    """Return the planned bytes with the largest share of sense positions."""
    link = text.spec.link.model_copy(update={"hidden_format": hidden_format})
    spec = text.spec.model_copy(update={"link": link})
    return signal_bytes(spec, LARGE_VOCABULARY, LARGE_HIDDEN, MOST_SENSE_POSITIONS)


@torch.inference_mode()
def bench_chosen_bytes() -> list[Figure]:
    """Return the bytes if the teacher chooses the senses: row numbers instead of hidden states.

    The chosen senses are the quickstart's, whose small dictionary fills few sets. The last notes
    give the bytes with full sets.
    """
    text = teacher_on_text()
    sizes: dict[str, SignalBytes] = {}
    full: dict[str, SignalBytes] = {}
    for candidates in ("lexical", "hybrid"):
        rule = SensesSpec.model_validate(
            {"dictionary": text.spec.senses.dictionary, "candidates": candidates}
        )
        sizes[candidates] = _chosen_bytes(text, rule)
        senses = rule.model_copy(update={"retrieve_on": "teacher"})
        spec = text.spec.model_copy(update={"senses": senses})
        # Upper bounds: with full sets, at the measured and at the largest share of sense positions.
        for share in (sizes[candidates].sense_share, MOST_SENSE_POSITIONS):
            key = f"{candidates}, were all sets full at {share:.0%} sense positions"
            full[key] = signal_bytes(spec, LARGE_VOCABULARY, LARGE_HIDDEN, share, LARGE_ROWS)
    notes = {"sense positions": f"{sizes['lexical'].sense_share:.0%}"}
    notes |= {name: describe(size) for name, size in (sizes | full).items()}
    return [
        Figure(
            key="bytes_per_token_chosen",
            what="request and reply: top-64, rows of senses that the teacher chose, D 4,096",
            value=sizes["lexical"].total,
            target=400,
            better="lower",
            notes=notes,
        )
    ]


def _chosen_bytes(text: TeacherOnText, rule: SensesSpec) -> SignalBytes:
    """Choose senses by a rule, as the teacher does, and return the bytes per token."""
    dictionary = open_dictionary(rule.dictionary, verify=False)
    retriever = SenseRetriever(
        dictionary=dictionary,
        spec=rule,
        loss=text.spec.loss,
        seed=0,
        projection=load_projection(dictionary),
        search=partial(knn, load_graph(dictionary)),
    )
    selection = retriever.select(text.batch)
    states = text.states[torch.from_numpy(selection.positions)]
    chosen = retriever.choose(selection, states, text.top_k(states), 0)
    # Row numbers get as many bytes as a dictionary of Llama-3-8B would need.
    senses_wanted = retriever.wanted.model_copy(update={"num_rows": LARGE_ROWS})
    return measured_bytes(text.batch, selection, "bfloat16", chosen=chosen, senses=senses_wanted)


def describe(size: SignalBytes) -> str:
    """Return a text with the total bytes per token and its parts."""
    if size.senses:
        name, value = "senses", size.senses
    else:
        name, value = "hidden", size.hidden
    parts = [
        f"top-k {size.top_k:,.0f}",
        f"{name} {value:,.0f}",
        f"request and headers {size.request:,.0f}",
    ]
    return f"{size.total:,.0f} = " + " + ".join(parts)


def measured_bytes(
    batch: Batch,
    selection: Selection,
    hidden_format: HiddenFormat,
    chosen: Chosen | None = None,
    senses: SensesWanted | None = None,
) -> SignalBytes:
    """Encode a request and its reply, and return their bytes per token of the batch.

    chosen: the senses that the teacher chose; they replace the hidden states. senses: how the
    request asks for them.
    """
    wanted = Wanted(
        top_k=TOP_K,
        temperatures=(1.0,),
        num_draws=50,
        draw_temperature=1.0,
        draw_seed=0,
        hidden_format=hidden_format,
        senses=senses,
    )
    # If the teacher chooses, it draws the sense positions itself, and no states are sent for them.
    at_sense_positions = selection.positions[:0] if senses else selection.positions
    positions = signal_kind(LossSpec()).positions(batch.supervised.numpy(), at_sense_positions)
    parts = _random_parts(len(positions["top_k"]), len(positions["hidden"]), chosen)
    arrays = reply_arrays(parts, wanted, LARGE_VOCABULARY)
    reply_frames = codec.encode(Reply(request_id=0, forward_seconds=0.1), arrays)
    request_frames = codec.encode(
        Request(request_id=0, wanted=wanted),
        _request_arrays(batch, positions, teacher_chooses=senses is not None),
    )
    total = codec.num_bytes(reply_frames) + codec.num_bytes(request_frames)
    top_k_bytes = sum(arrays[name].nbytes for name in ("top_k_ids", "top_k_logits", "tail"))
    hidden_bytes = arrays["hidden"].nbytes + arrays["hidden_scales"].nbytes
    sense_arrays = [name for name in arrays if name.startswith(("sense_", "pull_", "push_"))]
    sense_bytes = sum(arrays[name].nbytes for name in sense_arrays)
    num_tokens = batch.input_ids.numel()
    return SignalBytes(
        top_k=top_k_bytes / num_tokens,
        draws=0.0,
        hidden=hidden_bytes / num_tokens,
        senses=sense_bytes / num_tokens,
        request=(total - hidden_bytes - top_k_bytes - sense_bytes) / num_tokens,
        sense_share=len(selection) / num_tokens,
    )


def _random_parts(num_top_k: int, num_hidden: int, chosen: Chosen | None) -> ReplyParts:
    """Return a reply without draws. Its numbers are random: they do not change its size."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(LARGE_VOCABULARY, (num_top_k, TOP_K), generator=generator)
    none = torch.zeros(0, dtype=torch.int64)
    return ReplyParts(
        top_k=TopK(ids, torch.zeros(ids.shape, dtype=torch.float16), torch.zeros(num_top_k, 1)),
        draws=Draws(none, none, none, torch.zeros(0)),
        hidden=torch.randn(num_hidden, LARGE_HIDDEN, generator=generator),
        chosen=chosen or Chosen.nothing(),
    )


def _request_arrays(
    batch: Batch, positions: dict[Part, Ints], teacher_chooses: bool
) -> dict[str, Array]:
    """Return the arrays of a request for a batch."""
    arrays: dict[str, Array] = {
        "input_ids": batch.input_ids.numpy().astype(np.int32),
        "position_ids": batch.position_ids.numpy().astype(np.int32),
        "layer_positions": np.zeros(0, np.int32),
    }
    for part, indices in positions.items():
        arrays[f"{part}_positions"] = indices.astype(np.int32)
    return arrays | selection_arrays(batch if teacher_chooses else None)


@torch.inference_mode()
def bench_sampled_bytes() -> list[Figure]:
    """Return the bytes of draws from the real teacher, and the time of drawing and of a top-k."""
    text = teacher_on_text()
    num_draws = text.spec.loss.num_draws
    generator = torch.Generator().manual_seed(0)
    # Only draws are sent, so the bytes of a reply are theirs.
    wanted = Wanted(
        top_k=1,
        temperatures=(),
        num_draws=num_draws,
        draw_temperature=1.0,
        draw_seed=0,
        hidden_format="bfloat16",
    )
    num_bytes = num_tokens = 0
    draw_seconds = top_k_seconds = 0.0
    logits = torch.cat([text.teacher.logits(rows) for rows in text.supervised.split(ROWS)])
    # The teacher takes as many rows at a time (teacher/answer.py), so the times are its own.
    for rows in logits.split(CACHE_ROWS):
        uniforms = torch.rand(len(rows), num_draws, dtype=torch.float64, generator=generator)
        started = time.perf_counter()
        draws = take_draws(rows, 1.0, uniforms)
        drawn = time.perf_counter()
        top_k = take_top_k(rows, TOP_K, (1.0,))
        draw_seconds += drawn - started
        top_k_seconds += time.perf_counter() - drawn
        # The top k is timed for comparison, but not sent.
        no_top_k, no_states = top_k.rows(slice(0, 0)), text.states[:0]
        parts = ReplyParts(no_top_k, draws, no_states)
        arrays = reply_arrays(parts, wanted, text.teacher.vocab_size)
        draw_arrays = ("draw_lengths", "draw_ids", "draw_counts", "draw_log_probs")
        num_bytes += sum(arrays[name].nbytes for name in draw_arrays)
        num_tokens += len(draws.ids)
    num_positions = len(text.supervised)
    draw_ms, top_k_ms = (
        f"{1e3 * seconds / num_positions:.3f}" for seconds in (draw_seconds, top_k_seconds)
    )
    return [
        Figure(
            key="sampled_bytes",
            what=f"bytes of {num_draws} draws per position, tau 1",
            value=num_bytes / num_positions,
            target=200,
            better="lower",
            notes={
                "different tokens a position": f"{num_tokens / num_positions:.1f}",
                "ms a position, draws": draw_ms,
                "ms a position, top-64 of the same logits": top_k_ms,
            },
        )
    ]


BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "bytes_per_token": bench_hidden_bytes,
    "chosen_bytes": bench_chosen_bytes,
    "sampled_bytes": bench_sampled_bytes,
}
