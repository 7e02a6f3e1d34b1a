"""Writes a task's questions as prompts, with YAML files that lm-evaluation-harness reads.

The folder is complete: `lm_eval --model hf --model_args pretrained=STUDENT --include_path FOLDER
--tasks arc_challenge_label` asks the same questions in a process of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dskd_ds.data.conversation import Message
from dskd_ds.data.recipes.prompts import conversation
from dskd_ds.errors import InputError
from dskd_ds.evaluation.tasks.catalogue import EvalTask
from dskd_ds.evaluation.tasks.questions import AskedQuestion
from dskd_ds.files.atomic import write_text
from dskd_ds.spec.recipe import RecipeSpec

TEMPLATES = ("label.yaml", "exact.yaml", "f1.yaml", "scoring.py")
MMLU_SYSTEM = (
    "You are a helpful assistant for multiple-choice questions. Reply with the letter of the right"
    " option only."
)
"""The system turn of MMLU's test, which differs from that of training (docs/method.md, "The paper's
student")."""


def scorings_of(task: EvalTask) -> tuple[str, ...]:
    """Return how a task is scored: names of the YAML templates."""
    return ("label", "exact") if task.has_choices else ("f1",)


def write_documents(
    folder: Path,
    task: EvalTask,
    asked: Sequence[AskedQuestion],
    tokenizer: Any,
    recipe: RecipeSpec,
) -> list[str]:
    """Write the prompts and YAML files of a task; returns the names of its harness tasks.

    recipe: its system_turn, temperature and top_p are used; the style is always `paper`.
    Raises InputError if the tokenizer has no chat template.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in TEMPLATES:
        source = resources.files("dskd_ds.evaluation.tasks").joinpath("files", name)
        with resources.as_file(source) as path:
            shutil.copyfile(path, folder / name)
    rows = [_row(task, question, tokenizer, recipe) for question in asked]
    documents = folder / f"{task.name}.jsonl"
    write_text(documents, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    names: list[str] = []
    for scoring in scorings_of(task):
        names.append(f"{task.name}_{scoring}")
        write_text(folder / f"{names[-1]}.yaml", _yaml(task, scoring, documents, recipe))
    return names


def _yaml(task: EvalTask, scoring: str, documents: Path, recipe: RecipeSpec) -> str:
    """Return the YAML file of one task and scoring."""
    # JSON is YAML; it needs no quoting rules.
    content: dict[str, Any] = {
        "include": f"{scoring}.yaml",
        "task": f"{task.name}_{scoring}",
        "dataset_kwargs": {"data_files": {"test": str(documents.resolve())}},
    }
    if scoring != "label":
        content["generation_kwargs"] = {
            "until": [],
            "max_gen_toks": task.new_tokens,
            "do_sample": recipe.temperature > 0,
        }
        if recipe.temperature > 0:
            content["generation_kwargs"] |= {
                "temperature": recipe.temperature,
                "top_p": recipe.top_p,
            }
    return json.dumps(content, indent=1) + "\n"


def _row(
    task: EvalTask, asked: AskedQuestion, tokenizer: Any, recipe: RecipeSpec
) -> dict[str, Any]:
    """Return one document: the prompt, its labels and answers."""
    question = asked.question
    labels = sorted(option.label for option in question.options)
    return {
        "id": asked.id,
        "prompt": render_prompt(task, asked, tokenizer, recipe),
        "labels": labels,
        "gold": labels.index(question.answer) if labels else -1,
        "answer": question.answer,
        "answers": list(asked.answers),
        "topic": question.topic,
    }


def render_prompt(task: EvalTask, asked: AskedQuestion, tokenizer: Any, recipe: RecipeSpec) -> str:
    """Return the text up to the beginning of the assistant's answer. Raises InputError."""
    style = recipe.model_copy(update={"style": "paper"})
    messages = conversation(style, task.prompt_set, asked.shots, asked.question)[:-1]
    if task.name == "mmlu":
        messages = _with_instruction(messages, MMLU_SYSTEM)
    if not tokenizer.chat_template:
        raise InputError(
            "--tasks: the tokenizer has no chat template, so no prompt can be made.\n"
            "  evaluate an instruction-tuned model, or add chat_template.jinja to its folder."
        )
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def _with_instruction(messages: list[Message], text: str) -> list[Message]:
    """Replace the text of the system turn, if there is one."""
    first = messages[0]
    return [{**first, "content": text}, *messages[1:]] if first["role"] == "system" else messages
