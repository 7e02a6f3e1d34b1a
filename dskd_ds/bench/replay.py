"""A teacher that remembers: it answers each request once with the real model and from then on from a folder, at once.

    python -m dskd_ds.bench.replay --spec FILE.toml --store FOLDER

A tool of the benches: it shows what the stream costs when the teacher costs nothing. A request holds everything its reply depends on
(link/messages.py), so the key is the digest of the request.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from dskd_ds.files.atomic import write_bytes
from dskd_ds.link import TeacherLink, Work, codec
from dskd_ds.link.messages import Array, Hello, Reply
from dskd_ds.models.frozen import TeacherModel, load_teacher
from dskd_ds.models.vocabulary import shared_vocab_size
from dskd_ds.runtime.arguments import add_overrides, exit_code_of, spec_of
from dskd_ds.runtime.console import quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.senses.choose.open import open_on_teacher
from dskd_ds.spec import RunSpec
from dskd_ds.teacher.answer import answer

HELLO_FILE = "hello.json"
LENGTH = struct.Struct("<Q")


class ReplyStore:
    """Replies by the digest of their request, one file each, in the wire's own frames."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def get(self, work: Work) -> dict[str, Array] | None:
        """The arrays that were stored for this request."""
        path = self._path(work)
        if not path.is_file():
            return None
        content, frames, start = path.read_bytes(), [], 0
        while start < len(content):
            (length,) = LENGTH.unpack_from(content, start)
            frames.append(content[start + LENGTH.size : start + LENGTH.size + length])
            start += LENGTH.size + length
        return codec.decode(frames, str(path))[1]

    def put(self, work: Work, arrays: dict[str, Array]) -> None:
        """Store the arrays; whole or not at all."""
        path = self._path(work)
        frames = codec.encode(Reply(request_id=0, forward_seconds=0.0), arrays)
        write_bytes(
            path, b"".join(part for frame in frames for part in (LENGTH.pack(len(frame)), frame))
        )

    def _path(self, work: Work) -> Path:
        digest = hashlib.sha256(
            json.dumps(work.request.model_dump(exclude={"request_id"}), sort_keys=True).encode()
        )
        for name, array in sorted(work.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return self.folder / digest.hexdigest()


def serve(spec: RunSpec, store: ReplyStore) -> None:
    """Serve the run of `spec` until its students are done; the model is loaded only for what the store lacks."""
    with ExitStack() as cleanup:
        teacher: TeacherModel | None = None
        retriever, senses_name = open_on_teacher(spec, None, cleanup)
        hello_path = store.folder / HELLO_FILE
        if not hello_path.is_file():
            teacher = load_teacher(spec.teacher, vocab_size=shared_vocab_size(spec))
            hello = Hello(
                teacher="replay",
                fingerprint=teacher.fingerprint + senses_name,
                vocab_size=teacher.vocab_size,
                hidden_size=teacher.hidden_size,
            )
            hello_path.write_text(hello.model_dump_json())
        link = TeacherLink(
            Path(spec.run_dir),
            spec.link,
            Hello.model_validate_json(hello_path.read_text()),
            spec.topology.num_students,
        )
        cleanup.callback(link.close)
        num_stored = num_answered = 0
        while (work := link.next_request()) is not None:
            begun = time.monotonic()
            arrays = store.get(work)
            if arrays is None:
                teacher = teacher or load_teacher(spec.teacher, vocab_size=shared_vocab_size(spec))
                arrays = answer(teacher, work.arrays, work.request.wanted, retriever)
                store.put(work, arrays)
                num_stored += 1
            num_answered += 1
            link.reply(work, arrays, time.monotonic() - begun)
    print(
        f"replay: answered {num_answered} requests, {num_stored} of them with the model.",
        file=sys.stderr,
    )


def main() -> int:
    """Parse and serve."""
    quiet_progress()
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.bench.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--spec", required=True, help="the run's TOML spec, the same that the students have"
    )
    add_overrides(parser)
    parser.add_argument(
        "--store",
        required=True,
        type=Path,
        help="folder of recorded replies; made if it is not there",
    )
    args = parser.parse_args()
    return exit_code_of(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Serve from the store that the arguments name."""
    spec = spec_of(args)
    use_threads(spec.topology.threads_per_rank)
    serve(spec, ReplyStore(args.store))


if __name__ == "__main__":
    sys.exit(main())
