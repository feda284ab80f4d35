"""Where a decoder-only model looks while it reads: how much of the attention of some heads rests on the text.

Heads that copy from a text, retrieval heads (https://huggingface.co/papers/2404.15574), look back to where a token
stands in it; what is not there they do not find, and they rest elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch


if TYPE_CHECKING:
    from transformers import PreTrainedModel

Head = tuple[int, int]
"""A layer and a head of it, counted from 0."""

one_at_a_time = threading.RLock()
"""Held while a model computes: how it computes attention is its state, which another thread must not meet half-way."""


class Lookback(NamedTuple):
    """
    Whose attention is wanted, and to what.

    Args:
        heads (`tuple[tuple[int, int], ...]`): Layers and heads.
        start (`int`): The first token of the text in its prompt.
        stop (`int`): The one behind its last. The last token of a prompt, which is read with what follows, counts for
            no text: templates end with words of their own.
    """

    heads: tuple[Head, ...]
    start: int
    stop: int


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """
    Computes attention so that its weights can be seen.

    Raises:
        `ValueError`: if the model cannot.
    """
    with one_at_a_time:
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        try:
            if model.config._attn_implementation != "eager":
                raise ValueError(f"{type(model).__name__} cannot show its attention: it cannot be set to 'eager'.")
            yield
        finally:
            model.set_attn_implementation(before)


def attention_share(attentions: Sequence[torch.Tensor], heads: Sequence[Head], columns: torch.Tensor) -> torch.Tensor:
    """
    The share of heads' attention that rests on some columns, mean over the heads.

    Args:
        attentions (`Sequence[torch.Tensor]`): Of each layer the weights, of shape `(rows, heads, queries, keys)`.
        heads (`Sequence[tuple[int, int]]`): Layers and heads.
        columns (`torch.BoolTensor` of shape `(rows, columns)`): Of the first keys those that count.

    Returns:
        `torch.Tensor` of shape `(rows, queries)`, in float32, in [0, 1].
    """
    width = columns.shape[1]
    shares = [(attentions[layer][:, head, :, :width].float() * columns[:, None]).sum(-1) for layer, head in heads]
    return torch.stack(shares).mean(0)
