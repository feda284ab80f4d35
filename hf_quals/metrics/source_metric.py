"""What the metrics share: their inputs and what is refused of them, blank predictions, and the form of results."""

from __future__ import annotations

import abc
import math
from typing import Any

import datasets
import evaluate

from ..files import nan_to_none
from ..scorers import Scorer, mean_score, score_written


FEATURES = datasets.Features({"predictions": datasets.Value("string"), "sources": datasets.Value("string")})


# Abstract, since evaluate takes the first concrete metric that it finds in a module's file.
class SourceMetric(evaluate.Metric, abc.ABC):
    """
    A metric that scores each prediction against the source it was made from.

    Subclasses have `_info`, with [`FEATURES`], and `_compute`, whose result comes from [`SourceMetric.judge`].
    """

    @abc.abstractmethod
    def _info(self) -> evaluate.MetricInfo: ...

    def add_batch(self, *, predictions=None, sources=None, **kwargs):
        """Add a batch of predictions and sources to the metric's stack."""
        # evaluate itself takes a string for a list of characters, and writes a number as a string.
        for name, texts in (("predictions", predictions), ("sources", sources)):
            if texts is None or isinstance(texts, str):
                raise ValueError(f"{name} must be a list of strings, got {type(texts).__name__}.")
            for row, text in enumerate(texts):
                if not isinstance(text, str):
                    raise ValueError(f"{name}, row {row}: expected a string, got {type(text).__name__}.")
        for row, source in enumerate(sources):
            if not source.strip():
                raise ValueError(f"sources, row {row}: the text is empty.")
        super().add_batch(predictions=predictions, sources=sources, **kwargs)

    def judge(
        self,
        scorer: Scorer,
        predictions: list[str],
        sources: list[str],
        *,
        batch_size: int = 8,
        return_details: bool = False,
    ) -> dict[str, Any]:
        """
        What `compute` returns: the mean over the scored predictions under the metric's name, `scores` with
        `None` for each unscored one, `num_unscored`, and `details` if asked for. A blank prediction, which summarizers
        write early in training, is left unscored, and its details are `None`. There is no NaN: `evaluate.save` writes
        it as it is, and JSON does not know it.
        """
        results: list[Any] = score_written(scorer, sources, predictions, batch_size=batch_size)
        scores = [math.nan if result is None else result.score for result in results]
        output = {self.name: mean_score(scores), "scores": scores, "num_unscored": sum(map(math.isnan, scores))}
        if return_details:
            output["details"] = [None if result is None else result.to_dict() for result in results]
        return nan_to_none(output)
