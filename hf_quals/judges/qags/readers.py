"""Readers of QAGS that find answers in a text: SQuAD models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ...errors import InputError
from ..windows import check_fast, encode_windows, forward_windows


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Reader(Protocol):
    """Answers questions from texts."""

    def read(
        self, texts: Sequence[str], questions: Sequence[Sequence[str]], *, batch_size: int
    ) -> tuple[list[list[str]], list[bool]]:
        """
        Args:
            texts (`Sequence[str]`): What to answer from.
            questions (`Sequence[Sequence[str]]`): Of each text the questions, possibly none.
            batch_size (`int`): How many of a model's inputs are computed together.

        Returns:
            `tuple[list[list[str]], list[bool]]`: of each text its answers, `""` where it has none, and whether it was
            truncated.
        """


@dataclass
class ExtractiveReader:
    """
    A SQuAD reader: the most probable span of the text, or no answer where that is more probable.

    A long text is read in overlapping windows. As in SQuAD 2's baseline, a span's score is the sum of its start and
    end logits, the best of all windows counts, and the score of no answer is the lowest of any window's first token.

    Args:
        model (`PreTrainedModel`): An extractive question answering model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, a fast one.
        max_length (`int`, *optional*, defaults to 384): The most tokens of a window, the question included.
        stride (`int`, *optional*, defaults to 128): How many tokens neighbouring windows share.
        max_answer_length (`int`, *optional*, defaults to 30): The most tokens of an answer.

    Raises:
        [`InputError`]: if the tokenizer is not a fast one, or has no `cls_token`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int = 384
    stride: int = 128
    max_answer_length: int = 30

    def __post_init__(self):
        check_fast(self.tokenizer)
        if self.tokenizer.cls_token_id is None:
            raise InputError(
                f"{type(self.tokenizer).__name__} has no cls_token, on which a reader says that there is no answer. "
                "Name a reader of the BERT family."
            )

    def read(self, texts, questions, *, batch_size):
        asked = [(row, question) for row, part in enumerate(questions) for question in part]
        windows, owners = encode_windows(
            self.tokenizer,
            [question for _, question in asked],
            [texts[row] for row, _ in asked],
            cut="only_second",
            max_length=self.max_length,
            stride=self.stride,
        )
        best = [(-math.inf, "")] * len(asked)
        no_answer = [math.inf] * len(asked)
        pending = zip(windows, owners, strict=True)
        for output in forward_windows(self.model, self.tokenizer, windows, batch_size):
            for start_logits, end_logits in zip(output.start_logits.cpu(), output.end_logits.cpu(), strict=True):
                window, owner = next(pending)
                null = window["input_ids"].index(self.tokenizer.cls_token_id)
                null_score = float(start_logits[null].float() + end_logits[null].float())
                no_answer[owner] = min(no_answer[owner], null_score)
                context = [index for index, side in enumerate(window["sequence_ids"]) if side == 1]
                if context:
                    tokens = slice(context[0], context[-1] + 1)
                    score, start, end = best_span(start_logits[tokens], end_logits[tokens], self.max_answer_length)
                    offsets = window["offset_mapping"][tokens]
                    answer = texts[asked[owner][0]][offsets[start][0] : offsets[end][1]].strip()
                    best[owner] = max(best[owner], (score, answer), key=lambda scored: scored[0])
        answers: list[list[str]] = [[] for _ in texts]
        for (row, _), (score, answer), null_score in zip(asked, best, no_answer, strict=True):
            answers[row].append(answer if score > null_score else "")
        return answers, [False] * len(texts)


def best_span(start_logits: torch.Tensor, end_logits: torch.Tensor, max_length: int) -> tuple[float, int, int]:
    """
    The best answer of a window, from logits of shape `(length,)` of the same tokens to start and to end it.

    Returns:
        `tuple[float, int, int]`: the highest sum of a start and an end logit, and the indices of the two, the end not
        before the start and less than `max_length` behind it.
    """
    scores = start_logits.float()[:, None] + end_logits.float()[None, :]
    allowed = torch.ones_like(scores, dtype=torch.bool).triu().tril(max_length - 1)
    score, index = scores.masked_fill(~allowed, -math.inf).flatten().max(dim=0)
    start, end = divmod(int(index), len(scores))
    return float(score), start, end
