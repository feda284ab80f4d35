"""What of a long document is read: the passages that share most with the summary. Pure functions.

A small model reads a few hundred words well and a thousand badly; what a summary says usually stands in a few places.
All that competes for an answer is kept together: a pair judged by its own best window would find its wrong name in
some other one.
"""

from __future__ import annotations

import math
from collections import Counter

from ..text import STOP_WORDS, sentence_spans, tokenize


_WINDOW_WORDS = 60


def select_passages(document: str, summary: str, num_words: int) -> list[tuple[int, int]]:
    """
    Chooses the passages of a document to read for a summary.

    Windows of whole sentences, of about 60 words, are taken one by one until the words are spent: always the one that
    adds most to what is covered of the summary's words, each weighed by how few windows hold it; a word that is
    covered already counts a quarter, then a ninth.

    Args:
        document (`str`): The document.
        summary (`str`): The summary.
        num_words (`int`): About how many words to read.

    Returns:
        `list[tuple[int, int]]`: start and end of each passage, in the order of the document, none touching another;
        the whole document if it has no more words.
    """
    if len(document.split()) <= num_words:
        return [(0, len(document))]
    sentences = sentence_spans(document)
    lengths = [len(document[start:end].split()) for start, end in sentences]
    norms = [{token.norm for token in tokenize(document[start:end])} for start, end in sentences]
    wanted = {token.norm for token in tokenize(summary)} - STOP_WORDS
    windows = [_window(first, lengths) for first in range(len(sentences))]
    words = [set.union(*(norms[number] for number in window)) & wanted for window in windows]
    frequency = Counter(word for part in words for word in part)
    weight = {word: math.log(1 + len(windows) / count) for word, count in frequency.items()}
    taken: set[int] = set()
    covered: Counter[str] = Counter()
    while sum(lengths[number] for number in taken) < num_words:
        gains = {
            number: sum(weight[word] / (1 + covered[word]) ** 2 for word in words[number])
            for number, window in enumerate(windows)
            if not taken.issuperset(window)
        }
        if not gains:
            break
        best = max(gains, key=lambda number: (gains[number], -number))
        taken.update(windows[best])
        covered.update(words[best])
    return _merge([sentences[number] for number in sorted(taken)], sorted(taken))


def _window(first: int, lengths: list[int]) -> range:
    last, total = first, 0
    while last < len(lengths) and total < _WINDOW_WORDS:
        total += lengths[last]
        last += 1
    return range(first, last)


def _merge(spans: list[tuple[int, int]], numbers: list[int]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for position, (start, end) in enumerate(spans):
        if position and numbers[position] == numbers[position - 1] + 1:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
