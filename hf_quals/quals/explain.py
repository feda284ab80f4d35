"""A result for people: its score, its pairs, and the pair to blame, as text or as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.table import Table

    from .scorer import QualsResult

_BLAME = "<- to blame"


def as_text(summary: str, result: QualsResult) -> str:
    """The score of a summary, every pair with its two scores, and the pair to blame."""
    lines = [heading(summary, result)]
    if result.pairs:
        lines.append("\n  mean log p given the")
        lines.append("  summary  document  difference  pair")
    for pair in result.pairs:
        blame = f"  {_BLAME}" if pair is result.worst_pair else ""
        lines.append(
            f"  {pair.summary_score:7.2f}  {pair.document_score:8.2f}  {pair.score:10.2f}  "
            f"{pair.question} — {pair.answer}{blame}"
        )
    return "\n".join(lines)


def as_table(result: QualsResult) -> Table:
    """The pairs of a result as a table of rich, which breaks long questions and never cuts them."""
    from rich.table import Table
    from rich.text import Text

    table = Table("question", "answer", caption="mean log p of a pair given the summary and given the document")
    for name in ("summary", "document", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in result.pairs:
        blamed = pair is result.worst_pair
        scores = (f"{value:.2f}" for value in (pair.summary_score, pair.document_score, pair.score))
        answer = f"{pair.answer}\n{_BLAME}" if blamed else pair.answer
        # Text: what a model wrote is no markup of rich.
        table.add_row(Text(pair.question), Text(answer), *scores, style="bold red" if blamed else None)
    return table


def heading(summary: str, result: QualsResult) -> str:
    """The summary, its score or why it has none, and what the model did not see."""
    lines = [f"Summary: {summary}", f"QUALS:   {result.score:.3f} from {result.num_pairs} pairs"]
    if not result.pairs:
        lines[1] = (
            f"QUALS:   none: of {result.num_generated} generated sequences {result.num_unparsable} are no pair, "
            f"{result.num_not_in_summary} have an answer that is not in the summary"
        )
    for name, truncated in (("document", result.document_truncated), ("summary", result.summary_truncated)):
        if truncated:
            lines.append(f"The {name} was cut to the model's context; what it says behind that was not seen.")
    return "\n".join(lines)
