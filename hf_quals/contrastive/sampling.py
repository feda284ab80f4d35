"""Top-k sampling whose outcome belongs to a document and not to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class SeededTopKSampling(LogitsProcessor):
    """
    Samples from the `top_k` most probable tokens with noise of its own for each sequence: results depend neither on
    what else is in the batch nor on the number of processes, and no global random state is touched.

    A sample of a categorical distribution is the largest of log p plus independent Gumbel noise. All tokens but the
    sampled one get a score of minus infinity, so that greedy search and sampling both take it.

    Args:
        seeds (`Sequence[int]`): A seed for each sequence of the batch.
        top_k (`int`): How many tokens to sample from.
        max_new_tokens (`int`): How many tokens are generated at most.
    """

    def __init__(self, seeds: Sequence[int], top_k: int, max_new_tokens: int):
        uniform = torch.stack(
            [torch.rand(max_new_tokens, top_k, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        self.noise = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(torch.float32).tiny)))
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(sequences, tokens)`): The tokens so far.
            scores (`torch.FloatTensor` of shape `(sequences, vocabulary)`): The scores of the next token.

        Returns:
            `torch.FloatTensor` of shape `(sequences, vocabulary)`: 0 for the sampled token, minus infinity elsewhere.
        """
        noise = self.noise[:, self.step, : scores.shape[-1]].to(scores.device)
        values, tokens = scores.float().topk(noise.shape[-1], dim=-1)
        sampled = tokens.gather(-1, (values + noise).argmax(-1, keepdim=True))
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, sampled, 0.0)
