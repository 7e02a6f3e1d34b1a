"""Measures the speeds of this machine that the plan's times follow from.

As many processes as the machine has cores measure at once, each with one thread, because students
and teachers also share its memory bandwidth. Every figure is the median of some repetitions.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import distributed

from dskd_ds.costs.calibration import Measured, write_calibration
from dskd_ds.costs.shapes import ModelShape, model_shape
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.objective.fused import DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.runtime.cpu_features import cpu_name, num_usable_cores
from dskd_ds.runtime.devices import resolve_dtype
from dskd_ds.runtime.launch import free_port
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import LossSpec

REPEATS = 7
TOKENS, VOCAB, CHUNK = 256, 32_768, 128
LAYER: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 1,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
"""A layer like those of small students."""
STREAM_NUMBERS = 1 << 24
COLLECTIVE_NUMBERS = 1 << 22
DISK_BYTES = 1 << 28
BUSY_SHARE = 0.5
"""Load per core of the last minute from which on a calibration is not to be trusted."""


@dataclass(frozen=True)
class RankSpeeds:
    """What one process measured."""

    flops_per_second: float
    memory_bandwidth: float
    traffic_eager: float
    head_passes: float
    teacher_head_passes: float


def calibrate_and_print(is_json: bool) -> None:
    """Measure, store and print the speeds of this machine.

    Prints a warning to stderr if other processes keep it busy.
    """
    load, num_cores = psutil.getloadavg()[0], num_usable_cores()
    if load > BUSY_SHARE * num_cores:
        print(
            f"warning: other processes use this machine (load {load:.1f} on {num_cores} cores), so"
            " it looks slower than it is.\n  measure again when it does nothing else.",
            file=sys.stderr,
        )
    measured = calibrate()
    path = write_calibration(measured)
    if is_json:
        print(json.dumps(asdict(measured), indent=1))
        return
    for name, value in asdict(measured).items():
        print(f"{name:<24}{value if isinstance(value, str) else format(value, ',.4g')}")
    print(f"kept in {path}", file=sys.stderr)


def calibrate() -> Measured:
    """Return the speeds of this machine; takes about a minute."""
    num_ranks = num_usable_cores()
    speeds = in_processes(_rank_speeds, num_ranks)
    bandwidth, hop = 0.0, 0.0
    if num_ranks > 1:
        port = free_port()
        found = in_processes(_collective_speeds, 2, port)
        bandwidth, hop = _median([pair[0] for pair in found]), _median([pair[1] for pair in found])
    of_ranks = {
        name: _median([getattr(speed, name) for speed in speeds])
        for name in RankSpeeds.__dataclass_fields__
    }
    return Measured(
        **of_ranks,
        # One rank has no collectives; the speed of its memory stands for theirs.
        all_reduce_bandwidth=bandwidth or of_ranks["memory_bandwidth"],
        hop_seconds=hop,
        disk_write_bandwidth=_disk_speed(),
        num_ranks=num_ranks,
        cpu=cpu_name(),
        num_cores=num_ranks,
        memory_bytes=int(psutil.virtual_memory().total),
    )


def in_processes(work: Callable[..., Any], num_processes: int, *arguments: Any) -> list[Any]:
    """Run `work(rank, ready, *arguments)` in several processes at once; return their results."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    ready = context.Barrier(num_processes)
    processes = [
        context.Process(target=_put, args=(results, work, rank, ready, arguments))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    failed = [answer for answer in found if isinstance(answer, BaseException)]
    if failed:
        raise failed[0]
    return found


def _put(results: Any, work: Callable[..., Any], rank: int, ready: Any, arguments: Any) -> None:
    """Put what a process measured, or its error, into the queue."""
    torch.set_num_threads(1)
    try:
        results.put(work(rank, ready, *arguments))
    except Exception as error:
        ready.abort()  # the others must not wait
        results.put(error)


def _rank_speeds(rank: int, ready: Any) -> RankSpeeds:
    """Return the speeds of one process, while the others measure the same."""
    del rank
    dtype = resolve_dtype("auto")
    shape = model_shape(LAYER)
    ready.wait()
    flops = _flops(shape, dtype)
    bandwidth = _stream_bandwidth()
    return RankSpeeds(
        flops_per_second=flops,
        memory_bandwidth=bandwidth,
        traffic_eager=_layer_traffic(shape, dtype, flops, bandwidth),
        head_passes=_objective_passes(dtype, flops, bandwidth),
        teacher_head_passes=_top_k_passes(bandwidth),
    )


def _flops(shape: ModelShape, dtype: torch.dtype) -> float:
    """Return the FLOPs per second of an MLP's product with its two backward products."""
    states = torch.randn(TOKENS, shape.hidden_size, dtype=dtype)
    weight = torch.randn(shape.intermediate_size, shape.hidden_size, dtype=dtype)
    grad = torch.randn(TOKENS, shape.intermediate_size, dtype=dtype)

    def products() -> None:
        _ = states @ weight.T
        _ = grad @ weight
        _ = grad.T @ states

    flops = 3 * 2 * TOKENS * shape.hidden_size * shape.intermediate_size
    return flops / seconds_of(products)


def _stream_bandwidth() -> float:
    """Return the bytes per second of `a += b`: two reads and a write."""
    first, second = torch.zeros(STREAM_NUMBERS), torch.ones(STREAM_NUMBERS)
    return 3 * 4 * STREAM_NUMBERS / seconds_of(lambda: first.add_(second))


def _layer_traffic(shape: ModelShape, dtype: torch.dtype, flops: float, bandwidth: float) -> float:
    """Return what lies between a layer's products, as a multiple of the least traffic.

    The multiple is what a forward pass takes beyond its products and attention (costs/time.py).
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.for_model(**LAYER)
    trunk: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).base_model
    ids = torch.zeros(1, TOKENS, dtype=torch.int64)
    with torch.inference_mode():
        seconds = seconds_of(lambda: trunk(input_ids=ids, use_cache=False))
    products = 2 * TOKENS * shape.matmul_parameters_per_layer / flops
    attention = 2 * TOKENS * TOKENS * shape.query_size / flops
    rotary = 2 * (shape.query_size + shape.kv_size)
    least = 10 * shape.hidden_size + rotary + 3 * shape.intermediate_size
    # The formulas count 2 bytes per number; a wider format shows as a larger multiple.
    return max((seconds - products - attention) * bandwidth / (2 * TOKENS * least), 1.0)


def _objective_passes(dtype: torch.dtype, flops: float, bandwidth: float) -> float:
    """Return how often the student's objective reads or writes its float32 logits."""
    size = int(LAYER["hidden_size"])
    weight = torch.nn.Parameter(torch.randn(VOCAB, size, dtype=dtype) * 0.02)
    objective = DistillObjective(weight, LossSpec(chunk_positions=CHUNK), 1.0)
    hidden = torch.randn(1, CHUNK, size, dtype=dtype, requires_grad=True)
    signal = take_top_k(torch.randn(CHUNK, VOCAB), 64, (1.0,))
    targets = TeacherTargets(torch.arange(CHUNK), torch.zeros(CHUNK, dtype=torch.int64), signal)
    senses = SenseTargets.empty(size)
    seconds = seconds_of(lambda: objective(hidden, targets, senses, Scales(1.0, 1.0)))
    products = 3 * 2 * CHUNK * VOCAB * size / flops
    return max((seconds - products) * bandwidth / (4 * CHUNK * VOCAB), 1.0)


def _top_k_passes(bandwidth: float) -> float:
    """Return how often a teacher reads or writes its logits while it takes the top k."""
    logits = torch.randn(16, VOCAB)
    seconds = seconds_of(lambda: take_top_k(logits, 64, (1.0,)))
    return max(seconds * bandwidth / (4 * 16 * VOCAB), 1.0)


def _collective_speeds(rank: int, ready: Any, port: int) -> tuple[float, float]:
    """Return (bytes per second, seconds of a small one) of gathers between two ranks."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    ready.wait()
    own = torch.ones(COLLECTIVE_NUMBERS)
    gathered = [torch.empty_like(own) for _ in range(2)]
    seconds = seconds_of(lambda: distributed.all_gather(gathered, own))
    small = torch.ones(1)
    hop = seconds_of(lambda: distributed.all_reduce(small))
    distributed.destroy_process_group()
    # Each rank receives half of what is gathered (costs/time.py).
    return 4 * COLLECTIVE_NUMBERS / seconds, hop


def _disk_speed() -> float:
    """Return the bytes per second of writing a file to the disk of the temporary folder."""
    block = os.urandom(1 << 20)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with (Path(folder) / "block").open("wb") as file:
            for _ in range(DISK_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return DISK_BYTES / (time.perf_counter() - started)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the median seconds of some repetitions, after one that is not measured."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return _median(seconds)


def _median(values: list[float]) -> float:
    return float(statistics.median(values))
