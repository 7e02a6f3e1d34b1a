"""This process's view of the senses when a run starts: where the dictionary is read, and who answers for the index."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.runtime.topology import Role, leads_node
from dskd_ds.senses.choose.retrieve import Search, SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.index.graph import INDEX_FOLDER, index_digest, knn, load_graph, load_projection
from dskd_ds.senses.index.replicate import local_copy
from dskd_ds.senses.index.service import IndexClient, IndexService, service_address
from dskd_ds.spec import RunSpec


def open_retriever(spec: RunSpec, role: Role, cleanup: ExitStack) -> SenseRetriever:
    """A student's: map the dictionary, from the node's own copy where the spec wants one; the node's first rank loads the index and
    answers for all. Where the teacher chooses the senses, no student has an index.

    What is mapped or loaded stays so when the files are replaced or deleted. Raises InputError for a dictionary or index that is
    missing, altered, or does not belong together.
    """
    dictionary = _open(spec, verify=leads_node(role))
    if spec.senses.candidates == "lexical" or spec.senses.retrieve_on == "teacher":
        return SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)
    search = _nodes_index(spec, dictionary, role, cleanup)
    return SenseRetriever(
        dictionary, spec.senses, spec.loss, spec.seed, load_projection(dictionary), search
    )


def open_on_teacher(
    spec: RunSpec, role: Role | None, cleanup: ExitStack
) -> tuple[SenseRetriever | None, str]:
    """A teacher's, if it is to choose the senses; and what that adds to its fingerprint: teachers of a run must have the same index.

    role: its place in a launch, whose teachers on one node share an index as students do. None: it was started on its own and has one of
    its own, some 4 * index_dims + 8 * index_links bytes a sense (1.2 KB, or 3 GB for 2.5 million), so that it depends on no other.
    The dictionary's pages are shared. Choosing runs beside the next request's forward pass, on the CPU: 0.16 ms a position with `hybrid`,
    0.005 with `lexical` (9,150 senses of 576 numbers, one core). Raises InputError like `open_retriever`.
    """
    if not spec.uses_senses or spec.senses.retrieve_on == "student":
        return None, ""
    dictionary = _open(spec, verify=role is None or leads_node(role))
    if spec.senses.candidates == "lexical":
        return SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed), ""
    check_index(spec, dictionary)
    search = (
        _nodes_index(spec, dictionary, role, cleanup)
        if role
        else partial(knn, load_graph(dictionary), num_threads=torch.get_num_threads())
    )
    retriever = SenseRetriever(
        dictionary, spec.senses, spec.loss, spec.seed, load_projection(dictionary), search
    )
    return retriever, f"-index-{index_digest(dictionary)[:16]}"


def _nodes_index(
    spec: RunSpec, dictionary: SenseDictionary, role: Role, cleanup: ExitStack
) -> Search:
    """Ask the index of this node, which its first rank of the role loads. Only one role has an index in a run."""
    address = service_address(spec.run_dir, role.launch.master_port)
    if leads_node(role):
        num_workers = min(role.launch.local_world_size, role.size)
        cleanup.callback(
            IndexService(
                address, load_graph(dictionary), num_workers, torch.get_num_threads()
            ).close
        )
    client = IndexClient(address)
    cleanup.callback(client.close)
    return client.search


def check_index(spec: RunSpec, dictionary: SenseDictionary) -> None:
    """Raises InputError if the spec's candidates need an index and the dictionary has none."""
    if (
        spec.senses.candidates != "lexical"
        and not (dictionary.folder / INDEX_FOLDER / MANIFEST_FILE).is_file()
    ):
        raise InputError(
            f'[senses] candidates = "{spec.senses.candidates}", but {dictionary.folder} has no index.\n'
            '  build it again (dskd senses build SPEC.toml --force), or set candidates = "lexical".'
        )


def _open(spec: RunSpec, verify: bool) -> SenseDictionary:
    """The dictionary, where this node is to read it."""
    folder = Path(spec.senses.dictionary)
    if spec.senses.local_dir is not None:
        folder, _ = local_copy(folder, Path(spec.senses.local_dir))
    return open_dictionary(folder, verify)
