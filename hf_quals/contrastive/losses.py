"""
Losses on triples of a document, a summary to imitate (s+) and a summary to avoid (s-).

Pure functions of logits. Each returns two sums, one over the tokens of s+ and one over those of s-; the trainer adds
them and divides by the number of tokens of both. All work in float32, whatever the type of the logits.
"""

from __future__ import annotations

from typing import Protocol

import torch


IGNORE_INDEX = -100


class ContrastiveLoss(Protocol):
    """
    What every loss here is called with.

    Args:
        positive_logits (`torch.Tensor` of shape `(batch, positive_tokens, vocabulary)`): Logits of each token of s+.
        positive_labels (`torch.LongTensor` of shape `(batch, positive_tokens)`): The tokens of s+, -100 where there is
            none.
        negative_logits (`torch.Tensor` of shape `(batch, negative_tokens, vocabulary)`): Logits of each token of s-.
        negative_labels (`torch.LongTensor` of shape `(batch, negative_tokens)`): The tokens of s-, -100 where there is
            none. A row of -100 is a document without s-.
        label_smoothing (`float`, *optional*, defaults to 0.0): Weight of the uniform distribution.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: two scalars in float32, the sum over s+ and the sum over s-.
    """

    def __call__(
        self,
        positive_logits: torch.Tensor,
        positive_labels: torch.Tensor,
        negative_logits: torch.Tensor,
        negative_labels: torch.Tensor,
        label_smoothing: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


def unlikelihood(
    positive_logits: torch.Tensor,
    positive_labels: torch.Tensor,
    negative_logits: torch.Tensor,
    negative_labels: torch.Tensor,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    The loss of ConSeq (https://huggingface.co/papers/2105.04623, section 3.2), after
    https://huggingface.co/papers/1908.04319: s+ becomes more probable and every token of s- less.

    `L = sum_t -log p(s+_t | x, s+_<t) + sum_t -log(1 - p(s-_t | x, s-_<t))`

    With label smoothing e over a vocabulary V, on both sides as in the paper's runs:
    `(1 - e) * -log q_t + e / |V| * sum over v in V of -log q_v`, where q is p for s+ and 1 - p for s-.

    Args and returns are those of [`ContrastiveLoss`]. The gradient with respect to the logits stays finite where
    p(s-_t) is 1 ([`log_one_minus_prob`]).
    """
    positive = negative_log_likelihood(positive_logits, positive_labels, label_smoothing)
    logits, labels = _tokens(negative_logits, negative_labels)
    if not label_smoothing:
        return positive, -log_one_minus_prob(logits, labels).sum()
    log_probs = _log_one_minus_probs(logits)
    per_token = (1 - label_smoothing) * _gather(log_probs, labels) + label_smoothing * log_probs.mean(-1)
    return positive, -per_token.sum()


def hellinger(
    positive_logits: torch.Tensor,
    positive_labels: torch.Tensor,
    negative_logits: torch.Tensor,
    negative_labels: torch.Tensor,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    As [`unlikelihood`], with a bounded penalty of s-: one minus the squared Hellinger distance between the model's
    distribution and the one-hot distribution of the token, which is the square root of the token's probability.

    `L = sum_t -log p(s+_t | x, s+_<t) + sum_t sqrt(p(s-_t | x, s-_<t))`

    A token of s- costs at most 1, so that tokens which s- shares with s+ do not pull both sides apart without bound.
    Label smoothing acts on s+ alone. Args and returns are those of [`ContrastiveLoss`].
    """
    positive = negative_log_likelihood(positive_logits, positive_labels, label_smoothing)
    logits, labels = _tokens(negative_logits, negative_labels)
    return positive, torch.exp(_log_prob(logits, labels) / 2).sum()


def ranking(
    positive_logits: torch.Tensor,
    positive_labels: torch.Tensor,
    negative_logits: torch.Tensor,
    negative_labels: torch.Tensor,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    s+ imitated, and s- kept one nat a token less probable than s+: the length-normalised ranking loss of BRIO
    (https://huggingface.co/papers/2203.16804, equation 8 beside cross-entropy) for one pair of summaries.

    `L = sum_t -log p(s+_t | x, s+_<t) + |s-| * max(0, f(s-) - f(s+) + 1)`, f(s) the mean of log p(s_t | x, s_<t)

    The ranking term of a document weighs as much as the tokens of its s-, so that dividing by the tokens of both sides
    averages it. Once s- is improbable enough it has no gradient, unlike in [`unlikelihood`]. Label smoothing acts on
    s+'s likelihood alone. Args and returns are those of [`ContrastiveLoss`].
    """
    positive = negative_log_likelihood(positive_logits, positive_labels, label_smoothing)
    lengths = (negative_labels != IGNORE_INDEX).sum(-1)
    margin = _mean_log_prob(negative_logits, negative_labels) - _mean_log_prob(positive_logits, positive_labels) + 1
    return positive, (lengths * margin.clamp(min=0)).sum()


LOSSES: dict[str, ContrastiveLoss] = {"unlikelihood": unlikelihood, "hellinger": hellinger, "ranking": ranking}


def negative_log_likelihood(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    r"""
    `sum_t -log p(s_t | x, s_<t)`, smoothed as Transformers' `LabelSmoother` does.

    Args:
        logits (`torch.Tensor` of shape `(batch, tokens, vocabulary)`): Logits of each token.
        labels (`torch.LongTensor` of shape `(batch, tokens)`): The tokens, -100 where there is none.
        label_smoothing (`float`, *optional*, defaults to 0.0): Weight of the uniform distribution.

    Returns:
        `torch.Tensor`: a scalar in float32.
    """
    logits, labels = _tokens(logits, labels)
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)


def log_one_minus_prob(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""
    `log(1 - p(label))` as the log-sum-exp of all other logits minus that of all: no difference of nearly equal numbers
    is taken, so that value and gradient are finite and right where p is 1 in float32.

    Args:
        logits (`torch.Tensor` of shape `(..., vocabulary)`): Logits.
        labels (`torch.LongTensor` of shape `(...)`): One token each.

    Returns:
        `torch.Tensor` of shape `(...)`: the log-probability of any other token.
    """
    others = logits.scatter(-1, labels.unsqueeze(-1), -torch.inf)
    return others.logsumexp(-1) - logits.logsumexp(-1)


def _log_one_minus_probs(logits: torch.Tensor) -> torch.Tensor:
    """`log(1 - p)` of every token of the vocabulary; only the most probable one can have p > 1/2."""
    most_probable = logits.argmax(-1, keepdim=True)
    # Where p <= 1/2, log1p(-p) is stable. The most probable token is taken out of it before, and not replaced behind
    # it: the gradient of an infinite value is NaN even where its weight is 0.
    others = logits.log_softmax(-1).scatter(-1, most_probable, -torch.inf)
    return torch.log1p(-others.exp()).scatter(-1, most_probable, others.logsumexp(-1, keepdim=True))


def _tokens(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions that hold a token, in float32 (a type of more bits is kept)."""
    held = labels != IGNORE_INDEX
    logits = logits[held]
    return (logits if logits.dtype == torch.float64 else logits.float()), labels[held]


def _log_prob(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return _gather(logits, labels) - logits.logsumexp(-1)


def _gather(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The value of each position's token."""
    return values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _mean_log_prob(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over each row's tokens; 0 for a row without one."""
    held = labels != IGNORE_INDEX
    log_probs = _log_prob(*_tokens(logits, labels))
    sums = log_probs.new_zeros(held.shape).masked_scatter(held, log_probs).sum(-1)
    return sums / held.sum(-1).clamp(min=1)
