"""A refresh: candidates sampled and scored, and S+ and S- selected among them.

It outlives a kill: what it found stands in checkpoints, and until the next one what it has finished in a folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..files import nan_to_none, write_atomically
from ..scorers import Scorer, mean_score
from .config import QualsCallbackConfig
from .rows import TextRow, TextRows
from .sampling import CandidateSampler
from .scoring import none_to_nan, score_summaries
from .selection import Triple, select_triples


logger = logging.get_logger(__name__)

# The file of a checkpoint that holds a RefreshState.
STATE_NAME = "quals_state.json"


@dataclass
class Candidates:
    """The samples of a document: their tokens, end-of-sequence included, texts and scores, NaN where there is none."""

    token_ids: list[list[int]]
    texts: list[str]
    scores: list[float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return {**vars(self), "scores": nan_to_none(self.scores)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Candidates:
        return cls(**{**fields, "scores": none_to_nan(fields["scores"])})


@dataclass
class RefreshState:
    """
    What a refresh found, all that a resumed run needs of it.

    Args:
        epoch (`int`): The epoch it was made for.
        reference_scores (`list[float]`): The score of each document's reference.
        candidates (`list[Candidates]`): The candidates of each document.
        triples (`list[Triple]`): S+ and S-.
        history (`list[dict]`): Means of this refresh and those before.
        settings (`dict`): All that a refresh depends on beside the model: a run goes on only with the same.
    """

    epoch: int
    reference_scores: list[float]
    candidates: list[Candidates]
    triples: list[Triple]
    history: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def negatives(self) -> list[list[int]]:
        """The tokens of each triple's s-."""
        return [self.candidates[triple.document].token_ids[triple.candidate] for triple in self.triples]

    def save(self, path: Path) -> None:
        """Writes JSON, whole or not at all; a NaN becomes `null`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {
            **vars(self),
            "reference_scores": nan_to_none(self.reference_scores),
            "candidates": [candidates.to_dict() for candidates in self.candidates],
            "triples": list(map(vars, self.triples)),
        }
        write_atomically(path, json.dumps(fields, allow_nan=False))

    @classmethod
    def load(cls, path: Path) -> RefreshState:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            epoch=fields["epoch"],
            reference_scores=none_to_nan(fields["reference_scores"]),
            candidates=[Candidates.from_dict(candidates) for candidates in fields["candidates"]],
            triples=[Triple(**triple) for triple in fields["triples"]],
            history=fields["history"],
            settings=fields["settings"],
        )


def refresh(
    sampler: CandidateSampler,
    scorer: Scorer,
    rows: TextRows,
    config: QualsCallbackConfig,
    *,
    epoch: int = 0,
    seed: int = 42,
    previous: RefreshState | None = None,
    kept: KeptRefresh | None = None,
    show_progress_bar: bool = False,
) -> RefreshState:
    """
    Samples candidates of each document, scores them and, the first time, the references, and selects S+ and S-.

    Processes share the documents, and all get the whole result. Candidates depend on seed, epoch and document, not on
    batches or the number of processes.

    `previous`, the refresh before, gives the references' scores, the number of triples and the history. `kept` keeps
    finished batches, and gives back those of an interrupted refresh.

    Raises:
        `ValueError`: if no document has both a reference in S+ and a candidate in S-, or fewer than `num_triples` have
            scores.
    """
    accelerator, batch_size = sampler.accelerator, config.batch_size
    scored = kept.load(accelerator) if kept else {}
    with accelerator.split_between_processes(list(range(len(rows))), apply_padding=True) as own_rows:
        batches = [own_rows[first : first + batch_size] for first in range(0, len(own_rows), batch_size)]
        # Whole batches, and the same on every process, so that an interrupted refresh computes what an unbroken one
        # would, and all processes call the model equally often.
        is_done = gather_object([[all(row in scored for row in batch) for batch in batches]])
        progress = tqdm(
            [batch for batch, *done in zip(batches, *is_done, strict=True) if not all(done)],
            desc=f"Candidates of epoch {epoch}",
            disable=not show_progress_bar,
        )
        for batch in progress:
            seeds = [[_seed(seed, epoch, row, sample) for sample in range(config.num_candidates)] for row in batch]
            known = [previous.reference_scores[row] for row in batch] if previous else None
            results = _sample_and_score(sampler, scorer, [rows[row] for row in batch], seeds, config, known)
            of_batch = dict(zip(batch, results, strict=True))
            scored.update(of_batch)
            if kept:
                kept.append(of_batch, accelerator.process_index)
    # Rows of the padding come twice, with equal results.
    of_all = dict(gather_object(list(scored.items())))
    reference_scores = [of_all[row][0] for row in range(len(rows))]
    candidates = [of_all[row][1] for row in range(len(rows))]
    triples = select_triples(
        reference_scores,
        [of_document.scores for of_document in candidates],
        positive_share=config.positive_share,
        negative_share=config.negative_share,
        num_triples=len(previous.triples) if previous else config.num_triples,
    )
    if not triples:
        raise ValueError(
            f"No document of {len(rows)} has both a reference among the best {config.positive_share:.0%} and a "
            f"candidate among the worst {config.negative_share:.0%}: take more documents, or larger shares."
        )
    means = _means(scorer.name, epoch, reference_scores, candidates, triples)
    logger.info(f"S+ and S- of epoch {epoch}: {means}")
    history = [*(previous.history if previous else []), means]
    return RefreshState(epoch, reference_scores, candidates, triples, history)


def _sample_and_score(
    sampler: CandidateSampler,
    scorer: Scorer,
    rows: list[TextRow],
    seeds: list[list[int]],
    config: QualsCallbackConfig,
    reference_scores: list[float] | None,
) -> list[tuple[float, Candidates]]:
    """The score of each row's reference, computed where it is not known, and its candidates."""
    sampled = sampler.sample(
        [row.prompt for row in rows], seeds, top_k=config.top_k, max_new_tokens=config.max_new_tokens
    )
    texts = [[sampler.decode(token_ids) for token_ids in of_document] for of_document in sampled]
    # In one call, so that a scorer reads each document once.
    to_score = [
        (row.document, text, row.reference)
        for row, of_document in zip(rows, texts, strict=True)
        for text in (*of_document, *([] if reference_scores else [row.reference]))
    ]
    scores = iter(score_summaries(scorer, to_score, config.batch_size))
    results = []
    for index, (token_ids, of_document) in enumerate(zip(sampled, texts, strict=True)):
        candidates = Candidates(token_ids, of_document, [next(scores) for _ in of_document])
        results.append((reference_scores[index] if reference_scores else next(scores), candidates))
    return results


def _means(
    name: str, epoch: int, reference_scores: list[float], candidates: list[Candidates], triples: list[Triple]
) -> dict[str, Any]:
    """One line of the history."""
    every_candidate = [score for of_document in candidates for score in of_document.scores]
    chosen = [candidates[triple.document].scores[triple.candidate] for triple in triples]
    return {
        "epoch": epoch,
        f"reference_{name}": mean_score(reference_scores),
        f"candidate_{name}": mean_score(every_candidate),
        "unscored": sum(map(math.isnan, [*reference_scores, *every_candidate])),
        f"positive_{name}": mean_score([reference_scores[triple.document] for triple in triples]),
        f"negative_{name}": mean_score(chosen),
        "num_triples": len(triples),
    }


class KeptRefresh:
    """
    The batches that a running refresh has finished: a refresh that was killed goes on behind them.

    What was kept counts only for the very same refresh: the files carry a digest of the model's weights and of all
    else that the result depends on.

    `settings` is all that candidates and scores depend on beside the model, as JSON's types.
    """

    def __init__(self, folder: Path, model: Any, settings: dict[str, Any]):
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, parameter in model.named_parameters():
            digest.update(name.encode())
            digest.update(_bytes(parameter))
        self.folder, self.name = folder, f"refresh-{digest.hexdigest()[:16]}"

    def load(self, accelerator: Any) -> dict[int, tuple[float, Candidates]]:
        """What all processes have kept; a line that was cut off is left out."""
        kept: dict[int, tuple[float, Candidates]] = {}
        for path in sorted(self.folder.glob(f"{self.name}-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row, reference_score, candidates = json.loads(line)
                except json.JSONDecodeError:
                    continue
                kept[row] = (none_to_nan([reference_score])[0], Candidates.from_dict(candidates))
        # No process may append before all have read.
        accelerator.wait_for_everyone()
        return kept

    def append(self, of_batch: dict[int, tuple[float, Candidates]], process_index: int) -> None:
        """Keeps a finished batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps([row, nan_to_none(score), candidates.to_dict()], allow_nan=False)
            for row, (score, candidates) in of_batch.items()
        ]
        with (self.folder / f"{self.name}-{process_index}.jsonl").open("a", encoding="utf-8") as file:
            # The newline goes first: what a kill has cut off stays a line of its own.
            file.write("\n" + "\n".join(lines))

    @staticmethod
    def remove(folder: Path) -> None:
        """Removes what all refreshes have kept: a checkpoint holds it now."""
        for path in folder.glob("refresh-*.jsonl"):
            path.unlink(missing_ok=True)


def _bytes(parameter: Any) -> bytes:
    """The part of a parameter that this process holds."""
    if is_deepspeed_zero3_enabled():
        parameter = parameter.ds_tensor
    elif isinstance(parameter, DTensor):
        parameter = parameter.to_local()
    return parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _seed(*numbers: int) -> int:
    """A seed of 63 bits that depends on all numbers."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
