"""The runs of a study: one spec per arm and seed, and what several of them share.

Arms that build the same dictionary share one, and runs that cut the same student share the cut. A
dictionary of the study is built with the base spec's seed, so that the seeds of an arm differ in
nothing but training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.senses.choose.retrieve import DECIDING
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import ORIGIN_SETTINGS
from dskd_ds.study.spec import BASELINE, Settings, StudySpec, all_arms, override, seeds_of_arm

SHARED_BUILD_SECTIONS = ("teacher", "data")
"""Sections of a spec that a dictionary depends on, besides fields of [senses]."""
NOT_CUT = {"source", "cache_dir", "cache_limit_bytes", "block_by_block"}
"""Fields of [teacher] that neither a dictionary nor a cut student depends on."""
NOT_BUILT = {*DECIDING, "dictionary", "local_dir", "collection_dir", "retrieve_on"}
"""Fields of [senses] that a dictionary does not depend on. All others count: one dictionary more
costs time, but a shared one with other settings would make results wrong."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    overrides: tuple[str, ...]
    """`--set` arguments for the base spec; they name the run directory too."""
    spec: RunSpec
    is_baseline: bool = False
    """Whether this stands for the teacher and the untrained student, which are only measured."""

    @property
    def name(self) -> str:
        """Name of the run's folder and of its result."""
        return f"{self.arm}-{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the run's spec says, to notice a changed study."""
        return self.spec.model_dump(mode="json", exclude_none=True)

    @property
    def cut_key(self) -> str | None:
        """Equal for runs that cut the same student; None if the spec names a student."""
        if self.spec.student.model is not None:
            return None
        cut = self.spec.student.model_dump(include=ORIGIN_SETTINGS, mode="json")
        # `by_impact` measures the layers on the training text.
        data = self.spec.data.model_dump(mode="json")
        teacher = self.spec.teacher.model_dump(mode="json", exclude=NOT_CUT)
        return _digest({"student": cut, "data": data, "teacher": teacher})


def study_runs(study: StudySpec) -> list[Run]:
    """Return all runs, every arm with the first seed before any with the second.

    So a study that is stopped early has each arm. Raises InputError if an arm is not a valid spec.
    """
    base, arms = base_spec(study), all_arms(study)
    seeds_by_arm = {arm: seeds_of_arm(study, arm) for arm in arms}
    all_seeds = dict.fromkeys(seed for seeds in seeds_by_arm.values() for seed in seeds)
    return [
        _run(study, base, arm, settings, seed)
        for seed in all_seeds
        for arm, settings in arms.items()
        if seed in seeds_by_arm[arm]
    ]


def baseline_run(study: StudySpec) -> Run:
    """Return what stands for the teacher and the untrained student: the base spec, not trained."""
    run_dir = Path(study.folder) / BASELINE
    chosen = [
        override(key, value) for key, value in (study.settings | {"run_dir": str(run_dir)}).items()
    ]
    spec = load_spec(study.base, chosen)
    return Run(BASELINE, spec.seed, tuple(chosen), spec, is_baseline=True)


def base_spec(study: StudySpec) -> RunSpec:
    """Return the spec that the arms override. Raises InputError if it is invalid."""
    return load_spec(study.base, [override(key, value) for key, value in study.settings.items()])


def _run(study: StudySpec, base: RunSpec, arm: str, settings: Settings, seed: int) -> Run:
    folder = Path(study.folder) / "runs" / f"{arm}-{seed}"
    own: Settings = {"run_dir": str(folder), "seed": seed, "name": f"{study.name}-{seed}"}
    chosen = [override(key, value) for key, value in (study.settings | settings | own).items()]
    try:
        spec = load_spec(study.base, chosen)
    except InputError as error:
        raise InputError(f"arm {arm}: {error}") from None
    if spec.uses_senses and build_key(spec) != build_key(base):
        dictionary = Path(study.folder) / "senses" / build_key(spec)
        chosen.append(override("senses.dictionary", str(dictionary)))
        spec = load_spec(study.base, chosen)
    return Run(arm, seed, tuple(chosen), spec)


def build_key(spec: RunSpec) -> str:
    """Return 16 hex digits that are equal for specs whose dictionaries are equal."""
    settings = spec.senses.model_dump(mode="json", exclude=NOT_BUILT)
    sections = {
        name: getattr(spec, name).model_dump(mode="json", exclude=NOT_CUT)
        for name in SHARED_BUILD_SECTIONS
    }
    return _digest({**sections, "senses": settings})


def _digest(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def first_of_each_dictionary(runs: Sequence[Run]) -> list[Run]:
    """Return one run for each dictionary that the study needs."""
    firsts: dict[str, Run] = {}
    for run in runs:
        if run.spec.uses_senses and not run.is_baseline:
            firsts.setdefault(run.spec.senses.dictionary, run)
    return list(firsts.values())
