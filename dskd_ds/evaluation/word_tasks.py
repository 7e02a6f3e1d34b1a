"""Word in context and word similarity as tasks: by layer, of the teacher and of students alike.

AUC and rank correlation are no means over items. So each item gets a value whose mean is the
statistic, and whose spread over items gives its standard error (the influence function). Errors and
paired differences then work as for any other task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import Floats, ItemScores, digest_of
from dskd_ds.files import packages
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.intrinsic.context import ScoredPairs, context_pairs
from dskd_ds.senses.intrinsic.evaluate import wordnet_folder
from dskd_ds.senses.intrinsic.examples import Pair, read_occurrences
from dskd_ds.senses.intrinsic.ranks import Bools, average_ranks
from dskd_ds.senses.intrinsic.similarity import RatedPair, carried, read_ratings
from dskd_ds.senses.intrinsic.states import num_layers, word_states
from dskd_ds.spec import RunSpec, dskd_home

WIC, SIMLEX = "wic", "simlex"
WORD_TASKS = (WIC, SIMLEX)
DEPTHS = (0, 25, 50, 75, 100)
"""Percent of a model's layers below the states that are compared; 0 are the embeddings. A student
has fewer layers than its teacher, so equal depths are compared, not equal numbers."""
MAX_PAIRS = 1500
"""Most word-in-context pairs, if no limit is given."""


def name_at(task: str, depth: int) -> str:
    """Return the name of a word task at a depth, under which its scores are stored."""
    return f"{task}_{depth}"


def stored_names(names: Sequence[str]) -> list[str]:
    """Return the names under which tasks store their scores: a word task has one per depth."""
    distinct = list(dict.fromkeys(names))
    questions = [name for name in distinct if name not in WORD_TASKS]
    words = [name for name in distinct if name in WORD_TASKS]
    return questions + [name_at(name, depth) for name in words for depth in DEPTHS]


@dataclass(frozen=True)
class WordItems:
    """The pairs of words that all models are measured on."""

    pairs: list[Pair] = field(default_factory=list)
    """Pairs of contexts; empty without the task `wic`."""
    ratings: list[RatedPair] = field(default_factory=list)
    """Pairs of words with ratings; empty without the task `simlex`."""

    @staticmethod
    def read(
        names: Sequence[str], spec: RunSpec | None, teacher: NamedModel, limit: int | None
    ) -> WordItems:
        """Read the pairs of the named word tasks.

        teacher: its tokenizer decides which words are one token. limit: most pairs of each task.
        Raises InputError if `wic` has no spec with a lexicon of kind wordnet.
        """
        pairs: list[Pair] = []
        if WIC in names:
            if spec is None:
                raise InputError(
                    "--tasks wic: its sentences come from the WordNet of a spec.\n"
                    "  name a spec with a lexicon of kind wordnet."
                )
            occurrences = read_occurrences(wordnet_folder(spec))
            found = context_pairs(occurrences, teacher.tokenizer, limit or MAX_PAIRS)
            # The others choose the temperature of `dskd senses eval`.
            pairs = [pair for pair in found if not pair.for_tuning]
        ratings = _read_simlex()[:limit] if SIMLEX in names else []
        return WordItems(pairs, ratings)


def _read_simlex() -> list[RatedPair]:
    folder = dskd_home() / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    package = packages.SIMLEX
    return read_ratings(packages.fetch(package, folder / package.content.rpartition("/")[2]))


def score_words(
    named: NamedModel, name: str, prompt_model: NamedModel, items: WordItems
) -> list[ItemScores]:
    """Return a model's scores, one entry per word task and depth.

    name: of the model, in the results. prompt_model: its tokenizer reads the texts.
    """
    model = load_frozen(named)
    layers = {depth: round(depth / 100 * num_layers(model)) for depth in DEPTHS}
    scores: list[ItemScores] = []
    if items.pairs:
        scores += _score_contexts(model, name, prompt_model, pairs=items.pairs, layers=layers)
    if items.ratings:
        scores += _score_ratings(model, name, prompt_model, pairs=items.ratings, layers=layers)
    return scores


def _score_contexts(
    model: FrozenModel,
    name: str,
    prompt_model: NamedModel,
    pairs: Sequence[Pair],
    layers: dict[int, int],
) -> list[ItemScores]:
    """Return the scores of word in context, by the cosine of the states on the word."""
    read = sorted(set(layers.values()))
    scored = ScoredPairs.read(model, prompt_model.tokenizer, pairs=pairs, layers=read)
    texts = np.array([f"{pair.left.text}\n{pair.right.text}" for pair in pairs], dtype=np.str_)
    places = np.array([[pair.left.start, pair.right.start] for pair in pairs])
    _, lemmas = np.unique([pair.lemma for pair in pairs], return_inverse=True)
    return [
        ItemScores(
            task=name_at(WIC, depth),
            model=name,
            digest=digest_of(texts, places, scored.labels),
            clusters=lemmas.astype(np.int64),
            values={"auc": auc_values(scored.cosines(layer, "on"), scored.labels)},
        )
        for depth, layer in layers.items()
    ]


def _score_ratings(
    model: FrozenModel,
    name: str,
    prompt_model: NamedModel,
    pairs: Sequence[RatedPair],
    layers: dict[int, int],
) -> list[ItemScores]:
    """Return the scores of word similarity, by the cosine of the centred states of the words."""
    words = sorted({word for pair in pairs for word in (pair.left, pair.right)})
    index = {word: place for place, word in enumerate(words)}
    left = torch.tensor([index[pair.left] for pair in pairs])
    right = torch.tensor([index[pair.right] for pair in pairs])
    states = word_states(
        model,
        prompt_model.tokenizer,
        words=carried(words),
        layers=sorted(set(layers.values())),
        description="reading rated words",
    )
    ratings = np.array([pair.rating for pair in pairs])
    asked = np.array([f"{pair.left} {pair.right}" for pair in pairs], dtype=np.str_)
    scores: list[ItemScores] = []
    for depth, layer in layers.items():
        # A decoder's states share one large direction.
        centred = states[layer].on - states[layer].on.mean(dim=0)
        cosines = torch.cosine_similarity(centred[left], centred[right]).double().numpy()
        scores.append(
            ItemScores(
                task=name_at(SIMLEX, depth),
                model=name,
                digest=digest_of(asked, ratings),
                clusters=np.arange(len(pairs), dtype=np.int64),
                values={"spearman": correlation_values(cosines, ratings)},
            )
        )
    return scores


def auc_values(scores: Floats, labels: Bools) -> Floats:
    """Return a value per item [N] whose mean is the AUC of scores [N] for labels [N].

    With A the AUC and V an item's share of rightly ordered opposites, an item of M of its kind has
    the value A + N / M (V - A). Source: DeLong, DeLong, Clarke-Pearson (1988).
    """
    ranks = average_ranks(scores)
    shares = np.empty(len(scores))
    weights = np.empty(len(scores))
    for label in (True, False):
        own = labels == label
        num_own, num_others = int(own.sum()), int((~own).sum())
        # The rank among all, less the rank among its own kind, counts the others below it.
        below = (ranks[own] - average_ranks(scores[own])) / num_others
        shares[own] = below if label else 1 - below
        weights[own] = len(scores) / num_own
    area = shares[labels].mean()
    values: Floats = area + weights * (shares - area)
    return values


def correlation_values(left: Floats, right: Floats) -> Floats:
    """Return a value per item [N] whose mean is the rank correlation of two [N].

    With standardised ranks x and y and their correlation r: x y - r (x^2 + y^2) / 2 + r. The spread
    of the ranks themselves is left out. Source: Devlin, Gnanadesikan, Kettenring (1975).
    """
    first, second = _standardised(average_ranks(left)), _standardised(average_ranks(right))
    products = first * second
    correlation = products.mean()
    values: Floats = products - correlation * (first**2 + second**2) / 2 + correlation
    return values


def _standardised(values: Floats) -> Floats:
    spread = values.std()
    centred: Floats = values - values.mean()
    return centred / spread if spread > 0 else centred
