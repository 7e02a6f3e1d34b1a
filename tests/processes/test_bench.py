"""The benchmarks of whole steps, on the tiny world: every launch starts, trains and ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from dskd_ds.bench import growth, pack, save, signal_cache, terms
from dskd_ds.bench.step import measure
from dskd_ds.bench.terms_loop import KINDS
from dskd_ds.models.named import RunModels
from dskd_ds.runtime.console import quiet_libraries
from dskd_ds.spec import load_spec
from dskd_ds.student.depth import student_init
from tests.conftest import TinyWorld
from tests.processes.conftest import children_with

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_saves_are_measured_in_one_process(
    tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_libraries()
    monkeypatch.setenv("DSKD_HOME", str(tiny.folder / "home"))
    overrides = [f"run_dir={tiny.folder / 'bench-save'}", "student.layers=first"]
    spec = load_spec(tiny.spec_file, [*overrides, *save.SETTINGS])
    student_init(spec, RunModels.of(spec))
    measured = save.measure(str(tiny.spec_file), overrides, rounds=2)
    for variant, rounds in measured["rounds"].items():
        assert len(rounds) == 2
        for found in rounds:
            assert found["seconds"] > found["blocked_seconds"]
            # What completes nothing takes microseconds.
            assert (found["blocked_seconds"] > 1e-3) == (variant != "none")
    # Weights and two moments in float32.
    assert measured["checkpoint_bytes"] > 12 * 30_000
    assert [figure.key for figure in save.figures(measured)] == [
        "async_save_blocked",
        "async_save_slowdown",
    ]


@pytest.mark.usefixtures("dictionary")
def test_the_steps_of_each_kind_of_term_are_measured(
    tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_libraries()
    monkeypatch.setenv("DSKD_HOME", str(tiny.folder / "home"))
    overrides = [f"run_dir={tiny.folder / 'bench-terms'}", "student.layers=first"]
    spec = load_spec(tiny.spec_file, [*overrides, *terms.SETTINGS])
    student_init(spec, RunModels.of(spec))
    measured = terms.measure(str(tiny.spec_file), overrides, rounds=2)
    assert measured["student_layer"] == 1
    found = terms.figures(measured)
    assert {figure.key for figure in found} == {f"term_time_{name}" for name in KINDS}
    for figure in found:
        assert figure.value > 0
        assert figure.notes["97.9 % interval of the median"] == "known for 10 pairs only"


@pytest.mark.timeout(900)  # five launches, one after the other
def test_launches_are_measured_and_ended(tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_libraries()
    monkeypatch.setenv("DSKD_HOME", str(tiny.folder / "home"))
    overrides = [
        f"run_dir={tiny.folder / 'bench'}",
        "student.layers=first",
        "train.global_batch_blocks=1",
    ]
    spec = load_spec(tiny.spec_file, [*overrides, "topology.num_students=1"])
    student_init(spec, RunModels.of(spec))
    found = measure(
        str(tiny.spec_file),
        overrides,
        arms=("loop", "replay", "kd"),
        rounds=1,
        num_steps=2,
        dropped=1,
    )
    assert {arm: len(runs) for arm, runs in found.items()} == {
        "floor": 1,
        "loop": 1,
        "replay": 1,
        "kd": 1,
    }
    for runs in found.values():
        assert [step.seconds > 0 for step in runs[0].steps] == [True, True]
        assert 50e6 < runs[0].student_bytes < runs[0].peak_bytes < 5e9
    # Two tiny steps may end within one poll, and CPU time is counted in hundredths of a second,
    # so a single step may show no CPU time.
    cpu_seconds = [step.cpu_seconds for runs in found.values() for step in runs[0].steps]
    assert min(cpu_seconds) >= 0
    assert max(cpu_seconds) > 0
    assert not children_with(str(tiny.spec_file)), "a process was left behind"


@pytest.mark.timeout(600)
def test_a_cache_is_filled_and_compared_with_a_live_teacher(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_libraries()
    monkeypatch.setattr(signal_cache, "NUM_STEPS", 2)
    monkeypatch.setattr(signal_cache, "NUM_DROPPED", 1)
    tree = tiny.spec_tree_with({"student": {"layers": "first"}})
    spec_file = tmp_path / "bench.toml"
    spec_file.write_text(tomli_w.dumps(tree | {"run_dir": str(tmp_path / "bench-cache")}))
    spec = load_spec(str(spec_file))
    student_init(spec, RunModels.of(spec))
    pairs, bytes_per_token = signal_cache.measure(str(spec_file), num_pairs=1)
    assert [pair.live > 0 and pair.cache > 0 for pair in pairs] == [True]
    # Ids and logits of the top k take more than 3 bytes per token of the list.
    assert 3 * spec.loss.top_k < bytes_per_token < 100 * spec.loss.top_k
    assert not children_with(str(spec_file)), "a process was left behind"


@pytest.mark.timeout(600)
def test_packing_and_growth_are_measured_with_real_jobs(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_libraries()
    monkeypatch.setenv("DSKD_HOME", str(tiny.folder / "home"))
    for module in (growth, pack):
        monkeypatch.setattr(module, "QUICKSTART", str(tiny.spec_file))
    monkeypatch.setattr(growth, "NUM_STEPS", 2)
    monkeypatch.setattr(growth, "NUM_DROPPED", 1)
    monkeypatch.setattr(pack, "NUM_TOKENS", 20_000)
    monkeypatch.setattr(pack, "RANKS", (1, 2))
    monkeypatch.setattr(pack, "REPEATS", 1)
    efficiency, opening = pack.bench_pack()
    assert efficiency.key == "pack_efficiency_2"
    assert efficiency.value > 0
    assert opening.notes["tokens"] >= 20_000
    building = growth.building_curve(tmp_path, [512])
    training = growth.training_curve(tmp_path, [1])
    for curve in (building, training):
        assert [cost > 0 for _, cost in curve.points] == [True]
