"""Small tables of texts and numbers, as Markdown and in the trackers that a trainer reports to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import (
    ClearMLCallback,
    CometCallback,
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)

from ..files import as_markdown


# From column to string, number or `None`; at least one.
Rows = Sequence[dict[str, Any]]


def log_table(callbacks: Iterable[TrainerCallback], name: str, rows: Rows, step: int) -> None:
    """
    Shows a table in each tracker among a trainer's callbacks that takes tables or text: ClearML, Comet, MLflow and
    DagsHub, TensorBoard, Trackio, and Weights & Biases.
    """
    for callback in callbacks:
        for tracker, log in _LOG.items():
            if isinstance(callback, tracker):
                log(callback, name, rows, step)


def markdown(rows: Rows, longest: int | None = None) -> str:
    """A table in Markdown, numbers with four digits; an ellipsis shows where a string was cut to the longest."""

    def cell(value: Any) -> str:
        text = "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        text = text if longest is None or len(text) <= longest else text[:longest] + "…"
        return as_markdown(text)

    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(cell, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _clearml(callback, name: str, rows: Rows, step: int) -> None:
    from clearml import Logger

    current = Logger.current_logger()
    if current is not None:  # the task is closed when training ends
        current.report_table(name, "table", iteration=step, table_plot=_frame(rows))


def _comet(callback, name: str, rows: Rows, step: int) -> None:
    import comet_ml

    experiment = comet_ml.get_running_experiment()
    if experiment is not None:  # COMET_MODE=disabled
        experiment.log_table(f"{name}-{step}.csv", _frame(rows))


def _mlflow(callback, name: str, rows: Rows, step: int) -> None:
    import mlflow

    mlflow.log_table(_frame(rows), f"{name}-{step}.json")


def _tensorboard(callback, name: str, rows: Rows, step: int) -> None:
    callback.tb_writer.add_text(name, markdown(rows, longest=500), step)
    callback.tb_writer.flush()


def _trackio(callback, name: str, rows: Rows, step: int) -> None:
    import trackio

    trackio.log({name: trackio.Table(dataframe=_frame(rows)), "train/global_step": step})


def _wandb(callback, name: str, rows: Rows, step: int) -> None:
    import wandb

    wandb.log({name: wandb.Table(dataframe=_frame(rows)), "train/global_step": step})


def _frame(rows: Rows) -> Any:
    import pandas as pd

    return pd.DataFrame(list(rows))


_LOG: dict[type[TrainerCallback], Callable[[Any, str, Rows, int], None]] = {
    ClearMLCallback: _clearml,
    CometCallback: _comet,
    MLflowCallback: _mlflow,
    TensorBoardCallback: _tensorboard,
    TrackioCallback: _trackio,
    WandbCallback: _wandb,
}
