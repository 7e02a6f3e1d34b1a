"""This rank's view of the senses when a run starts: where the dictionary is read, and who answers for the index."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch

from dskd_ds.sense.dictionary import open_dictionary
from dskd_ds.sense.index import load_graph, load_projection
from dskd_ds.sense.replicate import local_copy
from dskd_ds.sense.retrieve import SenseRetriever
from dskd_ds.sense.service import IndexClient, IndexService, service_address
from dskd_ds.spec import RunSpec
from dskd_ds.topology import Role, node_leader


def open_retriever(spec: RunSpec, role: Role, cleanup: ExitStack) -> SenseRetriever:
    """Map the dictionary, from the node's own copy where the spec wants one; the node's first rank loads the index and answers for all.

    What is mapped or loaded stays so when the files are replaced or deleted. Raises InputError for a dictionary or index that is
    missing, altered, or does not belong together.
    """
    leader = node_leader(role.launch)
    folder = Path(spec.senses.dictionary)
    if spec.senses.local_dir is not None:
        folder, _ = local_copy(folder, Path(spec.senses.local_dir))
    dictionary = open_dictionary(folder, verify=leader)
    if spec.senses.candidates == "lexical":
        return SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)
    address = service_address(spec.run_dir, role.launch.master_port)
    if leader:
        num_workers = min(role.launch.local_world_size, spec.topology.num_students)
        service = IndexService(address, load_graph(dictionary), num_workers, torch.get_num_threads())
        cleanup.callback(service.close)
    client = IndexClient(address)
    cleanup.callback(client.close)
    return SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed, load_projection(dictionary), client.search)
