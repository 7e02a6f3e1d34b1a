"""Counts what losses below the head ([[loss.terms]]) need: states, senses, dictionaries."""

from __future__ import annotations

from dskd_ds.costs.dictionary_size import MANY_ROWS, rows_of_dictionary
from dskd_ds.spec import RunSpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.spec.terms import CANDIDATE_KINDS, SENSE_KINDS


def layers_of_states(spec: RunSpec) -> set[tuple[int, int | None]]:
    """Return which layers the states of losses below the head are sent of, each once.

    Without a teacher_layer the teacher's layer follows from that of the student.
    """
    return {
        (term.student_layer, term.teacher_layer)
        for term in spec.loss.terms
        if not spec.is_chosen_by_teacher(term)
    }


def num_candidate_sets(spec: RunSpec) -> int:
    """Return how many sets of candidates the teacher sends for losses below the head.

    Terms that differ in their kind alone share one (senses/choose/at_layer.py).
    """
    sets = {
        (term.dictionary, term.attribution, term.shuffled_senses)
        for term in spec.loss.terms
        if spec.is_chosen_by_teacher(term)
    }
    return len(sets)


def student_candidate_sets(spec: RunSpec) -> int:
    """Return how many sets of candidates the students choose themselves, one per term."""
    by_student = [term for term in spec.loss.terms if not spec.is_chosen_by_teacher(term)]
    return sum(term.kind in CANDIDATE_KINDS for term in by_student)


def most_candidates(senses: SensesSpec) -> int:
    """Return the most senses that one position of a loss below the head is compared with.

    Those of its token, and kappa each from antonyms and from the index.
    """
    num_sources = 2 if senses.candidates == "hybrid" else 1
    return senses.num_senses + num_sources * senses.kappa


def term_dictionaries(spec: RunSpec) -> dict[str, bool]:
    """Return the folders of all dictionaries, each with whether its index is searched."""
    searched: dict[str, bool] = {}
    for term in spec.loss.terms:
        if term.dictionary is not None:
            searches = term.kind in SENSE_KINDS and spec.senses.candidates != "lexical"
            searched[term.dictionary] = searched.get(term.dictionary, False) or searches
    return searched


def num_term_rows(spec: RunSpec) -> int:
    """Return the rows of the largest dictionary of [[loss.terms]], or more if one is not built."""
    counts = [rows_of_dictionary(folder) or MANY_ROWS for folder in term_dictionaries(spec)]
    return max(counts, default=MANY_ROWS)
