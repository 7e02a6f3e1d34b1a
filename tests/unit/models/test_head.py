"""Logits of real architectures against their own forward; vocabularies of different sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GraniteConfig,
    HyperCLOVAXConfig,
    LlamaConfig,
    PhiConfig,
)

from dskd_ds.errors import InputError
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.head import PLAIN, HeadForm, check_own_logits
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.models.resolve import read_config
from dskd_ds.models.vocabulary import check_same_tokens
from dskd_ds.spec import RunSpec
from dskd_ds.student.model import sense_map, teacher_head
from tests.conftest import TinyWorld, write_model

SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.5,
}


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


CAPPED = Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=2.0)
CONFIGS = [
    LlamaConfig(**SIZES),
    CAPPED,
    CohereConfig(**SIZES, logit_scale=0.3),
    GraniteConfig(**SIZES, logits_scaling=4.0),
    HyperCLOVAXConfig(**SIZES, logits_scaling=4.0),
    FalconH1Config(
        **SIZES,
        lm_head_multiplier=0.2,
        mamba_d_ssm=32,
        mamba_n_heads=2,
        mamba_d_head=16,
        mamba_d_state=8,
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=[type(config).__name__ for config in CONFIGS])
def test_logits_are_the_models_own(config: Any) -> None:
    model, form = model_of(config), HeadForm.of(config)
    assert (form == PLAIN) == isinstance(config, LlamaConfig)
    check_own_logits(model, form, "m")
    with pytest.raises(InputError, match="computes something else in between"):
        check_own_logits(model, HeadForm(form.scale * 1.1, form.softcap), "m")


def test_a_head_with_a_bias_is_refused() -> None:
    config = PhiConfig(**SIZES)
    with pytest.raises(InputError, match="has a bias"):
        check_own_logits(model_of(config), HeadForm.of(config), "m")


def test_a_saved_model_with_a_soft_cap_is_loaded_as_a_teacher(tmp_path: Path) -> None:
    model = model_of(CAPPED)
    model.save_pretrained(tmp_path)
    ids = torch.arange(12)[None]
    teacher = load_frozen(NamedModel(str(tmp_path), dtype="float32"), torch.device("cpu"))
    logits = teacher.logits(teacher.hidden_states(ids, ids))
    torch.testing.assert_close(logits, model(ids).logits)
    assert logits.abs().max() <= 2.0


def test_a_teacher_cut_to_the_shared_tokens(tiny: TinyWorld) -> None:
    named = NamedModel(str(tiny.folder / "teacher"), dtype="float32")
    device = torch.device("cpu")
    whole, part = (load_frozen(named, device, vocab_size=size) for size in (None, 100))
    hidden = torch.randn(3, whole.hidden_size)
    torch.testing.assert_close(part.logits(hidden), whole.logits(hidden)[:, :100])
    assert (part.vocab_size, whole.vocab_size) == (100, len(whole.head))
    assert part.fingerprint != whole.fingerprint  # its replies are others


def spec_with(tiny: TinyWorld, teacher: Path, student: Path, **loss: Any) -> RunSpec:
    tree: Any = tiny.spec_tree()
    return RunSpec.model_validate(
        tree
        | {
            "teacher": tree["teacher"] | {"model": str(teacher)},
            "student": {"model": str(student), "dtype": "float32"},
            "loss": tree["loss"] | loss,
        }
    )


def check(spec: RunSpec) -> None:
    models = RunModels.of(spec)
    assert models.student is not None
    check_same_tokens(models.teacher, models.student, spec.loss.divergence)


def test_vocabularies_padded_differently(tiny: TinyWorld, tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain", tiny.folder, num_layers=1, seed=1)
    padded = write_model(tmp_path / "padded", tiny.folder, num_layers=1, seed=1, extra_rows=7)
    rows = read_config(str(plain)).vocab_size
    for teacher, student in ((plain, padded), (padded, plain)):
        spec = spec_with(tiny, teacher, student, signal="exact")
        models = RunModels.of(spec)
        check(spec)
        assert models.shared_vocab_size == rows
        head = teacher_head(spec, models)
        assert head is not None
        assert len(head.weight) == rows
    with pytest.raises(InputError, match="an infinite loss"):
        check(spec_with(tiny, plain, padded, divergence="reverse"))


def test_fewer_rows_than_tokens_are_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    teacher = tiny.folder / "teacher"
    short = write_model(tmp_path / "short", tiny.folder, num_layers=1, seed=1, extra_rows=-5)
    with pytest.raises(InputError, match=r"\[student\] model = .* rows for the .* tokens"):
        check(spec_with(tiny, teacher, short))


def test_a_map_exists_if_the_sizes_differ_and_senses_are_used(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    teacher = tiny.folder / "teacher"
    student = write_model(tmp_path / "wide", tiny.folder, num_layers=1, seed=1, hidden_size=48)
    mapping = sense_map(spec_with(tiny, teacher, student), 32, 48)
    assert mapping is not None
    assert mapping.shape == (32, 48)
    assert mapping.requires_grad
    assert sense_map(spec_with(tiny, teacher, student, sense_weight=0.0), 32, 48) is None
    assert sense_map(spec_with(tiny, teacher, teacher), 32, 32) is None
