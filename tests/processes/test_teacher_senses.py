"""Runs whose teachers choose the senses: the same steps as with students, with fewer bytes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from dskd_ds.errors import ExitCode
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.observe.run_files import PROGRESS_FOLDER, TeacherHealth, end_file, read_records
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.senses.index.graph import INDEX_FOLDER
from tests.conftest import TinyWorld
from tests.processes.conftest import PATIENCE_SECONDS, Launch, Start, dskd, ranks, wait_until
from tests.processes.warm import warm

pytestmark = pytest.mark.process
EXACT = (
    "loss",
    "loss_ce",
    "loss_kd",
    "loss_sense",
    "grad_norm",
    "sense_positions",
    "sense_pull_distance",
    "sense_push_active",
    "sense_with_synonyms",
    "sense_with_antonyms",
    "sense_with_neighbours",
    "sense_with_nothing",
)
ON_TEACHER = "senses.retrieve_on=teacher"


def overrides_of(run_dir: Path, *more: str) -> list[str]:
    """Return overrides as arguments. The teacher is in bfloat16, so the wire loses nothing."""
    keys = (
        f"run_dir={run_dir}",
        "teacher.dtype=bfloat16",
        "train.num_steps=4",
        "train.micro_batch_blocks=2",
        "student.layers=first",
        "checkpoint.every_steps=0",
        *more,
    )
    return override_argv(keys)


def phases(run_dir: Path, replica: int) -> list[str]:
    """Return what the teachers of a number do."""
    pattern = f"{PROGRESS_FOLDER}/teacher-{replica:05d}-*.json"
    return [record.phase for record in read_records(run_dir, pattern, TeacherHealth).values()]


@pytest.fixture
def by_students(tiny: TinyWorld, launch: Launch, dictionary: Path) -> list[dict[str, float]]:
    """The steps of a run whose students choose the senses, trained once per session."""
    folder = tiny.folder / "students_choose"
    if not folder.is_dir():
        assert dictionary.is_dir()
        argv = ["--spec", str(tiny.spec_file), *overrides_of(folder)]
        assert launch(*ranks(3, "dskd_ds/train.py", *argv)).code == 0
    return read_metrics(folder)


def same_steps(
    mine: list[dict[str, float]], theirs: list[dict[str, float]], keys: tuple[str, ...] = EXACT
) -> bool:
    """Return whether two runs have exactly the same losses and sense metrics."""

    def exact(records: list[dict[str, float]]) -> list[list[float]]:
        return [[record[key] for key in keys] for record in records]

    return exact(mine) == exact(theirs)


def test_teachers_of_the_launch_choose_the_same_senses(
    tiny: TinyWorld, launch: Launch, by_students: list[dict[str, float]]
) -> None:
    """The two teachers of the launch share one index."""
    folder = tiny.folder / "teacher_chooses"
    ended = launch(
        *dskd(
            "train",
            str(tiny.spec_file),
            *overrides_of(folder, ON_TEACHER, "topology.num_teachers=2"),
        )
    )
    assert ended.code == 0
    assert "numbers of senses at ~" in ended.output
    found = read_metrics(folder)
    assert same_steps(found, by_students)
    assert len(found) == 4
    assert all(record["loss_sense"] > 0 and record["sense_with_neighbours"] > 0 for record in found)
    assert all(
        mine["link_bytes"] < theirs["link_bytes"]
        for mine, theirs in zip(found, by_students, strict=True)
    )


def test_a_separate_teacher_has_the_only_index(
    tiny: TinyWorld, start: Start, dictionary: Path, by_students: list[dict[str, float]]
) -> None:
    """The students' dictionary has no index."""
    assert by_students
    folder, copy = tiny.folder / "teacher_elsewhere", tiny.folder / "senses_without_index"
    shutil.copytree(dictionary, copy, ignore=shutil.ignore_patterns(INDEX_FOLDER))
    spec = [
        "--spec",
        str(tiny.spec_file),
        *overrides_of(folder, ON_TEACHER, "topology.num_teachers=0"),
    ]
    students = start(*ranks(2, "dskd_ds/train.py", *spec, "--set", f"senses.dictionary={copy}"))
    alone = start(*warm([sys.executable, "-m", "dskd_ds.teacher", *spec]))
    assert students.wait(PATIENCE_SECONDS) == 0
    assert alone.wait(30) == 0
    assert same_steps(read_metrics(folder), by_students)


def test_teachers_of_a_step_share_an_index_and_have_numbers_of_their_own(
    tiny: TinyWorld, start: Start, dictionary: Path, variables: dict[str, str]
) -> None:
    """The second one starts when the graph is gone. No students come, so it ends with that."""
    folder, copy = tiny.folder / "teachers_of_a_step", tiny.folder / "senses_of_a_step"
    shutil.copytree(dictionary, copy)
    more = (ON_TEACHER, "topology.num_teachers=0", f"senses.dictionary={copy}")
    spec = ["--spec", str(tiny.spec_file), *overrides_of(folder, *more)]
    command = [sys.executable, "-m", "dskd_ds.teacher", *spec, "--replica", "4"]
    variables.update(SLURM_NTASKS="2", SLURM_STEP_TASKS_PER_NODE="2", SLURM_NODEID="0")
    variables.update(SLURM_PROCID="0", SLURM_LOCALID="0")
    first = start(*warm(command))
    wait_until(lambda: "serving" in phases(folder, 4), first)
    (copy / INDEX_FOLDER / "graph.bin").unlink()
    variables.update(SLURM_PROCID="1", SLURM_LOCALID="1")
    second = start(*warm([*command, "--set", "link.student_wait_seconds=1"]))
    assert second.wait(PATIENCE_SECONDS) == ExitCode.NO_TEACHER
    assert phases(folder, 5) == ["ended"]
    assert end_file(folder, "teacher", 5).is_file()
    assert not end_file(folder, "teacher", 4).exists()


@pytest.fixture
def layer_senses(tiny: TinyWorld, launch: Launch) -> Path:
    """A dictionary of the teacher's third layer, of the tokens that states sit on."""
    folder = tiny.folder / "senses-3"
    if not folder.is_dir():
        settings = (f"dictionary={folder}", "hidden_layer=3", "attribution=on")
        overrides = override_argv([f"senses.{setting}" for setting in settings])
        assert launch(*dskd("senses", "build", str(tiny.spec_file), *overrides)).code == 0
    return folder


@pytest.mark.slow
def test_teachers_choose_the_senses_of_losses_below_the_head(
    tiny: TinyWorld, launch: Launch, dictionary: Path, layer_senses: Path
) -> None:
    """Beside those of the sense term. The cosine still gets the states of its own layer."""
    assert dictionary.is_dir()
    above = f'student_layer=1,teacher_layer=3,weight=0.1,dictionary="{layer_senses}"'
    terms = [
        '{kind="cosine",student_layer=2,teacher_layer=2,weight=0.1}',
        f'{{kind="posterior",{above}}}',
        f'{{kind="contrast",shuffled_senses=true,{above}}}',
    ]
    of_terms = f"loss.terms=[{','.join(terms)}]"
    steps: dict[str, list[dict[str, float]]] = {}
    outputs: dict[str, str] = {}
    for where in ("student", "teacher"):
        folder = tiny.folder / f"terms_chosen_by_{where}"
        overrides = overrides_of(folder, of_terms, f"senses.retrieve_on={where}")
        ended = launch(*dskd("train", str(tiny.spec_file), *overrides))
        assert ended.code == 0
        steps[where], outputs[where] = read_metrics(folder), ended.output
    names = ("2_cosine", "1_posterior", "1_contrast")
    losses = tuple(f"loss_layer_{name}" for name in names)
    assert same_steps(steps["teacher"], steps["student"], keys=EXACT + losses)
    assert len(steps["teacher"]) == 4
    assert all(record[key] > 0 for record in steps["teacher"] for key in losses)
    peaked = "peaked_share_layer_1_posterior"
    assert all(0 <= record[peaked] <= 1 for record in steps["teacher"])
    assert same_steps(steps["teacher"], steps["student"], keys=(peaked,))
    # A state of this teacher has 64 bytes, fewer than candidates have (tests/unit/costs).
    assert "distances of senses below the head" in outputs["teacher"]
    assert "distances of senses below the head" not in outputs["student"]


@pytest.mark.fault
def test_a_teacher_with_other_sense_settings_ends_the_run_with_a_reason(
    tiny: TinyWorld, start: Start, dictionary: Path
) -> None:
    assert dictionary.is_dir()
    spec = [
        "--spec",
        str(tiny.spec_file),
        *overrides_of(tiny.folder / "other_senses", ON_TEACHER, "topology.num_teachers=0"),
    ]
    students = start(*ranks(2, "dskd_ds/train.py", *spec))
    other = [*spec, "--set", "senses.kappa=3"]
    stranger = start(*warm([sys.executable, "-m", "dskd_ds.teacher", *other]))
    output, _ = students.communicate(timeout=PATIENCE_SECONDS)
    assert students.returncode == 1
    assert "ValueError: the student's senses are dictionary" in output
    assert "start the teacher with the students' spec" in output
    assert "Traceback" not in output
    # A run that failed may be started again, so the teacher waits for it.
    assert stranger.poll() is None


@pytest.mark.fault
def test_a_teacher_without_the_dictionary_is_refused(tiny: TinyWorld, launch: Launch) -> None:
    nowhere = tiny.folder / "no_senses"
    overrides = overrides_of(tiny.folder / "no_run", ON_TEACHER, f"senses.dictionary={nowhere}")
    spec = ["--spec", str(tiny.spec_file), *overrides]
    ended = launch(*warm([sys.executable, "-m", "dskd_ds.teacher", *spec]))
    assert ended.code == 2
    assert f'[senses] dictionary = "{nowhere}", but there is no such folder' in ended.output
    assert "Traceback" not in ended.output
