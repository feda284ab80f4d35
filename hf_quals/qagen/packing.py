"""Several continuations of one prompt in one row: computed together, and none sees another.

Training, scoring and contrastive training all read many continuations of one text. Behind the prompt (in the same row,
or kept in a cache) stand the continuations one after the other; the mask hides them from each other, and the positions
are those each would have alone. So the prompt is computed once, and every result is that of a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Continuation(NamedTuple):
    """
    Tokens that follow a prompt.

    Args:
        tokens (`Sequence[int]`): The tokens. The first is the last token read before: its output predicts the second.
        start (`int`): The position of the first token, counted from the beginning of the prompt.
        behind (`int`, *optional*): The number of an earlier continuation of the row that this one branches off: it
            sees what stands there before `start`, too.
    """

    tokens: Sequence[int]
    start: int
    behind: int | None = None


class PackedContinuations(NamedTuple):
    """
    Rows of continuations, without their prompts.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, columns)`): The tokens, padded on the right.
        position_ids (`torch.LongTensor` of shape `(batch, columns)`): Their positions.
        visible (`torch.BoolTensor` of shape `(batch, columns, columns)`): Which column (last axis) each sees.
        spans (`list[list[slice]]`): The columns of each continuation of each row.
        numbers (`torch.LongTensor` of shape `(batch, columns)`): The continuation of each column, -1 for padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    visible: torch.Tensor
    spans: list[list[slice]]
    numbers: torch.Tensor

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`input_ids`, `position_ids` and `numbers`, as branches are extended by."""
        return self.input_ids.to(device), self.position_ids.to(device), self.numbers.to(device)


def pack_continuations(
    rows: Sequence[Sequence[Continuation]], pad_token_id: int, multiple_of: int = 1
) -> PackedContinuations:
    """
    Lays the continuations of each prompt side by side.

    Args:
        rows (`Sequence[Sequence[Continuation]]`): The continuations of each of `batch` prompts.
        pad_token_id (`int`): What fills the gaps.
        multiple_of (`int`, *optional*, defaults to 1): The number of columns is a multiple of it. Few distinct shapes
            matter on CPUs, where each new shape of a matrix product is compiled first.

    Returns:
        `PackedContinuations`: tokens, positions and who sees whom.
    """
    columns = round_up(max(sum(len(continuation.tokens) for continuation in row) for row in rows), multiple_of)
    input_ids = torch.full((len(rows), columns), pad_token_id)
    position_ids = torch.zeros((len(rows), columns), dtype=torch.long)
    numbers = torch.full((len(rows), columns), -1)
    # Padding sees itself: a row of attention without a single key would be NaN.
    visible = torch.eye(columns, dtype=torch.bool).repeat(len(rows), 1, 1)
    spans: list[list[slice]] = []
    for b, row in enumerate(rows):
        of_row: list[slice] = []
        first = 0
        for continuation in row:
            last = first + len(continuation.tokens)
            span = slice(first, last)
            input_ids[b, span] = torch.tensor(continuation.tokens, dtype=torch.long)
            position_ids[b, span] = torch.arange(len(continuation.tokens)) + continuation.start
            numbers[b, span] = len(of_row)
            visible[b, span, span] = torch.ones(last - first, last - first, dtype=torch.bool).tril()
            start, behind = continuation.start, continuation.behind
            while behind is not None:
                trunk = of_row[behind]
                visible[b, span, trunk.start : trunk.start + start - row[behind].start] = True
                start, behind = row[behind].start, row[behind].behind
            of_row.append(span)
            first = last
        spans.append(of_row)
    return PackedContinuations(input_ids, position_ids, visible, spans, numbers)


def mask_behind_prompts(prompt_mask: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """
    Who sees whom where continuations stand behind left-padded prompts and are computed with them.

    Args:
        prompt_mask (`torch.Tensor` of shape `(batch, prompt_columns)`): 0 where a prompt is padded.
        visible (`torch.BoolTensor` of shape `(batch, columns, columns)`): Who sees whom among the continuations.

    Returns:
        `torch.BoolTensor` of shape `(batch, 1, prompt_columns + columns, prompt_columns + columns)`.
    """
    batch, num_prompt = prompt_mask.shape
    is_token = prompt_mask.bool()
    index = torch.arange(num_prompt, device=is_token.device)
    causal = (is_token[:, None, :] & (index[:, None] >= index)) | (index[:, None] == index)
    blind = torch.zeros(batch, num_prompt, visible.shape[2], dtype=torch.bool, device=is_token.device)
    behind = torch.cat([is_token[:, None, :].expand(-1, visible.shape[1], -1), visible], dim=-1)
    return torch.cat([torch.cat([causal, blind], dim=-1), behind], dim=1)[:, None]


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as numbers added to attention scores, which eager attention and SDPA both take."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def round_up(number: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple
