"""What a refresh of S+ and S- found, and how it outlives a kill: in checkpoints, until the next one beside them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from .selection import Triple


if TYPE_CHECKING:
    from .trainer import ContrastiveSeq2SeqTrainer

STATE_NAME = "quals_state.json"
# `push_to_hub` leaves out what begins with an underscore: the documents in it may be private.
FOLDER_NAME = "_quals"


@dataclass
class Candidates:
    """
    The samples of one document.

    Args:
        token_ids (`list[list[int]]`): The generated tokens of each, end-of-sequence included.
        texts (`list[str]`): The same as text.
        scores (`list[float]`): Their scores; NaN where there is none.
    """

    token_ids: list[list[int]]
    texts: list[str]
    scores: list[float]


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
    """

    epoch: int
    reference_scores: list[float]
    candidates: list[Candidates]
    triples: list[Triple]
    history: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes JSON to a temporary name and renames it; a NaN becomes `null`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        fields = asdict(self)
        fields["reference_scores"] = _nan_to_none(self.reference_scores)
        fields["candidates"] = list(map(_json, self.candidates))
        temporary.write_text(json.dumps(fields, allow_nan=False), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> RefreshState:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            epoch=fields["epoch"],
            reference_scores=_none_to_nan(fields["reference_scores"]),
            candidates=list(map(_candidates, fields["candidates"])),
            triples=[Triple(**triple) for triple in fields["triples"]],
            history=fields["history"],
        )


class KeptRefresh:
    """
    The batches that a running refresh has finished, in `output_dir/_quals`: a refresh that was killed goes on behind
    them.

    What was kept counts only for the very same refresh: the files carry a digest of the model's weights, the seed and
    the settings.

    Args:
        trainer (`ContrastiveSeq2SeqTrainer`): Whose model is sampled from.
        settings (`dict`): All else that the candidates depend on, as JSON's types.
    """

    def __init__(self, trainer: ContrastiveSeq2SeqTrainer, settings: dict[str, Any]):
        self.trainer = trainer
        digest = hashlib.sha256(json.dumps([settings, trainer.args.seed], sort_keys=True).encode())
        for name, parameter in trainer.model.named_parameters():
            digest.update(name.encode())
            digest.update(_bytes(parameter))
        self.name = f"refresh-{digest.hexdigest()[:16]}"
        self.folder = _folder(trainer)

    def load(self) -> dict[int, tuple[float, Candidates]]:
        """What all processes have kept; a line that was cut off is left out."""
        found: dict[int, tuple[float, Candidates]] = {}
        for path in sorted(self.folder.glob(f"{self.name}-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row, reference_score, candidates = json.loads(line)
                except json.JSONDecodeError:
                    continue
                found[row] = (_none_to_nan([reference_score])[0], _candidates(candidates))
        # No process may append before all have read.
        self.trainer.accelerator.wait_for_everyone()
        return found

    def append(self, of_batch: dict[int, tuple[float, Candidates]]) -> None:
        """Keeps a finished batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.name}-{self.trainer.args.process_index}.jsonl"
        lines = [
            json.dumps([row, _nan_to_none([score])[0], _json(candidates)], allow_nan=False)
            for row, (score, candidates) in of_batch.items()
        ]
        with path.open("a", encoding="utf-8") as file:
            # The newline goes first: what a kill has cut off stays a line of its own.
            file.write("\n" + "\n".join(lines))

    @staticmethod
    def remove(trainer: ContrastiveSeq2SeqTrainer) -> None:
        """Removes what all refreshes have kept: a checkpoint holds it now."""
        for path in _folder(trainer).glob("refresh-*.jsonl"):
            path.unlink(missing_ok=True)


def _folder(trainer: ContrastiveSeq2SeqTrainer) -> Path:
    return Path(trainer.args.output_dir or ".") / FOLDER_NAME


def _bytes(parameter: Any) -> bytes:
    """The part of a parameter that this process holds."""
    if is_deepspeed_zero3_enabled():
        parameter = parameter.ds_tensor
    elif isinstance(parameter, DTensor):
        parameter = parameter.to_local()
    return parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _json(candidates: Candidates) -> dict[str, Any]:
    return {**asdict(candidates), "scores": _nan_to_none(candidates.scores)}


def _candidates(fields: dict[str, Any]) -> Candidates:
    return Candidates(**{**fields, "scores": _none_to_nan(fields["scores"])})


def _nan_to_none(scores: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(score) else score for score in scores]


def _none_to_nan(scores: Sequence[float | None]) -> list[float]:
    return [math.nan if score is None else score for score in scores]
