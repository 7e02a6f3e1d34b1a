"""Tests of the shipped cluster files, and of messages about invalid ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dskd_ds.commands import plan
from dskd_ds.costs.clusters import cluster_from, open_cluster, shipped_clusters
from dskd_ds.errors import InputError


def h100_keys() -> dict[str, object]:
    return tomllib.loads(shipped_clusters()["h100-80"].read_text())


@pytest.mark.parametrize("name", sorted(shipped_clusters()))
def test_a_shipped_cluster_names_its_sources(name: str) -> None:
    cluster = open_cluster(name)

    assert cluster.name == name
    assert len(cluster.sources) >= 3
    assert any("assumption" in source for source in cluster.sources)


def test_a_users_file_is_opened_by_its_path(tmp_path: Path) -> None:
    text = shipped_clusters()["h100-80"].read_text()
    file = tmp_path / "mine.toml"
    file.write_text(text.replace("gpus_per_node = 8", "gpus_per_node = 4"))

    cluster = open_cluster(str(file))

    assert cluster.gpus_per_node == 4
    assert cluster.num_nodes(9) == 3


def test_a_ring_between_nodes_uses_the_network_shares_of_all_gpus_of_a_node() -> None:
    cluster = open_cluster("a100-80")

    assert cluster.bandwidth(8) == 300e9
    assert cluster.bandwidth(16) == 8 * 25e9


def test_the_help_of_plan_names_every_cluster_that_ships() -> None:
    assert f"({', '.join(shipped_clusters())})" in " ".join(plan.TEXT.split())


def test_an_unknown_name_suggests_the_closest_one() -> None:
    with pytest.raises(InputError, match='Did you mean "h100-80"') as raised:
        open_cluster("h100-8")

    assert "a100-40, a100-80" in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gpus_per_node", 0, "use a positive whole number"),
        ("gpus_per_node", 2.5, "use a positive whole number"),
        ("memory_bandwidth", "fast", "use a positive number"),
        ("memory_bandwidth", True, "use a positive number"),
        ("sustained_clock", 1.1, "use at most 1"),
        ("architecture", "fermi", "use one of ampere, hopper"),
        ("sources", "a page", "use a list of texts"),
        ("memory_bandwith", 1e12, "Did you mean memory_bandwidth"),
    ],
)
def test_an_invalid_value_is_refused_by_name(key: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        cluster_from(h100_keys() | {key: value}, "mine.toml")

    assert f"mine.toml: {'unknown key ' if 'bandwith' in key else ''}{key}" in str(raised.value)


def test_a_missing_key_is_named() -> None:
    content = h100_keys()
    del content["flops_per_second"]

    with pytest.raises(InputError, match="flops_per_second is missing"):
        cluster_from(content, "mine.toml")
