"""The processes of a node share an index service and a local copy of the dictionary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.dictionary.dictionary import SENSES_FILE, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.index.graph import build_index, knn, load_graph, load_projection
from dskd_ds.senses.index.service import IndexClient, IndexServiceError
from dskd_ds.spec.senses import SensesSpec
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, mpirun

pytestmark = pytest.mark.process
NUM_CLIENTS = 4

SERVICE = """
import sys
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.index.graph import load_graph
from dskd_ds.senses.index.service import IndexService
service = IndexService(sys.argv[2], load_graph(open_dictionary(sys.argv[1])), num_workers=4)
print("ready", flush=True)
sys.stdin.read()
service.close()
"""
CLIENT = """
import sys
import numpy as np
import torch
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.index.graph import load_projection
from dskd_ds.senses.index.service import IndexClient
client = IndexClient(sys.argv[2])
projection = load_projection(open_dictionary(sys.argv[1], verify=False))
for step in range(20):
    generator = torch.Generator().manual_seed(int(sys.argv[3]) * 100 + step)
    states = torch.randn(50, 16, generator=generator)
    np.save(f"{sys.argv[4]}/{sys.argv[3]}-{step}.npy", client.search(projection(states), 20))
client.close()
"""


@pytest.fixture
def senses(tmp_path: Path) -> Path:
    """A dictionary of 900 senses with an index."""
    owners = np.repeat(np.arange(300), 3)
    rows = torch.randn(900, 16, generator=torch.Generator().manual_seed(0))
    write_dictionary(
        tmp_path / "senses",
        Senses(owners, rows, np.ones(900, np.int64)),
        TokenRelations({}, {}, []),
        {"vocab_size": 300},
        3,
    )
    build_index(
        open_dictionary(tmp_path / "senses"),
        SensesSpec(dictionary="-", index_dims=8),
        torch.randn(4, 16),
    )
    return tmp_path / "senses"


@pytest.fixture
def service(senses: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves the index, and its address."""
    address = f"ipc://{tmp_path}/index"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(senses), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process, address
    process.send_signal(signal.SIGCONT)
    process.communicate()


def test_several_processes_query_one_index(
    senses: Path, service: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(senses), service[1], str(n), str(tmp_path)]
        )
        for n in range(NUM_CLIENTS)
    ]
    assert [process.wait() for process in clients] == [0] * NUM_CLIENTS
    dictionary = open_dictionary(senses)
    graph, projection = load_graph(dictionary), load_projection(dictionary)
    for number in range(NUM_CLIENTS):
        for step in range(20):
            states = torch.randn(
                50, 16, generator=torch.Generator().manual_seed(number * 100 + step)
            )
            np.testing.assert_array_equal(
                np.load(tmp_path / f"{number}-{step}.npy"), knn(graph, projection(states), 20)
            )


@pytest.mark.fault
def test_a_dead_service_is_noticed_at_once(service: tuple[subprocess.Popen[str], str]) -> None:
    # With this timeout only a notice of the service's death can end the wait.
    client = IndexClient(service[1], answer_seconds=3600)
    queries = np.zeros((3, 8), np.float32)
    assert client.search(queries, 20).shape == (3, 20)
    service[0].kill()
    service[0].wait()
    for _ in range(2):
        with pytest.raises(IndexServiceError, match="is gone: its process ended"):
            client.search(queries, 20)
    client.close()


@pytest.mark.fault
def test_a_stopped_service_hits_a_deadline_and_serves_again_when_continued(
    service: tuple[subprocess.Popen[str], str],
) -> None:
    client = IndexClient(service[1], answer_seconds=0.3)
    queries = np.zeros((3, 8), np.float32)
    assert client.search(queries, 20).shape == (3, 20)
    service[0].send_signal(signal.SIGSTOP)
    os.waitpid(service[0].pid, os.WUNTRACED)  # waits until it has stopped
    with pytest.raises(IndexServiceError, match=r"did not answer within 0\.3 s"):
        client.search(queries, 20)
    service[0].send_signal(signal.SIGCONT)
    patient = IndexClient(service[1])
    assert patient.search(queries + 1, 5).shape == (3, 5)
    client.close()
    patient.close()


def replicate(
    tiny: TinyWorld, launch: Launch, senses: Path, local: Path, num_ranks: int
) -> tuple[int, str]:
    """Copy a dictionary under mpirun, and return exit code and output."""
    ended = launch(
        *mpirun(
            num_ranks, "-m", "dskd_ds.commands.replicate_senses", "--spec", str(tiny.spec_file)
        ),
        "--set",
        f"senses.dictionary={senses}",
        "--set",
        f"senses.local_dir={local}",
        marker=str(local),
    )
    return ended.code, ended.output


def test_node_leaders_copy_under_mpirun(
    tiny: TinyWorld, launch: Launch, senses: Path, tmp_path: Path
) -> None:
    local = tmp_path / "node"
    code, output = replicate(tiny, launch, senses, local, 3)
    assert code == 0
    assert "is on 1 node(s); 1 copied it now" in output
    (copy,) = (path for path in local.glob("*/senses-*") if path.is_dir())
    assert (copy / SENSES_FILE).read_bytes() == (senses / SENSES_FILE).read_bytes()
    assert (copy / "index" / "graph.bin").read_bytes() == (
        senses / "index" / "graph.bin"
    ).read_bytes()
    code, output = replicate(tiny, launch, senses, local, 2)
    assert code == 0
    assert "is on 1 node(s); 0 copied it now" in output


@pytest.mark.fault
def test_an_altered_dictionary_is_not_copied(
    tiny: TinyWorld, launch: Launch, senses: Path, tmp_path: Path
) -> None:
    with (senses / SENSES_FILE).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    code, output = replicate(tiny, launch, senses, tmp_path / "node", 2)
    assert code == 2
    assert "its content differs from its manifest" in output
    assert "Traceback" not in output
    assert not any(path.is_dir() for path in (tmp_path / "node").glob("*/senses-*"))


@pytest.mark.fault
def test_a_reading_process_outlives_the_files(senses: Path, tmp_path: Path) -> None:
    """The files are deleted and replaced while another process reads its mapping of them."""
    code = (
        "import sys; from dskd_ds.senses.dictionary.dictionary import open_dictionary\n"
        "dictionary = open_dictionary(sys.argv[1])\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "senses, norms = dictionary.senses.double(), dictionary.squared_norms.double()\n"
        "print(senses.sum().item(), norms.sum().item())"
    )
    mapped = open_dictionary(senses)
    expected = (
        f"{mapped.senses.double().sum().item()} {mapped.squared_norms.double().sum().item()}\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(senses)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "open\n"
    senses.rename(tmp_path / "away")
    for path in (tmp_path / "away").rglob("*.*"):
        path.unlink()
    write_dictionary(
        senses,
        Senses(np.arange(300), torch.zeros(300, 16), np.ones(300, np.int64)),
        TokenRelations({}, {}, []),
        {"vocab_size": 300},
        3,
    )
    assert reader.communicate("go\n")[0] == expected
