"""Launches over two nodes, node1 and node2, which are both this machine.

Launchers reach other nodes through ssh (mpirun) or pdsh (deepspeed). Here programs of these names
run the command on this machine instead. torchrun needs neither: it is started on every node.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.runtime.launch import free_port, tool

SSH = """\
#!/bin/bash
# ssh HOST COMMAND...: runs the command on this machine, as ssh would on HOST.
while [[ "$1" == -* ]]; do
  # -o, -p and -l have an argument.
  if [[ "$1" == -[opl] ]]; then shift; fi
  shift
done
echo "$1" >> "$(dirname "$0")/hosts"
shift
# deepspeed ends a launch by `pkill -f` on every node; here that would hit other launches.
case "$*" in *pkill*) exit 0 ;; esac
exec /bin/bash -c "$*"
"""
PDSH = """\
#!/bin/bash
# pdsh -S -f N -w HOST,HOST COMMAND...: runs the command for each host on this machine, in parallel.
# %n in the command is the number of the host. Ends with the highest exit code (-S). A signal ends
# the commands and their children.
while [[ "$1" == -* ]]; do
  case "$1" in
    -w) hosts="$2"; shift ;;
    -f) shift ;;
  esac
  shift
done
pids=()
end() { for pid in "${pids[@]}"; do kill -TERM -- "-$pid"; done; }
trap end TERM INT
number=0
for host in ${hosts//,/ }; do
  command="$*"
  setsid ssh "$host" "${command//%n/$number}" &
  pids+=($!)
  number=$((number + 1))
done
code=0
for pid in "${pids[@]}"; do
  wait "$pid"
  ended=$?
  if [ "$ended" -gt "$code" ]; then code=$ended; fi
done
exit "$code"
"""


@dataclass(frozen=True)
class Nodes:
    """Two nodes, and the programs that reach them."""

    folder: Path
    """Holds ssh and pdsh, which belong on PATH, and the list of hosts that they were called for."""

    @property
    def reached(self) -> list[str]:
        """The hosts that were reached through ssh, in the order of their names."""
        file = self.folder / "hosts"
        return sorted(set(file.read_text().split())) if file.is_file() else []


def make_nodes(folder: Path) -> Nodes:
    """Write the programs."""
    folder.mkdir()
    for name, text in (("ssh", SSH), ("pdsh", PDSH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return Nodes(folder)


Launcher = Callable[[Nodes, tuple[int, int], Sequence[str]], list[list[str]]]
"""(nodes, ranks of node1 and node2, entry with its arguments) -> the commands of one launch."""


def deepspeed_hostfile(
    nodes: Nodes, num_ranks: tuple[int, int], entry: Sequence[str]
) -> list[list[str]]:
    """One deepspeed command, which reaches the nodes of a hostfile through pdsh and ssh."""
    command = [tool("deepspeed"), "--hostfile", hostfile(nodes, num_ranks), *master()]
    return [[*command, *entry]]


def deepspeed_no_ssh(
    nodes: Nodes, num_ranks: tuple[int, int], entry: Sequence[str]
) -> list[list[str]]:
    """One deepspeed command per node, which all know the hostfile."""
    command = [tool("deepspeed"), "--hostfile", hostfile(nodes, num_ranks), *master(), "--no_ssh"]
    return [[*command, "--node_rank", str(node), *entry] for node in range(2)]


def torchrun_rendezvous(
    nodes: Nodes, num_ranks: tuple[int, int], entry: Sequence[str]
) -> list[list[str]]:
    """One torchrun command per node; they meet in the c10d store."""
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}"]
    command = [tool("torchrun"), "--nnodes", "2", *rendezvous, "--rdzv_id", nodes.folder.name]
    local = ["--local_addr", "127.0.0.1"]
    return [[*command, *local, "--nproc_per_node", str(ranks), *entry] for ranks in num_ranks]


def mpirun_hosts(nodes: Nodes, num_ranks: tuple[int, int], entry: Sequence[str]) -> list[list[str]]:
    """One mpirun command, which reaches both nodes through ssh."""
    command = [tool("mpirun"), "--host", f"node1:{num_ranks[0]},node2:{num_ranks[1]}"]
    agent = ["--prtemca", "plm_ssh_agent", str(nodes.folder / "ssh")]
    address = ["-x", "MASTER_ADDR=127.0.0.1", "-x", f"MASTER_PORT={free_port()}"]
    ranks = ["-n", str(sum(num_ranks)), "--bind-to", "none", sys.executable]
    return [[*command, *agent, *address, *ranks, *entry]]


def hostfile(nodes: Nodes, num_ranks: tuple[int, int]) -> str:
    """Write deepspeed's list of hosts, and return its path."""
    path = nodes.folder / "hostfile"
    path.write_text(f"node1 slots={num_ranks[0]}\nnode2 slots={num_ranks[1]}\n")
    return str(path)


def master() -> list[str]:
    """Return deepspeed's options for the address at which students meet."""
    return ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
