"""The text of a spec that `dskd init` writes: short, with comments that teach its keys."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.spec.data import SourceSpec
from dskd_ds.spec.shipped import SCHEMA_FILE, shipped_folder


@dataclass(frozen=True)
class Ranks:
    """A division of a machine into students and teachers."""

    machine: str
    """What the division is for, e.g. "2 CPU cores"."""
    num_students: int
    num_teachers: int
    threads_per_rank: int
    deepspeed: str
    """The DeepSpeed configuration that fits, as a path in a spec."""
    gpus_per_node: int | None = None
    """GPUs of each node of a cluster; None if the run is for this machine."""

    @property
    def for_cluster(self) -> bool:
        """Whether the run is for other machines than this one."""
        return self.gpus_per_node is not None


@dataclass(frozen=True)
class NewSpec:
    """All choices that `dskd init` made."""

    path: Path
    """The file that is written; the run's name and folders derive from its name."""
    teacher: str
    num_layers: int | None
    """Layers that the student keeps; None if the teacher's number of layers is unknown."""
    train: tuple[SourceSpec, ...]
    heldout: tuple[SourceSpec, ...]
    """Empty: a share of the training documents is held out."""
    wordnet: str | None
    """Folder of WordNet's database, if this machine has it."""
    block_tokens: int
    ranks: Ranks

    @property
    def name(self) -> str:
        """Return the file's name without its ending, and `-` for what a run's name cannot have."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.path.stem)

    @property
    def run_dir(self) -> str:
        """Return the run directory."""
        return f"runs/{self.name}"


def next_commands(new: NewSpec) -> list[str]:
    """Return the commands that follow, in order, each with what it does."""
    file = shlex.quote(str(new.path))
    if new.ranks.for_cluster:
        gpus = f"--gpus-per-node {new.ranks.gpus_per_node}"
        stages = "--what senses,train,eval"
        steps = {
            f"dskd plan {file} --cluster h100-80": "memory, time, cost; --help: other clusters",
            f"dskd submit {file} {stages} {gpus} --dry-run": "checks everything; prints the job",
            f"dskd submit {file} {stages} {gpus}": "submits it; the job resumes by itself",
            f"dskd status {new.run_dir}": "alive or not, speed, who waits, errors",
            f"dskd report {file}": f"writes {new.run_dir}/report.html",
        }
        return _aligned(steps)
    steps = {
        f"dskd senses build {file}": "the teacher reads the text; builds the senses",
        f"dskd train {file} --dry-run": "checks everything and prints the launch",
        f"dskd train {file}": "trains; the same command resumes a run that was stopped",
        f"dskd eval {file}": "held-out perplexity and KL, before and after",
        f"dskd report {file}": f"writes {new.run_dir}/report.html",
    }
    return _aligned(steps)


def _aligned(steps: dict[str, str]) -> list[str]:
    """Return commands with what they do, one below the other. steps: command -> what it does."""
    width = max(map(len, steps))
    return [f"{command:<{width}}  # {effect}" for command, effect in steps.items()]


def spec_text(new: NewSpec) -> str:
    """Return the spec as commented TOML."""
    sections = (
        _heading(new),
        _models(new),
        _data(new),
        _senses(new),
        _loss(),
        _training(new),
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _heading(new: NewSpec) -> Iterator[str]:
    yield f"#:schema {shipped_folder() / SCHEMA_FILE}"
    yield "# Written by `dskd init`. All keys with their defaults: `dskd schema`. Next commands:"
    yield from (f"#   {command}" for command in next_commands(new))
    yield ""
    yield f"name = {_toml(new.name)}"
    yield f"run_dir = {_toml(new.run_dir)}  # folder for everything that this run writes"
    yield (
        f"deepspeed = {_toml(new.ranks.deepspeed)}"
        "  # ships with dskd; `dskd init --list` describes the others"
    )


def _models(new: NewSpec) -> Iterator[str]:
    yield "[teacher]"
    yield f"model = {_toml(new.teacher)}  # hub name, folder or .gguf file; never trained"
    yield ""
    yield '[student]  # the teacher with fewer layers; or another model: model = "..."'
    if new.num_layers is None:
        yield 'layers = "all"  # to keep fewer: layers = "by_impact" and num_layers = ...'
    else:
        yield 'layers = "by_impact"  # keep the layers whose removal hurts most'
        yield f"num_layers = {new.num_layers}  # how many layers to keep"
        yield ""
        yield "[repair]  # before training: layers beside a gap learn what the missing ones did"
        yield "steps = 40  # 0 leaves it out"


def _data(new: NewSpec) -> Iterator[str]:
    yield "[data]"
    yield f"block_tokens = {new.block_tokens}  # documents are packed into blocks of this length"
    if not new.heldout:
        yield "heldout_fraction = 0.02  # share that only `dskd eval` reads; more for a short text"
    yield ""
    yield "[[data.train]]  # repeat this section for more sources"
    yield from _source(new.train[0], teach=True)
    for source in new.train[1:]:
        yield from ("", "[[data.train]]", *_source(source))
    for source in new.heldout:
        yield from ("", "[[data.heldout]]  # only evaluated on", *_source(source))


def _source(source: SourceSpec, teach: bool = False) -> Iterator[str]:
    note = "  # .txt, .jsonl, .json or .parquet (globs too), or a hub dataset" if teach else ""
    yield f"path = {_toml(source.path)}{note}"
    if source.title_field is not None:
        yield f"title_field = {_toml(source.title_field)}  # column with the document's title"
    if teach:
        yield '# text_field = "text"  # column with the text; for conversations: format = "chat"'


def _senses(new: NewSpec) -> Iterator[str]:
    candidates = "neighbours" if new.wordnet is None else "hybrid"
    yield "[senses]"
    yield f'dictionary = "{new.run_dir}/senses"  # `dskd senses build` writes this folder'
    yield "collect_tokens = 20_480  # tokens that the teacher reads; more text gives better senses"
    yield f'candidates = "{candidates}"  # "lexical": from word relations; "hybrid": both ways'
    yield ""
    if new.wordnet is None:
        yield '# With a lexicon (`apt-get install wordnet-base`), set candidates = "hybrid" and:'
        yield "# [[senses.lexicons]]"
        yield '# kind = "wordnet"'
        yield '# path = "/usr/share/wordnet"'
    else:
        yield "[[senses.lexicons]]  # which words are synonyms and antonyms"
        yield 'kind = "wordnet"'
        yield f"path = {_toml(new.wordnet)}"


def _loss() -> Iterator[str]:
    yield "[loss]  # ce_weight * CE + kd_weight * KL to the teacher + sense_weight * sense term"
    yield 'signal = "topk"  # the teacher sends its top_k likeliest tokens'
    yield "top_k = 64"
    yield "ce_weight = 0.0  # above 0 it learns from the text too, and is less like the teacher"
    yield "kd_weight = 1.0"
    yield "sense_weight = 0.2  # 0 trains without senses"
    yield 'sense_weighting = "teacher_probability"'


def _training(new: NewSpec) -> Iterator[str]:
    ranks = new.ranks
    yield "[optimizer]"
    yield "lr = 2e-4  # peak learning rate"
    yield ""
    yield "[train]"
    yield "num_steps = 40  # enough for a first look; a real run takes thousands"
    yield f"global_batch_blocks = {ranks.num_students}  # blocks per step, over all students"
    yield ""
    place = "" if ranks.for_cluster else "this machine: "
    yield f"[topology]  # chosen for {place}{ranks.machine}"
    yield f"num_students = {ranks.num_students}  # ranks that train"
    yield f"num_teachers = {ranks.num_teachers}  # ranks that answer the students"
    yield f"threads_per_rank = {ranks.threads_per_rank}  # CPU threads; 0 keeps OMP_NUM_THREADS"


def _toml(text: str) -> str:
    """Return a string in TOML's notation (JSON's is valid TOML)."""
    return json.dumps(text, ensure_ascii=False)
