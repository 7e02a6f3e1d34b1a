"""A run of the scaling study: models, cluster and settings, and what the plan says of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from dskd_ds.costs.clusters import Cluster, open_cluster
from dskd_ds.costs.constants import DEFAULT, Constants
from dskd_ds.costs.memory import ASSUMED_RELATED_FRACTION, run_signal, student_memory
from dskd_ds.costs.memory import teacher_memory as one_rank_memory
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.shapes import ModelShape, model_shape
from dskd_ds.costs.time import StepTime, TeacherTime, step_time, teacher_time, teachers_needed
from dskd_ds.costs.traffic import sense_share
from dskd_ds.costs.work import StepWork, TeacherWork, step_work, teacher_work
from dskd_ds.models.public_models import public_models
from dskd_ds.spec import RunSpec

MODELS = ("Llama-1B", "Llama-3B", "Llama-8B", "Qwen-14B", "Qwen-32B", "Llama-70B")
MODELS = (*MODELS, "Mistral-123B", "Llama-405B")
"""The study's models, by their short names in public_models.toml."""
ROW_TOKENS = 4096
MEMORY_SHARE = 0.9
"""Share of a GPU's memory that a prediction may fill; the rest is for fragments and libraries."""
PREFETCH_DEPTH = 2


@cache
def models() -> dict[str, ModelShape]:
    """Return the sizes of the study's models by their short names."""
    return {name: model_shape(public_models()[name].config, name) for name in MODELS}


@cache
def model_sources() -> dict[str, str]:
    """Return a hub name of each of the study's models by their short names."""
    return {name: public_models()[name].names[0] for name in MODELS}


@dataclass(frozen=True)
class Setting:
    """One run of the study."""

    student: str
    teacher: str
    cluster: str
    num_students: int
    micro_batch: int = 1
    num_micro_batches: int = 4
    signal: str = "topk"
    senses: bool = True
    retrieve_on: str = "teacher"
    deepspeed: str = "ds_configs/zero3.json"
    constants: Constants = DEFAULT
    is_kept: bool = False
    """Whether the signal is read from disk, so that no teacher runs."""

    @property
    def shapes(self) -> RunShapes:
        """The sizes of both models."""
        return RunShapes(teacher=models()[self.teacher], student=models()[self.student])

    @property
    def gpus(self) -> Cluster:
        """The cluster."""
        return opened(self.cluster)

    @property
    def spec(self) -> RunSpec:
        """The run as a user writes it."""
        return _spec(
            self.student,
            self.teacher,
            self.num_students,
            self.micro_batch,
            self.num_micro_batches,
            self.signal,
            self.senses,
            self.retrieve_on,
            self.deepspeed,
        )

    @property
    def sense_share(self) -> float:
        """Share of positions with the sense term."""
        return sense_share(self.spec, ASSUMED_RELATED_FRACTION)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of requests and replies per token of text."""
        return run_signal(self.spec, self.shapes).total

    def work(self) -> StepWork:
        """Return what the students do per step."""
        return step_work(
            self.spec,
            self.shapes.student,
            teacher_width=self.shapes.teacher.hidden_size,
            zero_stage=3,
            sense_share=self.sense_share,
        )

    def teacher_work(self) -> TeacherWork:
        """Return what a teacher does per request."""
        return teacher_work(
            self.spec,
            self.shapes.teacher,
            bytes_per_token=self.bytes_per_token,
            sense_share=self.sense_share,
            ranks_per_teacher=self.ranks_per_teacher() or 1,
        )

    def own(self) -> StepTime:
        """Return the seconds of a step that never waits for a teacher."""
        return step_time(self.work(), self.gpus, self.constants)

    def asked(self) -> TeacherTime:
        """Return the seconds of one request."""
        return teacher_time(self.teacher_work(), self.gpus, self.constants)

    def teacher_gpus(self) -> float:
        """Return the teacher GPUs with which nobody waits; 0 with a kept signal."""
        if self.is_kept:
            return 0.0
        ranks = self.ranks_per_teacher()
        return teachers_needed(self.work(), self.own().own, self.asked()) * (ranks or 0)

    def ranks_per_teacher(self) -> int | None:
        """Return the fewest GPUs of one node that hold a teacher; None if a node is too small."""
        memory = one_rank_memory(self.spec, self.shapes, "gpu").parts
        divided = memory["parameters"] + memory.get("logits", 0.0)
        whole = sum(memory.values()) - divided
        ranks = 1
        while ranks <= self.gpus.gpus_per_node:
            if divided / ranks + whole <= MEMORY_SHARE * self.gpus.memory_bytes:
                return ranks
            ranks *= 2
        return None

    def student_fits(self) -> bool:
        """Whether a student's GPU and its node have enough memory."""
        memory = student_memory(self.spec, self.shapes, "gpu")
        ranks = min(self.num_students, self.gpus.gpus_per_node)
        fits_gpu = memory.total <= MEMORY_SHARE * self.gpus.memory_bytes
        return fits_gpu and ranks * memory.host_total <= MEMORY_SHARE * self.gpus.node_memory_bytes

    def tokens_per_gpu_second(self) -> float:
        """Return tokens per second and GPU, students' and teachers' GPUs together."""
        own = self.own()
        return own.step_tokens / own.own / (self.num_students + self.teacher_gpus())

    def with_constant(self, name: str, value: float) -> Setting:
        """Return the same run with another value of a constant."""
        return replace(self, constants=replace(self.constants, **{name: value}))


@cache
def opened(name: str) -> Cluster:
    """Return a shipped cluster."""
    return open_cluster(name)


@cache
def _spec(
    student: str,
    teacher: str,
    num_students: int,
    micro_batch: int,
    num_micro_batches: int,
    signal: str,
    senses: bool,
    retrieve_on: str,
    deepspeed: str,
) -> RunSpec:
    content = {
        "name": "scaling",
        "run_dir": "runs/scaling",
        "deepspeed": deepspeed,
        "teacher": {"model": teacher, "dtype": "bfloat16"},
        "student": {"model": student, "dtype": "bfloat16", "activation_checkpointing": True},
        "data": {"train": [{"path": "text.jsonl"}], "block_tokens": ROW_TOKENS},
        "senses": {
            "dictionary": "senses/scaling",
            "lexicons": [{"kind": "wordnet", "path": "/usr/share/wordnet"}],
            "retrieve_on": retrieve_on,
        },
        "loss": {
            "signal": signal,
            "sense_weight": 1.0 if senses else 0.0,
            "kd_weight": 0.0 if signal == "hidden" else 0.7,
        },
        "train": {
            "num_steps": 1000,
            "global_batch_blocks": num_students * micro_batch * num_micro_batches,
            "micro_batch_blocks": micro_batch,
        },
        "topology": {"num_students": num_students, "num_teachers": 0, "threads_per_rank": 0},
        "link": {"prefetch_depth": PREFETCH_DEPTH, "address": "hostname"},
    }
    return RunSpec.model_validate(content)
