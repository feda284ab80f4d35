"""The reader of QAGS that is a QAGen: behind a text and a question it goes on with the answer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from ...qagen.model import QAGenModel


@dataclass
class QAGenReader:
    """
    A decoder-only QAGen that answers: behind a text and a question it goes on with the answer.

    The text is computed once for all its questions. QAGen always answers; an answer that does not occur in the text
    counts as none.

    Args:
        model (`QAGenModel`): A decoder-only model whose template has the question before the answer.
        max_new_tokens (`int`, *optional*, defaults to 30): The most tokens of an answer.
        max_length (`int`, *optional*, defaults to 1024): The most tokens of a text with its markers.

    Raises:
        `ValueError`: if the model is an encoder–decoder or writes the answer first.
    """

    model: QAGenModel
    max_new_tokens: int = 30
    max_length: int = 1024

    def __post_init__(self):
        if self.model.is_encoder_decoder or not self._answer_is_last:
            raise ValueError(
                "Only a decoder-only QAGen that writes the question before the answer can be asked a question. Pass "
                "another reader, for example an ExtractiveReader."
            )

    @property
    def _answer_is_last(self) -> bool:
        return self.model.template.pair.endswith("{answer}")

    @torch.inference_mode()
    def read(self, texts, questions, *, batch_size):
        encoded = self.model.encode(texts, self.max_length)
        answers: list[list[str]] = []
        for text, context, asked in zip(texts, encoded, questions, strict=True):
            found = self._continue(context.input_ids, asked, batch_size) if asked else []
            answers.append([answer if answer.casefold() in text.casefold() else "" for answer in found])
        return answers, [context.truncated for context in encoded]

    def _continue(self, context: list[int], questions: Sequence[str], batch_size: int) -> list[str]:
        model, tokenizer = self.model.model, self.model.tokenizer
        before_answer = self.model.template.pair.removesuffix("{answer}").rstrip(" ")
        asked = [
            tokenizer(before_answer.replace("{question}", question), add_special_tokens=False)["input_ids"]
            for question in questions
        ]
        context_ids, context_mask = self.model._pad([context], left=True)
        shared = DynamicCache()
        model(
            input_ids=context_ids,
            attention_mask=context_mask,
            position_ids=(context_mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=shared,
            logits_to_keep=1,
        )
        answers: list[list[int]] = []
        for start in range(0, len(asked), batch_size):
            question_ids, question_mask = self.model._pad(asked[start : start + batch_size], left=True)
            rows = len(question_ids)
            cache = copy.deepcopy(shared)
            cache.batch_repeat_interleave(rows)
            answers += self._greedy(question_ids, torch.cat([context_mask.expand(rows, -1), question_mask], 1), cache)
        return [answer.strip() for answer in tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def _greedy(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: DynamicCache) -> list[list[int]]:
        """
        The most probable token again and again, until each row ends.

        Not by `generate`: most answers are short, and there all rows are computed until the longest one ends.
        """
        device = input_ids.device
        ends = torch.tensor(self.model._eos_token_ids, device=device)
        # As an index and not as a number: the last position comes out contiguous, without which torch's matrix product
        # with the vocabulary copies all its weights for each row.
        last = torch.tensor([-1], device=device)
        answers: list[list[int]] = [[] for _ in input_ids]
        rows = torch.arange(len(input_ids), device=device)
        running = torch.ones_like(rows, dtype=torch.bool)
        for _ in range(self.max_new_tokens):
            positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            tokens = (
                self.model.model(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    position_ids=positions,
                    past_key_values=cache,
                    logits_to_keep=last,
                )
                .logits[:, -1]
                .argmax(-1)
            )
            running &= ~torch.isin(tokens, ends)
            for row, token in zip(rows[running].tolist(), tokens[running].tolist(), strict=True):
                answers[row].append(token)
            if not running.any():
                break
            if 2 * running.sum() <= len(rows):
                # By halves: to select rows copies the cache.
                kept = running.nonzero().squeeze(-1)
                cache.batch_select_indices(kept)
                rows, running, tokens, attention_mask = rows[kept], running[kept], tokens[kept], attention_mask[kept]
            input_ids = tokens[:, None]
            attention_mask = torch.nn.functional.pad(attention_mask, (0, 1), value=1)
        return answers
