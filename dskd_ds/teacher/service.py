"""A teacher's life: load the model, find the students, answer requests until all have said goodbye."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import torch

from dskd_ds.link import TeacherLink, Work
from dskd_ds.link.messages import Array, Hello
from dskd_ds.spec import RunSpec
from dskd_ds.teacher.model import TeacherModel, load_teacher
from dskd_ds.teacher.signal import TopK, signal_arrays, top_k_signal
from dskd_ds.vocabulary import shared_vocab_size

LOGIT_ROWS = 512
"""Positions whose logits exist at a time."""


def serve(spec: RunSpec, replica: int) -> None:
    """Serve the run of `spec` as teacher number `replica`; returns when its students are done.

    Raises NoTeacherError if no student listens, LinkError if one breaks the protocol.
    """
    teacher = load_teacher(spec.teacher, vocab_size=shared_vocab_size(spec))
    name = f"{replica} ({socket.gethostname()}, process {os.getpid()})"
    hello = Hello(teacher=name, fingerprint=teacher.fingerprint, vocab_size=teacher.vocab_size, hidden_size=teacher.hidden_size)
    link = TeacherLink(Path(spec.run_dir), spec.link, hello, spec.topology.num_students)
    num_requests, busy_seconds, started = 0, 0.0, time.monotonic()
    try:
        while (work := link.next_request()) is not None:
            num_requests += 1
            begun = time.monotonic()
            _answer_or_fail(teacher, link, work)
            busy_seconds += time.monotonic() - begun
    finally:
        link.close()
    share = busy_seconds / max(time.monotonic() - started, 1e-9)
    print(f"teacher {name}: answered {num_requests} requests, busy {share:.0%} of the time.", file=sys.stderr)


def _answer_or_fail(teacher: TeacherModel, link: TeacherLink, work: Work) -> None:
    begun = time.monotonic()
    try:
        arrays = answer(teacher, work.arrays, work.request.top_k, work.request.temperatures)
    except (ValueError, IndexError, RuntimeError) as error:  # the request, or memory: the student must know, then decide
        link.fail(work, f"{type(error).__name__}: {error}")
        return
    link.reply(work, arrays, time.monotonic() - begun)


def answer(teacher: TeacherModel, arrays: dict[str, Array], top_k: int, temperatures: tuple[float, ...]) -> dict[str, Array]:
    """One forward pass of the request's shape -> the reply's arrays (link/messages.py).

    Raises ValueError if ids or positions are out of range.
    """
    input_ids, position_ids, logit_positions, hidden_positions = (
        torch.tensor(arrays[name], dtype=torch.long) for name in ("input_ids", "position_ids", "logit_positions", "hidden_positions"))
    _check_range("input_ids", input_ids, teacher.vocab_size)
    _check_range("logit_positions", logit_positions, input_ids.numel())
    _check_range("hidden_positions", hidden_positions, input_ids.numel())
    if position_ids.shape != input_ids.shape:
        raise ValueError(f"position_ids {tuple(position_ids.shape)} and input_ids {tuple(input_ids.shape)} differ in shape")
    hidden = teacher.hidden_states(input_ids, position_ids).flatten(0, 1)
    wanted = hidden[logit_positions.to(hidden.device)]
    parts = [top_k_signal(teacher.logits(rows), top_k, temperatures) for rows in wanted.split(LOGIT_ROWS)]
    signal = TopK(*(torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "logits", "tail")))
    return signal_arrays(signal, hidden[hidden_positions.to(hidden.device)])


def _check_range(name: str, values: torch.Tensor, limit: int) -> None:
    if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < limit):
        raise ValueError(f"{name} has values outside 0..{limit - 1}")
