"""All students must learn from the same teachers.

A student refuses a teacher that differs from its first one. But two students may have met different
teachers first: of other weights, or of another number format.
"""

from __future__ import annotations

from collections.abc import Sequence

from dskd_ds.errors import InputError
from dskd_ds.student.collectives import all_gather_values, run_on_rank_0


class TeacherComparison:
    """Compares the teachers of all ranks whenever a rank has met one that it had not met before.

    A teacher of rare text may come long after the first step, and to each rank at another time.
    """

    def __init__(self) -> None:
        self._met: set[int] = set()
        """Numbers of the teachers that this rank had met when the ranks last compared."""

    def is_due(self, own: Sequence[str | None]) -> bool:
        """Return whether this rank has met another teacher since the last comparison.

        own: for each teacher of the run, the fingerprint of this rank's replies; None if none came.
        """
        return not _met(own) <= self._met

    def compare(self, own: Sequence[str | None]) -> None:
        """Check that the replies of all ranks depend on the same. A collective call.

        Raises InputError on rank 0, and OtherRankError on the others, if two ranks differ.
        """
        self._met = _met(own)
        run_on_rank_0(refuse_different, all_gather_values(list(own)))


def _met(own: Sequence[str | None]) -> set[int]:
    return {number for number, fingerprint in enumerate(own) if fingerprint is not None}


def refuse_different(by_rank: Sequence[Sequence[str | None]]) -> None:
    """Raise InputError if two ranks have replies that differ. by_rank: fingerprints by teacher."""
    for of_teacher in zip(*by_rank, strict=True):
        ranks_of: dict[str, list[int]] = {}
        for rank, fingerprint in enumerate(of_teacher):
            if fingerprint is not None:
                ranks_of.setdefault(fingerprint, []).append(rank)
        if len(ranks_of) > 1:
            found = "\n".join(
                f"  students {', '.join(map(str, ranks))}: {fingerprint}"
                for fingerprint, ranks in ranks_of.items()
            )
            raise InputError(
                f"the students learn from different teachers:\n{found}\n"
                "  start all teachers with the same spec on the same kind of machine; [teacher]"
                ' dtype = "auto" is another number format on another machine.'
            )
