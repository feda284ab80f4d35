"""How QAGS compares answers: SQuAD's normal form and token F1."""

from __future__ import annotations

import collections
import re
import string


def normalize_answer(answer: str) -> str:
    """SQuAD's normal form: lowercase, without punctuation, articles and surplus white space."""
    bare = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def token_f1(first: str, second: str) -> float:
    """
    SQuAD's F1 of two answers, from 0 to 1: harmonic mean of the shares of common tokens, repetitions counted. If one
    of the two is empty, 1 if both are, else 0.
    """
    counts, other_counts = (collections.Counter(normalize_answer(answer).split()) for answer in (first, second))
    if not counts or not other_counts:
        return float(counts == other_counts)
    return 2 * (counts & other_counts).total() / (counts.total() + other_counts.total())
