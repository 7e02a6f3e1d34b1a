"""A teacher answers with the states of the layers that a request names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dskd_ds.link import codec
from dskd_ds.link.messages import Reply, Wanted
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.signals.reply import HEADER_BYTES, ReplyShape, most_reply_bytes, read_reply
from dskd_ds.spec.processes import HiddenFormat
from dskd_ds.teacher.answer import answer
from tests.unit.small_llama import small_llama

V, D, T = 40, 16, 6
WANTED = Wanted(
    top_k=1,
    temperatures=(1.0,),
    num_draws=1,
    draw_temperature=1.0,
    draw_seed=0,
    hidden_format="bfloat16",
    layers=(0, 2, 3),
)
NOWHERE = np.zeros(0, np.int32)
POSITIONS = np.array([1, 4, 7, 11], np.int32)
ARRAYS = {
    "input_ids": np.arange(2 * T, dtype=np.int32).reshape(2, T),
    "position_ids": np.tile(np.arange(T, dtype=np.int32), (2, 1)),
    "top_k_positions": NOWHERE,
    "draw_positions": NOWHERE,
    "hidden_positions": NOWHERE,
    "layer_positions": POSITIONS,
    "targets": np.zeros((0, 0), np.int32),
    "sample_keys": np.zeros((0, 2), np.int64),
}


@pytest.fixture(scope="module")
def teacher() -> FrozenModel:
    return small_llama(V, D, num_layers=3)


@pytest.mark.parametrize("hidden_format", ["bfloat16", "float8"])
def test_states_of_layers_cross_the_wire(teacher: FrozenModel, hidden_format: HiddenFormat) -> None:
    wanted = WANTED.model_copy(update={"hidden_format": hidden_format})
    frames = codec.encode(Reply(request_id=0, forward_seconds=0.0), answer(teacher, ARRAYS, wanted))
    shape = ReplyShape(V, D, 0, 0, 0, num_at_layers=len(POSITIONS))
    most = most_reply_bytes(wanted, shape)
    assert most - HEADER_BYTES < codec.num_bytes(frames) <= most

    arrays = codec.decode([bytes(frame) for frame in frames], "peer")[1]
    received = read_reply(arrays, wanted, shape).layers
    assert received is not None
    with torch.no_grad():
        output = teacher.trunk(
            input_ids=torch.from_numpy(ARRAYS["input_ids"]).long(),
            position_ids=torch.from_numpy(ARRAYS["position_ids"]).long(),
            output_hidden_states=True,
            use_cache=False,
        )
        for row, layer in enumerate(wanted.layers):
            expected = output.hidden_states[layer].flatten(0, 1)[POSITIONS]
            found = received[row].float()
            if layer == 3:  # transformers keeps the last state only after the norm
                found = teacher.trunk.norm(found)
            rounding = 0.01 if hidden_format == "bfloat16" else 0.1
            torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)


def test_layers_that_a_teacher_lacks_and_wrong_shapes_are_refused(teacher: FrozenModel) -> None:
    with pytest.raises(ValueError, match=r"layers \[1, 4\] of a model that has 3 layers"):
        answer(teacher, ARRAYS, WANTED.model_copy(update={"layers": (1, 4)}))
    with pytest.raises(ValueError, match="not sent block by block"):
        answer(teacher, ARRAYS, WANTED.model_copy(update={"by_block": True}))
    reply = answer(teacher, ARRAYS, WANTED)
    with pytest.raises(ValueError, match="layer_states has shape"):
        read_reply(reply, WANTED, ReplyShape(V, D, 0, 0, 0, num_at_layers=3))
    damaged = {**reply, "layer_states": np.full_like(reply["layer_states"], 255)}
    with pytest.raises(ValueError, match="layer_states has values from nan"):
        read_reply(damaged, WANTED, ReplyShape(V, D, 0, 0, 0, num_at_layers=len(POSITIONS)))
