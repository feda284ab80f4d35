"""A result for people: what its score says, its pairs, the pair to blame; as text or as a table of the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.table import Table

    from .scorer import QualsResult, ScoredPair


def as_text(summary: str, result: QualsResult | None) -> str:
    """The score of a summary, its pairs with what the document makes of them, and the pair to blame."""
    lines = [heading(summary, result)]
    if result is not None and result.pairs:
        names = _columns(result)
        lines += ["", "  p(answer) given the" if result.config.judges_answers else "  mean log p given the"]
        lines.append("  " + "  ".join([*names, "pair"]))
        for pair in result.pairs:
            numbers = [f"{value:{len(name)}.2f}" for name, value in zip(names, _values(result, pair), strict=True)]
            lines.append("  " + "  ".join([*numbers, f"{pair.question} — {' '.join(_answers(result, pair))}"]))
    return "\n".join(lines)


def as_table(result: QualsResult) -> Table:
    """The pairs of a result as a table of rich, which breaks long questions and never cuts them."""
    from rich.table import Table
    from rich.text import Text

    shown = "p(answer | question)" if result.config.judges_answers else "mean log p of a pair"
    table = Table("question", "answer", caption=f"{shown} given the summary and given the document")
    for name in _columns(result):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in result.pairs:
        numbers = (f"{value:.2f}" for value in _values(result, pair))
        style = "bold red" if pair is result.pair_to_blame else None
        # Text: what a model wrote is no markup of rich.
        table.add_row(Text(pair.question), Text("\n".join(_answers(result, pair))), *numbers, style=style)
    return table


def heading(summary: str, result: QualsResult | None) -> str:
    """The summary, its score and what it says or why there is none, and what the model did not see."""
    return "\n".join([f"Summary: {summary}", f"QUALS:   {what_it_says(result)}", *remarks(result)])


def what_it_says(result: QualsResult | None) -> str:
    """The score and what it says, or why there is none; `None` is the result of a blank summary."""
    if result is None:
        return "none: the summary is blank"
    if not result.pairs:
        counts = result.selection
        if not counts.num_generated:  # of a scored file, which does not hold them
            return "none: no pair was kept"
        return (
            f"none: of {counts.num_generated} generated sequences {counts.num_unparsable} are no pair, "
            f"{counts.num_not_in_summary} have an answer that is not in the summary"
            + (f", {counts.num_ill_formed} an ill-formed question" if counts.num_ill_formed else "")
            + (f", {counts.num_not_returned} an answer that does not come back" if counts.num_not_returned else "")
        )
    says = f"{result.score:.3f} from {result.num_pairs} pairs"
    if result.probability is not None:
        says += f": {result.verdict} (people would call it consistent with probability {result.probability:.2f})"
        if result.pair_to_blame is None:
            says += "; nothing stands out"
    return says


def remarks(result: QualsResult | None) -> list[str]:
    """The parts of the score, where it has several, and the sentences of [`not_seen`]."""
    if result is None or not result.pairs or len(parts := result.parts) == 1:
        return not_seen(result)
    shown = [f"pairs {parts['pairs']:.2f}"]
    if "likelihood" in parts:
        mean = f"mean log p of the summary's tokens given the document: {result.log_likelihood:.2f}"
        shown.append(f"likelihood {parts['likelihood']:.2f} ({mean})")
    if "attention" in parts:
        share = f"share on the document, where it is lowest: {result.document_attention:.2f}"
        shown.append(f"attention {parts['attention']:.2f} ({share})")
    return ["Parts:   " + "; ".join(shown), *not_seen(result)]


def not_seen(result: QualsResult | None) -> list[str]:
    """A sentence for each text whose end the model did not see."""
    if result is None:
        return []
    texts = {"document": result.document_truncated, "summary": result.summary_truncated}
    return [
        f"The {name} was cut to the model's context; what it says behind that was not seen."
        for name, truncated in texts.items()
        if truncated
    ]


def worst_first(result: QualsResult) -> list[ScoredPair]:
    """The pairs, the one to look at first first: see [`QualsResult.worst_pair`]."""
    if result.config.judges_answers:
        return sorted(result.pairs, key=lambda pair: -pair.lost_probability)
    return sorted(result.pairs, key=lambda pair: pair.score)


def _columns(result: QualsResult) -> tuple[str, ...]:
    return ("summary", "document") if result.config.judges_answers else ("summary", "document", "difference")


def _values(result: QualsResult, pair: ScoredPair) -> tuple[float, ...]:
    if result.config.judges_answers:
        return math.exp(pair.summary_answer_log_prob), math.exp(pair.document_answer_log_prob)
    return pair.summary_score, pair.document_score, pair.score


def _answers(result: QualsResult, pair: ScoredPair) -> list[str]:
    parts = [pair.answer]
    if pair.document_answer is not None and pair.document_answer != pair.answer:
        parts.append(f"(document: {pair.document_answer})")
    return [*parts, " <- to blame"] if pair is result.pair_to_blame else parts
