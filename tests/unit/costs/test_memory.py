"""The memory of ranks: what each setting changes, and by how much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dskd_ds.costs.capacity import Capacity
from dskd_ds.costs.fit import needs
from dskd_ds.costs.memory import (
    HEAP_SHARE,
    MemoryParts,
    node_memory,
    student_memory,
    teacher_memory,
)
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.shapes import model_shape
from dskd_ds.costs.ways_out import ways_out
from dskd_ds.costs.zero_memory import zero_memory
from dskd_ds.costs.zero_settings import zero_settings
from dskd_ds.spec import RunSpec, load_spec
from tests.unit.senses.choose import small

LLAMA_8B = model_shape(
    {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
)
SHAPES = RunShapes(teacher=LLAMA_8B, student=LLAMA_8B.with_layers(16))
GIB = 1 << 30


def spec_with(*overrides: str) -> RunSpec:
    defaults = ["deepspeed=ds_configs/zero3.json", "data.block_tokens=1024"]
    return load_spec("tests/base_run.toml", [*defaults, *overrides])


def student(*overrides: str) -> MemoryParts:
    return student_memory(spec_with(*overrides), SHAPES, "gpu", related_fraction=0.5)


def test_zero_3_holds_16_bytes_per_weight() -> None:
    """2 for weights, 2 for gradients, 4 for master weights and 8 for moments, on 64 ranks."""
    memory = zero_memory(
        zero_settings("ds_configs/zero3.json"),
        LLAMA_8B,
        num_ranks=64,
        number_bytes=2,
        is_bf16_only=False,
        trained_layers=32,
        trains_outer=True,
        map_parameters=0,
        on_gpu=True,
    )
    share = LLAMA_8B.num_parameters / 64
    kinds = ("parameters", "gradients", "master weights", "optimiser")
    held = sum(memory.fixed[kind] for kind in kinds)
    assert held == pytest.approx(16 * share, rel=0.01)
    assert memory.fixed["gradient buckets"] == 1e9  # 500 million numbers of 2 bytes


def test_a_stage_0_update_on_a_gpu_holds_the_gradients_three_times() -> None:
    """16 bytes per weight, and 8 more in the update: float32 gradients and their flat copy."""
    spec = spec_with("deepspeed=ds_configs/zero0.json", "topology.num_students=1")
    # Short rows, so that no other phase is larger.
    short = spec.model_copy(update={"data": spec.data.model_copy(update={"block_tokens": 8})})
    memory = student_memory(short, SHAPES, "gpu", related_fraction=0.5)
    num_weights = SHAPES.student.num_parameters
    assert memory.phase == "update"
    held = sum(memory.parts[kind] for kind in ("parameters", "master weights", "optimiser"))
    assert held + memory.parts["gradients"] == 16 * num_weights
    assert memory.parts["gradient copies"] == 8 * num_weights


def test_partitions_shrink_with_the_number_of_ranks() -> None:
    two, eight = (
        student(f"topology.num_students={count}", "train.global_batch_blocks=8") for count in (2, 8)
    )
    for kind in ("master weights", "optimiser", "gradients"):
        assert two.parts[kind] == pytest.approx(4 * eight.parts[kind])
    assert two.parts["activations"] == eight.parts["activations"]


def test_checkpointing_and_smaller_chunks_take_less() -> None:
    plain, chunked = student(), student("loss.chunk_positions=64")
    assert student("student.activation_checkpointing=true").total < plain.total
    assert chunked.total <= plain.total


def test_bf16_only_halves_master_weights_and_moments() -> None:
    memory = student("student.dtype=bfloat16", "student.precision=bf16")
    assert memory.parts["master weights"] == student().parts["master weights"] / 2
    assert memory.parts["optimiser"] == pytest.approx(student().parts["optimiser"] / 2)


def test_frozen_layers_have_no_optimiser() -> None:
    memory = student("student.train_last_layers=2")
    trained = 2 * LLAMA_8B.parameters_per_layer / 2  # layers, ranks
    assert memory.parts["optimiser"] == pytest.approx(8 * trained)


def test_frozen_embeddings_have_neither_optimiser_nor_gradient() -> None:
    memory = student("student.train_embeddings=false")
    trained = SHAPES.student.num_layers * LLAMA_8B.parameters_per_layer / 2  # layers, ranks
    assert memory.parts["optimiser"] == pytest.approx(8 * trained)
    assert memory.total < student().total


def test_offloaded_state_is_in_main_memory() -> None:
    plain, offloaded = student(), student("deepspeed=ds_configs/zero3_offload.json")
    assert offloaded.total < plain.total
    assert offloaded.host["optimiser"] == plain.parts["optimiser"]
    assert "optimiser" not in offloaded.parts


def test_on_a_cpu_the_heap_keeps_freed_memory() -> None:
    spec = spec_with("student.dtype=float32", "deepspeed=ds_configs/zero3_cpu.json")
    memory = student_memory(spec, SHAPES, "cpu", related_fraction=0.5)
    live = memory.total - memory.parts["freed, kept by the heap"]
    assert memory.parts["freed, kept by the heap"] == pytest.approx(HEAP_SHARE * live)
    assert "freed, kept by the heap" not in student().parts


def test_each_stage_partitions_more() -> None:
    sizes = [
        student(f"deepspeed=ds_configs/{name}.json").parts for name in ("zero0", "zero2", "zero3")
    ]
    held = [
        sum(parts[kind] for kind in ("parameters", "optimiser", "gradients")) for parts in sizes
    ]
    assert held[0] > held[1] > held[2]


def test_exact_signals_need_the_teachers_head() -> None:
    memory = student("loss.signal=exact")
    assert memory.parts["teacher's head"] == 2 * LLAMA_8B.embedding_parameters


def test_a_teacher_holds_its_weights_and_replies() -> None:
    memory = teacher_memory(spec_with(), SHAPES, "gpu", related_fraction=0.5)
    assert memory.parts["parameters"] == 2 * LLAMA_8B.num_parameters
    assert 15 * GIB < memory.total < 17 * GIB


def test_a_divided_teacher_shares_its_weights_and_is_a_way_out() -> None:
    whole = teacher_memory(spec_with(), SHAPES, "gpu", 0.5).parts
    half = teacher_memory(spec_with("topology.ranks_per_teacher=2"), SHAPES, "gpu", 0.5).parts
    assert half["parameters"] == whole["parameters"] / 2
    assert half["logits"] == whole["logits"] / 2

    # 320 layers have 70 B parameters: 140 GB in bfloat16.
    large = replace(SHAPES, teacher=LLAMA_8B.with_layers(320))
    spec = spec_with("topology.num_students=64", "train.global_batch_blocks=64")
    gpus = Capacity(80 * 10**9, num_gpus=8, host_bytes=2 * 10**12, source="a cluster")
    [teacher] = [n for n in needs(spec, large, gpus, 0.5) if n.what == "a teacher's GPU"]
    assert teacher.is_refused
    changes = [way.change for way in ways_out(spec, large, gpus, 0.5)]
    assert "[topology] ranks_per_teacher = 2" in changes


def test_a_node_holds_the_senses_once() -> None:
    memory = node_memory(spec_with(), SHAPES, num_senses=1000)
    assert memory.parts["senses (mapped from disk)"] == pytest.approx(1000 * 8192, rel=0.01)
    lexical = spec_with("senses.candidates=lexical")
    assert "index" not in node_memory(lexical, SHAPES, num_senses=1000).parts
    assert not node_memory(spec_with("loss.sense_weight=0"), SHAPES).parts


def test_a_node_holds_the_senses_of_losses_below_the_head(tmp_path: Path) -> None:
    """Each dictionary once; terms that only smooth search no index."""
    dictionary = small.dictionary_in(tmp_path / "senses", layer=2)
    rows = len(dictionary.senses)

    def parts(*kinds: str) -> dict[str, float]:
        terms = []
        for layer, kind in enumerate(kinds, start=1):
            smoothing = ",smoothing=0.5" if kind == "mse" else ""
            keys = f'student_layer={layer},weight=1.0,dictionary="{dictionary.folder}"{smoothing}'
            terms.append(f'{{kind="{kind}",{keys}}}')
        overrides = ("loss.sense_weight=0", f"loss.terms=[{','.join(terms)}]")
        return dict(node_memory(spec_with(*overrides), SHAPES).parts)

    smoothed, both = parts("mse"), parts("mse", "posterior", "contrast")
    assert smoothed.keys() == {"senses (mapped from disk)"}
    assert smoothed["senses (mapped from disk)"] == both["senses (mapped from disk)"]
    assert both["senses (mapped from disk)"] == pytest.approx(rows * 8192, rel=0.01)
    assert both["index"] == rows * (4 * 256 + 16 * 12)


def test_a_map_between_two_sizes_is_trained() -> None:
    wider = replace(SHAPES, student=replace(SHAPES.student, hidden_size=2048))
    with_map = student_memory(spec_with(), wider, "gpu", 0.5).parts["optimiser"]
    without = student_memory(spec_with("loss.sense_weight=0"), wider, "gpu", 0.5)
    assert with_map - without.parts["optimiser"] == 8 * 4096 * 2048 / 2
