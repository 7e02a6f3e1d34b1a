"""The sections of a run spec and what follows from them; the rules that join them are checked in run.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dskd_ds.spec.base import Part
from dskd_ds.spec.data import DataSpec
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.models import StudentSpec, TeacherSpec
from dskd_ds.spec.processes import LinkSpec, TopologySpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.spec.training import CheckpointSpec, EvalSpec, MonitorSpec, OptimizerSpec, TrainSpec


class RunSections(Part):
    """All sections of a run spec, each valid by itself."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run, for titles and job names."""
    run_dir: str
    """Folder that everything of this run goes to."""
    deepspeed: str
    """DeepSpeed's JSON configuration. Batch sizes, optimiser, clipping and number format are filled in from this spec."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Seed of the data order and of everything that is drawn. 32 bits: with an epoch it still fits the generators' 64."""
    teacher: TeacherSpec
    student: StudentSpec = StudentSpec()
    data: DataSpec
    senses: SensesSpec
    loss: LossSpec = LossSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    train: TrainSpec
    topology: TopologySpec
    link: LinkSpec = LinkSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    monitor: MonitorSpec = MonitorSpec()
    eval: EvalSpec = EvalSpec()

    @property
    def num_accumulation_steps(self) -> int:
        """Forwards of each rank in one optimiser step."""
        return self.train.global_batch_blocks // (
            self.train.micro_batch_blocks * self.topology.num_students
        )

    @property
    def uses_senses(self) -> bool:
        """Whether the sense term is part of the loss."""
        return self.loss.sense_weight > 0

    @property
    def peak_lr(self) -> float:
        """Peak learning rate after scaling by ranks."""
        factor = self.topology.num_students if self.optimizer.scale_lr_by_ranks else 1
        return self.optimizer.lr * factor
