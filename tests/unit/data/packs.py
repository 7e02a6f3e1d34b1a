"""A text of several groups, and how it is packed on threads that are ranks."""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dskd_ds.data.pack_job import PackJob
from dskd_ds.data.text_parts import text_parts
from dskd_ds.spec import RunSpec, load_spec
from tests.conftest import WORDS, TinyWorld
from tests.unit.data.chats import messages_of

NUM_TEXTS, NUM_CHATS = 3300, 900


class OneOfThreads:
    """The communicator of a rank that is a thread of this process."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, flags: list[bool]) -> None:
        self.rank, self.size = rank, size
        self._barrier, self._flags = barrier, flags

    def barrier(self) -> None:
        self._barrier.wait(timeout=120)

    def broadcast_flag_from_rank_0(self, flag: bool) -> bool:
        if self.rank == 0:
            self._flags[:] = [flag]
        self.barrier()
        value = self._flags[0]
        self.barrier()
        return value


def write_texts(folder: Path) -> None:
    """Write texts in two files, and conversations: some are malformed or longer than a block."""
    draw = random.Random(2)
    for name, start, stop in (("a", 0, 1200), ("b", 1200, NUM_TEXTS)):
        lines = []
        for number in range(start, stop):
            words = " ".join(draw.choices(WORDS, k=draw.randint(3, 30)))
            lines.append(json.dumps({"title": f"document {number}", "text": words}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    chats = []
    for number in range(NUM_CHATS):
        turns = [(f"what is {number}?", " ".join(draw.choices(WORDS, k=draw.randint(1, 40))))]
        messages = messages_of(turns) if number % 100 else [{"role": "user", "content": "?"}]
        chats.append(json.dumps({"messages": messages}))
    (folder / "chats.jsonl").write_text("\n".join(chats) + "\n")


def spec_of(tiny: TinyWorld, text_folder: Path, *keys: str, weights: str = "") -> RunSpec:
    weighted = [f", weight={weight}" if weight else "" for weight in (weights or ",").split(",")]
    text = f'{{path="{text_folder}/[ab].jsonl", title_field="title"{weighted[0]}}}'
    chats = (
        f'{{path="{text_folder}/chats.jsonl", format="chat", supervise="completions"{weighted[1]}}}'
    )
    return load_spec(
        tiny.spec_file,
        [
            f"data.train=[{text}, {chats}]",
            "data.chat_template=plain",
            "student.layers=first",
            *keys,
        ],
    )


def pack(spec: RunSpec, tokenizer: Any, num_ranks: int = 1, max_tokens: int | None = None) -> None:
    """Pack every part of a spec's text on threads that are ranks."""
    barrier, flags = threading.Barrier(num_ranks), [False]

    def work(rank: int) -> None:
        comm: Any = OneOfThreads(rank, num_ranks, barrier, flags)
        try:
            for part in text_parts(spec.data):
                PackJob(part, tokenizer, max_tokens, comm).run()
        except BaseException:
            barrier.abort()  # as MPI ends all ranks
            raise

    with ThreadPoolExecutor(num_ranks) as ranks:
        for ended in [ranks.submit(work, rank) for rank in range(num_ranks)]:
            ended.result()


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
