"""The page of a metric's Space: a source, a prediction, and what the metric says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluate
import gradio
from huggingface_hub import SpaceCard


def interface(script: str | Path, **options: Any) -> gradio.Interface:
    """
    The page of one metric. `evaluate.utils.launch_gradio_widget` needs gradio 3, which no current library goes with.

    Args:
        script (`str` or `Path`): The metric's Python file; its card lies beside it.
        **options: Passed to the metric's `compute`.
    """
    metric = evaluate.load(str(script))
    card = SpaceCard.load(Path(script).with_name("README.md"))

    def compute(source: str, prediction: str) -> dict[str, Any]:
        try:
            return metric.compute(predictions=[prediction], sources=[source], **options)
        except ValueError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    return gradio.Interface(
        compute,
        inputs=[gradio.Textbox(label="source", lines=8), gradio.Textbox(label="prediction", lines=2)],
        outputs=gradio.JSON(label=metric.name),
        title=card.data.title,
        description=metric.description,
        article=card.text,
        flagging_mode="never",
    )
