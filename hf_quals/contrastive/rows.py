"""What is sampled from and scored: the prompts, documents and references of a tokenized data set."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers.trainer_utils import has_length

from ..errors import InputError
from .forward import prompt_length


class TextRow(NamedTuple):
    """
    A row as a sampler and a scorer see it.

    The prompt is what the model reads, of shape `(tokens,)` and without padding: the document's tokens
    (encoder–decoder) or the prompt's (decoder-only).
    """

    prompt: torch.Tensor
    document: str
    reference: str


class TextRows:
    """
    The rows of a tokenized data set, each read when it is asked for.

    `input_ids` are the document alone (encoder–decoder), or prompt and summary; they and `labels` are decoded where no
    column holds the text. Messages call the set by its name.

    Raises:
        `ValueError`: if rows cannot be read by their number, or there is none; and, when it is read, for a row without
            document or reference.
    """

    def __init__(
        self,
        dataset: Any,
        name: str,
        tokenizer: Any,
        *,
        is_encoder_decoder: bool,
        document_column: str | None = None,
        reference_column: str | None = None,
    ):
        if not has_rows(dataset):
            raise InputError(
                f"Sampling reads single rows of the {name} set: it must have a length, indices and a row at least, "
                f"and {type(dataset).__name__} has not."
            )
        self.dataset, self.name, self.tokenizer = dataset, name, tokenizer
        self.is_encoder_decoder = is_encoder_decoder
        self.document_column, self.reference_column = document_column, reference_column

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> TextRow:
        row = self.dataset[index]
        for column in ("input_ids", "labels", *filter(None, (self.document_column, self.reference_column))):
            if column not in row:
                raise InputError(
                    f"Row {index} of the {self.name} set has no column {column!r}; it has {', '.join(sorted(row))}."
                )
        ids, labels = torch.as_tensor(row["input_ids"]), torch.as_tensor(row["labels"])
        is_token = torch.as_tensor(row.get("attention_mask", torch.ones_like(ids))).bool()
        prompt = ids[is_token]
        if not self.is_encoder_decoder:
            if len(labels) != len(ids):
                raise InputError(
                    f"Row {index} of the {self.name} set has {len(ids)} input_ids and {len(labels)} labels: for a "
                    "decoder-only model both hold prompt and summary, and labels are -100 on the prompt."
                )
            try:
                prompt = prompt[: prompt_length(labels[is_token])]
            except ValueError as error:
                raise InputError(f"Row {index} of the {self.name} set: {error}") from error
        document = self._text(row, index, self.document_column, "input_ids", prompt)
        reference = self._text(row, index, self.reference_column, "labels", labels[labels >= 0])
        return TextRow(prompt, document, reference)

    def _text(self, row: dict[str, Any], index: int, column: str | None, decoded: str, ids: torch.Tensor) -> str:
        text = row[column] if column else decode(self.tokenizer, ids.tolist())
        if not len(ids) or not isinstance(text, str) or not text.strip():
            raise InputError(
                f"Row {index} of the {self.name} set has no text in column {column or decoded!r}, got {text!r}: "
                "leave out rows without document or reference."
            )
        return text

    def digest(self, *, show_progress_bar: bool = False) -> str:
        """Reads all rows and returns a digest of them: what was sampled for other rows is not gone on with."""
        digest = hashlib.sha256()
        for index in tqdm(range(len(self)), desc=f"Checking the {self.name} set", disable=not show_progress_bar):
            prompt, *texts = self[index]
            digest.update(repr([prompt.tolist(), texts]).encode())
        return digest.hexdigest()


def has_rows(dataset: Any) -> bool:
    """Whether rows can be read by their number, and there is one."""
    return not isinstance(dataset, torch.utils.data.IterableDataset) and has_length(dataset) and len(dataset) > 0


def decode(tokenizer: Any, ids: list[int]) -> str:
    """The text of tokens, without special tokens and blanks around."""
    return tokenizer.decode(ids, skip_special_tokens=True).strip()
