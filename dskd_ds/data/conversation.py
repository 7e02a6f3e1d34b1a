"""Reads conversations, and prompts for the teacher, from the rows of a chat source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]
"""A turn: `role` and `content`."""


class MalformedError(ValueError):
    """A row that is not a conversation; the message gives the reason."""


@dataclass(frozen=True)
class Conversation:
    """A row of a chat source."""

    messages: list[Message]
    first_completion: int
    """Assistant messages before this one are part of the prompt."""
    open_end: bool
    """Whether the last message was cut, so that no end of turn follows it."""
    continuation: list[int]
    """Tokens of the teacher that follow the messages; empty if the last message is the answer."""

    @property
    def digest(self) -> str:
        """Digest that equal conversations share; it replaces a missing title."""
        return hashlib.blake2b(
            json.dumps(self.messages, sort_keys=True).encode(), digest_size=16
        ).hexdigest()


def read_conversation(row: dict[str, Any]) -> Conversation:
    """Return the conversation in a row of a chat source.

    The row has `messages`, or `prompt` and `completion` (texts, or lists of messages); `open_end`
    is optional. In a row of `dskd data continue`, `completion_ids` replaces the completion.
    Raises MalformedError.
    """
    if row.get("completion_ids") and row.get("prompt") is not None:
        prompt = _messages(row["prompt"], "user")
        return Conversation(prompt, len(prompt), True, list(row["completion_ids"]))
    if row.get("messages") is not None:
        prompt, messages = [], _messages(row["messages"], "user")
    elif row.get("prompt") is not None and row.get("completion") is not None:
        prompt = _messages(row["prompt"], "user")
        messages = [*prompt, *_messages(row["completion"], "assistant")]
    else:
        raise MalformedError("no messages, nor prompt and completion")
    # Without `prompt`, every message of the assistant is a completion.
    if not any(message["role"] == "assistant" for message in messages[len(prompt) :]):
        raise MalformedError("no answer of the assistant")
    open_end = bool(row.get("open_end"))
    if open_end and messages[-1]["role"] != "assistant":
        raise MalformedError("open_end, but the last message is not the assistant's")
    return Conversation(messages, len(prompt), open_end, [])


def read_prompt(row: dict[str, Any]) -> list[Message]:
    """Return the prompt of a row: its `prompt`, or its `messages` without the answers at their end.

    Raises MalformedError.
    """
    if row.get("messages") is not None:
        messages = _messages(row["messages"], "user")
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    elif row.get("prompt") is not None:
        messages = _messages(row["prompt"], "user")
    else:
        raise MalformedError("no messages, nor prompt")
    if not messages:
        raise MalformedError("no question before the answer")
    return messages


def given_answer(row: dict[str, Any]) -> str | None:
    """Return the answer with which the messages of a row end; None if they end otherwise.

    The row is one that `read_prompt` accepts.
    """
    messages = row.get("messages") or row.get("completion")
    if isinstance(messages, str):
        return messages
    if not messages or messages[-1]["role"] != "assistant":
        return None
    return str(messages[-1]["content"])


def _messages(value: Any, role: str) -> list[Message]:
    """Check and return messages. role: the role of a bare text. Raises MalformedError."""
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise MalformedError("messages that are not a list")
    messages = []
    for message in value:
        # Content as a list of parts (text, images) is not supported either.
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("role"), str)
            or not isinstance(message.get("content"), str)
        ):
            raise MalformedError("a message without role and content as text")
        if message["role"] == "assistant" and not message["content"].strip():
            raise MalformedError("an empty answer")
        messages.append({"role": message["role"], "content": message["content"]})
    return messages
