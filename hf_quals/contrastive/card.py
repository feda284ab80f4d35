"""The section of a model card that says how a summarizer was trained not to invent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import ModelCard, ModelCardData
from transformers.trainer_utils import has_length

from ..files import brief, replacing
from ..scorers import Scorer
from .tables import markdown


_START, _END = "<!-- contrastive training: start -->", "<!-- contrastive training: end -->"


def add_contrastive_training(
    folder: Path,
    *,
    base_model: str,
    dataset: Any,
    loss: str,
    selection: Mapping[str, Any] | None = None,
    scorer: Scorer | None = None,
    refreshes: Sequence[dict[str, Any]] = (),
    log_history: Sequence[dict[str, Any]] = (),
) -> None:
    """
    Writes or replaces the section in the card of a saved model's folder, and makes the card if there is none.

    `loss` says which in words, `selection` what S+ and S- were chosen with; `refreshes` are the means of each, and
    `log_history` is the trainer's, in which evaluations are looked for.
    """
    path = folder / "README.md"
    if path.exists():
        card = ModelCard.load(path, ignore_metadata_errors=True)
    else:
        card = ModelCard(f"---\n{ModelCardData(library_name='transformers').to_yaml()}\n---\n\n# {folder.name}\n")
    if base_model and _public(base_model) == base_model and not card.data.get("base_model"):
        card.data.base_model = base_model
    card.data.tags = sorted({*(card.data.get("tags") or []), "summarization", "hf-quals"})
    lines = [
        "## Contrastive training",
        "",
        "Trained with [ConSeq](https://huggingface.co/papers/2105.04623): good references are imitated, samples of "
        "the model that the document does not support are avoided.",
        "",
        f"- base model: {_public(base_model) or 'trained from scratch'}",
        f"- data: {_dataset_name(dataset)}",
        f"- loss: {loss}",
    ]
    if selection is not None:
        lines.append(f"- S+ and S-: {_listed(selection)}")
    if scorer is not None:
        # A digest tells a run from another, and a reader nothing.
        settings = {name: value for name, value in scorer.settings().items() if name != "weights"}
        lines.append(f"- score: {', '.join(filter(None, (scorer.name, _listed(settings))))}")
        evaluations = _first_and_last_evaluation(log_history)
        if refreshes:
            lines += ["", "Means of the scores at each refresh:", "", markdown(refreshes)]
        if evaluations:
            lines += ["", "Scores of summaries of the evaluation set, before and after:", "", markdown(evaluations)]
    section = "\n".join(lines) + "\n"
    before, _, rest = card.text.partition(_START)
    after = rest.partition(_END)[2]
    card.text = f"{before.rstrip()}\n\n{_START}\n{section}{_END}\n{after.lstrip()}"
    with replacing(path) as temporary:
        card.save(temporary)


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {brief(_public(value))}"
        for name, value in settings.items()
        if value is not False and value not in (None, "", [])
    )


def _public(value: Any) -> Any:
    """A folder's last part: where a machine keeps it is no name that others know."""
    return Path(value).resolve().name if isinstance(value, str) and value and Path(value).is_dir() else value


def _first_and_last_evaluation(log_history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last score of each evaluation set, with its step."""
    of_metric: dict[str, list[dict[str, Any]]] = {}
    for entry in log_history:
        for metric in entry:
            if f"{metric}_unscored" in entry:
                row = {"metric": metric, "step": entry["step"], "score": entry[metric]}
                of_metric.setdefault(metric, []).append({**row, "unscored": entry[f"{metric}_unscored"]})
    return [row for rows in of_metric.values() for row in (rows[0], *rows[1:][-1:])]


def _dataset_name(dataset: Any) -> str:
    name = dataset.info.dataset_name if isinstance(dataset, datasets.Dataset | datasets.IterableDataset) else None
    size = f"{len(dataset)} documents" if has_length(dataset) else ""
    return ", ".join(filter(None, (name, size))) or "not known"
