"""Turns questions into the messages of a conversation, in one of two styles.

`lettered` is this project's wording. `paper` has the turns, the order and the labels of the paper's
authors, as far as they are known; the sentences are this project's own.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from dskd_ds.data.conversation import Message
from dskd_ds.data.recipes.question_sets import Question
from dskd_ds.spec.recipe import RecipeSpec

UNANSWERABLE = "unanswerable"
"""What the style `lettered` answers to a question that its context does not answer."""
NO_ANSWER = "No answer"
"""The same for the style `paper`."""

SUBJECTS = {
    "csqa": "a multiple-choice question about common sense",
    "piqa": "a multiple-choice question about common sense",
    "arc": "a multiple-choice question from science lessons at school",
    "mmlu": "a multiple-choice question",
}
"""What the system turn of the style `paper` calls the questions of a set. Only MMLU's have no
subject."""
ANY_SUBJECT = SUBJECTS["mmlu"]
"""What it calls the questions of a set that is not in the paper."""
SQUAD_SYSTEM = {
    "assistant": "You are a helpful assistant and answer questions about a context. Keep the answer"
    f' short and exact. If the context does not hold it, reply with exactly "{NO_ANSWER}".',
    "extract": "Your task is extractive question answering. Reply with nothing but the span of the"
    f' context that answers the question, word for word, or with the two words "{NO_ANSWER}". Do'
    " not explain anything.",
}
"""The system turn of SQuAD 2.0 in the style `paper`, by [recipe] squad_system."""
PIQA_QUESTION = "Which of these two solutions reaches the goal better?"
"""Follows the goal of PIQA, in the style `paper`."""


def conversation(
    recipe: RecipeSpec, name: str, shots: Sequence[Question], question: Question
) -> list[Message]:
    """Return the messages: shots with their answers, then the question with its right answer.

    name: of the question set. Whoever reads the conversation must not take the last answer for a
    target where the teacher is to write it: `dskd data continue` drops it.
    """
    if recipe.style == "lettered":
        return [turn for shown in (*shots, question) for turn in _lettered(shown)]
    if name == "squad":
        turns = _about_one_context(shots, question)
    else:
        turns = [turn for shown in (*shots, question) for turn in _labelled(shown, name)]
    return _with_system(turns, _system_text(recipe, name, question), recipe.system_turn)


def _turns(user: str, assistant: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _lettered(question: Question) -> list[Message]:
    """Return both turns of a question in the style `lettered`."""
    if not question.options:
        text = (
            f"{question.context}\n\nQuestion: {question.text}\n"
            f"Answer in the words of the text; if it does not tell, say: {UNANSWERABLE}."
        )
        return _turns(text, question.answer or UNANSWERABLE)
    # Whatever the labels of the row are: A, B, ... in the order of the row.
    lines = {
        option.label: f"{letter}. {option.text}"
        for letter, option in zip(string.ascii_uppercase, question.options, strict=False)
    }
    return _turns("\n".join([question.text, *lines.values()]), lines[question.answer])


def _labelled(question: Question, name: str) -> list[Message]:
    """Return both turns of a multiple-choice question in the style `paper`."""
    text = f"{question.text}\n{PIQA_QUESTION}" if name == "piqa" else question.text
    options = sorted(question.options, key=lambda option: option.label)
    lines = "".join(f"{option.label}. {option.text}\n" for option in options)
    # The last line ends with a new line; some chat templates trim it.
    return _turns(f"{text}\n{lines}", question.answer)


def _about_one_context(shots: Sequence[Question], question: Question) -> list[Message]:
    """Return the turns of SQuAD 2.0 in the style `paper`: the context once, in the first turn.

    All shots are about the context of the question, and have an answer.
    """
    turns: list[Message] = []
    for shown in (*shots, question):
        asked = f"Question: {shown.text}"
        text = asked if turns else f"Context: {shown.context}\n\n{asked}"
        turns += _turns(text, shown.answer or NO_ANSWER)
    return turns


def _system_text(recipe: RecipeSpec, name: str, question: Question) -> str:
    """Return the instruction of the style `paper`."""
    if name == "squad":
        return SQUAD_SYSTEM[recipe.squad_system]
    labels = ", ".join(sorted(option.label for option in question.options))
    # "Letter" for the digits of PIQA and ARC too, as the authors have it.
    subject = SUBJECTS.get(name, ANY_SUBJECT)
    return f"You are given {subject}. Reply with one letter only, out of: {labels}."


def _with_system(turns: list[Message], text: str, where: str) -> list[Message]:
    """Return the turns with the instruction. where: [recipe] system_turn."""
    if where == "none":
        return turns
    if where == "system":
        return [{"role": "system", "content": text}, *turns]
    first = {"role": "user", "content": f"{text}\n\n{turns[0]['content']}"}
    return [first, *turns[1:]]
