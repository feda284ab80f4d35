import doctest
import math

import pytest
import torch

from hf_quals.contrastive import losses
from hf_quals.contrastive.losses import (
    LOSSES,
    SummaryLogits,
    hellinger,
    log_one_minus_prob,
    negative_log_likelihood,
    ranking,
    unlikelihood,
)


def example(seed=0, dtype=torch.float64, scale=2.0):
    """Two documents, three and four tokens a side with padding, a vocabulary of five."""
    generator = torch.Generator().manual_seed(seed)
    positive = scale * torch.randn(2, 3, 5, generator=generator, dtype=dtype)
    negative = scale * torch.randn(2, 4, 5, generator=generator, dtype=dtype)
    return (
        SummaryLogits(positive, torch.tensor([[1, 2, 4], [3, 4, -100]])),
        SummaryLogits(negative, torch.tensor([[0, 2, 4, 4], [3, -100, 4, -100]])),
    )


def probabilities(logits, labels):
    """The distribution and the token of every position that holds one, as plain numbers."""
    for row, tokens in zip(logits.softmax(-1).tolist(), labels.tolist(), strict=True):
        for distribution, token in zip(row, tokens, strict=True):
            if token != -100:
                yield distribution, token


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_unlikelihood_is_its_formula_literally(seed, smoothing):
    of_positive, of_negative = example(seed)
    positive = negative = 0.0
    for p, token in probabilities(*of_positive):
        positive += (1 - smoothing) * -math.log(p[token]) + smoothing / 5 * sum(-math.log(q) for q in p)
    for p, token in probabilities(*of_negative):
        negative += (1 - smoothing) * -math.log(1 - p[token]) + smoothing / 5 * sum(-math.log(1 - q) for q in p)
    sums = unlikelihood(of_positive, of_negative, smoothing)
    assert [sums.positive.item(), sums.negative.item()] == pytest.approx([positive, negative], rel=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_returns_the_log_probability_of_each_negative_token(name, smoothing):
    positive, negative = example()
    expected = [math.log(p[token]) for p, token in probabilities(*negative)]
    log_probs = LOSSES[name](positive, negative, smoothing).negative_log_probs
    assert log_probs.tolist() == pytest.approx(expected, rel=1e-9)


def test_examples_in_the_docstrings_run():
    results = doctest.testmod(losses)
    assert results.attempted >= 5 * len(LOSSES)
    assert results.failed == 0


def test_hellinger_adds_the_square_root_of_every_negative_token_s_probability():
    arguments = example()
    expected = sum(math.sqrt(p[token]) for p, token in probabilities(*arguments[1]))
    sums = hellinger(*arguments)
    assert sums.positive.item() == pytest.approx(unlikelihood(*arguments).positive.item())
    assert sums.negative.item() == pytest.approx(expected, rel=1e-9)


def test_hellinger_is_one_minus_the_squared_distance_to_the_one_hot_distribution():
    logits = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(0))
    p, one_hot = logits.softmax(-1)[0, 0], torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    squared_distance = ((p.sqrt() - one_hot.sqrt()) ** 2).sum() / 2
    sums = hellinger(SummaryLogits(logits, torch.tensor([[1]])), SummaryLogits(logits, torch.tensor([[2]])))
    assert sums.negative.item() == pytest.approx(1 - squared_distance.item(), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_ranking_is_its_formula_literally(seed):
    of_positive, of_negative = example(seed)
    expected = 0.0
    for row in range(2):
        positive, negative = (
            [math.log(p[token]) for p, token in probabilities(logits[row : row + 1], labels[row : row + 1])]
            for logits, labels in (of_positive, of_negative)
        )
        margin = sum(negative) / len(negative) - sum(positive) / len(positive) + 1
        expected += len(negative) * max(0.0, margin)
    assert ranking(of_positive, of_negative).negative.item() == pytest.approx(expected)


def test_ranking_leaves_a_summary_alone_that_is_improbable_enough():
    certain = torch.tensor([[[20.0, 0.0, 0.0]]])
    logits = certain.clone().requires_grad_()
    positive, negative = SummaryLogits(certain, torch.tensor([[0]])), SummaryLogits(logits, torch.tensor([[1]]))
    loss = ranking(positive, negative).negative
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().max() == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name, smoothing):
    positive, negative = example()

    def loss(positive_logits, negative_logits):
        sums = LOSSES[name](
            SummaryLogits(positive_logits, positive.labels), SummaryLogits(negative_logits, negative.labels), smoothing
        )
        return sums.positive + sums.negative

    assert torch.autograd.gradcheck(loss, (positive.logits.requires_grad_(), negative.logits.requires_grad_()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_finite_where_a_negative_token_is_certain(name, dtype, smoothing):
    logits = torch.tensor([[[100.0, 0.0, -3.0], [0.0, 1e4, 0.0]]], dtype=dtype).requires_grad_()
    summary = SummaryLogits(logits, torch.tensor([[0, 1]]))
    sums = LOSSES[name](summary, summary, smoothing)
    loss = sums.positive + sums.negative
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_log_one_minus_prob_is_exact_where_the_probability_rounds_to_one():
    logits = torch.tensor([50.0, 0.0, 0.0])
    assert logits.softmax(-1)[0] == 1.0
    expected = math.log(2) - 50.0  # (e^0 + e^0) / (e^50 + …)
    assert log_one_minus_prob(logits, torch.tensor(0)).item() == pytest.approx(expected, rel=1e-6)


def test_unlikelihood_pushes_a_certain_negative_token_down():
    logits = torch.tensor([[[50.0, 0.0, 0.0]]], requires_grad=True)
    positive = SummaryLogits(logits.detach(), torch.tensor([[-100]]))
    unlikelihood(positive, SummaryLogits(logits, torch.tensor([[0]]))).negative.backward()
    assert logits.grad[0, 0].tolist() == pytest.approx([1.0, -0.5, -0.5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_likelihood_is_the_one_of_transformers(smoothing):
    from transformers.trainer_pt_utils import LabelSmoother

    positive, _ = example(dtype=torch.float32)
    num_tokens = (positive.labels != -100).sum()
    expected = LabelSmoother(epsilon=smoothing)({"logits": positive.logits}, positive.labels) * num_tokens
    assert negative_log_likelihood(positive, smoothing).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_row_without_a_negative_adds_nothing(name):
    positive, negative = example()
    negative.labels[1] = -100
    whole = LOSSES[name](positive, negative)
    row = LOSSES[name](*(SummaryLogits(side.logits[:1], side.labels[:1]) for side in (positive, negative)))
    assert whole.negative.item() == pytest.approx(row.negative.item())
    nothing = LOSSES[name](positive, SummaryLogits(negative.logits, torch.full((2, 4), -100)))
    assert nothing.negative.item() == 0.0
    assert nothing.negative_log_probs.shape == (0,)
