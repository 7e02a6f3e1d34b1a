"""Opens the dictionary and the index in a rank at the start of a run.

Decides where the dictionary is read from (the shared folder or the node's own copy), and which rank
of a node loads the index for the others.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.runtime.topology import Role, leads_node
from dskd_ds.senses.choose.retrieve import Search, SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.index.graph import INDEX_FOLDER, load_graph, load_projection
from dskd_ds.senses.index.replicate import local_copy
from dskd_ds.senses.index.service import IndexClient, IndexService, service_address
from dskd_ds.spec import RunSpec


def open_retriever(spec: RunSpec, role: Role, cleanup: ExitStack) -> SenseRetriever:
    """Return a student's retriever.

    The dictionary is mapped, from the node's own copy if the spec sets `local_dir`. The first rank
    of the node loads the index and serves it to the node's other ranks. Where the teacher chooses
    the senses ([senses] retrieve_on), no student has an index.

    Replacing or deleting the files afterwards does not affect what is mapped or loaded. Raises
    InputError if the dictionary or the index is missing or altered, or if they do not belong
    together.
    """
    dictionary = mapped_dictionary(spec, verify=leads_node(role))
    if spec.senses.candidates == "lexical" or spec.senses.retrieve_on == "teacher":
        return retriever_of(spec, dictionary)
    search = node_index(spec, dictionary, role=role, cleanup=cleanup)
    return retriever_of(spec, dictionary, search)


def retriever_of(
    spec: RunSpec, dictionary: SenseDictionary, search: Search | None = None
) -> SenseRetriever:
    """Return a retriever; the projection is loaded only if there is an index to search."""
    return SenseRetriever(
        dictionary=dictionary,
        spec=spec.senses,
        loss=spec.loss,
        seed=spec.seed,
        projection=load_projection(dictionary) if search is not None else None,
        search=search,
    )


def node_index(
    spec: RunSpec, dictionary: SenseDictionary, role: Role, cleanup: ExitStack
) -> Search:
    """Return a search that asks this node's index, which the node's first rank loads and serves.

    Students and teachers may both have an index of one dictionary; their addresses differ. So do
    those of several launches of teachers.
    """
    first = "" if role.first_number is None else f" {role.first_number}"
    address = service_address(
        spec.run_dir,
        role.launch.master_port,
        role=role.kind + first,
        dictionary=spec.senses.dictionary,
    )
    # One worker per rank that may ask. A node can also hold ranks of the other role, which do not.
    if leads_node(role):
        service = IndexService(
            address=address,
            graph=load_graph(dictionary),
            num_workers=min(role.launch.local_world_size, role.size),
            threads_per_search=torch.get_num_threads(),
        )
        cleanup.callback(service.close)
    client = IndexClient(address)
    cleanup.callback(client.close)
    return client.search


def check_index(spec: RunSpec, dictionary: SenseDictionary) -> None:
    """Raise InputError if the spec's candidates need an index and the dictionary has none."""
    has_index = (dictionary.folder / INDEX_FOLDER / MANIFEST_FILE).is_file()
    if spec.senses.candidates == "lexical" or has_index:
        return
    raise InputError(
        f'[senses] candidates = "{spec.senses.candidates}", but {dictionary.folder} has no index.\n'
        "  build it again (dskd senses build SPEC.toml --force), "
        'or set candidates = "lexical".'
    )


def mapped_dictionary(spec: RunSpec, verify: bool) -> SenseDictionary:
    """Open the dictionary, from the node's own copy if the spec sets `local_dir`.

    verify: compare the files with the digests in their manifest; one rank per node is enough.
    """
    folder = Path(spec.senses.dictionary)
    if spec.senses.local_dir is not None:
        folder, _ = local_copy(folder, Path(spec.senses.local_dir))
    return open_dictionary(folder, verify)
