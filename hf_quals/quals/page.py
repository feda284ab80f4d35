"""Results as one HTML page that asks nothing of the network: why a summary is doubted, beside its document.

The page itself is `page.html`; here is what it is told.
"""

from __future__ import annotations

import functools
import html
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import nan_to_none
from ..text import STOP_WORDS, sentence_spans, tokenize
from .explain import remarks, what_it_says, worst_first
from .forms import Calibration
from .pairs import same_answer


if TYPE_CHECKING:
    from .scorer import QualsResult, ScoredPair

_PAGE = Path(__file__).with_name("page.html")
_PAIR_THRESHOLD = Calibration(1, 0).pair_threshold


def page(
    documents: Sequence[str | None],
    summaries: Sequence[str | None],
    results: Sequence[QualsResult | None],
    *,
    names: Sequence[str] | None = None,
) -> str:
    """
    Explains results on one HTML page, for a browser, a frame ([`iframe`]) or a file.

    It shows each summary with what its pairs ask about, tinted by the probability that the document takes away, the
    sentence of the document that speaks of it ([`supporting_sentence`]), and all pairs. With several summaries it
    starts with a list of them by score.

    Args:
        documents (`Sequence[str]`): The documents; `None` where the text is not at hand.
        summaries (`Sequence[str]`): As many summaries; `None` where the text is not at hand.
        results (`Sequence[QualsResult]`): What [`QualsScorer.score`] says of them; `None` for a blank one.
        names (`Sequence[str]`, *optional*): What each summary is called beside its score, such as its system.

    Returns:
        `str`: the page; texts in it are shown and not run.

    Raises:
        `ValueError`: if there are no summaries, or not as many of each.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from hf_quals import QualsScorer
    >>> from hf_quals.quals.page import page
    >>> results = QualsScorer.from_pretrained().score(documents, summaries)
    >>> Path("page.html").write_text(page(documents, summaries, results), encoding="utf-8")
    ```
    """
    if not results or not len(documents) == len(summaries) == len(results) == len(names or results):
        raise ValueError(
            f"Each result needs its document and summary, and there must be one: got {len(documents)} documents, "
            f"{len(summaries)} summaries, {len(results)} results"
            + (f" and {len(names)} names." if names is not None else ".")
        )
    number_of = {text: number for number, text in enumerate(dict.fromkeys(filter(None, documents)))}
    rows = zip(documents, summaries, results, names or itertools.repeat(None, len(results)), strict=True)
    data = {
        "documents": list(number_of),
        "summaries": [
            {"name": name, "document": number_of.get(document or ""), "summary": summary}
            | _explained(document, result)
            for document, summary, result, name in rows
        ],
    }
    # Without "<" no text can end the script element that holds it, or open a comment there.
    embedded = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return _PAGE.read_text(encoding="utf-8").replace("{{data}}", embedded, 1)


def iframe(page: str, height: int = 720) -> str:
    """A page as a frame for other HTML, such as a notebook: nothing of the one touches the other."""
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" title="QUALS" '
        f'style="width: 100%; height: {height}px; border: 0; border-radius: 12px"></iframe>'
    )


def supporting_sentence(
    document: str, pair: ScoredPair, passages: Sequence[tuple[int, int]] = ()
) -> tuple[int, int] | None:
    """
    The sentence of a document to read beside a pair.

    Of the sentences that hold the document's own answer it is the one that shares most words with the question. Where
    the document was not asked, or its answer stands in no sentence, it is the one that shares most words with question
    and answer. Words that name nothing do not count; of equals the first is taken.

    Args:
        document (`str`): The document.
        pair (`ScoredPair`): The pair.
        passages (`Sequence[tuple[int, int]]`, *optional*): Only sentences that these touch are chosen; all if left
            out.

    Returns:
        `tuple[int, int]`, *optional*: start and end of the sentence; `None` if no sentence qualifies.
    """
    read = [
        (span, words)
        for span, words in _sentences(document)
        if not passages or any(span[0] < end and start < span[1] for start, end in passages)
    ]
    if pair.document_answer is not None:
        holding = [part for part in read if same_answer(pair.document_answer, document[slice(*part[0])])]
        if holding:
            asked = _words(pair.question)
            return max(holding, key=lambda part: len(part[1] & asked))[0]
    wanted = _words(f"{pair.question} {pair.answer}")
    span, words = max(read, key=lambda part: len(part[1] & wanted), default=((0, 0), frozenset()))
    return span if words & wanted else None


# The pairs of a document come one behind the other.
@functools.lru_cache(maxsize=1)
def _sentences(document: str) -> list[tuple[tuple[int, int], frozenset[str]]]:
    return [((start, end), _words(document[start:end])) for start, end in sentence_spans(document)]


def _words(text: str) -> frozenset[str]:
    return frozenset(token.norm for token in tokenize(text)) - STOP_WORDS


def _explained(document: str | None, result: QualsResult | None) -> dict[str, Any]:
    says = f"QUALS: {what_it_says(result)}."
    if result is None:
        nothing: dict[str, Any] = {"score": None, "probability": None, "verdict": "no pairs", "pairs": []}
        return nothing | {"says": [says], "calibrated": False, "ofAnswers": True, "threshold": _PAIR_THRESHOLD}
    calibration = result.config.calibration
    return {
        "score": nan_to_none(result.score),
        "probability": result.probability,
        "verdict": result.verdict,
        "says": [says, *remarks(result)],
        "calibrated": calibration is not None,
        "ofAnswers": result.config.judges_answers,
        "threshold": _PAIR_THRESHOLD if calibration is None else calibration.pair_threshold,
        "pairs": [_pair(document, result, pair) for pair in worst_first(result)],
    }


def _pair(document: str | None, result: QualsResult, pair: ScoredPair) -> dict[str, Any]:
    return {
        "question": pair.question,
        "answer": pair.answer,
        "documentAnswer": pair.document_answer,
        "same": pair.document_answer is not None and same_answer(pair.answer, pair.document_answer),
        "span": pair.answer_span,
        "summary": math.exp(pair.summary_answer_log_prob),
        "document": math.exp(pair.document_answer_log_prob),
        "lost": pair.lost_probability,
        "score": pair.score,
        "blame": pair is result.pair_to_blame,
        "evidence": supporting_sentence(document, pair, result.passages) if document else None,
    }
