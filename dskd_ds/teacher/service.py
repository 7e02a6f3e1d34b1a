"""A teacher's life: load the model, find the students, answer requests until all have said goodbye."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dskd_ds.link import TeacherLink, Work
from dskd_ds.link.messages import Array, Hello, Wanted
from dskd_ds.losses.distributions import TopK
from dskd_ds.models.frozen import TeacherModel, load_teacher
from dskd_ds.models.vocabulary import shared_vocab_size
from dskd_ds.runtime.topology import Role
from dskd_ds.senses.choose.open import open_on_teacher
from dskd_ds.senses.choose.retrieve import Selection, SenseRetriever
from dskd_ds.signals.chosen import chosen_arrays
from dskd_ds.signals.reply import Signal, signal_arrays
from dskd_ds.signals.take import Draws, concatenate, draw, top_k_signal
from dskd_ds.spec import RunSpec
from dskd_ds.teacher.senses import selection_of

LOGIT_ROWS = 128
"""Positions whose logits exist at a time (draws need three more such arrays)."""
CACHE_ROWS = 16
"""Rows that the signal is taken from at a time on a CPU. At 49,152 tokens one thread took 0.18 ms a position for 50 draws and 0.22 for
the top 64, against 0.85 and 0.33 from 128 rows, which do not fit the cache (best of 4)."""


def serve(spec: RunSpec, replica: int, role: Role | None = None) -> None:
    """Serve the run of `spec` as teacher number `replica`; returns when its students are done.

    role: this rank's place in a launch; None for a teacher that was started on its own.
    Raises NoTeacherError if no student listens, LinkError if one breaks the protocol, InputError if the model, or a dictionary or index
    that is wanted here, cannot be opened.
    """
    with ExitStack() as cleanup:
        retriever, senses_name = open_on_teacher(spec, role, cleanup)
        teacher = load_teacher(spec.teacher, vocab_size=shared_vocab_size(spec))
        name = f"{replica} ({socket.gethostname()}, process {os.getpid()})"
        hello = Hello(
            teacher=name,
            fingerprint=teacher.fingerprint + senses_name,
            vocab_size=teacher.vocab_size,
            hidden_size=teacher.hidden_size,
        )
        link = TeacherLink(Path(spec.run_dir), spec.link, hello, spec.topology.num_students)
        cleanup.callback(link.close)
        started = time.monotonic()
        num_requests, busy_seconds = serve_requests(teacher, retriever, link)
    share = busy_seconds / max(time.monotonic() - started, 1e-9)
    print(
        f"teacher {name}: answered {num_requests} requests, busy {share:.0%} of the time.",
        file=sys.stderr,
    )


def serve_requests(
    teacher: TeacherModel, retriever: SenseRetriever | None, link: TeacherLink
) -> tuple[int, float]:
    """Answer until all students have said goodbye; senses are chosen beside the next request's forward pass.

    Returns how many requests came, and the seconds that this thread worked on them. Raises as `TeacherLink.next_request`.
    """
    num_requests, busy_seconds = 0, 0.0
    finishing: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="finish replies") as finisher:
        while (work := link.next_request()) is not None:
            num_requests += 1
            begun = time.monotonic()
            computed = _compute_or_fail(teacher, retriever, link, work)
            if finishing:
                finishing.result()  # at most one reply waits in memory for its senses
            if computed:
                finishing = finisher.submit(_finish_or_fail, computed, retriever, link, work, begun)
            busy_seconds += time.monotonic() - begun
    return num_requests, busy_seconds


@dataclass(frozen=True)
class Computed:
    """What a forward pass gave, in main memory. The rest needs the model no more, and is done while it computes the next request."""

    arrays: dict[str, Array]
    """The reply's, with no senses chosen yet."""
    wanted: Wanted
    selection: Selection | None
    """None: no senses are wanted."""
    states: torch.Tensor
    """[P, D] at the sense positions."""
    top_k: TopK
    """At the sense positions."""


def _compute_or_fail(
    teacher: TeacherModel, retriever: SenseRetriever | None, link: TeacherLink, work: Work
) -> Computed | None:
    try:
        return compute(teacher, work.arrays, work.request.wanted, retriever)
    except (
        ValueError,
        IndexError,
        RuntimeError,
    ) as error:  # the request, or memory: the student must know, then decide
        link.fail(work, f"{type(error).__name__}: {error}")
        return None


def _finish_or_fail(
    computed: Computed,
    retriever: SenseRetriever | None,
    link: TeacherLink,
    work: Work,
    begun: float,
) -> None:
    try:
        link.reply(work, finish(computed, retriever), time.monotonic() - begun)
    except (
        Exception
    ) as error:  # nobody waits for this thread: whatever it is, the student must know
        link.fail(work, f"{type(error).__name__}: {error}")


def answer(
    teacher: TeacherModel,
    arrays: dict[str, Array],
    wanted: Wanted,
    retriever: SenseRetriever | None = None,
) -> dict[str, Array]:
    """One request's reply, from its first to its last step."""
    return finish(compute(teacher, arrays, wanted, retriever), retriever)


def compute(
    teacher: TeacherModel,
    arrays: dict[str, Array],
    wanted: Wanted,
    retriever: SenseRetriever | None = None,
) -> Computed:
    """One forward pass of the request's shape -> the reply's arrays (link/messages.py), but for the senses.

    retriever: for requests that want senses chosen. Raises ValueError if ids or positions are out of range, or positions do not ascend,
    or the request wants senses that this teacher does not have.
    """
    input_ids, position_ids = (
        torch.tensor(arrays[name], dtype=torch.long) for name in ("input_ids", "position_ids")
    )
    _check_range("input_ids", input_ids, teacher.vocab_size)
    if position_ids.shape != input_ids.shape:
        raise ValueError(
            f"position_ids {tuple(position_ids.shape)} and input_ids {tuple(input_ids.shape)} differ in shape"
        )
    top_k_at, draw_at, hidden_at = (
        _positions(arrays, name, input_ids.numel())
        for name in ("top_k_positions", "draw_positions", "hidden_positions")
    )
    selection = selection_of(retriever, arrays, wanted, input_ids, position_ids)
    sense_at = torch.from_numpy(selection.positions) if selection else top_k_at[:0]
    ranked_at = torch.unique(
        torch.cat([top_k_at, sense_at])
    )  # senses are chosen by the top k too, wherever the KL gets its signal
    hidden = teacher.hidden_states(input_ids, position_ids).flatten(0, 1)
    uniforms = torch.rand(
        len(draw_at), wanted.num_draws, dtype=torch.float64, generator=_generator(arrays, wanted)
    )
    top_k: list[TopK] = []
    draws: list[Draws] = []
    for chunk in torch.unique(torch.cat([ranked_at, draw_at])).split(LOGIT_ROWS):
        logits = teacher.logits(hidden[chunk.to(hidden.device)])
        num_rows = CACHE_ROWS if logits.device.type == "cpu" else LOGIT_ROWS
        for rows, part in zip(chunk.split(num_rows), logits.split(num_rows), strict=True):
            top_k.append(
                top_k_signal(
                    _some(part, torch.isin(rows, ranked_at)), wanted.top_k, wanted.temperatures
                )
            )
            draws.append(
                draw(
                    _some(part, torch.isin(rows, draw_at)),
                    wanted.draw_temperature,
                    uniforms[torch.isin(draw_at, rows)],
                )
            )
    ranked = concatenate(top_k)
    there = ranked.rows(torch.searchsorted(ranked_at, sense_at).to(ranked.ids.device)).to(
        torch.device("cpu")
    )
    asked = (
        ranked
        if len(ranked_at) == len(top_k_at)
        else ranked.rows(torch.isin(ranked_at, top_k_at).to(ranked.ids.device))
    )
    signal = Signal(asked, concatenate(draws), hidden[hidden_at.to(hidden.device)])
    return Computed(
        signal_arrays(signal, wanted, teacher.vocab_size),
        wanted,
        selection,
        hidden[sense_at.to(hidden.device)].cpu(),
        there,
    )


def finish(computed: Computed, retriever: SenseRetriever | None) -> dict[str, Array]:
    """The reply's arrays with the senses that were wanted. `retriever` as for `compute`."""
    if retriever is None or computed.selection is None:
        return computed.arrays
    chosen = retriever.choose(
        computed.selection, computed.states, computed.top_k, len(computed.wanted.temperatures) - 1
    )
    return computed.arrays | chosen_arrays(chosen, retriever.wanted)


def _some(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The rows of a mask; all of them are not copied."""
    return logits if bool(rows.all()) else logits[rows]


def _generator(arrays: dict[str, Array], wanted: Wanted) -> torch.Generator:
    """Seeded with the request's content, so that every teacher draws alike."""
    digest = hashlib.blake2b(str(wanted.draw_seed).encode(), digest_size=7)
    for name in ("input_ids", "position_ids", "draw_positions"):
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little"))


def _positions(arrays: dict[str, Array], name: str, limit: int) -> torch.Tensor:
    positions = torch.tensor(arrays[name], dtype=torch.long)
    _check_range(name, positions, limit)
    if (positions.diff() <= 0).any():
        raise ValueError(f"{name} do not ascend")
    return positions


def _check_range(name: str, values: torch.Tensor, limit: int) -> None:
    if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < limit):
        raise ValueError(f"{name} has values outside 0..{limit - 1}")
