"""A refresh: candidates sampled and scored, and S+ and S- selected among them.

It outlives a kill: what it found stands in checkpoints, and until the next one what it has finished in a folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..errors import InputError
from ..files import nan_to_none, write_atomically
from ..scorers import Scorer, mean_score
from .config import QualsCallbackConfig
from .rows import TextRow, TextRows
from .sampling import CandidateSampler
from .scoring import none_to_nan, score_summaries
from .selection import Triple, select_triples, worst_candidates


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
        candidates (`list[Candidates]`): The candidates of each document; see [`fill_up`] for those of an older epoch.
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
            "history": nan_to_none(self.history),
        }
        write_atomically(path, json.dumps(fields, allow_nan=False))

    @classmethod
    def load(cls, path: Path) -> RefreshState:
        """
        Reads what [`save`] wrote.

        Raises:
            `InputError`: if the file is damaged; the message names it.
        """
        try:
            fields = json.loads(path.read_bytes())
            state = cls(
                epoch=int(fields["epoch"]),
                reference_scores=none_to_nan(fields["reference_scores"]),
                candidates=[Candidates.from_dict(candidates) for candidates in fields["candidates"]],
                triples=[Triple(**triple) for triple in fields["triples"]],
                history=list(fields["history"]),
                settings=dict(fields["settings"]),
            )
            if len(state.reference_scores) != len(state.candidates) or not all(state.negatives()):
                raise ValueError("its parts do not fit together")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(
                f"{path} is damaged, or of another version ({type(error).__name__}: {error}): go on from another "
                "checkpoint, or load this one's model and train anew."
            ) from error
        return state


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

    Where no document has both a reference in S+ and a candidate in S-, as may be with few documents, the one with the
    largest margin is the only triple.

    `previous`, the refresh before, gives the references' scores, the number of triples and the history; [`fill_up`]
    says what is done where fewer documents have scores now. `kept` keeps finished batches, and gives back those of an
    interrupted refresh.

    Raises:
        `ValueError`: if no document has both a scored reference and a scored candidate, or, in the first refresh,
            fewer than `num_triples` have.
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
    sampled = [of_all[row][1] for row in range(len(rows))]
    candidates = fill_up(previous, sampled) if previous else sampled
    triples = _select(
        reference_scores, candidates, config, num_triples=len(previous.triples) if previous else config.num_triples
    )
    means = _means(scorer.name, epoch, reference_scores, sampled, candidates, triples)
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


def fill_up(previous: RefreshState, sampled: list[Candidates]) -> list[Candidates]:
    """
    The candidates to select from where a schedule of steps needs as many triples as before, and fewer documents have
    scores now: all of these, and the missing ones among the triples before, those with the largest margin first, keep
    the candidates of that epoch.

    There are always enough of them: references are scored once, so that each of the triples before can be kept.
    """
    scored = worst_candidates(previous.reference_scores, [candidates.scores for candidates in sampled])
    num_missing = len(previous.triples) - len(scored)
    if num_missing <= 0:
        return sampled

    def margin(triple: Triple) -> float:
        before = previous.candidates[triple.document].scores[triple.candidate]
        return previous.reference_scores[triple.document] - before

    unscored = [triple for triple in previous.triples if triple.document not in scored]
    kept = {triple.document for triple in sorted(unscored, key=margin, reverse=True)[:num_missing]}
    logger.warning(
        f"Only {len(scored)} documents have both a scored reference and a scored candidate now, and an epoch has "
        f"{len(previous.triples)} triples: {num_missing} of the triples before stay as they were."
    )
    pairs = zip(previous.candidates, sampled, strict=True)
    return [before if row in kept else now for row, (before, now) in enumerate(pairs)]


def _select(
    reference_scores: list[float], candidates: list[Candidates], config: QualsCallbackConfig, num_triples: int | None
) -> list[Triple]:
    """S+ and S-: at least one triple."""
    candidate_scores = [of_document.scores for of_document in candidates]
    shares = {"positive_share": config.positive_share, "negative_share": config.negative_share}
    triples = select_triples(reference_scores, candidate_scores, **shares, num_triples=num_triples)
    if triples:
        return triples
    if not worst_candidates(reference_scores, candidate_scores):
        raise ValueError(
            f"No document of {len(candidates)} has both a scored reference and a scored candidate: see what the "
            "scorer says of some of them, and whether the model writes anything."
        )
    logger.warning(
        f"No document of {len(candidates)} has both a reference among the best {config.positive_share:.0%} and a "
        f"candidate among the worst {config.negative_share:.0%}: the one with the largest margin is the only triple. "
        "Take more documents, larger shares, or num_triples."
    )
    return select_triples(reference_scores, candidate_scores, **shares, num_triples=1)


def _means(
    name: str,
    epoch: int,
    reference_scores: list[float],
    sampled: list[Candidates],
    candidates: list[Candidates],
    triples: list[Triple],
) -> dict[str, Any]:
    """One line of the history: of all that was sampled now, and of the triples chosen among the candidates."""
    every_candidate = [score for of_document in sampled for score in of_document.scores]
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
        for name, _, part in local_parts(model):
            digest.update(name.encode())
            # A copy: memory that NumPy has seen FSDP cannot free.
            copied = part.to("cpu", copy=True).contiguous()
            digest.update(copied.view(-1).view(torch.uint8).numpy().tobytes())
        self.folder, self.name = folder, f"refresh-{digest.hexdigest()[:16]}"

    def load(self, accelerator: Any) -> dict[int, tuple[float, Candidates]]:
        """What all processes have kept; a line that was cut off or damaged is left out, and sampled again."""
        kept: dict[int, tuple[float, Candidates]] = {}
        for path in sorted(self.folder.glob(f"{self.name}-*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    row, reference_score, candidates = json.loads(line)
                    kept[row] = (none_to_nan([reference_score])[0], Candidates.from_dict(candidates))
                except (ValueError, TypeError, LookupError):
                    continue
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


def local_parts(model: Any) -> Iterator[tuple[str, Any, torch.Tensor]]:
    """The name of each parameter, the parameter, and the part of it that this process holds."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # some are whole behind a forward pass
    for name, parameter in model.named_parameters():
        part = parameter
        if is_deepspeed_zero3_enabled():
            part = parameter.ds_tensor
        elif isinstance(parameter, DTensor):
            part = parameter.to_local()
        yield name, parameter, part.detach()


def _seed(*numbers: int) -> int:
    """A seed of 63 bits that depends on all numbers."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
