"""A teacher that replays stored replies, to measure the cost of streaming without a model's cost.

    python -m dskd_ds.bench.replay --spec FILE.toml --store FOLDER

It answers a request with the real model once, stores the reply, and answers equal requests from the
store. A reply depends on its request only (link/messages.py), so the request's digest is the key.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from dskd_ds.files.atomic import atomic_file
from dskd_ds.link import TeacherLink, Work, codec
from dskd_ds.link.messages import Array, Hello, Reply
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.runtime.arguments import add_overrides, exit_code_of, spec_of
from dskd_ds.runtime.console import quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.senses.choose.on_teacher import open_on_teacher
from dskd_ds.spec import RunSpec
from dskd_ds.teacher.answer import answer

HELLO_FILE = "hello.json"
LENGTH = struct.Struct("<Q")


class ReplyStore:
    """Replies by the digest of their request: one file per reply, in the frames of the wire."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def get(self, work: Work) -> dict[str, Array] | None:
        """Return the arrays stored for this request, or None."""
        path = self._path(work)
        if not path.is_file():
            return None
        content = path.read_bytes()
        frames: list[bytes] = []
        start = 0
        while start < len(content):
            (length,) = LENGTH.unpack_from(content, start)
            start += LENGTH.size
            frames.append(content[start : start + length])
            start += length
        return codec.decode(frames, str(path))[1]

    def put(self, work: Work, arrays: dict[str, Array]) -> None:
        """Store the arrays; the file appears only when it is complete."""
        path = self._path(work)
        frames = codec.encode(Reply(request_id=0, forward_seconds=0.0), arrays)
        with atomic_file(path) as partial, partial.open("wb") as file:
            for frame in frames:
                file.write(LENGTH.pack(len(frame)))
                file.write(frame)

    def _path(self, work: Work) -> Path:
        """Return the file for this request. Its name does not depend on the request's id."""
        fields = work.request.model_dump(exclude={"request_id"})
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
        for name, array in sorted(work.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return self.folder / digest.hexdigest()


def serve(spec: RunSpec, store: ReplyStore) -> None:
    """Serve the run of `spec` until its students are done.

    The model is loaded only if the store lacks the hello or a reply.
    """
    models = RunModels.of(spec)

    @cache
    def load_teacher() -> FrozenModel:
        return load_frozen(models.teacher, vocab_size=models.shared_vocab_size)

    with ExitStack() as cleanup:
        senses = open_on_teacher(spec, None, cleanup)
        # The hello is stored too: without it, every replay would load the model to know its sizes.
        hello_path = store.folder / HELLO_FILE
        if not hello_path.is_file():
            teacher = load_teacher()
            hello = Hello(
                teacher="replay",
                fingerprint=reply_fingerprint(spec, models, teacher.device.type) + senses.name,
                vocab_size=teacher.vocab_size,
                hidden_size=teacher.hidden_size,
            )
            hello_path.write_text(hello.model_dump_json(), encoding="utf-8")
        link = TeacherLink(
            Path(spec.run_dir),
            spec.link,
            Hello.model_validate_json(hello_path.read_text(encoding="utf-8")),
            spec.topology.num_students,
        )
        cleanup.callback(link.close)
        num_stored = num_answered = 0
        while (work := link.next_request()) is not None:
            begun = time.monotonic()
            arrays = store.get(work)
            if arrays is None:
                arrays = answer(load_teacher(), work.arrays, work.request.wanted, senses)
                store.put(work, arrays)
                num_stored += 1
            num_answered += 1
            link.reply(work, arrays, time.monotonic() - begun)
    print(
        f"replay: answered {num_answered} requests, of which {num_stored} with the model.",
        file=sys.stderr,
    )


def main() -> int:
    """Parse the arguments, serve, and return the exit code."""
    quiet_progress()
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.bench.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--spec", required=True, help="the run's TOML spec, the same as the students'"
    )
    add_overrides(parser)
    parser.add_argument(
        "--store",
        required=True,
        type=Path,
        help="folder of recorded replies; created if it does not exist",
    )
    args = parser.parse_args()
    return exit_code_of(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Serve from the store named by the arguments."""
    spec = spec_of(args)
    use_threads(spec.topology.threads_per_rank)
    serve(spec, ReplyStore(args.store))


if __name__ == "__main__":
    sys.exit(main())
