"""A real SLURM of three nodes on this machine, without systemd. Needs root and Debian's packages.

    apt-get install -y --no-install-recommends slurm-wlm munge

All three nodes are this machine, each with a slurmd of its own. node2 has a mount namespace of its
own, so that one folder (`Cluster.unshared`) is not the same on all nodes. Nodes have two GPUs that
do not exist: SLURM counts them, and nothing opens them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

NODES = ("node1", "node2", "node3")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare")
CONTROLLER_PORT = 26817
FIRST_NODE_PORT = 26901
PORTS_PER_CLUSTER, JOBS_PER_CLUSTER = 200, 2067
"""Distances between two clusters on this machine: of their ports, and of the numbers of their jobs.
The ports of a job's ranks follow from its number modulo 156: four clusters have room for 39 jobs
each, which share no port (2067 = 13 * 156 + 39)."""
WORKING = ("idle", "mixed", "allocated")
"""States of a node that works. A job that waits for a node may have it at once, and whole."""
PATIENCE_SECONDS = 480.0
"""Timeout for an event that must happen, also on a busy machine."""

CONFIG = """\
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
FirstJobId={first_job}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its credential has expired: two minutes by default.
AuthInfo=socket={folder}/munge/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
# Each node needs one of its own: the PMIx of its steps keeps sockets there.
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1,sched_min_interval=100000
# The machine has fewer cores than its nodes claim.
SlurmdParameters=config_overrides
GresTypes=gpu
# A node that comes back after a failure is used again.
ReturnToService=2
KillWait=30
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
"""
NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=4 Gres=gpu:2"


def missing_programs() -> list[str]:
    """Return what this machine lacks to start a cluster."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


def search_path() -> str:
    """Return PATH with the folders of daemons, which a user's PATH may lack."""
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Cluster:
    """The daemons of the cluster, and commands for them."""

    def __init__(self, number: int = 0) -> None:
        """number: tells clusters apart that run at the same time."""
        self._number = number
        # Short: a socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm.", dir="/tmp"))
        self.unshared = self.folder / "unshared"
        """A folder that is another one on node2."""
        self.env = {
            "PATH": search_path(),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "HOME": os.environ.get("HOME", "/root"),
        }

    def start(self) -> None:
        """Start all daemons and wait until all nodes are idle."""
        self._write_files()
        munge = self.folder / "munge"
        self.run(
            "munged",
            "--force",
            f"--key-file={munge}/munge.key",
            f"--socket={munge}/munge.socket",
            f"--pid-file={munge}/munged.pid",
            f"--log-file={munge}/munged.log",
            f"--seed-file={munge}/munged.seed",
        )
        self.run("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)

    def stop(self) -> None:
        """End all jobs, then all daemons, by the process ids that they have written."""
        try:
            self.run("scancel", "--user=root", check=False)
            self.wait_until(lambda: not self.run("squeue", "-h").strip(), "jobs ended")
        finally:
            for node in NODES:
                self._kill_processes_of(node)
            pid_files = [*self.folder.glob("*.pid"), self.folder / "munge" / "munged.pid"]
            for path in pid_files:
                _kill(path)
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command of SLURM and return what it printed."""
        done = subprocess.run(
            argv, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}"
        return done.stdout

    def start_node(self, node: str) -> None:
        """Start a node's slurmd and wait until the controller uses it."""
        hide = f"mount -t tmpfs tmpfs {self.unshared} && exec slurmd -N {node}"
        if node == "node2":
            self.run("unshare", "--mount", "sh", "-c", hide)
        else:
            self.run("slurmd", "-N", node)
        self.wait_until(lambda: self.node_state(node) in WORKING, f"{node} is up")

    def fail_node(self, node: str) -> None:
        """Let a node fail: its slurmd and all processes of its jobs are killed at once.

        The controller is told at once, as by a site's health check; it would notice by itself
        after some missed pings.
        """
        pid = int((self.folder / f"slurmd-{node}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        self._kill_processes_of(node)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=failed")

    def _kill_processes_of(self, node: str) -> None:
        """Kill the processes of jobs on a node, and the slurmstepds that started them."""
        for process in self.processes_of(node):
            parent = process.parent()
            if parent is not None and "slurmstepd" in parent.name():
                parent.kill()
            process.kill()

    def processes_of(self, node: str) -> list[psutil.Process]:
        """Return the living processes that jobs run on a node of this cluster."""
        found = []
        for process in psutil.process_iter():
            try:
                env = process.environ()
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
            except psutil.Error:
                continue  # it has just ended
            is_here = env.get("SLURM_CONF") == self.env["SLURM_CONF"]
            if is_here and env.get("SLURMD_NODENAME") == node:
                found.append(process)
        return found

    def node_state(self, node: str) -> str:
        """Return a node's state as sinfo prints it, such as `idle` or `down*`."""
        return self.run("sinfo", "-h", "-n", node, "-o", "%T", "-p", "main").strip().rstrip("*")

    def job_field(self, job_id: str, field: str) -> str:
        """Return a field of `scontrol show job`, or "" if the job is unknown by now."""
        shown = self.run("scontrol", "-o", "show", "job", job_id, check=False)
        match = re.search(rf"\b{field}=(\S*)", shown)
        return match[1] if match else ""

    def wait_for_end(self, job_id: str) -> str:
        """Wait until a job has ended for good and return its state."""

        def has_ended() -> bool:
            return self.job_field(job_id, "JobState") in (
                "COMPLETED",
                "FAILED",
                "CANCELLED",
                "TIMEOUT",
                "NODE_FAIL",
            )

        self.wait_until(has_ended, f"job {job_id} has ended")
        return self.job_field(job_id, "JobState")

    def wait_until(
        self, condition: Callable[[], object], what: str, patience: float = PATIENCE_SECONDS
    ) -> None:
        """Wait until a condition holds; fails after `patience` seconds."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}\n{self.run('squeue', check=False)}"
            time.sleep(0.1)

    def _write_files(self) -> None:
        of_nodes = [f"{kind}-{node}" for kind in ("spool", "tmp") for node in NODES]
        for name in ("state", "munge", "unshared", *of_nodes):
            (self.folder / name).mkdir()
        for folder in (self.folder, self.folder / "munge"):
            folder.chmod(0o711)  # munged refuses a socket that others cannot reach
        key = self.folder / "munge" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        further = self._number * PORTS_PER_CLUSTER
        nodes = [
            NODE.format(name=name, port=FIRST_NODE_PORT + further + index)
            for index, name in enumerate(NODES)
        ]
        config = CONFIG.format(
            folder=self.folder,
            controller_port=CONTROLLER_PORT + further,
            first_job=1 + self._number * JOBS_PER_CLUSTER,
            nodes="\n".join(nodes),
        )
        (self.folder / "slurm.conf").write_text(config)
        for index in range(2):
            (self.folder / f"gpu{index}").touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def _kill(pid_file: Path) -> None:
    """Kill the process whose id is in a file; nobody needs the state that it would save."""
    try:
        psutil.Process(int(pid_file.read_text())).kill()
    except (OSError, ValueError, psutil.NoSuchProcess):
        return
