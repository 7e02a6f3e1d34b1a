"""Rules about the sense dictionary and its candidates, one function per rule."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.lexicons import lexicon_problems
from dskd_ds.spec.problems import Problem
from dskd_ds.spec.sections import RunSections


def lexical_needs_lexicon(spec: RunSections) -> Iterator[Problem]:
    """Candidates from word relations need at least one lexicon."""
    if spec.uses_senses and spec.senses.candidates == "lexical" and not spec.senses.lexicons:
        yield Problem(
            key="senses.candidates",
            value="lexical",
            reason="no [[senses.lexicons]] says which words are related",
            way_out='add a lexicon, or set [senses] candidates = "neighbours"',
        )


def sense_counts_fit(spec: RunSections) -> Iterator[Problem]:
    """The minimum is not above the maximum."""
    senses = spec.senses
    if senses.clustering == "adaptive" and senses.min_senses > senses.num_senses:
        yield Problem(
            key="senses.min_senses",
            value=senses.min_senses,
            reason=f"num_senses = {senses.num_senses} is the maximum for each token",
            way_out=f"use at most {senses.num_senses}, or a larger [senses] num_senses",
        )


def span_lengths_fit(spec: RunSections) -> Iterator[Problem]:
    """The minimum length of related words is not above the maximum."""
    senses = spec.senses
    if senses.min_span_tokens > senses.max_span_tokens:
        yield Problem(
            key="senses.min_span_tokens",
            value=senses.min_span_tokens,
            reason=f"max_span_tokens = {senses.max_span_tokens} leaves no related word",
            way_out=f"use at most {senses.max_span_tokens}, or a larger [senses] max_span_tokens",
        )


def neighbours_are_fetched(spec: RunSections) -> Iterator[Problem]:
    """The nearest senses are chosen from the candidates that the index returns."""
    senses = spec.senses
    if senses.candidates != "lexical" and senses.num_neighbours > senses.index_search_effort:
        effort = senses.index_search_effort
        yield Problem(
            key="senses.num_neighbours",
            value=senses.num_neighbours,
            reason=f"the index returns only index_search_effort = {effort} candidates",
            way_out=f"use at most {effort}, or a larger [senses] index_search_effort",
        )


def teacher_retrieval_saves_traffic(spec: RunSections) -> Iterator[Problem]:
    """A student that receives all states that senses are chosen by chooses them itself."""
    signal = spec.loss.signal
    # `exact` sends no states below the head. `hidden` has nothing but the states at sense
    # positions, and the top k there, which the alignment self-test reads.
    saves_below = any(spec.is_chosen_by_teacher(term) for term in spec.loss.terms)
    saves_nothing = signal == "hidden" or (signal == "exact" and not saves_below)
    if spec.uses_senses and spec.senses.retrieve_on == "teacher" and saves_nothing:
        yield Problem(
            key="senses.retrieve_on",
            value="teacher",
            reason=f'[loss] signal = "{signal}" sends the student the hidden states anyway',
            way_out='set [loss] signal = "topk" or "sampled", or retrieve_on = "student"',
        )


def read_tokens_have_no_confidence(spec: RunSections) -> Iterator[Problem]:
    """The teacher does not predict the token that it has read."""
    senses = spec.senses
    if senses.attribution == "on" and senses.min_confidence:
        yield Problem(
            key="senses.min_confidence",
            value=senses.min_confidence,
            reason='attribution = "on" names the token that was read, not one that is predicted',
            way_out='set min_confidence = 0, or attribution = "argmax" or "next"',
        )


def lexicons_have_their_keys(spec: RunSections) -> Iterator[Problem]:
    """Each kind of lexicon has the keys that it is read from."""
    for index, lexicon in enumerate(spec.senses.lexicons):
        yield from lexicon_problems(index, lexicon)


def replaced_words_are_segmented(spec: RunSections) -> Iterator[Problem]:
    """Only MorphoLEX says what is left of a negated word."""
    senses = spec.senses
    if senses.negation == "replace" and senses.morpholex is None:
        yield Problem(
            key="senses.negation",
            value="replace",
            reason="no [senses] morpholex says which words are negated",
            way_out='name MorphoLEX in [senses] morpholex, or set negation = "beside"',
        )


def affixes_have_one_hyphen(spec: RunSections) -> Iterator[Problem]:
    """A hyphen says whether an affix is a prefix or a suffix."""
    for affix in spec.senses.negating_affixes:
        is_affix = affix.startswith("-") != affix.endswith("-") and affix.strip("-").isalpha()
        if not is_affix:
            yield Problem(
                key="senses.negating_affixes",
                value=affix,
                reason="it is neither a prefix nor a suffix",
                way_out="write a prefix as un- and a suffix as -less",
            )


SENSE_RULES = (
    lexicons_have_their_keys,
    replaced_words_are_segmented,
    affixes_have_one_hyphen,
    lexical_needs_lexicon,
    sense_counts_fit,
    span_lengths_fit,
    neighbours_are_fetched,
    read_tokens_have_no_confidence,
    teacher_retrieval_saves_traffic,
)
