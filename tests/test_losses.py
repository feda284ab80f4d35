import math

import pytest
import torch

from hf_quals.contrastive.losses import (
    LOSSES,
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
        positive,
        torch.tensor([[1, 2, 4], [3, 4, -100]]),
        negative,
        torch.tensor([[0, 2, 4, 4], [3, -100, 4, -100]]),
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
    positive_logits, positive_labels, negative_logits, negative_labels = example(seed)
    positive = negative = 0.0
    for p, token in probabilities(positive_logits, positive_labels):
        positive += (1 - smoothing) * -math.log(p[token]) + smoothing / 5 * sum(-math.log(q) for q in p)
    for p, token in probabilities(negative_logits, negative_labels):
        negative += (1 - smoothing) * -math.log(1 - p[token]) + smoothing / 5 * sum(-math.log(1 - q) for q in p)
    sums = unlikelihood(positive_logits, positive_labels, negative_logits, negative_labels, smoothing)
    assert [value.item() for value in sums] == pytest.approx([positive, negative], rel=1e-9)


def test_hellinger_adds_the_square_root_of_every_negative_token_s_probability():
    arguments = example()
    expected = sum(math.sqrt(p[token]) for p, token in probabilities(*arguments[2:]))
    positive, negative = hellinger(*arguments)
    assert positive.item() == pytest.approx(unlikelihood(*arguments)[0].item())
    assert negative.item() == pytest.approx(expected, rel=1e-9)


def test_hellinger_is_one_minus_the_squared_distance_to_the_one_hot_distribution():
    logits = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(0))
    p, one_hot = logits.softmax(-1)[0, 0], torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    squared_distance = ((p.sqrt() - one_hot.sqrt()) ** 2).sum() / 2
    assert hellinger(logits, torch.tensor([[1]]), logits, torch.tensor([[2]]))[1].item() == pytest.approx(
        1 - squared_distance.item(), rel=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_ranking_is_its_formula_literally(seed):
    positive_logits, positive_labels, negative_logits, negative_labels = example(seed)
    expected = 0.0
    for row in range(2):
        positive = [
            math.log(p[t]) for p, t in probabilities(positive_logits[row : row + 1], positive_labels[row : row + 1])
        ]
        negative = [
            math.log(p[t]) for p, t in probabilities(negative_logits[row : row + 1], negative_labels[row : row + 1])
        ]
        margin = sum(negative) / len(negative) - sum(positive) / len(positive) + 1
        expected += len(negative) * max(0.0, margin)
    assert ranking(positive_logits, positive_labels, negative_logits, negative_labels)[1].item() == pytest.approx(
        expected
    )


def test_ranking_leaves_a_summary_alone_that_is_improbable_enough():
    certain = torch.tensor([[[20.0, 0.0, 0.0]]])
    logits = certain.clone().requires_grad_()
    loss = ranking(certain, torch.tensor([[0]]), logits, torch.tensor([[1]]))[1]
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().max() == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name, smoothing):
    positive_logits, positive_labels, negative_logits, negative_labels = example()

    def loss(positive, negative):
        return sum(LOSSES[name](positive, positive_labels, negative, negative_labels, smoothing))

    assert torch.autograd.gradcheck(loss, (positive_logits.requires_grad_(), negative_logits.requires_grad_()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_finite_where_a_negative_token_is_certain(name, dtype, smoothing):
    logits = torch.tensor([[[100.0, 0.0, -3.0], [0.0, 1e4, 0.0]]], dtype=dtype).requires_grad_()
    labels = torch.tensor([[0, 1]])
    loss = sum(LOSSES[name](logits, labels, logits, labels, smoothing))
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
    unlikelihood(logits.detach(), torch.tensor([[-100]]), logits, torch.tensor([[0]]))[1].backward()
    assert logits.grad[0, 0].tolist() == pytest.approx([1.0, -0.5, -0.5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_likelihood_is_the_one_of_transformers(smoothing):
    from transformers.trainer_pt_utils import LabelSmoother

    logits, labels, _, _ = example(dtype=torch.float32)
    expected = LabelSmoother(epsilon=smoothing)({"logits": logits}, labels) * (labels != -100).sum()
    assert negative_log_likelihood(logits, labels, smoothing).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_row_without_a_negative_adds_nothing(name):
    positive_logits, positive_labels, negative_logits, negative_labels = example()
    negative_labels[1] = -100
    whole = LOSSES[name](positive_logits, positive_labels, negative_logits, negative_labels)[1]
    row = LOSSES[name](positive_logits[:1], positive_labels[:1], negative_logits[:1], negative_labels[:1])[1]
    assert whole.item() == pytest.approx(row.item())
    assert LOSSES[name](positive_logits, positive_labels, negative_logits, torch.full((2, 4), -100))[1].item() == 0.0
