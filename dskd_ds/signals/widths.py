"""Computes the bytes of each part of a reply at one position, without torch, for the plan."""

from __future__ import annotations

from dskd_ds.link.packing import byte_width
from dskd_ds.spec.processes import HiddenFormat

BLOCK = 64
"""Numbers of a float8 state that share a scale; the last block of a row may be shorter."""
TOKENS_PER_DRAW = 0.31
"""Different tokens per draw: 100 draws at a position fell on 31 different tokens (SmolLM2 on
held-out Wikipedia; `dskd bench` counts again)."""
DRAWS_BYTES = 6
"""The number of drawn tokens at a position (uint16) and their mean log-probability (float32)."""
CHOSEN_BYTES = 5
"""The weight of a sense position (float32), and whether the index gave senses (uint8)."""
HEADER_BYTES = 2000
"""More than the header of any reply has."""


def top_k_bytes(k: int, vocab_size: int, num_temperatures: int) -> int:
    """Return the bytes of ids, float16 logits, and one float32 tail per temperature."""
    return min(k, vocab_size) * (byte_width(vocab_size) + 2) + 4 * num_temperatures


def draws_bytes(num_draws: int, vocab_size: int) -> float:
    """Return the bytes of ids and counts of the tokens that `num_draws` draws should fall on."""
    num_tokens = max(1.0, TOKENS_PER_DRAW * num_draws)
    return DRAWS_BYTES + num_tokens * (byte_width(vocab_size) + byte_width(num_draws + 1))


def most_draws_bytes(num_draws: int, vocab_size: int) -> int:
    """Return the bytes of ids and counts if every draw falls on another token."""
    num_tokens = min(num_draws, vocab_size)
    return DRAWS_BYTES + num_tokens * (byte_width(vocab_size) + byte_width(num_draws + 1))


def chosen_bytes(num_senses: float, most: int, num_rows: int) -> float:
    """Return the bytes of `num_senses` senses in S+ and S- of one position.

    most: the most senses in either. num_rows: rows of the dictionary.
    """
    return CHOSEN_BYTES + 2 * byte_width(most + 1) + num_senses * byte_width(num_rows)


def candidates_bytes(num_senses: float, most: int, num_rows: int) -> float:
    """Return the bytes of `num_senses` candidates of one position: rows and float32 distances.

    most: the most candidates of a position. num_rows: rows of the dictionary. With several sets in
    a reply, both are those of the set with the largest.
    """
    return byte_width(most + 1) + num_senses * (byte_width(num_rows) + 4)


def states_bytes(hidden_format: HiddenFormat, hidden_size: int) -> int:
    """Return the bytes of one hidden state with its scales."""
    num_bytes, num_scales = hidden_width(hidden_format, hidden_size)
    return num_bytes + 2 * num_scales


def hidden_width(hidden_format: HiddenFormat, hidden_size: int) -> tuple[int, int]:
    """Return (bytes of the numbers, number of scales) of one hidden state."""
    if hidden_format == "bfloat16":
        return 2 * hidden_size, 0
    return hidden_size, -(-hidden_size // BLOCK)
