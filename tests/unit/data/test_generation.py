"""Keyed sampling, and files that several ranks write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.data.parts import Parts
from dskd_ds.errors import InputError
from dskd_ds.models.generation import KeyedSampling, continue_tokens, end_ids_of
from dskd_ds.models.resolve import load_tokenizer
from tests.conftest import TinyWorld


@pytest.fixture(scope="module")
def model(tiny: TinyWorld) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(tiny.folder / "teacher")).eval()


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    sampling = KeyedSampling([(0, sample) for sample in range(4000)], temperature=2.0)
    drawn = sampling(torch.zeros(4000, 1, dtype=torch.long), logits.repeat(4000, 1)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.softmax(logits / 2, dim=0), atol=0.03, rtol=0)


def test_draws_are_from_the_likeliest_tokens_that_hold_top_p() -> None:
    """Against a slow loop: take tokens in the order of their probability until they hold top_p."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    probs = torch.softmax(logits / 0.6, dim=0)
    kept, total = [], 0.0
    for token in probs.argsort(descending=True).tolist():
        kept.append(token)
        total += float(probs[token])
        if total >= 0.9:
            break
    assert 1 < len(kept) < 5
    sampling = KeyedSampling([(0, i) for i in range(4000)], temperature=0.6, top_p=0.9)
    drawn = sampling(torch.zeros(4000, 1, dtype=torch.long), logits.repeat(4000, 1)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=5) / 4000
    expected = torch.zeros(5)
    expected[kept] = probs[kept] / total
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)
    assert set(drawn.tolist()) == set(kept)


def test_a_draw_depends_on_its_key_and_nothing_else(model: Any) -> None:
    prompts, keys = [[5, 6, 7], [8, 9, 10], [5, 6, 7]], [(0, 1), (0, 2), (0, 3)]
    together = continue_tokens(model, prompts, keys, 12, 1.0, [0])
    alone = [
        continue_tokens(model, [prompt], [key], 12, 1.0, [0])[0]
        for prompt, key in zip(prompts, keys, strict=True)
    ]
    assert together == alone
    assert together[0] != together[2]  # the same prompt under another key
    assert together == continue_tokens(model, prompts, keys, 12, 1.0, [0])


def test_padding_does_not_change_the_likeliest_tokens(model: Any) -> None:
    """Against the slow, obvious way: one forward pass per token, no cache, no padding."""
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13]]
    continued = continue_tokens(model, prompts, [(0,), (1,)], 6, 0.0, [0])
    for prompt, tokens in zip(prompts, continued, strict=True):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 0:
                break
        assert tokens == ids[len(prompt) :]


def test_it_stops_at_any_end_token(model: Any) -> None:
    free = continue_tokens(model, [[5, 6, 7]], [(0,)], 6, 0.0, [0])[0]
    stopped = continue_tokens(model, [[5, 6, 7]], [(0,)], 6, 0.0, [0, free[2]])[0]
    assert stopped == free[: free.index(free[2]) + 1]


def test_end_tokens_are_collected(tiny: TinyWorld, model: Any) -> None:
    assert end_ids_of(model, load_tokenizer(str(tiny.folder / "teacher"))) == [0]


def test_parts_survive_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with Parts(output, "job", rank=0) as first:
        first.write(0, [(2, {"a": 2}), (0, {"a": 0})])
    with Parts(output, "job", rank=1) as second:
        assert second.done == {0}
        second.write(1, [(1, {"a": "é"})])
    torn = output.with_name("out.jsonl.part-1")
    torn.write_bytes(torn.read_bytes() + b'{"batch": 2, "rows": [[3, {"a"')
    with Parts(output, "job", rank=1) as again:
        assert again.done == {0, 1}
        again.write(2, [(3, {"a": 3})])
    with pytest.raises(InputError, match="other settings"):
        Parts(output, "another job", rank=0)
    assert Parts(output, "job", rank=0).join() == 4
    assert [json.loads(line)["a"] for line in output.read_text().splitlines()] == [0, "é", 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
