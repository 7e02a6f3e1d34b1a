"""`dskd senses eval`: the teacher reads WordNet's example sentences once; layers and dictionaries are scored on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.files import packages
from dskd_ds.lexicon.words import RunningText
from dskd_ds.models.frozen import TeacherModel, load_teacher
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic import similarity
from dskd_ds.senses.intrinsic.assignment import Candidates, pair_scores
from dskd_ds.senses.intrinsic.examples import Occurrence, Pair, build_pairs, read_occurrences
from dskd_ds.senses.intrinsic.ranks import Floats, auc, auc_error
from dskd_ds.senses.intrinsic.separation import separation
from dskd_ds.senses.intrinsic.states import WordStates, num_layers, word_states
from dskd_ds.spec import RunSpec, dskd_home

POSITIONS = ("before", "on")
CANDIDATES: tuple[Candidates, ...] = ("own", "lexical")
RATINGS = {"SimLex-999": packages.SIMLEX, "WordSim-353": packages.WORDSIM}
"""Word lists with people's ratings."""

Dictionaries = Mapping[str, SenseDictionary]
States = dict[int, WordStates]


def evaluate_senses(
    spec: RunSpec,
    named: NamedModel,
    dictionaries: Dictionaries,
    layers: Sequence[int],
    parts: Sequence[str],
    max_pairs: int,
) -> dict[str, Any]:
    """Everything that `dskd senses eval` prints, as JSON has it.

    named: the teacher. layers: of the plain cosine, negative ones from the end. parts: of look_commands.PARTS. max_pairs: of the word-in-context test.
    Raises InputError for a layer that is not there.
    """
    result: dict[str, Any] = {
        "dictionaries": {name: describe(dictionary) for name, dictionary in dictionaries.items()}
    }
    if "separation" in parts:
        bar = tqdm(dictionaries.items(), desc="distances of related words", unit="dictionary")
        result["separation"] = {name: asdict(separation(dictionary)) for name, dictionary in bar}
    if set(parts) == {"separation"}:
        return result
    tokenizer = named.tokenizer
    pairs = (
        context_pairs(read_occurrences(wordnet_folder(spec)), tokenizer, max_pairs)
        if "context" in parts
        else []
    )
    ratings = (
        {name: similarity.read_ratings(_fetched(package)) for name, package in RATINGS.items()}
        if "similarity" in parts
        else {}
    )
    teacher = load_teacher(named)
    shown = resolve_layers(layers, num_layers(teacher))
    if pairs:
        result["context"] = word_in_context(teacher, tokenizer, pairs, dictionaries, shown)
    if ratings:
        result["similarity"] = word_similarity(teacher, tokenizer, ratings, dictionaries, shown)
    return result


def describe(dictionary: SenseDictionary) -> dict[str, Any]:
    """What a table of several dictionaries should say of each."""
    facts = dictionary.facts
    return {
        "folder": str(dictionary.folder),
        "layer": dictionary.layer,
        "num_rows": facts["num_rows"],
        "num_tokens": facts["num_tokens"],
        "num_vectors": int(dictionary.sense_counts.sum()),
        "settings": facts.get("settings", {}),
    }


def wordnet_folder(spec: RunSpec) -> str:
    """The first lexicon of kind wordnet. Raises InputError if there is none."""
    for source in spec.senses.lexicons:
        if source.kind == "wordnet":
            return source.path
    raise InputError(
        "[senses] lexicons: none is of kind wordnet, whose example sentences the word-in-context test is made of.\n"
        "  add one, or leave that test out: --only separation --only similarity"
    )


def resolve_layers(layers: Sequence[int], last: int) -> list[int]:
    """Negative layers count from the end (-1: the last), each layer once, ascending; four spread evenly if none is named.

    Raises InputError.
    """
    layers = layers or [0, last // 3, 2 * last // 3, last]
    if wrong := [layer for layer in layers if not -last - 1 <= layer <= last]:
        raise InputError(
            f"--layers {wrong[0]}: the teacher has the layers 0 (embeddings) to {last}.\n  name some of those; -1 is {last}."
        )
    return sorted({layer % (last + 1) for layer in layers})


def dictionary_layer(dictionary: SenseDictionary, last: int) -> int:
    """The layer that a dictionary's vectors are from, counted from 0."""
    return dictionary.layer % (last + 1)


def _fetched(package: packages.Package) -> Path:
    folder = dskd_home() / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    return packages.fetch(package, folder / Path(package.content).name)


def word_tokens(tokenizer: Any, words: Sequence[str]) -> dict[str, int]:
    """word -> its token, of those that are a single one in running text."""
    return {
        word: ids[0]
        for word, ids in zip(words, RunningText(tokenizer).tokens(list(words)), strict=True)
        if len(ids) == 1
    }


def with_senses(dictionary: SenseDictionary, tokens: Mapping[str, int]) -> dict[str, int]:
    """The words whose token has senses."""
    lengths = np.diff(dictionary.owner_offsets)
    return {word: token for word, token in tokens.items() if lengths[token]}


def context_pairs(occurrences: Sequence[Occurrence], tokenizer: Any, max_pairs: int) -> list[Pair]:
    """Pairs of words that are one token: only those have senses of their own. Raises InputError if there are none."""
    tokens = word_tokens(tokenizer, sorted({o.lemma for o in occurrences}))
    pairs = build_pairs([o for o in occurrences if o.lemma in tokens], max_pairs)
    if not any(pair.for_tuning for pair in pairs) or all(pair.for_tuning for pair in pairs):
        raise InputError(
            f"WordNet's example sentences give {len(pairs)} pairs of contexts for words that are one token of this teacher's:"
            " too few.\n  raise --pairs, or leave that test out: --only separation --only similarity"
        )
    return pairs


def word_in_context(
    teacher: TeacherModel,
    tokenizer: Any,
    pairs: Sequence[Pair],
    dictionaries: Dictionaries,
    layers: Sequence[int],
) -> dict[str, Any]:
    """AUC of telling pairs of one meaning from pairs of two: by cosine of states, and by senses.

    `all` are the held-out pairs, `common` those whose word has senses in every dictionary: numbers of one set can be compared.
    """
    last = num_layers(teacher)
    needed = sorted({*layers, *(dictionary_layer(d, last) for d in dictionaries.values())})
    occurrences = sorted(
        {o for pair in pairs for o in (pair.left, pair.right)},
        key=lambda o: (o.text, o.start, o.synset, o.lemma),
    )
    states = word_states(
        teacher,
        tokenizer,
        [(o.text, o.start, o.end) for o in occurrences],
        needed,
        "reading WordNet's examples",
    )
    scored = _Scored(pairs, occurrences, states)
    held_out = ~scored.tuning
    result: dict[str, Any] = {
        "num_pairs": int(held_out.sum()),
        "num_lemmas": len({p.lemma for p in pairs if not p.for_tuning}),
        "num_tuning_pairs": int(scored.tuning.sum()),
        "all": [
            scored.area(scored.cosine(layer, at), held_out, layer=layer, position=at)
            for layer in layers
            for at in POSITIONS
        ],
    }
    if not dictionaries:
        return result
    tokens = word_tokens(tokenizer, sorted({pair.lemma for pair in pairs}))
    for dictionary in dictionaries.values():
        tokens = with_senses(dictionary, tokens)
    known = np.array([pair.lemma in tokens for pair in pairs])
    common = held_out & known
    result["num_common_pairs"] = int(common.sum())
    result["common"] = [
        scored.area(scored.cosine(layer, at), common, layer=layer, position=at)
        for layer in layers
        for at in POSITIONS
    ]
    result["senses"] = {
        name: _by_senses(scored, dictionary, dictionary_layer(dictionary, last), tokens, known)
        for name, dictionary in tqdm(
            dictionaries.items(), desc="assigning senses", unit="dictionary"
        )
    }
    return result


class _Scored:
    """The pairs with their states, ready to be scored."""

    def __init__(
        self, pairs: Sequence[Pair], occurrences: Sequence[Occurrence], states: States
    ) -> None:
        self.pairs, self.states = pairs, states
        place = {occurrence: number for number, occurrence in enumerate(occurrences)}
        self.rows = torch.tensor([[place[pair.left], place[pair.right]] for pair in pairs])
        self.labels = np.array([pair.same for pair in pairs])
        self.tuning = np.array([pair.for_tuning for pair in pairs])
        self.groups = np.unique([pair.lemma for pair in pairs], return_inverse=True)[1]

    def sides(self, layer: int, position: str) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, D] of the left occurrences, and of the right ones."""
        states = getattr(self.states[layer], position)
        return states[self.rows[:, 0]], states[self.rows[:, 1]]

    def cosine(self, layer: int, position: str) -> Floats:
        """[N]"""
        scores: Floats = torch.cosine_similarity(*self.sides(layer, position)).double().numpy()
        return scores

    def area(
        self, scores: Floats, among: np.ndarray[Any, np.dtype[np.bool_]], **what: object
    ) -> dict[str, Any]:
        """AUC and its standard error over some of the pairs, with what it is of."""
        chosen, labels = scores[among], self.labels[among]
        return {
            **what,
            "auc": auc(chosen, labels),
            "error": auc_error(chosen, labels, self.groups[among]),
        }


def _by_senses(
    scored: _Scored,
    dictionary: SenseDictionary,
    layer: int,
    tokens: Mapping[str, int],
    known: np.ndarray[Any, np.dtype[np.bool_]],
) -> list[dict[str, Any]]:
    """Every way of scoring by a dictionary, over the held-out pairs among the `known`."""
    areas = []
    owners = [
        tokens[pair.lemma] for pair, is_known in zip(scored.pairs, known, strict=True) if is_known
    ]
    for position in POSITIONS:
        left, right = (side[torch.from_numpy(known)] for side in scored.sides(layer, position))
        for candidates in CANDIDATES:
            found = pair_scores(
                dictionary,
                owners,
                left,
                right,
                scored.labels[known],
                scored.tuning[known],
                candidates,
            )
            for name, values in found.items():
                scores = np.zeros(len(scored.pairs))
                scores[known] = values
                areas.append(
                    scored.area(
                        scores,
                        known & ~scored.tuning,
                        layer=layer,
                        position=position,
                        candidates=candidates,
                        score=name,
                    )
                )
    return areas


def word_similarity(
    teacher: TeacherModel,
    tokenizer: Any,
    ratings: Mapping[str, Sequence[similarity.RatedPair]],
    dictionaries: Dictionaries,
    layers: Sequence[int],
) -> dict[str, Any]:
    """Spearman correlation with people's ratings: by the cosine of states on the words, and by senses."""
    words = sorted(
        {word for pairs in ratings.values() for pair in pairs for word in (pair.left, pair.right)}
    )
    states = word_states(
        teacher, tokenizer, similarity.carried(words), layers, "reading rated words"
    )
    tokens = word_tokens(tokenizer, words)
    result: dict[str, Any] = {}
    for name, pairs in ratings.items():
        by_layer = [
            {
                "layer": layer,
                **asdict(
                    similarity.by_states(pairs, dict(zip(words, states[layer].on, strict=True)))
                ),
            }
            for layer in layers
        ]
        by_dictionary = {
            key: {
                score: asdict(value)
                for score, value in similarity.by_senses(
                    pairs, dictionary, with_senses(dictionary, tokens)
                ).items()
            }
            for key, dictionary in dictionaries.items()
        }
        result[name] = {"states": by_layer, "senses": by_dictionary}
    return result
