"""What judges other than QUALS say of a summary, part by part, as one HTML page: names, sentences, questions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..judges.entities import EntityResult
from ..judges.factcc import FactccResult
from ..judges.qags import QagsResult
from ..quals.explain import not_seen


_PAGE = Path(__file__).with_name("parts.html")
_LEAST = 0.5  # below it a part is marked


@dataclass(frozen=True)
class Part:
    """
    A part of a summary and what a judge makes of it.

    Args:
        text (`str`): The part, as the summary has it.
        support (`float`): How far the document supports it, from 0 to 1.
        row (`tuple[str, ...]`): What a table says of it.
    """

    text: str
    support: float
    row: tuple[str, ...]


def entity_page(documents: Sequence[str], summaries: Sequence[str], results: Sequence[EntityResult | None]) -> str:
    """The names and numbers of each summary: which of them its document knows."""

    def parts(result: EntityResult) -> list[Part]:
        return [Part(name, 0.0, (name, "no")) for name in result.unsupported] + [
            Part(name, 1.0, (name, "yes")) for name in result.supported
        ]

    return _page(
        summaries, results, ("name or number", "in the document"), parts, "No name or number was found in the summary."
    )


def factcc_page(documents: Sequence[str], summaries: Sequence[str], results: Sequence[FactccResult | None]) -> str:
    """The sentences of each summary: how probable the classifier finds that its document supports them."""

    def parts(result: FactccResult) -> list[Part]:
        scored = zip(result.sentences, result.probabilities, strict=True)
        return [Part(sentence, support, (sentence, f"{support:.2f}")) for sentence, support in scored]

    return _page(
        summaries,
        results,
        ("sentence", "probability that it is supported"),
        parts,
        "No sentence was found in the summary.",
    )


def qags_page(documents: Sequence[str], summaries: Sequence[str], results: Sequence[QagsResult | None]) -> str:
    """The questions asked about each summary: what it and its document answer, and how alike that is."""

    def parts(result: QagsResult) -> list[Part]:
        return [
            Part(
                asked.candidate,
                asked.f1,
                (asked.question, asked.summary_answer, asked.document_answer or "no answer", f"{asked.f1:.2f}"),
            )
            for asked in result.questions
        ]

    columns = ("question", "the summary says", "the document says", "alike (F1)")
    return _page(summaries, results, columns, parts, "No question could be asked about the summary.", not_seen)


def _page(
    summaries: Sequence[str],
    results: Sequence[Any],
    columns: tuple[str, ...],
    parts: Callable[[Any], list[Part]],
    without: str,
    notes: Callable[[Any], list[str]] = lambda _: [],
) -> str:
    """Of several summaries the lowest score first; what has none comes last."""

    def score(row: tuple[str, Any]) -> float:
        return math.inf if row[1] is None or math.isnan(row[1].score) else row[1].score

    articles = []
    for summary, result in sorted(zip(summaries, results, strict=True), key=score):
        if result is None:
            articles.append(_article("No score", ["The summary is blank."], ""))
        elif math.isnan(result.score):
            articles.append(_article("No score", [without, *notes(result)], _section("Summary", escape(summary))))
        else:
            of_summary = sorted(parts(result), key=lambda part: part.support)
            supported = sum(part.support >= _LEAST for part in of_summary)
            says = f"Of 0 to 1, higher is better. The document supports {supported} of {len(of_summary)}."
            content = _section("Summary", "".join(_marked(summary, of_summary))) + _table(columns, of_summary)
            articles.append(_article(f"{result.score:.2f}", [says, *notes(result)], content))
    return _PAGE.read_text(encoding="utf-8").replace("{{summaries}}", "\n".join(articles), 1)


def _article(heading: str, says: list[str], content: str) -> str:
    return f'<article><h1>{heading}</h1><p class="quiet">{" ".join(says)}</p>{content}</article>'


def _table(columns: tuple[str, ...], parts: list[Part]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    rows = (
        "".join(
            f'<td data-label="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(columns, part.row, strict=True)
        )
        for part in parts
    )
    body = "".join(f"<tr{_most(part)}>{row}</tr>" for part, row in zip(parts, rows, strict=True))
    return f"<section><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>"


def _section(heading: str, content: str) -> str:
    return f'<section><h2>{heading}</h2><p class="text" dir="auto">{content}</p></section>'


def _most(part: Part) -> str:
    return ' class="most"' if part.support < _LEAST else ""


def _marked(summary: str, parts: Sequence[Part]) -> Iterator[str]:
    """The summary as HTML, each part marked where it first stands; where parts meet, the least supported is."""
    taken: dict[int, tuple[int, Part]] = {}
    for part in parts:
        pattern = rf"(?<!\w){re.escape(part.text)}(?!\w)"
        for match in re.finditer(pattern, summary):
            if all(match.end() <= start or end <= match.start() for start, (end, _) in taken.items()):
                taken[match.start()] = match.end(), part
                break
    position = 0
    for start, (end, part) in sorted(taken.items(), key=lambda item: item[0]):
        yield escape(summary[position:start])
        yield f'<mark{_most(part)} style="--lost: {1 - part.support:.2f}">{escape(summary[start:end])}</mark>'
        position = end
    yield escape(summary[position:])
