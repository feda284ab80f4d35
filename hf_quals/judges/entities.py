"""Names and numbers of a summary, and how many of them its document knows.

Names are found by spaCy where its English model is installed, else by rules that need nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..files import nan_to_none
from ..scorers import Scorer, check_texts
from ..text import STOP_WORDS, Token, sentence_spans, tokenize
from .registry import register_judge


SPACY_MODEL = "en_core_web_sm"
RULES = "rules"

# spaCy's labels of numbers and dates; numbers are found by `tokenize`, whoever finds the names.
_NUMERIC_LABELS = {"CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"}
_DETERMINERS = frozenset(
    ["a", "an", "the", "this", "these", "those", "his", "her", "its", "their", "our", "my", "your", "another"]
)
# What may stand between the words of one name.
_INSIDE_NAME = re.compile(r" |-|\. |'| ?& ?| (?:of|of the|de|de la|del|van|van der|von|bin) ")
_VERB_ENDING = re.compile(r"(?:ed|ing)$")
_CONTRACTION = re.compile(r"(?:n['’]t|['’]\w+)$")
# The most words of a noun phrase behind its determiner or number: what follows is likely a verb.
_PHRASE_WORDS = 3


class EntityFinder(Protocol):
    """Finds what a text talks about."""

    @property
    def name(self) -> str:
        """Which finder it is, for results: `"rules"`, or a spaCy model."""

    def names(self, text: str) -> list[str]:
        """The named entities that are no numbers or dates, as written, in order, repetitions included."""

    def noun_phrases(self, text: str) -> list[str]:
        """The noun phrases with their determiners, as written, in order, repetitions included."""


@dataclass(frozen=True)
class SpacyFinder:
    """
    Named entities and noun phrases of a spaCy pipeline.

    Args:
        name (`str`): An installed spaCy model or a folder of one.

    Raises:
        `ImportError`: if spaCy is not installed.
        `OSError`: if the model is neither installed nor a folder.
    """

    name: str = SPACY_MODEL

    def __post_init__(self):
        _spacy_pipeline(self.name)

    def names(self, text: str) -> list[str]:
        doc = _spacy_pipeline(self.name)(text)
        return [entity.text for entity in doc.ents if entity.label_ not in _NUMERIC_LABELS]

    def noun_phrases(self, text: str) -> list[str]:
        doc = _spacy_pipeline(self.name)(text)
        # Without a parser spaCy knows no noun phrases, and says so only where they are asked for.
        return [chunk.text for chunk in doc.noun_chunks] if doc.has_annotation("DEP") else []


@functools.cache
def _spacy_pipeline(name: str):
    try:
        import spacy
    except ImportError as error:
        raise ImportError(f"The entity finder {name!r} needs spaCy: pip install 'hf-quals[judges]'.") from error
    try:
        return spacy.load(name)
    except OSError as error:
        raise OSError(
            f"{name!r} is neither an installed spaCy model nor a folder of one. Install it (`python -m spacy download "
            f"{SPACY_MODEL}`), or pass {RULES!r} for names found by rules."
        ) from error


@dataclass(frozen=True)
class RuleFinder:
    """
    Names by their capitals, noun phrases by their determiners: no model, English only.

    A name is a run of capitalised words with nothing between them but a space, a hyphen, `&` or particles such as
    `of`. The word that starts a sentence or a quotation belongs to it unless it is a function word, and is no name by
    itself if the text has it in lowercase elsewhere. Text without capitals has no names.

    A noun phrase is a determiner or a number and the up to three words behind it that are no function words; it ends
    before a second word in `-ed` or `-ing`.
    """

    name: str = RULES

    def names(self, text: str) -> list[str]:
        tokens = tokenize(text)
        starts = _starts(text, tokens)
        lowercase = {token.norm for token in tokens if text[token.start].islower()}
        names = []
        for run in _capitalised_runs(text, tokens, starts):
            starts_sentence = run[0].start in starts
            first = 0
            while first < len(run) and (
                run[first].norm in _DETERMINERS or (starts_sentence and _is_function_word(run[first]))
            ):
                first += 1
            run = run[first:]
            if run and not (starts_sentence and len(run) == 1 and run[0].norm in lowercase):
                names.append(re.sub(r"['’]s$", "", text[run[0].start : run[-1].end]))
        return names

    def noun_phrases(self, text: str) -> list[str]:
        tokens = tokenize(text)
        starts = _starts(text, tokens)
        phrases: list[str] = []
        end = 0
        for number, token in enumerate(tokens):
            if token.start < end or not (token.is_number or token.norm in _DETERMINERS):
                continue
            words = [token]
            for word in tokens[number + 1 : number + 1 + _PHRASE_WORDS]:
                joined = text[words[-1].end : word.start] in (" ", "-") and word.start not in starts
                verb = len(words) > 1 and _VERB_ENDING.search(word.norm)
                if not joined or verb or _is_function_word(word):
                    break
                words.append(word)
            if len(words) > 1:
                end = words[-1].end
                phrases.append(text[token.start : end])
        return phrases


def _starts(text: str, tokens: Sequence[Token]) -> set[int]:
    """Where sentences and quotations start."""
    sentences = iter(sentence_spans(text))
    _, sentence_end = next(sentences, (0, 0))
    starts = set()
    is_first = True
    for token in tokens:
        while token.start >= sentence_end:
            _, sentence_end = next(sentences)
            is_first = True
        if is_first or text[max(token.start - 1, 0)] in '"“‘':
            starts.add(token.start)
        is_first = False
    return starts


def _capitalised_runs(text: str, tokens: Sequence[Token], starts: set[int]) -> list[list[Token]]:
    runs: list[list[Token]] = []
    for token in tokens:
        if token.is_number or not text[token.start].isupper() or _CONTRACTION.sub("", token.norm) == "i":
            continue
        gap = text[runs[-1][-1].end : token.start] if runs else ""
        possessive = runs and text.endswith(("'s", "’s"), 0, runs[-1][-1].end)
        if _INSIDE_NAME.fullmatch(gap) and token.start not in starts and not possessive:
            runs[-1].append(token)
        else:
            runs.append([token])
    return runs


def _is_function_word(token: Token) -> bool:
    return _CONTRACTION.sub("", token.norm) in STOP_WORDS


def load_finder(name: str | None = None) -> EntityFinder:
    """
    The finder of a name.

    Args:
        name (`str`, *optional*): `"rules"`, or a spaCy model, installed or in a folder. Left out: spaCy's
            `en_core_web_sm` where it is installed, else `"rules"`.

    Raises:
        `ImportError`: if a spaCy model is named and spaCy is not installed.
        `OSError`: if the named model is neither installed nor a folder.
    """
    if name is None:
        installed = all(importlib.util.find_spec(package) for package in ("spacy", SPACY_MODEL))
        name = SPACY_MODEL if installed else RULES
    return RuleFinder() if name == RULES else SpacyFinder(name)


def numbers(text: str) -> list[str]:
    """The numbers of a text as written, in order, repetitions included; not the word `one`, which seldom counts."""
    written = [text[token.start : token.end] for token in tokenize(text) if token.is_number]
    return [number for number in written if number.casefold() != "one"]


@dataclass(frozen=True)
class EntityResult:
    """
    Entity precision of one summary, and all it rests on.

    Args:
        score (`float`): Share of the summary's names and numbers that occur in the document; NaN if it has none.
        supported (`tuple[str, ...]`): Those that occur, as the summary writes them.
        unsupported (`tuple[str, ...]`): Those that do not.
        finder (`str`): What found the names: `"rules"` or a spaCy model.
    """

    score: float
    supported: tuple[str, ...]
    unsupported: tuple[str, ...]
    finder: str

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON's types; a score that is NaN becomes `None`."""
        return nan_to_none(vars(self))


@dataclass
class EntityScorer(Scorer):
    """
    Entity precision, `prec_s` of "Entity-level Factual Consistency of Abstractive Text Summarization"
    (https://huggingface.co/papers/2102.09130): the share of a summary's entities that its document knows.

    As published, case does not count, and a name of several words is known as soon as the document has one of them
    that is no function word: `Obama` supports `Barack Obama`. Words are compared whole. Beyond the paper, numbers
    count too, in any spelling (`1,000` and `a thousand`), and an entity counts once however often the summary has it.

    Args:
        finder (`EntityFinder`, *optional*): What finds names; [`load_finder`]`()` if left out.
        whole_names (`bool`, *optional*, defaults to `False`): Whether all words of a name must stand together in the
            document, articles before it apart.

    Example:

    ```python
    >>> from hf_quals.judges.entities import EntityScorer, RuleFinder
    >>> scorer = EntityScorer(RuleFinder())
    >>> scorer.score(["Lewis said 1,000 fans came."], ["Klitschko saw a thousand fans."])[0].unsupported
    ('Klitschko',)
    ```
    """

    name = "entity"

    finder: EntityFinder = field(default_factory=load_finder)
    whole_names: bool = False

    def settings(self) -> dict[str, Any]:
        return {"finder": self.finder.name, "whole_names": self.whole_names}

    def score(self, documents, summaries, *, references=None, batch_size=8) -> list[EntityResult]:
        check_texts(documents, summaries, batch_size)
        return [self._score(document, summary) for document, summary in zip(documents, summaries, strict=True)]

    def _score(self, document: str, summary: str) -> EntityResult:
        text = f" {' '.join(token.norm for token in tokenize(document))} "
        known = set(text.split())
        entities: dict[tuple[str, ...], str] = {}
        for entity in [*self.finder.names(summary), *numbers(summary)]:
            entities.setdefault(_words(entity), entity)
        entities.pop((), None)
        supported = {words for words in entities if self._is_supported(words, known, text)}
        return EntityResult(
            score=len(supported) / len(entities) if entities else math.nan,
            supported=tuple(entity for words, entity in entities.items() if words in supported),
            unsupported=tuple(entity for words, entity in entities.items() if words not in supported),
            finder=self.finder.name,
        )

    def _is_supported(self, words: tuple[str, ...], known: set[str], text: str) -> bool:
        """`known` are the words of the document, `text` the same in order, with a space on each side of each."""
        telling = [word for word in words if word not in STOP_WORDS]
        if telling and not self.whole_names:
            return not known.isdisjoint(telling)
        return known.issuperset(words) and f" {' '.join(words)} " in text


def entity_precision(document: str, summary: str) -> float:
    """
    Share of the summary's names and numbers that occur in the document, NaN if it has none ([`EntityScorer`]).

    Args:
        document (`str`): The document.
        summary (`str`): The summary.

    Returns:
        `float`: between 0 and 1, or NaN.

    Raises:
        `ValueError`: if a text is not a string or empty.
    """
    return EntityScorer().score([document], [summary])[0].score


def _words(entity: str) -> tuple[str, ...]:
    """The words an entity is compared by: articles and other determiners before it are no part of it."""
    words = [token.norm for token in tokenize(entity)]
    while words and words[0] in _DETERMINERS:
        words = words[1:]
    return tuple(words)


@register_judge(
    "entity",
    columns={"entity precision": "score"},
    needs="nothing; names are found by spaCy where its English model is installed, else by rules",
    cost="fast: names and numbers are looked up in the document",
)
def prepare():
    finder = load_finder()
    return {"names found by": finder.name}, lambda: EntityScorer(finder)
