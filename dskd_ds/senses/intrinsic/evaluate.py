"""`dskd senses eval`: score layers and dictionaries on the same pairs, without training.

The teacher reads WordNet's example sentences once, whatever the number of dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.files import packages
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.context import context_pairs, word_in_context
from dskd_ds.senses.intrinsic.examples import read_occurrences
from dskd_ds.senses.intrinsic.polysemy import num_meanings, polysemy
from dskd_ds.senses.intrinsic.results import DictionaryFacts, PolysemyResult, SenseEvaluation
from dskd_ds.senses.intrinsic.separation import Separation, separation
from dskd_ds.senses.intrinsic.similarity import RatedPair, read_ratings, word_similarity
from dskd_ds.senses.intrinsic.states import num_layers
from dskd_ds.senses.intrinsic.vocabulary import Dictionaries
from dskd_ds.spec import RunSpec, dskd_home

WITHOUT_TEACHER = {"separation", "polysemy"}
"""Parts that read the dictionary only."""
RATINGS = {"SimLex-999": packages.SIMLEX, "WordSim-353": packages.WORDSIM}
"""Lists of word pairs with people's ratings."""


def evaluate_senses(
    spec: RunSpec,
    named: NamedModel,
    dictionaries: Dictionaries,
    layers: Sequence[int],
    parts: Sequence[str],
    max_pairs: int,
) -> SenseEvaluation:
    """Measure dictionaries and the teacher's layers.

    named: the teacher that reads the examples.
    layers: those whose states are compared; negative ones count from the end; empty: four of them.
    parts: any of `context`, `separation`, `similarity`, `polysemy`. max_pairs: of the
    word-in-context test.
    Raises InputError, for example for a layer that the teacher does not have.
    """
    facts = {name: describe(dictionary) for name, dictionary in dictionaries.items()}
    separations = _separations(dictionaries) if "separation" in parts else None
    tokenizer = named.tokenizer
    counted = _polysemy(spec, tokenizer, dictionaries) if "polysemy" in parts else None
    if set(parts) <= WITHOUT_TEACHER:
        return SenseEvaluation(facts, separation=separations, polysemy=counted)
    # What can fail fails here, before the teacher is loaded.
    pairs = []
    if "context" in parts:
        pairs = context_pairs(read_occurrences(wordnet_folder(spec)), tokenizer, max_pairs)
    ratings = _ratings() if "similarity" in parts else {}
    teacher = load_frozen(named)
    shown = resolve_layers(layers, num_layers(teacher))
    context = similarity = None
    if pairs:
        context = word_in_context(
            teacher, tokenizer, pairs=pairs, dictionaries=dictionaries, layers=shown
        )
    if ratings:
        similarity = word_similarity(
            teacher, tokenizer, ratings=ratings, dictionaries=dictionaries, layers=shown
        )
    return SenseEvaluation(
        dictionaries=facts,
        separation=separations,
        context=context,
        similarity=similarity,
        polysemy=counted,
    )


def describe(dictionary: SenseDictionary) -> DictionaryFacts:
    """Return what a table of several dictionaries says about one of them."""
    facts = dictionary.facts
    return DictionaryFacts(
        folder=str(dictionary.folder),
        layer=dictionary.layer,
        num_rows=facts["num_rows"],
        num_tokens=facts["num_tokens"],
        num_vectors=int(dictionary.sense_counts.sum()),
        settings=facts.get("settings", {}),
    )


def _separations(dictionaries: Dictionaries) -> dict[str, Separation]:
    """Measure the separation of every dictionary."""
    progress = tqdm(dictionaries.items(), desc="distances of related words", unit="dictionary")
    return {name: separation(dictionary) for name, dictionary in progress}


def _polysemy(
    spec: RunSpec, tokenizer: Any, dictionaries: Dictionaries
) -> dict[str, PolysemyResult]:
    """Compare the number of senses in every dictionary with WordNet's number of meanings."""
    meanings = num_meanings(wordnet_folder(spec))
    return {
        name: polysemy(dictionary, tokenizer, meanings) for name, dictionary in dictionaries.items()
    }


def _ratings() -> dict[str, list[RatedPair]]:
    """Return the pairs of every list of ratings; lists that are missing are fetched."""
    folder = dskd_home() / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, list[RatedPair]] = {}
    for name, package in RATINGS.items():
        path = packages.fetch(package, folder / Path(package.content).name)
        result[name] = read_ratings(path)
    return result


def wordnet_folder(spec: RunSpec) -> str:
    """Return the folder of the spec's first lexicon of kind wordnet.

    Raises InputError if there is none.
    """
    for source in spec.senses.lexicons:
        if source.kind == "wordnet" and source.path is not None:
            return source.path
    raise InputError(
        "[senses] lexicons: none is of kind wordnet, but the parts context and polysemy read"
        " WordNet.\n"
        "  add one, or leave these parts out: --only separation --only similarity"
    )


def resolve_layers(layers: Sequence[int], last: int) -> list[int]:
    """Return distinct layers from 0 to `last`, ascending; -1 becomes `last`.

    If no layer is named, four layers at even distances are returned. Raises InputError for a layer
    that does not exist.
    """
    layers = layers or [0, last // 3, 2 * last // 3, last]
    for layer in layers:
        if not -last - 1 <= layer <= last:
            raise InputError(
                f"--layers {layer} is invalid: the teacher has the layers 0 (embeddings) to"
                f" {last}.\n"
                f"  name some of those; -1 is {last}."
            )
    return sorted({layer % (last + 1) for layer in layers})
