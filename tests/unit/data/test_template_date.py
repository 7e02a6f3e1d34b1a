"""Chat templates that print today's date: a conversation is the same text on every day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dskd_ds.data.chat import ChatFormat, chat_format
from dskd_ds.data.template_date import with_fixed_date
from tests.unit.data.chats import CHATML, messages_of

LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "never" %}'
    "{%- endif %}{%- endif %}{{- 'Today: ' + date_string + '\\n' }}" + CHATML
)
"""The beginning is that of Llama 3.2 Instruct."""
GPT_OSS = (
    "{%- macro system() -%}{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}{%- endmacro -%}"
    "{{ system() }}" + CHATML
)
MISTRAL = "{%- set today = strftime_now(format='%-d %B') %}{{ today | upper }}" + CHATML
MESSAGES = messages_of([("big?", "large")])


@pytest.mark.parametrize(
    ("template", "shown"),
    [(LLAMA, "Today: 26 Jul 2024\n"), (GPT_OSS, "Current date: 2024-07-26"), (MISTRAL, "26 JULY")],
)
def test_the_date_is_fixed(tokenizer: Any, tmp_path: Path, template: str, shown: str) -> None:
    expected = shown + ChatFormat(tokenizer, CHATML).render(MESSAGES)
    path = tmp_path / "template.jinja"
    path.write_text(template, encoding="utf-8")
    assert chat_format(str(path), tokenizer).render(MESSAGES) == expected
    tokenizer.chat_template = template
    try:
        assert chat_format("tokenizer", tokenizer).render(MESSAGES) == expected
    finally:
        tokenizer.chat_template = None  # as the tiny tokenizer comes


def test_nothing_else_of_a_template_changes(tokenizer: Any) -> None:
    assert with_fixed_date(CHATML) == CHATML
    for start in ("", "\n", " \n  a", "  {% if messages %} b\n  {% endif %} c\n", "{%- if 1 %} d"):
        end = "{% endif %}" if start.startswith("{%-") else ""
        template = start + " strftime_now" + end
        plain = ChatFormat(tokenizer, template).render(MESSAGES)
        assert ChatFormat(tokenizer, with_fixed_date(template)).render(MESSAGES) == plain
