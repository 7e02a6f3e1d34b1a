"""Answers requests from the cache, and asks the teachers for the rest.

It stands where the link does (`StudentSide`). A thread reads the disk, so that submitting a request
costs the training thread nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from dskd_ds.errors import InputError, LinkError
from dskd_ds.link import Answer, StudentSide
from dskd_ds.link.jobs import CheckReply
from dskd_ds.link.messages import Array, Wanted
from dskd_ds.signal_cache.cache import Found, SignalCache

CACHE_NAME = "the cache of teacher signal"
"""Stands for the teacher's name in error messages."""


@dataclass(frozen=True, eq=False)
class _Submitted:
    """A request that was submitted, and the future of its answer."""

    future: Future[Answer]
    arrays: dict[str, Array]
    wanted: Wanted
    reply_bytes: int
    check: CheckReply | None


class CachedSide:
    """A StudentSide with a cache before it, or with nothing but a cache."""

    def __init__(
        self,
        link: StudentSide | None,
        *,
        own_fingerprint: Callable[[], str],
        open_cache: Callable[[str], SignalCache],
        sizes: tuple[int, int],
        fill_command: str,
    ) -> None:
        """link: None if nothing may be asked. own_fingerprint: of the teacher that the spec names.

        open_cache: from a fingerprint to what is kept under it. sizes: the teacher's vocabulary and
        hidden size. fill_command: what a user runs to fill the cache, for messages.
        """
        self._link, self._sizes, self._fill_command = link, sizes, fill_command
        self._own_fingerprint, self._open_cache = own_fingerprint, open_cache
        self._cache: SignalCache | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="signal cache")
        self._pending: set[Future[Answer]] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def fingerprint(self) -> str | None:
        """See StudentSide."""
        if self._link is not None and self._link.fingerprint is not None:
            return self._link.fingerprint
        return self._cache.fingerprint if self._cache else None

    def submit(
        self,
        arrays: dict[str, Array],
        wanted: Wanted,
        reply_bytes: int = 0,
        check: CheckReply | None = None,
    ) -> Future[Answer]:
        """See StudentSide. The future raises InputError if the cache lacks something and no teacher
        may be asked.
        """
        future: Future[Answer] = Future()
        with self._lock:
            if self._is_closed:
                future.set_exception(LinkError(f"{CACHE_NAME} is closed"))
                return future
            self._pending.add(future)
            submitted = _Submitted(future, arrays, wanted, reply_bytes=reply_bytes, check=check)
            self._pool.submit(self._start, submitted)
        return future

    def expect_no_restart(self) -> None:
        """See StudentSide."""
        if self._link is not None:
            self._link.expect_no_restart()

    def close(self) -> None:
        """Close the link and complete what is written. Unanswered requests fail."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        if self._link is not None:
            self._link.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._cache is not None:
            self._cache.store.close()
        with self._lock:
            unanswered = list(self._pending)
        for future in unanswered:
            self._fail(future, LinkError(f"{CACHE_NAME} is closed"))

    def _start(self, submitted: _Submitted) -> None:
        """Look a request up, and answer it or ask the teachers. Runs in the thread."""
        try:
            cache = self._current_cache()
            found = cache.look_up(submitted.arrays, submitted.wanted, self._sizes)
            if not found.num_missing:
                self._finish(submitted.future, self._answer(found))
                return
            if self._link is None:
                raise self._missing(found)
            asked = self._link.submit(
                found.request(),
                submitted.wanted,
                reply_bytes=submitted.reply_bytes,
                check=self._whole_check(found, submitted.check),
            )
            asked.add_done_callback(lambda done: self._continue(done, cache, found, submitted))
        except Exception as error:
            self._fail(submitted.future, error)

    def _continue(
        self,
        asked: Future[Answer],
        cache: SignalCache,
        found: Found,
        submitted: _Submitted,
    ) -> None:
        """Pass a teacher's answer on to the thread. Runs in the link's thread."""
        error = asked.exception()
        with self._lock:
            is_open = error is None and not self._is_closed
            if is_open:
                self._pool.submit(self._complete, asked.result(), cache, found, submitted)
        if not is_open:
            self._fail(submitted.future, error or LinkError(f"{CACHE_NAME} is closed"))

    def _complete(
        self, fresh: Answer, cache: SignalCache, found: Found, submitted: _Submitted
    ) -> None:
        """Keep a teacher's answer and join it with what was kept. Runs in the thread."""
        try:
            current = self._current_cache()
            if current is not cache:
                # The first teacher that came is not the one that the cache was read for.
                self._start(submitted)
                return
            current.keep(found, fresh.arrays)
            self._finish(submitted.future, self._answer(found, fresh))
        except Exception as error:
            self._fail(submitted.future, error)

    def _current_cache(self) -> SignalCache:
        """Return the cache of the teacher that answers; before one came, of the spec's teacher."""
        answering = self._link.fingerprint if self._link is not None else None
        if self._cache is None:
            self._cache = self._open_cache(answering or self._own_fingerprint())
        elif answering is not None and answering != self._cache.fingerprint:
            tqdm.write(
                f"warning: the teacher is {answering}, but this student expected"
                f" {self._cache.fingerprint}. From here on the signal kept of the teacher is used.",
                file=sys.stderr,
            )
            self._cache.store.close()
            self._cache = self._open_cache(answering)
        return self._cache

    def _answer(self, found: Found, fresh: Answer | None = None) -> Answer:
        """Return the whole answer to a request."""
        arrays = found.reply(fresh.arrays if fresh else None, self._sizes)
        return Answer(
            arrays=arrays,
            teacher=fresh.teacher if fresh else CACHE_NAME,
            forward_seconds=fresh.forward_seconds if fresh else 0.0,
            link_bytes=fresh.link_bytes if fresh else 0,
            num_asked=found.num_asked,
            num_kept=found.num_asked - found.num_missing,
        )

    def _whole_check(self, found: Found, check: CheckReply | None) -> CheckReply:
        """Return a check of the reply to a smaller request: the whole reply must be valid."""

        def check_whole(arrays: dict[str, Array]) -> object:
            whole = found.reply(arrays, self._sizes)
            return check(whole) if check else None

        return check_whole

    def _missing(self, found: Found) -> InputError:
        num_rows = found.arrays["input_ids"].shape[0]
        return InputError(
            '[teacher] source = "cache", but the cache lacks the teacher\'s signal for'
            f" {found.num_missing_rows} of the next {num_rows} blocks.\n"
            f"  fill it with `{self._fill_command}`, or set [teacher] source ="
            ' "cache_or_live" and start a teacher.'
        )

    def _finish(self, future: Future[Answer], answer: Answer) -> None:
        if self._is_taken(future):
            future.set_result(answer)

    def _fail(self, future: Future[Answer], error: BaseException) -> None:
        if self._is_taken(future):
            future.set_exception(error)

    def _is_taken(self, future: Future[Answer]) -> bool:
        """Take a future out of those without a result; false if another thread did."""
        with self._lock:
            if future not in self._pending:
                return False
            self._pending.remove(future)
            return True
