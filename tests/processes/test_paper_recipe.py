"""The paper's recipe from question sets to a trained student, on made questions and a tiny model.

It is ds_configs/paper/llama3_8b.toml with other sources and sizes: the chain of its commands runs.
"""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from dskd_ds.data.batches import BlocksByEpoch
from dskd_ds.data.source import open_source
from dskd_ds.plan.paper_check import check_paper
from dskd_ds.spec import load_spec
from tests.conftest import WORDS, TinyWorld
from tests.of_spec import teacher_of
from tests.processes.conftest import Launch, warm_dskd

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(900)]
RECIPE = Path("ds_configs/paper/llama3_8b.toml")
SIZES = {"csqa": 12, "piqa": 12, "arc": 8, "mmlu": 16, "squad": 20}


def sentence(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def question(name: str, number: int, draw: random.Random) -> dict[str, Any]:
    """A made question in the published format of its set."""
    text = f"{sentence(draw, 6)} {number}?"
    options = [sentence(draw, 2) for _ in range(4)]
    if name == "piqa":
        return {"goal": text, "sol1": options[0], "sol2": options[1], "label": number % 2}
    if name == "mmlu":
        long = f"{sentence(draw, 150)} {text}"  # like the articles of the auxiliary questions
        subject = "law" if number % 2 else ""
        return {"question": long, "subject": subject, "choices": options, "answer": number % 4}
    if name == "squad":
        answered = number % 4 != 3
        answers = {"text": ["the river"], "answer_start": [0]} if answered else {"text": []}
        context = f"the river is cold {number // 4}."
        return {"title": "Rivers", "context": context, "question": text, "answers": answers}
    labels = list("1234") if name == "arc" and number == 0 else list("ABCD")
    choices = {"label": labels, "text": options}
    return {"question": text, "choices": choices, "answerKey": labels[number % 4]}


def write_inputs(folder: Path, tiny: TinyWorld) -> None:
    """Write question sets, lexicons, MorphoLEX, and a teacher that reads long texts."""
    draw = random.Random(0)
    for name, size in SIZES.items():
        rows = [question(name, number, draw) for number in range(size)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "synonyms.txt").write_text("happy glad\nbig large\ncity town\nhouse home\n")
    (folder / "antonyms.txt").write_text("big small\nhot cold\nhappy unhappy\n")
    entry = {"word": "fast", "lang": "English", "lang_code": "en", "pos": "adj"}
    senses = [{"synonyms": [{"word": "quick"}], "antonyms": [{"word": "slow"}]}]
    (folder / "wiktionary.jsonl").write_text(json.dumps(entry | {"senses": senses}) + "\n")
    (folder / "morpholex.csv").write_text(
        "Word,MorphoLexSegm\nunhappy,<un<{(happy)}\nhappy,{(happy)}\n"
    )
    shutil.copytree(tiny.folder / "teacher", folder / "teacher")
    config = folder / "teacher" / "config.json"
    content = json.loads(config.read_text()) | {"max_position_embeddings": 4096}
    config.write_text(json.dumps(content))


def tiny_tree(folder: Path, tiny: TinyWorld) -> dict[str, Any]:
    """The recipe with the tiny model and the made inputs."""
    tree = tomllib.loads(RECIPE.read_text())
    tree |= {"name": "tiny-paper", "run_dir": str(folder / "run")}
    tree["teacher"]["model"] = str(folder / "teacher")
    tree["student"]["num_layers"] = 2
    tree["student"]["train_last_layers"] = 1
    for name in SIZES:
        chosen = tree["recipe"][name]
        chosen.pop("subset", None)
        chosen.pop("split", None)
        chosen["path"] = str(folder / f"{name}.jsonl")
    tree["data"] |= {"chat_template": "plain", "block_tokens": 4096}
    tree["data"]["train"][0]["path"] = str(folder / "epoch-{epoch}.jsonl")
    senses = tree["senses"]
    senses |= {"dictionary": str(folder / "senses"), "num_senses": 3, "index_dims": 8}
    senses |= {"morpholex": str(folder / "morpholex.csv"), "min_span_tokens": 1}
    wikipedia, conversations = senses["corpus"]
    del wikipedia["subset"]
    wikipedia |= {"path": str(tiny.folder / "train.jsonl"), "collect_tokens": 2048}
    conversations |= {"path": str(folder / "all.jsonl"), "collect_tokens": 8192}
    senses["lexicons"][0]["path"] = str(folder / "wiktionary.jsonl")
    for relation in ("synonyms", "antonyms"):
        senses["lexicons"][1][relation] = str(folder / f"{relation}.txt")
    tree["topology"] = {"num_students": 1, "num_teachers": 1}
    tree["checkpoint"]["every_steps"] = 0
    return tree


def test_the_recipe_runs_from_questions_to_a_student(tiny: TinyWorld, launch: Launch) -> None:
    folder = tiny.folder / "paper"
    folder.mkdir()
    write_inputs(folder, tiny)
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny_tree(folder, tiny)))
    spec = load_spec(path)
    chats, epochs = (str(folder / f"{name}-{{epoch}}.jsonl") for name in ("chats", "epoch"))
    whole = [str(folder / f"{name}.jsonl") for name in ("all-chats", "all")]
    one = ("--epochs", "1")
    steps = (
        ("data", "paper", str(path), "--output", chats),
        ("data", "continue", str(path), "--ranks", "2", "--input", chats, "--output", epochs),
        ("data", "paper", str(path), "--all", *one, "--output", whole[0]),
        ("data", "continue", str(path), "--whole", *one, "--input", whole[0], "--output", whole[1]),
        ("senses", "build", str(path), "--ranks", "2"),
        ("train", str(path)),
    )
    for argv in steps:
        assert launch(*warm_dskd(*argv)).code == 0, argv
    _check_conversations(folder)
    _check_run(folder, spec)


def _check_conversations(folder: Path) -> None:
    both = [
        [json.loads(line) for line in (folder / f"epoch-{epoch}.jsonl").read_text().splitlines()]
        for epoch in range(2)
    ]
    # A quarter of the four sets together, and 30 % of SQuAD.
    target = sum(SIZES[name] for name in ("csqa", "piqa", "arc", "mmlu")) // 4
    counts = {name: target * size // 48 for name, size in SIZES.items()} | {"squad": 6}
    assert [Counter(row["set"] for row in rows) for rows in both] == [Counter(counts)] * 2
    assert [row["id"] for row in both[0]] == [row["id"] for row in both[1]]
    for rows in both:
        for row in rows:
            longest = 10 if row["set"] == "squad" else 1
            assert 1 <= len(row["completion_ids"]) <= longest
            assert row["prompt"][-1]["role"] == "user"
    shots = [[row["prompt"][:-1] for row in rows if row["set"] == "mmlu"] for rows in both]
    assert shots[0] != shots[1]


def _check_run(folder: Path, spec: Any) -> None:
    """Every conversation is a row of its own; 3 rows per step, two epochs, rounded down."""
    source = open_source(
        spec.data,
        teacher_of(spec).tokenizer,
        seed=spec.seed,
        step_blocks=3,
        max_tokens=4096,
    )
    assert isinstance(source, BlocksByEpoch)
    num_rows = int(source.num_blocks(1))
    assert num_rows == sum(1 for _ in (folder / "epoch-0.jsonl").open())
    lengths = {len(source.get(place)[1]["input_ids"]) for place in range(2 * num_rows)}
    assert max(lengths) > 1024  # none of the long questions was cut to a block
    records = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2 * num_rows // 3
    assert sum(record["sense_positions"] for record in records) > 0
    assert all(record["loss"] > 0 for record in records)
    assert (folder / "run/student/config.json").is_file()
    expected = {"teacher.model", "student.num_layers", "student.train_last_layers"}
    expected |= {"data.chat_template", "senses.num_senses", "senses.min_span_tokens"}
    expected |= {f"recipe.{name}.path" for name in ("csqa", "piqa", "arc")}
    found = {deviation.key for deviation in check_paper(spec, "llama3_8b").deviations}
    assert found == expected
