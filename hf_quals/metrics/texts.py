"""From what a trainer hands to `compute_metrics` to the texts that a metric takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError


class PredictionTexts(NamedTuple):
    """The texts of an evaluation, as `compute` of a metric takes them."""

    predictions: list[str]
    sources: list[str]
    references: list[str]


def prediction_texts(prediction: Any, tokenizer: Any, *, is_encoder_decoder: bool) -> PredictionTexts:
    """
    Decodes what a trainer hands to `compute_metrics`.

    The inputs of a decoder-only model hold prompt and reference. Its sources are the prompts alone: no judge reads the
    reference in them.

    Args:
        prediction (`EvalPrediction`):
            Of [`~transformers.Seq2SeqTrainer`], or of [`ContrastiveSeq2SeqTrainer`] for a decoder-only model, with
            `predict_with_generate=True` and `include_for_metrics=["inputs"]`.
        tokenizer (`PreTrainedTokenizerBase`):
            The model's tokenizer.
        is_encoder_decoder (`bool`):
            `model.config.is_encoder_decoder`.

    Returns:
        `PredictionTexts`: `predictions`, `sources` and `references`, each a list with a text a row.

    Raises:
        `InputError`: if there are no inputs, or a decoder-only model's do not end with the reference.

    Example:

    ```python
    >>> def compute_metrics(prediction):
    ...     texts = prediction_texts(prediction, tokenizer, is_encoder_decoder=model.config.is_encoder_decoder)
    ...     return {"quals": quals.compute(predictions=texts.predictions, sources=texts.sources)["quals"]}
    ```
    """
    if prediction.inputs is None:
        raise InputError('There are no inputs to decode: pass `include_for_metrics=["inputs"]` to the arguments.')
    pad = tokenizer.pad_token_id

    def decode(rows: Any) -> list[str]:
        return tokenizer.batch_decode(
            [np.where(np.asarray(row) < 0, pad, row) for row in rows], skip_special_tokens=True
        )

    sources = prediction.inputs
    if not is_encoder_decoder:
        pairs = zip(prediction.inputs, prediction.label_ids, strict=True)
        sources = [_prompt(row, inputs, labels, pad) for row, (inputs, labels) in enumerate(pairs)]
    return PredictionTexts(*(decode(rows) for rows in (prediction.predictions, sources, prediction.label_ids)))


def _prompt(row: int, inputs: np.ndarray, labels: np.ndarray, pad: int) -> np.ndarray:
    """What stands before the reference, behind which there is nothing but padding."""
    summary = labels[labels >= 0]
    end = len(inputs)
    while end >= len(summary):
        if np.array_equal(inputs[end - len(summary) : end], summary):
            return inputs[: end - len(summary)]
        # The padding may be the same token as the reference's last.
        if inputs[end - 1] not in (pad, -100):
            break
        end -= 1
    raise InputError(
        f"Row {row}: the inputs do not end with the labels. A decoder-only model's `input_ids` must hold prompt and "
        "summary, and `label_ids` the summary alone, as ContrastiveSeq2SeqTrainer returns them."
    )
