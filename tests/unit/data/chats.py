"""Chat templates, random conversations, and the batches that become of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dskd_ds.data.batches import IGNORE, Batch, Sample, make_batch
from dskd_ds.data.blocks import end_of_text_id
from dskd_ds.data.chat import PLAIN_TEMPLATE, ChatFormat, render_rows
from dskd_ds.data.packing import one_per_row, pack
from dskd_ds.data.tally import Tally

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
ENDS = {CHATML: "<|im_end|>", MARKED: "</s>", PLAIN_TEMPLATE: "<|endoftext|>"}
"""Template -> how a turn ends."""

END_ID = 0
"""The tiny tokenizer's end of text."""

contents = (
    st.text(st.sampled_from("ab \n.,é漢🙂"), min_size=1, max_size=12).map(str.strip).filter(bool)
)
conversations = st.lists(st.tuples(contents, contents), min_size=1, max_size=3)
"""(question, answer) pairs."""


def messages_of(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def as_batch(
    tokenizer: Any,
    template: str,
    rows: dict[str, list[Any]],
    only_completions: bool = True,
    block_tokens: int | None = 1024,
    tally: Tally | None = None,
) -> Batch:
    """Return the batch of all blocks that a source with these rows becomes; None: of its rows."""
    tally = tally or Tally("test")
    documents = render_rows(rows, ChatFormat(tokenizer, template), None, only_completions, tally)
    arrange = one_per_row if block_tokens is None else pack
    columns = arrange(documents, tokenizer, block_tokens, end_of_text_id(tokenizer), tally)
    num_blocks = len(columns["input_ids"])
    blocks = [{name: values[i] for name, values in columns.items()} for i in range(num_blocks)]
    return make_batch(blocks, [Sample(0, i) for i in range(num_blocks)])


def supervised_text(tokenizer: Any, batch: Batch) -> str:
    return str(tokenizer.decode(batch.targets[batch.targets != IGNORE]))
