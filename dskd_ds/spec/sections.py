"""The sections of a run spec, and values that follow from them. Rules that join keys: rules.py."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from dskd_ds.spec.base import MAY_CHANGE, OTHER_ROUNDING, Part
from dskd_ds.spec.data import DataSpec
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.models import StudentSpec, TeacherSpec
from dskd_ds.spec.processes import LinkSpec, TopologySpec
from dskd_ds.spec.recipe import RecipeSpec
from dskd_ds.spec.repair import RepairSpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.spec.teachers import FurtherTeacherSpec
from dskd_ds.spec.terms import CANDIDATE_KINDS, LayerTermSpec
from dskd_ds.spec.training import CheckpointSpec, EvalSpec, MonitorSpec, OptimizerSpec, TrainSpec


class RunSections(Part):
    """All sections of a run spec, each valid by itself."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run, for titles and job names: letters, digits, `.`, `_` and `-`."""
    run_dir: Annotated[str, MAY_CHANGE]
    """Folder for everything that this run writes."""
    deepspeed: Annotated[str, OTHER_ROUNDING]
    """DeepSpeed's JSON configuration: a file, or one that ships (`dskd init --list`). Batch sizes,
    optimiser, clipping and number format are filled in from this spec. A run may be resumed with
    another ZeRO stage."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Seed of the data order and of every random draw. It has 32 bits, so that seed and epoch
    together fit the 64 bits of the random generators."""
    teacher: TeacherSpec
    """The frozen model that is distilled."""
    teachers: tuple[FurtherTeacherSpec, ...] = ()
    """Further teachers, as [[teachers]], each for the text of some [[data.train]]."""
    student: StudentSpec = StudentSpec()
    """The model that learns."""
    data: DataSpec
    """Texts and conversations to train and evaluate on."""
    recipe: Annotated[RecipeSpec | None, MAY_CHANGE] = None
    """How `dskd data paper` and `dskd data continue` make the conversations. Training does not read
    it."""
    senses: SensesSpec
    """The sense dictionary."""
    loss: LossSpec = LossSpec()
    """The terms of the objective and their weights."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """AdamW and its learning rate schedule."""
    repair: RepairSpec = RepairSpec()
    """Mending of the layers beside each cut, before distillation."""
    train: TrainSpec
    """Length of the run and size of its batches."""
    topology: TopologySpec
    """Number of student and teacher ranks."""
    link: Annotated[LinkSpec, MAY_CHANGE] = LinkSpec()
    """The messages between students and teachers."""
    checkpoint: Annotated[CheckpointSpec, MAY_CHANGE] = CheckpointSpec()
    """Saving and resuming."""
    monitor: Annotated[MonitorSpec, MAY_CHANGE] = MonitorSpec()
    """What is recorded during training."""
    eval: Annotated[EvalSpec, MAY_CHANGE] = EvalSpec()
    """What `dskd eval` and the report measure."""

    @property
    def num_accumulation_steps(self) -> int:
        """Forward passes of each rank per optimiser step."""
        blocks_per_forward = self.train.micro_batch_blocks * self.topology.num_students
        return self.train.global_batch_blocks // blocks_per_forward

    @property
    def num_further_teachers(self) -> int:
        """Number of teachers of a launch that are not [teacher]."""
        return sum(teacher.replicas for teacher in self.teachers)

    def for_teacher(self, teacher: FurtherTeacherSpec) -> Self:
        """Return the spec under which one of `teachers` serves: it stands in [teacher].

        There is no sense term, because dictionary and senses belong to the run's own [teacher].
        """
        own = self.teacher.model_copy(update={"model": teacher.model, "dtype": teacher.dtype})
        loss = self.loss.model_copy(update={"sense_weight": 0.0})
        return self.model_copy(update={"teacher": own, "loss": loss})

    @property
    def asks_teachers(self) -> bool:
        """Whether any request goes to a teacher; else the whole signal is read from a cache."""
        return self.teacher.source != "cache"

    @property
    def uses_senses(self) -> bool:
        """Whether the sense term is part of the loss."""
        return self.loss.sense_weight > 0

    def is_chosen_by_teacher(self, term: LayerTermSpec) -> bool:
        """Return whether the teacher chooses the senses of one of `loss.terms`.

        The other kinds get the teacher's states.
        """
        return self.senses.retrieve_on == "teacher" and term.kind in CANDIDATE_KINDS

    @property
    def measures_heldout_loss(self) -> bool:
        """Whether training measures the loss on held-out text."""
        return self.checkpoint.keep_best or self.monitor.heldout_every_steps > 0

    @property
    def peak_lr(self) -> float:
        """Peak learning rate, scaled by the number of student ranks if the spec says so."""
        factor = self.topology.num_students if self.optimizer.scale_lr_by_ranks else 1
        return self.optimizer.lr * factor
