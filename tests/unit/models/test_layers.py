"""Cutting layers: entries per layer follow; an architecture that cannot be cut is refused early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.errors import InputError
from dskd_ds.models.cut import cut
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.layers import (
    check_compiler,
    check_layers,
    compile_layers,
    keep_in_config,
    layers_of,
)
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.plan.preflight import preflight
from dskd_ds.spec import load_spec
from dskd_ds.spec.models import StudentSpec
from dskd_ds.student.depth import student_init
from tests.conftest import TinyWorld


def save(model: Any, tiny: TinyWorld, folder: Path) -> str:
    """A model of another architecture with the tiny world's tokenizer."""
    model.save_pretrained(folder)
    load_tokenizer(str(tiny.folder / "teacher")).save_pretrained(folder)
    return str(folder)


def gpt2(tiny: TinyWorld, folder: Path) -> str:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = len(load_tokenizer(str(tiny.folder / "teacher")))
    config = GPT2Config(vocab_size=size, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    return save(GPT2LMHeadModel(config), tiny, folder)


def test_a_student_without_rope_in_some_layers_is_what_was_measured(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    """SmolLM3 uses no positions in every fourth layer; which layers changes with the cut."""
    from transformers import AutoModelForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

    kept = [0, 1, 3, 6]
    torch.manual_seed(0)
    config = SmolLM3Config(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    teacher = SmolLM3ForCausalLM(config).eval()
    cut(NamedModel(save(teacher, tiny, tmp_path / "teacher")), kept, tmp_path / "student")
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    assert student.config.no_rope_layers == [1, 1, 0, 1]
    teacher.model.layers = torch.nn.ModuleList(teacher.model.layers[layer] for layer in kept)
    teacher.config.num_hidden_layers = len(kept)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(
            student(ids, use_cache=False).logits, teacher(ids, use_cache=False).logits
        )


def test_lists_of_each_layer_and_of_layer_numbers_follow_and_others_stay() -> None:
    from transformers import Qwen3Config, Qwen3MoeConfig

    config = Qwen3Config(
        num_hidden_layers=4,
        layer_types=["full_attention", "sliding_attention"] * 2,
        use_sliding_window=True,
        eos_token_id=[5, 6, 7, 8],
    )
    keep_in_config(config, [0, 2, 3])
    assert config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
    assert config.eos_token_id == [5, 6, 7, 8]  # as long as the model is deep, by chance
    experts = Qwen3MoeConfig(num_hidden_layers=4, mlp_only_layers=[1, 3])
    keep_in_config(experts, [0, 2, 3])
    assert (experts.num_hidden_layers, experts.mlp_only_layers) == (3, [2])


def glm(dense: int, tiny: TinyWorld, folder: Path) -> NamedModel:
    """A mixture-of-experts model of 5 layers whose first ones, `dense` many, have no experts."""
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

    torch.manual_seed(0)
    config = Glm4MoeConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        first_k_dense_replace=dense,
    )
    return NamedModel(save(Glm4MoeForCausalLM(config), tiny, folder), dtype="float32")


def test_a_cut_of_leading_dense_layers_keeps_the_layers_with_experts(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    teacher = glm(2, tiny, tmp_path / "teacher")
    cut(teacher, [0, 2, 4], tmp_path / "student")
    student = NamedModel(str(tmp_path / "student"), dtype="float32").load().eval()
    assert student.config.first_k_dense_replace == 1
    model = teacher.load().eval()
    model.model.layers = torch.nn.ModuleList(model.model.layers[layer] for layer in (0, 2, 4))
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(
            student(ids, use_cache=False).logits, model(ids, use_cache=False).logits
        )


def test_a_cut_whose_layers_change_their_kind_is_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    """The configuration says that every second layer has experts; a cut does not change that."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=2,
    )
    teacher = NamedModel(save(Qwen3MoeForCausalLM(config), tiny, tmp_path / "teacher"))
    cut(teacher, [0, 1], tmp_path / "whole_pair")
    with pytest.raises(
        InputError,
        match=r'\[teacher\] model = ".*teacher": with only the layers \[0, 2\], the .* asks for'
        r" weights that these layers do not have: model.layers.1.mlp.experts.down_proj,",
    ):
        cut(teacher, [0, 2], tmp_path / "student")


def test_an_architecture_without_a_list_of_layers_is_reported(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, T5Config

    folder = gpt2(tiny, tmp_path / "gpt2")
    with pytest.raises(
        InputError,
        match=r"\[student\] model: GPT2LMHeadModel does not keep its layers in `transformer.lay",
    ):
        layers_of(AutoModelForCausalLM.from_pretrained(folder))
    T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(
        InputError,
        match=r"\[student\] model: T5Config is not the configuration of a causal language model",
    ):
        check_layers(NamedModel(str(tmp_path / "t5"), key="[student] model"))
    own = AutoModelForCausalLM.from_pretrained(tiny.folder / "teacher")
    assert len(layers_of(own)) == len(layers_of(own.base_model)) == 4


def test_a_model_that_cannot_be_cut_is_refused_before_anything_is_done(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    folder = gpt2(tiny, tmp_path / "gpt2")
    changes = ["student.layers=first", "loss.sense_weight=0", f"run_dir={tmp_path / 'run'}"]
    spec = load_spec(tiny.spec_file, [f"teacher.model={folder}", *changes])
    for refused in (preflight, student_init):
        with pytest.raises(InputError, match=r"\[teacher\] model: GPT2LMHeadModel"):
            refused(spec, RunModels.of(spec))
    assert not list((tmp_path / "run").glob("student_init*/config.json"))


def test_compiled_layers_share_their_code_and_keep_less(tiny: TinyWorld) -> None:
    """Gradients equal the plain model's, all layers share one graph, less is kept for backward."""
    from torch._dynamo.utils import counters
    from transformers import AutoModelForCausalLM

    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            tiny.folder / "teacher", dtype=torch.float32
        ).train()

    def run(model: Any) -> tuple[int, dict[str, torch.Tensor]]:
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model.base_model(
                input_ids=torch.arange(24).view(2, 12), use_cache=False
            ).last_hidden_state
        hidden.square().mean().backward()
        return sum(kept.values()), {
            name: p.grad for name, p in model.named_parameters() if p.grad is not None
        }

    compiled = model()
    compile_layers(compiled)
    torch.compiler.reset()  # nothing that another test compiled
    counters.clear()
    (less, found), (more, expected) = run(compiled), run(model())
    assert counters["stats"]["unique_graphs"] == 1 < len(layers_of(compiled))
    assert not counters["graph_break"]
    weights = sum(parameter.nbytes for parameter in compiled.parameters())
    assert less - weights < 0.8 * (more - weights), (less, more, weights)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_missing_compiler_is_reported_before_anything_starts(
    tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    spec = load_spec(tiny.spec_file, ["loss.sense_weight=0"])
    preflight(spec, RunModels.of(spec))
    for part in ("student", "teacher"):
        spec = load_spec(tiny.spec_file, ["loss.sense_weight=0", f"{part}.compile=true"])
        with pytest.raises(
            InputError, match=rf"\[{part}\] compile = true, but there is no no-such-compiler here"
        ):
            preflight(spec, RunModels.of(spec))
    monkeypatch.delenv("CXX")
    check_compiler("[student]")


def test_a_compiled_teacher_answers_the_same_under_another_fingerprint(tiny: TinyWorld) -> None:
    """For each shape of a request."""
    plain, compiled = (
        load_frozen(NamedModel(str(tiny.folder / "teacher"), dtype="float32", compiled=flag))
        for flag in (False, True)
    )
    assert compiled.fingerprint == f"{plain.fingerprint}-compiled"
    for num_blocks in (2, 3):
        ids = torch.arange(12 * num_blocks).view(num_blocks, 12)
        positions = torch.arange(12).repeat(num_blocks, 1)
        found, expected = (teacher.hidden_states(ids, positions) for teacher in (compiled, plain))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for layer in layers_of(compiled.trunk):
        assert hasattr(layer.forward, "_torchdynamo_orig_callable")


def test_a_teacher_that_cannot_be_compiled_is_refused_beside_any_student(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    changes = [f"teacher.model={gpt2(tiny, tmp_path / 'gpt2')}", "loss.sense_weight=0"]
    spec = load_spec(tiny.spec_file, changes)
    own = spec.model_copy(update={"student": StudentSpec(model=str(tiny.folder / "teacher"))})
    preflight(own, RunModels.of(own))
    compiled = own.model_copy(update={"teacher": spec.teacher.model_copy(update={"compile": True})})
    with pytest.raises(
        InputError, match=r"\[teacher\] model: GPT2LMHeadModel does not keep its layers"
    ):
        preflight(compiled, RunModels.of(compiled))
