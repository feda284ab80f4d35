"""Candidates belong to their documents and seeds, and sampling them disturbs nothing."""

import pytest
import torch
from accelerate import Accelerator
from conftest import SUMMARIZER_SETTINGS, all_warnings, tiny_model, tiny_tokenizer
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

from hf_quals.contrastive.sampling import CandidateSampler, SeededTopKSampling


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


@pytest.fixture(scope="module", params=["bart", "t5", "llama"])
def sampler(request):
    return CandidateSampler(tiny_model(request.param), tiny_tokenizer(request.param), Accelerator(cpu=True))


def prompts(sampler):
    return [torch.tensor(sampler.tokenizer(text)["input_ids"]) for text in ("ann ran?", "bob sat on the red sun?")]


def test_candidates_are_those_of_their_seeds_whatever_else_is_in_the_batch(sampler):
    both, alone = prompts(sampler), prompts(sampler)[1:]
    together = sampler.sample(both, [[1, 2, 3], [4, 5, 6]], top_k=50, max_new_tokens=6)
    assert [len(candidates) for candidates in together] == [3, 3]
    assert sampler.sample(alone, [[4, 5, 6]], top_k=50, max_new_tokens=6) == together[1:]
    assert sampler.sample(alone, [[7, 8, 9]], top_k=50, max_new_tokens=6) != together[1:]
    eos = sampler.tokenizer.eos_token_id
    for token_ids in together[0] + together[1]:
        assert 1 <= len(token_ids) <= 6
        assert eos not in token_ids[:-1]


def test_search_writes_what_generate_writes(sampler):
    for prompt, written in zip(prompts(sampler), sampler.search(prompts(sampler), max_new_tokens=5), strict=True):
        generated = sampler.model.generate(prompt[None], max_new_tokens=5, do_sample=False, pad_token_id=0)[0]
        start = 1 if sampler.is_encoder_decoder else len(prompt)
        assert written == generated[start:].tolist()[: len(written)]
        assert set(generated[start:].tolist()[len(written) :]) <= {0}


@pytest.mark.parametrize("config_class", [PromptTuningConfig, PromptEncoderConfig, PrefixTuningConfig])
@pytest.mark.parametrize("family", ["bart", "llama"])
def test_behind_virtual_tokens_too_what_is_written_does_not_depend_on_the_batch(family, config_class):
    changed = {"encoder_hidden_size": 8} if config_class is PromptEncoderConfig else {}
    task = "CAUSAL_LM" if family == "llama" else "SEQ_2_SEQ_LM"
    torch.manual_seed(1)
    model = get_peft_model(tiny_model(family), config_class(num_virtual_tokens=3, task_type=task, **changed))
    sampler = CandidateSampler(model, tiny_tokenizer(family), Accelerator(cpu=True))
    texts = ["ann ran?", "bob sat on the red sun?", "dog?", "the cat ran to the red dog?"]
    documents = [torch.tensor(sampler.tokenizer(text)["input_ids"]) for text in texts]
    seeds = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]

    def written(batch_size):
        candidates, searched = [], []
        for rows in (slice(first, first + batch_size) for first in range(0, 4, batch_size)):
            candidates += sampler.sample(documents[rows], seeds[rows], top_k=50, max_new_tokens=8)
            searched += sampler.search(documents[rows], max_new_tokens=8)
        return candidates, searched

    assert written(4) == written(1)


@pytest.mark.parametrize("family", ["bart", "t5", "llama"])
def test_a_checkpoints_own_lengths_give_no_warning_and_change_nothing(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer(family)
    sampler = CandidateSampler(model, tokenizer, Accelerator(cpu=True))
    seeds = [[1, 2], [3, 4]]
    written = []
    for max_length in (14, None):
        model.generation_config.update(**SUMMARIZER_SETTINGS | {"max_length": max_length})
        with all_warnings() as texts:
            sampled = sampler.sample(prompts(sampler), seeds, top_k=50, max_new_tokens=20)
            written.append((sampled, sampler.search(prompts(sampler), max_new_tokens=20)))
        assert texts == []
    assert written[0] == written[1]
    assert max(len(ids) for candidates in written[0][0] for ids in candidates) > 14


def test_the_models_mode_and_the_random_state_are_left_alone(sampler):
    before = torch.get_rng_state()
    for mode in (True, False):
        sampler.model.train(mode)
        sampler.sample(prompts(sampler), [[1], [2]], top_k=5, max_new_tokens=2)
        sampler.search(prompts(sampler), max_new_tokens=2, num_beams=2)
        assert sampler.model.training is mode
    assert torch.equal(torch.get_rng_state(), before)
