"""A blinded study: which documents, whose summary stands on which side, and the three files that it is.

`study.html` and `study.csv` show the same items and are for the annotators; `key.json` says which system is which.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..comparing.reports import check_outputs, write_files
from ..comparing.systems import Comparison
from ..errors import InputError
from ..files import as_cell


CRITERIA = {
    "factual_consistency": "Which summary stays closer to the facts of the document?",
    "informativeness": "Which summary tells more of what matters in the document?",
    "grammar": "Which summary has fewer mistakes of grammar and spelling?",
}
CHOICES = ("A", "equal", "B", "cannot tell")
COMMENT = "comment"
KEY_KIND = "key of a human-eval study"
ANSWERS_KIND = "answers of a human-eval study"
MOST_ITEMS = 100  # where nobody asks for a number
CELL_LIMIT = 32_767  # characters in a cell of Excel and LibreOffice

_PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Item:
    """
    A comparison as an annotator sees it.

    `swapped` says whether A is the second system's summary.
    """

    comparison: Comparison
    swapped: bool

    def shown(self) -> dict[str, str]:
        """What an annotator may see."""
        a, b = reversed(self.comparison.summaries) if self.swapped else self.comparison.summaries
        return {"document": self.comparison.document, "A": a, "B": b}


@dataclass(frozen=True)
class Study:
    """Items in the order in which they are shown, counted from 1."""

    items: tuple[Item, ...]

    @functools.cached_property  # each row of the spreadsheet has it
    def id(self) -> str:
        """Digest of what is shown: answers of another study, or of other sides, do not have it."""
        shown = json.dumps([item.shown() for item in self.items])
        return hashlib.sha256(shown.encode()).hexdigest()[:16]

    def numbers(self, part: int = 1, num_parts: int = 1) -> range:
        """The numbers of the items in one of several parts, which have as many items each, or one more."""
        return range(part, len(self.items) + 1, num_parts)

    def page(self, part: int = 1, num_parts: int = 1) -> str:
        """The study, or a part of it, as one HTML page that needs no network."""
        study = {
            "id": self.id,
            "part": f"{part} of {num_parts}",
            "kind": ANSWERS_KIND,
            "criteria": [{"name": name, "question": question} for name, question in CRITERIA.items()],
            "items": [{"item": n, **self.items[n - 1].shown()} for n in self.numbers(part, num_parts)],
        }
        # Without "<" no text of a document can end the script element that holds it, or open a comment there.
        embedded = json.dumps(study, ensure_ascii=False).replace("<", "\\u003c")
        return _PAGE.read_text(encoding="utf-8").replace("{{study}}", embedded, 1)

    def table(self, part: int = 1, num_parts: int = 1) -> str:
        """The study, or a part of it, as CSV: a row an item, with empty columns for criteria and a comment."""
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(["study", "item", "document", "A", "B", *CRITERIA, COMMENT])
        for number in self.numbers(part, num_parts):
            texts = (as_cell(text) for text in self.items[number - 1].shown().values())
            writer.writerow([self.id, number, *texts, *[""] * (len(CRITERIA) + 1)])
        return file.getvalue()

    def key(self, systems: tuple[str, str]) -> dict[str, Any]:
        """Which system wrote A and which B of every item, and where the texts stand."""
        items = []
        for number, item in enumerate(self.items, start=1):
            a, b = reversed(systems) if item.swapped else systems
            items.append({"item": number, "A": a, "B": b, "places": list(item.comparison.places)})
        return {"kind": KEY_KIND, "study": self.id, "systems": list(systems), "items": items}

    @property
    def num_beyond_cells(self) -> int:
        """How many items have a text that a cell of a spreadsheet cannot hold."""
        return sum(any(len(text) > CELL_LIMIT for text in item.shown().values()) for item in self.items)


def differs(comparison: Comparison) -> bool:
    """Whether the summaries differ in more than white space, which an annotator could not see."""
    first, second = (summary.split() for summary in comparison.summaries)
    return first != second


def draw(comparisons: Sequence[Comparison], num_items: int | None = None, seed: int = 0) -> Study:
    """
    Draws the items of a study and the sides of their summaries at random.

    Each system is A in half of the items; of an odd number, chance decides which is A once more. Comparisons whose two
    summaries are the same are never drawn: they would say that the systems are equal, whatever the annotator thinks.

    Args:
        comparisons (`Sequence[Comparison]`): What both systems wrote.
        num_items (`int`, *optional*): How many to draw. Left out: 100, or all if there are fewer.
        seed (`int`, *optional*, defaults to 0): Of the draw, the order and the sides: the same gives the same study.

    Raises:
        [`InputError`]: if there are fewer comparisons of different summaries than `num_items`, or none, or a summary
            is blank.
    """
    for comparison in comparisons:
        for place, summary in zip(comparison.places, comparison.summaries, strict=True):
            if not summary.strip():
                raise InputError(f"{place}: the summary is blank, which nobody can compare. Leave its document out.")
    different = [comparison for comparison in comparisons if differs(comparison)]
    if num_items is None:
        num_items = max(1, min(MOST_ITEMS, len(different)))
    if len(different) < num_items:
        raise InputError(
            f"{num_items} items are needed, but of {len(comparisons)} documents only {len(different)} have two "
            f"different summaries. Pass a smaller `num_items`, or more documents."
        )
    rng = random.Random(seed)
    drawn = rng.sample(different, num_items)
    odd_one = rng.randrange(2)
    swapped = [(number + odd_one) % 2 == 1 for number in range(num_items)]
    rng.shuffle(swapped)
    return Study(tuple(map(Item, drawn, swapped)))


def write_study(
    study: Study,
    names: tuple[str, str],
    folder: Path,
    *,
    num_parts: int = 1,
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """
    Writes `study.html` and `study.csv` for the annotators, and `key.json`, which they must not see. In several parts,
    which annotators share out among them, `study-1.html`, `study-1.csv` and so on. Of an earlier study in the folder
    no part is left.

    The names are those of the systems, for the key. The folder is made if it does not exist.

    Raises:
        [`InputError`]: if the systems have the same name, if there are more parts than items, if a file is one of the
            `inputs`, or if one exists that may not be replaced.
    """
    if names[0] == names[1]:
        raise InputError(f"Both systems would be called {names[0]!r}. Pass two different `names`.")
    if num_parts > len(study.items):
        raise InputError(f"{len(study.items)} items cannot be split among {num_parts} `annotators`.")
    files: dict[Path, bytes] = {}
    for part in range(1, num_parts + 1):
        path = folder / ("study" if num_parts == 1 else f"study-{part}")
        files[path.with_suffix(".html")] = study.page(part, num_parts).encode()
        # Excel takes a file without the mark for Latin-1.
        files[path.with_suffix(".csv")] = study.table(part, num_parts).encode("utf-8-sig")
    files[folder / "key.json"] = json.dumps(study.key(names), indent=1, ensure_ascii=False).encode()
    # Of an earlier study, in other parts: nobody is to fill in what its key does not open any more.
    others = [path for path in folder.glob("study*") if re.fullmatch(r"study(-\d+)?\.(html|csv)", path.name)]
    others = [path for path in others if path not in files]
    check_outputs([*files, *others], inputs, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(files)
    for path in others:
        path.unlink()
