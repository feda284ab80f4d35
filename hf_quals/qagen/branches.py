"""Branches behind a prompt: what a decoder-only model reads and writes in many ways behind one text.

Scoring, answering and beam search all go on behind a text many times. Its keys and values are computed once and never
copied: whatever follows is appended to the row of its text with the number of its branch, and a token sees the text
and its own branch, at the positions it would have in a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import DynamicCache

from .packing import additive_mask, round_up


if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers._typing import GenerativePreTrainedModel

# Columns are computed in multiples of this: on CPUs every new shape has its matrix products compiled anew and kept.
WIDTH = 8
# The branch of padding: nobody else sees it.
NO_BRANCH = -1


class Start(NamedTuple):
    """
    Where a branch goes on.

    Args:
        branch (`int`): Its number.
        tokens (`list[int]`): What it has written; the last of them is to be read next.
        position (`int`): The position of this last one.
        max_tokens (`int`): How many there may be.
    """

    branch: int
    tokens: list[int]
    position: int
    max_tokens: int


class Branches:
    """
    A prompt a row, and behind it branches that do not see each other.

    Args:
        model (`PreTrainedModel`): A decoder-only model that computes packed rows as separate ones
            ([`~hf_quals.qagen.proof.packable_length`]).
        input_ids (`torch.LongTensor` of shape `(rows, columns)`): The prompts, padded on the left.
        attention_mask (`torch.LongTensor` of shape `(rows, columns)`): 0 where they are padded.

    Attributes:
        lengths (`torch.LongTensor` of shape `(rows,)`): The tokens of each prompt: the position of what comes next.
        prompt_logits (`torch.Tensor` of shape `(rows, 1, vocabulary)`): What follows the prompts; empty with them.
    """

    def __init__(
        self, model: PreTrainedModel | GenerativePreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ):
        self.model = model
        self.prompt_mask = attention_mask.bool()
        self.lengths = attention_mask.sum(-1)
        # Without a configuration every layer keeps all it has seen.
        self._cache = DynamicCache()
        # The branch of each column behind the prompts, (rows, columns).
        self._branches = input_ids.new_zeros(len(input_ids), 0)
        self.prompt_logits = torch.empty(len(input_ids), 0, device=input_ids.device)
        if columns := input_ids.shape[1]:
            self.prompt_logits = model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
                past_key_values=self._cache,
                # An index and not a number: a slice is not contiguous, and its product copies the vocabulary's matrix.
                logits_to_keep=torch.tensor([columns - 1], device=input_ids.device),
            ).logits

    @property
    def columns(self) -> int:
        """How many columns stand behind the prompts."""
        return self._branches.shape[1]

    def extend(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, branches: torch.Tensor, **options: Any
    ) -> Any:
        """
        Appends tokens to branches, of each branch in their order.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, new)`): The tokens.
            position_ids (`torch.LongTensor` of shape `(rows, new)`): Their positions, counted from the prompt's first.
            branches (`torch.LongTensor` of shape `(rows, new)`): The branch of each; `NO_BRANCH` for padding.
            options: Passed to the model.

        Returns:
            `CausalLMOutputWithPast`: the model's, with `logits` of shape `(rows, new, vocabulary)` of what follows
            each.
        """
        self._branches = torch.cat([self._branches, branches], dim=1)
        columns = torch.arange(self.columns, device=branches.device)
        is_own = branches[:, :, None] == self._branches[:, None, :]  # (rows, new, columns)
        is_own &= columns <= columns[-branches.shape[1] :, None]
        prompt = self.prompt_mask[:, None, :].expand(-1, branches.shape[1], -1)
        mask = torch.cat([prompt, is_own], dim=-1)[:, None]
        return self.model(
            input_ids=input_ids,
            attention_mask=additive_mask(mask, self.model.dtype),
            position_ids=position_ids,
            past_key_values=self._cache,
            **options,
        )

    def leave(self, row: int, columns: slice) -> None:
        """Takes columns behind a prompt out of their branch, which goes on without them."""
        self._branches[row, columns] = NO_BRANCH

    def clear(self) -> None:
        """Forgets all branches; the prompts stay."""
        if self.columns:
            self._cache.crop(-self.columns)
            self._branches = self._branches[:, :0]

    def keep(self, rows: torch.Tensor) -> bool:
        """
        Lets go of all prompts but `rows`, of shape `(kept,)`, if these are half of them or fewer: it copies the cache.

        Returns:
            `bool`: whether it did, so that the rows now are those of `rows`, in their order.
        """
        if 2 * len(rows) > len(self.lengths):
            return False
        self._cache.batch_select_indices(rows)
        self.prompt_mask, self.prompt_logits, self.lengths, self._branches = (
            tensor[rows] for tensor in (self.prompt_mask, self.prompt_logits, self.lengths, self._branches)
        )
        return True

    def write(self, starts: Sequence[Sequence[Start]], ends: set[int], *, let_go: bool) -> None:
        """
        The most probable token again and again, until each branch ends.

        Args:
            starts (`Sequence[Sequence[Start]]`): The branches of each row that go on; their `tokens` grow.
            ends (`set[int]`): The tokens that end a branch; they are not written.
            let_go (`bool`): Whether prompts whose branches have ended are not needed any more ([`~Branches.keep`]).
        """
        # Of each branch its start, and the position of the token that is read next.
        running = [[(start, start.position) for start in row] for row in starts]
        while any(running):
            unfinished = [b for b, row in enumerate(running) if row]
            if let_go and self.keep(torch.tensor(unfinished, device=self.lengths.device)):
                running = [running[b] for b in unfinished]
            width = round_up(max(map(len, running)), WIDTH)
            # Any token will do in padding, which nobody sees.
            columns = torch.tensor([[0, 0, NO_BRANCH]]).repeat(len(running), width, 1)
            for b, row in enumerate(running):
                for column, (start, position) in enumerate(row):
                    columns[b, column] = torch.tensor([start.tokens[-1], position, start.branch])
            best = self.extend(*columns.to(self.lengths.device).unbind(-1)).logits.argmax(-1).tolist()
            for b, row in enumerate(running):
                running[b] = []
                for (start, position), token in zip(row, best[b], strict=False):
                    if token in ends:
                        continue
                    start.tokens.append(token)
                    if len(start.tokens) < start.max_tokens:
                        running[b].append((start, position + 1))
