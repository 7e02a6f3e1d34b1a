"""Checks before a run starts: missing files, different vocabularies, sizes that do not fit.

The checks are cheap and give the same result on every rank, so all ranks stop with one message.
"""

from __future__ import annotations

from dskd_ds.data.documents import matching_files
from dskd_ds.data.packed import check_packed
from dskd_ds.errors import InputError
from dskd_ds.models.layers import check_compiler, check_layers
from dskd_ds.models.named import RunModels
from dskd_ds.models.tensor_parallel import check_divisible
from dskd_ds.models.vocabulary import check_same_tokens
from dskd_ds.plan.further_teachers import check_further_teachers
from dskd_ds.senses.choose.open import check_index
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_own
from dskd_ds.senses.dictionary.identity import check_settings
from dskd_ds.spec import RunSpec
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.student.terms.senses import check_term_dictionaries


def preflight(
    spec: RunSpec, models: RunModels, with_senses: bool = True, with_packed: bool | None = None
) -> None:
    """Check what a run needs. Raises InputError for the first problem.

    with_senses: whether the dictionary must exist already. with_packed: whether the packed text
        must; by default both or none.
    """
    with_packed = with_senses if with_packed is None else with_packed
    deepspeed_config(spec)
    for section, compiled in (
        ("[student]", spec.student.compile),
        ("[teacher]", spec.teacher.compile),
    ):
        if compiled:
            check_compiler(section)
    for source in (*spec.data.train, *spec.data.heldout):
        for epoch in range(spec.data.epoch_files):
            matching_files(source.of_epoch(epoch).path)
    if with_packed and spec.data.packed is not None:
        check_packed(spec.data, models.teacher.tokenizer, models.max_tokens)
    _check_teacher(spec, models)
    # The teacher's own layers matter only if a student is cut from them, or if they are compiled.
    if models.student is not None:
        check_layers(models.student)
        check_same_tokens(models.teacher, models.student, spec.loss.divergence)
    if models.student is None or models.teacher.compiled:
        check_layers(models.teacher)
    check_further_teachers(spec, models)
    if with_senses and spec.uses_senses:
        dictionary = open_own(spec.senses.dictionary, models.teacher, verify=False)
        _check_senses(spec, dictionary)
    if with_senses:
        check_term_dictionaries(spec, models)


def _check_senses(spec: RunSpec, dictionary: SenseDictionary) -> None:
    """Raise InputError if the dictionary does not fit the run, or lacks an index that it needs."""
    if dictionary.layer != -1:
        raise InputError(
            f'[senses] dictionary = "{spec.senses.dictionary}", but it holds states of layer'
            f" {dictionary.layer}, and the sense term compares senses with the states that the"
            " student's head reads.\n"
            "  build a dictionary with [senses] hidden_layer = -1, or set [loss] sense_weight = 0."
        )
    if dictionary.is_of_read_tokens:
        raise InputError(
            f'[senses] dictionary = "{spec.senses.dictionary}" was built with attribution = "on",'
            " but the sense term needs senses of the tokens that states predict.\n"
            '  build one with [senses] attribution = "argmax" or "next".'
        )
    check_settings(dictionary, spec)
    # If neither holds, only teachers that are started on their own need the index. They check it.
    if spec.senses.retrieve_on == "student" or spec.topology.num_teachers:
        check_index(spec, dictionary)
    has_antonyms = dictionary.facts["median_antonym_distance"] is not None
    if spec.loss.margin_unit == "median_antonym" and not has_antonyms:
        raise InputError(
            '[loss] margin_unit = "median_antonym", but no two antonyms in the dictionary both'
            " have senses.\n"
            "  collect from more text ([senses] collect_tokens), or set"
            ' margin_unit = "absolute".'
        )


def _check_teacher(spec: RunSpec, models: RunModels) -> None:
    """Raise InputError if a setting is above a limit that follows from the teacher."""
    config = models.teacher.text_config
    num_tokens = models.shared_vocab_size
    check_divisible(models.teacher, spec.topology.ranks_per_teacher, num_tokens)
    if spec.loss.top_k > num_tokens:
        raise InputError(
            f"[loss] top_k = {spec.loss.top_k}, but teacher and student share"
            f" {num_tokens} tokens.\n"
            f"  use at most {num_tokens}."
        )
    num_layers = config.num_hidden_layers
    if spec.senses.hidden_layer > num_layers:
        raise InputError(
            f"[senses] hidden_layer = {spec.senses.hidden_layer}, but the teacher has"
            f" {num_layers} layers.\n"
            f"  use 0 (embeddings) to {num_layers}, or -1 for the state that its head reads."
        )
    limit = models.teacher.max_tokens
    if limit and spec.data.block_tokens > limit:
        raise InputError(
            f"[data] block_tokens = {spec.data.block_tokens}, but the teacher reads at most"
            f" {limit} tokens.\n"
            f"  use at most {limit}."
        )
