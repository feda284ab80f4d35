"""The best of several summaries of a document, by any scorer: of given candidates, or of a model's samples."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from tqdm import tqdm
from transformers.utils import logging

from .contrastive.sampling import CandidateSampler
from .contrastive.scoring import score_summaries
from .errors import InputError
from .qagen.template import QATemplate, num_positions
from .scorers import Scorer


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Ranking:
    """
    Candidate summaries of one document, and which is better.

    Args:
        candidates (`tuple[str, ...]`): The candidates as they were given or sampled.
        scores (`tuple[float, ...]`): The score of each; NaN where it is blank or the scorer has none.
    """

    candidates: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the candidates, the best first: without score last, and of equal ones the first first."""
        return tuple(sorted(range(len(self.scores)), key=lambda index: _falling(self.scores[index])))

    @property
    def best(self) -> str:
        """The best candidate."""
        return self.candidates[self.order[0]]


def _falling(score: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(score) else (False, -score)


def rerank(
    documents: Sequence[str],
    candidates: Sequence[Sequence[str]],
    scorer: Scorer | None = None,
    *,
    references: Sequence[str] | None = None,
    batch_size: int = 8,
) -> list[Ranking]:
    """
    Ranks the candidate summaries of each document by their scores.

    All are scored in one call, so that a model reads a document once for all of its candidates.

    Args:
        documents (`Sequence[str]`): The documents.
        candidates (`Sequence[Sequence[str]]`): Of each document its candidates, at least one; their number may differ.
        scorer (`Scorer`, *optional*): Scores them; the default [`QualsScorer`], loaded anew, if left out.
        references (`Sequence[str]`, *optional*): A reference a document, for a scorer that reads references.
        batch_size (`int`, *optional*, defaults to 8): Inputs of a model computed together; bounds memory.

    Returns:
        `list[Ranking]`: one a document, in order.

    Raises:
        [`InputError`]: if the lists differ in length, a document has no candidates, or one is no string, or if the
            scorer needs references and there are none.
        `ValueError`: for texts that the scorer refuses.

    Example:

    ```python
    >>> from hf_quals import rerank
    >>> document = "Lewis believes that Klitschko is hurt."
    >>> ranking = rerank([document], [["Klitschko believes that Lewis is hurt.", "Klitschko is hurt, says Lewis."]])[0]
    >>> ranking.best, ranking.scores, ranking.order
    ```
    """
    _check_texts(documents, candidates, references)
    scorer = _ready(scorer, references)
    rows = [
        (document, candidate, reference)
        for document, of_document, reference in zip(
            documents, candidates, references or [""] * len(documents), strict=True
        )
        for candidate in of_document
    ]
    scores = iter(map(float, score_summaries(scorer, rows, batch_size)))
    return [Ranking(tuple(of_document), tuple(next(scores) for _ in of_document)) for of_document in candidates]


def _check_texts(
    documents: Sequence[str], candidates: Sequence[Sequence[str]], references: Sequence[str] | None
) -> None:
    if isinstance(documents, str):
        raise InputError(f"documents must be a list of strings, got the string {documents!r}.")
    for name, values in {"candidates": candidates, "references": references}.items():
        if values is not None and len(values) != len(documents):
            raise InputError(f"{name} must be as many as documents, {len(documents)}, got {len(values)}.")
    for row, (document, of_document) in enumerate(zip(documents, candidates, strict=True)):
        if not isinstance(document, str) or not document.strip():
            raise InputError(f"Row {row}: the document must be text, got {document!r}.")
        is_list = isinstance(of_document, Sequence) and not isinstance(of_document, str)
        if not is_list or not of_document or not all(isinstance(text, str) for text in of_document):
            raise InputError(f"Row {row}: candidates must be a list of one string at least, got {of_document!r}.")


def _ready(scorer: Scorer | None, references: Sequence[str] | None) -> Scorer:
    """The scorer, or the default one, with the references that it needs."""
    if scorer is None:
        from .quals.scorer import QualsScorer

        return QualsScorer.from_pretrained()
    if scorer.reads_references:
        if references is None:
            raise InputError(f"{scorer.name} compares with references. Pass `references`, or another scorer.")
        for row, reference in enumerate(references):
            if not isinstance(reference, str) or not reference.strip():
                raise InputError(f"Row {row}: the reference must be text, got {reference!r}.")
    return scorer


def generate_best_of(
    model: Any,
    tokenizer: Any,
    documents: Sequence[str],
    n: int = 6,
    *,
    scorer: Scorer | None = None,
    prompt: str | None = None,
    top_k: int = 50,
    max_new_tokens: int = 60,
    max_document_length: int = 1024,
    references: Sequence[str] | None = None,
    batch_size: int = 8,
    seed: int = 42,
    show_progress_bar: bool = False,
) -> list[Ranking]:
    """
    Samples `n` summaries of each document and ranks them.

    Samples depend on the seed and the document, not on batches or other documents. The model stays where it is, and
    its mode and the global random state are left as they were.

    Args:
        model (`PreTrainedModel`): Writes summaries: encoder–decoder or decoder-only.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, with a pad token.
        documents (`Sequence[str]`): The documents.
        n (`int`, *optional*, defaults to 6): Samples a document.
        scorer (`Scorer`, *optional*): Ranks them; the default [`QualsScorer`] if left out.
        prompt (`str`, *optional*): What the model reads, with `{text}` for the document; `{text}` (encoder–decoder) or
            `{text}\\n\\nTL;DR:` (decoder-only) if left out.
        top_k (`int`, *optional*, defaults to 50): Tokens to sample from at each step; 1 is greedy search.
        max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a summary.
        max_document_length (`int`, *optional*, defaults to 1024): The most tokens of a document and its prompt; less
            where the model's positions end earlier. Longer documents lose their end for the model, not for the scorer;
            a warning says how many.
        references (`Sequence[str]`, *optional*): A reference a document, for a scorer that reads references.
        batch_size (`int`, *optional*, defaults to 8): Documents sampled for, or scored, together.
        seed (`int`, *optional*, defaults to 42): Of the samples.
        show_progress_bar (`bool`, *optional*, defaults to `False`): Whether to show one.

    Returns:
        `list[Ranking]`: one a document, in order; its candidates are the samples.

    Raises:
        [`InputError`]: if a number is less than 1, the tokenizer has no pad token, or for what [`rerank`] refuses.

    Example:

    ```python
    >>> from hf_quals import generate_best_of
    >>> [ranking.best for ranking in generate_best_of(model, tokenizer, documents, 6)]
    ```
    """
    for name, value in {"n": n, "top_k": top_k, "max_new_tokens": max_new_tokens, "batch_size": batch_size}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}.")
    if tokenizer.pad_token_id is None:
        raise InputError("The tokenizer has no pad token: set tokenizer.pad_token = tokenizer.eos_token.")
    # No document is sampled for before all are known to be good.
    _check_texts(documents, [[""]] * len(documents), references)
    scorer = _ready(scorer, references)
    # An Accelerator would choose the device of the whole process; the model is where its owner wants it.
    device: Any = SimpleNamespace(device=torch.device(model.device), autocast=nullcontext)
    sampler = CandidateSampler(model, tokenizer, device)
    template = QATemplate(prompt=prompt or ("{text}" if sampler.is_encoder_decoder else "{text}\n\nTL;DR:"))
    if positions := num_positions(model.config):
        behind_document = 0 if sampler.is_encoder_decoder else max_new_tokens
        if behind_document >= positions:
            raise InputError(
                f"{max_new_tokens=} takes all of the model's {positions} positions: none is left for a document."
            )
        max_document_length = min(max_document_length, positions - behind_document)
    encoded = template.encode_texts(
        tokenizer, documents, max_length=max_document_length, is_encoder_decoder=sampler.is_encoder_decoder
    )
    if num_truncated := sum(text.truncated for text in encoded):
        logger.warning(
            f"{num_truncated} of {len(encoded)} documents lose their end: the model reads {max_document_length} "
            "tokens."
        )
    rankings: list[Ranking] = []
    for first in tqdm(range(0, len(documents), batch_size), desc=f"Best of {n}", disable=not show_progress_bar):
        batch = slice(first, first + batch_size)
        sampled = sampler.sample(
            [torch.tensor(text.input_ids) for text in encoded[batch]],
            [_seeds(seed, document, n) for document in documents[batch]],
            top_k=top_k,
            max_new_tokens=max_new_tokens,
        )
        texts = [[sampler.decode(token_ids) for token_ids in of_document] for of_document in sampled]
        of_batch = None if references is None else references[batch]
        rankings += rerank(documents[batch], texts, scorer, references=of_batch, batch_size=batch_size)
    return rankings


def _seeds(seed: int, document: str, n: int) -> list[int]:
    """A seed a sample; all depend on seed and document alone."""
    rng = random.Random(f"{seed} {document}")
    return [rng.getrandbits(63) for _ in range(n)]
