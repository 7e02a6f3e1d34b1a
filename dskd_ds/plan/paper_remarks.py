"""What no key of a spec decides: deliberate differences to the authors, and what is unknown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """Something that is not a key with a known value."""

    about: str
    here: str
    authors: str
    effect: str
    needs_senses: bool = False
    """Whether it matters only with the sense term."""


DELIBERATE = (
    Remark(
        "number format of the losses",
        here="CE, KL and the search for the nearest senses are computed in float32",
        authors="bfloat16",
        effect="less rounding; no other intent",
    ),
    Remark(
        "random draws",
        here="shots, cuts, continuations, positions and order are keyed by (seed, epoch, id)",
        authors="unseeded, except for the order of the data",
        effect="the same distribution, and every epoch can be made again",
    ),
    Remark(
        "attention mask of SQuAD's continuation",
        here="covers the whole input",
        authors="ends with the prompt; by the version of transformers this hides the continuation",
        effect="the student sees what it is to learn",
    ),
    Remark(
        "questions that pad the last batch",
        here="no question counts twice",
        authors="ranks are padded with repeated questions",
        effect="at most 2 more sequences per epoch in the authors' runs, 5 more in an evaluation",
    ),
    Remark(
        "warm-up",
        here="a tenth of the steps, rounded to the nearest number",
        authors="rounded down",
        effect="at most one step of several thousand",
    ),
    Remark(
        "sample of states per token",
        here="those with the smallest hash, over the whole corpus",
        authors="a reservoir per process and per part of the corpus",
        effect="the same caps and the same distribution, for any number of ranks",
    ),
    Remark(
        "states that are never part of a sense",
        here="those at the BOS token and at padding, and one in 64, which measures the dictionary",
        authors="none is left out",
        effect="1.6 percent fewer states",
    ),
    Remark(
        "k-means",
        here="greedy k-means++ with more trials, at most 25 rounds, for all tokens at once",
        authors="scikit-learn's KMeans, random state 0, one run",
        effect="other local optima of the same objective; about the same squared error",
    ),
)
"""What this program never does as the authors, whatever the spec says."""

UNKNOWN = (
    Remark(
        "recipe.mmlu.path",
        here="",
        authors="a private file; its origin and size are not known",
        effect="auxiliary_train gives about 70,800 conversations, dev + validation about 46,300",
    ),
    Remark(
        "recipe.squad_unit",
        here="",
        authors="a private file with 30 percent of the questions; how it was drawn is not known",
        effect="decides how often a question finds a shot of its context",
    ),
    Remark(
        "recipe.squad_shots_from",
        here="",
        authors="probably the same private file",
        effect="decides how often a question finds a shot of its context",
    ),
    Remark(
        "senses.corpus_paths",
        here="",
        authors="six parts of a Wikipedia of 2024; snapshot, documents and tokens are not known",
        effect="decides which tokens have senses, and how many",
        needs_senses=True,
    ),
    Remark(
        "senses.lexicon_files",
        here="",
        authors="a Wiktionary of unknown date, and two pair files that are probably HG2Vec's",
        effect="decides which words are related",
        needs_senses=True,
    ),
    Remark(
        "data.heldout",
        here="",
        authors="no validation, no choice among checkpoints: the last one is scored",
        effect="sources named here are only evaluated on, if no title is in the training data",
    ),
    Remark(
        "seed",
        here="",
        authors="not known, nor is the number of runs",
        effect="one run's score has a standard error of 0.4 (MMLU) to 2.9 points (ARC)",
    ),
)
"""Settings where the authors' value is not known: a spec must choose, and a report must say so."""
