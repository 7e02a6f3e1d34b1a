"""Opens the dictionary and the index in a rank at the start of a run.

Decides where the dictionary is read from (the shared folder or the node's own copy), and which rank
of a node loads the index for the others.
"""

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
    """Return a student's retriever.

    The dictionary is mapped, from the node's own copy if the spec sets `local_dir`. The first rank
    of the node loads the index and serves it to the node's other ranks. Where the teacher chooses
    the senses, no student has an index.

    Replacing or deleting the files afterwards does not affect what is mapped or loaded. Raises
    InputError if the dictionary or the index is missing or altered, or if they do not belong
    together.
    """
    dictionary = _open(spec, verify=leads_node(role))
    if spec.senses.candidates == "lexical" or spec.senses.retrieve_on == "teacher":
        return _retriever(spec, dictionary)
    search = _node_index(spec, dictionary, role=role, cleanup=cleanup)
    return _retriever(spec, dictionary, search)


def open_on_teacher(
    spec: RunSpec, role: Role | None, cleanup: ExitStack
) -> tuple[SenseRetriever | None, str]:
    """Return a teacher's retriever and a suffix for its fingerprint; (None, "") if students choose.

    The suffix names the index, because all teachers of a run must have the same one.

    role: the teacher's role in a launch; the launch's teachers on one node share an index, as
    students do. None: the teacher was started on its own and loads its own index, so that it
    depends on no other process. An index takes about 4 * index_dims + 8 * index_links bytes per
    sense (1.2 KB, or 3 GB for 2.5 million senses); the pages of the dictionary are shared in any
    case.

    Choosing runs on the CPU beside the next request's forward pass: 0.16 ms per position with
    `hybrid`, 0.005 ms with `lexical` (9,150 senses of 576 numbers, one core). Raises InputError as
    `open_retriever` does.
    """
    if not spec.uses_senses or spec.senses.retrieve_on == "student":
        return None, ""
    dictionary = _open(spec, verify=role is None or leads_node(role))
    if spec.senses.candidates == "lexical":
        return _retriever(spec, dictionary), ""
    check_index(spec, dictionary)
    search: Search
    if role is None:
        search = partial(knn, load_graph(dictionary), num_threads=torch.get_num_threads())
    else:
        search = _node_index(spec, dictionary, role=role, cleanup=cleanup)
    return _retriever(spec, dictionary, search), f"-index-{index_digest(dictionary)[:16]}"


def _retriever(
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


def _node_index(
    spec: RunSpec, dictionary: SenseDictionary, role: Role, cleanup: ExitStack
) -> Search:
    """Return a search that asks this node's index, which the node's first rank loads and serves.

    Only one role, student or teacher, has an index in a run, so their addresses cannot collide.
    """
    address = service_address(
        spec.run_dir, role.launch.master_port, dictionary=spec.senses.dictionary
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


def _open(spec: RunSpec, verify: bool) -> SenseDictionary:
    """Open the dictionary, from the node's own copy if the spec sets `local_dir`.

    verify: compare the files with the digests in their manifest; one rank per node is enough.
    """
    folder = Path(spec.senses.dictionary)
    if spec.senses.local_dir is not None:
        folder, _ = local_copy(folder, Path(spec.senses.local_dir))
    return open_dictionary(folder, verify)
