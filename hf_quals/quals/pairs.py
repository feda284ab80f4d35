"""Which of the generated pairs the score rests on: pure functions."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..qagen.model import QAPair


@dataclass(frozen=True)
class PairSelection:
    """
    The pairs kept of those generated from a summary, and what became of the others.

    Every generated pair is counted once: `num_generated` is the sum of the other counts and of `len(kept)`.

    Args:
        kept (`tuple[QAPair, ...]`): The pairs to score, in the order they were chosen.
        num_generated (`int`): How many sequences were generated.
        num_unparsable (`int`): How many are not exactly a question, a separator and an answer.
        num_not_in_summary (`int`): How many have an answer that does not occur in the summary.
        num_ill_formed (`int`): How many have a question that no such answer can answer.
        num_duplicate (`int`): How many repeat the question and the answer of a more probable one.
        num_not_returned (`int`): How many ask for an answer that the model, asked about the summary, does not give.
        num_surplus (`int`): How many good pairs were left over when the most pairs were chosen.
    """

    kept: tuple[QAPair, ...]
    num_generated: int
    num_unparsable: int
    num_not_in_summary: int
    num_duplicate: int
    num_surplus: int
    num_ill_formed: int = 0
    num_not_returned: int = 0


def select_pairs(
    pairs: Sequence[QAPair], summary: str, max_pairs: int = 10, *, facts_first: bool = False
) -> PairSelection:
    """
    Keeps the pairs QUALS is computed on (https://huggingface.co/papers/2105.04623, section 3.1).

    A pair is kept if it was parsed and its case-folded answer occurs in the case-folded summary. Pairs are taken round
    robin over distinct answers, each answer's most probable question first, and answers in the order of their most
    probable pair; an answer never gets the same question twice. Case does not distinguish answers or questions.

    Args:
        pairs (`Sequence[QAPair]`): Pairs generated from the summary, in any order.
        summary (`str`): The summary.
        max_pairs (`int`, *optional*, defaults to 10): The most pairs to keep.
        facts_first (`bool`, *optional*, defaults to `False`): Beyond the paper: answers that hold a name or a number
            go before others, questions that such an answer cannot answer are left out ([`is_well_formed`]), and
            articles and marks do not distinguish answers and questions either.

    Returns:
        `PairSelection`: the kept pairs and counts.
    """
    folded = summary.casefold()
    parsed = [pair for pair in pairs if pair.is_pair]
    supported = [pair for pair in parsed if pair.answer.casefold() in folded]
    well_formed = [pair for pair in supported if not facts_first or is_well_formed(pair.question, pair.answer)]
    key: Callable[[str], str] = bare if facts_first else str.casefold
    by_answer: dict[str, dict[str, QAPair]] = {}
    for pair in sorted(well_formed, key=lambda pair: (-sum(pair.log_probs), pair.token_ids)):
        by_answer.setdefault(key(pair.answer), {}).setdefault(key(pair.question), pair)
    queues = [list(questions.values()) for questions in by_answer.values()]
    if facts_first:
        queues.sort(key=lambda queue: not holds_fact(queue[0].answer))  # stable: the most probable first
    num_distinct = sum(len(queue) for queue in queues)
    rounds = max((len(queue) for queue in queues), default=0)
    round_robin = [queue[number] for number in range(rounds) for queue in queues if number < len(queue)]
    kept = tuple(round_robin[:max_pairs])
    return PairSelection(
        kept=kept,
        num_generated=len(pairs),
        num_unparsable=len(pairs) - len(parsed),
        num_not_in_summary=len(parsed) - len(supported),
        num_ill_formed=len(supported) - len(well_formed),
        num_duplicate=len(well_formed) - num_distinct,
        num_surplus=num_distinct - len(kept),
    )


def keep_round_trips(selection: PairSelection, answers: Mapping[str, str], max_pairs: int) -> PairSelection:
    """
    Keeps the pairs whose question the model, asked about the summary, answers as it did (as QAGS filters questions).

    Args:
        selection (`PairSelection`): Pairs to choose from, best first.
        answers (`Mapping[str, str]`): The model's answer to each question, from the summary.
        max_pairs (`int`): The most pairs to keep.

    Returns:
        `PairSelection`: the kept pairs, and the counts with the pairs this drops.
    """
    returned = tuple(pair for pair in selection.kept if same_answer(pair.answer, answers[pair.question]))
    kept = returned[:max_pairs]
    return replace(
        selection,
        kept=kept,
        num_not_returned=len(selection.kept) - len(returned),
        num_surplus=selection.num_surplus + len(returned) - len(kept),
    )


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans(dict.fromkeys(string.punctuation, " "))
_QUESTION_WORD = re.compile(r"\b(who|whom|whose|what|which|where|when|why|how)\b", re.IGNORECASE)
_ASKS_FOR_NUMBER = re.compile(
    r"^(when|what (year|day|date|month|time|age|percentage|number)|how (many|much|old|long|often|far))\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\d|\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|million|billion|half"
    r"|once|twice|first|second|third|last|next|ago|year|month|week|day|hour|minute|morning|afternoon|evening|night"
    r"|today|tomorrow|yesterday|spring|summer|autumn|winter|century|decade|january|february|march|april|may|june|july"
    r"|august|september|october|november|december|(mon|tues|wednes|thurs|fri|satur|sun)day|christmas|easter|before"
    r"|after|during|since|until|while|several|many|few|all|most|every|always|never)s?\b",
    re.IGNORECASE,
)


def bare(text: str) -> str:
    """Case-folded words, without punctuation and articles where there is anything else."""
    return " ".join(_ARTICLES.sub(" ", text.casefold().translate(_MARKS)).split()) or text.casefold().strip()


def same_answer(answer: str, other: str) -> bool:
    """Whether another answer says all that an answer says: its words are the other's, or stand in it side by side."""
    words = bare(answer)
    return bool(words) and f" {words} " in f" {bare(other)} "


def holds_fact(answer: str) -> bool:
    """Whether an answer holds a name or a number: a digit, or a capital letter."""
    return any(char.isdigit() or char.isupper() for char in answer)


def is_well_formed(question: str, answer: str) -> bool:
    """
    Whether a question is one that a span of text can answer, of the kind of the answer.

    It holds a question word ("Is Marsh suing?" asks for yes or no); its own answer does not stand in it; and when it
    asks for a time or a number, the answer has a word of such.
    """
    if not _QUESTION_WORD.search(question) or same_answer(answer, question):
        return False
    return not _ASKS_FOR_NUMBER.search(question) or bool(_NUMBER.search(answer))
