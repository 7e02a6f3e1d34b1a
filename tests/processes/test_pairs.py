"""A student whose hidden size and vocabulary padding differ from its teacher's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import tomli_w
from safetensors.torch import load_file

from dskd_ds.observe.metrics import read_metrics
from dskd_ds.student.checkpoint.slice_files import MASTER, SavedSlices
from tests.conftest import TinyWorld, write_model
from tests.processes.conftest import Launch, ranks, warm_dskd

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.mark.usefixtures("dictionary")
def test_a_wider_student_with_more_padding_rows(
    tiny: TinyWorld, launch: Launch, tmp_path: Path
) -> None:
    student = write_model(
        tmp_path / "wide", tiny.folder, num_layers=1, seed=1, hidden_size=48, extra_rows=7
    )
    tree = tiny.spec_tree() | {
        "run_dir": str(tmp_path / "run"),
        "student": {"model": str(student), "dtype": "float32"},
        "train": {"num_steps": 2, "global_batch_blocks": 4},
        "checkpoint": {"every_steps": 0},
        "loss": {
            "signal": "exact",
            "divergence": "jensen_shannon",
            "temperature": 2.0,
            "top_k": 16,
            "sense_weight": 0.5,
            "chunk_positions": 16,
            "terms": [{"kind": "cosine", "student_layer": 1, "teacher_layer": 2, "weight": 1.0}],
        },
    }
    spec = tmp_path / "pair.toml"
    spec.write_text(tomli_w.dumps(tree))
    command = ranks(3, "dskd_ds/train.py", "--spec", str(spec))
    assert launch(*command, marker=str(tmp_path)).code == 0
    for record in read_metrics(tmp_path / "run"):
        assert all(math.isfinite(value) for value in record.values())
        assert record["sense_positions"] > 0
        assert 0 < record["loss_kd"] < math.log(2)
    files = (tmp_path / "run" / "checkpoints" / "step-00000002").glob("*.safetensors")
    with SavedSlices(files) as saved:
        sense_map = saved.read_whole("objective.sense_map", MASTER)
        term_map = saved.read_whole("term_losses.maps.0.weight", MASTER)
    assert len(sense_map) == len(term_map) == 32 * 48
    assert sense_map.abs().sum() > 0  # it starts at zero
    exported = load_file(tmp_path / "run" / "student" / "model.safetensors")
    assert not [name for name in exported if "map" in name]
    initial = load_file(student / "model.safetensors")
    name = "model.embed_tokens.weight"
    assert exported[name].shape == initial[name].shape
    assert launch(*warm_dskd("eval", str(spec)), marker=str(tmp_path)).code == 0
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scores"]
    assert scores["teacher"]["kl"] == 0
    assert all(score["kl"] > 0 for name, score in scores.items() if name != "teacher")
