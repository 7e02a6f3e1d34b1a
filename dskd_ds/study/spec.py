"""A study file: a base spec, the arms that override it, and the seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, ValidationError, model_validator

from dskd_ds.errors import InputError
from dskd_ds.spec.base import Fraction, NonNegativeInt, Part, PositiveInt
from dskd_ds.spec.explain import explain
from dskd_ds.spec.load import expand, read_toml
from dskd_ds.spec.problems import Problem, ProblemsError
from dskd_ds.spec.shipped import STUDIES, shipped_file

Value = bool | int | float | str | list[Any]
"""The value of a setting, as TOML gives it."""
Settings = dict[str, Value]
"""`section.key` -> value."""
ARM_NAME = re.compile(r"[A-Za-z0-9._=,+-]+")
BASELINE = "baseline"
"""Name of the folder and result of the teacher and the untrained student."""
OWN_KEYS = ("run_dir", "name", "seed")
"""Keys of a run spec that a study sets for each run."""
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 32)], ...], Field(min_length=1)]


class PrepareSpec(Part):
    """A `dskd` command that makes files which all runs need."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the stage, in messages and of its log."""
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """Arguments after `dskd`. `{base}` in them stands for the base spec, `{folder}` for the study's
    folder."""
    makes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files that exist once the command is done; it is not called again then. `{folder}` in them
    stands for the study's folder."""


class TasksSpec(Part):
    """Question-answering tasks that every run is measured on, besides held-out text."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Tasks of `dskd eval --tasks`, also `wic` and `simlex`."""
    data_dir: str | None = None
    """Folder with a file per task, as of `dskd eval --data-dir`; without it the hub is read.
    `{folder}` in it stands for the study's folder."""
    limit: PositiveInt | None = None
    """Number of questions of each task, the first by id; without it, all."""
    max_prompt_tokens: PositiveInt | None = None
    """Longest prompt in tokens: shots are dropped until it fits, and a question that is longer
    without any shot is left out."""
    max_shots: NonNegativeInt | None = None
    """Most shots before a question; without it, the task's own number."""
    scoring: Literal["all", "label"] = "all"
    """`label`: only the labels' log-probabilities, which need one forward pass per question.
    `all`: the model's own answer too."""
    batch_size: PositiveInt = 8
    """Questions per forward pass."""


class CostSpec(Part):
    """What the sense term of an arm costs, against the reference: `dskd bench --only cost`."""

    arm: str
    """Arm whose sense term is measured. The reference is the same arm without it."""
    rounds: PositiveInt = 5
    """Launches of each kind."""


class StudySpec(Part):
    """What `dskd sweep` runs: every arm with every seed."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the study, for titles."""
    base: str
    """Run spec that all arms override: a file, counted from the current folder, or one that
    ships."""
    folder: str
    """Folder for everything that the study writes."""
    seeds: Seeds
    """Seeds of each arm. A verdict about settings needs at least 2."""
    seeds_of: dict[str, Seeds] = Field(default={})
    """Name of an arm -> its seeds, if they are not `seeds`."""
    prepare: tuple[PrepareSpec, ...] = ()
    """Commands that make what the runs need, in this order; one section [[prepare]] each."""
    tasks: TasksSpec | None = None
    """Question-answering tasks that every run is measured on."""
    cost: CostSpec | None = None
    """Measure what the sense term of an arm costs, once all runs have finished."""
    baselines: bool = False
    """Measure the teacher and the untrained student too."""
    settings: Settings = Field(default={})
    """Settings of the base spec to override in all arms."""
    arms: dict[str, Settings] = Field(default={})
    """Name of an arm -> settings to override in it. An empty section is the base spec itself."""
    grid: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field(default={})
    """Setting -> values. Every combination is an arm, besides those of `arms`."""
    reference: str | None = None
    """Arm that the others are compared with. Default: the first one."""
    controls: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default={})
    """Name of an arm -> its controls: arms that it is also compared with, such as the same term
    with shuffled senses. It counts as a gain only if it beats the reference and each of them."""
    select: Literal["kl", "cross_entropy"] = "kl"
    """Score on held-out text by which the best arm is chosen."""
    dev_share: Fraction = 0.5
    """Share of the held-out documents that the best arm is chosen on. The rest is its test; other
    tasks are no part of the choice. 0: no arm is chosen, and all documents are reported."""

    @model_validator(mode="after")
    def _is_usable(self) -> StudySpec:
        problems = list(_problems(self))
        if problems:
            raise ProblemsError(problems)
        return self


def _problems(study: StudySpec) -> Iterator[Problem]:
    """Yield what is wrong with a study."""
    if len(set(study.seeds)) < len(study.seeds):
        yield Problem("seeds", study.seeds, "a seed is given twice", "give each seed once")
    arms = all_arms(study)
    if not arms:
        yield Problem("arms", None, "there is none", "give [arms.NAME] sections or a [grid]")
    if study.cost is not None and study.cost.arm not in arms:
        known = ", ".join(arms)
        yield Problem("cost.arm", study.cost.arm, "there is no such arm", f"arms: {known}")
    if study.cost is not None and not study.baselines:
        reason = "the untrained student comes from the baselines"
        yield Problem("cost", study.cost.arm, reason, "set baselines = true, or remove [cost]")
    if study.cost is not None and arms and study.cost.arm == reference_arm(study):
        reason = "it is the reference, which it is to be measured against"
        yield Problem("cost.arm", study.cost.arm, reason, "name another arm")
    for name in study.seeds_of.keys() - arms.keys():
        known = ", ".join(arms)
        yield Problem(f"seeds_of.{name}", name, "there is no such arm", f"arms: {known}")
    for name, seeds in study.seeds_of.items():
        if len(set(seeds)) < len(seeds):
            yield Problem(f"seeds_of.{name}", seeds, "a seed is given twice", "give each seed once")
    yield from _control_problems(study, arms)
    if study.reference is not None and study.reference not in arms:
        known = ", ".join(arms)
        yield Problem("reference", study.reference, "there is no such arm", f"arms: {known}")
    for name, settings in arms.items():
        if not ARM_NAME.fullmatch(name):
            yield Problem(
                f"arms.{name}",
                name,
                "an arm's name is part of file names",
                "use letters, digits and . _ = , + - only",
            )
        if study.baselines and name == BASELINE:
            reason = "with baselines = true, it names the teacher and the untrained student"
            yield Problem(f"arms.{name}", name, reason, "give it another name")
        for key in OWN_KEYS:
            if key in study.settings | settings:
                value = (study.settings | settings)[key]
                reason = "the study sets it for each run"
                yield Problem(f"arms.{name}.{key}", value, reason, "remove it")


def _control_problems(study: StudySpec, arms: Mapping[str, Settings]) -> Iterator[Problem]:
    """Yield what is wrong with the controls of a study's arms."""
    known = f"arms: {', '.join(arms)}"
    for name, controls in study.controls.items():
        if name not in arms:
            yield Problem(f"controls.{name}", name, "there is no such arm", known)
        for control in controls:
            if control not in arms:
                yield Problem(f"controls.{name}", control, "there is no such arm", known)
            if control == name:
                yield Problem(f"controls.{name}", control, "an arm is no control of itself", known)


def all_arms(study: StudySpec) -> dict[str, Settings]:
    """Return the settings of every arm: those of [arms], then every combination of [grid]."""
    arms = dict(study.arms)
    if study.grid:
        for values in itertools.product(*study.grid.values()):
            settings = dict(zip(study.grid, values, strict=True))
            arms[_grid_name(settings)] = settings
    return arms


def _grid_name(settings: Settings) -> str:
    """Return a name such as `pull=0.5,push=1`."""
    parts = (f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())
    return re.sub(r"[^A-Za-z0-9._=,+-]", "_", ",".join(parts))


def seeds_of_arm(study: StudySpec, arm: str) -> tuple[int, ...]:
    """Return the seeds of an arm."""
    return study.seeds_of.get(arm, study.seeds)


def filled(text: str, study: StudySpec) -> str:
    """Return a text of the study with `{folder}` and `{base}` filled in."""
    return text.replace("{folder}", study.folder).replace("{base}", study.base)


def reference_arm(study: StudySpec) -> str:
    """Return the name of the arm that the others are compared with."""
    return study.reference or next(iter(all_arms(study)))


def load_study(path: str | Path) -> StudySpec:
    """Read and validate a study file, or one that ships (`ds_configs/studies/...`).

    Raises InputError that names file, key and reason.
    """
    file = shipped_file(path, STUDIES, f"{path}: ")
    try:
        return StudySpec.model_validate(expand(read_toml(file)))
    except ValidationError as error:
        raise InputError(
            "\n".join(f"{path}: {message}" for message in explain(error, StudySpec))
        ) from None


def override(key: str, value: Value) -> str:
    """Return one `--set` argument."""
    # Within a list, tables are written inline, as an argument needs them. No string of TOML spans
    # lines here, so the lines of a list can be joined.
    lines = tomli_w.dumps({"value": [value]}).splitlines()
    text = " ".join(line.strip() for line in lines)
    inner = text.removeprefix("value = [").removesuffix("]").strip()
    return f"{key}={inner.removesuffix(',')}"
