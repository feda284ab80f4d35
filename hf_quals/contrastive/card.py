"""The section of a model card that says how a summarizer was trained not to invent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData


if TYPE_CHECKING:
    from .trainer import ContrastiveSeq2SeqTrainer

_START, _END = "<!-- contrastive training: start -->", "<!-- contrastive training: end -->"


def add_contrastive_training(trainer: ContrastiveSeq2SeqTrainer, folder: Path) -> None:
    """
    Writes or replaces the section in a folder's model card, and makes the card if there is none.

    Args:
        trainer (`ContrastiveSeq2SeqTrainer`): The trainer whose model the card describes.
        folder (`Path`): The folder of the saved model.
    """
    path = folder / "README.md"
    if path.exists():
        card = ModelCard.load(path, ignore_metadata_errors=True)
    else:
        card = ModelCard(f"---\n{ModelCardData(library_name='transformers').to_yaml()}\n---\n\n# {folder.name}\n")
    base = getattr(trainer.base_model.config, "_name_or_path", "") or None
    if base and not card.data.get("base_model"):
        card.data.base_model = base
    card.data.tags = sorted({*(card.data.get("tags") or []), "summarization", "hf-quals"})
    before, _, rest = card.text.partition(_START)
    after = rest.partition(_END)[2]
    card.text = f"{before.rstrip()}\n\n{_START}\n{_section(trainer, base)}{_END}\n{after.lstrip()}"
    temporary = path.with_suffix(".md.tmp")
    card.save(temporary)
    temporary.replace(path)


def _section(trainer: ContrastiveSeq2SeqTrainer, base: str | None) -> str:
    args, callback = trainer.args, trainer.quals_callback
    lines = [
        "## Contrastive training",
        "",
        "Trained with [ConSeq](https://huggingface.co/papers/2105.04623): good references are imitated, samples of "
        "the model that the document does not support are avoided.",
        "",
        f"- base model: {base or 'trained from scratch'}",
        f"- data: {_dataset_name(trainer.train_dataset)}",
        f"- loss: {args.contrastive_loss}, label smoothing {args.label_smoothing_factor}",
    ]
    if callback is not None:
        scorer = callback.scorer
        lines.append(f"- S+ and S-: {', '.join(f'{name} {value}' for name, value in callback.settings().items())}")
        if scorer is not None:
            lines.append(f"- score: QUALS, variant {scorer.variant}, at most {scorer.max_pairs} pairs")
        if callback.state is not None:
            quals = ("reference_quals", "candidate_quals", "positive_quals", "negative_quals")
            lines += ["", *_table(("epoch", "num_triples", *quals), callback.state.history)]
        if callback.evaluations:
            columns = tuple(callback.evaluations[0])
            first, last = callback.evaluations[0], callback.evaluations[-1]
            evaluations = [first] if first is last else [first, last]
            lines += ["", "First and last evaluation of the run:", "", *_table(columns, evaluations)]
    return "\n".join(lines) + "\n"


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return head + ["| " + " | ".join(_cell(row.get(column, math.nan)) for column in columns) + " |" for row in rows]


def _cell(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _dataset_name(dataset: Any) -> str:
    inner = getattr(dataset, "dataset", dataset)
    info = getattr(inner, "info", None)
    name = getattr(info, "dataset_name", None)
    return f"{name}, {len(inner)} documents" if name else f"{len(inner)} documents"
