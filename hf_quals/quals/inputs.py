"""What every score of summaries against documents refuses."""

from __future__ import annotations

from collections.abc import Sequence


def check_texts(documents: Sequence[str], summaries: Sequence[str], batch_size: int = 1) -> None:
    """
    Refuses what is not a list of documents and as many summaries.

    Args:
        documents (`Sequence[str]`): The documents.
        summaries (`Sequence[str]`): The summaries.
        batch_size (`int`, *optional*, defaults to 1): How many are to be computed together.

    Raises:
        `ValueError`: if the lists differ in length, or a text is not a string or empty; the message names the row. Or
            if `batch_size` is less than 1.
    """
    if isinstance(documents, str) or isinstance(summaries, str):
        raise ValueError("documents and summaries are lists of strings; got a single string.")
    if len(documents) != len(summaries):
        raise ValueError(
            f"Each summary needs its document: got {len(documents)} documents and {len(summaries)} summaries."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    for name, texts in (("document", documents), ("summary", summaries)):
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"Row {row}: the {name} must be a string, got {type(text).__name__}.")
            if not text.strip():
                raise ValueError(f"Row {row}: the {name} is empty.")
