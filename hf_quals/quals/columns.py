"""The values of a result, named once: what `to_dict` holds, what a scored file holds, and their types in Parquet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..files import nan_to_none
from .pairs import PairSelection


if TYPE_CHECKING:
    from .scorer import QualsResult

_NUMBERS = pa.list_(pa.float64())
_COUNTS = tuple(count.name for count in fields(PairSelection) if count.name != "kept")

PAIR = pa.struct(
    {
        "question": pa.string(),
        "answer": pa.string(),
        "score": pa.float64(),
        "summary_score": pa.float64(),
        "document_score": pa.float64(),
        "support": pa.float64(),
        "lost_probability": pa.float64(),
        "document_answer": pa.string(),
        "tokens": pa.list_(pa.string()),
        "summary_log_probs": _NUMBERS,
        "document_log_probs": _NUMBERS,
        "answer_start": pa.int64(),
        "answer_span": pa.list_(pa.int64()),
    }
)
"""The values of a [`ScoredPair`], by the names of its attributes."""

RESULT = pa.schema(
    {
        "score": pa.float64(),
        "probability": pa.float64(),
        "verdict": pa.string(),
        "log_likelihood": pa.float64(),
        "document_attention": pa.float64(),
        **dict.fromkeys(_COUNTS, pa.int64()),
        "document_truncated": pa.bool_(),
        "summary_truncated": pa.bool_(),
        "num_pairs": pa.int64(),
        "pairs": pa.list_(PAIR),
    }
)
"""The values of a [`QualsResult`], by the names of its attributes and of its selection's counts."""

COLUMNS = {
    "quals": "score",
    "quals_probability": "probability",
    "quals_verdict": "verdict",
    "quals_log_likelihood": "log_likelihood",
    "quals_document_attention": "document_attention",
    "quals_num_pairs": "num_pairs",
    "quals_document_truncated": "document_truncated",
    "quals_summary_truncated": "summary_truncated",
    "quals_pairs": "pairs",
}
"""The columns of a scored file, in order, and the value of the result that each holds."""


_OF_A_BLANK_SUMMARY: dict[str, Any] = {
    "score": None,
    "probability": None,
    "verdict": "no pairs",
    "log_likelihood": None,
    "document_attention": None,
    "num_pairs": 0,
    "document_truncated": False,
    "summary_truncated": False,
    "pairs": [],
}


def score_schema(with_pairs: bool) -> pa.Schema:
    """The columns that a scored file has behind those of its input; that of the pairs only if wanted."""
    return pa.schema(
        [RESULT.field(value).with_name(column) for column, value in COLUMNS.items() if with_pairs or value != "pairs"]
    )


def score_row(result: QualsResult | None, schema: pa.Schema) -> dict[str, Any]:
    """The row of a scored file: a result's values, or `None`'s, under the names of the columns in `schema`."""
    values = _OF_A_BLANK_SUMMARY if result is None else result.to_dict()
    return {column: values[COLUMNS[column]] for column in schema.names}


def plain_values(item: Any, wanted: Iterable[pa.Field] = RESULT) -> dict[str, Any]:
    """Attributes of a result or a pair as JSON's types, those in `wanted`; a NaN becomes `None`."""
    return {
        field.name: _plain(getattr(item.selection if field.name in _COUNTS else item, field.name), field.type)
        for field in wanted
    }


def _plain(value: Any, arrow_type: pa.DataType) -> Any:
    if value is None:
        return None
    if isinstance(arrow_type, pa.ListType):
        return [_plain(element, arrow_type.value_type) for element in value]
    if isinstance(arrow_type, pa.StructType):
        return plain_values(value, arrow_type)
    return nan_to_none(value)


@dataclass
class Statistics:
    """
    Of all rows of a scored file.

    Args:
        num_rows (`int`): How many there are.
        num_unscored (`int`): How many have no score.
        total (`float`): The sum of the scores.
        num_true (`Counter[str]`): Of each column of booleans, in how many rows it is true.
        num_new (`int`): How many rows were scored by the run that ended the file.
        seconds (`float`): How long that took.
    """

    num_rows: int = 0
    num_unscored: int = 0
    total: float = 0.0
    num_true: Counter[str] = field(default_factory=Counter)
    num_new: int = 0
    seconds: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Counts a row of scores."""
        self.num_rows += 1
        self.num_unscored += row["quals"] is None
        self.total += row["quals"] or 0.0
        self.num_true.update(column for column, value in row.items() if value is True)

    @property
    def mean(self) -> float:
        """Mean over the rows that have a score; NaN if none has."""
        num_scored = self.num_rows - self.num_unscored
        return self.total / num_scored if num_scored else math.nan
