"""A teacher that cannot be divided over ranks is refused with numbers, from its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GPT2Config, LlamaConfig

from dskd_ds.errors import InputError
from dskd_ds.models.named import NamedModel
from dskd_ds.models.tensor_parallel import check_divisible


def model(folder: Path, **changed: int) -> NamedModel:
    """Return a model of which only the configuration exists."""
    sizes = {
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "num_key_value_heads": 6,
    }
    LlamaConfig(**(sizes | changed)).save_pretrained(folder)
    return NamedModel(str(folder))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 6])
def test_sizes_that_divide(tmp_path: Path, num_ranks: int) -> None:
    check_divisible(model(tmp_path), num_ranks, vocab_size=96)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "the teacher has 6 key-value heads (num_key_value_heads), which 4 does not divide"),
        ({"num_key_value_heads": 12, "num_attention_heads": 12, "vocab_size": 98}, "98 rows"),
        ({"num_key_value_heads": 12, "intermediate_size": 94}, "94 inner dimensions"),
    ],
)
def test_sizes_that_do_not_divide(tmp_path: Path, changed: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_divisible(model(tmp_path, **changed), 4, vocab_size=96)
    assert message in str(caught.value)
    assert "[topology] ranks_per_teacher = 4" in str(caught.value)
    assert str(caught.value).splitlines()[1] in ("  use 1 or 2 or 3.", "  use 1 or 2.")


def test_a_vocabulary_of_which_the_last_rank_would_have_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the last rank would have none"):
        check_divisible(model(tmp_path), 2, vocab_size=48)


def test_an_architecture_without_a_plan(tmp_path: Path) -> None:
    GPT2Config(vocab_size=96, n_embd=48, n_layer=1, n_head=12).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="does not know how to divide a model of type gpt2"):
        check_divisible(NamedModel(str(tmp_path)), 2, vocab_size=96)
