"""What a model has to show before its numbers are trusted: on a few random tokens, when it is loaded.

Architectures honour masks, positions and caches differently, and few say so. Here a model computes the same tokens in
the fast way and in the one that every architecture is trained for; what differs is not used, or the model is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging

from ..errors import InputError
from .branches import Branches
from .packing import Continuation, additive_mask, mask_behind_prompts, pack_continuations
from .reading import Asked, Read, read_alone, read_from_encoder
from .template import EncodedText


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .model import QAGenModel

logger = logging.get_logger(__name__)

# The tokens of a row on which packing is proved.
_PROOF_TOKENS = 16


def shareable_length(qagen: QAGenModel) -> float:
    """
    Shows that log-probabilities are those of each text by itself, however a QAGen computes them.

    Args:
        qagen (`QAGenModel`): The model, which must be [`evaluated`].

    Returns:
        `float`: up to how many tokens of a text and a pair a text may be computed once for all its pairs; 0 if never,
        which is logged.

    Raises:
        `ValueError`: if what is generated has other probabilities than the same text in one pass.
    """
    name = type(qagen.model).__name__
    contexts = [random_tokens(qagen.model, 8), random_tokens(qagen.model, 3, seed=1)]
    try:
        generated = qagen.generate(
            [EncodedText(ids, truncated=False) for ids in contexts],
            num_beams=2,
            num_beam_groups=2,
            min_new_tokens=4,
            max_new_tokens=4,
        )
        # One of the two beams tells whether each keeps to its own past.
        targets = [[Asked(list(pairs[-1].token_ids))] for pairs in generated]
        alone = read_alone(qagen, contexts, targets)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture's code raises that was made for something else
        raise InputError(f"{name} cannot be used as a QAGen: to generate pairs from texts fails: {error}") from error
    expected = _log_probs(alone)
    if not _agree(qagen, [[pairs[-1].log_probs] for pairs in generated], expected):
        raise InputError(
            f"{name} cannot be used as a QAGen: in a padded batch, token by token, it generates with other "
            "probabilities than it gives the same text in one pass. Models that see what follows, or that take "
            "padding for text, cannot be scored."
        )
    if qagen.is_encoder_decoder:
        length = math.inf if _shares_encoder(qagen, contexts, targets, expected) else 0
    else:
        length = packable_length(qagen.model, cached=True)
    if not length:
        logger.warning(
            f"{name} cannot compute a text once for all its pairs: each pair is scored in a pass of its own, with "
            "the same result, more slowly."
        )
    return length


def _shares_encoder(
    qagen: QAGenModel,
    contexts: list[list[int]],
    targets: list[list[Asked]],
    expected: list[list[tuple[float, ...]]],
) -> bool:
    try:
        return _agree(qagen, _log_probs(read_from_encoder(qagen, contexts, targets)), expected)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # as above
        logger.info(f"{type(qagen.model).__name__} does not share an encoder's states: {error!r}")
        return False


def _log_probs(rows: list[list[Read]]) -> list[list[tuple[float, ...]]]:
    return [[read.log_probs for read in row] for row in rows]


def _agree(qagen: QAGenModel, values: list[list[tuple[float, ...]]], expected: list[list[tuple[float, ...]]]) -> bool:
    differences = torch.tensor(values) - torch.tensor(expected)
    # In nats, of a few tokens in a row: what is refused must be beyond doubt.
    return rms(differences) <= 4 * tolerance(qagen.model.dtype)


def packable_length(model: PreTrainedModel, *, cached: bool, forward: Callable[..., Any] | None = None) -> float:
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
        forward (`Callable`, *optional*, defaults to `model`): What computes: the model within its wrappers, where
            these must not be passed by (FSDP 2 takes the first module that is called for its root). Not with `cached`.

    Returns:
        `float`: 0 if every continuation needs a row of its own, `math.inf` if packing is never wrong.
    """
    length = _attention_span(model)
    proof = int(min(length, _PROOF_TOKENS))
    return length if proof >= 4 and _packed_equals_separate(model, proof, cached, forward or model) else 0


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


def _packed_equals_separate(model: PreTrainedModel, length: int, cached: bool, forward: Callable[..., Any]) -> bool:
    num_new = length // 4
    prompts = [random_tokens(model, length - num_new), random_tokens(model, num_new, seed=1)]
    other, last = (random_tokens(model, num_new, seed=seed) for seed in (2, 3))
    with evaluated(model):
        rows = [torch.tensor([prompt + last], device=model.device) for prompt in prompts]
        separate = (
            torch.cat([forward(input_ids=row, logits_to_keep=num_new).logits for row in rows]).float().log_softmax(-1)
        )
        try:
            packed = _last_logits(model, prompts, [other, last], cached, forward).float().log_softmax(-1)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model's code raises where it is given another mask than it expects
            logger.info(f"{type(model).__name__} takes no packed rows: {error!r}")
            return False
    # Relative to how much it matters behind which prompt the same tokens stand.
    return rms(packed - separate) <= tolerance(model.dtype) * rms(separate[0] - separate[1])


def _last_logits(
    model: PreTrainedModel,
    prompts: list[list[int]],
    continuations: list[list[int]],
    cached: bool,
    forward: Callable[..., Any],
) -> torch.Tensor:
    """Logits of the last of the same continuations behind all prompts, `(prompts, tokens, vocabulary)`."""
    columns = max(map(len, prompts))
    prompt_ids = torch.tensor([[0] * (columns - len(prompt)) + prompt for prompt in prompts])
    prompt_mask = torch.tensor([[0] * (columns - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    packed = pack_continuations([[Continuation(c, len(prompt)) for c in continuations] for prompt in prompts], 0)
    tensors = [prompt_ids, prompt_mask, packed.input_ids, packed.position_ids]
    prompt_ids, prompt_mask, ids, packed_positions = (tensor.to(model.device) for tensor in tensors)
    num_logits = len(continuations[-1])
    if cached:
        # In two steps: the last continuation must not see the other in the cache either.
        branches, numbers = Branches(model, prompt_ids, prompt_mask), packed.numbers.to(model.device)
        parts = [
            tensor.tensor_split([tensor.shape[1] - num_logits], dim=1) for tensor in (ids, packed_positions, numbers)
        ]
        return [branches.extend(*part).logits for part in zip(*parts, strict=True)][-1]
    return forward(
        input_ids=torch.cat([prompt_ids, ids], dim=1),
        attention_mask=additive_mask(mask_behind_prompts(prompt_mask, packed.visible.to(model.device)), model.dtype),
        position_ids=torch.cat([(prompt_mask.cumsum(-1) - 1).clamp(min=0), packed_positions], dim=1),
        use_cache=False,
        logits_to_keep=num_logits,
    ).logits


def random_tokens(model: PreTrainedModel, number: int, seed: int = 0) -> list[int]:
    """Tokens to prove something on; the same ones in every process, and no padding among them."""
    config = model.config.get_text_config()
    ids = torch.randint(config.vocab_size, (number,), generator=torch.Generator().manual_seed(seed))
    return ids.masked_fill(ids == (getattr(config, "pad_token_id", None) or 0), config.vocab_size - 1).tolist()


@contextmanager
def evaluated(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation without gradients and in the weights' own type, after which nothing tells that it took place."""
    device = model.device
    with undisturbed(model, device, training=False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def undisturbed(model: Any, device: torch.device, *, training: bool) -> Iterator[None]:
    """Trains or evaluates the model, and gives back the mode of each of its modules and the global random state."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def tolerance(dtype: torch.dtype) -> float:
    """How far two ways to compute the same may lie apart, relative to what matters: rounding adds up over layers."""
    return math.sqrt(torch.finfo(dtype).eps)


def rms(difference: torch.Tensor) -> float:
    return difference.square().mean().sqrt().item()
