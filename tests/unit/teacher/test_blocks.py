"""Replies by block: a position's signal is the same bits in any request that contains its row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from dskd_ds.link.messages import Array, Wanted
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.signals.block_rows import unpadded_length
from dskd_ds.signals.reply import ReplyParts, ReplyShape, read_reply
from dskd_ds.teacher.answer import answer
from tests.unit.small_llama import small_llama

VOCAB_SIZE, HIDDEN_SIZE, WIDTH = 300, 32, 150
WANTED = Wanted(
    top_k=5,
    temperatures=(2.0, 1.0),
    num_draws=9,
    draw_temperature=1.0,
    draw_seed=3,
    hidden_format="bfloat16",
    by_block=True,
)


@pytest.fixture(scope="module")
def llama() -> FrozenModel:
    return small_llama(VOCAB_SIZE, HIDDEN_SIZE)


@dataclass(frozen=True)
class Row:
    """A block: its tokens, and where its second document begins."""

    ids: np.ndarray
    second_start: int

    @property
    def position_ids(self) -> np.ndarray:
        after = np.arange(len(self.ids) - self.second_start)
        return np.concatenate([np.arange(self.second_start), after])


def rows(*lengths: int) -> list[Row]:
    """Random blocks of these lengths, the same for each call."""
    source = np.random.default_rng(0)
    return [Row(source.integers(1, VOCAB_SIZE, n), int(source.integers(1, n))) for n in lengths]


def request(
    blocks: list[Row], positions: dict[str, list[tuple[int, int]]], width: int = WIDTH
) -> dict[str, Array]:
    """Pad the blocks to one width; positions: (row, position) of each part."""
    ids = np.zeros((len(blocks), width), np.int32)
    position_ids = np.zeros_like(ids)
    for index, block in enumerate(blocks):
        length = len(block.ids)
        ids[index, :length] = block.ids
        position_ids[index, :length] = block.position_ids
        position_ids[index, length:] = np.arange(width - length)
    flat = {
        f"{part}_positions": np.array([row * width + at for row, at in wanted], np.int32)
        for part, wanted in positions.items()
    }
    nowhere = np.zeros(0, np.int32)
    return {"input_ids": ids, "position_ids": position_ids, "layer_positions": nowhere, **flat}


def read(arrays: dict[str, Array], sent: dict[str, Array]) -> ReplyParts:
    counts = (len(sent[f"{part}_positions"]) for part in ("top_k", "draw", "hidden"))
    return read_reply(arrays, WANTED, ReplyShape(VOCAB_SIZE, HIDDEN_SIZE, *counts))


def every_position(blocks: list[Row]) -> list[tuple[int, int]]:
    return [(row, at) for row, block in enumerate(blocks) for at in range(len(block.ids))]


def test_a_row_alone_has_the_bits_that_it_has_beside_others(llama: FrozenModel) -> None:
    """With any positions, any padding, in any order of rows."""
    blocks = rows(WIDTH, 40, 131)
    everywhere = dict.fromkeys(("top_k", "draw", "hidden"), every_position(blocks))
    sent = request(blocks, everywhere)
    together = read(answer(llama, sent, WANTED), sent)
    flat = everywhere["top_k"]
    for row, block in enumerate(blocks):
        length = len(block.ids)
        some = {
            "top_k": [(0, at) for at in range(1, length, 7)],
            "draw": [(0, at) for at in range(0, length, 11)],
            "hidden": [(0, at) for at in range(3, length, 5)],
        }
        width = length if row else length + 30
        sent_alone = request([block], some, width)
        alone = read(answer(llama, sent_alone, WANTED), sent_alone)
        at = {
            part: [flat.index((row, p)) for _, p in positions] for part, positions in some.items()
        }
        same_top_k = together.top_k.rows(torch.tensor(at["top_k"]))
        assert torch.equal(alone.top_k.ids, same_top_k.ids)
        assert torch.equal(alone.top_k.logits, same_top_k.logits)
        assert torch.equal(alone.top_k.tail, same_top_k.tail)
        assert torch.equal(alone.hidden, together.hidden[at["hidden"]])
        mask = torch.zeros(len(flat), dtype=torch.bool).index_fill_(0, torch.tensor(at["draw"]), 1)
        same_draws = together.draws.rows(mask)
        for name in ("lengths", "ids", "counts", "log_probs"):
            assert torch.equal(getattr(alone.draws, name), getattr(same_draws, name))


def test_replies_by_block_are_those_of_one_forward_pass(llama: FrozenModel) -> None:
    blocks = rows(WIDTH, 40, 131)
    sent = request(blocks, dict.fromkeys(("top_k", "draw", "hidden"), every_position(blocks)))
    by_block = read(answer(llama, sent, WANTED), sent)
    together = read(answer(llama, sent, WANTED.model_copy(update={"by_block": False})), sent)
    torch.testing.assert_close(by_block.hidden, together.hidden, rtol=1e-2, atol=1e-2)
    same_ids = (by_block.top_k.ids == together.top_k.ids).float().mean()
    assert same_ids > 0.99  # but for ties
    torch.testing.assert_close(by_block.top_k.tail, together.top_k.tail, rtol=1e-3, atol=1e-3)
    # One draw per slice of the distribution: both draw nearly the same tokens.
    assert by_block.draws.counts.sum() == together.draws.counts.sum()
    torch.testing.assert_close(
        by_block.draws.log_probs.mean(), together.draws.log_probs.mean(), rtol=0.02, atol=0.02
    )


def test_draws_depend_on_the_seed_and_on_the_row(llama: FrozenModel) -> None:
    blocks = rows(40, 40)
    sent = request(
        blocks, {"top_k": [], "draw": [(0, 3), (0, 4), (1, 3), (1, 4)], "hidden": []}, 40
    )
    first = answer(llama, sent, WANTED)
    other = answer(llama, sent, WANTED.model_copy(update={"draw_seed": 4}))
    assert first["draw_ids"].tolist() != other["draw_ids"].tolist()
    twice = request(
        [blocks[0], blocks[0]], {"top_k": [], "draw": [(0, 3), (1, 3)], "hidden": []}, 40
    )
    draws = read(answer(llama, twice, WANTED), twice).draws
    half = len(draws.ids) // 2
    assert draws.ids[:half].tolist() == draws.ids[half:].tolist()  # of the same text


@pytest.mark.parametrize(
    ("ids", "position_ids", "length"),
    [
        ([5, 6, 0, 0], [0, 1, 0, 1], 2),
        ([5, 6, 7, 8], [0, 1, 0, 1], 4),
        ([0, 0, 0, 0], [0, 1, 2, 3], 4),
        ([5, 0, 0, 3], [0, 0, 1, 2], 4),
        ([5, 6, 7, 0], [0, 1, 2, 0], 3),
    ],
)
def test_where_the_text_of_a_row_ends(ids: list[int], position_ids: list[int], length: int) -> None:
    assert unpadded_length(np.array(ids), np.array(position_ids)) == length


def test_text_that_looks_like_padding_is_read_where_something_is_asked(llama: FrozenModel) -> None:
    sent = request(
        [Row(np.array([7, 8]), 1)], {"top_k": [(0, 4)], "draw": [], "hidden": [(0, 5)]}, 6
    )
    found = answer(llama, sent, WANTED)
    expected = answer(llama, sent, WANTED.model_copy(update={"by_block": False}))
    assert (found["top_k_ids"] == expected["top_k_ids"]).all()
    assert (found["hidden"] == expected["hidden"]).all()
