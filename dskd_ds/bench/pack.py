"""Measures `dskd data pack`: tokens per second by number of ranks, and how long opening takes.

The text is the quickstart's, repeated to ten million tokens. Every run converts it anew with
`datasets`, and packs it with real MPI ranks.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dskd_ds.bench.measure import Figure
from dskd_ds.bench.real_text import QUICKSTART
from dskd_ds.data.packed import PackedBlocks, open_packed, read_facts
from dskd_ds.data.text_parts import text_parts
from dskd_ds.models.named import RunModels
from dskd_ds.runtime import launch
from dskd_ds.runtime.console import child_environment
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.spec.load import expand

RANKS = (1, 2, 4)
REPEATS = 3
NUM_TOKENS = 10_000_000
TOKENS_PER_BYTE = 0.2
"""Of the quickstart's texts with its tokenizer, at least."""
RATE = re.compile(r"\(([\d,]+) tokens per second\)")


def bench_pack() -> list[Figure]:
    """Return how much faster several ranks pack, and the time to open the result."""
    with tempfile.TemporaryDirectory(prefix="dskd-pack-") as name:
        folder = Path(name)
        num_bytes = write_text(folder / "text.jsonl", int(NUM_TOKENS / TOKENS_PER_BYTE))
        rates: dict[int, list[float]] = {num_ranks: [] for num_ranks in RANKS}
        for repeat in range(REPEATS):
            for num_ranks in RANKS:
                work = folder / f"{num_ranks}-{repeat}"
                rates[num_ranks].append(pack(folder / "text.jsonl", work, num_ranks))
        packs = [folder / f"{num_ranks}-0" for num_ranks in RANKS]
        refuse_different(packs)
        spec = spec_of(folder / "text.jsonl", packs[0])
        return [*_speedups(rates, num_bytes), _opening(spec)]


def write_text(path: Path, num_bytes: int) -> int:
    """Write at least this many bytes of the quickstart's texts; returns the number.

    The copies of a text have different first words.
    """
    source = Path(expand(load_spec(QUICKSTART).data.train[0].path))
    texts = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
    written = copy = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            for text in texts:
                written += file.write(json.dumps({"text": f"{copy}: {text}"}) + "\n")
            copy += 1
    return written


def overrides_of(text: Path, packed: Path) -> list[str]:
    """Return the settings with which the quickstart's spec packs a text."""
    return [
        f'data.train=[{{path="{text}"}}]',
        f'data.packed="{packed}"',
        "data.heldout=[]",
        "data.block_tokens=1024",
    ]


def spec_of(text: Path, packed: Path) -> RunSpec:
    """Return the quickstart's spec with another text, packed in a folder."""
    return load_spec(QUICKSTART, overrides_of(text, packed))


def pack(text: Path, packed: Path, num_ranks: int) -> float:
    """Pack a text with a new cache of `datasets`; returns the job's own tokens per second."""
    command = launch.pack_command(QUICKSTART, overrides_of(text, packed), num_ranks)
    environment = child_environment(os.environ) | {
        "HF_DATASETS_CACHE": str(packed.with_name(f"{packed.name}.cache")),
        "TOKENIZERS_PARALLELISM": "false",
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = RATE.search(ended.stdout)
    if ended.returncode or found is None:
        raise RuntimeError(f"{command}: {ended.stdout}{ended.stderr}")
    return float(found[1].replace(",", ""))


def refuse_different(packs: list[Path]) -> None:
    """Raise RuntimeError if folders do not hold the same bytes."""
    digests = [read_facts(folder / "text")[1] for folder in packs]
    if any(other != digests[0] for other in digests):
        raise RuntimeError(f"{packs}: the bytes depend on the number of ranks")


def _speedups(rates: dict[int, list[float]], num_bytes: int) -> list[Figure]:
    num_cores = len(os.sched_getaffinity(0))
    medians = {num_ranks: statistics.median(values) for num_ranks, values in rates.items()}
    notes = {
        "text": f"{num_bytes / 1e6:.0f} MB, {NUM_TOKENS / 1e6:.0f} million tokens or more",
        "cores": num_cores,
    }
    notes |= {
        f"{num_ranks} ranks": f"{median:,.0f} tokens per second (all: "
        + ", ".join(f"{rate:,.0f}" for rate in rates[num_ranks])
        + ")"
        for num_ranks, median in medians.items()
    }
    return [
        Figure(
            key=f"pack_efficiency_{num_ranks}",
            what=f"packing: {num_ranks} ranks / (1 rank x {min(num_ranks, num_cores)} cores)",
            value=medians[num_ranks] / medians[1] / min(num_ranks, num_cores),
            target=0.8,
            notes=notes if num_ranks == RANKS[1] else {},
        )
        for num_ranks in RANKS[1:]
    ]


def _opening(spec: RunSpec) -> Figure:
    """Return the time to open the packed text and to read a block in its middle."""
    models = RunModels.of(spec)
    tokenizer, max_tokens = models.teacher.tokenizer, models.max_tokens
    seconds: list[float] = []
    blocks: PackedBlocks | None = None
    for _ in range(REPEATS):
        started = time.perf_counter()
        blocks = open_packed(text_parts(spec.data)[0], tokenizer, max_tokens)
        blocks[len(blocks) // 2]
        seconds.append(time.perf_counter() - started)
    assert blocks is not None
    return Figure(
        key="pack_open_seconds",
        what="seconds to check and open packed text, and to read a block in its middle",
        value=statistics.median(seconds),
        target=1.0,
        better="lower",
        notes={"blocks": len(blocks), "tokens": blocks.num_tokens},
    )


BENCHES: dict[str, Callable[[], list[Figure]]] = {"pack": bench_pack}
