"""What benches compute from measured values, what they print, and their errors.

The benches themselves run in tests/processes.
"""

from __future__ import annotations

import itertools
import json
import os
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pytest

from dskd_ds.bench import save, step
from dskd_ds.bench.follow import Followed, Step, peak_bytes, two_cores
from dskd_ds.bench.measure import REPEATS, as_json, run_and_print, run_benches, table
from dskd_ds.bench.real_text import QUICKSTART
from dskd_ds.bench.replay import ReplyStore
from dskd_ds.bench.step_figures import figures as step_figures
from dskd_ds.commands import bench as commands
from dskd_ds.errors import InputError
from dskd_ds.link import Work
from dskd_ds.link.messages import ARRAYS, Array, Reply, Request, Wanted
from dskd_ds.spec import load_spec


def followed(seconds: float, megabytes: float) -> Followed:
    steps = [Step(seconds, seconds), Step(seconds * 1.5, seconds), Step(seconds, seconds)]
    return Followed(steps, student_bytes=int(megabytes * 1e6), peak_bytes=1)


def test_a_saves_cost_is_what_it_adds_to_the_steps_of_its_round() -> None:
    def rounds(*seconds: tuple[float, float]) -> list[dict[str, float]]:
        return [{"seconds": whole, "blocked_seconds": blocked} for whole, blocked in seconds]

    measured = {
        "rounds": {
            "none": rounds((10, 0), (20, 0), (10, 0)),
            "synchronous": rounds((14, 4), (28, 8), (14, 4)),
            "asynchronous": rounds((11, 0.2), (24, 4), (13, 0.4)),
        },
        "num_steps": 5,
        "step_seconds": 2.0,
        "checkpoint_bytes": 7,
        "threads": 1,
    }
    blocked, slowdown = save.figures(measured)
    assert blocked.value == pytest.approx(0.1)  # of 0.05, 0.5 and 0.1
    assert slowdown.value == pytest.approx(0.5)  # of 0.25, 0.5 and 0.75
    assert (blocked.reached, slowdown.reached) == (True, True)
    assert blocked.notes["synchronous_save_seconds"] == 4


def test_figures_are_medians_of_ratios_within_a_round() -> None:
    seconds_and_megabytes = {
        "floor": (0.8, 90),
        "bare": (1.0, 95),
        "loop": (1.25, 96),
        "replay": (1.02, 97),
        "kd": (1.04, 100),
        "sense": (1.04 * 1.03, 190),
        "kd_memory": (2, 100),
        "sense_memory": (3, 101),
    }
    # The machine is half as fast in the second round, which does not change ratios within a round.
    found = {
        arm: [followed(seconds * slowdown, megabytes) for slowdown in (1, 2, 1)]
        for arm, (seconds, megabytes) in seconds_and_megabytes.items()
    }
    figures = {figure.key: figure for figure in step_figures(found, tokens=256)}
    values = {key: figure.value for key, figure in figures.items()}
    assert values == pytest.approx(
        {
            "sense_time_ratio": 1.03,
            "sense_memory_ratio": 1.01,
            "stream_time_ratio": 1.04,
            "stream_replay_time_ratio": 1.02,
            "loop_ratio": 0.8,
        }
    )
    assert not figures["loop_ratio"].reached
    assert figures["stream_time_ratio"].reached
    assert json.loads(as_json(list(figures.values())))["loop_ratio"] == pytest.approx(0.8)
    assert "MISSED" in table(list(figures.values()))


def test_an_unknown_bench_and_a_missing_quickstart_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--only stp.*\n.*step"):
        run_benches(step.BENCHES, ["stp"])
    arms = step.Arms(QUICKSTART, [f"run_dir={tmp_path}"], tmp_path)
    with pytest.raises(InputError, match="make quickstart first"):
        arms.check(["bare"])


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--output {tmp_path}: it cannot be written"):
        run_and_print({"any": pytest.fail}, [], json_wanted=True, output=str(tmp_path))


def test_the_help_says_how_many_launches_there_are() -> None:
    launches = step.turns(step.ARMS, REPEATS)
    assert [arm for arm, counts in launches if not counts] == ["replay"]
    assert f"starts {len(launches)} real launches" in commands.TEXT


def test_both_sides_of_the_comparison_with_trl_are_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("tools")
    side_by_side = import_module("side_by_side")
    argv = side_by_side.our_command(Namespace(processes=1, batch_blocks=4, signal="topk"), tmp_path)
    overrides = [value for option, value in itertools.pairwise(argv) if option == "--set"]
    spec = load_spec(QUICKSTART, overrides)
    assert (spec.student.dtype, spec.teacher.dtype) == ("float32", "float32")


def test_one_core_is_too_few() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with pytest.raises(InputError, match="one core only"):
            two_cores()
    finally:
        os.sched_setaffinity(0, before)


def test_mapped_files_do_not_count_as_memory(tmp_path: Path) -> None:
    file = tmp_path / "senses"
    file.write_bytes(os.urandom(64 << 20))
    process = psutil.Process()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_bytes(process)
    mapped = np.memmap(file, mode="r")
    assert mapped.max() > 0  # reads every page
    assert peak_bytes(process) - before == pytest.approx(0, abs=8 << 20)
    kept = np.ones(64 << 17)  # 64 MiB in float64
    assert peak_bytes(process) - before == pytest.approx(kept.nbytes, abs=8 << 20)


def test_the_reply_store_returns_what_was_stored(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)

    def random_arrays(kind: type) -> dict[str, Array]:
        return {
            name: draw.integers(0, 9, (2,) * dims).astype(dtype)
            for name, (dtype, dims) in ARRAYS[kind].items()
        }

    store, arrays = ReplyStore(tmp_path), random_arrays(Request)
    wanted = Wanted(
        top_k=4,
        temperatures=(1.0,),
        num_draws=5,
        draw_temperature=1.0,
        draw_seed=0,
        hidden_format="bfloat16",
    )
    work = Work(0, Request(request_id=3, wanted=wanted), arrays)
    assert store.get(work) is None
    reply = random_arrays(Reply)
    store.put(work, reply)
    # The student and the request's id do not matter, everything else does.
    equal_request = Work(1, Request(request_id=8, wanted=wanted), arrays)
    found = store.get(equal_request)
    assert found is not None
    assert all(np.array_equal(found[name], reply[name]) for name in reply)
    other_wanted = wanted.model_copy(update={"temperatures": (2.0,)})
    assert store.get(Work(0, Request(request_id=3, wanted=other_wanted), arrays)) is None
    other_arrays = {**arrays, "input_ids": arrays["input_ids"] + 1}
    assert store.get(Work(0, work.request, other_arrays)) is None
