"""What the dataloader sees: the user's training set, narrowed to the chosen triples, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from .losses import IGNORE_INDEX


NEGATIVE_LABELS = "negative_labels"


class ContrastiveDataset(torch.utils.data.Dataset):
    """
    A training set that shows its rows as they are until triples are set, and from then on the triples.

    A triple is a row of the training set with one more column, `negative_labels`: the tokens of its s-, with their
    end-of-sequence, without the prompt. Triples are replaced in place: a dataloader reads the new ones from its next
    iteration on. Worker processes copy the dataset when an iteration starts, so they must not outlive it
    (`dataloader_persistent_workers=False`).
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.rows: list[int] | None = None
        self.negatives: list[list[int]] = []

    def show_all(self) -> None:
        """Shows the whole training set again."""
        self.rows, self.negatives = None, []

    def set_triples(self, rows: Sequence[int], negatives: Sequence[Sequence[int]]) -> None:
        """
        Shows these rows of the training set from now on, and the tokens of the s- of each.

        Raises:
            `ValueError`: if the sequences differ in length, a row does not exist, or the number of triples is not that
                of the triples before: a schedule of steps depends on it.
        """
        if len(rows) != len(negatives):
            raise ValueError(f"Each row needs its negative: got {len(rows)} rows and {len(negatives)} negatives.")
        if any(not 0 <= row < len(self.dataset) for row in rows):
            raise ValueError(f"Rows must lie between 0 and {len(self.dataset) - 1}, got {max(rows, key=abs)}.")
        if self.rows is not None and len(rows) != len(self.rows):
            raise ValueError(f"The number of triples must stay {len(self.rows)}, got {len(rows)}.")
        self.rows, self.negatives = list(rows), [list(tokens) for tokens in negatives]

    def __len__(self) -> int:
        return len(self.dataset) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.rows is None:
            return self.dataset[index]
        return {**self.dataset[self.rows[index]], NEGATIVE_LABELS: self.negatives[index]}


@dataclass
class DataCollatorForContrastiveSeq2Seq:
    """
    Batches rows with any collator, such as [`~transformers.DataCollatorForSeq2Seq`], and adds the negatives.

    Rows without `negative_labels`, or with an empty one, have no s-. A batch in which no row has any is exactly the
    wrapped collator's.

    Args:
        data_collator (`Callable`): Batches everything but the negatives.
        pad_to_multiple_of (`int`, *optional*): Pads the negatives to a multiple of this length; to one of the wrapped
            collator's `pad_to_multiple_of` if left out.
    """

    data_collator: Callable[..., Any]
    pad_to_multiple_of: int | None = None

    @property
    def tokenizer(self) -> Any:
        """The wrapped collator's, which trainers without a `processing_class` save."""
        return self.data_collator.tokenizer  # type: ignore[attr-defined]

    def __call__(self, features: Sequence[Mapping[str, Any]], **kwargs: Any) -> Any:
        """
        Args:
            features (`Sequence[Mapping[str, Any]]`): Rows; `negative_labels` is a sequence of token ids or `None`.

        Returns:
            The wrapped collator's batch with `negative_labels` (`torch.LongTensor` of shape `(batch, tokens)`), -100
            where there is no token.
        """
        negatives = [feature.get(NEGATIVE_LABELS) for feature in features]
        rest = [{name: value for name, value in feature.items() if name != NEGATIVE_LABELS} for feature in features]
        batch = self.data_collator(rest, **kwargs)
        tokens = [torch.as_tensor([] if row is None else row, dtype=torch.long) for row in negatives]
        if any(len(row) for row in tokens):
            padded = pad_sequence(tokens, batch_first=True, padding_value=IGNORE_INDEX)
            multiple = self.pad_to_multiple_of or getattr(self.data_collator, "pad_to_multiple_of", None) or 1
            missing = -padded.shape[1] % multiple
            batch[NEGATIVE_LABELS] = torch.nn.functional.pad(padded, (0, missing), value=IGNORE_INDEX)
        return batch
