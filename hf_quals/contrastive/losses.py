"""Losses on triples of a document, a summary to imitate (s+) and a summary to avoid (s-).

Pure functions of logits. Each returns two sums, one over the tokens of s+ and one over those of s-; the trainer adds
them and divides by the number of tokens of both. All work in float32, whatever the type of the logits.
`docs/losses.md` compares them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch


IGNORE_INDEX = -100


class SummaryLogits(NamedTuple):
    """
    What the model says of one summary a document.

    Args:
        logits (`torch.Tensor` of shape `(batch, tokens, vocabulary)`): The logits that predict each token.
        labels (`torch.LongTensor` of shape `(batch, tokens)`): The tokens, -100 where there is none. A row of -100 is
            a document without such a summary.
    """

    logits: torch.Tensor
    labels: torch.Tensor


class ContrastiveSums(NamedTuple):
    """
    What a loss returns.

    Args:
        positive (`torch.Tensor`): A scalar in float32, the sum over the tokens of s+.
        negative (`torch.Tensor`): A scalar in float32, the sum over the tokens of s-.
        negative_log_probs (`torch.Tensor` of shape `(negative_tokens,)`): log p of each token of all s-, row by row;
            their probabilities are logged.
    """

    positive: torch.Tensor
    negative: torch.Tensor
    negative_log_probs: torch.Tensor


class ContrastiveLoss(Protocol):
    """
    What every loss here is, and any function that `contrastive_loss` of the training arguments takes.

    Args:
        positive (`SummaryLogits`): s+ of each document.
        negative (`SummaryLogits`): s- of each document.
        label_smoothing (`float`, *optional*, defaults to 0.0): Weight of the uniform distribution.

    Returns:
        `ContrastiveSums`: the sums over both, and the log-probabilities of the tokens of s-.
    """

    def __call__(
        self, positive: SummaryLogits, negative: SummaryLogits, label_smoothing: float = 0.0
    ) -> ContrastiveSums: ...


def unlikelihood(positive: SummaryLogits, negative: SummaryLogits, label_smoothing: float = 0.0) -> ContrastiveSums:
    r"""
    The loss of ConSeq (https://huggingface.co/papers/2105.04623, section 3.2), after
    https://huggingface.co/papers/1908.04319: s+ becomes more probable and every token of s- less.

    `L = sum_t -log p(s+_t | x, s+_<t) + sum_t -log(1 - p(s-_t | x, s-_<t))`

    With label smoothing e over a vocabulary V, on both sides as in the paper's runs:
    `(1 - e) * -log q_t + e / |V| * sum over v in V of -log q_v`, where q is p for s+ and 1 - p for s-.

    The gradient with respect to the logits stays finite where p(s-_t) is 1 ([`log_one_minus_prob`]).

    Args and returns are those of [`ContrastiveLoss`].

    Relations:
        - [`hellinger`] bounds the penalty of a token, which here grows without end as p goes to 1.
        - [`ranking`] compares whole summaries, and leaves s- alone once it is improbable enough.

    Example:

    ```python
    >>> import torch
    >>> from hf_quals.contrastive.losses import SummaryLogits, unlikelihood
    >>> logits = torch.tensor([[[0.5, 0.25, 0.25]]]).log()  # one document, one token, a vocabulary of three
    >>> positive, negative = (SummaryLogits(logits, torch.tensor([[token]])) for token in (0, 1))
    >>> sums = unlikelihood(positive, negative)
    >>> f"{sums.positive:.3f} {sums.negative:.3f}"  # -log 0.5 and -log(1 - 0.25)
    '0.693 0.288'

    ```
    """
    logits, labels = _tokens(negative)
    if label_smoothing:
        log_probs = logits.log_softmax(-1)
        log_one_minus = _log_one_minus_probs(log_probs)
        log_prob = _gather(log_probs, labels)
        costs = -((1 - label_smoothing) * _gather(log_one_minus, labels) + label_smoothing * log_one_minus.mean(-1))
    else:
        log_prob, costs = _log_prob(logits, labels), -log_one_minus_prob(logits, labels)
    return ContrastiveSums(negative_log_likelihood(positive, label_smoothing), costs.sum(), log_prob)


def hellinger(positive: SummaryLogits, negative: SummaryLogits, label_smoothing: float = 0.0) -> ContrastiveSums:
    r"""
    s+ imitated, and a bounded penalty of s-: one minus the squared Hellinger distance between the model's distribution
    and the one-hot distribution of the token, which is the square root of the token's probability. An option of the
    code that https://huggingface.co/papers/2105.04623 was published with.

    `L = sum_t -log p(s+_t | x, s+_<t) + sum_t sqrt(p(s-_t | x, s-_<t))`

    Label smoothing acts on s+ alone. Args and returns are those of [`ContrastiveLoss`].

    Relations:
        - As [`unlikelihood`], but a token of s- costs at most 1, so that tokens which s- shares with s+ do not pull
          both sides apart without bound.

    Example:

    ```python
    >>> import torch
    >>> from hf_quals.contrastive.losses import SummaryLogits, hellinger
    >>> logits = torch.tensor([[[0.5, 0.25, 0.25]]]).log()  # one document, one token, a vocabulary of three
    >>> positive, negative = (SummaryLogits(logits, torch.tensor([[token]])) for token in (0, 1))
    >>> sums = hellinger(positive, negative)
    >>> f"{sums.positive:.3f} {sums.negative:.3f}"  # -log 0.5 and the square root of 0.25
    '0.693 0.500'

    ```
    """
    log_prob = _log_prob(*_tokens(negative))
    return ContrastiveSums(negative_log_likelihood(positive, label_smoothing), torch.exp(log_prob / 2).sum(), log_prob)


def ranking(positive: SummaryLogits, negative: SummaryLogits, label_smoothing: float = 0.0) -> ContrastiveSums:
    r"""
    s+ imitated, and s- kept one nat a token less probable than s+: the length-normalised ranking loss of BRIO
    (https://huggingface.co/papers/2203.16804, equation 8 beside cross-entropy) for one pair of summaries.

    `L = sum_t -log p(s+_t | x, s+_<t) + |s-| * max(0, f(s-) - f(s+) + 1)`, f(s) the mean of log p(s_t | x, s_<t)

    The ranking term of a document weighs as much as the tokens of its s-, so that dividing by the tokens of both sides
    averages it. Label smoothing acts on s+'s likelihood alone. Args and returns are those of [`ContrastiveLoss`].

    Relations:
        - Looks at s- as a whole, where [`unlikelihood`] and [`hellinger`] push every token of it down. Once s- is
          improbable enough it has no gradient.
        - Pulls s+ up a second time as long as s- is too near.

    Example:

    ```python
    >>> import torch
    >>> from hf_quals.contrastive.losses import SummaryLogits, ranking
    >>> logits = torch.tensor([[[0.5, 0.25, 0.25]]]).log()  # one document, one token, a vocabulary of three
    >>> positive, negative = (SummaryLogits(logits, torch.tensor([[token]])) for token in (0, 1))
    >>> sums = ranking(positive, negative)
    >>> f"{sums.positive:.3f} {sums.negative:.3f}"  # -log 0.5 and log 0.25 - log 0.5 + 1
    '0.693 0.307'

    ```
    """
    log_prob = _log_prob(*_tokens(negative))
    lengths = (negative.labels != IGNORE_INDEX).sum(-1)
    positive_means = _row_means(_log_prob(*_tokens(positive)), positive.labels)
    margin = _row_means(log_prob, negative.labels) - positive_means + 1
    penalty = (lengths * margin.clamp(min=0)).sum()
    return ContrastiveSums(negative_log_likelihood(positive, label_smoothing), penalty, log_prob)


LOSSES: dict[str, ContrastiveLoss] = {"unlikelihood": unlikelihood, "hellinger": hellinger, "ranking": ranking}


def negative_log_likelihood(summaries: SummaryLogits, label_smoothing: float = 0.0) -> torch.Tensor:
    r"""
    `sum_t -log p(s_t | x, s_<t)`, smoothed as Transformers' `LabelSmoother` does.

    Args:
        summaries (`SummaryLogits`): Logits and tokens.
        label_smoothing (`float`, *optional*, defaults to 0.0): Weight of the uniform distribution.

    Returns:
        `torch.Tensor`: a scalar in float32.
    """
    logits, labels = _tokens(summaries)
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


def _log_one_minus_probs(log_probs: torch.Tensor) -> torch.Tensor:
    """`log(1 - p)` of every token of the vocabulary; only the most probable one can have p > 1/2."""
    most_probable = log_probs.argmax(-1, keepdim=True)
    # Where p <= 1/2, log1p(-p) is stable. The most probable token is taken out of it before, and not replaced behind
    # it: the gradient of an infinite value is NaN even where its weight is 0.
    others = log_probs.scatter(-1, most_probable, -torch.inf)
    return torch.log1p(-others.exp()).scatter(-1, most_probable, others.logsumexp(-1, keepdim=True))


def _tokens(summaries: SummaryLogits) -> tuple[torch.Tensor, torch.Tensor]:
    """`(tokens, vocabulary)` and `(tokens,)`: the positions that hold a token, in float32 (more bits are kept)."""
    is_token = summaries.labels != IGNORE_INDEX
    logits = summaries.logits[is_token]
    return (logits if logits.dtype == torch.float64 else logits.float()), summaries.labels[is_token]


def _log_prob(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return _gather(logits, labels) - logits.logsumexp(-1)


def _gather(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The value of each position's token."""
    return values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _row_means(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Means over each row's tokens, of which `values` holds one each; 0 for a row without one."""
    is_token = labels != IGNORE_INDEX
    sums = values.new_zeros(is_token.shape).masked_scatter(is_token, values).sum(-1)
    return sums / is_token.sum(-1).clamp(min=1)
