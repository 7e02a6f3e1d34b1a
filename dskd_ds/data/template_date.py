"""Gives chat templates one fixed date.

Templates of Llama 3.2, SmolLM3, gpt-oss and newer Mistral models write today's date. The same
conversation would become another text each day: packed text, cached replies, parts of
`dskd data continue` and scores that are to be paired would no longer belong together.
"""

from __future__ import annotations

from datetime import datetime

DATE = datetime(2024, 7, 26)
"""The day on which every conversation takes place: the default of Llama 3's templates."""
_CODES = (
    *("%Y", "%y", "%m", "%-m", "%B", "%b", "%d", "%-d", "%e", "%j", "%A", "%a", "%F", "%D", "%x"),
    *("%H", "%-H", "%I", "%-I", "%M", "%S", "%p", "%T", "%R", "%X", "%c"),
)
"""What a template can ask of the date. Other codes stay as they are, which is fixed too."""


def with_fixed_date(template: str) -> str:
    """Return a chat template for which `strftime_now` tells `DATE`.

    A template that does not use it is returned as it is.
    """
    if "strftime_now" not in template:
        return template
    values = "".join(f" | replace('{code}', '{DATE.strftime(code)}')" for code in _CODES)
    # transformers lets no caller pass a function, but a macro hides its own `strftime_now`.
    macro = "{% macro strftime_now(format) %}{{ format" + values + " }}{% endmacro %}"
    # Jinja drops the line's end, and the template begins a line of its own as before.
    return f"{macro}\n{template}"
