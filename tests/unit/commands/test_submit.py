"""The scripts of `dskd submit`: they are the shipped ones, with their options and settings."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

import dskd_ds
from dskd_ds.commands import cli, submit
from dskd_ds.commands.submit_jobs import Submission
from dskd_ds.errors import InputError
from dskd_ds.runtime import slurm
from dskd_ds.runtime.arguments import spec_of
from dskd_ds.runtime.job_script import filled_script
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld

SPEC = "tests/base_run.toml"
SCRIPTS = sorted(Path("slurm").glob("*.sbatch"))


def jobs(*argv: str) -> list[str]:
    args = cli.parser().parse_args(["submit", SPEC, *argv])
    return [job.script for job in Submission(spec_of(args), args).jobs()]


def lines_with(script: str, start: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith(start)]


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_a_shipped_script_without_changes_is_itself(path: Path) -> None:
    assert filled_script(path.read_text(), options={}, settings={}) == path.read_text()


@pytest.mark.parametrize("path", [*SCRIPTS, Path("slurm/environment.sh")], ids=str)
def test_bash_accepts_the_shipped_files(path: Path) -> None:
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_every_option_and_setting_has_a_comment(path: Path) -> None:
    lines = path.read_text().split("# ---- end of the settings")[0].splitlines()
    is_entry = [line.startswith("#SBATCH") or "=" in line.split(" ")[0] for line in lines]
    for (above, line), is_one in zip(pairwise(lines), is_entry[1:], strict=True):
        assert not is_one or above.startswith("# "), f"{path}: {line}"
    assert sum(is_entry) > 6


def test_only_options_and_settings_differ_from_the_shipped_script() -> None:
    script = jobs("--ntasks-per-node", "2", "--partition", "gpu")[0]
    shipped = Path("slurm/train.sbatch").read_text()
    assert script.split("# ---- end of")[1] == shipped.split("# ---- end of")[1]
    comments = [line for line in shipped.splitlines() if line.startswith("# ")]
    assert set(comments) <= set(script.splitlines())


def test_two_students_and_a_teacher_on_nodes_of_one_rank() -> None:
    further = ("--sbatch", "account=a b", "--sbatch", "x")
    script = jobs("--ntasks-per-node", "1", "--time", "8:00:00", *further)[0]
    assert "#SBATCH --nodes=3" in script.splitlines()
    assert "#SBATCH --time=8:00:00" in script.splitlines()
    assert "#SBATCH --account='a b'" in script.splitlines()
    assert "#SBATCH --x" in script.splitlines()
    assert "num_student_nodes=2" in script.splitlines()
    assert "teachers_at=(--relative=2)" in script.splitlines()
    # Students of several nodes must listen where the teachers' node reaches them.
    assert lines_with(script, "overrides=") == ["overrides=(link.address=hostname)"]


def test_an_address_of_the_user_stays() -> None:
    script = jobs("--ntasks-per-node", "1", "--set", "link.address=10.0.0.1")[0]
    assert lines_with(script, "overrides=") == ["overrides=(link.address=10.0.0.1)"]


def test_more_teachers_in_one_launch_are_ranks_of_it() -> None:
    script = jobs("--ntasks-per-node", "8", "--num-teachers", "3")[0]
    assert lines_with(script, "overrides=") == ["overrides=(topology.num_teachers=3)"]
    assert {"num_teachers=3", "num_teacher_nodes=0"} <= set(script.splitlines())


def test_a_heterogeneous_job_has_two_components() -> None:
    script = jobs(
        *("--ntasks-per-node", "2", "--sbatch", "account=x", "--het"),
        *("--het-sbatch", "partition=big", "--het-sbatch", "gpus-per-node=4"),
    )[0]
    first, second = script.split("#SBATCH hetjob\n")
    assert "#SBATCH --nodes=1" in first.splitlines()
    assert lines_with(second, "#SBATCH --partition") == ["#SBATCH --partition=big"]
    assert lines_with(second, "#SBATCH --account") == ["#SBATCH --account=x"]
    assert "teachers_at=(--het-group=1)" in second.splitlines()


def test_teachers_in_jobs_of_their_own_leave_the_students_job_to_students() -> None:
    students, teachers = jobs(
        *("--ntasks-per-node", "2", "--teachers-job", "--num-teachers", "3", "--time", "1:00"),
        *("--sbatch", "account=x", "--het-sbatch", "partition=big", "--partition", "small"),
    )
    assert {"num_teachers=0", "num_teacher_nodes=0", "num_student_nodes=1"} <= set(
        students.splitlines()
    )
    assert "#SBATCH --nodes=1" in students.splitlines()
    # The students' launch has no teachers, and the teachers' nodes must reach it.
    # Their jobs may wait in the queue for longer than students wait by default.
    added = "link.address=hostname topology.num_teachers=0 link.teacher_wait_seconds=14400"
    overrides = [f"overrides=({added})"]
    assert lines_with(students, "overrides=") == lines_with(teachers, "overrides=") == overrides
    assert "#SBATCH --array=0-1" in teachers.splitlines()
    assert "#SBATCH --ntasks-per-node=2" in teachers.splitlines()
    assert {"num_teachers=3", "teachers_per_node=2"} <= set(teachers.splitlines())
    assert lines_with(teachers, "#SBATCH --partition") == ["#SBATCH --partition=big"]
    assert lines_with(teachers, "#SBATCH --account") == ["#SBATCH --account=x"]
    assert lines_with(teachers, "#SBATCH --time") == ["#SBATCH --time=1:00"]


def test_a_wait_for_teachers_that_the_user_chose_stays() -> None:
    own = ("--set", "link.teacher_wait_seconds=900")
    students, _ = jobs("--ntasks-per-node", "1", "--teachers-job", *own)
    expected = "link.teacher_wait_seconds=900 link.address=hostname topology.num_teachers=0"
    assert lines_with(students, "overrides=") == [f"overrides=({expected})"]


def test_no_job_waits_for_the_end_of_the_teachers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = iter(["10", "11", "12", "13"])
    monkeypatch.setattr(slurm, "submit", lambda *_, **__: next(numbers))
    argv = ["submit", SPEC, "--ntasks-per-node", "1", "--teachers-job"]
    args = cli.parser().parse_args([*argv, "--what", "senses,train,eval"])
    assert submit._submit_all(Submission(spec_of(args), args).jobs()) == ["11"]
    assert capsys.readouterr().out.splitlines() == [
        "senses: job 10",
        "train: job 11, after afterok:10",
        "teachers: job 12, after after:11",
        "eval: job 13, after afterok:11",
    ]


def test_only_the_jobs_that_train_are_those_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = iter(["10", "11", "12", "13"])
    monkeypatch.setattr(slurm, "submit", lambda *_, **__: next(numbers))
    argv = ["submit", SPEC, "--ntasks-per-node", "1", "--chain", "2"]
    args = cli.parser().parse_args([*argv, "--what", "senses,train,eval"])
    assert submit._submit_all(Submission(spec_of(args), args).jobs()) == ["11", "12"]
    assert capsys.readouterr().out.splitlines() == [
        "senses: job 10",
        "train: job 11, after afterok:10",
        "train: job 12, after afterany:11",
        "eval: job 13, after afterok:12",
    ]


def test_a_chain_hands_the_run_on() -> None:
    scripts = jobs("--ntasks-per-node", "4", "--chain", "3")
    assert [lines_with(script, "chain_index=")[0] for script in scripts] == [
        "chain_index=1",
        "chain_index=2",
        "chain_index=3",
    ]
    assert all("chain_length=3" in script.splitlines() for script in scripts)


def test_stages_come_in_their_order() -> None:
    scripts = jobs(
        *("--what", "eval,senses,train,pack", "--gpus-per-node", "4", "--senses-nodes", "2"),
        *("--pack-tasks-per-node", "32"),
    )
    names = [lines_with(script, "#SBATCH --job-name")[0] for script in scripts]
    assert names == [
        "#SBATCH --job-name=quickstart-pack",
        "#SBATCH --job-name=quickstart-senses",
        "#SBATCH --job-name=quickstart",
        "#SBATCH --job-name=quickstart-eval",
    ]
    assert "#SBATCH --nodes=2" in scripts[1].splitlines()
    assert "#SBATCH --gpus-per-node=4" in scripts[1].splitlines()
    assert "#SBATCH --ntasks-per-node=32" in scripts[0].splitlines()
    assert not lines_with(scripts[0], "#SBATCH --gpus")


def test_the_signal_is_kept_before_the_run_that_reads_it() -> None:
    cache = ("--set", "teacher.source=cache", "--set", "topology.num_teachers=0")
    senses, teach, train = jobs(
        *("--what", "train,teach,senses", "--gpus-per-node", "4", "--teach-nodes", "3", *cache),
        *("--set", "repair.steps=0"),
    )
    assert "#SBATCH --job-name=quickstart-senses" in senses.splitlines()
    expected = {
        "#SBATCH --job-name=quickstart-teach",
        "#SBATCH --nodes=3",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --ntasks-per-node=4",
        "overrides=(teacher.source=cache topology.num_teachers=0 repair.steps=0)",
    }
    assert expected <= set(teach.splitlines())
    # Students of a run from the cache need no teachers.
    assert {"num_teachers=0", "num_teacher_nodes=0"} <= set(train.splitlines())
    with pytest.raises(InputError, match="--what teach loads the whole teacher"):
        jobs("--what", "teach", "--gpus-per-node", "4", "--set", "topology.ranks_per_teacher=2")


def test_a_live_teachers_signal_is_not_kept() -> None:
    args = cli.parser().parse_args(
        ["submit", SPEC, "--what", "teach", "--gpus-per-node", "1", "--dry-run"]
    )
    with pytest.raises(
        InputError, match='source = "live", but a live teacher\'s signal is not kept'
    ):
        submit.run(args)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give --gpus-per-node N"),
        (["--ntasks-per-node", "1", "--sbatch", "nodes=4"], "follows from .topology"),
        (["--ntasks-per-node", "1", "--sbatch", "account="], "write --sbatch KEY=VALUE"),
        (["--ntasks-per-node", "1", "--environment", "nix.sh"], "there is no such file"),
        (["--ntasks-per-node", "1", "--het", "--teachers-job"], "give one of the two"),
        (["--ntasks-per-node", "1", "--chain", "2", "--teachers-job"], "leave out --chain"),
        (["--ntasks-per-node", "1", "--het-sbatch", "x=1"], "add --het or --teachers-job"),
        (["--ntasks-per-node", "1", "--het", "--het-sbatch", "nodes=7"], "sets this option itself"),
        (["--ntasks-per-node", "1", "--het", "--het-sbatch", "time=1"], "use --time"),
        (["--ntasks-per-node", "1", "--teachers-per-node", "2"], "give at most 1"),
    ],
)
def test_wrong_options_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        jobs(*argv)


@pytest.mark.parametrize("limit", ["90", "90:30", "8:00:00", "2-12", "2-12:30:00", "UNLIMITED"])
def test_time_limits_of_slurm_are_taken(limit: str) -> None:
    script = jobs("--ntasks-per-node", "1", "--time", limit)[0]
    assert f"#SBATCH --time={limit}\n" in script


@pytest.mark.parametrize("limit", ["8h", "", "1:2:3:4", "2-"])
def test_other_time_limits_are_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        jobs("--ntasks-per-node", "1", "--time", limit)
    assert "is no limit of SLURM" in capsys.readouterr().err


def test_a_refused_job_leaves_none_of_its_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[str] = []

    def submit_two(script: str, *, name: Path, dependency: str = "") -> str:
        assert name == Path(dskd_ds.__file__).parent / "slurm" / "train.sbatch"
        if "chain_index=3" in script:
            raise InputError("no")
        assert (dependency == "") == ("chain_index=1" in script)
        return f"1{len(dependency)}"

    monkeypatch.setattr(slurm, "submit", submit_two)
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)
    args = cli.parser().parse_args(["submit", SPEC, "--ntasks-per-node", "1", "--chain", "3"])
    with pytest.raises(InputError, match="no"):
        submit._submit_all(Submission(spec_of(args), args).jobs())
    assert cancelled == ["10", f"1{len('afterany:10')}"]


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["submit", SPEC, "--what", "paint"])
    assert (
        "unknown stage 'paint': choose from pack, senses, teach, train, eval"
        in capsys.readouterr().err
    )


def test_dictionaries_that_the_job_does_not_build_must_exist(
    tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    term = f"{{kind='contrast',student_layer=1,weight=1.0,dictionary='{tmp_path / 'nowhere'}'}}"
    argv = ["submit", str(tiny.spec_file), "--what", "senses,train", "--dry-run"]
    argv += ["--ntasks-per-node", "3"]
    assert cli.main([*argv, "--set", f"loss.terms=[{term}]"]) == 2
    assert "[[loss.terms]] number 1: dictionary =" in capsys.readouterr().err
    built = term.replace(str(tmp_path / "nowhere"), load_spec(tiny.spec_file).senses.dictionary)
    assert cli.main([*argv, "--set", f"loss.terms=[{built}]"]) == 0
