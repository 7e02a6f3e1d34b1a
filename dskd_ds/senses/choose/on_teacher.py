"""Opens what a teacher chooses senses with, for `[senses] retrieve_on = "teacher"`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch

from dskd_ds.errors import InputError
from dskd_ds.link.messages import CandidatesWanted
from dskd_ds.runtime.topology import Role, leads_node
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.senses.choose.open import check_index, mapped_dictionary, node_index, retriever_of
from dskd_ds.senses.choose.retrieve import Search, SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.index.graph import index_digest, knn, load_graph
from dskd_ds.spec import RunSpec


@dataclass(frozen=True)
class TeacherSenses:
    """What a teacher chooses senses with."""

    retriever: SenseRetriever | None = None
    """For the sense term of [loss]; None if the student chooses, or has no such term."""
    terms: Mapping[CandidatesWanted, TermRetriever] = field(default_factory=dict)
    """For losses below the head, by what a request asks for."""
    name: str = ""
    """Names all indexes, as a suffix of the teacher's fingerprint, because all teachers of a run
    must have the same ones."""


NO_SENSES = TeacherSenses()
"""Of a teacher that chooses no senses."""


def open_on_teacher(spec: RunSpec, role: Role | None, cleanup: ExitStack) -> TeacherSenses:
    """Return what a teacher chooses senses with, which is nothing if the students choose.

    role: the teacher's role in a launch; the launch's teachers on one node share an index, as
    students do, so they must end together. None: the teacher is alone in its launch and loads its
    own index, so that it depends on no other process. An index takes about
    4 * index_dims + 8 * index_links bytes per sense (1.2 KB, or 3 GB for 2.5 million senses); the
    pages of the dictionary are shared in any case.

    Choosing runs on the CPU beside the next request's forward pass: 0.16 ms per position with
    `hybrid`, 0.005 ms with `lexical` (9,150 senses of 576 numbers, one core). Raises InputError as
    `open_retriever` does, or if a dictionary of [[loss.terms]] is not of a layer.
    """
    opened: dict[str, SenseRetriever] = {}
    retriever: SenseRetriever | None = None
    if spec.uses_senses and spec.senses.retrieve_on == "teacher":
        retriever = _opened(spec, role, cleanup)
        opened[spec.senses.dictionary] = retriever
    terms: dict[CandidatesWanted, TermRetriever] = {}
    for term in spec.loss.terms:
        if not spec.is_chosen_by_teacher(term):
            continue
        assert term.dictionary is not None, "a rule of the spec"
        folder = term.dictionary
        if folder not in opened:
            opened[folder] = _opened(of_dictionary(spec, folder), role, cleanup)
        _check_layer(opened[folder].dictionary)
        found = TermRetriever(opened[folder], term, margin=0.0)
        terms[found.wanted] = found
    searched = [one.dictionary for one in opened.values() if one.search is not None]
    return TeacherSenses(retriever, terms, _name(searched))


def of_dictionary(spec: RunSpec, folder: str) -> RunSpec:
    """Return the run's spec with the dictionary in a folder in place of that of [senses].

    Each loss below the head says for itself whether its senses are shuffled.
    """
    senses = spec.senses.model_copy(update={"dictionary": folder})
    loss = spec.loss.model_copy(update={"shuffled_senses": False})
    return spec.model_copy(update={"senses": senses, "loss": loss})


def _opened(spec: RunSpec, role: Role | None, cleanup: ExitStack) -> SenseRetriever:
    """Open the dictionary of [senses], and its index if the candidates need one."""
    dictionary = mapped_dictionary(spec, verify=role is None or leads_node(role))
    if spec.senses.candidates == "lexical":
        return retriever_of(spec, dictionary)
    check_index(spec, dictionary)
    search: Search
    if role is None:
        search = partial(knn, load_graph(dictionary), num_threads=torch.get_num_threads())
    else:
        search = node_index(spec, dictionary, role=role, cleanup=cleanup)
    return retriever_of(spec, dictionary, search)


def _check_layer(dictionary: SenseDictionary) -> None:
    """Raise InputError if a dictionary of [[loss.terms]] holds no states of a layer."""
    if dictionary.layer < 1:
        raise InputError(
            f"[[loss.terms]]: {dictionary.folder} holds states of layer {dictionary.layer}, but"
            " terms compare with outputs of the teacher's layers.\n"
            "  build one with [senses] hidden_layer = 1 or more."
        )


def _name(searched: list[SenseDictionary]) -> str:
    """Return the suffix of a fingerprint that names the indexes of these dictionaries."""
    if not searched:
        return ""
    digests = sorted({index_digest(dictionary) for dictionary in searched})
    return f"-index-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]}"
