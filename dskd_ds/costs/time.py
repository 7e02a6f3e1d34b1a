"""Seconds of a step and of a teacher's answer, from work, cluster and constants. Loads no torch.

A pass over a micro-batch has three kinds of work: matrix products and attention, bounded by the
GPU's arithmetic; the operations between them, bounded by its memory; and ZeRO's collectives,
bounded by the links. Collectives run beside computation, so a pass takes the longer of the two, and
a share of the shorter one, because collectives take cores and memory bandwidth from computation.

For N tokens, a layer's products take 2 N weights FLOPs forward and twice as many backward. Causal
attention takes 2 N T q FLOPs forward (T: tokens of the row, q: width of the queries; half of the
full square) and 2.5 times as many backward, because its kernels compute the scores again.
"""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.costs.clusters import Cluster
from dskd_ds.costs.collectives import (
    added_seconds,
    pass_collectives,
    step_collectives,
    teacher_all_reduces,
)
from dskd_ds.costs.constants import DEFAULT, Constants
from dskd_ds.costs.shapes import ModelShape
from dskd_ds.costs.work import StepWork, TeacherWork

BACKWARD_PRODUCTS = 2.0
BACKWARD_ATTENTION = 2.5
BACKWARD_TRAFFIC = 2.0
RECOMPUTED_PRODUCTS = {"none": 0.0, "selective": 0.5, "full": 1.0}
RECOMPUTED_REST = {"none": 0.0, "selective": 0.5, "full": 1.0}
RECOMPUTED_ATTENTION = {"none": 0.0, "selective": 0.0, "full": 1.0}
LOGIT_BYTES = 4
HEAD_PRODUCTS = 3
"""Products with the head's matrix: logits, gradient by the states, gradient by the weights."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step of the students."""

    compute: float
    """Passes over the layers, without collectives."""
    head: float
    """The objective: head, logits and losses, sense term."""
    gather_reduce: float
    """What ZeRO's collectives add: what is not hidden, and what hidden ones slow down."""
    update: float
    """The optimiser's update, and the fixed part of a step."""
    teacher_wait: float
    """Waiting for replies of the teachers."""
    sense_wait: float
    """Waiting for senses, beyond all else."""
    step_tokens: int

    @property
    def own(self) -> float:
        """Seconds of a step without waiting for teachers and senses."""
        return self.compute + self.head + self.gather_reduce + self.update

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.own + self.teacher_wait + self.sense_wait

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all students per second."""
        return self.step_tokens / self.total


@dataclass(frozen=True)
class TeacherTime:
    """Seconds of one request."""

    layers: float
    head: float
    all_reduce: float
    """Between the ranks of one teacher."""
    senses: float
    """Choosing senses, beyond what the forward pass hides."""
    transfer: float
    """Bytes on the way, while the next request is computed."""

    @property
    def forward(self) -> float:
        """Seconds that the teacher needs per request."""
        return self.layers + self.head + self.all_reduce + self.senses

    @property
    def latency(self) -> float:
        """Seconds from a request to its reply, if nobody else asks."""
        return self.forward + self.transfer


def step_time(
    work: StepWork,
    cluster: Cluster,
    constants: Constants = DEFAULT,
    *,
    teacher: TeacherTime | None = None,
    num_teachers: int = 1,
    prefetch_depth: int = 2,
) -> StepTime:
    """Return the seconds of a step.

    teacher: of one request, which is one rank's micro-batch. Without it nobody waits for teachers.
    """
    forward, backward = _layer_seconds(work, cluster, constants)
    gather, back = pass_collectives(work, cluster, constants)
    micro_batches = work.num_micro_batches
    head = objective_seconds(work, cluster, constants)
    exposed = added_seconds(forward + head / 3, gather, constants, cluster)
    exposed += added_seconds(backward + head * 2 / 3, back, constants, cluster)
    final = step_collectives(work, cluster, constants)
    update = _update_seconds(work, cluster, constants)
    own = micro_batches * (forward + backward + head + exposed) + final + update
    sense_wait = max(0.0, sense_seconds(work, cluster, constants) - own)
    teacher_wait = 0.0
    if teacher is not None:
        supply = supply_seconds(work, teacher, num_teachers, prefetch_depth, own + sense_wait)
        teacher_wait = max(0.0, supply - own - sense_wait)
    return StepTime(
        compute=micro_batches * (forward + backward),
        head=micro_batches * head,
        gather_reduce=micro_batches * exposed + final,
        update=update,
        teacher_wait=teacher_wait,
        sense_wait=sense_wait,
        step_tokens=work.step_tokens,
    )


def teacher_time(
    work: TeacherWork, cluster: Cluster, constants: Constants = DEFAULT
) -> TeacherTime:
    """Return the seconds of one request on one teacher."""
    shape, ranks, tokens = work.shape, work.ranks_per_teacher, work.request_tokens
    peak = _peak(cluster, constants)
    products, attention, traffic = _one_layer(work, tokens, cluster, constants)
    multiple = constants.traffic_compiled if work.compiled else constants.traffic_eager
    per_layer = (products + attention) / ranks + traffic * multiple
    weight_bytes = work.parameter_bytes * shape.num_layers * shape.matmul_parameters_per_layer
    reading = weight_bytes / ranks / cluster.memory_bandwidth
    layers = max(shape.num_layers * per_layer, reading)
    logits = tokens * work.head_share * shape.vocab_size
    passes = constants.teacher_head_passes * LOGIT_BYTES * logits / cluster.memory_bandwidth
    head = (2 * logits * shape.hidden_size / peak + passes) / ranks
    choosing = _choosing_seconds(work.sense_share * tokens, shape, constants)
    senses = choosing / _choosing_cores(work.threads_per_rank, ranks, cluster, constants)
    all_reduce = teacher_all_reduces(work, cluster, constants)
    transfer = work.reply_bytes_per_token * tokens / constants.link_bandwidth
    return TeacherTime(
        layers=layers,
        head=head,
        all_reduce=all_reduce,
        senses=max(0.0, senses - layers - head - all_reduce),
        transfer=transfer + constants.link_seconds,
    )


def supply_seconds(
    work: StepWork,
    teacher: TeacherTime,
    num_teachers: int,
    prefetch_depth: int,
    own_seconds: float,
) -> float:
    """Return the seconds in which the teachers can supply one step's replies.

    The longest of three: all teachers are busy, a student's own link is busy, or replies take
    longer than `prefetch_depth` steps. In the last case, `prefetch_depth + 1` steps take one reply
    and one step of computing (costs/simulate/ follows the requests and finds the same).
    own_seconds: of a step without waiting for teachers.
    """
    requests = work.num_ranks * work.num_micro_batches
    busy = requests * teacher.forward / num_teachers
    receiving = work.num_micro_batches * teacher.transfer
    late = (teacher.latency + own_seconds) / (prefetch_depth + 1)
    return max(busy, receiving, late)


def teachers_needed(work: StepWork, own_seconds: float, teacher: TeacherTime) -> float:
    """Return the number of teachers (a fraction) with which neither side waits."""
    return work.num_ranks * work.num_micro_batches * teacher.forward / own_seconds


def save_seconds(
    work: StepWork, cluster: Cluster, constants: Constants = DEFAULT, *, asynchronous: bool = False
) -> tuple[float, float]:
    """Return (seconds for which training stops, seconds until the files are written)."""
    nodes = cluster.num_nodes(work.num_ranks)
    bandwidth = min(nodes * cluster.disk_write_bandwidth, cluster.disk_total_write_bandwidth)
    writing = work.saved_bytes / bandwidth
    if not asynchronous:
        return writing, writing
    return work.saved_bytes / work.num_ranks / constants.host_bandwidth, writing


def objective_seconds(work: StepWork, cluster: Cluster, constants: Constants) -> float:
    """Return the seconds of the objective of one micro-batch."""
    tokens, shape = work.micro_batch_tokens, work.shape
    products = HEAD_PRODUCTS if work.trains_outer else HEAD_PRODUCTS - 1
    flops = 2 * products * tokens * shape.vocab_size * shape.hidden_size
    flops += 2 * tokens * shape.vocab_size * work.rebuilds_width
    passes = constants.head_passes * (1.5 if work.rebuilds_width else 1.0)
    traffic = passes * LOGIT_BYTES * tokens * shape.vocab_size
    # S+ is a mean of float32, S- some rows of bfloat16: about 20 D bytes, each used three times.
    traffic += tokens * work.sense_share * 60 * (work.rebuilds_width or shape.hidden_size)
    return flops / _peak(cluster, constants) + traffic / cluster.memory_bandwidth


def sense_seconds(work: StepWork, cluster: Cluster, constants: Constants) -> float:
    """Return the seconds in which a node's cores retrieve the senses of one step."""
    choices = work.candidate_sets + (work.sense_share if work.retrieves_senses else 0.0)
    if not choices:
        return 0.0
    ranks_per_node = min(work.num_ranks, cluster.gpus_per_node)
    positions = work.micro_batch_tokens * work.num_micro_batches * choices
    choosing = _choosing_seconds(positions * ranks_per_node, work.shape, constants)
    return choosing / _choosing_cores(work.threads_per_rank, ranks_per_node, cluster, constants)


def _choosing_cores(
    threads_per_rank: int, num_ranks: int, cluster: Cluster, constants: Constants
) -> float:
    """Return the cores that choose senses for some ranks of a node."""
    if threads_per_rank:
        return float(threads_per_rank * num_ranks)
    share = num_ranks / cluster.gpus_per_node * constants.sense_core_share
    return max(1.0, cluster.cpu_cores_per_node * share)


def _choosing_seconds(positions: float, shape: ModelShape, constants: Constants) -> float:
    """Return the core-seconds of choosing the senses of so many positions."""
    row_bytes = 2 * shape.hidden_size
    exact = constants.sense_rows * row_bytes / constants.core_bandwidth
    return positions * (constants.sense_query_seconds + exact)


def _peak(cluster: Cluster, constants: Constants) -> float:
    """Return the FLOPs per second that matrix products reach."""
    share = constants.matmul(cluster.architecture) * cluster.sustained_clock
    return share * cluster.flops_per_second


def _one_layer(
    work: StepWork | TeacherWork, tokens: int, cluster: Cluster, constants: Constants
) -> tuple[float, float, float]:
    """Return the seconds of a layer's products, attention and least memory traffic, forward."""
    shape = work.shape
    products = 2 * tokens * shape.matmul_parameters_per_layer / _peak(cluster, constants)
    attention_peak = constants.attention(cluster.architecture) * cluster.flops_per_second
    attention_peak *= cluster.sustained_clock
    attention = 2 * tokens * work.row_tokens * shape.query_size / attention_peak
    # A calibrated machine's multiple of the least traffic is that of 2 bytes per number.
    number_bytes = 2 if cluster.architecture == "measured" else work.parameter_bytes
    traffic = number_bytes * tokens * _traffic_numbers(shape) / cluster.memory_bandwidth
    return products, attention, traffic


def _traffic_numbers(shape: ModelShape) -> int:
    """Return the least numbers read and written per token between a layer's products, forward.

    Two norms (read, write), two residual sums (two reads, one write), rotary positions (read and
    write queries and keys), and the activation (gated: two reads, one write).
    """
    rotary = 2 * (shape.query_size + shape.kv_size)
    activation = (3 if shape.gated else 2) * shape.intermediate_size
    return 10 * shape.hidden_size + rotary + activation


def _layer_seconds(work: StepWork, cluster: Cluster, constants: Constants) -> tuple[float, float]:
    """Return the seconds of the forward and the backward pass of one micro-batch."""
    products, attention, traffic = _one_layer(work, work.micro_batch_tokens, cluster, constants)
    traffic *= constants.traffic_compiled if work.compiled else constants.traffic_eager
    forward = work.shape.num_layers * (products + attention + traffic)
    per_layer = (
        products * (BACKWARD_PRODUCTS + RECOMPUTED_PRODUCTS[work.recompute])
        + attention * (BACKWARD_ATTENTION + RECOMPUTED_ATTENTION[work.recompute])
        + traffic * (BACKWARD_TRAFFIC + RECOMPUTED_REST[work.recompute])
    )
    return forward, work.trained_layers * per_layer


def _update_seconds(work: StepWork, cluster: Cluster, constants: Constants) -> float:
    """Return the seconds of the optimiser's update, and of what a step needs besides."""
    parts = work.num_ranks if work.zero_stage > 0 else 1
    num_bytes = work.adam_bytes * work.trained_parameters / parts
    return num_bytes / cluster.memory_bandwidth + constants.step_seconds
