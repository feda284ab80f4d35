"""One forward pass for s+ and s- that computes their document once.

Both functions return the logits of both summaries with the labels they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import InputError
from ..qagen.packing import Continuation, additive_mask, mask_behind_prompts, pack_continuations
from .losses import IGNORE_INDEX, SummaryLogits


class ContrastiveOutput(NamedTuple):
    """s+ and s- of each document, and the model's own output."""

    positive: SummaryLogits
    negative: SummaryLogits
    outputs: Any


@contextmanager
def encode_once(model: PreTrainedModel, batch_size: int) -> Iterator[None]:
    """
    Within, an encoder–decoder model called with the same `batch_size` documents twice in one batch computes once what
    depends on documents alone: the encoder, and the keys and values that the decoder attends to.

    Hooks, not a call of the encoder outside the model: the pass stays one forward of the wrapped model, which is what
    `DistributedDataParallel`, FSDP and DeepSpeed see.

    The decoder's linear layers that read the encoder's states are told by the identity of what they are given: their
    names differ from family to family, and what dropout or an adapter has changed before may not be halved.
    """
    once = twice = None  # the encoder's states, of shape (batch, tokens, size) and (2 * batch, tokens, size)

    def cut_batch(_module, args, kwargs):
        def cut(value):
            return value[:batch_size] if isinstance(value, torch.Tensor) and len(value) == 2 * batch_size else value

        return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}

    def repeat_states(_module, _args, output):
        nonlocal once, twice
        once = output.last_hidden_state
        twice = output.last_hidden_state = torch.cat([once, once])
        return output

    def cut_states(_module, args):
        return (once,) if args[0] is twice else None

    def repeat_projection(_module, args, output):
        return torch.cat([output, output]) if args[0] is once else None

    encoder = model.get_encoder()
    hooks = [
        encoder.register_forward_pre_hook(cut_batch, with_kwargs=True),
        encoder.register_forward_hook(repeat_states),
    ]
    # Layers that run again in the backward pass would find other shapes: the hooks are gone by then.
    if not _checkpoints_activations(model):
        for module in model.get_decoder().modules():
            if isinstance(module, torch.nn.Linear):
                hooks.append(module.register_forward_pre_hook(cut_states))
                hooks.append(module.register_forward_hook(repeat_projection))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def forward_encoder_decoder(
    model: Callable[..., Any], base: Any, inputs: Mapping[str, Any], *, share_document: bool = True
) -> ContrastiveOutput:
    """
    s+ and s- as one batch of decoder sequences behind encoder states computed once.

    The model is the one that is trained, wrapped and with adapters, `base` the Transformers model within. Inputs hold
    `labels` and `negative_labels`. Without `share_document` documents are encoded twice: same result.

    Raises:
        `InputError`: if the model names no token that its decoder starts with.
    """
    rest = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    positive_labels, negative_labels = rest.pop("labels"), rest.pop("negative_labels")
    batch_size = len(positive_labels)
    labels = _right_padded([*positive_labels, *negative_labels], IGNORE_INDEX)
    twice = {
        name: torch.cat([value, value]) if isinstance(value, torch.Tensor) and len(value) == batch_size else value
        for name, value in rest.items()
    }
    twice["decoder_input_ids"] = _behind_start(base, labels)
    with encode_once(base, batch_size) if share_document else nullcontext():
        outputs = model(**twice, use_cache=False)
    # (2 * batch, the longer summary's tokens, vocabulary)
    return _as_output(outputs, outputs["logits"].split(batch_size), (positive_labels, negative_labels))


def _behind_start(base: PreTrainedModel, labels: torch.Tensor) -> torch.Tensor:
    """
    What the decoder reads to predict the labels: the token that `generate` starts with, then all labels but the last.

    Models derive it from labels in many ways, some from a row's last token: a summary that was cut off would stand
    behind its own end.
    """
    generation = base.generation_config
    start = generation.bos_token_id if generation.decoder_start_token_id is None else generation.decoder_start_token_id
    if start is None:
        raise InputError(
            f"{type(base).__name__} names no token that its decoder starts with: set "
            "model.generation_config.decoder_start_token_id, which `generate` needs, too."
        )
    pad = getattr(base.config, "pad_token_id", None)
    shifted = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == IGNORE_INDEX, start if pad is None else pad)


def forward_decoder_only(
    model: Callable[..., Any],
    base: PreTrainedModel,
    inputs: Mapping[str, Any],
    pad_token_id: int,
    *,
    share_document: bool = True,
) -> ContrastiveOutput:
    """
    The prompt once, s+ and s- behind it under a mask that hides each from the other.

    Model and `base` are those of [`forward_encoder_decoder`]. Inputs hold `input_ids` (prompt and s+),
    `attention_mask`, `labels` (-100 on the prompt) and `negative_labels` (s- alone). Without `share_document` there
    are two sequences, each with its prompt: same result.
    """
    prompts, positives = split_prompts(inputs)
    negatives = [labels[labels != IGNORE_INDEX] for labels in inputs["negative_labels"]]
    labels = _right_padded(positives, IGNORE_INDEX), _right_padded(negatives, IGNORE_INDEX)
    forward = _forward_behind_shared_prompts if share_document else _forward_behind_own_prompts
    outputs, logits = forward(model, base, prompts, labels, pad_token_id)
    return _as_output(outputs, logits, labels)


def _as_output(outputs, logits, labels) -> ContrastiveOutput:
    """Logits and labels of s+ and of s-; the logits may go on behind the longest summary of their side."""
    positive, negative = (
        SummaryLogits(of_side[:, : side.shape[1]], side) for of_side, side in zip(logits, labels, strict=True)
    )
    return ContrastiveOutput(positive, negative, outputs)


def _forward_behind_shared_prompts(model, base, prompts, labels, pad_token_id):
    prompt_ids, prompt_mask = padded(prompts, pad_token_id, "left")  # (batch, prompt_columns)
    device = prompt_ids.device
    positions = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
    # The prompt's last token predicts the first of both summaries, and nothing is predicted from their last. Padded
    # summaries begin at the same columns in all rows.
    sides = [side[:, :-1].masked_fill(side[:, :-1] == IGNORE_INDEX, pad_token_id).tolist() for side in labels]
    packed = pack_continuations(
        [[Continuation(tokens, len(prompt)) for tokens in row] for prompt, *row in zip(prompts, *sides, strict=True)],
        pad_token_id,
    )
    # (batch, 1, prompt_columns + columns, prompt_columns + columns)
    mask = mask_behind_prompts(prompt_mask, packed.visible.to(device))
    if base.config.get_text_config()._attn_implementation == "eager":
        mask = additive_mask(mask, base.dtype)
    outputs = model(
        input_ids=torch.cat([prompt_ids, packed.input_ids.to(device)], dim=1),
        attention_mask=mask,
        position_ids=torch.cat([positions, packed.position_ids.to(device)], dim=1),
        use_cache=False,
        logits_to_keep=1 + packed.input_ids.shape[1],
    )
    logits = outputs["logits"]  # (batch, 1 + columns, vocabulary), from the prompt's last token on
    return outputs, [
        torch.cat([logits[:, :1], logits[:, 1 + columns.start : 1 + columns.stop]], dim=1)
        for columns in packed.spans[0]
    ]


def _forward_behind_own_prompts(model, base, prompts, labels, pad_token_id):
    labels = _right_padded([row for side in labels for row in side], IGNORE_INDEX)  # (2 * batch, tokens)
    rows = [
        torch.cat([prompt, row[row != IGNORE_INDEX]]) for prompt, row in zip([*prompts, *prompts], labels, strict=True)
    ]
    # Padded on the right: positions are those that any model counts by itself.
    input_ids, mask = padded(rows, pad_token_id, "right")  # (2 * batch, columns)
    outputs = model(input_ids=input_ids, attention_mask=mask, use_cache=False)
    logits = outputs["logits"]  # (2 * batch, virtual tokens + columns, vocabulary)
    num_virtual = logits.shape[1] - input_ids.shape[1]
    # The last token before each of the summary's.
    last = torch.tensor([[len(prompt) + num_virtual - 1] for prompt in [*prompts, *prompts]], device=labels.device)
    columns = (last + torch.arange(labels.shape[1], device=labels.device)).clamp(max=logits.shape[1] - 1)
    logits = logits[torch.arange(len(rows), device=labels.device)[:, None], columns]  # (2 * batch, tokens, vocabulary)
    return outputs, logits.split(len(prompts))


def has_virtual_tokens(model: Any) -> bool:
    """
    Whether a PEFT method puts tokens of its own before the prompt (prompt, prefix, p-tuning). Such a method takes no
    mask that says who sees whom.
    """
    config = getattr(model, "active_peft_config", None)
    return config is not None and config.is_prompt_learning


def split_prompts(inputs: Mapping[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """
    The tokens of each prompt, and of each summary, of a decoder-only batch: `input_ids`, `labels` (-100 on prompt and
    padding) and, where there is padding, `attention_mask`, all of shape `(batch, tokens)`.

    Raises:
        `ValueError`: if a row's labels leave no prompt: there is nothing a second summary could stand behind; or leave
            out a token behind it.
    """
    input_ids, labels = inputs["input_ids"], inputs["labels"]
    mask = inputs.get("attention_mask")
    is_token = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    prompts, summaries = [], []
    for ids, row_labels, row_is_token in zip(input_ids, labels, is_token, strict=True):
        labels_of_tokens = row_labels[row_is_token]
        length = prompt_length(labels_of_tokens)
        if not length:
            raise ValueError(
                "The labels of a row mask no prompt: for a decoder-only model input_ids must hold prompt and summary, "
                "and labels must be -100 on the prompt."
            )
        prompts.append(ids[row_is_token][:length])
        summaries.append(labels_of_tokens[length:])
    return prompts, summaries


def prompt_length(labels: torch.Tensor) -> int:
    """
    How many tokens of a decoder-only row are its prompt.

    Args:
        labels (`torch.LongTensor` of shape `(tokens,)`): Of the row's tokens, without padding.

    Raises:
        `ValueError`: if a token behind the first of the summary has no label: it would be none of the summary, and
            moved into the prompt it would change what is trained.
    """
    is_summary = labels != IGNORE_INDEX
    length = int((~is_summary).sum())
    if is_summary[:length].any():
        raise ValueError(
            "The labels of a row are -100 on a token behind the summary's first: for a decoder-only model input_ids "
            "must hold the prompt and behind it the summary, of which each token has its label. Cut the row there, or "
            "let the labels hold the token."
        )
    return length


def _checkpoints_activations(model: PreTrainedModel) -> bool:
    return any(
        isinstance(module, CheckpointWrapper)  # by FSDP
        or (isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing)
        for module in model.modules()
    )


def _right_padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


def padded(rows: list[torch.Tensor], value: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows, padded on the left or right, and 1 where they hold a token: both of shape `(batch, columns)`."""
    ids = pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
    return ids, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
