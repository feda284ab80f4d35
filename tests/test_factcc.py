import json
import math

import pytest
import torch
from conftest import put_into_cache
from reader_world import LABELS, tiny_bert, tiny_bert_tokenizer, windows_by_hand
from transformers import BertForSequenceClassification, BertModel

from hf_quals.errors import InputError
from hf_quals.judges.factcc import FactccScorer


LONG = "Lewis says that Klitschko is hurt by his defeat to Fury . Joshua won . Klitschko lost the"
SHORT = "Fury lost"


def scorer(id2label=LABELS, **options):
    model = tiny_bert(BertForSequenceClassification, num_labels=len(id2label), id2label=id2label)
    return FactccScorer(model, tiny_bert_tokenizer(), **options)


def probability_by_hand(judge, label, document, claim):
    """The best window, one forward pass each, built from ids."""
    ids, claim_ids = (judge.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (document, claim))
    room = judge.max_length - len(claim_ids) - 3
    probabilities = []
    for window in windows_by_hand(ids, room, judge.stride):
        input_ids = [2, *window, 3, *claim_ids, 3]
        segments = [0] * (len(window) + 2) + [1] * (len(claim_ids) + 1)
        with torch.no_grad():
            logits = judge.model(torch.tensor([input_ids]), token_type_ids=torch.tensor([segments])).logits[0]
        probabilities.append(float(logits.softmax(-1)[label]))
    return max(probabilities), len(probabilities)


def test_options_of_the_hub_reach_model_and_tokenizer(tmp_path):
    judge = scorer()
    for part in (judge.model, judge.tokenizer):
        part.save_pretrained(tmp_path / "factcc")
    repo_id = put_into_cache(tmp_path / "factcc", "user/factcc", tmp_path / "cache")
    loaded = FactccScorer.from_pretrained(repo_id, cache_dir=tmp_path / "cache", device="cpu")
    assert loaded.score([SHORT], [SHORT])[0].score == pytest.approx(judge.score([SHORT], [SHORT])[0].score)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_sentences_are_scored_by_their_best_window_and_averaged(batch_size):
    judge = scorer(max_length=14, stride=3)
    results = judge.score([LONG, SHORT], ["Klitschko is hurt. Fury won.", "Fury lost."], batch_size=batch_size)
    assert [result.sentences for result in results] == [("Klitschko is hurt.", "Fury won."), ("Fury lost.",)]
    for document, result in zip([LONG, SHORT], results, strict=True):
        by_hand = [probability_by_hand(judge, 0, document, sentence) for sentence in result.sentences]
        assert result.probabilities == pytest.approx([probability for probability, _ in by_hand], abs=1e-5)
        assert result.num_windows == max(number for _, number in by_hand)
        assert result.score == pytest.approx(math.fsum(result.probabilities) / len(result.probabilities))
    assert results[0].num_windows > 1
    assert results[1].num_windows == 1


@pytest.mark.parametrize(
    ("id2label", "label"),
    [
        ({0: "INCORRECT", 1: "CORRECT"}, 1),
        ({0: "contradiction", 1: "neutral", 2: "Entailment"}, 2),
        ({0: "consistent", 1: "inconsistent"}, 0),
    ],
)
def test_label_is_read_from_the_config(id2label, label):
    judge = scorer(id2label)
    (result,) = judge.score([SHORT], ["Fury lost."])
    assert result.score == pytest.approx(probability_by_hand(judge, label, SHORT, "Fury lost.")[0], abs=1e-5)


@pytest.mark.parametrize(
    "id2label",
    [{0: "LABEL_0", 1: "LABEL_1"}, {0: "correct", 1: "entailment"}, {0: "correct"}],
)
def test_labels_that_say_nothing_are_refused_and_listed(id2label):
    with pytest.raises(ValueError, match=f"labels are '{id2label[0]}'.*Pass consistent_label"):
        scorer(id2label)


def test_label_may_be_named():
    labels = {0: "LABEL_0", 1: "LABEL_1"}
    first, second = (
        scorer(labels, consistent_label=label).score([SHORT], ["Fury won."])[0] for label in labels.values()
    )
    assert first.score + second.score == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="must be 'yes'"):
        scorer(labels, consistent_label="yes")


def test_claim_that_leaves_no_room_for_the_document_is_refused():
    with pytest.raises(ValueError, match=r"window of 14 tokens has room for 3 beside the 8 of 'Lewis says.*stride, 3"):
        scorer(max_length=14, stride=3).score([LONG], ["Lewis says that Klitschko is hurt by Fury"])


def test_long_claim_about_a_short_document_needs_no_window():
    (result,) = scorer(max_length=14, stride=3).score([SHORT], ["Lewis says that Klitschko is hurt by Fury"])
    assert result.num_windows == 1


def test_loaded_from_a_folder_and_written_as_json(tmp_path):
    judge = scorer()
    judge.model.save_pretrained(tmp_path)
    judge.tokenizer.save_pretrained(tmp_path)
    loaded = FactccScorer.from_pretrained(tmp_path, device="cpu", max_length=64, stride=16)
    (result,), (expected,) = (
        one.score([LONG], ["Fury won. Lewis lost."]) for one in (loaded, scorer(max_length=64, stride=16))
    )
    fields = json.loads(json.dumps(result.to_dict()))
    assert fields["score"] == pytest.approx(expected.score, abs=1e-6)
    assert fields["sentences"] == ["Fury won.", "Lewis lost."]


def test_a_classifier_without_its_head_is_refused(tmp_path):
    tiny_bert(BertModel, id2label=LABELS).save_pretrained(tmp_path)
    tiny_bert_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lacks weights of BertForSequenceClassification: classifier\.bias, cl"):
        FactccScorer.from_pretrained(tmp_path, device="cpu")


def test_a_device_that_is_not_there_is_refused_before_a_model_is_looked_for():
    with pytest.raises(InputError, match="device='cuda:99' is not available here"):
        FactccScorer.from_pretrained("a model that does not exist", device="cuda:99")


def test_no_rows_give_no_results():
    assert scorer().score([], []) == []


@pytest.mark.parametrize(
    ("documents", "summaries", "message"),
    [
        (["a"], [], "got 1 documents and 0 summaries"),
        (["a"], "b", "A single summary goes with a single document"),
        (["a"], [None], "Row 0: the summary must be a string, got NoneType"),
        (["a"], [" "], "Row 0: the summary is empty"),
    ],
)
def test_bad_rows_are_named(documents, summaries, message):
    with pytest.raises(ValueError, match=message):
        scorer().score(documents, summaries)
