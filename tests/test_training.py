import itertools
import json
from dataclasses import replace

import pytest
import torch
from conftest import TINY_TEMPLATE, tiny_model, tiny_tokenizer
from transformers import Seq2SeqTrainingArguments, TrainerCallback

from hf_quals.qagen.training import (
    DataCollatorForQAGen,
    Pair,
    Passage,
    QAGenTrainer,
    hold_out,
    in_normal_form,
    load_squad,
    tokenize_passages,
    vary_lengths,
    with_distractors,
)


def squad_file(tmp_path, answers=(("Fury", 0), ("Fury of England", 0))):
    qas = [{"question": " who  won? ", "answers": [{"text": text, "answer_start": start} for text, start in answers]}]
    data = {"data": [{"title": "boxing", "paragraphs": [{"context": "Fury of England won.", "qas": qas}]}]}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(data))
    return path


def test_squad_json_is_read_with_the_shortest_annotated_answer(tmp_path):
    (passage,) = load_squad(squad_file(tmp_path))
    assert passage.text == "Fury of England won."
    assert passage.pairs == (Pair("Who won?", "Fury", 0),)


def test_answer_that_is_not_the_span_it_claims_to_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"answer 'Fury' .* at character 3"):
        load_squad(squad_file(tmp_path, answers=[("Fury", 3)]))


def test_json_that_is_not_squad_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"rows": []}')
    with pytest.raises(ValueError, match="is not SQuAD JSON"):
        load_squad(path)


def test_hub_style_dataset_is_read_like_the_json(tmp_path):
    from datasets import Dataset

    row = {"title": "boxing", "context": "Fury of England won.", "question": "who won?"}
    rows = [
        row | {"answers": {"text": ["Fury"], "answer_start": [0]}},
        row | {"answers": {"text": [], "answer_start": []}},
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "data" / "train.parquet")
    assert load_squad(tmp_path / "data") == [Passage("Fury of England won.", (Pair("Who won?", "Fury", 0),), "boxing")]


def passages(count=40):
    return [
        Passage(
            f"First {i} is here. İstanbul was second in {i}. Third came last!",
            (
                Pair("Which number?", f"First {i}", 0),
                Pair("What was second?", "İstanbul", len(f"First {i} is here. ")),
            ),
            f"group {i // 4}",
        )
        for i in range(count)
    ]


def test_articles_are_held_out_whole():
    train, held_out = hold_out(passages(), size=6, seed=1)
    assert len(held_out) == 8  # two whole articles of four passages
    assert not {p.group for p in train} & {p.group for p in held_out}
    assert hold_out(passages(), size=6, seed=1) == (train, held_out)


def test_holding_out_everything_is_refused():
    with pytest.raises(ValueError, match="leaves none to train on"):
        hold_out(passages(), size=40, seed=0)


def test_texts_of_all_lengths_keep_every_question_and_its_answer_in_place():
    texts = vary_lengths(passages(), seed=0, max_joined_characters=300)
    for text in texts:
        for pair in text.pairs:
            assert text.text[pair.answer_start : pair.answer_start + len(pair.answer)] == pair.answer
    assert sum(len(text.pairs) for text in texts) == sum(len(passage.pairs) for passage in passages())
    lengths = [len(text.text) for text in texts]
    assert min(lengths) < 30
    assert 150 < max(lengths) <= 300
    assert any(text.text == text.text.lower().replace("i̇", "İ") for text in texts)
    assert texts == vary_lengths(passages(), seed=0, max_joined_characters=300)
    assert texts != vary_lengths(passages(), seed=1, max_joined_characters=300)


FEATURES = [
    {
        "input_ids": [5, 6, 7, 2],
        "pairs": [[8, 9, 2], [10, 2]],
        "distractors": [[[8, 11, 12, 2], [13, 2], [8, 9, 5, 2]], []],
        "unlearned": [1, 0],
    },
    {"input_ids": [11, 2], "pairs": [[12, 2], [13, 14, 2]], "distractors": [[], [[13, 2]]], "unlearned": [0, 0]},
]


def log_probs_alone(model, prompt, target):
    """log p of each token of a target, computed in a row of its own."""
    if model.config.is_encoder_decoder:
        logits = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([target])).logits[0]
    else:
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(target)[:, None]).squeeze(-1)


def loss_alone(model, ranking_weight):
    """The loss of `FEATURES`, of which every pair and distractor is computed in a row of its own."""
    tokens, margins = [], []
    for feature in FEATURES:
        for pair, distractors, unlearned in zip(
            feature["pairs"], feature["distractors"], feature["unlearned"], strict=True
        ):
            of_pair = log_probs_alone(model, feature["input_ids"], pair)
            tokens.append(of_pair[unlearned:])
            for distractor in distractors:
                # Up to where they part, both have the same tokens and probabilities.
                margins.append(of_pair.sum() - log_probs_alone(model, feature["input_ids"], distractor).sum())
    ranking = torch.nn.functional.softplus(-torch.stack(margins)).mean()
    return -torch.cat(tokens).mean() + ranking_weight * ranking


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_loss_and_gradients_are_those_of_pairs_and_distractors_computed_alone(family, tmp_path):
    model = tiny_model(family).double()  # random weights of T5 are large, and so is the rounding of float32
    is_encoder_decoder = model.config.is_encoder_decoder
    batch = DataCollatorForQAGen(0, is_encoder_decoder, dtype=torch.float64, pad_to_multiple_of=4)(FEATURES)
    args = Seq2SeqTrainingArguments(tmp_path, report_to="none", use_cpu=True)
    trainer = QAGenTrainer(model=model, args=args, ranking_weight=0.5)
    model.eval()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    expected = loss_alone(model, ranking_weight=0.5)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_what_is_not_learned_of_a_pair_is_read_all_the_same(family, tmp_path):
    model = tiny_model(family).double().eval()
    feature = {"input_ids": [5, 6, 7, 2], "pairs": [[8, 9, 11, 2]], "unlearned": [2]}
    batch = DataCollatorForQAGen(0, model.config.is_encoder_decoder, dtype=torch.float64)([feature])
    args = Seq2SeqTrainingArguments(tmp_path, report_to="none", use_cpu=True)
    loss = QAGenTrainer(model=model, args=args).compute_loss(model, batch)
    expected = -log_probs_alone(model, feature["input_ids"], feature["pairs"][0])[2:].mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def without_dropout(family):
    """A tiny model that computes the same while it trains; in float64, since T5's random weights are large."""
    config = tiny_model(family).config
    config.dropout = config.dropout_rate = 0.0
    torch.manual_seed(0)
    return type(tiny_model(family))(config).double()


def trainer_of(model, features, folder, *, callbacks=(), ranking_weight=0.5, **arguments):
    """One step of training that leaves the weights as they are."""
    args = Seq2SeqTrainingArguments(
        folder,
        max_steps=1,
        learning_rate=0.0,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        **arguments,
    )
    return QAGenTrainer(
        model=model,
        args=args,
        train_dataset=features,
        eval_dataset=features,
        data_collator=DataCollatorForQAGen(0, model.config.is_encoder_decoder, model.dtype, pad_to_multiple_of=4),
        callbacks=list(callbacks),
        ranking_weight=ranking_weight,
    )


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_evaluation_finds_the_same_loss_before_training_and_after_accumulated_steps(family, tmp_path):
    model = without_dropout(family)
    arguments = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    trainer = trainer_of(model, FEATURES, tmp_path, **arguments)
    expected = pytest.approx(loss_alone(model.eval(), ranking_weight=0.5).item(), abs=1e-5)
    assert trainer.evaluate()["eval_loss"] == expected
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == expected


class GradientsOfTheStep(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_two_accumulated_halves_give_the_gradients_of_the_whole_batch(family, tmp_path):
    halves = [
        {"input_ids": [5, 6, 7, 2], "pairs": [[8, 9, 2]], "distractors": [[[8, 11, 2]]]},
        {"input_ids": [11, 6, 2], "pairs": [[12, 10, 2]], "distractors": [[[12, 14, 2]]]},
    ]
    gradients = []
    for batch_size, steps in ((1, 2), (2, 1)):
        seen = GradientsOfTheStep()
        arguments = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": steps}
        trainer_of(without_dropout(family), halves, tmp_path, callbacks=[seen], **arguments).train()
        gradients.append(seen.gradients)
    accumulated, whole = gradients
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(accumulated[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_labels_are_smoothed_where_nothing_is_ranked(family, tmp_path):
    feature = {"input_ids": [5, 6, 7, 2], "pairs": [[8, 9, 11, 2]]}
    model = without_dropout(family)
    trainer = trainer_of(model, [feature], tmp_path, label_smoothing_factor=0.1, ranking_weight=0)
    (target,), vocabulary = feature["pairs"], range(model.config.vocab_size)
    # Of each token nine tenths are the label's, and the last is shared by the whole vocabulary.
    log_probs = [
        [log_probs_alone(model.eval(), feature["input_ids"], [*target[:i], token])[-1].item() for token in vocabulary]
        for i in range(len(target))
    ]
    losses = [-0.9 * row[label] - 0.1 * sum(row) / len(row) for label, row in zip(target, log_probs, strict=True)]
    assert trainer.train().training_loss == pytest.approx(sum(losses) / 4, abs=1e-5)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_the_encoder_computes_in_mixed_precision_like_the_decoder(family, tmp_path):
    model = without_dropout(family).float()
    types = []
    for part in (model.get_encoder(), model.get_decoder()):
        layer = next(module for module in part.modules() if isinstance(module, torch.nn.Linear))
        layer.register_forward_hook(lambda _, __, output: types.append(output.dtype))
    trainer_of(model, FEATURES, tmp_path, bf16=True).train()
    assert types == [torch.bfloat16, torch.bfloat16]


def test_distractors_are_other_answers_of_the_same_kind_from_the_same_text():
    text = "Lewis met Fury of England in 2015 and in 2017."
    pairs = (
        Pair("Who met Fury?", "Lewis", 0),
        Pair("When first?", "2015", 29),
        Pair("Who was met?", "Fury of England", 10),
    )
    (passage,) = with_distractors([Passage(text, pairs, "boxing")], seed=0)
    (first,), (second,), (third,) = (pair.distractors for pair in passage.pairs)
    assert first in {"Fury", "Fury of England", "England"}
    assert second == "2017"
    assert third == "Lewis"  # neither "Fury" nor "England", which the answer holds


def test_several_distractors_differ_and_the_same_kind_comes_first():
    text = "Lewis met Fury of England in 2015 and in 2017."
    (passage,) = with_distractors([Passage(text, (Pair("When first?", "2015", 29),), "boxing")], seed=0, count=3)
    first, *rest = passage.pairs[0].distractors
    assert first == "2017"
    assert len(rest) == len(set(rest)) == 2
    assert set(rest) <= {"Lewis", "Fury", "England"}


def test_foreign_distractors_are_answers_of_other_texts_that_the_text_does_not_hold():
    boxing = Passage("Fury met Lewis.", (Pair("Who met Lewis?", "Fury", 0),), "boxing")
    ring = Passage("Lewis met Joshua.", (Pair("Who met Joshua?", "Lewis", 0), Pair("Who?", "Joshua", 10)), "boxing")
    passage, _ = with_distractors([boxing, ring], seed=0, foreign=1)
    assert passage.pairs[0].distractors == ("Lewis", "Joshua")


def test_pair_whose_text_offers_nothing_else_has_no_distractor():
    (passage,) = with_distractors([Passage("Fury won.", (Pair("Who won?", "Fury", 0),), "boxing")], seed=0)
    assert passage.pairs[0].distractors == ()


def test_questions_that_are_left_out_are_counted(tmp_path, caplog):
    answers = [{"text": "Fury", "answer_start": 0}]
    qas = [("Who won?", answers), ("who  won?", answers), ("Who lost?", []), ("Who fell?", [])]
    paragraph = {"context": "Fury won.", "qas": [{"question": question, "answers": a} for question, a in qas]}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    (passage,) = load_squad(path)
    assert len(passage.pairs) == 1
    assert "left out 2 questions without an answer and 1 that were asked of their passage before" in caplog.text


def test_passages_in_normal_form_keep_their_answers_in_place():
    passage = Passage("A \u201cdeal\u201d of £ 1 m , Lewis 's first .", (Pair("How much ?", "£ 1 m", 12),), "money")
    (pair,) = in_normal_form(passage).pairs
    text = in_normal_form(passage).text
    assert text == 'A "deal" of £1m, Lewis\'s first.'
    assert (pair.question, pair.answer, text[pair.answer_start :][:3]) == ("How much?", "£1m", "£1m")


def test_of_questions_that_are_not_learned_the_answer_is():
    passage = Passage("Fury won.", (Pair("Who won?", "fury", 0), Pair("Who won?", "boxer", 0)), "boxing")
    tokenizer = tiny_tokenizer("llama")
    arguments = {"is_encoder_decoder": False, "question_share": 0.0}
    (feature,), _ = tokenize_passages([passage], tokenizer, TINY_TEMPLATE, **arguments)
    for ids, unlearned, answer in zip(feature["pairs"], feature["unlearned"], ["fury", "boxer"], strict=True):
        assert tokenizer.decode(ids[unlearned:], skip_special_tokens=True).strip() == answer
    labels = DataCollatorForQAGen(0, False)([feature])["labels"]
    assert (labels != -100).sum() == sum(map(len, feature["pairs"])) - sum(feature["unlearned"])


def test_answers_alone_cannot_be_learned_where_they_are_written_first():
    template = replace(TINY_TEMPLATE, pair="{answer} <sep> {question}")
    with pytest.raises(ValueError, match="needs a template with questions first"):
        tokenize_passages([], tiny_tokenizer("llama"), template, is_encoder_decoder=False, question_share=0.5)


def test_passages_of_one_article_are_joined_with_each_other_first():
    texts = vary_lengths(passages(), seed=0, sentence_share=0, joined_share=1, lowercase_share=0)
    assert len(texts) < 5
    for text in texts:
        articles = [int(pair.answer.removeprefix("First ")) // 4 for pair in text.pairs if pair.answer != "İstanbul"]
        assert len(list(itertools.groupby(articles))) == len(set(articles))


def test_pairs_that_cannot_be_learned_are_left_out_and_counted():
    long_answer = Passage("abc", (Pair("q", "a" * 20, 0), Pair("q", "b", 1)), "one")
    long_text = Passage("a" * 50, (Pair("q", "a", 49),), "two")
    features, counts = tokenize_passages(
        [long_answer, long_text],
        tiny_tokenizer("llama"),
        TINY_TEMPLATE,
        is_encoder_decoder=False,
        max_length=40,
        max_pair_length=10,
    )
    assert [len(feature["pairs"]) for feature in features] == [1]
    assert counts == {"texts": 1, "pairs": 1, "pairs_too_long": 1, "pairs_of_truncated_texts": 1}
