"""The section of a model card that says how a summarizer was trained not to invent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from huggingface_hub import ModelCard, ModelCardData
from transformers.trainer_utils import has_length

from .data import ContrastiveDataset
from .tables import markdown


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
    base = trainer.base_model.config._name_or_path
    # A folder is no name that the Hub knows.
    is_folder = base != "" and Path(base).is_dir()
    if base and not is_folder and not card.data.get("base_model"):
        card.data.base_model = base
    card.data.tags = sorted({*(card.data.get("tags") or []), "summarization", "hf-quals"})
    section = _section(trainer, Path(base).resolve().name if is_folder else base)
    before, _, rest = card.text.partition(_START)
    after = rest.partition(_END)[2]
    card.text = f"{before.rstrip()}\n\n{_START}\n{section}{_END}\n{after.lstrip()}"
    temporary = path.with_suffix(".md.tmp")
    card.save(temporary)
    temporary.replace(path)


def _section(trainer: ContrastiveSeq2SeqTrainer, base: str) -> str:
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
            lines.append(f"- score: QUALS, variant {scorer.config.variant}, at most {scorer.config.max_pairs} pairs")
        if callback.state is not None:
            lines += ["", "Means of the scores at each refresh:", "", markdown(callback.state.history)]
        evaluations = _first_and_last_evaluation(trainer.state.log_history)
        if evaluations:
            lines += ["", "QUALS of summaries of the evaluation set, before and after:", "", markdown(evaluations)]
    return "\n".join(lines) + "\n"


def _first_and_last_evaluation(log_history: list[dict[str, float]]) -> list[dict[str, Any]]:
    """The first and the last score of each evaluation set, with its step."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in log_history:
        for name in entry:
            if f"{name}_unscored" in entry:
                row = {"metric": name, "step": entry["step"], "QUALS": entry[name]}
                found.setdefault(name, []).append({**row, "unscored": entry[f"{name}_unscored"]})
    return [row for rows in found.values() for row in (rows[0], *rows[1:][-1:])]


def _dataset_name(dataset: Any) -> str:
    if isinstance(dataset, ContrastiveDataset):
        dataset = dataset.dataset
    name = dataset.info.dataset_name if isinstance(dataset, datasets.Dataset | datasets.IterableDataset) else None
    size = f"{len(dataset)} documents" if has_length(dataset) else ""
    return ", ".join(filter(None, (name, size))) or "not known"
