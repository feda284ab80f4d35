import torch

from hf_quals.contrastive.sampling import SeededTopKSampling


LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def sampled(seeds, top_k, steps=1):
    processor = SeededTopKSampling(seeds, top_k, max_new_tokens=steps)
    scores = LOGITS.expand(len(seeds), -1)
    return torch.stack([processor(None, scores).argmax(-1) for _ in range(steps)], dim=-1)


def test_tokens_are_sampled_with_the_probabilities_of_the_top_k():
    counts = sampled(range(4000), top_k=3).flatten().bincount(minlength=4) / 4000
    # p renormalised over the three most probable tokens; three standard errors of 4,000 draws are below 0.025.
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=0.025, rtol=0)


def test_a_sequence_depends_on_its_seed_and_not_on_its_batch():
    together = sampled([1, 2, 3], top_k=4, steps=6)
    alone = torch.cat([sampled([seed], top_k=4, steps=6) for seed in (1, 2, 3)])
    assert torch.equal(together, alone)
    assert len(set(map(tuple, sampled(range(50), top_k=4, steps=6).tolist()))) > 30


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    sampled(range(5), top_k=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_top_k_above_the_vocabulary_takes_all_of_it():
    assert set(sampled(range(200), top_k=50).flatten().tolist()) == {0, 1, 2, 3}
