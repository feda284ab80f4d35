"""
One forward pass for s+ and s- that computes their document once. Both functions return the logits of both summaries
with the labels they belong to.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .losses import IGNORE_INDEX


class ContrastiveOutput(NamedTuple):
    """
    Args:
        positive_logits (`torch.Tensor` of shape `(batch, positive_tokens, vocabulary)`): Logits of each token of s+.
        positive_labels (`torch.LongTensor` of shape `(batch, positive_tokens)`): The tokens of s+, padded with -100.
        negative_logits (`torch.Tensor` of shape `(batch, negative_tokens, vocabulary)`): Logits of each token of s-.
        negative_labels (`torch.LongTensor` of shape `(batch, negative_tokens)`): The tokens of s-, padded with -100.
        outputs (`~transformers.utils.ModelOutput`): What the model returned.
    """

    positive_logits: torch.Tensor
    positive_labels: torch.Tensor
    negative_logits: torch.Tensor
    negative_labels: torch.Tensor
    outputs: Any


@contextmanager
def encode_once(model: PreTrainedModel, batch_size: int) -> Iterator[None]:
    """
    Within, an encoder–decoder model called with the same `batch_size` documents twice in one batch computes once what
    depends on documents alone: the encoder, and the keys and values that the decoder attends to.

    Hooks, not a call of the encoder outside the model: the pass stays one forward of the wrapped model, which is what
    `DistributedDataParallel`, FSDP and DeepSpeed see.
    """
    once = twice = None  # the encoder's states

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

    Args:
        model (`Callable`): The model as it is trained: wrapped, with adapters.
        base (`PreTrainedModel`): The Transformers model within.
        inputs (`Mapping[str, Any]`): A batch with `labels` and `negative_labels`.
        share_document (`bool`, *optional*, defaults to `True`): `False` encodes the documents twice: same result.
    """
    rest = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    positive_labels, negative_labels = rest.pop("labels"), rest.pop("negative_labels")
    batch_size = len(positive_labels)
    labels = _right_padded([*positive_labels, *negative_labels], IGNORE_INDEX)
    twice = {
        name: torch.cat([value, value]) if isinstance(value, torch.Tensor) and len(value) == batch_size else value
        for name, value in rest.items()
    }
    twice["decoder_input_ids"] = base.prepare_decoder_input_ids_from_labels(labels=labels)
    if share_document:
        with encode_once(base, batch_size):
            outputs = model(**twice, use_cache=False)
    else:
        outputs = model(**twice, use_cache=False)
    positive_logits, negative_logits = outputs["logits"].split(batch_size)
    return ContrastiveOutput(
        positive_logits[:, : positive_labels.shape[1]],
        positive_labels,
        negative_logits[:, : negative_labels.shape[1]],
        negative_labels,
        outputs,
    )


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

    Args:
        model (`Callable`): The model as it is trained: wrapped, with adapters.
        base (`PreTrainedModel`): The Transformers model within.
        inputs (`Mapping[str, Any]`): A batch with `input_ids` (prompt and s+), `attention_mask`, `labels` (-100 on the
            prompt) and `negative_labels` (s- alone).
        pad_token_id (`int`): Fills what no token fills.
        share_document (`bool`, *optional*, defaults to `True`): `False` computes two sequences, each with its prompt:
            same result.
    """
    prompts, positives = split_prompts(inputs)
    negatives = [row[row != IGNORE_INDEX] for row in inputs["negative_labels"]]
    width = max(map(len, prompts))
    device = inputs["input_ids"].device
    prompt_ids = _left_padded(prompts, pad_token_id)
    prompt_mask = _left_padded([torch.ones_like(prompt) for prompt in prompts], 0)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    positive_labels, negative_labels = _right_padded(positives, IGNORE_INDEX), _right_padded(negatives, IGNORE_INDEX)
    num_positive, num_negative = positive_labels.shape[1], negative_labels.shape[1]
    prompt_positions = (prompt_mask.cumsum(-1) - 1).clamp(min=0)

    def continued(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens, mask and positions of a continuation."""
        held = labels != IGNORE_INDEX
        positions = lengths[:, None] + torch.arange(labels.shape[1], device=device)
        return labels.masked_fill(~held, pad_token_id), held.long(), positions

    positive, negative = continued(positive_labels), continued(negative_labels)
    # Positions whose logits are needed: the prompt's last token predicts the first of both summaries.
    if share_document:
        ids, held, positions = (
            torch.cat(parts, dim=1)
            for parts in zip((prompt_ids, prompt_mask, prompt_positions), positive, negative, strict=True)
        )
        mask = _two_continuations_mask(base, held.bool(), width, num_positive)
        behind = [
            torch.arange(width - 1, width + num_positive - 1),
            torch.arange(width + num_positive, width + num_positive + num_negative - 1),
        ]
        keep = torch.cat(behind).to(device)
        outputs = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=keep
        )
        logits = outputs["logits"]
        positive_logits = logits[:, :num_positive]
        negative_logits = torch.cat([logits[:, :1], logits[:, num_positive:]], dim=1)[:, :num_negative]
    else:
        most = max(num_positive, num_negative)
        labels = _right_padded([*positive_labels, *negative_labels], IGNORE_INDEX)
        ids = labels.masked_fill(labels == IGNORE_INDEX, pad_token_id)
        held = torch.cat([torch.cat([prompt_mask, prompt_mask]), (labels != IGNORE_INDEX).long()], dim=1)
        restart = {"position_ids": (held.cumsum(-1) - 1).clamp(min=0)} if _accepts(base, "position_ids") else {}
        outputs = model(
            input_ids=torch.cat([torch.cat([prompt_ids, prompt_ids]), ids], dim=1),
            attention_mask=held,
            use_cache=False,
            **restart,
        )
        logits = outputs["logits"][:, width - 1 : width + most - 1]
        positive_logits, negative_logits = logits.split(len(prompts))
        positive_logits, negative_logits = positive_logits[:, :num_positive], negative_logits[:, :num_negative]
    return ContrastiveOutput(positive_logits, positive_labels, negative_logits, negative_labels, outputs)


def can_share_prompt(model: PreTrainedModel) -> bool:
    """
    Whether two continuations can stand behind one prompt: every layer attends to all tokens its mask allows, and takes
    a mask of four dimensions and positions as they are given.
    """
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        config._attn_implementation in ("sdpa", "eager")
        and _accepts(model, "position_ids")
        and _accepts(model, "logits_to_keep")
        and model._supports_attention_backend
        and not model._is_stateful
        and set(layers) == {"full_attention"}
        and (getattr(config, "sliding_window", None) is None or getattr(config, "layer_types", None) is not None)
    )


def split_prompts(inputs: Mapping[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """
    The prompts and the summaries of a decoder-only batch.

    Args:
        inputs (`Mapping[str, Any]`): `input_ids`, `labels` (-100 on prompt and padding) and, where there is padding,
            `attention_mask`, all of shape `(batch, tokens)`.

    Returns:
        `tuple[list[torch.Tensor], list[torch.Tensor]]`: the tokens of each prompt, and of each summary.

    Raises:
        `ValueError`: if a row's labels leave no prompt: there is nothing a second summary could stand behind.
    """
    input_ids, labels = inputs["input_ids"], inputs["labels"]
    mask = inputs.get("attention_mask")
    held = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    prompts, summaries = [], []
    for ids, row_labels, row_held in zip(input_ids, labels, held, strict=True):
        is_summary = row_labels != IGNORE_INDEX
        prompt = ids[row_held & ~is_summary]
        if not len(prompt) or is_summary[row_held][0]:
            raise ValueError(
                "The labels of a row mask no prompt: for a decoder-only model input_ids must hold prompt and summary, "
                "and labels must be -100 on the prompt."
            )
        prompts.append(prompt)
        summaries.append(row_labels[is_summary])
    return prompts, summaries


def _accepts(model: PreTrainedModel, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


def _checkpoints_activations(model: PreTrainedModel) -> bool:
    return any(
        isinstance(module, CheckpointWrapper)  # by FSDP
        or (isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing)
        for module in model.modules()
    )


def _two_continuations_mask(model: PreTrainedModel, held: torch.Tensor, width: int, num_positive: int) -> torch.Tensor:
    """Causal, without padding, and without s+ for s-: of shape `(batch, 1, tokens, tokens)`."""
    size = held.shape[1]
    index = torch.arange(size, device=held.device)
    negative = index >= width + num_positive
    positive = (index >= width) & ~negative
    allowed = (index[:, None] >= index) & ~(negative[:, None] & positive)
    allowed = (allowed & held[:, None, :]) | torch.eye(size, dtype=torch.bool, device=held.device)
    mask = allowed[:, None]
    if model.config.get_text_config()._attn_implementation == "eager":
        lowest = torch.finfo(model.dtype).min
        return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
    return mask


def _right_padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


def _left_padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")
