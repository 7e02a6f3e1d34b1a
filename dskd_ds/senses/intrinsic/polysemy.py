"""Do words with more meanings in WordNet have more senses in a dictionary?

Frequent words have more meanings, and more states to find senses in. So the correlation is also
given among words that are equally frequent in the dictionary's corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.examples import PARTS_OF_SPEECH, read_synsets
from dskd_ds.senses.intrinsic.ranks import Floats, partial_spearman, spearman
from dskd_ds.senses.intrinsic.results import PolysemyResult
from dskd_ds.senses.intrinsic.vocabulary import with_senses, word_tokens


def num_meanings(folder: str | Path) -> Counter[str]:
    """Return WordNet's number of synsets of every one-word lemma. Raises InputError."""
    return Counter(
        lemma
        for pos in PARTS_OF_SPEECH
        for synset, _ in read_synsets(Path(folder), pos)
        for lemma in synset.lemmas
    )


def polysemy(
    dictionary: SenseDictionary, tokenizer: Any, meanings: Mapping[str, int]
) -> PolysemyResult:
    """Compare a dictionary's number of senses per word with the number of the word's meanings.

    meanings: of each word; words of several tokens and those without senses are left out.
    """
    tokens = with_senses(dictionary, word_tokens(tokenizer, sorted(meanings)))
    rows = [dictionary.owner_rows(token) for token in tokens.values()]
    senses = _floats([row.stop - row.start for row in rows])
    vectors = _floats([int(dictionary.sense_counts[row].sum()) for row in rows])
    wanted = _floats([meanings[word] for word in tokens])
    return PolysemyResult(
        num_words=len(tokens),
        spearman=spearman(senses, wanted),
        spearman_at_equal_frequency=partial_spearman(senses, wanted, given=vectors),
    )


def _floats(values: list[int]) -> Floats:
    return np.array(values, dtype=np.float64)
