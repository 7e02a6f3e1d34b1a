"""Measures how costs grow: with text, with vocabulary and with ranks; a table and a plot.

Training is this project's loop with cross-entropy (bench/ce_loop.py), so that no teacher shares the
cores with the students. The look-up is measured on random dictionaries, everything else on the
quickstart's models and text.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from dskd_ds.bench.growth_plot import Curve, draw_curves
from dskd_ds.bench.measure import Figure
from dskd_ds.bench.pack import pack, write_text
from dskd_ds.bench.real_text import PLAIN_TRAINING, QUICKSTART
from dskd_ds.data.batches import Batch, Sample
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.models.named import RunModels
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime import launch
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.console import child_environment
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.dictionary.facts import Facts
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.spec import dskd_home, load_spec
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.student.depth import student_init

TEXT_MEGABYTES = (4, 9, 18, 36)
BUILD_TOKENS = (2_560, 5_120, 10_240)
VOCABULARIES = (8_000, 32_000, 128_000)
STUDENTS = (1, 2, 4)
SENSES_PER_TOKEN, DIMENSIONS = 5, 64
LOOKUP_ROWS, LOOKUP_TOKENS, LOOKUP_CALLS = 4, 512, 20
NUM_STEPS, NUM_DROPPED = 6, 2


def bench_growth() -> list[Figure]:
    """Return a figure per curve, and draw all curves to $DSKD_HOME/bench/growth.png."""
    with tempfile.TemporaryDirectory(prefix="dskd-growth-") as name:
        folder = Path(name)
        curves = [
            packing_curve(folder, TEXT_MEGABYTES),
            building_curve(folder, BUILD_TOKENS),
            lookup_curve(folder, VOCABULARIES),
            training_curve(folder, students_that_fit()),
        ]
    output = dskd_home() / "bench" / "growth.png"
    draw_curves(curves, output)
    return [_figure(curve, str(output)) for curve in curves]


def students_that_fit() -> list[int]:
    """Return the numbers of student ranks that have a core each."""
    num_cores = len(os.sched_getaffinity(0))
    return [number for number in STUDENTS if number <= num_cores]


def packing_curve(folder: Path, megabytes: Sequence[int]) -> Curve:
    """Return the time to pack texts of several sizes on one rank, per million tokens."""
    points: list[tuple[float, float]] = []
    for size in megabytes:
        text = folder / f"{size}.jsonl"
        written = write_text(text, size * 1_000_000)
        rate = pack(text, folder / f"packed-{size}", num_ranks=1)
        points.append((written / 1e6, 1e6 / rate))
    return Curve("packing", "text (MB)", "seconds per million tokens, 1 rank", points)


def building_curve(folder: Path, num_tokens: Sequence[int]) -> Curve:
    """Return the time to build a dictionary and its index from several sizes of text."""
    points: list[tuple[float, float]] = []
    for count in num_tokens:
        settings = [f'senses.dictionary="{folder / f"senses-{count}"}"']
        settings.append(f"senses.collect_tokens={count}")
        command = launch.senses_command(QUICKSTART, settings, num_ranks=1)
        started = time.perf_counter()
        _run(command)
        points.append((float(count), time.perf_counter() - started))
    return Curve("building", "tokens read", "seconds to build a dictionary, 1 rank", points)


def lookup_curve(folder: Path, vocabularies: Sequence[int]) -> Curve:
    """Return the time of the lexical look-up per position, for several vocabularies."""
    points: list[tuple[float, float]] = []
    for vocab_size in vocabularies:
        retriever = _random_retriever(folder / f"random-{vocab_size}", vocab_size)
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocab_size, (LOOKUP_ROWS, LOOKUP_TOKENS), generator=draw)
        positions = torch.arange(LOOKUP_TOKENS).repeat(LOOKUP_ROWS, 1)
        samples = tuple(Sample(0, row) for row in range(LOOKUP_ROWS))
        batch = Batch(samples, ids, positions, targets=ids.roll(-1, dims=1))
        selection = retriever.select(batch)
        hidden = torch.randn(len(selection), DIMENSIONS, generator=draw)
        seconds: list[float] = []
        for _ in range(LOOKUP_CALLS):
            started = time.perf_counter()
            retriever.lexical(selection, hidden)
            seconds.append(time.perf_counter() - started)
        microseconds = statistics.median(seconds) / len(selection) * 1e6
        points.append((float(vocab_size), microseconds))
    return Curve("look-up", "vocabulary", "microseconds per position", points)


def training_curve(folder: Path, numbers: Sequence[int]) -> Curve:
    """Return the tokens per second and rank, for several numbers of student ranks."""
    points: list[tuple[float, float]] = []
    for number in numbers:
        settings = [
            f'run_dir="{folder / f"run-{number}"}"',
            "student.layers=first",
            f"topology.num_students={number}",
            "topology.num_teachers=0",
            "topology.threads_per_rank=1",
            f"train.global_batch_blocks={number}",
            f"train.num_steps={NUM_STEPS}",
            "checkpoint.every_minutes=0",
            *PLAIN_TRAINING,
        ]
        spec = load_spec(QUICKSTART, settings)
        student_init(spec, RunModels.of(spec))
        command = [
            *(launch.tool("deepspeed"), "--num_gpus", str(number)),
            *("--master_port", str(launch.free_port())),
            *("--module", "dskd_ds.bench.ce_loop", "--spec", QUICKSTART),
            *override_argv(settings),
        ]
        _run(command)
        records = read_metrics(spec.run_dir)[NUM_DROPPED:]
        rate = statistics.median(record["tokens_per_second"] for record in records)
        points.append((float(number), rate / number))
    return Curve("training", "student ranks", "tokens per second and rank", points)


def _run(command: list[str]) -> None:
    """Run a command to its end. Raises RuntimeError with its output if it fails."""
    environment = child_environment(os.environ)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{command}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")


def _random_retriever(folder: Path, vocab_size: int) -> SenseRetriever:
    """Return the look-up of random senses; each token has four synonyms and two antonyms."""
    draw = torch.Generator().manual_seed(vocab_size)
    num_rows = vocab_size * SENSES_PER_TOKEN
    tokens = range(vocab_size)
    relations = TokenRelations(
        synonyms={token: [(token + 7 * n) % vocab_size for n in range(1, 5)] for token in tokens},
        antonyms={token: [(token + 11 * n) % vocab_size for n in range(1, 3)] for token in tokens},
        spans=[],
    )
    senses = Senses(
        np.repeat(np.arange(vocab_size), SENSES_PER_TOKEN),
        torch.randn(num_rows, DIMENSIONS, generator=draw),
        np.ones(num_rows, np.int64),
    )
    facts = Facts(vocab_size=vocab_size, layer=-1, teacher="random", tokenizer="random")
    write_dictionary(folder, senses, relations, facts, SENSES_PER_TOKEN)
    settings = SensesSpec(dictionary=str(folder), candidates="lexical")
    return SenseRetriever(open_dictionary(folder), settings, LossSpec(), seed=0)


def _figure(curve: Curve, plot: str) -> Figure:
    """Return the ratio of a curve's last value to its first, with all points."""
    (first_size, first), (last_size, last) = curve.points[0], curve.points[-1]
    points = {f"{size:g} {curve.size}": f"{cost:.4g}" for size, cost in curve.points}
    return Figure(
        key=f"growth_{curve.name.replace('-', '')}",
        what=f"{curve.cost}: at {last_size:g} / at {first_size:g} {curve.size}",
        value=last / first,
        better="higher" if curve.name == "training" else "lower",
        notes=points | {"plot": plot},
    )


BENCHES: dict[str, Callable[[], list[Figure]]] = {"growth": bench_growth}
