"""Opens the dictionaries of the losses below the head, and checks that they fit their terms."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.runtime.topology import Role
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.senses.choose.on_teacher import of_dictionary
from dskd_ds.senses.choose.open import check_index, open_retriever
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, check_belongs, open_own
from dskd_ds.senses.dictionary.distances import typical_spread
from dskd_ds.spec import RunSpec
from dskd_ds.spec.terms import SENSE_KINDS, LayerTermSpec
from dskd_ds.student.terms.layers import LayerTerm, section_of

ATTRIBUTION_OF = {"on": "on", "predicts": "next"}
"""A term's attribution -> [senses] attribution of a dictionary for it."""


def open_term_retrievers(
    spec: RunSpec, models: RunModels, terms: Sequence[LayerTerm], role: Role, cleanup: ExitStack
) -> tuple[TermRetriever | None, ...]:
    """Return what finds the senses of each term; None for a term that reads no dictionary.

    Terms with the same dictionary share it and its index. Raises InputError if a dictionary is
    missing or altered, or does not fit its term.
    """
    opened: dict[str, SenseRetriever] = {}
    retrievers: list[TermRetriever | None] = []
    for index, term in enumerate(terms):
        folder = term.spec.dictionary
        if folder is None:
            retrievers.append(None)
            continue
        if folder not in opened:
            opened[folder] = open_retriever(_spec_of(spec, terms, folder), role, cleanup)
        dictionary = opened[folder].dictionary
        check_belongs(dictionary, models.teacher.fingerprint, models.teacher.tokenizer_fingerprint)
        check_fits(section_of(index), term.spec, dictionary, term.teacher_layer)
        margin = margin_in(spec, dictionary) if term.spec.kind == "sense" else 0.0
        retrievers.append(TermRetriever(opened[folder], term.spec, margin))
    return tuple(retrievers)


def check_term_dictionaries(
    spec: RunSpec, models: RunModels, built_later: str | None = None
) -> None:
    """Check the dictionaries of all terms before a run starts. Raises InputError for the first.

    Which layer of the teacher a term compares with may not be known yet, if its spec does not say.
    built_later: a dictionary that need not exist yet.
    """
    num_layers = models.teacher.num_layers
    for index, term in enumerate(spec.loss.terms):
        if term.dictionary is None or term.dictionary == built_later:
            continue
        where = section_of(index)
        if not Path(term.dictionary).is_dir():
            raise missing_dictionary(where, term)
        dictionary = open_own(term.dictionary, models.teacher, verify=False)
        check_fits(where, term, dictionary, term.teacher_layer or dictionary.layer)
        if not 1 <= dictionary.layer < num_layers:
            raise InputError(
                f'{where}dictionary = "{term.dictionary}" holds states of layer'
                f" {dictionary.layer}, but the term reads states before the final norm.\n"
                f"  build one with [senses] hidden_layer = 1 to {num_layers - 1}."
            )
        # If neither holds, only teachers that are started on their own need the index. They check.
        is_needed_here = not spec.is_chosen_by_teacher(term) or spec.topology.num_teachers > 0
        if term.kind in SENSE_KINDS and is_needed_here:
            check_index(spec, dictionary)


def missing_dictionary(where: str, term: LayerTermSpec) -> InputError:
    """Return the error for a dictionary that does not exist, with the command that builds it."""
    layer = term.teacher_layer or "LAYER"
    attribution = ATTRIBUTION_OF[term.attribution]
    return InputError(
        f'{where}dictionary = "{term.dictionary}", but there is no such folder.\n'
        f"  build it: dskd senses build SPEC.toml --set senses.dictionary={term.dictionary}"
        f" --set senses.hidden_layer={layer} --set senses.attribution={attribution}"
    )


def check_fits(
    where: str, term: LayerTermSpec, dictionary: SenseDictionary, teacher_layer: int
) -> None:
    """Check that a dictionary holds the states that a term compares with.

    where: begins the messages. Raises InputError if it does not.
    """
    name = f'{where}dictionary = "{term.dictionary}"'
    if dictionary.layer != teacher_layer:
        raise InputError(
            f"{name} holds states of the teacher's layer {dictionary.layer}, but the term compares"
            f" with layer {teacher_layer}.\n"
            f"  build one with [senses] hidden_layer = {teacher_layer}, or set teacher_layer ="
            f" {dictionary.layer}."
        )
    if dictionary.is_of_read_tokens != (term.attribution == "on"):
        found = dictionary.facts.get("settings", {}).get("attribution")
        built = ATTRIBUTION_OF[term.attribution]
        raise InputError(
            f'{name} was built with [senses] attribution = "{found}", but the term has'
            f' attribution = "{term.attribution}".\n'
            f'  build one with [senses] attribution = "{built}", or change the term\'s attribution.'
        )
    if not dictionary.leaves_out_sinks:
        raise InputError(
            f"{name} was built by an earlier version, with states of attention sinks. They are so"
            " long that they decide every mean.\n"
            "  build it anew: dskd senses build with --force."
        )
    if typical_spread(dictionary) == 0 and term.kind in ("posterior", "mse", "cosine"):
        raise InputError(
            f"{name}: each of its senses is a single state, so distances have no unit.\n"
            "  collect more text ([senses] collect_tokens), or fewer senses per token."
        )


def margin_in(spec: RunSpec, dictionary: SenseDictionary) -> float:
    """Return [loss] margin as a squared distance per dimension of this dictionary.

    Raises InputError if its unit is the distance of antonyms and no two have senses.
    """
    if spec.loss.margin_unit == "absolute":
        return spec.loss.margin
    distance = dictionary.facts["median_antonym_distance"]
    if distance is None:
        raise InputError(
            f'[loss] margin_unit = "median_antonym", but no two antonyms in {dictionary.folder}'
            " both have senses.\n"
            '  collect from more text ([senses] collect_tokens), or set margin_unit = "absolute".'
        )
    return spec.loss.margin * distance


def _spec_of(spec: RunSpec, terms: Sequence[LayerTerm], folder: str) -> RunSpec:
    """Return the run's spec with the dictionary in a folder in place of that of [senses].

    The student needs an index if it chooses senses for one of the terms; terms that only smooth use
    the senses of their tokens.
    """
    of_folder = [term.spec for term in terms if term.spec.dictionary == folder]
    searches = any(
        term.kind in SENSE_KINDS and not spec.is_chosen_by_teacher(term) for term in of_folder
    )
    changed = of_dictionary(spec, folder)
    where = "student" if searches else "teacher"
    senses = changed.senses.model_copy(update={"retrieve_on": where})
    return changed.model_copy(update={"senses": senses})
