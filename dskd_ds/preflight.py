"""What can be known to be wrong before anything starts: missing files, vocabularies that differ, sizes that do not fit.

Cheap, and alike on every rank, so that all ranks stop together with one message.
"""

from __future__ import annotations

from typing import Any

from dskd_ds.data.documents import matching_files
from dskd_ds.errors import InputError
from dskd_ds.sense.dictionary import check_belongs, open_dictionary
from dskd_ds.sense.index import INDEX_FOLDER
from dskd_ds.spec import RunSpec
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.teacher.checkpoint import load_tokenizer, model_fingerprint, read_config, resolve_model, tokenizer_fingerprint


def preflight(spec: RunSpec, with_senses: bool = True) -> None:
    """Check what a run needs. with_senses: the dictionary must be there already. Raises InputError on the first thing wrong."""
    deepspeed_config(spec)
    for source in (*spec.data.train, *spec.data.heldout):
        matching_files(source.path)
    teacher = resolve_model(spec.teacher.model)
    config = read_config(teacher).get_text_config()
    _check_teacher(spec, config)
    if spec.student.model is not None:
        _check_pair(spec, config, teacher)
    if with_senses and spec.uses_senses:
        dictionary = open_dictionary(spec.senses.dictionary, verify=False)
        check_belongs(dictionary, model_fingerprint(teacher), tokenizer_fingerprint(load_tokenizer(teacher)))
        if spec.senses.candidates != "lexical" and not (dictionary.folder / INDEX_FOLDER / "manifest.json").is_file():
            raise InputError(f'[senses] candidates = "{spec.senses.candidates}", but {dictionary.folder} has no index.\n'
                             '  build it again (dskd senses build SPEC.toml --force), or set candidates = "lexical".')
        if spec.loss.margin_unit == "median_antonym" and dictionary.facts["median_antonym_distance"] is None:
            raise InputError('[loss] margin_unit = "median_antonym", but the dictionary has no two antonyms with senses.\n'
                             '  collect from more text ([senses] collect_tokens), or set margin_unit = "absolute".')


def _check_teacher(spec: RunSpec, config: Any) -> None:
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise InputError(f'[teacher] model = "{spec.teacher.model}", but its head applies {name}, which the signal does not know.\n'
                             "  use a model whose logits are the head's product alone.")
    if spec.loss.top_k > config.vocab_size:
        raise InputError(f"[loss] top_k = {spec.loss.top_k}, but the teacher's vocabulary has {config.vocab_size} tokens.\n"
                         f"  use at most {config.vocab_size}.")
    limit = getattr(config, "max_position_embeddings", None)
    if limit and spec.data.block_tokens > limit:
        raise InputError(f"[data] block_tokens = {spec.data.block_tokens}, but the teacher reads at most {limit}.\n"
                         f"  use at most {limit}.")


def _check_pair(spec: RunSpec, teacher_config: Any, teacher: str) -> None:
    """Teacher and student must mean the same by a token id, and (for the sense term) live in the same space."""
    student = resolve_model(str(spec.student.model), "[student] model")
    config = read_config(student, "[student] model").get_text_config()
    if config.vocab_size != teacher_config.vocab_size or \
            tokenizer_fingerprint(load_tokenizer(student)) != tokenizer_fingerprint(load_tokenizer(teacher)):
        raise InputError(
            f'[student] model = "{spec.student.model}", but its vocabulary ({config.vocab_size}) is not the teacher\'s '
            f"({teacher_config.vocab_size}, {spec.teacher.model}).\n"
            "  name a student with the teacher's tokenizer, or leave [student] model out to cut it from the teacher.")
    if spec.uses_senses and config.hidden_size != teacher_config.hidden_size:
        raise InputError(
            f'[student] model = "{spec.student.model}", but its hidden size {config.hidden_size} is not the teacher\'s '
            f"{teacher_config.hidden_size}, in whose space the senses are.\n"
            "  set [loss] sense_weight = 0, or name a student of the same width.")
