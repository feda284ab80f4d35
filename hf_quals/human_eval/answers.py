"""What annotators hand back, files that the page saved or filled in spreadsheets, and the key that unblinds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..comparing.rows import Source, unique_keys
from ..errors import InputError
from .study import ANSWERS_KIND, CHOICES, COMMENT, CRITERIA, KEY_KIND


Choices = dict[int, dict[str, str]]
"""Item number, then criterion, to one of [`CHOICES`]; what is unanswered is not there."""


@dataclass(frozen=True)
class Key:
    """What unblinds a study: of every item number, whether A is the second system's summary."""

    study: str
    systems: tuple[str, str]
    swapped: dict[int, bool]

    def sides(self, item: int) -> tuple[str, str]:
        """The systems that wrote A and B of the item."""
        first, second = self.systems
        return (second, first) if self.swapped[item] else (first, second)

    def verdict(self, item: int, choice: str) -> int | None:
        """
        1 where the first system's summary of the item is better, -1 where it is worse, 0 where both are equal; `None`
        where the annotator cannot tell.
        """
        for_a = {"A": 1, "equal": 0, "B": -1}.get(choice)
        if for_a is None:
            return None
        return -for_a if self.swapped[item] else for_a


@dataclass(frozen=True)
class Answers:
    """One annotator's answers. The name is that given in the page; of a CSV file that of the file, without suffix."""

    annotator: str
    choices: Choices
    comments: dict[int, str] = field(default_factory=dict)

    @property
    def num_complete(self) -> int:
        """How many items have an answer to every criterion."""
        return sum(len(choices) == len(CRITERIA) for choices in self.choices.values())


def read_key(path: Path) -> Key:
    """
    Reads the `key.json` of a study.

    Raises:
        [`InputError`]: if the file is no key.
    """
    key = _read_json(path, KEY_KIND, {"study": str, "systems": list, "items": list})
    try:
        first, second = key["systems"]
        swapped = {item["item"]: {first: False, second: True}[item["A"]] for item in key["items"]}
        if first == second or not all(isinstance(name, str) for name in (first, second)):
            raise ValueError("two different names of systems are expected")
        if list(map(repr, swapped)) != [str(number) for number in range(1, len(key["items"]) + 1)]:
            raise ValueError("items must be numbered from 1 on")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: systems or items are damaged ({error!r}). Use the file as it was saved.") from error
    return Key(key["study"], (first, second), swapped)


def read_all_answers(paths: Sequence[Path], key: Key) -> list[Answers]:
    """
    Reads the answers of one study, a file an annotator.

    Raises:
        [`InputError`]: for a file that cannot be read or holds answers of another study, an unknown item, criterion or
            choice, or an item twice; and for two files of one annotator.
    """
    file_of: dict[str, Path] = {}
    everyone = []
    for path in paths:
        answers = _read_csv(path, key) if path.suffix.lower() == ".csv" else _read_page_answers(path, key)
        name = answers.annotator.casefold()
        if name in file_of:
            raise InputError(
                f"{path} and {file_of[name]} are both of {answers.annotator!r}. Pass one file an annotator; the "
                "annotator of a CSV file is its file name."
            )
        file_of[name] = path
        everyone.append(answers)
    return everyone


def _read_page_answers(path: Path, key: Key) -> Answers:
    page = _read_json(path, ANSWERS_KIND, {"study": str, "annotator": str, "answers": dict})
    _check_study(str(path), page["study"], key)
    choices: Choices = {}
    for number, answers in page["answers"].items():
        item = _item(f"{path}, item {number}", number, key)
        if item in choices:
            raise InputError(f"{path}: item {item} again, as {number!r}.")
        if not isinstance(answers, dict):
            raise InputError(
                f"{path}, item {number}: expected an answer to each criterion, got {json.dumps(answers)}. Use the "
                "file as it was saved; an item without answers is not in it."
            )
        for criterion in answers:
            if criterion not in CRITERIA:
                raise InputError(f"{path}, item {number}: no criterion {criterion!r}, expected {', '.join(CRITERIA)}.")
        choices[item] = {
            criterion: _choice(f"{path}, item {number}, {criterion}", choice) for criterion, choice in answers.items()
        }
    comments = page.get("comments", {})  # pages of earlier studies have none
    if not isinstance(comments, dict) or not all(isinstance(text, str) for text in comments.values()):
        raise InputError(f"{path}: 'comments' are damaged. Use the file as it was saved.")
    of_items = {_item(f"{path}, comments", number, key): text.strip() for number, text in comments.items()}
    return Answers(page["annotator"].strip(), choices, {item: text for item, text in of_items.items() if text})


def _read_csv(path: Path, key: Key) -> Answers:
    choices: Choices = {}
    comments = {}
    for place, row in Source(str(path), "document", "A").rows():
        missing = [column for column in ("study", "item", *CRITERIA) if column not in row]
        if missing:
            raise InputError(
                f"{place}: no column {missing[0]!r}. Expected the study.csv of the study, filled in and saved as CSV."
            )
        _check_study(place, row["study"], key)
        item = _item(place, row["item"], key)
        if item in choices:
            raise InputError(f"{place}: item {item} again.")
        cells = {criterion: row[criterion].strip() for criterion in CRITERIA}
        choices[item] = {
            criterion: _choice(f"{place}, column {criterion!r}", cell) for criterion, cell in cells.items() if cell
        }
        if comment := row.get(COMMENT, "").strip():
            comments[item] = comment
    return Answers(path.stem, choices, comments)


def _read_json(path: Path, kind: str, fields: dict[str, type]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
        json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair could not be written
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected the {kind}, a JSON file: {error}.") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        has = content.get("kind", "something else") if isinstance(content, dict) else "something else"
        raise InputError(f"{path}: expected the {kind}, got {has}.")
    for name, value_type in fields.items():
        value = content.get(name)
        if not isinstance(value, value_type) or (isinstance(value, str) and not value.strip()):
            raise InputError(f"{path}: {name!r} is missing or damaged. Use the file as it was saved.")
    return content


def _check_study(place: str, study: str, key: Key) -> None:
    if study != key.study:
        raise InputError(f"{place}: answers of the study {study!r}, but the key is of {key.study!r}.")


def _item(place: str, number: str, key: Key) -> int:
    # No study has so many digits of items, and Python refuses to read thousands.
    item = int(number) if number.isdecimal() and len(number) < 10 else 0
    if item not in key.swapped:
        raise InputError(f"{place}: the study has no item {number!r}, it has 1 to {len(key.swapped)}.")
    return item


def _choice(place: str, given: Any) -> str:
    for choice in CHOICES:
        if isinstance(given, str) and given.casefold() == choice.casefold():
            return choice
    raise InputError(f"{place}: expected {', '.join(CHOICES[:-1])} or {CHOICES[-1]}, got {given!r}.")
