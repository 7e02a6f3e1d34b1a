"""Makes the job scripts of one `dskd submit`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.commands.sbatch_options import further_options, teachers_options
from dskd_ds.errors import InputError
from dskd_ds.observe.attempts import attempts_dir
from dskd_ds.plan.allocation import Allocation, allocate, settings_for, teachers_of_node
from dskd_ds.plan.whole_teacher import check_whole_teacher
from dskd_ds.runtime.job_script import (
    bash_array,
    bash_string,
    environment_path,
    filled_script,
    script_path,
)
from dskd_ds.spec import RunSpec


@dataclass(frozen=True)
class Job:
    """A script that is ready for sbatch."""

    title: str
    template: Path
    script: str
    after: str
    """The kind of dependency on the job before it: `afterok`, `afterany` or `after`."""
    is_beside: bool = False
    """Whether it runs beside the job before it, and no later job waits for it."""


class Submission:
    """The jobs of one call of `dskd submit`."""

    def __init__(self, spec: RunSpec, args: argparse.Namespace) -> None:
        """Raises InputError if an option is invalid or missing."""
        self._spec, self._args = spec, args
        self._run_dir = Path(spec.run_dir).absolute()
        self._further = further_options(args)
        self._of_teachers = teachers_options(args)
        if args.het and args.teachers_job:
            raise InputError(
                "--het and --teachers-job: the teachers are either a component of the students'"
                " job or jobs of their own.\n  give one of the two."
            )
        if args.teachers_job and args.chain > 1:
            raise InputError(
                f"--chain {args.chain} and --teachers-job: a chain is for sites that do not allow"
                " requeueing, and the teachers' jobs reach the later students only by being"
                " requeued.\n  leave out --chain, or give --het instead of --teachers-job."
            )
        self._ranks_per_node = args.ntasks_per_node or args.gpus_per_node
        if self._ranks_per_node is None and set(args.what) != {"eval"}:
            raise InputError(
                "--gpus-per-node: the number of ranks on a node is unknown.\n"
                "  give --gpus-per-node N, or --ntasks-per-node N for nodes without GPUs."
            )

    def jobs(self) -> list[Job]:
        """Return the jobs in the order in which they run."""
        jobs: list[Job] = []
        if "pack" in self._args.what:
            jobs.append(self._pack())
        if "senses" in self._args.what:
            jobs.append(self._senses())
        if "teach" in self._args.what:
            jobs.append(self._teach())
        if "train" in self._args.what:
            training = [self._train(index) for index in range(1, self._args.chain + 1)]
            if self._args.teachers_job:
                training.insert(1, self._teachers())
            jobs += training
        if "eval" in self._args.what:
            jobs.append(self._eval())
        return jobs

    def _allocation(self) -> Allocation:
        args = self._args
        have_own_nodes = args.het or args.teachers_job
        most = teachers_of_node(self._of_teachers, self._spec) if have_own_nodes else None
        allocation = allocate(
            self._spec,
            ranks_per_node=self._ranks_per_node,
            teachers_per_node=args.teachers_per_node,
            most_teachers_per_node=most,
            num_teachers=args.num_teachers,
            have_own_nodes=have_own_nodes,
        )
        if have_own_nodes and allocation.num_teachers == 0:
            raise InputError(
                f"{'--het' if args.het else '--teachers-job'}: this run has no teachers"
                f' ([teacher] source = "{self._spec.teacher.source}").\n  leave it out.'
            )
        return allocation

    def _train(self, chain_index: int) -> Job:
        args, allocation = self._args, self._allocation()
        second = self._of_teachers if args.het else None
        is_het = second is not None
        has_students_only = is_het or args.teachers_job
        num_nodes = allocation.num_student_nodes if has_students_only else allocation.num_nodes
        num_tasks = allocation.students_per_node if has_students_only else allocation.tasks_per_node
        options = {
            "job-name": self._spec.name,
            "nodes": str(num_nodes),
            "ntasks-per-node": str(num_tasks),
            "signal": f"B:USR1@{args.signal_seconds}",
            "output": f"{attempts_dir(self._run_dir)}/slurm-%j.out",
        }
        options |= self._common_options()
        component = None
        if second is not None:
            # Each component of a heterogeneous job has options of its own.
            component = self._common_options() | {
                "nodes": str(allocation.num_teacher_nodes),
                "ntasks-per-node": str(allocation.teacher_tasks_per_node),
                "requeue": "",
            }
            component |= second
        return self._job(
            "train",
            options,
            self._train_settings(allocation, chain_index=chain_index, is_het=is_het),
            component=component,
            after="afterany" if chain_index > 1 else "afterok",
        )

    def _teachers(self) -> Job:
        """Return the array of jobs with one teachers' node each. They start after the students."""
        allocation = self._allocation()
        options = {
            "job-name": f"{self._spec.name}-teachers",
            "array": f"0-{allocation.num_teacher_nodes - 1}",
            "ntasks-per-node": str(allocation.teacher_tasks_per_node),
            "output": f"{attempts_dir(self._run_dir)}/teachers-%A_%a.out",
        }
        options |= self._common_options() | self._of_teachers
        settings = {
            "run_dir": bash_string(self._run_dir),
            "overrides": bash_array(self._overrides()),
            "num_teachers": str(allocation.num_teachers),
            "teachers_per_node": str(allocation.teachers_per_node),
            "ranks_per_teacher": str(allocation.ranks_per_teacher),
        }
        return self._job("teachers", options, settings, after="after", is_beside=True)

    def _train_settings(
        self, allocation: Allocation, *, chain_index: int, is_het: bool
    ) -> dict[str, str]:
        students_at = "--het-group=0" if is_het else "--relative=0"
        teachers_at = "--het-group=1" if is_het else f"--relative={allocation.num_student_nodes}"
        is_beside = self._args.teachers_job
        return {
            "run_dir": bash_string(self._run_dir),
            "overrides": bash_array(self._overrides()),
            "num_students": str(allocation.num_students),
            "num_student_nodes": str(allocation.num_student_nodes),
            "num_teachers": str(0 if is_beside else allocation.num_teachers),
            "num_teacher_nodes": str(0 if is_beside else allocation.num_teacher_nodes),
            "teachers_per_node": str(allocation.teachers_per_node),
            "ranks_per_teacher": str(allocation.ranks_per_teacher),
            "students_at": bash_array([students_at]),
            "teachers_at": bash_array([teachers_at]),
            "replicate_senses": str(int(self._spec.uses_senses and self._has_local_senses())),
            "chain_index": str(chain_index),
            "chain_length": str(self._args.chain),
        }

    def added_settings(self) -> list[str]:
        """Return what the training needs on its nodes besides the spec and --set: KEY=VALUE."""
        if "train" not in self._args.what:
            return []
        return settings_for(self._spec, self._allocation(), in_own_jobs=self._args.teachers_job)

    def _overrides(self) -> list[str]:
        return [*self._args.set, *self.added_settings()]

    def _has_local_senses(self) -> bool:
        return bool(self._spec.senses.local_dir)

    def _pack(self) -> Job:
        tasks = self._args.pack_tasks_per_node or self._ranks_per_node
        options = {
            "job-name": f"{self._spec.name}-pack",
            "nodes": str(self._args.pack_nodes),
            "ntasks-per-node": str(tasks),
            "output": f"{attempts_dir(self._run_dir)}/pack-%j.out",
        }
        common = self._common_options()
        common.pop("gpus-per-node", None)
        settings = {"overrides": bash_array(self._args.set)}
        return self._job("pack", options | common, settings)

    def _senses(self) -> Job:
        return self._with_whole_teachers("senses", self._args.senses_nodes)

    def _teach(self) -> Job:
        return self._with_whole_teachers("teach", self._args.teach_nodes)

    def _with_whole_teachers(self, stage: str, num_nodes: int) -> Job:
        """Return a job whose ranks each have a copy of the teacher."""
        check_whole_teacher(self._spec, f"dskd submit --what {stage}")
        options = {
            "job-name": f"{self._spec.name}-{stage}",
            "nodes": str(num_nodes),
            "ntasks-per-node": str(self._ranks_per_node),
            "output": f"{attempts_dir(self._run_dir)}/{stage}-%j.out",
        }
        settings = {"overrides": bash_array(self._args.set)}
        return self._job(stage, options | self._common_options(), settings)

    def _eval(self) -> Job:
        options = {
            "job-name": f"{self._spec.name}-eval",
            "output": f"{attempts_dir(self._run_dir)}/eval-%j.out",
        }
        common = self._common_options()
        if self._args.gpus_per_node:
            common["gpus-per-node"] = "1"
        settings = {"overrides": bash_array(self._args.set)}
        return self._job("eval", options | common, settings)

    def _common_options(self) -> dict[str, str]:
        """Return the options that all jobs share, in the order in which they are written."""
        args = self._args
        given = {
            "partition": args.partition,
            "time": args.time,
            "gpus-per-node": args.gpus_per_node,
        }
        options = {key: str(value) for key, value in given.items() if value is not None}
        return options | self._further

    def _job(
        self,
        stage: str,
        options: dict[str, str],
        settings: dict[str, str],
        *,
        component: dict[str, str] | None = None,
        after: str = "afterok",
        is_beside: bool = False,
    ) -> Job:
        template = script_path(f"{stage}.sbatch")
        spec_file = Path(self._args.spec)
        shared = {
            # A spec that ships is found by its name from any folder.
            "spec": bash_string(spec_file.absolute() if spec_file.exists() else spec_file),
            "python": bash_string(sys.executable),
            "environment": bash_string(environment_path(self._args.environment)),
        }
        script = filled_script(
            template.read_text(encoding="utf-8"),
            options=options,
            settings=shared | settings,
            second_component=component,
        )
        return Job(title=stage, template=template, script=script, after=after, is_beside=is_beside)
