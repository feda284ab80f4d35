"""The table of judges and systems: its cells, and the table as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..files import as_cell, as_markdown, brief, markdown_table, nan_to_none
from .reports import write_files
from .statistics import bootstrap_interval, paired_test


@dataclass(frozen=True)
class Cell:
    """
    What a judge says about a system.

    Args:
        judge (`str`): The judge's score: `"QUALS"`, `"ROUGE-1"`, ….
        system (`str`): The system.
        mean (`float`, *optional*): Mean over the documents with a score.
        low (`float`, *optional*): Lower end of its 95 % interval ([`bootstrap_interval`]).
        high (`float`, *optional*): Upper end.
        unscored (`int`, *optional*): How many documents have no score.
        difference (`float`, *optional*): Mean difference to the first system over the documents that both have scores
            for.
        paired (`int`, *optional*): How many documents these are.
        p_value (`float`, *optional*): Of the difference ([`paired_test`]), not corrected for how many are made.
        error (`str`, *optional*): Why there is no score at all: the judge failed.
    """

    judge: str
    system: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    unscored: int | None = None
    difference: float | None = None
    paired: int | None = None
    p_value: float | None = None
    error: str | None = None


def make_cells(column: str, systems: Sequence[str], scores: np.ndarray) -> list[Cell]:
    """
    What a judge says about each system: a cell a system, of which all are compared with the first. `scores` are of
    shape `(documents, systems)`, NaN where there is none.
    """
    cells = []
    for number, system in enumerate(systems):
        of_system = scores[:, number]
        scored = of_system[~np.isnan(of_system)]
        low, high = bootstrap_interval(scored)
        compared: dict[str, Any] = {}
        if number:
            both = ~np.isnan(of_system) & ~np.isnan(scores[:, 0])
            difference, p_value = paired_test(of_system[both], scores[both, 0])
            compared = {
                "difference": nan_to_none(difference),
                "paired": int(both.sum()),
                "p_value": nan_to_none(p_value),
            }
        cells.append(
            Cell(
                column,
                system,
                mean=float(scored.mean()) if len(scored) else None,
                low=nan_to_none(low),
                high=nan_to_none(high),
                unscored=len(of_system) - len(scored),
                **compared,
            )
        )
    return cells


@dataclass(frozen=True)
class ScoreTable:
    """
    What judges say about systems.

    Args:
        systems (`tuple[str, ...]`): The systems; all others are compared with the first.
        num_documents (`int`): How many documents they summarized.
        settings (`dict[str, dict[str, str]]`): What each judge's scores depend on.
        truncated (`dict[str, int]`): For how many summaries each judge did not see the end of a text.
        cells (`tuple[Cell, ...]`): By judge, then by system.
    """

    systems: tuple[str, ...]
    num_documents: int
    settings: dict[str, dict[str, str]]
    truncated: dict[str, int]
    cells: tuple[Cell, ...]

    @property
    def errors(self) -> dict[str, str]:
        """Of each score whose judge failed, why."""
        return {cell.judge: cell.error for cell in self.cells if cell.error is not None}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """One line a cell. Names and errors that a spreadsheet would run have an apostrophe in front; numbers stay."""
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow([column.name for column in fields(Cell)])
        for cell in self.cells:
            writer.writerow(as_cell(value) if isinstance(value, str) else value for value in astuple(cell))
        return file.getvalue()

    def to_markdown(self) -> str:
        """The table as text to print, and as Markdown."""
        header = ["judge", "system", "mean", "95 % interval", "unscored"]
        if len(self.systems) > 1:
            header += [f"minus {self.systems[0]}", "p"]
        rows = [self._row(cell)[: len(header)] for cell in self.cells]
        return "\n".join([markdown_table(header, rows, num_left=2), "", *self._notes()]) + "\n"

    def _row(self, cell: Cell) -> list[str]:
        if cell.error is not None:
            return [cell.judge, cell.system, "failed", *["–"] * 4]
        row = [cell.judge, cell.system, _number(cell.mean)]
        row += [f"{_number(cell.low)} to {_number(cell.high)}" if cell.low is not None else "–", str(cell.unscored)]
        if cell.system == self.systems[0]:
            return [*row, "", ""]
        p_value = "< 0.001" if cell.p_value is not None and cell.p_value < 0.001 else _number(cell.p_value)
        return [*row, _number(cell.difference, "+"), p_value]

    def _notes(self) -> list[str]:
        notes = [f"- Documents: {self.num_documents}"]
        for name, settings in self.settings.items():
            facts = [f"{what} {brief(value)}" for what, value in settings.items()]
            if self.truncated.get(name):
                num_summaries = self.num_documents * len(self.systems)
                facts.append(f"end of a text not seen: {self.truncated[name]} of {num_summaries} summaries")
            notes += [f"- {as_markdown(f'{name}: ' + ', '.join(facts))}"] if facts else []
        return [*notes, *(f"- {as_markdown(f'{judge} failed: {error}')}" for judge, error in self.errors.items())]


def write_table(table: ScoreTable, output: Path) -> None:
    """Writes the table in the format of the file's suffix: `.md`, `.csv` or `.json`."""
    to_text = {".md": table.to_markdown, ".csv": table.to_csv, ".json": table.to_json}
    write_files({output: to_text[output.suffix.lower()]().encode()})


def _number(value: float | None, sign: str = "-") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"
