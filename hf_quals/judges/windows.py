"""Long documents for classifiers and readers of limited input: overlapping windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises [`InputError`] for a tokenizer that cannot cut windows: it must be one of the `tokenizers` library."""
    if not tokenizer.is_fast:
        raise InputError(f"{type(tokenizer).__name__} cannot cut windows. Load a checkpoint with a tokenizer.json.")


def encode_windows(
    tokenizer: PreTrainedTokenizerBase,
    first: Sequence[str],
    second: Sequence[str],
    *,
    cut: str,
    max_length: int,
    stride: int,
) -> tuple[list[dict[str, Any]], list[int]]:
    """
    Tokenizes pairs of texts; of a pair that is too long one text is cut into overlapping windows.

    `cut` is `"only_first"` or `"only_second"`, the text that is cut. A window has `max_length` tokens at most (fewer
    where the tokenizer's own limit is lower), the other text and special tokens included; neighbours share `stride`.

    Returns:
        `tuple[list[dict], list[int]]`: of each window its features, with `offset_mapping` and `sequence_ids`, and the
        index of its pair.

    Raises:
        [`InputError`]: if a text that is not to be cut leaves no room for the other.
    """
    if not first:
        return [], []
    limit = min(max_length, tokenizer.model_max_length)
    markers = tokenizer.num_special_tokens_to_add(pair=True)
    lengths = [
        [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
        for texts in (first, second)
    ]
    long, kept = lengths if cut == "only_first" else reversed(lengths)
    for row, (num_long, num_kept) in enumerate(zip(long, kept, strict=True)):
        room = limit - markers - num_kept
        if num_long > room <= stride:
            text = (second if cut == "only_first" else first)[row]
            raise InputError(
                f"A window of {limit} tokens has room for {max(room, 0)} beside the {num_kept} of {text[:80]!r}, and "
                f"needs more than the stride, {stride}. Pass a larger max_length or a smaller stride."
            )
    encoding = tokenizer(
        list(first),
        list(second),
        truncation=cut,
        max_length=limit,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    owners = encoding.pop("overflow_to_sample_mapping")
    windows = [
        {name: values[row] for name, values in encoding.items()} | {"sequence_ids": encoding.sequence_ids(row)}
        for row in range(len(owners))
    ]
    return windows, owners


def forward_windows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, windows: Sequence[dict[str, Any]], batch_size: int
) -> Iterator[Any]:
    """Yields the model's output for each batch of windows, which are padded on the right."""
    import torch

    for start in range(0, len(windows), batch_size):
        features = [
            {name: window[name] for name in tokenizer.model_input_names if name in window}
            for window in windows[start : start + batch_size]
        ]
        batch = tokenizer.pad(features, padding_side="right", return_tensors="pt").to(model.device)
        with torch.inference_mode():
            output = model(**batch)
        yield output
