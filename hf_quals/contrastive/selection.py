"""Which summaries to imitate (S+) and which to avoid (S-), from scores alone: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Triple:
    """
    A document, its reference to imitate and its candidate to avoid.

    Args:
        document (`int`): Index of the document.
        candidate (`int`): Index of the document's candidate with the lowest score.
    """

    document: int
    candidate: int


def select_triples(
    reference_scores: Sequence[float],
    candidate_scores: Sequence[Sequence[float]],
    *,
    positive_share: float = 0.3,
    negative_share: float = 0.3,
    num_triples: int | None = None,
) -> list[Triple]:
    """
    Selects S+ and S- (https://huggingface.co/papers/2105.04623, section 3.2).

    - A document's worst candidate is the one with the lowest score.
    - S+ holds the `positive_share` of the documents whose references score best, S- the `negative_share` of the
      documents whose worst candidates score worst.
    - The documents of both are the paper's selection. With `num_triples` exactly so many are returned: the selection
      is trimmed to the documents with the largest margin (score of the reference minus that of the worst candidate),
      or filled up with the documents of largest margin outside it.

    A document takes part if its reference and at least one of its candidates have a score; a candidate whose score is
    NaN is never chosen. Shares are of the documents that take part, rounded to the nearest number. Among equal scores
    the document or candidate that comes first is preferred.

    Args:
        reference_scores (`Sequence[float]`): A score a document, higher is better.
        candidate_scores (`Sequence[Sequence[float]]`): The scores of each document's candidates.
        positive_share (`float`, *optional*, defaults to 0.3): Share of the documents in S+.
        negative_share (`float`, *optional*, defaults to 0.3): Share of the documents in S-.
        num_triples (`int`, *optional*): How many triples to return; as many as the paper's selection has if left out.

    Returns:
        `list[Triple]`: the selected documents with their candidates, in the order of the documents.

    Raises:
        `ValueError`: if the sequences differ in length, a share is not above 0 and at most 1, or more triples are
            asked for than documents take part.
    """
    if len(reference_scores) != len(candidate_scores):
        raise ValueError(
            f"Each document needs a reference and its candidates: got {len(reference_scores)} scores of references, "
            f"{len(candidate_scores)} lists of candidates' scores."
        )
    check_share("positive_share", positive_share)
    check_share("negative_share", negative_share)

    worst = worst_candidates(reference_scores, candidate_scores)
    if num_triples is not None and not 0 <= num_triples <= len(worst):
        raise ValueError(
            f"{num_triples} triples were asked for, but only {len(worst)} of {len(reference_scores)} documents have "
            "both a scored reference and a scored candidate."
        )

    def worst_score(document: int) -> float:
        return candidate_scores[document][worst[document]]

    best_references = sorted(worst, key=lambda document: -reference_scores[document])
    lowest_candidates = sorted(worst, key=worst_score)
    positive = set(best_references[: share_of(positive_share, len(worst))])
    negative = set(lowest_candidates[: share_of(negative_share, len(worst))])
    selected = positive & negative
    if num_triples is not None:
        by_margin = sorted(worst, key=lambda document: worst_score(document) - reference_scores[document])
        by_margin.sort(key=lambda document: document not in selected)  # stable: the selection first
        selected = set(by_margin[:num_triples])
    return [Triple(document, worst[document]) for document in sorted(selected)]


def worst_candidates(reference_scores: Sequence[float], candidate_scores: Sequence[Sequence[float]]) -> dict[int, int]:
    """
    The candidate with the lowest score of each document that can be selected: one whose reference and at least one of
    whose candidates have a score. Arguments are those of [`select_triples`].
    """
    worst = {}
    for document, (reference, candidates) in enumerate(zip(reference_scores, candidate_scores, strict=True)):
        scored = [candidate for candidate, score in enumerate(candidates) if not math.isnan(score)]
        if scored and not math.isnan(reference):
            worst[document] = min(scored, key=candidates.__getitem__)
    return worst


def check_share(name: str, share: float) -> None:
    """Raises a `ValueError` for a share that is not above 0 and at most 1."""
    if not 0 < share <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {share}.")


def share_of(share: float, num_documents: int) -> int:
    """So many documents, rounded to the nearest number."""
    return math.floor(share * num_documents + 0.5)
