"""Which settings may change when a run is resumed: marks on the fields of a spec decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dskd_ds.spec.base import MUST_STAY, OnResume
from dskd_ds.spec.run import RunSpec


@dataclass(frozen=True)
class Change:
    """A setting whose value differs from that of the run which is resumed."""

    key: str
    """`key` or `section.key`."""
    before: Any
    now: Any
    mark: OnResume


def changes_on_resume(before: RunSpec, now: RunSpec) -> list[Change]:
    """Return every setting that differs between two specs, in the order of the spec.

    A field's own mark counts; a field without one takes its section's; else it must stay.
    """
    changes: list[Change] = []
    for name, field in RunSpec.model_fields.items():
        section, old_section = getattr(now, name), getattr(before, name)
        section_mark = _mark(field) or MUST_STAY
        if _are_like_sections(old_section, section):
            for index, (old_part, part) in enumerate(zip(old_section, section, strict=True)):
                changes += _compare_parts(f"{name}.{index}", old_part, part, section_mark)
            continue
        # A section that may be left out is None then.
        if not isinstance(section, BaseModel) or old_section is None:
            changes += _compare(name, before=old_section, now=section, mark=section_mark)
            continue
        changes += _compare_parts(name, old_section, section, section_mark)
    return changes


def _are_like_sections(before: Any, now: Any) -> bool:
    """Return whether two values are lists of equally many sections, as [[teachers]] is."""
    if not isinstance(before, tuple) or not isinstance(now, tuple) or len(before) != len(now):
        return False
    return all(isinstance(part, BaseModel) for part in (*before, *now))


def _compare_parts(
    name: str, before: BaseModel, now: BaseModel, section_mark: OnResume
) -> list[Change]:
    """Return the keys that differ between two sections of one class."""
    changes: list[Change] = []
    for key, field in type(now).model_fields.items():
        changes += _compare(
            f"{name}.{key}",
            before=getattr(before, key),
            now=getattr(now, key),
            mark=_mark(field) or section_mark,
        )
    return changes


def _compare(key: str, before: Any, now: Any, mark: OnResume) -> list[Change]:
    return [] if before == now else [Change(key=key, before=before, now=now, mark=mark)]


def _mark(field: FieldInfo) -> OnResume | None:
    marks = (entry for entry in field.metadata if isinstance(entry, OnResume))
    return next(marks, None)
