"""Several continuations of one prompt in one row: computed together, and none sees another.

Training, scoring and contrastive training all read many continuations of one text. Behind the prompt (in the same row,
or kept in a cache) stand the continuations one after the other; the mask hides them from each other, and the positions
are those each would have alone. So the prompt is computed once, and every result is that of a row of its own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import DynamicCache
from transformers.utils import logging


if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.get_logger(__name__)

# The tokens of a row on which packing is proved.
_PROOF_TOKENS = 16


class Continuation(NamedTuple):
    """
    Tokens that follow a prompt.

    Args:
        tokens (`Sequence[int]`): The tokens. The first is the last token read before: its output predicts the second.
        start (`int`): The position of the first token, counted from the beginning of the prompt.
        behind (`int`, *optional*): The number of an earlier continuation of the row that this one branches off: it
            sees what stands there before `start`, too.
    """

    tokens: Sequence[int]
    start: int
    behind: int | None = None


class PackedContinuations(NamedTuple):
    """
    Rows of continuations, without their prompts.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, columns)`): The tokens, padded on the right.
        position_ids (`torch.LongTensor` of shape `(batch, columns)`): Their positions.
        visible (`torch.BoolTensor` of shape `(batch, columns, columns)`): Which column (last axis) each sees.
        spans (`list[list[slice]]`): The columns of each continuation of each row.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    visible: torch.Tensor
    spans: list[list[slice]]


def pack_continuations(
    rows: Sequence[Sequence[Continuation]], pad_token_id: int, multiple_of: int = 1
) -> PackedContinuations:
    """
    Lays the continuations of each prompt side by side.

    Args:
        rows (`Sequence[Sequence[Continuation]]`): The continuations of each of `batch` prompts.
        pad_token_id (`int`): What fills the gaps.
        multiple_of (`int`, *optional*, defaults to 1): The number of columns is a multiple of it. Few distinct shapes
            matter on CPUs, where each new shape of a matrix product is compiled first.

    Returns:
        `PackedContinuations`: tokens, positions and who sees whom.
    """
    columns = round_up(max(sum(len(continuation.tokens) for continuation in row) for row in rows), multiple_of)
    input_ids = torch.full((len(rows), columns), pad_token_id)
    position_ids = torch.zeros((len(rows), columns), dtype=torch.long)
    # Padding sees itself: a row of attention without a single key would be NaN.
    visible = torch.eye(columns, dtype=torch.bool).repeat(len(rows), 1, 1)
    spans: list[list[slice]] = []
    for b, row in enumerate(rows):
        of_row: list[slice] = []
        first = 0
        for continuation in row:
            last = first + len(continuation.tokens)
            span = slice(first, last)
            input_ids[b, span] = torch.tensor(continuation.tokens, dtype=torch.long)
            position_ids[b, span] = torch.arange(len(continuation.tokens)) + continuation.start
            visible[b, span, span] = torch.ones(last - first, last - first, dtype=torch.bool).tril()
            start, behind = continuation.start, continuation.behind
            while behind is not None:
                trunk = of_row[behind]
                visible[b, span, trunk.start : trunk.start + start - row[behind].start] = True
                start, behind = row[behind].start, row[behind].behind
            of_row.append(span)
            first = last
        spans.append(of_row)
    return PackedContinuations(input_ids, position_ids, visible, spans)


def mask_behind_prompts(prompt_mask: torch.Tensor, visible: torch.Tensor, *, with_prompts: bool) -> torch.Tensor:
    """
    Who sees whom where continuations stand behind left-padded prompts.

    Args:
        prompt_mask (`torch.Tensor` of shape `(batch, prompt_columns)`): 0 where a prompt is padded.
        visible (`torch.BoolTensor` of shape `(batch, columns, columns)`): Who sees whom among the continuations.
        with_prompts (`bool`): Whether the prompts are computed in the same pass, or their keys and values are cached.

    Returns:
        `torch.BoolTensor` of shape `(batch, 1, queries, prompt_columns + columns)`: `queries` are the columns of the
        continuations, behind those of the prompts if these are computed too.
    """
    batch, num_prompt = prompt_mask.shape
    held = prompt_mask.bool()
    mask = torch.cat([held[:, None, :].expand(-1, visible.shape[1], -1), visible], dim=-1)
    if with_prompts:
        index = torch.arange(num_prompt, device=held.device)
        causal = (held[:, None, :] & (index[:, None] >= index)) | (index[:, None] == index)
        blind = torch.zeros(batch, num_prompt, visible.shape[2], dtype=torch.bool, device=held.device)
        mask = torch.cat([torch.cat([causal, blind], dim=-1), mask], dim=1)
    return mask[:, None]


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as numbers added to attention scores, which eager attention and SDPA both take."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def packable_length(model: PreTrainedModel, *, cached: bool) -> float:
    """
    Up to how many tokens of a prompt and a continuation a decoder-only model computes packed rows as separate ones.

    Masks and positions are arguments that not every architecture honours: some derive distances from columns (ALiBi),
    some have a window or a state of their own. So the model shows it on a few random tokens. These say nothing about a
    window that is longer: there the length is the window's, and architectures whose configuration need not tell of one
    (their attention does not go through Transformers' attention functions) are not packed at all.

    Mode, gradients and random states are left as they are.

    Args:
        model (`PreTrainedModel`): A decoder-only model, unwrapped; adapters may be in its layers.
        cached (`bool`): Whether the prompts' keys and values come from a cache, or from the same pass.

    Returns:
        `float`: 0 if every continuation needs a row of its own, `math.inf` if packing is never wrong.
    """
    length = _attention_span(model)
    proof = int(min(length, _PROOF_TOKENS))
    return length if proof >= 4 and _packed_equals_separate(model, proof, cached) else 0


def _attention_span(model: PreTrainedModel) -> float:
    """How far a token sees by the model's configuration, 0 if packing is out of the question."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    if (
        config._attn_implementation not in ("sdpa", "eager")
        or not model._supports_attention_backend
        or model._is_stateful
        or not layers <= {"full_attention", "sliding_attention", "chunked_attention"}
        or not {"position_ids", "logits_to_keep"} <= inspect.signature(model.forward).parameters.keys()
    ):
        return 0
    if layers == {"full_attention"}:
        return math.inf
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((window for window in windows if window is not None), default=math.inf)


def _packed_equals_separate(model: PreTrainedModel, length: int, cached: bool) -> bool:
    num_new = length // 4
    prompts = [random_tokens(model, length - num_new), random_tokens(model, num_new, seed=1)]
    other, last = (random_tokens(model, num_new, seed=seed) for seed in (2, 3))
    with undisturbed(model):
        rows = [torch.tensor([prompt + last], device=model.device) for prompt in prompts]
        separate = torch.cat([model(input_ids=row).logits[:, -num_new:] for row in rows]).float().log_softmax(-1)
        try:
            packed = _last_logits(model, prompts, [other, last], cached).float().log_softmax(-1)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model's code raises where it is given another mask than it expects
            logger.info(f"{type(model).__name__} takes no packed rows: {error!r}")
            return False
    # Relative to how much it matters behind which prompt the same tokens stand.
    return rms(packed - separate) <= tolerance(model.dtype) * rms(separate[0] - separate[1])


def _last_logits(
    model: PreTrainedModel, prompts: list[list[int]], continuations: list[list[int]], cached: bool
) -> torch.Tensor:
    """Logits of the last of the same continuations behind all prompts, `(prompts, tokens, vocabulary)`."""
    columns = max(map(len, prompts))
    prompt_ids = torch.tensor([[0] * (columns - len(prompt)) + prompt for prompt in prompts])
    prompt_mask = torch.tensor([[0] * (columns - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
    packed = pack_continuations([[Continuation(c, len(prompt)) for c in continuations] for prompt in prompts], 0)
    mask = additive_mask(mask_behind_prompts(prompt_mask, packed.visible, with_prompts=not cached), model.dtype)
    ids, packed_positions = packed.input_ids, packed.position_ids
    cache = None
    if cached:
        cache = DynamicCache()
        _run(model, prompt_ids, prompt_mask, positions, cache)
    else:
        ids, packed_positions = torch.cat([prompt_ids, ids], dim=1), torch.cat([positions, packed_positions], dim=1)
    return _run(model, ids, mask, packed_positions, cache)[:, -len(continuations[-1]) :]


def _run(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache
) -> torch.Tensor:
    return model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=positions.to(model.device),
        past_key_values=cache,
        use_cache=cache is not None,
    ).logits


def random_tokens(model: PreTrainedModel, number: int, seed: int = 0) -> list[int]:
    """Tokens to prove something on; the same ones in every process, and no padding among them."""
    config = model.config.get_text_config()
    ids = torch.randint(config.vocab_size, (number,), generator=torch.Generator().manual_seed(seed))
    return ids.masked_fill(ids == (getattr(config, "pad_token_id", None) or 0), config.vocab_size - 1).tolist()


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation without gradients and in the weights' own type, after which nothing tells that it took place."""
    training = [module for module in model.modules() if module.training]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices), torch.autocast(model.device.type, enabled=False):
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def tolerance(dtype: torch.dtype) -> float:
    """How far two ways to compute the same may lie apart, relative to what matters: rounding adds up over layers."""
    return math.sqrt(torch.finfo(dtype).eps)


def rms(difference: torch.Tensor) -> float:
    return difference.square().mean().sqrt().item()


def round_up(number: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple
