"""Candidates of a model: samples whose outcome belongs to a document and not to a batch, and what search writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftType
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from ..qagen.proof import undisturbed
from .forward import has_virtual_tokens, padded
from .rows import decode


class SeededTopKSampling(LogitsProcessor):
    """
    Samples from the `top_k` most probable tokens with noise of its own for each sequence: results depend neither on
    what else is in the batch nor on the number of processes, and no global random state is touched.

    A sample of a categorical distribution is the largest of log p plus independent Gumbel noise. All tokens but the
    sampled one get a score of minus infinity, so that greedy search and sampling both take it.

    Each sequence of the batch has a seed. No more than `max_new_tokens` tokens can be generated.
    """

    def __init__(self, seeds: Sequence[int], top_k: int, max_new_tokens: int):
        uniform = torch.stack(
            [torch.rand(max_new_tokens, top_k, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        self.noise = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(torch.float32).tiny)))
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """0 for the sampled token, minus infinity elsewhere; of shape `(sequences, vocabulary)`, as the scores."""
        noise = self.noise[:, self.step, : scores.shape[-1]].to(scores.device)
        values, tokens = scores.float().topk(noise.shape[-1], dim=-1)
        sampled = tokens.gather(-1, (values + noise).argmax(-1, keepdim=True))
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, sampled, 0.0)


class CandidateSampler:
    """
    Writes summaries with a model, in training or not, and leaves its mode and the global random state as they were.

    Every process must call it equally often where the model is sharded.

    The tokenizer has a pad token; the accelerator holds device and mixed precision.
    """

    def __init__(self, model: Any, tokenizer: Any, accelerator: Accelerator):
        self.model, self.tokenizer, self.accelerator = model, tokenizer, accelerator

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether documents are read by an encoder."""
        return self.model.config.is_encoder_decoder

    def sample(
        self, prompts: Sequence[torch.Tensor], seeds: Sequence[Sequence[int]], *, top_k: int, max_new_tokens: int
    ) -> list[list[list[int]]]:
        """
        Samples a candidate for each of a document's seeds, of which all documents have as many, by the `top_k` most
        probable tokens of each step. Returns the tokens of each document's candidates, end-of-sequence included.
        """
        if len(prompts) > 1 and not _can_pad(self.model):
            settings = {"top_k": top_k, "max_new_tokens": max_new_tokens}
            return [
                self.sample([prompt], [of_document], **settings)[0]
                for prompt, of_document in zip(prompts, seeds, strict=True)
            ]
        num_candidates = len(seeds[0])
        flat_seeds = [seed for of_document in seeds for seed in of_document]
        sequences = self._generate(
            prompts,
            do_sample=True,
            num_beams=1,
            num_return_sequences=num_candidates,
            max_new_tokens=max_new_tokens,
            logits_processor=LogitsProcessorList([SeededTopKSampling(flat_seeds, top_k, max_new_tokens)]),
        )
        return [sequences[first : first + num_candidates] for first in range(0, len(sequences), num_candidates)]

    def search(self, prompts: Sequence[torch.Tensor], **gen_kwargs: Any) -> list[list[int]]:
        """
        Writes one summary a document, greedily or by beam search; what `gen_kwargs` of `generate` leave out, the
        model's generation settings say. Returns the tokens of each, end-of-sequence included.
        """
        return self._generate(prompts, **{"do_sample": False, **gen_kwargs})

    def decode(self, token_ids: list[int]) -> str:
        return decode(self.tokenizer, token_ids)

    def _generate(self, prompts: Sequence[torch.Tensor], **gen_kwargs: Any) -> list[list[int]]:
        with undisturbed(self.model, self.accelerator.device, training=False), self.accelerator.autocast():
            generated = generate_from_prompts(
                self.model,
                [prompt.to(self.accelerator.device) for prompt in prompts],
                pad_token_id=self.tokenizer.pad_token_id,
                **gen_kwargs,
            )
        eos = self.model.generation_config.eos_token_id
        ends = set(eos if isinstance(eos, list) else [eos])
        return [_until(token_ids, ends) for token_ids in generated.tolist()]


@torch.no_grad()
def generate_from_prompts(
    model: Any, prompts: list[torch.Tensor], *, pad_token_id: int, **gen_kwargs: Any
) -> torch.Tensor:
    """
    Generates from documents (encoder–decoder) or prompts (decoder-only), which are on the model's device: one sequence
    each, whatever the model's own generation settings say, unless `num_return_sequences` is among `gen_kwargs`.

    Returns:
        `torch.LongTensor` of shape `(sequences, new_tokens)`: what was generated, without prompt or start token.
    """
    if len(prompts) > 1 and not _can_pad(model):
        alone = [generate_from_prompts(model, [prompt], pad_token_id=pad_token_id, **gen_kwargs) for prompt in prompts]
        return pad_sequence([row for rows in alone for row in rows], batch_first=True, padding_value=pad_token_id)
    is_encoder_decoder = model.config.is_encoder_decoder
    gen_kwargs = as_max_length(gen_kwargs, 1 if is_encoder_decoder else max(map(len, prompts)))
    input_ids, attention_mask = padded(prompts, pad_token_id, "right" if is_encoder_decoder else "left")
    generated = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        **{
            "synced_gpus": is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model),
            "pad_token_id": pad_token_id,
            "num_return_sequences": 1,
            **gen_kwargs,
            "return_dict_in_generate": False,
        },
    )
    return generated[:, 1 if is_encoder_decoder else input_ids.shape[1] :]


def _until(token_ids: list[int], ends: set[int]) -> list[int]:
    return next((token_ids[: index + 1] for index, token in enumerate(token_ids) if token in ends), token_ids)


def _can_pad(model: Any) -> bool:
    """
    Whether a shorter prompt of a batch gives what it gives alone. PEFT's prompt tuning and p-tuning put their tokens
    before a decoder-only model's padding and drop the positions, so that the prompt moves away from these tokens.
    """
    return (
        model.config.is_encoder_decoder
        or not has_virtual_tokens(model)
        or model.active_peft_config.peft_type == PeftType.PREFIX_TUNING
    )


def as_max_length(gen_kwargs: dict[str, Any], start: int) -> dict[str, Any]:
    """
    `max_new_tokens` behind `start` tokens as the `max_length` it means. Beside the `max_length` that a checkpoint's
    generation settings may name, `generate` takes `max_new_tokens`, too, but with a warning at every call.
    """
    if gen_kwargs.get("max_new_tokens") is None or gen_kwargs.keys() & {"max_length", "generation_config"}:
        return gen_kwargs
    return {**gen_kwargs, "max_length": start + gen_kwargs["max_new_tokens"], "max_new_tokens": None}
