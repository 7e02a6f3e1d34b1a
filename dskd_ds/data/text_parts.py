"""The parts of a training text: what is packed together, in a folder of [data] packed each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.spec.data import DataSpec


@dataclass(frozen=True)
class TextPart:
    """Sources whose documents are packed one after the other."""

    name: str
    """Name of its folder in [data] packed."""
    data: DataSpec
    """The spec with these sources only, at one epoch."""
    first_source: int = 0
    """Index of its first source among all sources of [data] train."""

    @property
    def folder(self) -> Path:
        """Folder of the packed part. The spec has [data] packed."""
        assert self.data.packed is not None
        return Path(self.data.packed) / self.name

    @contextmanager
    def errors_name_sources(self) -> Iterator[None]:
        """Let an InputError name the sources by their index among all sources."""
        try:
            yield
        except InputError as error:
            own_name, name = "[data.train.0]", f"[data.train.{self.first_source}]"
            raise InputError(str(error).replace(own_name, name)) from None


def text_parts(data: DataSpec) -> list[TextPart]:
    """Return the parts of a spec's training text, in the order of epochs or of sources.

    Sources with weights are packed alone, because the run reads them at different rates. Files of
    different epochs are packed alone too. Else all sources are one part.
    """
    if data.is_weighted:
        indices = range(len(data.train))
        return [TextPart(f"source-{i}", data.of_source(i), first_source=i) for i in indices]
    if data.epoch_files > 1:
        epochs = range(data.epoch_files)
        return [TextPart(f"epoch-{epoch}", data.of_epoch(epoch)) for epoch in epochs]
    return [TextPart("text", data)]
