"""Which of the generated pairs the score rests on: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        num_duplicate (`int`): How many repeat the question and the answer of a more probable one.
        num_surplus (`int`): How many good pairs were left over when the most pairs were chosen.
    """

    kept: tuple[QAPair, ...]
    num_generated: int
    num_unparsable: int
    num_not_in_summary: int
    num_duplicate: int
    num_surplus: int


def select_pairs(pairs: Sequence[QAPair], summary: str, max_pairs: int = 10) -> PairSelection:
    """
    Keeps the pairs QUALS is computed on (https://huggingface.co/papers/2105.04623, section 3.1).

    A pair is kept if it was parsed and its case-folded answer occurs in the case-folded summary. Pairs are taken round
    robin over distinct answers, each answer's most probable question first, and answers in the order of their most
    probable pair; an answer never gets the same question twice. Case does not distinguish answers or questions.

    Args:
        pairs (`Sequence[QAPair]`): Pairs generated from the summary, in any order.
        summary (`str`): The summary.
        max_pairs (`int`, *optional*, defaults to 10): The most pairs to keep.

    Returns:
        `PairSelection`: the kept pairs and counts.
    """
    parsed = [pair for pair in pairs if pair.is_pair]
    folded_summary = summary.casefold()
    supported = [pair for pair in parsed if pair.answer.casefold() in folded_summary]
    # Token ids break ties, so that the order of generation does not matter.
    supported.sort(key=lambda pair: (-sum(pair.log_probs), pair.token_ids))

    by_answer: dict[str, dict[str, QAPair]] = {}
    for pair in supported:
        by_answer.setdefault(pair.answer.casefold(), {}).setdefault(pair.question.casefold(), pair)
    queues = [list(questions.values()) for questions in by_answer.values()]
    num_distinct = sum(len(queue) for queue in queues)
    rounds = max((len(queue) for queue in queues), default=0)
    round_robin = [queue[number] for number in range(rounds) for queue in queues if number < len(queue)]
    kept = tuple(round_robin[:max_pairs])
    return PairSelection(
        kept=kept,
        num_generated=len(pairs),
        num_unparsable=len(pairs) - len(parsed),
        num_not_in_summary=len(parsed) - len(supported),
        num_duplicate=len(supported) - num_distinct,
        num_surplus=num_distinct - len(kept),
    )
