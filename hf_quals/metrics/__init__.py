"""Metrics for `evaluate.load`: one folder each, in the layout of a Hub Space, which is a copy of it."""

from __future__ import annotations

from pathlib import Path

from .texts import prediction_texts as prediction_texts


NAMES = ("entity_precision", "factcc", "qags", "quals")


def path(name: str) -> str:
    """
    Where the metric lies in the installed package, for `evaluate.load`.

    Args:
        name (`str`): `"entity_precision"`, `"factcc"`, `"qags"` or `"quals"`.

    Returns:
        `str`: the folder.

    Raises:
        `ValueError`: if there is no such metric.

    Example:

    ```python
    >>> import evaluate
    >>> from hf_quals import metrics
    >>> quals = evaluate.load(metrics.path("quals"))
    ```
    """
    if name not in NAMES:
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(NAMES)}.")
    return str(Path(__file__).parent / name)
