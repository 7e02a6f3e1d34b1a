"""Measures what the sense term costs a run: training time, the student's memory, and inference.

`dskd bench --only cost --spec SPEC` starts real launches with and without the term, in turn, each
rank on a core of its own (bench/step.py). Inference is that of two trained students.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dskd_ds.bench.measure import REPEATS, Figure, interleaved_rounds
from dskd_ds.bench.step import measure
from dskd_ds.bench.step_figures import sense_memory, sense_time

ARMS = ("kd", "sense", "kd_memory", "sense_memory")
PROMPT_TOKENS, NEW_TOKENS = 128, 32
"""Sizes of the inference that is timed: a prompt is read, and tokens are written one by one."""


@dataclass(frozen=True)
class CostCase:
    """What the bench measures."""

    spec_file: str
    overrides: tuple[str, ...] = ()
    """Its run_dir has the untrained student."""
    students: Mapping[str, str] | None = None
    """Name -> folder of two trained students: without the sense term, and with it. None: inference
    is not timed."""
    rounds: int = REPEATS


def bench_cost(case: CostCase) -> list[Figure]:
    """Return the figures of the cost. Raises InputError if student or dictionary is missing."""
    found = measure(case.spec_file, case.overrides, arms=ARMS, rounds=case.rounds)
    figures = [sense_time(found, {}), sense_memory(found)]
    if case.students:
        figures.append(inference(case.students, case.rounds))
    return figures


def inference(students: Mapping[str, str], rounds: int) -> Figure:
    """Return the ratio of the seconds that two students take: the second one's to the first's."""
    calls = {name: _generation(path) for name, path in students.items()}
    return inference_figure(interleaved_rounds(calls, repeats=rounds))


def inference_figure(seconds: Mapping[str, Sequence[float]]) -> Figure:
    """Return the figure of timed rounds. seconds: name -> one per round; the reference first."""
    reference, other = seconds
    pairs = list(zip(seconds[other], seconds[reference], strict=True))
    ratios = [mine / its for mine, its in pairs]
    medians = [statistics.median(seconds[name]) for name in (other, reference)]
    return Figure(
        key="inference_time_ratio",
        what=f"inference of the trained students: {other} / {reference}",
        value=statistics.median(ratios),
        target=1.01,
        better="lower",
        notes={
            "seconds": f"{medians[0]:.3f} / {medians[1]:.3f}",
            "tokens": f"a prompt of {PROMPT_TOKENS}, {NEW_TOKENS} new ones",
            "ratio of each round": ", ".join(f"{ratio:.3f}" for ratio in ratios),
        },
    )


def _generation(path: str) -> Callable[[], object]:
    """Return a function that lets a student read a prompt and write tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from dskd_ds.runtime.devices import local_device

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = model.to(local_device()).eval()
    ids = torch.arange(1, PROMPT_TOKENS + 1, device=model.device)[None]

    @torch.inference_mode()
    def generate() -> object:
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )

    return generate
