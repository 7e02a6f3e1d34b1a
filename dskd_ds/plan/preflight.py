"""What can be known to be wrong before anything starts: missing files, vocabularies that differ, sizes that do not fit.

Cheap, and alike on every rank, so that all ranks stop together with one message.
"""

from __future__ import annotations

from dskd_ds.data.documents import matching_files
from dskd_ds.errors import InputError
from dskd_ds.models.layers import check_compiler, check_layers
from dskd_ds.models.named import RunModels
from dskd_ds.models.vocabulary import check_same_tokens
from dskd_ds.senses.choose.open import check_index
from dskd_ds.senses.dictionary.dictionary import open_own
from dskd_ds.senses.dictionary.identity import check_settings
from dskd_ds.spec import RunSpec
from dskd_ds.student.ds_config import deepspeed_config


def preflight(spec: RunSpec, models: RunModels, with_senses: bool = True) -> None:
    """Check what a run needs. with_senses: the dictionary must be there already.

    Raises InputError for the first thing that is wrong.
    """
    deepspeed_config(spec)
    for key, compiled in (("[student]", spec.student.compile), ("[teacher]", spec.teacher.compile)):
        if compiled:
            check_compiler(key)
    for source in (*spec.data.train, *spec.data.heldout):
        matching_files(source.path)
    _check_teacher(spec, models)
    if models.student is not None:
        check_layers(models.student)
        check_same_tokens(models.teacher, models.student, spec.loss.divergence)
    if models.student is None or models.teacher.compiled:
        check_layers(models.teacher)
    if with_senses and spec.uses_senses:
        dictionary = open_own(spec.senses.dictionary, models.teacher, verify=False)
        if dictionary.layer != -1:
            raise InputError(
                f'[senses] dictionary = "{spec.senses.dictionary}", but it holds states of layer {dictionary.layer}, and the '
                "sense term compares with the states that the student's head reads.\n"
                "  build one with [senses] hidden_layer = -1, or set [loss] sense_weight = 0."
            )
        check_settings(dictionary, spec)
        if (
            spec.senses.retrieve_on == "student" or spec.topology.num_teachers
        ):  # else it is the business of teachers elsewhere
            check_index(spec, dictionary)
        if (
            spec.loss.margin_unit == "median_antonym"
            and dictionary.facts["median_antonym_distance"] is None
        ):
            raise InputError(
                '[loss] margin_unit = "median_antonym", but the dictionary has no two antonyms with senses.\n'
                '  collect from more text ([senses] collect_tokens), or set margin_unit = "absolute".'
            )


def _check_teacher(spec: RunSpec, models: RunModels) -> None:
    """Check the settings whose limits follow from the teacher."""
    config = models.teacher.text_config
    num_tokens = models.shared_vocab_size
    if spec.loss.top_k > num_tokens:
        raise InputError(
            f"[loss] top_k = {spec.loss.top_k}, but teacher and student share {num_tokens} tokens.\n"
            f"  use at most {num_tokens}."
        )
    if spec.senses.hidden_layer > config.num_hidden_layers:
        raise InputError(
            f"[senses] hidden_layer = {spec.senses.hidden_layer}, but the teacher has {config.num_hidden_layers} layers.\n"
            f"  use 0 (embeddings) to {config.num_hidden_layers}, or -1 for the state that its head reads."
        )
    limit = getattr(config, "max_position_embeddings", None)
    if limit and spec.data.block_tokens > limit:
        raise InputError(
            f"[data] block_tokens = {spec.data.block_tokens}, but the teacher reads at most {limit}.\n"
            f"  use at most {limit}."
        )
