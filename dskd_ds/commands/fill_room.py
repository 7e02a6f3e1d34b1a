"""Whether what a fill keeps stays below the cache's limit, and what was removed for it."""

from __future__ import annotations

import sys

from tqdm import tqdm

from dskd_ds.costs.traffic import related_fraction, sense_share, signal_bytes
from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.signal_cache.room import enough_limit, segment_files
from dskd_ds.signal_cache.store import SignalStore
from dskd_ds.spec import RunSpec

KEPT_SHARE = 0.6
"""Least share of the wire's bytes that kept signal takes (signal_cache/part_rows.py)."""


def refuse_too_small(spec: RunSpec, models: RunModels, num_blocks: int, num_positions: int) -> None:
    """Raise InputError if the signal of some blocks cannot fit the cache's limit.

    num_positions: positions with a target in them. Nothing is kept of the others, which are most of
    a conversation whose completions alone are learned.
    """
    limit = spec.teacher.cache_limit_bytes
    dictionary = open_dictionary(spec.senses.dictionary, verify=False) if spec.uses_senses else None
    size = signal_bytes(
        spec,
        vocab_size=models.shared_vocab_size,
        hidden_size=models.teacher.hidden_size,
        sense_share=sense_share(spec, related_fraction(spec, dictionary)),
    )
    per_position = KEPT_SHARE * (size.total - size.request)
    needed = per_position * num_positions
    if limit and needed > limit:
        raise InputError(
            f"[teacher] cache_limit_bytes = {limit}, but the signal of {num_blocks:,} blocks with"
            f" {num_positions:,} targets takes at least {needed:,.0f} bytes"
            f" ({per_position:,.0f} per target).\n"
            "  raise it, train on fewer blocks, or choose a smaller signal ([loss] top_k,"
            " [link] hidden_format)."
        )


def refuse_losses(store: SignalStore, num_asked: int, num_left: int, num_ranks: int) -> None:
    """Raise InputError if this rank has removed signal of the teacher that it fills the cache of.

    num_asked: blocks that this rank has asked the teacher about. num_left: that all ranks still
    have to fill. num_ranks: that fill at the same time.
    """
    lost = store.removed[store.folder]
    if not lost:
        return
    kept = sum(file.num_bytes for file in segment_files(store.root))
    to_come = store.num_written_bytes // num_asked * num_left
    # Open segments of ranks that this error ends still count as open when the fill goes on.
    num_open = 2 * num_ranks
    enough = enough_limit(kept + lost + to_come, num_open, store.most_payload_bytes)
    raise InputError(
        f"[teacher] cache_limit_bytes = {store.limit_bytes}, but that is too small: {lost:,} bytes"
        " of this teacher's signal were removed to keep newer signal.\n"
        f"  raise it (about {enough} is enough for what {store.root} holds and for {num_left:,}"
        " more blocks), name another [teacher] cache_dir, or train on fewer blocks. The same"
        " command then goes on."
    )


def report_removed(store: SignalStore) -> None:
    """Print how much signal of other teachers this rank removed, if any."""
    removed = store.removed.total() - store.removed[store.folder]
    if removed:
        tqdm.write(
            f"{store.root}: {removed:,} bytes of other teachers' signal were removed to make room"
            f" ([teacher] cache_limit_bytes = {store.limit_bytes}).",
            file=sys.stderr,
        )
