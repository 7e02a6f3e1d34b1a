"""How many bytes the teacher's signal has, for each token: known before anything runs, from the spec and the models' sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dskd_ds.link.hidden import hidden_width
from dskd_ds.link.packing import byte_width
from dskd_ds.spec import RunSpec

TOKENS_PER_DRAW = 0.31
"""Different tokens among 100 draws at a position: 31 with SmolLM2 on held-out Wikipedia (`dskd bench` counts again)."""
REQUEST_TOKEN_BYTES = 8
"""Id and position of every token."""
POSITION_BYTES = 4
"""Each position that something is asked for at."""


@dataclass(frozen=True)
class SignalBytes:
    """Bytes over the link for each token of the text, by what they are."""

    top_k: float
    draws: float
    hidden: float
    request: float
    sense_share: float
    """Share of positions that get the sense term."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.top_k + self.draws + self.hidden + self.request


def signal_bytes(spec: RunSpec, vocab_size: int, hidden_size: int, sense_share: float) -> SignalBytes:
    """Bytes for each token, as if every position had a target (headers add about 1,000 bytes a message).

    sense_share: share of positions with the sense term, 0..1 (`sense_share`).
    """
    loss, id_bytes = spec.loss, byte_width(vocab_size)
    num_bytes, num_scales = hidden_width(spec.link.hidden_format, hidden_size)
    num_tails = 2 if loss.signal == "topk" and loss.temperature != 1.0 else 1
    share = {"top_k": 1.0 if loss.signal == "topk" else sense_share, "draws": 1.0 if loss.signal == "sampled" else 0.0,
             "hidden": 1.0 if loss.signal == "exact" else sense_share}
    drawn = max(1.0, TOKENS_PER_DRAW * loss.num_draws)
    return SignalBytes(
        top_k=share["top_k"] * (min(loss.top_k, vocab_size) * (id_bytes + 2) + 4 * num_tails),
        draws=share["draws"] * (2 + drawn * (id_bytes + byte_width(loss.num_draws + 1))),
        hidden=share["hidden"] * (num_bytes + 2 * num_scales),
        request=REQUEST_TOKEN_BYTES + POSITION_BYTES * sum(share.values()), sense_share=sense_share)


def sense_share(spec: RunSpec, related_fraction: float) -> float:
    """Share of a block's positions that get the sense term (METHOD.md, "Positions").

    related_fraction: share of positions whose target has relations.
    """
    if not spec.uses_senses:
        return 0.0
    related = related_fraction * spec.data.block_tokens
    wanted = max(min(spec.senses.min_positions, related), spec.senses.position_fraction * related)
    return min(1.0, 2 * wanted / spec.data.block_tokens)


def related_fraction(spec: RunSpec) -> float:
    """About how often a target has relations, in the text that the dictionary was collected from. 0 if there is no dictionary."""
    if spec.senses.candidates == "neighbours":
        return 1.0
    if not spec.uses_senses or not Path(spec.senses.dictionary).is_dir():
        return 0.0
    import numpy as np

    from dskd_ds.sense.dictionary import open_dictionary

    dictionary = open_dictionary(spec.senses.dictionary, verify=False)
    counts = np.bincount(dictionary.row_owners, dictionary.sense_counts, minlength=dictionary.vocab_size)[: dictionary.vocab_size]
    related = (dictionary.synonyms.lengths() > 0) | (dictionary.antonyms.lengths() > 0)
    return float(counts[related].sum() / max(counts.sum(), 1))


def plan_line(spec: RunSpec) -> str:
    """What the teacher will send, and what of it a student holds, in one line for the user."""
    from dskd_ds.teacher.checkpoint import read_config, resolve_model

    config = read_config(resolve_model(spec.teacher.model)).get_text_config()
    size = signal_bytes(spec, config.vocab_size, config.hidden_size, sense_share(spec, related_fraction(spec)))
    name = {"topk": f"top-{spec.loss.top_k}", "exact": "hidden states at every position", "hidden": "no logits",
            "sampled": f"{spec.loss.num_draws} draws"}[spec.loss.signal]
    extra = {"topk": "hidden states", "exact": f"top-{spec.loss.top_k}"}.get(spec.loss.signal, f"hidden states and top-{spec.loss.top_k}")
    senses = f" + {extra} at ~{size.sense_share:.0%} of positions" if size.sense_share else ""
    ahead = spec.train.global_batch_blocks // spec.topology.num_students * spec.data.block_tokens * (spec.link.prefetch_depth + 1)
    number_format = f" ({spec.link.hidden_format})" if size.hidden else ""
    return (f"teacher signal: {name}{senses} = {size.total:,.0f} bytes a token{number_format}; "
            f"at most {ahead * size.total / 2**20:,.1f} MiB of replies in each student's memory")
