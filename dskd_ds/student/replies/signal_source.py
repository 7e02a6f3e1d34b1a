"""Where a student gets the teacher's signal: from teachers, from a cache, or from both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from dskd_ds.link import StudentSide
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.signal_cache.cache import SignalCache
from dskd_ds.signal_cache.cached_side import CachedSide
from dskd_ds.signal_cache.folder import kept_fingerprint, note_teacher, open_cache
from dskd_ds.spec import RunSpec

FILL_COMMAND = "dskd teach SPEC"


@dataclass(frozen=True)
class SignalSource:
    """What answers a student's requests."""

    link: StudentSide
    """For text that may come again."""
    uncached: StudentSide
    """For what no cache keeps: text that the student wrote, which never comes again, and the states
    of layers that the repair needs."""


def open_signal_source(
    spec: RunSpec, models: RunModels, open_link: Callable[[], StudentSide]
) -> SignalSource:
    """Return what [teacher] source names. open_link: listens for teachers; not called for "cache".

    The teacher's fingerprint is computed when the first request is looked up: for a large model
    that takes minutes once, during which teachers already find the student.
    """
    source = spec.teacher.source
    link = None if source == "cache" else open_link()
    if link is not None and source == "live":
        return SignalSource(link, link)

    def own_fingerprint() -> str:
        fingerprint = reply_fingerprint(spec, models)
        if link is not None:
            return fingerprint
        return kept_fingerprint(spec.teacher, fingerprint, models.teacher.weights_digest)

    def open_kept(fingerprint: str) -> SignalCache:
        if link is not None:
            # A read-only cache is still read; what cannot be written is said where it happens.
            with contextlib.suppress(OSError):
                note_teacher(spec.teacher, fingerprint)
        return open_cache(spec.teacher, fingerprint)

    cached = CachedSide(
        link,
        own_fingerprint=own_fingerprint,
        open_cache=open_kept,
        sizes=(models.shared_vocab_size, models.teacher.hidden_size),
        fill_command=FILL_COMMAND,
    )
    return SignalSource(cached, link or cached)
