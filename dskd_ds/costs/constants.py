"""The constants of the time formulas: each with its range, its meaning and its source.

Some are fitted to public figures (`tools/validate_plan.py` prints the fit again), the others are
assumptions. The range of each is what `tools/scaling_study.py` shows as bands.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from dskd_ds.costs.clusters import Architecture

FITTED = "fitted to the public rows of tools/studies/public_rows.toml"


def _constant(value: float, low: float, high: float, meaning: str, source: str) -> Any:
    """Return a dataclass field whose metadata explain the constant."""
    metadata = {"low": low, "high": high, "meaning": meaning, "source": source}
    return field(default=value, metadata=metadata)


@dataclass(frozen=True)
class Constants:
    """Every number of the time formulas that follows from neither the spec nor a data sheet."""

    matmul_ampere: float = _constant(
        0.81, 0.74, 0.88, "reached share of the peak in matrix products, A100", FITTED
    )
    matmul_hopper: float = _constant(
        0.74, 0.58, 0.80, "reached share of the peak in matrix products, H100 and H200", FITTED
    )
    matmul_volta: float = _constant(
        0.60, 0.40, 0.75, "reached share of the peak in matrix products, V100", "an assumption"
    )
    attention_ampere: float = _constant(
        0.50,
        0.35,
        0.65,
        "reached share of the peak in attention, A100",
        "FlashAttention-2 (arXiv 2307.08691): 0.5 to 0.73; less in the backward pass",
    )
    attention_hopper: float = _constant(
        0.30,
        0.20,
        0.60,
        "reached share of the peak in attention, H100 and H200",
        "FlashAttention-3 (arXiv 2407.08608): 0.35 for FlashAttention-2, less in the backward pass;"
        " up to 0.75 for FlashAttention-3",
    )
    attention_volta: float = _constant(
        0.20,
        0.10,
        0.40,
        "reached share of the peak in attention, V100",
        "an assumption: the GPU has no FlashAttention kernel",
    )
    traffic_eager: float = _constant(
        4.76,
        3.4,
        6.0,
        "memory traffic between the matrix products, without torch.compile, as a multiple of the"
        " least",
        FITTED,
    )
    traffic_compiled: float = _constant(
        1.0,
        1.0,
        2.0,
        "the same with torch.compile",
        "an assumption: everything between two products is one kernel",
    )
    hidden_communication: float = _constant(
        0.78,
        0.35,
        1.0,
        "share of the time of overlapped collectives that still lengthens the step",
        FITTED,
    )
    collective_efficiency: float = _constant(
        0.80,
        0.60,
        0.92,
        "reached share of a link's bandwidth in large collectives",
        "stas00/ml-engineering, network/benchmarks: 0.78 to 0.92 of NVLink with nccl-tests",
    )
    hop_seconds: float = _constant(
        2.5e-6,
        1e-6,
        6e-6,
        "latency per rank of a ring collective, in seconds",
        "an assumption: a few microseconds per hop of NCCL's ring",
    )
    head_passes: float = _constant(
        12.0,
        8.0,
        20.0,
        "times that the student's float32 logits are read or written per position",
        "counted in objective/chunk.py and losses/",
    )
    teacher_head_passes: float = _constant(
        6.0,
        3.0,
        10.0,
        "times that the teacher's float32 logits are read or written per position",
        "counted in teacher/answer.py and signals/parts/",
    )
    sense_query_seconds: float = _constant(
        3e-4,
        1.5e-4,
        1e-3,
        "time of one HNSW query on one core, in seconds",
        "an assumption: 0.16 ms were measured here with 9,150 senses; millions of senses take more"
        " hops, and more of them miss the cache",
    )
    sense_rows: float = _constant(
        180.0,
        150.0,
        400.0,
        "senses that are compared exactly per sense position",
        "150 candidates of the index ([senses] index_search_effort), and an assumption for the"
        " senses of related words",
    )
    core_bandwidth: float = _constant(
        5e9,
        2e9,
        1e10,
        "memory bandwidth of one core that reads scattered rows, in bytes per second",
        "an assumption",
    )
    sense_core_share: float = _constant(
        0.5,
        0.25,
        0.75,
        "share of a node's cores that choose senses with [topology] threads_per_rank = 0",
        "an assumption",
    )
    link_bandwidth: float = _constant(
        1e9,
        3e8,
        3e9,
        "encrypted messages of one student over TCP, in bytes per second",
        "an assumption: one thread with CURVE; `dskd bench` measures it",
    )
    link_seconds: float = _constant(
        1e-3, 2e-4, 1e-2, "latency of a request and its reply, in seconds", "an assumption"
    )
    step_seconds: float = _constant(
        0.01, 0.0, 0.05, "fixed time of an optimiser step (agreements, record)", "an assumption"
    )
    host_bandwidth: float = _constant(
        2e10,
        1e10,
        4e10,
        "copies from a GPU to host memory, in bytes per second",
        "an assumption: PCIe 4 x16, 32 GB/s at most",
    )
    restart_seconds: float = _constant(
        300.0,
        60.0,
        900.0,
        "from a failure to the first step after it: noticing, new launch, loading",
        "an assumption",
    )
    gpu_hours_per_failure: float = _constant(
        50_700.0,
        10_000.0,
        100_000.0,
        "GPU-hours between two failures that end a job",
        "Llama 3 (arXiv 2407.21783): 419 unexpected interruptions of 16,384 GPUs in 54 days",
    )

    def matmul(self, architecture: Architecture) -> float:
        """Return the reached share of the peak in matrix products."""
        return self._of("matmul", architecture)

    def attention(self, architecture: Architecture) -> float:
        """Return the reached share of the peak in attention."""
        return self._of("attention", architecture)

    def hidden_share(self, architecture: Architecture) -> float:
        """Return the share of overlapped collectives that lengthens a step.

        Without a GPU nothing overlaps: the same cores compute and communicate.
        """
        return 1.0 if architecture == "measured" else self.hidden_communication

    def _of(self, kind: str, architecture: Architecture) -> float:
        if architecture == "measured":
            return 1.0
        return float(getattr(self, f"{kind}_{architecture}"))


def constant_fields() -> dict[str, Field[Any]]:
    """Return the constants by name; `metadata` has low, high, meaning and source of each."""
    return {item.name: item for item in fields(Constants)}


DEFAULT = Constants()
