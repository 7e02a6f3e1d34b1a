"""Checkpoints under DeepSpeed: every configuration, other numbers of ranks, other ZeRO stages.

Weights and moments after loading are compared with those before saving, whole and bit for bit.
Both are gathered by DeepSpeed's own functions, which the program does not use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from dskd_ds.files.manifest import write_manifest
from dskd_ds.models.named import RunModels
from dskd_ds.spec import load_spec
from dskd_ds.student.checkpoint.folders import checkpoint_dir, tag_of
from dskd_ds.student.checkpoint.slice_files import MASTER, MOMENTS, SUFFIX, SavedSlices
from dskd_ds.student.convert import convert_checkpoint
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, ranks
from tests.processes.test_configs import hpz_alone

# Dozens of engines are made one after the other in a launch.
pytestmark = [
    pytest.mark.process,
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

BF16 = ("student.dtype=bfloat16",)
SAVED = {
    "zero0": ("zero0", ()),
    "zero2": ("zero2", ()),
    "zero3": ("zero3", ()),
    "zero3_cpu": ("zero3_cpu", ()),
    "offload": ("zero3_offload", ()),
    "hpz": ("hpz", ()),
    "zero0, bf16": ("zero0", BF16),
    "zero2, bf16": ("zero2", BF16),
    "zero3, bf16": ("zero3", BF16),
    "all bf16": ("zero3", (*BF16, "student.precision=bf16")),
    "frozen": ("zero3", (*BF16, "student.train_last_layers=1")),
}
"""Name -> the DeepSpeed file and the settings of two ranks that save after two steps."""
SAME_WORLD = (
    *((name, SAVED[name][0]) for name in SAVED),
    ("zero3", "zero2"),
    ("zero3", "zero0"),
    ("zero2", "zero3"),
    ("zero0", "zero3"),
    ("offload", "zero2"),
    ("zero2", "zero3_offload"),
    ("zero3, bf16", "zero0"),
    ("zero0, bf16", "zero3"),
    ("zero2, bf16", "zero3"),
)
"""(saved, DeepSpeed file that loads it)."""
CONVERTED = ("zero0", "zero2, bf16", "zero3", "all bf16")
"""Names in SAVED whose checkpoints of DeepSpeed are loaded after they were converted."""
OTHER_WORLD = (
    ("zero3", "zero3"),
    ("zero3", "zero0"),
    ("zero2", "zero2"),
    ("zero0", "zero3"),
    ("zero3, bf16", "zero2"),
)


class Cases:
    """Makes and runs cases of checkpoint_worker.py."""

    def __init__(self, tiny: TinyWorld, launch: Launch) -> None:
        self._folder = tiny.folder / "checkpoints"
        self._launch = launch
        self._folder.mkdir(exist_ok=True)
        tree: dict[str, Any] = tiny.spec_tree()
        tree["loss"]["sense_weight"] = 0
        tree["student"] = {"layers": "first", "num_layers": 2, "dtype": "float32"}
        self._spec_file = self._folder / "spec.toml"
        self._spec_file.write_text(tomli_w.dumps(tree))
        self._hpz = hpz_alone(self._folder)

    def case(
        self, saved: str, config: str, num_ranks: int, *, run: str, load: bool, steps: int
    ) -> dict[str, Any]:
        """Return a case. saved: name in SAVED. run: name of its run directory."""
        path = self._hpz if config == "hpz" else f"ds_configs/{config}.json"
        overrides = (
            "monitor.heldout_tokens=160",
            f"run_dir={self._folder / run}",
            f"deepspeed={path}",
            f"topology.num_students={num_ranks}",
            f"train.global_batch_blocks={num_ranks}",
            *SAVED[saved][1],
        )
        name = f"{run}, {saved}, {config}, {num_ranks}, {load}"
        return {
            "spec": str(self._spec_file),
            "overrides": overrides,
            "load": load,
            "steps": steps,
            "save": not load,
            "old_run_dir": str(self._folder / old_run(run)),
            "out": str(self._folder / f"{name}.pt"),
        }

    def run(self, num_ranks: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run cases in one launch and return what each found."""
        path = self._folder / "cases.json"
        path.write_text(json.dumps(cases))
        worker = "tests/processes/checkpoint_worker.py"
        command = ranks(num_ranks, worker, "--cases", str(path))
        assert self._launch(*command, timeout=1000).code == 0
        return [torch.load(case["out"], weights_only=True) for case in cases]

    def convert(self, name: str) -> Path:
        """Convert what DeepSpeed saved for a name in SAVED, and return the checkpoint's folder."""
        case = self.case(name, SAVED[name][0], 2, run=old_run(name), load=True, steps=1)
        spec = load_spec(case["spec"], case["overrides"])
        facts = {"step": 2, "tokens": 7, "num_students": 2}
        write_manifest(checkpoint_dir(spec) / tag_of(2), facts)
        return convert_checkpoint(spec, RunModels.of(spec))

    def saved_by_two(self) -> dict[str, dict[str, Any]]:
        """Return what two ranks found when they saved, for each name in SAVED; run once."""
        cases = {
            name: self.case(name, config, 2, run=name, load=False, steps=2)
            for name, (config, _) in SAVED.items()
        }
        if all(Path(case["out"]).is_file() for case in cases.values()):
            return {name: torch.load(case["out"]) for name, case in cases.items()}
        return dict(zip(cases, self.run(2, list(cases.values())), strict=True))


def old_run(run: str) -> str:
    """Return the name of the run directory for what DeepSpeed saves of a run."""
    return f"{run}, by DeepSpeed"


@pytest.fixture
def cases(tiny: TinyWorld, launch: Launch) -> Cases:
    return Cases(tiny, launch)


def assert_same(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    """Assert that two states have the same tensors, bit for bit."""
    assert found.keys() == expected.keys(), what
    for name, tensors in expected.items():
        assert found[name].keys() == tensors.keys(), (what, name)
        for kind, tensor in tensors.items():
            assert torch.equal(found[name][kind], tensor), (what, name, kind)


def assert_same_files(folder: Path, expected: dict[str, Any], what: str) -> None:
    """Assert that a checkpoint's files have the weights and moments of a state, bit for bit."""
    with SavedSlices(folder.glob(f"*{SUFFIX}")) as saved:
        trained = {name for name, tensors in expected.items() if MASTER in tensors}
        assert saved.numel.keys() == trained, what
        for name in trained:
            for kind in (MASTER, *MOMENTS):
                tensor = expected[name][kind]
                assert torch.equal(saved.read_whole(name, kind), tensor), (what, name, kind)


def test_every_configuration_and_other_stages_load_what_was_saved(cases: Cases) -> None:
    """What DeepSpeed saved is converted, and read in the same way.

    The runs that save also measure the loss on held-out text, which must change nothing.
    """
    saved = cases.saved_by_two()
    for name in SAVED:
        assert_same_files(cases.convert(name), saved[name]["trained"], f"{name}, converted")
    measured = [saved[name]["heldout_losses"] for name in ("zero0", "zero2", "zero3", "offload")]
    assert len(set(measured[0])) == 2  # after each step another loss
    assert measured == [measured[0]] * len(measured)  # of the same weights at every stage
    undisturbed = [
        cases.case(name, SAVED[name][0], 2, run=f"{name}, undisturbed", load=False, steps=3)
        for name in SAVED
    ]
    loading = [
        cases.case(name, config, 2, run=name, load=True, steps=1) for name, config in SAME_WORLD
    ]
    loading_converted = [
        cases.case(name, SAVED[name][0], 2, run=old_run(name), load=True, steps=1)
        for name in CONVERTED
    ]
    # Two launches, because DeepSpeed makes hpZ's groups only once in a process.
    third_step, loaded = cases.run(2, undisturbed), cases.run(2, [*loading, *loading_converted])
    converted = dict(zip(CONVERTED, loaded[len(loading) :], strict=True))
    del loaded[len(loading) :]
    for (name, config), found in zip(SAME_WORLD, loaded, strict=True):
        assert (found["step"], found["global_steps"]) == (2, 3), (name, config)
        assert_same(found["loaded"], saved[name]["trained"], f"{name} into {config}")
    # With the same file, the next step is that of an undisturbed run.
    for name, found, other in zip(SAVED, loaded, third_step, strict=False):
        assert_same(found["trained"], other["trained"], f"{name} goes on")
    of_name = dict(zip(SAVED, third_step, strict=True))
    for name, found in converted.items():
        assert (found["step"], found["global_steps"]) == (2, 3), name
        assert_same(found["loaded"], saved[name]["trained"], f"{name}, converted")
        assert_same(found["trained"], of_name[name]["trained"], f"{name}, converted, goes on")
    trained = saved["frozen"]["trained"]
    assert any("master" not in tensors for tensors in trained.values())


@pytest.mark.parametrize("num_ranks", [1, 4])
def test_two_ranks_save_and_one_or_four_load(cases: Cases, num_ranks: int) -> None:
    saved = cases.saved_by_two()
    loading = [
        cases.case(name, config, num_ranks, run=name, load=True, steps=1)
        for name, config in OTHER_WORLD
    ]
    for (name, config), found in zip(OTHER_WORLD, cases.run(num_ranks, loading), strict=True):
        assert found["step"] == 2
        assert_same(found["loaded"], saved[name]["trained"], f"{name} into {config}")


def test_four_ranks_save_and_three_load(cases: Cases) -> None:
    names = ("zero2", "zero3")
    saving = [cases.case(n, n, 4, run=f"{n}, four", load=False, steps=2) for n in names]
    saved = cases.run(4, saving)
    loading = [cases.case(n, n, 3, run=f"{n}, four", load=True, steps=1) for n in names]
    for name, before, found in zip(names, saved, cases.run(3, loading), strict=True):
        assert found["step"] == 2
        assert_same(found["loaded"], before["trained"], name)
