"""Renders conversations as text and finds the completions, which the assistant writes, in it.

The chat template (`[data] chat_template`) renders them. If it marks completions with
`{% generation %}`, the marks are used; else the conversation is rendered up to each message and the
results are compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dskd_ds.data.block import DOCUMENT_COLUMNS, Document
from dskd_ds.data.conversation import (
    Conversation,
    MalformedError,
    Message,
    read_conversation,
)
from dskd_ds.data.tally import Tally
from dskd_ds.data.template_date import with_fixed_date
from dskd_ds.errors import InputError
from dskd_ds.models.resolve import tokenizer_digest, tokenizer_fingerprint

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{ 'Assistant:' }}{% generation %}\
{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}
{%- else -%}
{{ message['role'] | capitalize + ': ' + message['content'] + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
"""
"""`chat_template = "plain"`, for base models: `User: ...`, `Assistant: ...` and the EOS token."""

OTHER_BEGINNING = (
    "the chat template renders its beginning differently by itself; use one with {% generation %}"
)
"""Why completions are not found."""
ANY_ANSWER = "an answer"
"""Stands for an answer where only what a template writes behind it matters."""

Range = tuple[int, int]


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer and the chat template that is used with it."""

    tokenizer: Any
    template: str

    @property
    def marks_completions(self) -> bool:
        """Whether the template marks what the assistant generates."""
        return re.search(r"\{%-?\s*generation\s*-?%\}", self.template) is not None

    @cached_property
    def vocabulary(self) -> str:
        """Digest of the tokenizer's vocabulary."""
        return tokenizer_fingerprint(self.tokenizer)

    @property
    def fingerprint(self) -> str:
        """Digests of what a rendered conversation depends on, apart from its messages.

        A template can write special tokens, and what it marks is found by tokenizing.
        """
        special = sorted(self.tokenizer.special_tokens_map.items())
        written = json.dumps([self.template, special], default=str)
        digest = hashlib.sha256(written.encode()).hexdigest()[:16]
        return f"{tokenizer_digest(self.tokenizer)} {digest}"

    def render(
        self, messages: list[Message], generation_prompt: bool = False, open_end: bool = False
    ) -> str:
        """Return the conversation as text. Raises MalformedError if the template rejects it."""
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                continue_final_message=open_end,
            )
        # ValueError: `continue_final_message`, if the template changes the last message.
        except (TemplateError, ValueError) as error:
            raise MalformedError(
                f"the chat template rejects it ({str(error).strip().splitlines()[0]})"
            ) from None
        return text

    def lead(self, messages: list[Message], prompt: str) -> str:
        """Return the white space that the template writes before the last message, an answer.

        prompt: the messages before it, with the generation prompt. Empty if the answer does not
        follow the prompt so, for example behind a block of reasoning.
        """
        try:
            behind = self.render(messages).removeprefix(prompt)
        except MalformedError:
            return ""
        answer = messages[-1]["content"].lstrip()
        lead = behind[: len(behind) - len(behind.lstrip())]
        return lead if behind.startswith(lead + answer) else ""


def chat_format(choice: str, tokenizer: Any) -> ChatFormat:
    """Return the format for a value of `[data] chat_template`.

    Raises InputError if there is no such template.
    """
    if choice == "plain":
        return ChatFormat(tokenizer, PLAIN_TEMPLATE)
    if choice != "tokenizer":
        if not Path(choice).is_file():
            raise InputError(
                f'[data] chat_template = "{choice}", but there is no such file.\n'
                '  give "tokenizer", "plain" or a Jinja file.'
            )
        template = Path(choice).read_text(encoding="utf-8")
        return ChatFormat(tokenizer, with_fixed_date(template))
    if tokenizer.chat_template is None:
        raise InputError(
            '[data] chat_template = "tokenizer", but the tokenizer of [teacher] model has none'
            " (a base model?).\n"
            '  set chat_template = "plain", or name a Jinja file.'
        )
    return ChatFormat(tokenizer, with_fixed_date(tokenizer.get_chat_template()))


def completions(chat: ChatFormat, conversation: Conversation, text: str) -> list[Range]:
    """Return the ranges [start, end) of characters of `text` that are completions.

    text: the rendered conversation. A completion includes its end of turn. Raises MalformedError if
    the completions cannot be found.
    """
    if conversation.continuation:  # one character behind the text stands for it (see Document)
        return [(len(text), len(text) + 1)]
    messages, first = conversation.messages, conversation.first_completion
    # `_marked` renders whole turns, and so cannot find the end of a message that was cut.
    if chat.marks_completions and not conversation.open_end:
        begin = len(_prefix(chat, messages[:first], text)) if first else 0
        marked = [span for span in _marked(chat, messages) if span[0] >= begin]
        if len(marked) == sum(message["role"] == "assistant" for message in messages[first:]):
            return marked  # else marks were lost where a character and a token do not coincide
    spans = []
    for index in range(first, len(messages)):
        if messages[index]["role"] != "assistant":
            continue
        start = len(_prefix(chat, messages[:index], text, generation_prompt=True))
        is_last = index == len(messages) - 1
        end = len(text) if is_last else _end(chat, messages[: index + 1], text, start)
        # White space that the template writes between turns belongs to no completion.
        spans.append((start, start + len(text[start:end].rstrip())))
    return spans


def _end(chat: ChatFormat, messages: list[Message], text: str, start: int) -> int:
    """Return where the last of these messages, an answer that begins at `start`, ends in `text`.

    Raises MalformedError if it is not found there.
    """
    alone = chat.render(messages)
    if text.startswith(alone):
        return len(alone)
    # Qwen3's template writes a block of reasoning before the last answer only, so `text`, which
    # goes on, does not start with `alone`. It closes every answer in the same way.
    shown = chat.render([*messages[:-1], {**messages[-1], "content": ANY_ANSWER}])
    _, found, closing = shown.rpartition(ANY_ANSWER)
    behind = text[start:].lstrip()
    content = messages[-1]["content"]
    for words in (content.lstrip(), content.strip()):  # a template may trim an answer
        answer = words + closing.rstrip()
        if found and behind.startswith(answer):
            return len(text) - len(behind) + len(answer)
    raise MalformedError(OTHER_BEGINNING)


def _prefix(
    chat: ChatFormat, messages: list[Message], text: str, generation_prompt: bool = False
) -> str:
    """Return the rendered messages. Raises MalformedError if `text` does not start with them."""
    prefix = chat.render(messages, generation_prompt)
    if not text.startswith(prefix):
        raise MalformedError(OTHER_BEGINNING)
    return prefix


def _marked(chat: ChatFormat, messages: list[Message]) -> list[Range]:
    """Return the ranges of characters that the template marks as generated."""
    encoded = chat.tokenizer.apply_chat_template(
        messages,
        chat_template=chat.template,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    # The mask is one flag per token; consecutive flagged tokens are one completion.
    spans: list[Range] = []
    was_marked = 0
    for is_marked, (start, end) in zip(
        encoded["assistant_masks"], encoded["offset_mapping"], strict=True
    ):
        if is_marked and was_marked:
            spans[-1] = (spans[-1][0], end)
        elif is_marked:
            spans.append((start, end))
        was_marked = is_marked
    return spans


def render_rows(
    rows: dict[str, list[Any]],
    chat: ChatFormat,
    title_field: str | None,
    only_completions: bool,
    tally: Tally,
) -> dict[str, list[Any]]:
    """Turn a batch of rows of a chat source into columns of documents (data/block.py).

    Malformed rows are left out and counted in `tally`. Raises InputError for tokens of another
    tokenizer.
    """
    _check_tokenizer(rows, chat)
    documents: dict[str, list[Any]] = {name: [] for name in DOCUMENT_COLUMNS}
    num_rows = len(next(iter(rows.values())))
    for index in range(num_rows):
        row = {name: values[index] for name, values in rows.items()}
        try:
            conversation = read_conversation(row)
            text = _text_of(chat, conversation)
            spans = completions(chat, conversation, text) if only_completions else []
            # An empty list would mean that the whole text is a target (see Document).
            if only_completions and not spans:
                raise MalformedError("no completion is found in it")
        except MalformedError as error:
            tally.add(f"left out: {error}")
            continue
        title = str(row[title_field] or "") if title_field else ""
        document = Document(
            text=text,
            title=title or conversation.digest,
            chat=True,
            open_end=conversation.open_end,
            completions=[list(span) for span in spans],
            continuation=conversation.continuation,
        )
        for name, value in document.items():
            documents[name].append(value)
    return documents


def _text_of(chat: ChatFormat, conversation: Conversation) -> str:
    """Return the conversation as text, up to a continuation. Raises MalformedError."""
    if conversation.continuation:
        return chat.render(conversation.messages, generation_prompt=True)
    return chat.render(conversation.messages, open_end=conversation.open_end)


def _check_tokenizer(rows: dict[str, list[Any]], chat: ChatFormat) -> None:
    """Raise InputError if rows hold the tokens of another tokenizer."""
    continued = rows.get("completion_ids", [])
    names = rows.get("tokenizer", [None] * len(continued))
    # Ordinary conversations beside continued ones have neither.
    if any(ids and name != chat.vocabulary for ids, name in zip(continued, names, strict=True)):
        raise InputError(
            "[data] train: the column completion_ids holds tokens of another tokenizer than that of"
            " [teacher] model.\n"
            "  let this teacher continue the conversations (dskd data continue), or delete the"
            " column to train on the texts in `completion`."
        )
