"""The words of the known dictionary: how many vectors their senses have, and where they lie."""

from __future__ import annotations

from typing import Any

COUNTS = {
    "bank": (30, 50, 20),
    "river": (8, 2),
    "money": (5, 5),
    "happy": (3,),
    "sad": (1, 1),
    "glad": (40, 2),
}
"""Word -> vectors of each of its senses."""
POSITIONS = {
    "bank": ((0, 0), (9, 0), (20, 20)),
    "river": ((0, 1), (30, 0)),
    "money": ((9, 1), (9, 3)),
    "happy": ((50, 0),),
    "sad": ((50, 4), (50, 8)),
    "glad": ((50, 1), (60, 0)),
}
"""Word -> the first two dimensions of its senses; the other 30 are 0. The first sense of bank is
near river, the second, more frequent one near money."""


def owner_of(tokenizer: Any, word: str) -> int:
    """Return the token of a word."""
    return int(tokenizer(f" {word}")["input_ids"][0])
