"""Random rows of word relations, for the properties of merging."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from dskd_ds.lexicon.merge import Merged, merge
from dskd_ds.lexicon.morpholex import Segmented
from dskd_ds.lexicon.table import SourceRows

VOCABULARY = [
    "happy",
    "unhappy",
    "lit",
    "unlit",
    "glad",
    "sad",
    "dark",
    "discover",
    "cover",
    "fear",
    "fearless",
    "chien",
]
Row = tuple[str, str, bool, str, str, str]
"""Language, word, whether the pair are antonyms, other word, part of speech, source."""
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["en", "fr"]),
        st.sampled_from(VOCABULARY),
        st.booleans(),
        st.sampled_from(VOCABULARY),
        st.sampled_from(["", "n", "adj"]),
        st.sampled_from(["one", "two", "three"]),
    ),
    max_size=25,
)


def merged_of(rows: Sequence[Row]) -> Merged:
    """Merge the rows; MorphoLEX says that unlit is negated."""
    sources: dict[tuple[str, str], SourceRows] = {}
    for language, word, is_antonym, other, pos, name in rows:
        source = sources.setdefault((name, language), SourceRows(name, language))
        source.add(word, other, is_antonym, pos)
    return merge(list(sources.values()), {"unlit": Segmented(True, "lit")})
