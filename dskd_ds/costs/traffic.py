"""Computes the bytes of the teacher's signal per token, from the spec and the models' sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.costs.dictionary_size import MANY_ROWS
from dskd_ds.costs.related import related_share, token_counts
from dskd_ds.costs.terms import (
    layers_of_states,
    most_candidates,
    num_candidate_sets,
    num_term_rows,
)
from dskd_ds.signals.kind import PARTS, SENSE_PARTS, Part, signal_kind
from dskd_ds.signals.widths import (
    candidates_bytes,
    chosen_bytes,
    draws_bytes,
    states_bytes,
    top_k_bytes,
)
from dskd_ds.spec import RunSpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.spec.terms import CANDIDATE_KINDS

if TYPE_CHECKING:
    from dskd_ds.models.named import NamedModel
    from dskd_ds.senses.dictionary.dictionary import SenseDictionary

REQUEST_TOKEN_BYTES = 8
"""Id and position id of every token (int32 each)."""
TARGET_BYTES = 4
"""The target of every token (int32), if the teacher draws the sense positions."""
POSITION_BYTES = 4
"""The number of a position that a part is asked for at (int32)."""


@dataclass(frozen=True)
class SignalBytes:
    """Bytes over the link per token of text, by what they are."""

    top_k: float
    draws: float
    hidden: float
    senses: float
    """Row numbers of chosen senses."""
    request: float
    sense_share: float
    """Share of positions that get the sense term, 0..1; not bytes."""
    layers: float = 0.0
    """States of several layers, for losses below the head."""
    candidates: float = 0.0
    """Row numbers and distances of senses that the teacher chose for losses below the head."""

    @property
    def total(self) -> float:
        """The sum of all bytes."""
        signal = self.top_k + self.draws + self.hidden + self.senses
        return signal + self.layers + self.candidates + self.request


def signal_bytes(
    spec: RunSpec,
    vocab_size: int,
    hidden_size: int,
    sense_share: float,
    num_rows: int = MANY_ROWS,
    num_term_rows: int = MANY_ROWS,
) -> SignalBytes:
    """Return the bytes per token if every position has a target.

    sense_share: share of positions with the sense term, 0..1 (`sense_share`). num_rows: rows of the
    dictionary. num_term_rows: rows of the largest dictionary of [[loss.terms]]. Headers add about
    1,000 bytes per message. The bytes of chosen senses are an upper bound.
    """
    loss, kind = spec.loss, signal_kind(spec.loss)
    teacher_chooses = spec.uses_senses and spec.senses.retrieve_on == "teacher"
    # If the teacher chooses senses, no part of a reply is sent for the student to choose from.
    student_share = 0.0 if teacher_chooses else sense_share
    share = {part: kind.share(part, student_share) for part in PARTS}
    num_sets = num_candidate_sets(spec)
    target_bytes = TARGET_BYTES if teacher_chooses or num_sets else 0
    top_k = top_k_bytes(loss.top_k, vocab_size, len(kind.temperatures))
    num_layers = len(layers_of_states(spec))
    most = most_candidates(spec.senses)
    return SignalBytes(
        candidates=num_sets * candidates_bytes(most, most, num_term_rows),
        layers=num_layers * states_bytes(spec.link.hidden_format, hidden_size),
        top_k=share["top_k"] * top_k,
        draws=share["draw"] * draws_bytes(loss.num_draws, vocab_size),
        hidden=share["hidden"] * states_bytes(spec.link.hidden_format, hidden_size),
        senses=sense_share * _chosen_bytes(spec.senses, num_rows) if teacher_chooses else 0.0,
        request=REQUEST_TOKEN_BYTES
        + target_bytes
        + POSITION_BYTES * (sum(share.values()) + bool(num_layers)),
        sense_share=sense_share,
    )


def _chosen_bytes(senses: SensesSpec, num_rows: int) -> float:
    """Upper bound of the bytes of the chosen senses at a position: weight, flag, two lengths, rows.

    Half of the positions have S+ and S-, half have S+ alone. Word relations give at most kappa
    senses per set. The index adds as many to S- in the first half, and to S+ in the second half,
    whose targets may have no relations. Without word relations the index alone fills S+ everywhere
    and S- in the first half.
    """
    num_senses = senses.kappa * (1.5 if senses.candidates == "lexical" else 2.5)
    return chosen_bytes(num_senses, 2 * senses.kappa, num_rows)


def held_sense_bytes(senses: SensesSpec, hidden_size: int) -> int:
    """Upper bound of the bytes that one position's senses take until its step is done
    (losses/sense.py).

    The mean of S+ in float32; the senses of S- in bfloat16, with a norm and a mask entry each, as
    many as at the fullest position: kappa from word relations or from the index, 2 kappa with
    `hybrid`; and 17 bytes.
    """
    num_push = senses.kappa * (2 if senses.candidates == "hybrid" else 1)
    return 4 * hidden_size + num_push * (2 * hidden_size + 5) + 17


def held_term_bytes(spec: RunSpec, hidden_size: int) -> int:
    """Upper bound of the bytes that one position's senses take for the losses below the head
    (losses/senses_at_layer.py), as if no two positions shared a sense.

    A candidate is a state in bfloat16 with its norm, and 14 bytes per position. Of spans and
    tokens, none has more than `num_senses`.
    """
    senses = spec.senses
    num_candidates = most_candidates(senses)
    total = 0
    for term in spec.loss.terms:
        if term.kind == "sense":
            total += held_sense_bytes(senses, hidden_size)
        elif term.kind in CANDIDATE_KINDS:
            total += num_candidates * (2 * hidden_size + 4 + 14)
        elif term.smoothing:
            total += 4 * hidden_size
    return total


def held_bytes(spec: RunSpec, size: SignalBytes, hidden_size: int, row_tokens: int) -> float:
    """Upper bound of what one student holds, in main memory or on its device, for prefetched steps.

    Replies as they came, what unpacking adds to them (signals/kind.py), and senses
    (student/replies/feed.py). row_tokens: of the longest row (`longest_row`).
    """
    unpacked = signal_kind(spec.loss).unpacked_bytes(hidden_size)
    senses = size.sense_share * held_sense_bytes(spec.senses, hidden_size)
    senses += held_term_bytes(spec, hidden_size)
    blocks_per_step = spec.train.global_batch_blocks // spec.topology.num_students
    num_steps = spec.link.prefetch_depth + 1
    num_tokens = blocks_per_step * row_tokens * num_steps
    return num_tokens * (size.total + unpacked + senses)


def teacher_held_bytes(spec: RunSpec, size: SignalBytes, row_tokens: int) -> float:
    """Upper bound of the requests and replies that one teacher holds, for all students together.

    size: the bytes per token. row_tokens: of the longest row (`longest_row`). A request that needs
    more than the credits is sent alone.
    """
    message = size.total * spec.train.micro_batch_blocks * row_tokens
    held = spec.link.credits * message
    if spec.link.credit_bytes:
        held = min(held, max(spec.link.credit_bytes, message))
    return spec.topology.num_students * held


def sense_share(spec: RunSpec, related_fraction: float) -> float:
    """Return the share of a block's positions that get the sense term (docs/method.md,
    "Positions").

    With packing = "none" rows are taken to be as long as blocks: how long they are is unknown
    before the text is read. related_fraction: share of positions whose target has relations.
    """
    if not spec.uses_senses:
        return 0.0
    num_related = related_fraction * spec.data.block_tokens
    at_least = min(spec.senses.min_positions, num_related)
    num_full = max(at_least, spec.senses.position_fraction * num_related)
    return min(1.0, 2 * num_full / spec.data.block_tokens)


def related_fraction(spec: RunSpec, dictionary: SenseDictionary | None) -> float:
    """Estimate how often a target has relations, in the text that the dictionary was collected
    from.

    0 if there is no dictionary; 1 if candidates come from the index alone.
    """
    if spec.senses.candidates == "neighbours":
        return 1.0
    if dictionary is None:
        return 0.0
    # Owners from vocab_size on are spans.
    offsets = dictionary.owner_offsets[: dictionary.vocab_size + 1]
    return related_share(
        token_counts(offsets, dictionary.sense_counts),
        has_relations=(dictionary.synonyms.lengths() > 0) | (dictionary.antonyms.lengths() > 0),
    )


def plan_line(spec: RunSpec, teacher: NamedModel) -> str:
    """Describe in one line what the teacher sends, and how much of it a student holds in memory."""
    dictionary = _dictionary(spec)
    share = sense_share(spec, related_fraction(spec, dictionary))
    num_rows = len(dictionary.senses) if dictionary else MANY_ROWS
    size = signal_bytes(
        spec,
        teacher.vocab_size,
        teacher.hidden_size,
        share,
        num_rows,
        num_term_rows=num_term_rows(spec),
    )
    row_tokens = longest_row(spec, teacher)
    held = held_bytes(spec, size, teacher.hidden_size, row_tokens) / 2**20
    teacher_held = teacher_held_bytes(spec, size, row_tokens) / 2**20
    number_format = f" ({spec.link.hidden_format})" if size.hidden or size.layers else ""
    and_senses = " and senses" if size.sense_share or size.candidates else ""
    longest = f", if all rows have {row_tokens:,} tokens" if spec.data.packing == "none" else ""
    return (
        f"teacher signal: {_contents(spec, size)} = {size.total:,.0f} bytes per token"
        f"{number_format}; at most {held:,.1f} MiB of replies{and_senses} in each student's memory,"
        f" {teacher_held:,.1f} MiB in each teacher's{longest}"
    )


def longest_row(spec: RunSpec, teacher: NamedModel) -> int:
    """Return the tokens of a block, or of the longest unpacked row that the teacher reads."""
    if spec.data.packing == "none" and teacher.max_tokens:
        return teacher.max_tokens
    return spec.data.block_tokens


def _dictionary(spec: RunSpec) -> SenseDictionary | None:
    """Open the spec's dictionary, if the run uses one and it exists."""
    from dskd_ds.senses.dictionary.dictionary import open_dictionary

    exists = spec.uses_senses and Path(spec.senses.dictionary).is_dir()
    return open_dictionary(spec.senses.dictionary, verify=False) if exists else None


def _contents(spec: RunSpec, size: SignalBytes) -> str:
    """Name what a reply holds at supervised positions, and what is added at sense positions."""
    kind = signal_kind(spec.loss)
    everywhere = kind.describe()
    if size.layers:
        everywhere += " + states below the head"
    if size.candidates:
        everywhere += " + numbers and distances of senses below the head"
    if not size.sense_share:
        return everywhere
    part_names: dict[Part, str] = {"hidden": "hidden states", "top_k": f"top-{spec.loss.top_k}"}
    added = [part_names[part] for part in SENSE_PARTS if kind.asked_at(part) == "sense"]
    what = "numbers of senses" if size.senses else " and ".join(added)
    return f"{everywhere} + {what} at ~{size.sense_share:.0%} of positions"
