"""English text without a model: its sentences, and its words and numbers in one spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal


# Words that name nothing: they start sentences with a capital and occur in every document.
STOP_WORDS = frozenset(
    """
    a about above after again against all almost along already also although always am among an and another any
    anyone anything are around as at away back be became because been before behind being below between both but
    by can cannot could despite did do does done down during each earlier either else enough even ever every
    everyone everything except few for former from further get had has have having he hence her here hers herself
    him himself his how however i if in indeed instead into is it its itself just last late later latest least
    less like made make many may maybe me meanwhile might mine miss more most mostly mr mrs ms much must my myself
    near nearly neither never nevertheless next no nobody none nor not nothing now of off often on once one only
    onto or other others otherwise our ours out over own per perhaps please quite rather really said say says
    several shall she should since sir so some someone something sometimes soon still such than that the their
    theirs them themselves then there therefore these they this those though through throughout thus to today
    together told tomorrow too toward towards under unless unlike until up upon us very via was we well were what
    whatever when whenever where whereas whether which while who whoever whole whom whose why will with within
    without would yes yesterday yet you your yours
    """.split()
)

_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_CARDINALS = {word: value for value, word in enumerate(_UNITS + _TEENS, 1)}
_CARDINALS |= {word: 10 * tens for tens, word in enumerate(_TENS, 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_FACTORS = {"hundred": 100, "k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "tn": 10**12, **_SCALES}

_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-](?:{'|'.join(_UNITS)}))?|{'|'.join(_TEENS + _UNITS)})\b"
_HUNDREDS = rf"(?:{_BELOW_100}[\s-])?hundred\b(?:\s(?:and\s)?{_BELOW_100}(?!\shundred\b))?"
_DIGITS = r"(?<!\d[.,])\d+(?:,\d{3})*(?:\.\d+)?(?:k|mn?|bn|tn)?(?!\w|[.,]\d)"
_TOKEN = re.compile(
    rf"(?P<number>\b(?:{_DIGITS}|{_HUNDREDS}|{_BELOW_100}|(?:{'|'.join(_SCALES)})\b)(?:[\s-](?:{'|'.join(_SCALES)})\b)*)"
    r"|(?:[^\W\d_]\.){2,}|\d\w*|[^\W\d_]\w*(?:['’]\w+)*",
    re.IGNORECASE,
)
_NUMBER_PARTS = re.compile(r"[\d.,]*\d|[a-z]+")

# The look-behind lets a long run of spaces be read once, not from each of its spaces on.
_SENTENCE_END = re.compile(r"(?<=[.!?])([\"'”’)\]]*)\s+|()(?<!\s)\s*\n\s*")
_SENTENCE_START = re.compile(r"[\"'“‘(\[]*[^\W_]")
# Behind these a full stop ends no sentence: titles, initials, "U.S.".
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|prof|sen|rep|gov|gen|col|sgt|lt|capt|jr|sr|no|vs)|\b[^\W\d_])\.$", re.IGNORECASE
)
_LONGEST_ABBREVIATION = len("prof.")


def split_sentences(text: str) -> list[str]:
    """
    Splits English text at line breaks and behind `.`, `!` or `?`, unless a lowercase letter follows.

    Titles, initials and abbreviations such as `U.S.` end no sentence. In text without a capital, as much summarization
    data is, every other end mark does.

    Args:
        text (`str`): Any text.

    Returns:
        `list[str]`: the sentences in order, without white space around them; empty ones are left out.
    """
    return [text[start:end] for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence of [`split_sentences`] in `text`."""
    has_capitals = text != text.lower()
    bounds = [0]
    for mark in _SENTENCE_END.finditer(text):
        if "\n" not in mark.group():
            behind = _SENTENCE_START.match(text, mark.end())
            goes_on = has_capitals and behind is not None and behind.group()[-1].islower()
            if goes_on or _ABBREVIATION.search(text, max(mark.start() - _LONGEST_ABBREVIATION, 0), mark.start()):
                continue
        bounds += [mark.start() + len(mark[1] or ""), mark.end()]
    bounds.append(len(text))
    spans = []
    for start, end in zip(bounds[::2], bounds[1::2], strict=True):
        sentence = text[start:end]
        if sentence.strip():
            spans.append((start + len(sentence) - len(sentence.lstrip()), start + len(sentence.rstrip())))
    return spans


@dataclass(frozen=True)
class Token:
    """
    A word or a number of a text.

    Args:
        norm (`str`): Its one spelling: words case-folded, numbers as digits.
        start (`int`): Where it starts in the text.
        end (`int`): Where it ends.
        is_number (`bool`): Whether it is a number.
    """

    norm: str
    start: int
    end: int
    is_number: bool


def tokenize(text: str) -> list[Token]:
    """
    Words and numbers of a text, each in one spelling.

    Words are case-folded and lose a possessive `'s`; hyphens separate them, full stops in abbreviations are dropped
    (`U.K.` is `uk`; `US` and `U.S.` are `u.s.`, unlike the pronoun). A number is one token, however it is written:
    `1,000` and `thousand`, `£5m` and `5 million`, `twenty-five` and `25`, `two hundred and five` and `205`. Signs of
    currency and percent are left out. What is glued to digits otherwise (`21st`, `1990s`) is a word.

    Args:
        text (`str`): Any text.

    Returns:
        `list[Token]`: the tokens in order.
    """
    return [
        Token(_value(match.group()), match.start(), match.end(), True)
        if match["number"]
        else Token(_fold(match.group()), match.start(), match.end(), False)
        for match in _TOKEN.finditer(text)
    ]


def _fold(word: str) -> str:
    if word in ("US", "U.S."):
        return "u.s."
    return re.sub(r"['’]s$", "", word.casefold()).replace(".", "")


def _value(number: str) -> str:
    # Without case the pattern's "i" is matched by "ı" and "İ", too, which case-folding does not make an "i".
    number = number.casefold().replace("i\u0307", "i").replace("ı", "i")
    value: Decimal | None = None
    for part in _NUMBER_PARTS.findall(number):
        if part in _FACTORS:
            value = (Decimal(1) if value is None else value) * _FACTORS[part]
        elif part != "and":
            added = _CARDINALS[part] if part in _CARDINALS else part.replace(",", "")
            value = (value or 0) + Decimal(added)
    assert value is not None
    return f"{value.normalize():f}"
