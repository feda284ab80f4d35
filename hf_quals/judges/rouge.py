"""ROUGE: how much of a reference's wording a summary has."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from statistics import fmean

from ..scorers import Scorer, check_texts
from .registry import register_judge


@functools.cache
def _rouge_score():
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise ImportError("ROUGE needs rouge_score: pip install 'hf-quals[benchmarks]'.") from error

    return rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def rouge(reference: str, summary: str) -> dict[str, float]:
    """F1 between 0 and 1 of `rouge1`, `rouge2` and `rougeL` ([`RougeResult`]), words stemmed."""
    return {name: score.fmeasure for name, score in _rouge_score().score(reference, summary).items()}


@dataclass(frozen=True)
class RougeResult:
    """
    ROUGE of one summary, F1 from 0 to 1.

    Args:
        rouge1 (`float`): Of words.
        rouge2 (`float`): Of pairs of neighbouring words.
        rougeL (`float`): Of the longest common subsequence.
    """

    rouge1: float
    rouge2: float
    rougeL: float

    @property
    def score(self) -> float:
        """The mean of the three."""
        return fmean((self.rouge1, self.rouge2, self.rougeL))

    def to_dict(self) -> dict[str, float]:
        """All of it as JSON's types."""
        return {"score": self.score, **asdict(self)}


class RougeScorer(Scorer):
    """
    Scores summaries by ROUGE against their references, words stemmed; documents are not read.

    The mean of ROUGE-1, ROUGE-2 and ROUGE-L is what https://huggingface.co/papers/2105.04623 compares QUALS with in
    choosing S+ and S-.

    Raises:
        `ImportError`: if rouge_score is not installed.

    Example:

    ```python
    >>> from hf_quals.judges.rouge import RougeScorer
    >>> document = "Lewis believes that Klitschko is hurt."
    >>> result = RougeScorer().score([document], ["He sat down."], references=["He sat."])[0]
    >>> round(result.rouge1, 2)
    0.8
    ```
    """

    name = "rouge"
    reads_references = True

    def __init__(self):
        _rouge_score()  # missed now, and not behind documents that are read for nothing

    def score(self, documents, summaries, *, references=None, batch_size=8) -> list[RougeResult]:
        if references is None:
            raise ValueError("ROUGE compares summaries with references. Pass references.")
        check_texts(documents, summaries, batch_size, references=references)
        return [RougeResult(**rouge(*texts)) for texts in zip(references, summaries, strict=True)]


@register_judge(
    "rouge",
    columns={"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"},
    needs="references",
    cost="fast: words are counted",
    reads_references=True,
)
def prepare():
    return {}, RougeScorer
