"""All students must learn from the same teachers.

A student refuses a teacher that differs from its first one. But two students may have met different
teachers first: of other weights, or of another number format.
"""

from __future__ import annotations

from collections.abc import Sequence

from dskd_ds.errors import InputError
from dskd_ds.student.collectives import all_gather_values, run_on_rank_0


def refuse_different_teachers(own: Sequence[str | None]) -> None:
    """Check that the replies of all ranks depend on the same. A collective call.

    own: for each teacher of the run, the fingerprint of this rank's replies; None if none came.
    Raises InputError on rank 0, and OtherRankError on the others, if two ranks differ.
    """
    run_on_rank_0(refuse_different, all_gather_values(list(own)))


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
