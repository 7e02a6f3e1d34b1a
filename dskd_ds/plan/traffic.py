"""How many bytes the teacher's signal has, for each token: known before anything runs, from the spec and the models' sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.link.packing import byte_width
from dskd_ds.signals.widths import hidden_width
from dskd_ds.spec import RunSpec
from dskd_ds.spec.senses import SensesSpec

if TYPE_CHECKING:
    from dskd_ds.senses.dictionary.dictionary import SenseDictionary

TOKENS_PER_DRAW = 0.31
"""Different tokens among 100 draws at a position: 31 with SmolLM2 on held-out Wikipedia (`dskd bench` counts again)."""
REQUEST_TOKEN_BYTES = 8
"""Id and position of every token."""
POSITION_BYTES = 4
"""Each position that something is asked for at."""
DRAWS_BYTES = 6
"""How many tokens were drawn at a position, and their mean log-probability."""
DRAWN_TOKEN_BYTES = 4
"""The target of every token, where the teacher draws the sense positions."""
MANY_ROWS = 1 << 24
"""Rows of a dictionary that is not there yet: 3 bytes hold their numbers."""


@dataclass(frozen=True)
class SignalBytes:
    """Bytes over the link for each token of the text, by what they are."""

    top_k: float
    draws: float
    hidden: float
    senses: float
    """Numbers of chosen senses."""
    request: float
    sense_share: float
    """Share of positions that get the sense term."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.top_k + self.draws + self.hidden + self.senses + self.request


def signal_bytes(
    spec: RunSpec, vocab_size: int, hidden_size: int, sense_share: float, num_rows: int = MANY_ROWS
) -> SignalBytes:
    """Bytes for each token, as if every position had a target (headers add about 1,000 bytes a message).

    sense_share: share of positions with the sense term, 0..1 (`sense_share`). num_rows: of the dictionary. Of chosen senses it is the most.
    """
    loss, id_bytes = spec.loss, byte_width(vocab_size)
    num_bytes, num_scales = hidden_width(spec.link.hidden_format, hidden_size)
    num_tails = 2 if loss.signal == "topk" and loss.temperature != 1.0 else 1
    on_teacher = spec.uses_senses and spec.senses.retrieve_on == "teacher"
    rest = 0.0 if on_teacher else sense_share
    share = {
        "top_k": 1.0 if loss.signal == "topk" else rest,
        "draws": 1.0 if loss.signal == "sampled" else 0.0,
        "hidden": 1.0 if loss.signal == "exact" else rest,
    }
    drawn = max(1.0, TOKENS_PER_DRAW * loss.num_draws)
    return SignalBytes(
        top_k=share["top_k"] * (min(loss.top_k, vocab_size) * (id_bytes + 2) + 4 * num_tails),
        draws=share["draws"] * (DRAWS_BYTES + drawn * (id_bytes + byte_width(loss.num_draws + 1))),
        hidden=share["hidden"] * (num_bytes + 2 * num_scales),
        senses=sense_share * _sense_bytes(spec, num_rows) if on_teacher else 0.0,
        request=REQUEST_TOKEN_BYTES
        + DRAWN_TOKEN_BYTES * on_teacher
        + POSITION_BYTES * sum(share.values()),
        sense_share=sense_share,
    )


def _sense_bytes(spec: RunSpec, num_rows: int) -> float:
    """The most that the chosen senses of a position take, where half have S+ and S-, and half S+ alone: weight, flag, two lengths, rows.

    Word relations give kappa senses to a set. The index adds as many to S- in the first half, and to S+ in the second, whose targets may
    be related to nothing; where it is alone it adds them to every S+, and gives all of S-.
    """
    most = spec.senses.kappa * (1.5 if spec.senses.candidates == "lexical" else 2.5)
    return 5 + 2 * byte_width(2 * spec.senses.kappa + 1) + most * byte_width(num_rows)


def held_sense_bytes(senses: SensesSpec, hidden_size: int) -> int:
    """The most that the senses of a position take until its step is done (losses/sense.py, SenseTargets).

    The mean of S+ in float32; the senses of S- in bfloat16, with a norm and a mark each, as many as at the fullest position: kappa by word
    relations or by the index, with `hybrid` by both; and 17 bytes.
    """
    most = senses.kappa * (2 if senses.candidates == "hybrid" else 1)
    return 4 * hidden_size + most * (2 * hidden_size + 5) + 17


def held_bytes(spec: RunSpec, size: SignalBytes, hidden_size: int) -> float:
    """The most that one student holds in main memory, or on its device, for the steps that are on their way (student/feed.py).

    Replies as they came, what of them takes other bytes once unpacked (ids int64, shares of draws float32, states bfloat16), and senses.
    """
    unpacked = {
        "topk": 8 * spec.loss.top_k,
        "sampled": 12 * spec.loss.num_draws,
        "exact": 2 * hidden_size,
        "hidden": 0,
    }[spec.loss.signal]
    tokens = (
        spec.train.global_batch_blocks
        // spec.topology.num_students
        * spec.data.block_tokens
        * (spec.link.prefetch_depth + 1)
    )
    return tokens * (
        size.total + unpacked + size.sense_share * held_sense_bytes(spec.senses, hidden_size)
    )


def sense_share(spec: RunSpec, related_fraction: float) -> float:
    """Share of a block's positions that get the sense term (docs/method.md, "Positions").

    related_fraction: share of positions whose target has relations.
    """
    if not spec.uses_senses:
        return 0.0
    related = related_fraction * spec.data.block_tokens
    wanted = max(min(spec.senses.min_positions, related), spec.senses.position_fraction * related)
    return min(1.0, 2 * wanted / spec.data.block_tokens)


def _dictionary(spec: RunSpec) -> SenseDictionary | None:
    """The spec's dictionary, if it is used and there already."""
    from dskd_ds.senses.dictionary.dictionary import open_dictionary

    there = spec.uses_senses and Path(spec.senses.dictionary).is_dir()
    return open_dictionary(spec.senses.dictionary, verify=False) if there else None


def related_fraction(spec: RunSpec, dictionary: SenseDictionary | None) -> float:
    """About how often a target has relations, in the text that the dictionary was collected from. 0 if there is no dictionary."""
    if spec.senses.candidates == "neighbours":
        return 1.0
    if dictionary is None:
        return 0.0
    import numpy as np

    counts = np.bincount(
        dictionary.row_owners, dictionary.sense_counts, minlength=dictionary.vocab_size
    )[: dictionary.vocab_size]
    related = (dictionary.synonyms.lengths() > 0) | (dictionary.antonyms.lengths() > 0)
    return float(counts[related].sum() / max(counts.sum(), 1))


def plan_line(spec: RunSpec) -> str:
    """What the teacher will send, and what of it a student holds, in one line for the user."""
    from dskd_ds.models.resolve import read_config, resolve_model

    config = read_config(resolve_model(spec.teacher.model)).get_text_config()
    dictionary = _dictionary(spec)
    size = signal_bytes(
        spec,
        config.vocab_size,
        config.hidden_size,
        sense_share(spec, related_fraction(spec, dictionary)),
        len(dictionary.senses) if dictionary else MANY_ROWS,
    )
    name = {
        "topk": f"top-{spec.loss.top_k}",
        "exact": "hidden states at every position",
        "hidden": "no logits",
        "sampled": f"{spec.loss.num_draws} draws",
    }[spec.loss.signal]
    extra = {"topk": "hidden states", "exact": f"top-{spec.loss.top_k}"}.get(
        spec.loss.signal, f"hidden states and top-{spec.loss.top_k}"
    )
    extra = "numbers of senses" if size.senses else extra
    senses = f" + {extra} at ~{size.sense_share:.0%} of positions" if size.sense_share else ""
    number_format = f" ({spec.link.hidden_format})" if size.hidden else ""
    held = held_bytes(spec, size, config.hidden_size) / 2**20
    return (
        f"teacher signal: {name}{senses} = {size.total:,.0f} bytes a token{number_format}; "
        f"at most {held:,.1f} MiB of replies{' and senses' if size.sense_share else ''} in each student's memory"
    )
