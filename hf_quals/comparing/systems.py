"""What several systems wrote about the same documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from .rows import Source, check_text


@dataclass(frozen=True)
class Comparison:
    """
    What several systems wrote about one document.

    Args:
        document (`str`): The document.
        summaries (`tuple[str, ...]`): The summary of each system.
        places (`tuple[str, ...]`): Where they stand: `"quals.jsonl, line 3"`.
        reference (`str`, *optional*): The reference, if there is one.
    """

    document: str
    summaries: tuple[str, ...]
    places: tuple[str, ...]
    reference: str | None = None


def join_systems(first: Source, *others: Source, reference_column: str | None = None) -> list[Comparison]:
    """
    Joins systems' summaries by the text of their documents, in the order of the first.

    Args:
        first (`Source`): Documents and summaries of the first system.
        *others (`Source`): Those of the others, of the same documents in any order.
        reference_column (`str`, *optional*): The column of references in the files that have them.

    Raises:
        [`InputError`]: for a file without rows, a column that is missing or holds no text, a document that occurs
            twice, or if not all have the same documents; for references that differ, or that only some documents have.
    """
    systems = [_read(source, reference_column) for source in (first, *others)]
    for source, rows in zip(others, systems[1:], strict=True):
        _check_known(first, systems[0], source, rows)
        _check_known(source, rows, first, systems[0])
    comparisons = [_joined([rows[document] for rows in systems]) for document in systems[0]]
    without = [comparison for comparison in comparisons if comparison.reference is None]
    if 0 < len(without) < len(comparisons):
        raise InputError(
            f"{len(without)} of {len(comparisons)} documents have no {reference_column!r} (the first: "
            f"{without[0].places[0]}). Give all of them one, or none."
        )
    return comparisons


def system_names(known: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """
    The systems' names: as given, or those they are known by, which are their files' or columns'.

    Raises:
        [`InputError`]: if there are not as many as systems, or two are the same.
    """
    chosen = list(known if names is None else names)
    if len(chosen) != len(known):
        raise InputError(f"{len(known)} systems need as many `names`, got {len(chosen)}.")
    for number, name in enumerate(chosen):
        if not name.strip() or name in chosen[:number]:
            raise InputError(f"Each system needs a name of its own, got {', '.join(map(repr, chosen))}. Pass `names`.")
    return chosen


def _check_known(
    source: Source, rows: dict[str, Comparison], other: Source, other_rows: dict[str, Comparison]
) -> None:
    unknown = [row.places[0] for document, row in rows.items() if document not in other_rows]
    if unknown:
        raise InputError(
            f"{len(unknown)} of the {len(rows)} documents of {source.path} are not in the other file, {other.path} "
            f"(the first: {unknown[0]}). All must have the same documents, character by character."
        )


def _read(source: Source, reference_column: str | None) -> dict[str, Comparison]:
    """Of every document what one system wrote about it."""
    rows: dict[str, Comparison] = {}
    for place, row in source.rows():
        source.check_texts(place, row)
        document, summary = source.texts(row)
        if document in rows:
            raise InputError(f"{place}: the document of {rows[document].places[0]} again. Keep one row a document.")
        reference = None
        if reference_column in row:
            check_text(place, row, reference_column)
            reference = row[reference_column]
        rows[document] = Comparison(document, (summary,), (place,), reference)
    if not rows:
        raise InputError(f"{source.path}: no rows.")
    return rows


def _joined(of_systems: list[Comparison]) -> Comparison:
    """What each system wrote about one document, in one comparison with the reference that some of them have."""
    given = [row for row in of_systems if row.reference is not None]
    for row in given[1:]:
        if row.reference != given[0].reference:
            raise InputError(
                f"{row.places[0]}: another reference than that of {given[0].places[0]}. Keep one a document."
            )
    return Comparison(
        of_systems[0].document,
        tuple(row.summaries[0] for row in of_systems),
        tuple(row.places[0] for row in of_systems),
        given[0].reference if given else None,
    )
