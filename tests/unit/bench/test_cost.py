"""What `dskd bench --only cost` launches, how it is called, and its figure of inference."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from dskd_ds.bench.cost import ARMS, CostCase, inference_figure
from dskd_ds.bench.step import ENDLESS, Arms, turns
from dskd_ds.commands import cli
from dskd_ds.commands.bench import cost_case
from tests.conftest import TinyWorld


def test_the_arms_run_in_turn_and_no_floor_is_measured() -> None:
    order = [arm for arm, _ in turns(ARMS, 2)]
    assert order == [*ARMS, *ARMS]
    assert turns(("bare",), 1) == [("floor", True), ("bare", True)]


@pytest.mark.parametrize("length", ["num_steps", "num_epochs"])
def test_a_launch_is_endless_whatever_its_spec_counts_in(
    tiny: TinyWorld, tmp_path: Path, length: str
) -> None:
    tree = tiny.spec_tree()
    tree["train"] = {length: 3, "global_batch_blocks": 4}
    spec_file = tmp_path / "spec.toml"
    spec_file.write_text(tomli_w.dumps(tree))
    arms = Arms(str(spec_file), [], tmp_path)
    assert getattr(arms.spec.train, length) == ENDLESS
    assert "loss.sense_weight=0" in arms.commands("kd", tmp_path / "kd")[-1]
    assert "loss.sense_weight=0" not in arms.commands("sense", tmp_path / "sense")[-1]


def test_the_ratio_of_inference_is_the_median_of_the_rounds() -> None:
    figure = inference_figure({"kd": [1.0, 2.0, 4.0], "dskd": [1.1, 2.0, 4.2]})
    assert figure.value == pytest.approx(1.05)  # not 2.0 / 2.0, the ratio of the medians
    assert figure.reached is False
    assert figure.notes["seconds"] == "2.000 / 2.000"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name its spec: --spec SPEC.toml"),
        (["--spec", "my.toml", "--student", "kd=a"], "inference compares two students"),
        (["--spec", "my.toml", "--student", "kd", "--student", "dskd=b"], "each as NAME=PATH"),
    ],
)
def test_a_wrong_call_is_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--only", "cost", *argv]) == 2
    assert message in capsys.readouterr().err


def test_the_command_line_names_the_case() -> None:
    argv = ["bench", "--only", "cost", "--spec", "my.toml", "--set", "seed=3", "--rounds", "2"]
    argv += ["--student", "kd=runs/kd/student", "--student", "dskd=runs/dskd/student"]
    assert cost_case(cli.parser().parse_args(argv)) == CostCase(
        spec_file="my.toml",
        overrides=("seed=3",),
        students={"kd": "runs/kd/student", "dskd": "runs/dskd/student"},
        rounds=2,
    )
