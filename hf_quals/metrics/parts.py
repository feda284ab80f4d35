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

    return _page(summaries, results, ("name or number", "in the document"), parts, "no name or number was found in it")


def factcc_page(documents: Sequence[str], summaries: Sequence[str], results: Sequence[FactccResult | None]) -> str:
    """The sentences of each summary: how probable the classifier finds that its document supports them."""

    def parts(result: FactccResult) -> list[Part]:
        scored = zip(result.sentences, result.probabilities, strict=True)
        return [Part(sentence, support, (sentence, f"{support:.2f}")) for sentence, support in scored]

    return _page(
        summaries, results, ("sentence", "probability that it is supported"), parts, "no sentence was found in it"
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
    return _page(summaries, results, columns, parts, "no question could be asked about it")


def _page(
    summaries: Sequence[str],
    results: Sequence[Any],
    columns: tuple[str, ...],
    parts: Callable[[Any], list[Part]],
    without: str,
) -> str:
    """Of several summaries the lowest score first; what has none comes last."""

    def score(row: tuple[str, Any]) -> float:
        return math.inf if row[1] is None or math.isnan(row[1].score) else row[1].score

    articles = [
        _article(summary, None if result is None else result.score, parts(result) if result else [], columns, without)
        for summary, result in sorted(zip(summaries, results, strict=True), key=score)
    ]
    return _PAGE.read_text(encoding="utf-8").replace("{{summaries}}", "\n".join(articles), 1)


def _article(summary: str, score: float | None, parts: list[Part], columns: tuple[str, ...], without: str) -> str:
    parts = sorted(parts, key=lambda part: part.support)
    if score is None or math.isnan(score):
        says = "it is blank" if score is None else without
        says = f'<h1>No score</h1><p class="quiet">The summary: {says}.</p>'
        return f"<article>{says}{_section('Summary', escape(summary))}</article>"
    low = sum(part.support < _LEAST for part in parts)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f"<tr{_most(part)}>"
        + "".join(
            f'<td data-label="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(columns, part.row, strict=True)
        )
        + "</tr>"
        for part in parts
    )
    return (
        f"<article><h1>{score:.2f}</h1>"
        f'<p class="quiet">Of 0 to 1, higher is better. {low} of {len(parts)} stand out.</p>'
        f"{_section('Summary', ''.join(_marked(summary, parts)))}"
        f"<section><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section></article>"
    )


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
