"""One normal form of text, so that a score compares facts and not ways of writing them.

A model that has read "£1m" thinks little of "£ 1 m"; curly quotes, no-break spaces, decomposed accents and the spaces
of a tokenizer cost more than a wrong name. All texts take this form before they are tokenized or searched; results
speak of the user's own text, to which [`NormalText`] keeps the way back.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import ftfy


@dataclass(frozen=True)
class NormalText:
    """
    A text in normal form, and where each of its characters comes from.

    Args:
        text (`str`): The normal form.
        original (`str`): The text it was made of.
        origins (`tuple[tuple[int, int], ...]`, *optional*): For each character of `text` the span of `original` it
            stands for: one character, or the whole word where normalizing changed the word's length. Left out where
            the text stays as it is.
    """

    text: str
    original: str
    origins: tuple[tuple[int, int], ...] | None = None

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """The span of `original` that `text[start:end]` (not empty) stands for."""
        return (start, end) if self.origins is None else (self.origins[start][0], self.origins[end - 1][1])

    def normal_start(self, start: int) -> int:
        """Where in `text` the character at `start` of `original` is found (what follows it, if it has no trace)."""
        if self.origins is None:
            return start
        return next((i for i, (_, end) in enumerate(self.origins) if end > start), len(self.text))


def normalize(text: str) -> NormalText:
    """
    Brings a text into normal form: NFKC (but powers, indices and fractions stay), straight quotes, hyphens for their
    look-alikes, single spaces, mended encodings, and the spaces of Penn Treebank's tokenization undone (`£ 1 m`,
    `2 - 1`, `Lewis 's`, `( x )`).

    Args:
        text (`str`): Any text.

    Returns:
        `NormalText`: the normal form, which is its own normal form.
    """
    normal = _one_pass(text)
    # What stands together now may be normalized further (two single quotes are a double one).
    for _ in range(_MOST_PASSES):
        again = _one_pass(normal.text)
        if again.text == normal.text:
            break
        origins = tuple(normal.original_span(start, end) for start, end in again.origins or ())
        normal = NormalText(again.text, text, origins)
    return normal


def _one_pass(text: str) -> NormalText:
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    words = [_normal_word(text[start:end]) for start, end in spans]
    kept = [(word, span) for word, span in zip(words, spans, strict=True) if word]
    words, spans = [word for word, _ in kept], [span for _, span in kept]
    joints = _joints(words)
    characters: list[str] = []
    origins: list[tuple[int, int]] = []
    for number, (word, (start, end)) in enumerate(zip(words, spans, strict=True)):
        if number and not joints[number - 1]:
            characters.append(" ")
            origins.append((spans[number - 1][1], start))
        characters.extend(word)
        if len(word) == end - start:
            origins.extend((start + i, start + i + 1) for i in range(len(word)))
        else:
            origins.extend([(start, end)] * len(word))
    return NormalText("".join(characters), text, tuple(origins))


# NFKC would write x² and 2½ as x2 and 21⁄2, which are other facts.
_NOT_DECOMPOSED = ("<super>", "<sub>", "<fraction>")
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_LOOK_ALIKES = {ord(dash): "-" for dash in "\u2010\u2011\u2012\u2013\u2212"} | {ord("\u00b4"): "'", ord("\u2032"): "'"}
_MOST_PASSES = 8
_TREEBANK = {"``": '"', "''": '"', "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}


@functools.lru_cache(maxsize=1 << 16)
def _normal_word(word: str) -> str:
    # What one pass mends may show the next one more to mend.
    for _ in range(_MOST_PASSES):
        before, word = word, _mended(word)
        if word == before:
            break
    return _TREEBANK.get(word, word)


def _mended(word: str) -> str:
    if word.isascii() and "&" not in word:
        return word
    word = ftfy.fix_text(word, normalization="NFC", uncurl_quotes=True).translate(_LOOK_ALIKES | _INVISIBLE)
    runs = ("".join(run) if keeps else unicodedata.normalize("NFKC", "".join(run)) for keeps, run in _runs(word))
    return "".join("".join(runs).split())


def _runs(word: str) -> Iterator[tuple[bool, Iterator[str]]]:
    return itertools.groupby(word, lambda char: unicodedata.decomposition(char).startswith(_NOT_DECOMPOSED))


_CLOSES = re.compile(r"[,.;:!?%)\]}]+|\.\.\.|'(s|re|ve|ll|d|m|S)|n't")
_OPENS = re.compile(r"[(\[{]|[A-Z]{0,3}[$£€¥]")
_NUMBER = re.compile(r"[$£€¥]?\d[\d.,]*")
_NUMBER_WORD = re.compile(r"(?i)one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|\d[\d.,]*|.*\d")
_TOKENIZED = re.compile(r"(^|\s)(,|'s|n't|\)|\d\S* - \w+)(\s|$)")


def _joints(words: list[str]) -> list[bool]:
    """Whether word `n` and word `n + 1` belong together, for `n` from 0 to `len(words) - 2`."""
    joints = [False] * max(len(words) - 1, 0)

    def join(left: bool, number: int, right: bool) -> None:
        if left and number:
            joints[number - 1] = True
        if right and number < len(joints):
            joints[number] = True

    text = " ".join(words)
    hyphens_stand_apart = bool(_TOKENIZED.search(text)) and not re.search(r"\w-\w", text)
    double_quotes, single_quotes = 0, words.count("'")
    single_open = False
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        after = words[number + 1] if number + 1 < len(words) else ""
        if _CLOSES.fullmatch(word):
            inside_number = word in {",", ".", ":"} and _is_one_number(before, word, after)
            join(True, number, inside_number)
        elif _OPENS.fullmatch(word):
            join(False, number, True)
        elif word == '"':
            join(double_quotes % 2 == 1, number, double_quotes % 2 == 0)
        elif word == "'":
            possessive = before.endswith("s") and not single_open and single_quotes % 2 == 1
            join(possessive or single_open, number, not (possessive or single_open))
            single_quotes -= 1
            single_open = not possessive and not single_open
        elif word == "-" and before[-1:].isalnum() and after[:1].isalnum():
            follows_hyphen = number >= 2 and joints[number - 2] and words[number - 2] == "-"
            together = hyphens_stand_apart or follows_hyphen or bool(_NUMBER_WORD.fullmatch(before))
            join(together, number, together)
        elif word in {"m", "bn", "k", "tn"} and _is_money(words, number):
            join(True, number, False)
        double_quotes += word.count('"')
    return joints


def _is_one_number(before: str, mark: str, after: str) -> bool:
    if mark == ",":  # of thousands
        return bool(re.search(r"(^|\D)\d{1,3}$", before) and re.match(r"\d{3}(?!\d)", after))
    return before[-1:].isdigit() and after[:1].isdigit()


def _is_money(words: list[str], number: int) -> bool:
    amount = words[number - 1] if number else ""
    symbol = words[number - 2] if number >= 2 else ""
    return bool(_NUMBER.fullmatch(amount)) and (amount[0] in "$£€¥" or bool(re.fullmatch(r"[A-Z]{0,3}[$£€¥]", symbol)))
