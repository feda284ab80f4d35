"""Diverse beam search against a slow search that recomputes everything, and against Transformers' own beam search."""

from collections import Counter
from functools import lru_cache, partial

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_quals.qagen import decoding
from hf_quals.qagen.decoding import (
    DiverseBeamSearchDecoderOnlyOutput,
    DiverseBeamSearchEncoderDecoderOutput,
    diverse_beam_search,
)


FAMILIES = ["bart", "t5", "llama"]
PAD, EOS, OTHER_EOS = 1, 2, 3
TEXTS = [[11, 25, 39, 50, 61, 70], [80, 17, 33]]
MAX_NEW_TOKENS = 7


@lru_cache
def tiny_model(family, seed=2, vocab_size=100):
    """A random model with distinct preferences. EOS is likely in some contexts, so that sequences do end."""
    torch.manual_seed(seed)
    special = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 0}
    if family == "bart":
        config = BartConfig(
            vocab_size=vocab_size,
            d_model=16,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=64,
            decoder_start_token_id=EOS,
            forced_eos_token_id=None,
            init_std=0.6,
            **special,
        )
        model = BartForConditionalGeneration(config)
    elif family == "t5":
        config = T5Config(
            vocab_size=vocab_size,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
            initializer_factor=4.0,
            tie_word_embeddings=False,
            **special,
        )
        model = T5ForConditionalGeneration(config)
        model.lm_head.weight.data.normal_(std=0.3)
    else:
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.6,
            **special,
        )
        model = LlamaForCausalLM(config)

    def favour_eos(_module, _args, output):
        output.logits[..., [EOS, OTHER_EOS]] = 2.5 * output.logits[..., [EOS, OTHER_EOS]].abs() - 1.0

    model.register_forward_hook(favour_eos)
    # float64, so that the two ways of computing a probability differ by less than what is tested
    return model.double().eval()


def encode(model, texts):
    """Padded on the left for decoder-only models, on the right for encoders."""
    length = max(map(len, texts))
    rows, masks = [], []
    for text in texts:
        padding, ones = [PAD] * (length - len(text)), [1] * len(text)
        zeros = [0] * len(padding)
        left = not model.config.is_encoder_decoder
        rows.append(padding + text if left else text + padding)
        masks.append(zeros + ones if left else ones + zeros)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


def search(model, texts=TEXTS, **kwargs):
    settings = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "return_dict_in_generate": True,
        "output_scores": True,
        "custom_generate": diverse_beam_search,
    }
    return model.generate(**encode(model, texts), **settings | kwargs)


def new_tokens(model, output):
    """The generated ids of every returned sequence, without the prompt and without what follows the end."""
    return [
        row[-indices.shape[0] :][: int((indices >= 0).sum())].tolist()
        for row, indices in zip(output.sequences, output.beam_indices, strict=True)
    ]


class InPlaceBias(LogitsProcessor):
    """Writes into the scores it is given, and counts on seeing every beam at every step."""

    def __init__(self, bias, rows):
        self.bias, self.rows = torch.tensor(bias), rows

    def __call__(self, input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0] == self.rows
        scores += self.bias
        return scores


class SlowModel:
    """log p(token | text, tokens) of one text: one full forward pass for each prefix, without cache or padding."""

    def __init__(self, model, text):
        self.model, self.text, self.known = model, text, {}

    @torch.no_grad()
    def log_probs(self, tokens):
        if tokens not in self.known:
            if self.model.config.is_encoder_decoder:
                start = self.model.config.decoder_start_token_id
                inputs = {"input_ids": [self.text], "decoder_input_ids": [[start, *tokens]]}
            else:
                inputs = {"input_ids": [[*self.text, *tokens]]}
            logits = self.model(**{name: torch.tensor(ids) for name, ids in inputs.items()}, use_cache=False).logits
            self.known[tokens] = logits[0, -1].log_softmax(-1).tolist()
        return self.known[tokens]


def slow_search(
    model,
    text,
    *,
    num_beams,
    num_beam_groups=1,
    diversity_penalty=0.0,
    max_new_tokens=MAX_NEW_TOKENS,
    min_new_tokens=0,
    eos_token_id=EOS,
    length_penalty=1.0,
    early_stopping=False,
    num_return_sequences=1,
    bias=None,
):
    """Diverse beam search of one text, as it is told. Returns `[(score, tokens, log-probabilities of the tokens)]`."""
    slow = SlowModel(model, text)
    eos = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id)
    size = num_beams // num_beam_groups
    running = [[(0.0, ())] for _ in range(num_beam_groups)]
    finished = [[] for _ in range(num_beam_groups)]
    is_open = [True] * num_beam_groups

    for step in range(1, max_new_tokens + 1):
        chosen = Counter()
        for group in range(num_beam_groups):
            if not is_open[group]:
                continue
            candidates = []
            for score, tokens in running[group]:
                for token, log_prob in enumerate(slow.log_probs(tokens)):
                    if token in eos and step <= min_new_tokens:
                        continue
                    log_prob += bias[token] if bias else 0.0
                    candidates.append((score + log_prob - diversity_penalty * chosen[token], (*tokens, token)))
            candidates.sort(key=lambda candidate: -candidate[0])

            for score, tokens in candidates[:size]:
                if tokens[-1] in eos or step == max_new_tokens:
                    finished[group].append((score / step**length_penalty, tokens))
            finished[group] = sorted(finished[group], key=lambda candidate: -candidate[0])[:size]
            running[group] = [candidate for candidate in candidates if candidate[1][-1] not in eos][:size]
            for _, tokens in running[group]:
                chosen[tokens[-1]] += 1

            if len(finished[group]) == size:
                length = max_new_tokens if early_stopping == "never" and length_penalty > 0 else step
                best_possible = running[group][0][0] / length**length_penalty
                is_open[group] = early_stopping is not True and best_possible > finished[group][-1][0]

    best = sorted((candidate for group in finished for candidate in group), key=lambda candidate: -candidate[0])
    return [
        (score, list(tokens), [slow.log_probs(tokens[:i])[token] for i, token in enumerate(tokens)])
        for score, tokens in best[:num_return_sequences]
    ]


def assert_equals_slow_search(model, texts=TEXTS, bias=None, **settings):
    """Same sequences, scores and log-probabilities. Returns the sequences."""
    slow = [hypothesis for text in texts for hypothesis in slow_search(model, text, bias=bias, **settings)]
    processors = LogitsProcessorList([] if bias is None else [InPlaceBias(bias, len(texts) * settings["num_beams"])])
    output = search(model, texts, **settings, logits_processor=processors)
    generated = new_tokens(model, output)
    assert generated == [tokens for _, tokens, _ in slow]
    torch.testing.assert_close(
        output.sequences_scores, torch.tensor([score for score, _, _ in slow]), atol=1e-5, rtol=5e-7
    )
    length = output.token_log_probs.shape[1]
    assert length == max(map(len, generated))
    expected = torch.tensor([log_probs + [0.0] * (length - len(log_probs)) for _, _, log_probs in slow])
    torch.testing.assert_close(output.token_log_probs, expected, atol=1e-5, rtol=0)
    return generated


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("num_beams", "num_beam_groups"), [(4, 1), (4, 2), (8, 4), (60, 4), (60, 60), (4, 4), (2, 2), (120, 60)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_slow_search(family, num_beams, num_beam_groups, seed):
    generated = assert_equals_slow_search(
        tiny_model(family, seed),
        num_beams=num_beams,
        num_beam_groups=num_beam_groups,
        diversity_penalty=0.5,
        num_return_sequences=num_beams,
    )
    if num_beams >= 60 and seed == 2:
        lengths = {len(tokens) for tokens in generated if tokens[-1] == EOS}
        assert len(lengths) > 3, "sequences must end at different lengths, or nothing is tested"


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 12, "num_beam_groups": 12, "min_new_tokens": 4},
        {"num_beams": 12, "num_beam_groups": 12, "length_penalty": 2.0, "num_return_sequences": 5},
        {"num_beams": 12, "num_beam_groups": 12, "length_penalty": -1.0, "early_stopping": True},
        {"num_beams": 12, "num_beam_groups": 12, "early_stopping": "never"},
        {"num_beams": 12, "num_beam_groups": 12, "early_stopping": "never", "length_penalty": 0.0},
        {"num_beams": 12, "num_beam_groups": 12, "eos_token_id": [EOS, OTHER_EOS]},
        {"num_beams": 12, "num_beam_groups": 12, "diversity_penalty": 20.0},
        {"num_beams": 12, "num_beam_groups": 4, "min_new_tokens": 4, "eos_token_id": [EOS, OTHER_EOS]},
        {"num_beams": 12, "num_beam_groups": 4, "length_penalty": 2.0, "early_stopping": "never"},
        {"num_beams": 12, "num_beam_groups": 4, "length_penalty": -1.0, "early_stopping": True},
        {"num_beams": 12, "num_beam_groups": 2, "length_penalty": 0.0, "diversity_penalty": 3.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_slow_search_under_every_setting(family, settings):
    settings = {"diversity_penalty": 0.7, "num_return_sequences": 12} | settings
    assert_equals_slow_search(tiny_model(family), **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_vocabulary_smaller_than_number_of_groups(family):
    settings = {"num_beams": 60, "num_beam_groups": 60, "diversity_penalty": 0.5, "num_return_sequences": 60}
    model = tiny_model(family, vocab_size=20)
    assert_equals_slow_search(model, [[11, 15, 9, 10], [8, 17, 13]], **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_penalty_keeps_first_tokens_apart(family):
    output = search(
        tiny_model(family),
        num_beams=60,
        num_beam_groups=60,
        diversity_penalty=1e4,
        num_return_sequences=60,
        min_new_tokens=2,
    )
    generated = new_tokens(None, output)
    for text in range(len(TEXTS)):
        assert len({tokens[0] for tokens in generated[60 * text : 60 * (text + 1)]}) == 60


BEAM_SEARCH_SETTINGS = [
    {},
    {"num_return_sequences": 5},
    {"num_return_sequences": 3, "length_penalty": 2.0},
    {"num_return_sequences": 3, "length_penalty": -1.5},
    {"num_return_sequences": 3, "length_penalty": 0.0, "early_stopping": "never"},
    {"num_return_sequences": 3, "length_penalty": 1.0, "early_stopping": "never"},
    {"num_return_sequences": 3, "early_stopping": True},
    {"num_return_sequences": 3, "min_new_tokens": 4},
    {"num_return_sequences": 3, "eos_token_id": [EOS, OTHER_EOS]},
    {"num_return_sequences": 3, "pad_token_id": 0},
    {"num_return_sequences": 3, "no_repeat_ngram_size": 1, "repetition_penalty": 1.5, "forced_eos_token_id": EOS},
    {"num_return_sequences": 3, "use_cache": False},
    {"num_return_sequences": 3, "output_logits": True},
    {"num_return_sequences": 3, "cache_implementation": "static"},
    {"num_return_sequences": 3, "cache_implementation": "static", "prefill_chunk_size": 4},
]


@pytest.mark.parametrize("settings", BEAM_SEARCH_SETTINGS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_group_equals_beam_search(family, settings):
    model = tiny_model(family)
    for num_beams in (2, 5) if settings.get("num_return_sequences", 1) == 1 else (5,):
        ours = search(model, num_beams=num_beams, num_beam_groups=1, **settings)
        theirs = search(model, num_beams=num_beams, custom_generate=None, **settings)
        assert torch.equal(ours.sequences, theirs.sequences)
        assert torch.equal(ours.beam_indices, theirs.beam_indices)
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-5, rtol=0)
        assert len(ours.scores) == len(theirs.scores)
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=1e-5)


@pytest.fixture
def eager_model(request):
    """Of the family that is the parameter; only eager attention tells its weights."""
    model = tiny_model(request.param)
    model.set_attn_implementation("eager")
    yield model
    model.set_attn_implementation("sdpa")


STATES = [
    "attentions",
    "hidden_states",
    "encoder_attentions",
    "encoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "decoder_hidden_states",
]


@pytest.mark.parametrize("settings", [{}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str)
@pytest.mark.parametrize("eager_model", FAMILIES, indirect=True)
def test_hidden_states_and_attentions_of_one_group_are_those_of_beam_search(eager_model, settings):
    settings = {"num_beams": 4, "output_attentions": True, "output_hidden_states": True} | settings
    ours = search(eager_model, num_beam_groups=1, **settings)
    theirs = search(eager_model, custom_generate=None, **settings)
    expected = {name: theirs[name] for name in STATES if theirs.get(name) is not None}
    assert len(expected) == (5 if eager_model.config.is_encoder_decoder else 2)
    for name, states in expected.items():
        # Attention of padding to nothing is NaN.
        torch.testing.assert_close(ours[name], states, atol=1e-8, rtol=1e-6, equal_nan=True)
    assert {name for name in STATES if ours.get(name) is not None} == expected.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_each_beam_until_it_ends(family):
    model = tiny_model(family)
    settings = {"num_beams": 40, "num_beam_groups": 40, "diversity_penalty": 0.5, "num_return_sequences": 40}
    output = search(model, **settings, max_new_tokens=20, output_hidden_states=True)
    is_encoder_decoder = model.config.is_encoder_decoder
    of_steps = output["decoder_hidden_states" if is_encoder_decoder else "hidden_states"]
    texts, lengths = encode(model, TEXTS), set()
    for number, (row, beams) in enumerate(zip(output.sequences, output.beam_indices.tolist(), strict=True)):
        length = sum(beam >= 0 for beam in beams)
        lengths.add(length)
        text = TEXTS[number // 40]
        written = row[-len(beams) :][: length - 1].tolist()
        read = {"input_ids": torch.tensor([text + written])}
        if is_encoder_decoder:
            start = model.config.decoder_start_token_id
            read = {"input_ids": torch.tensor([text]), "decoder_input_ids": torch.tensor([[start, *written]])}
        alone = model(**read, output_hidden_states=True)
        expected = alone["decoder_hidden_states" if is_encoder_decoder else "hidden_states"][-1][0, -length:]
        states = torch.stack([step[-1][beams[0], -1] for step in of_steps])
        torch.testing.assert_close(states[:length], expected, atol=1e-5, rtol=1e-4)
        assert states[length:].isnan().all()
    assert of_steps[0][-1].shape[0] == 40 * len(texts["input_ids"])
    assert len(lengths) > 2


@pytest.mark.parametrize("num_beam_groups", [40, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_static_cache_changes_nothing(family, num_beam_groups):
    settings = {"num_beams": 40, "num_beam_groups": num_beam_groups, "diversity_penalty": 0.5, "max_new_tokens": 20}
    dynamic = search(tiny_model(family), **settings, num_return_sequences=40)
    static = search(tiny_model(family), **settings, num_return_sequences=40, cache_implementation="static")
    assert torch.equal(static.sequences, dynamic.sequences)
    torch.testing.assert_close(static.token_log_probs, dynamic.token_log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_beam_is_greedy_search(family):
    model = tiny_model(family)
    greedy = search(model, custom_generate=None, num_beams=1, pad_token_id=PAD)
    assert torch.equal(search(model, num_beams=1, pad_token_id=PAD).sequences, greedy.sequences)


@pytest.mark.parametrize("num_beam_groups", [12, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_result_does_not_depend_on_the_batch(family, num_beam_groups):
    model = tiny_model(family, seed=1)
    texts = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [42], *TEXTS]
    settings = {
        "num_beams": 12,
        "num_beam_groups": num_beam_groups,
        "diversity_penalty": 0.5,
        "num_return_sequences": 12,
    }
    together = search(model, texts, **settings)
    alone = [search(model, [text], **settings) for text in texts]
    assert new_tokens(model, together) == [tokens for output in alone for tokens in new_tokens(model, output)]
    scores = torch.cat([output.sequences_scores for output in alone])
    torch.testing.assert_close(together.sequences_scores, scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_beam_groups", [12, 4, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_token_log_probs_equal_teacher_forcing(family, num_beam_groups):
    model = tiny_model(family, seed=2)
    output = search(
        model,
        num_beams=12,
        num_beam_groups=num_beam_groups,
        diversity_penalty=0.5,
        num_return_sequences=12,
        min_new_tokens=2,
        repetition_penalty=1.3,  # a processor must not show in the log-probabilities
        output_scores=False,
    )
    assert output.sequences_scores is None
    assert output.scores is None
    inputs = {name: ids.repeat_interleave(12, dim=0) for name, ids in encode(model, TEXTS).items()}
    length = output.token_log_probs.shape[1]
    if model.config.is_encoder_decoder:
        logits = model(**inputs, decoder_input_ids=output.sequences[:, :-1]).logits
    else:
        mask = torch.cat((inputs["attention_mask"], torch.ones(24, length, dtype=torch.long)), dim=-1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(output.sequences, attention_mask=mask, position_ids=positions).logits[:, -length - 1 : -1]
    targets = output.sequences[:, -length:]
    expected = logits.float().log_softmax(-1).gather(-1, targets[:, :, None]).squeeze(-1)
    after_end = torch.cat((torch.zeros(24, 1), (targets == EOS).cumsum(-1)[:, :-1]), dim=-1) > 0
    assert after_end.any()
    torch.testing.assert_close(output.token_log_probs, expected.masked_fill(after_end, 0.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True, "length_penalty": 0.3}, {"min_new_tokens": 3}])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_beam_a_group_equals_the_general_search(family, settings, monkeypatch):
    settings = settings | {
        "num_beams": 30,
        "num_beam_groups": 30,
        "diversity_penalty": 0.5,
        "num_return_sequences": 30,
        "output_logits": True,
    }
    special = search(tiny_model(family), **settings)
    monkeypatch.setattr(decoding, "_OneBeamGroups", decoding._BeamGroups)
    general = search(tiny_model(family), **settings)
    assert torch.equal(special.sequences, general.sequences)
    assert torch.equal(special.beam_indices, general.beam_indices)
    torch.testing.assert_close(special.sequences_scores, general.sequences_scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(special.token_log_probs, general.token_log_probs, atol=1e-5, rtol=0)
    # those of beams that have ended say nothing
    for step, scores in enumerate(special.scores):
        running = scores[:, 10] > -torch.inf
        assert running.any()
        torch.testing.assert_close(scores[running], general.scores[step][running], atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(special.logits[step][running], general.logits[step][running], atol=1e-5, rtol=1e-6)
        assert special.logits[step][~running].isnan().all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings", [{}, {"early_stopping": True, "length_penalty": 0.3}, {"min_new_tokens": 3, "bias": True}], ids=str
)
def test_beams_as_branches_of_their_text_are_those_of_rows_of_their_own(settings, seed):
    model = tiny_model("llama", seed)
    settings = settings | {"num_beams": 30, "num_beam_groups": 30, "diversity_penalty": 0.5}
    settings |= {"num_return_sequences": 30, "output_logits": True, "max_new_tokens": 15}
    if settings.pop("bias", False):
        bias = torch.linspace(-1, 1, 100).tolist()
        settings["logits_processor"] = LogitsProcessorList([InPlaceBias(bias, len(TEXTS) * 30)])
    rows = search(model, **settings)
    branches = search(model, **settings, custom_generate=partial(diverse_beam_search, branching=True))
    assert len(set(map(len, new_tokens(model, rows)))) > 3  # they end at different times
    assert torch.equal(branches.sequences, rows.sequences)
    assert torch.equal(branches.beam_indices, rows.beam_indices)
    for name in ("sequences_scores", "token_log_probs"):
        torch.testing.assert_close(getattr(branches, name), getattr(rows, name), atol=1e-5, rtol=0)
    for name in ("scores", "logits"):
        for step, of_rows in zip(getattr(branches, name), getattr(rows, name), strict=True):
            torch.testing.assert_close(step, of_rows, atol=1e-5, rtol=1e-5, equal_nan=True)


def test_branches_are_computed_in_one_row_a_text_without_those_that_ended():
    model = tiny_model("llama")
    shapes = []
    hook = model.register_forward_hook(lambda _module, _args, output: shapes.append(output.logits.shape[:2]))
    settings = {"num_beams": 30, "num_beam_groups": 30, "diversity_penalty": 0.5, "min_new_tokens": 2}
    branching = partial(diverse_beam_search, branching=True)
    try:
        search(model, **settings, max_new_tokens=30, custom_generate=branching)
    finally:
        hook.remove()
    assert shapes[:2] == [(len(TEXTS), 1), (len(TEXTS), 32)]
    widths = [width for _, width in shapes[1:]]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == 8
    # The longer text alone goes on to the end.
    assert [rows for rows, _ in shapes] == sorted((rows for rows, _ in shapes), reverse=True)
    assert shapes[-1][0] == 1


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("bart", {"num_beam_groups": 4}, "is for decoder-only models, got BartForConditionalGeneration"),
        ("llama", {"num_beam_groups": 2}, "one beam a group.*num_beams=4 and num_beam_groups=2"),
        ("llama", {"num_beam_groups": 4, "output_attentions": True}, "`output_attentions=True` cannot be had"),
        ("llama", {"num_beam_groups": 4, "use_cache": False}, "has a dynamic cache of its own"),
        ("llama", {"num_beam_groups": 4, "inputs_embeds": torch.zeros(2, 6, 16)}, "mask alone, got inputs_embeds"),
    ],
)
def test_branching_says_what_it_cannot_do(family, settings, message):
    branching = partial(diverse_beam_search, branching=True)
    with pytest.raises(ValueError, match=message):
        search(tiny_model(family), num_beams=4, diversity_penalty=0.5, custom_generate=branching, **settings)


@pytest.mark.parametrize("num_beam_groups", [12, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_sum_to_sequences_scores(family, num_beam_groups):
    model = tiny_model(family)
    output = search(
        model,
        num_beams=12,
        num_beam_groups=num_beam_groups,
        diversity_penalty=0.5,
        num_return_sequences=12,
        length_penalty=0.0,
    )
    transitions = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
    torch.testing.assert_close(transitions.sum(-1), output.sequences_scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_beam_groups", [12, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_processor_of_the_user_sees_every_beam_at_every_step(family, num_beam_groups):
    assert_equals_slow_search(
        tiny_model(family),
        num_beams=12,
        num_beam_groups=num_beam_groups,
        diversity_penalty=0.5,
        num_return_sequences=12,
        bias=[((7 * token) % 13) / 10 for token in range(100)],
    )


@pytest.mark.parametrize("num_beam_groups", [12, 4])
def test_prefix_allowed_tokens_are_those_of_the_right_text(num_beam_groups):
    allowed = {0: list(range(10, 30)), 1: list(range(50, 70))}
    output = search(
        tiny_model("llama"),
        num_beams=12,
        num_beam_groups=num_beam_groups,
        diversity_penalty=0.5,
        num_return_sequences=12,
        prefix_allowed_tokens_fn=lambda batch_id, ids: [*allowed[batch_id], EOS],
    )
    for row, tokens in enumerate(new_tokens(None, output)):
        assert set(tokens) <= {*allowed[row // 12], EOS}


class StopAfter(StoppingCriteria):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == self.token


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_stopping_criterion_of_the_user_ends_a_beam_as_eos_does(family, early_stopping):
    model = tiny_model(family)
    settings = {"num_beams": 5, "num_return_sequences": 5, "early_stopping": early_stopping, "min_new_tokens": 2}
    frequent = search(model, **settings).sequences[:, -MAX_NEW_TOKENS:].flatten()
    frequent = frequent[(frequent != EOS) & (frequent != PAD)].mode().values.item()
    criteria = StoppingCriteriaList([StopAfter(frequent)])
    ours = search(model, **settings, stopping_criteria=criteria)
    theirs = search(model, **settings, stopping_criteria=criteria, custom_generate=None)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-5, rtol=0)

    settings |= {"num_beam_groups": 5, "diversity_penalty": 0.5}
    generated = new_tokens(model, search(model, **settings, stopping_criteria=criteria))
    assert all(frequent not in tokens[:-1] and EOS not in tokens[:-1] for tokens in generated)
    assert any(tokens[-1] == frequent for tokens in generated)


@pytest.mark.parametrize("family", FAMILIES)
def test_forced_eos_ends_every_beam(family):
    settings = {"num_beams": 12, "num_beam_groups": 12, "diversity_penalty": 0.5, "num_return_sequences": 12}
    output = search(tiny_model(family), **settings, forced_eos_token_id=EOS)
    assert {tokens[-1] for tokens in new_tokens(None, output)} == {EOS}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_eos_all_sequences_have_full_length(family, monkeypatch):
    model = tiny_model(family)
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    settings = {"num_beams": 20, "num_beam_groups": 20, "diversity_penalty": 0.5, "num_return_sequences": 20}
    output = search(model, **settings)
    assert {len(tokens) for tokens in new_tokens(model, output)} == {MAX_NEW_TOKENS}
    # some other criterion ends a few of them, which are then filled with something that is no token
    frequent = output.sequences[:, -3].mode().values
    output = search(model, **settings, stopping_criteria=StoppingCriteriaList([StopAfter(frequent)]))
    assert {len(tokens) for tokens in new_tokens(model, output) if tokens[-1] != frequent} <= {MAX_NEW_TOKENS}
    assert (output.sequences == -1).any()


@pytest.mark.parametrize("num_beam_groups", [12, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_without_cache(family, num_beam_groups):
    settings = {
        "num_beams": 12,
        "num_beam_groups": num_beam_groups,
        "diversity_penalty": 0.5,
        "num_return_sequences": 12,
    }
    with_cache = search(tiny_model(family), **settings)
    without = search(tiny_model(family), **settings, use_cache=False)
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(with_cache.token_log_probs, without.token_log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_read_once_and_ended_beams_leave_the_batch(family):
    model = tiny_model(family)
    rows = []
    hook = model.register_forward_hook(lambda _module, _args, output: rows.append(output.logits.shape[0]))
    try:
        search(model, num_beams=30, num_beam_groups=30, diversity_penalty=0.5, min_new_tokens=2, max_new_tokens=30)
    finally:
        hook.remove()
    assert rows[:2] == [len(TEXTS), len(TEXTS) * 30]
    assert rows == [rows[0], *sorted(rows[1:], reverse=True)]
    assert rows[-1] == 32  # the batch shrinks in steps of so many rows


def test_finished_process_keeps_up_with_the_others(monkeypatch):
    """Under ZeRO-3 or FSDP every process must run as many forward passes as the slowest one."""
    model = tiny_model("llama")
    settings = {"num_beams": 6, "num_beam_groups": 6, "diversity_penalty": 0.5, "num_return_sequences": 6}
    expected = search(model, **settings, max_new_tokens=30)
    asked = []

    def others_take_three_steps_more(finished, synced_gpus, device):
        asked.append(finished)
        return asked.count(True) <= 3

    monkeypatch.setattr(model, "_has_unfinished_sequences", others_take_three_steps_more, raising=False)
    output = search(model, **settings, max_new_tokens=30)
    assert asked.count(True) == 4
    assert torch.equal(output.sequences, expected.sequences)
    assert len(output.scores) == len(expected.scores)


def test_returns_what_generate_returns():
    settings = {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 0.5, "num_return_sequences": 2}
    for family, output_class in {
        "bart": DiverseBeamSearchEncoderDecoderOutput,
        "llama": DiverseBeamSearchDecoderOnlyOutput,
    }.items():
        model = tiny_model(family)
        output = search(model, **settings)
        assert type(output) is output_class
        sequences = search(model, **settings, return_dict_in_generate=False, output_scores=False)
        assert torch.equal(sequences, output.sequences)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 6, "num_beam_groups": 4}, "num_beams=6 and num_beam_groups=4"),
        ({"num_beam_groups": 4, "diversity_penalty": 0.0}, "larger than 0"),
        ({"num_beam_groups": 4, "diversity_penalty": None}, "larger than 0"),
        ({"diversity_penalty": -0.5}, "must not be negative, got -0.5"),
        ({"do_sample": True}, "do_sample=True"),
        ({"low_memory": True}, "low_memory=True"),
        ({"force_words_ids": [[5]]}, "`force_words_ids` is not supported"),
        ({"num_return_sequences": 5}, "num_return_sequences"),
        ({"cache_implementation": "sliding_window"}, "cache_implementation='sliding_window'.*'dynamic' or 'static'"),
    ],
    ids=str,
)
def test_says_what_it_does_not_do(settings, message):
    with pytest.raises(ValueError, match=message):
        search(tiny_model("llama"), **{"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5} | settings)


def test_refuses_a_filled_cache():
    model = tiny_model("llama")
    cache = model(torch.tensor([[5, 6]]).repeat(4, 1), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="empty cache, got one of 2 positions"):
        search(model, [[5, 6, 7]], num_beams=4, past_key_values=cache)
