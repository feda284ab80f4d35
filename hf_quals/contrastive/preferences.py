"""S+ and S- as the preferences that TRL's trainers take: of a running training, or of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer

from ..errors import InputError
from ..qagen.template import QATemplate
from .losses import IGNORE_INDEX
from .refresh import STATE_NAME, RefreshState
from .rows import TextRows


def preferences(state: RefreshState, rows: TextRows) -> Dataset:
    """
    The triples of a refresh as columns `prompt`, `chosen` and `rejected`.

    They are the texts of the tokens that are trained on, and, prompt and summary tokenized together, give them back as
    far as the tokenizer gives back what it has decoded.
    """
    return Dataset.from_list(
        [
            _texts(rows, triple.document, negative)
            for triple, negative in zip(state.triples, state.negatives(), strict=True)
        ]
    )


def _texts(rows: TextRows, document: int, negative: Sequence[int]) -> dict[str, str]:
    tokenizer: Any = rows.tokenizer
    labels = torch.as_tensor(rows.dataset[document]["labels"])
    begin, end = QATemplate.special_tokens(tokenizer)
    prompt = rows[document].prompt.tolist()
    # What the tokenizer adds to every text is no part of it; a chat template's special tokens are.
    prompt = prompt[len(begin) :] if begin and prompt[: len(begin)] == begin else prompt
    prompt = prompt[: -len(end)] if end and prompt[-len(end) :] == end else prompt
    before = [] if rows.is_encoder_decoder else prompt
    special = set(tokenizer.all_special_ids)

    def text(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def completion(ids: Sequence[int]) -> str:
        # Behind its prompt, where it keeps the blank that it begins with.
        return text([*before, *(token for token in ids if token not in special)])[len(text(before)) :]

    written = completion(labels[labels != IGNORE_INDEX].tolist())
    return {"prompt": text(prompt), "chosen": written, "rejected": completion(negative)}


def load_preference_dataset(
    checkpoint: str | os.PathLike,
    dataset: Any,
    *,
    document_column: str | None = None,
    reference_column: str | None = None,
) -> Dataset:
    """
    S+ and S- of a checkpoint of contrastive training, as TRL's `prompt`, `chosen` and `rejected`.

    A checkpoint tells documents by their number in the training set, which has to be given with it.

    Args:
        checkpoint (`str` or `os.PathLike`): A folder `checkpoint-STEP` that was written with a [`QualsCallback`] and
            holds the tokenizer.
        dataset (`Dataset` or `Sequence`): The training set, with its columns `input_ids` and `labels`.
        document_column, reference_column (`str`, *optional*): Those of the [`QualsCallback`].

    Returns:
        `Dataset`: see [`QualsCallback.preference_dataset`].

    Raises:
        [`InputError`]: if the checkpoint has no state or no tokenizer, or the training set is not that of the
            checkpoint.

    Example:

    ```python
    >>> from hf_quals import load_preference_dataset
    >>> load_preference_dataset("results/checkpoint-24", train_dataset).to_json("preferences.jsonl")
    ```
    """
    path = Path(checkpoint, STATE_NAME)
    if not path.is_file():
        raise InputError(
            f"{checkpoint} holds no {STATE_NAME}: give a checkpoint that was written with a QualsCallback."
        )
    state = RefreshState.load(path)
    if len(dataset) != len(state.reference_scores):
        raise InputError(
            f"{path} was written for {len(state.reference_scores)} documents, the training set has {len(dataset)}: "
            "give the training set of that run."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise InputError(f"{checkpoint} holds no tokenizer: pass the trainer its processing_class. {error}") from error
    columns = {"document_column": document_column, "reference_column": reference_column}
    rows = TextRows(dataset, "training", tokenizer, is_encoder_decoder=True, **columns)
    rows[0]  # has all columns
    # Labels of a decoder-only model begin with what is ignored, the prompt.
    rows.is_encoder_decoder = list(dataset[0]["labels"][:1]) != [IGNORE_INDEX]
    if rows.digest() != state.settings["data"]:
        raise InputError(
            f"{path} was written for another training set, with other documents or references or in another order, or "
            "for other columns: give the training set of that run, and its `document_column` and `reference_column`."
        )
    return preferences(state, rows)
