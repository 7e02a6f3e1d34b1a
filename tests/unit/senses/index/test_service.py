"""The index that one rank of a node serves to the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.index.graph import knn, load_graph, load_projection
from dskd_ds.senses.index.service import (
    IndexClient,
    IndexService,
    IndexServiceError,
    service_address,
)


def test_indexes_of_one_launch_have_addresses_of_their_own(tmp_path: Path) -> None:
    addresses = {
        service_address(run_dir, port, role, dictionary)
        for run_dir in (str(tmp_path), str(tmp_path / "other"))
        for port in (1, 2)
        for role in ("student", "teacher")
        for dictionary in ("", "senses-21", "senses-28")
    }
    assert len(addresses) == 24


def test_nodes_of_slurm_on_one_host_have_addresses_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = set()
    for node in ("node1", "node2"):
        monkeypatch.setenv("SLURMD_NODENAME", node)
        addresses.add(service_address(str(tmp_path), 1))
    assert len(addresses) == 2


def test_the_nodes_index_answers_as_the_graph_does(
    dictionary: SenseDictionary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = service_address(str(tmp_path), 1)
    service = IndexService(address, load_graph(dictionary))
    client = IndexClient(address)
    queries = load_projection(dictionary)(torch.randn(5, dictionary.hidden_size))
    expected = knn(load_graph(dictionary), queries, 20)
    np.testing.assert_array_equal(client.search(queries, 20), expected)
    # A batch of many positions is asked in parts, so that each answer comes in time.
    monkeypatch.setattr("dskd_ds.senses.index.service.QUERIES_PER_REQUEST", 2)
    np.testing.assert_array_equal(client.search(queries, 20), expected)
    assert client.search(queries[:0], 20).shape == (0, 20)
    with pytest.raises(IndexServiceError, match="refused"):
        client.search(queries[:, :3], 20)
    client.close()
    service.close()
