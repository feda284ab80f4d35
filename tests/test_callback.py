"""QualsCallback: what it chooses and when, what it shows at evaluations, and what it refuses."""

import json
import math
import time
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from conftest import SUMMARIZER_SETTINGS, all_warnings, tiny_model, tiny_qagen, tiny_tokenizer
from contrastive_world import NUM_ROWS, PLAIN_DESCENT, callback, rows, trainer, without_dropout
from datasets import Dataset
from explained import told
from peft import LoraConfig, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, TrainerCallback

from hf_quals import (
    ContrastiveSeq2SeqTrainer,
    QualsCallback,
    QualsCallbackConfig,
    QualsScorer,
    Scorer,
    select_triples,
)
from hf_quals.contrastive import callback as callback_module
from hf_quals.judges.rouge import RougeScorer, rouge


class Recording(Scorer):
    """Scores by a rule that can be checked by eye, and remembers what it was asked."""

    name = "rule"
    reads_references = True

    def __init__(self):
        self.asked = []

    def score(self, documents, summaries, *, references=None, batch_size=8):
        self.asked.extend(zip(documents, summaries, references, strict=True))
        return [SimpleNamespace(score=self.rule(summary)) for summary in summaries]

    @staticmethod
    def rule(summary):
        return float(sum(map(ord, summary)) % 97)


def recording(scorer=None, **changed):
    """A callback whose scorer records, with the published shares."""
    values = {"num_eval_samples": 0, "positive_share": 0.3, "negative_share": 0.3, "batch_size": 8, **changed}
    return callback(scorer or Recording(), **values)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# ---- Refresh ----


@pytest.mark.parametrize(("family", "num_triples"), [("bart", None), ("t5", 2), ("llama", 6)])
def test_triples_are_the_selection_among_the_candidates_scores(tmp_path, family, num_triples):
    chooser = callback(num_triples=num_triples, document_column="document", reference_column="summary")
    data = rows(family)
    run = trainer(family, tmp_path, data=data, callbacks=[chooser], num_train_epochs=1)
    run.train()
    state, tokenizer = chooser.state, tiny_tokenizer(family)

    references = chooser.scorer.score(data["document"], data["summary"])
    assert state.reference_scores == pytest.approx([result.score for result in references], abs=1e-4, nan_ok=True)
    for document, candidates in zip(data["document"], state.candidates, strict=True):
        assert len(candidates.texts) == 3
        for ids, text, score in zip(candidates.token_ids, candidates.texts, candidates.scores, strict=True):
            assert 1 <= len(ids) <= 8
            assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
            expected = chooser.scorer.score([document], [text])[0].score if text else math.nan
            assert score == pytest.approx(expected, abs=1e-4, nan_ok=True)

    triples = select_triples(
        state.reference_scores,
        [candidates.scores for candidates in state.candidates],
        positive_share=0.7,
        negative_share=0.7,
        num_triples=num_triples,
    )
    assert state.triples == triples
    assert len(run.train_dataset) == len(triples)
    for row, triple in zip(run.train_dataset, triples, strict=True):
        assert row["labels"] == data[triple.document]["labels"]
        assert row["negative_labels"] == state.candidates[triple.document].token_ids[triple.candidate]


def test_texts_are_decoded_where_no_column_is_named(tmp_path):
    chooser = recording()
    trainer("bart", tmp_path, callbacks=[chooser], num_train_epochs=1).train()
    data = rows("bart")
    assert {(document, reference) for document, _, reference in chooser.scorer.asked} == set(
        zip(data["document"], data["summary"], strict=True)
    )


def test_a_decoder_only_models_prompt_is_no_part_of_its_candidates(tmp_path):
    chooser = recording()
    trainer("llama", tmp_path, callbacks=[chooser], num_train_epochs=1).train()
    assert {document for document, _, _ in chooser.scorer.asked} == {text + "?" for text in rows("llama")["document"]}
    assert all(len(text) <= 8 for candidates in chooser.state.candidates for text in candidates.texts)


def test_each_epoch_has_new_candidates_and_as_many_triples_while_references_are_scored_once(tmp_path):
    chooser = recording(num_triples=None, positive_share=0.7, negative_share=0.7)
    run = trainer("bart", tmp_path, callbacks=[chooser], num_train_epochs=3, learning_rate=1e-2)
    run.train()
    history = chooser.state.history
    assert [means["epoch"] for means in history] == [0, 1, 2]
    assert len({means["num_triples"] for means in history}) == 1
    assert len({means["candidate_rule"] for means in history}) == 3
    references = set(rows("bart")["summary"])
    assert sum(summary in references for _, summary, _ in chooser.scorer.asked) == NUM_ROWS
    assert run.state.global_step == 3 * math.ceil(history[0]["num_triples"] / 2)


def test_refresh_every_counts_epochs(tmp_path):
    chooser = recording(refresh_every=2)
    trainer("bart", tmp_path, callbacks=[chooser], num_train_epochs=5).train()
    assert [means["epoch"] for means in chooser.state.history] == [0, 2, 4]


def test_candidates_do_not_depend_on_the_batch_size(tmp_path):
    found = []
    for batch_size in (5, NUM_ROWS):
        chooser = recording(batch_size=batch_size)
        trainer("bart", tmp_path, callbacks=[chooser], num_train_epochs=1).train()
        found.append([candidates.token_ids for candidates in chooser.state.candidates])
    assert found[0] == found[1]


def test_the_defaults_are_the_papers():
    chooser = QualsCallback(QualsScorer(tiny_qagen("bart")))
    assert chooser.config == QualsCallbackConfig(
        num_candidates=6,
        top_k=50,
        max_new_tokens=60,
        positive_share=0.3,
        negative_share=0.3,
        num_triples=None,
        refresh_every=1,
        num_eval_samples=32,
        batch_size=8,
    )


class Unsure(Recording):
    """Has no score for about every other text."""

    @staticmethod
    def rule(summary):
        total = sum(map(ord, summary))
        return math.nan if total % 2 else float(total % 97)


def test_a_candidate_without_a_score_is_never_chosen(tmp_path):
    chooser = recording(Unsure(), num_triples=3)
    trainer("bart", tmp_path, callbacks=[chooser], num_train_epochs=1).train()
    scores = [candidates.scores for candidates in chooser.state.candidates]
    assert any(math.isnan(score) for of_document in scores for score in of_document)
    chosen = [scores[triple.document] for triple in chooser.state.triples]
    assert len(chosen) == 3
    for of_document, triple in zip(chosen, chooser.state.triples, strict=True):
        assert of_document[triple.candidate] == min(score for score in of_document if not math.isnan(score))


def test_a_worker_process_sees_the_triples_of_its_epoch(tmp_path):
    found = []
    for num_workers in (0, 1):
        model = tiny_model("bart")
        chooser = callback()
        run = trainer("bart", tmp_path, model=model, callbacks=[chooser], dataloader_num_workers=num_workers)
        run.train()
        assert len(chooser.state.history) == 2
        found.append(weights(model))
    assert torch.equal(found[0], found[1])


def test_the_users_own_collator_and_a_set_of_plain_dictionaries_train(tmp_path):
    model = tiny_model("bart")
    before = weights(model)
    collator = DataCollatorForSeq2Seq(tiny_tokenizer("bart"), model=model, pad_to_multiple_of=8)
    run = trainer(
        "bart", tmp_path, model=model, data=list(rows("bart")), callbacks=[callback()], data_collator=collator
    )
    run.train()
    assert not torch.equal(weights(model), before)
    assert next(iter(run.get_train_dataloader()))["input_ids"].shape[1] % 8 == 0


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_an_adapter_trains_in_bf16_with_activation_checkpointing(tmp_path, family):
    model = get_peft_model(tiny_model(family), LoraConfig(r=2, target_modules="all-linear"))
    before = weights(model)
    chooser = callback()
    changed = {"bf16": True, "activation_checkpointing": True, "eval_dataset": rows(family, 3)}
    run = trainer(family, tmp_path, model=model, callbacks=[chooser], **changed)
    run.train()
    assert len(chooser.state.history) == 2
    assert not torch.equal(weights(model), before)
    assert "eval_quals" in run.evaluate()


def test_a_refresh_comes_every_so_many_steps_as_the_triples_fill(tmp_path):
    chooser = recording(num_triples=8)  # two steps of four rows
    run = trainer("bart", tmp_path, callbacks=[chooser], per_device_train_batch_size=4, max_steps=6)
    run.train()
    assert run.state.global_step == 6
    assert len(chooser.state.history) == 3


def test_an_epoch_is_said_at_the_start_where_it_is_shorter_than_the_training_set(tmp_path, caplog):
    changed = {"num_train_epochs": 1, "gradient_accumulation_steps": 2}
    trainer("bart", tmp_path, callbacks=[recording()], **changed).train()
    assert "An epoch is 6 triples of 16 documents: 2 steps." in caplog.text  # batches of 2, 2 and 2
    assert "QualsCallbackConfig(include_rest=True) keeps all other rows" in caplog.text


@pytest.mark.parametrize("family", ["bart", "llama"])
@pytest.mark.parametrize("gradient_accumulation_steps", [1, 3])
def test_with_the_rest_all_other_rows_train_as_rows_without_a_negative_do(
    tmp_path, family, gradient_accumulation_steps
):
    changed = {"num_train_epochs": 1, "gradient_accumulation_steps": gradient_accumulation_steps, **PLAIN_DESCENT}
    changed |= {"learning_rate": 1e-2}
    own, expected = (without_dropout(tiny_model(family)) for _ in range(2))
    chooser = recording(num_triples=None, positive_share=0.7, negative_share=0.7, include_rest=True)
    run = trainer(family, tmp_path, model=own, callbacks=[chooser], **changed)
    run.train()
    assert run.state.global_step == math.ceil(8 / gradient_accumulation_steps)

    state = chooser.state
    assert 0 < len(state.triples) < NUM_ROWS
    negative_of = {
        triple.document: state.candidates[triple.document].token_ids[triple.candidate] for triple in state.triples
    }
    # Row 0 speaks for the column.
    data = [{**row, "negative_labels": negative_of.get(number, [])} for number, row in enumerate(rows(family))]
    trainer(family, tmp_path, model=expected, data=Dataset.from_list(data), **changed).train()
    assert torch.equal(weights(own), weights(expected))


def test_few_documents_train_with_the_default_shares(tmp_path):
    chooser = recording(num_triples=None)
    run = trainer("bart", tmp_path, data=rows("bart", 6), callbacks=[chooser])
    run.train()
    assert run.state.global_step == 2 * math.ceil(len(chooser.state.triples) / 2)


def test_a_second_training_starts_with_a_refresh_of_its_own(tmp_path):
    chooser = recording(num_triples=None)
    run = trainer("bart", tmp_path, callbacks=[chooser], learning_rate=1e-2)
    run.train()
    first = chooser.state
    run.train()
    assert [means["epoch"] for means in chooser.state.history] == [0, 1]
    assert chooser.state.history[0]["candidate_rule"] != first.history[0]["candidate_rule"]


def test_a_smaller_batch_found_on_the_way_keeps_the_triples(tmp_path):
    class Small(ContrastiveSeq2SeqTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            if len(inputs["input_ids"]) > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().training_step(model, inputs, num_items_in_batch)

    chooser = recording()
    changed = {"per_device_train_batch_size": 3, "auto_find_batch_size": True, "num_train_epochs": 1}
    run = trainer("bart", tmp_path, callbacks=[chooser], trainer_class=Small, **changed)
    run.train()
    assert run.state.train_batch_size == 2
    assert run.state.global_step == 3
    assert len(chooser.state.history) == 1


def test_a_training_that_begins_anew_with_smaller_batches_begins_with_its_first_refresh(tmp_path, monkeypatch):
    class Late(ContrastiveSeq2SeqTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            if self.state.epoch >= 1 and len(inputs["input_ids"]) > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().training_step(model, inputs, num_items_in_batch)

    epochs = []
    refresh = callback_module.refresh
    monkeypatch.setattr(
        callback_module, "refresh", lambda *args, **kwargs: epochs.append(kwargs["epoch"]) or refresh(*args, **kwargs)
    )
    changed = {"per_device_train_batch_size": 3, "auto_find_batch_size": True, "num_train_epochs": 2}
    trainer("bart", tmp_path, callbacks=[recording()], trainer_class=Late, **changed).train()
    assert epochs == [0, 1, 0, 1]


def test_memory_that_a_refresh_lacks_is_not_looked_for_in_the_batches_of_training(tmp_path):
    class Large(Scorer):
        name = "large"

        def score(self, documents, summaries, *, references=None, batch_size=8):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    run = trainer("bart", tmp_path, callbacks=[callback(Large())], auto_find_batch_size=True)
    with pytest.raises(
        RuntimeError, match=r"4 documents with 3 candidates at once: set QualsCallbackConfig\(batch_size"
    ):
        run.train()


def test_a_later_refresh_without_any_score_keeps_the_triples_and_is_saved(tmp_path):
    class Fading(Scorer):
        name, is_silent = "fading", False

        def score(self, documents, summaries, *, references=None, batch_size=8):
            return [SimpleNamespace(score=math.nan if self.is_silent else -len(text)) for text in summaries]

    class Silence(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            scorer.is_silent = True

    scorer = Fading()
    chooser = callback(scorer)
    trainer("bart", tmp_path, callbacks=[chooser, Silence()], save_strategy="epoch").train()
    first, second = (json.loads((tmp_path / f"checkpoint-{n}/quals_state.json").read_text()) for n in (3, 6))
    assert second["epoch"] == 1
    assert second["history"][1]["candidate_fading"] is None
    assert second["triples"] == first["triples"]


def test_the_state_with_all_candidates_stands_in_checkpoints_alone(tmp_path):
    folder = tmp_path / "checkpoints"
    run = trainer("bart", folder, callbacks=[callback()], save_strategy="epoch", num_train_epochs=1)
    run.train()
    run.save_model()
    assert {path.parent.name for path in folder.rglob("quals_state.json")} == {"checkpoint-3"}


class Brevity(Scorer):
    """No more than a scorer must have."""

    name = "brevity"

    def score(self, documents, summaries, *, references=None, batch_size=8):
        assert references is None
        return [SimpleNamespace(score=-float(len(summary))) for summary in summaries]


def test_any_scorer_chooses_and_gives_its_name_to_metrics_and_columns(tmp_path):
    chooser = callback(Brevity(), num_triples=4)
    run = trainer("bart", tmp_path, callbacks=[chooser], eval_dataset=rows("bart", 4), num_train_epochs=1)
    run.train()
    state = chooser.state
    assert state.reference_scores == [-float(len(summary)) for summary in rows("bart")["summary"]]
    for triple in state.triples:
        lengths = [len(text) for text in state.candidates[triple.document].texts]
        assert lengths[triple.candidate] == max(lengths)
    names = {"reference_brevity", "candidate_brevity", "positive_brevity", "negative_brevity"}
    assert set(state.history[0]) == {"epoch", "unscored", "num_triples", *names}
    metrics = run.evaluate()
    [*table] = map(json.loads, (tmp_path / "_quals" / "eval-2.jsonl").read_text().splitlines())
    assert metrics["eval_brevity"] == sum(row["brevity"] for row in table) / 4
    assert [row["brevity"] for row in table] == [-len(row["candidate"]) for row in table]
    assert metrics["eval_brevity_unscored"] == 0.0
    assert not list((tmp_path / "_quals").glob("*.html"))  # Brevity has no page


def test_rouge_chooses_candidates_by_their_reference(tmp_path):
    chooser = callback(RougeScorer(), positive_share=1.0, num_triples=4)
    trainer("bart", tmp_path, callbacks=[chooser], num_train_epochs=1).train()
    assert chooser.state.reference_scores == [1.0] * NUM_ROWS
    for reference, candidates in zip(rows("bart")["summary"], chooser.state.candidates, strict=True):
        for text, score in zip(candidates.texts, candidates.scores, strict=True):
            assert math.isnan(score) if not text else score == fmean(rouge(reference, text).values())


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_progress_bars_obey_disable_tqdm(tmp_path, capsys, disable_tqdm):
    trainer("bart", tmp_path, callbacks=[recording()], num_train_epochs=1, disable_tqdm=disable_tqdm).train()
    shown = capsys.readouterr().err
    for bar in ("Checking the training set", "Candidates of epoch 0"):
        assert (bar in shown) is not disable_tqdm


# ---- Evaluation ----


def test_evaluation_scores_what_the_model_writes_and_shows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    model, data = tiny_model("bart"), rows("bart", 6)
    run = trainer(
        "bart",
        tmp_path,
        model=model,
        callbacks=[recording(Unsure(), num_eval_samples=4)],
        eval_dataset=data,
        report_to="tensorboard",
    )
    metrics = run.evaluate()

    table = [json.loads(line) for line in (tmp_path / "_quals" / "eval-0.jsonl").read_text().splitlines()]
    assert len(table) == 4
    tokenizer = tiny_tokenizer("bart")
    for row in table:
        ids = torch.tensor([tokenizer(row["document"])["input_ids"]])
        written = model.generate(ids, max_new_tokens=8, do_sample=False)[0]
        assert row["candidate"] == tokenizer.decode(written, skip_special_tokens=True).strip()
        assert row["reference"] == " ".join(row["document"].split()[:2])
    scores = [Unsure.rule(row["candidate"]) for row in table]
    assert [row["rule"] for row in table] == [None if math.isnan(score) else score for score in scores]
    scored = [score for score in scores if not math.isnan(score)]
    assert 0 < len(scored) < 4
    assert metrics["eval_rule"] == sum(scored) / len(scored)
    assert metrics["eval_rule_unscored"] == 1 - len(scored) / 4
    assert run.state.log_history[-1]["eval_rule"] == metrics["eval_rule"]

    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert events.Scalars("eval/rule")[0].value == pytest.approx(metrics["eval_rule"])
    [text] = events.Tensors("eval/rule_samples/text_summary")
    shown_table = text.tensor_proto.string_val[0].decode()
    assert "| document | reference | candidate | rule |" in shown_table
    assert all(row["document"] in shown_table for row in table)


def test_the_sample_is_the_same_at_every_evaluation(tmp_path):
    changed = {"eval_dataset": rows("bart", 12), "eval_strategy": "epoch"}
    trainer("bart", tmp_path, callbacks=[callback(num_eval_samples=3)], **changed).train()
    tables = sorted((tmp_path / "_quals").glob("eval-*.jsonl"))
    documents = [[json.loads(line)["document"] for line in table.read_text().splitlines()] for table in tables]
    assert [table.stem for table in tables] == ["eval-0", "eval-3", "eval-6"]  # before training, after each epoch
    assert documents[0] == documents[1] == documents[2]
    assert len(set(documents[0])) == 3


def test_each_evaluation_set_has_its_own_score(tmp_path):
    sets = {"near": rows("llama", 3), "far": rows("llama", 5).select([3, 4])}
    metrics = trainer("llama", tmp_path, callbacks=[callback()], eval_dataset=sets).evaluate()
    for name, size in (("near", 3), ("far", 2)):
        assert 0 <= metrics[f"eval_{name}_quals_unscored"] <= 1
        assert len((tmp_path / "_quals" / f"eval_{name}-0.jsonl").read_text().splitlines()) == size


def test_the_best_model_by_score_is_loaded_at_the_end(tmp_path):
    class Falling(Recording):
        def score(self, documents, summaries, *, references=None, batch_size=8):
            results = super().score(documents, summaries, references=references)
            is_evaluation = len(summaries) <= 2
            return [SimpleNamespace(score=-float(len(self.asked))) for _ in results] if is_evaluation else results

    changed = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    model = tiny_model("bart")
    run = trainer(
        "bart",
        tmp_path,
        model=model,
        callbacks=[recording(Falling(), num_eval_samples=2)],
        eval_dataset=rows("bart", 2),
        metric_for_best_model="eval_rule",
        learning_rate=1e-2,
        **changed,
    )
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-3")
    assert torch.equal(weights(model), weights(type(model).from_pretrained(tmp_path / "checkpoint-3")))


def test_a_model_that_writes_nothing_has_no_score(tmp_path):
    model = tiny_model("bart")
    model.generation_config.forced_bos_token_id = model.config.eos_token_id
    metrics = trainer("bart", tmp_path, model=model, callbacks=[callback()], eval_dataset=rows("bart", 4)).evaluate()
    assert math.isnan(metrics["eval_quals"])
    assert metrics["eval_quals_unscored"] == 1.0
    table = [json.loads(line) for line in (tmp_path / "_quals" / "eval-0.jsonl").read_text().splitlines()]
    assert [(row["candidate"], row["quals"]) for row in table] == [("", None)] * 4
    shown = told((tmp_path / "_quals" / "eval-0.html").read_text())["summaries"]
    assert [row["says"] for row in shown] == [["QUALS: none: the summary is blank."]] * 4


def shown(folder, name):
    return [json.loads(line) for line in (folder / "_quals" / f"{name}.jsonl").read_text().splitlines()]


def test_the_page_beside_the_table_shows_its_summaries_and_scores(tmp_path):
    trainer("bart", tmp_path, callbacks=[callback()], eval_dataset=rows("bart", 4)).evaluate()
    page = told((tmp_path / "_quals" / "eval-0.html").read_text())
    table = shown(tmp_path, "eval-0")
    assert [(row["summary"], row["score"]) for row in page["summaries"]] == [
        (row["candidate"], row["quals"]) for row in table
    ]
    assert [page["documents"][row["document"]] for row in page["summaries"]] == [row["document"] for row in table]


@pytest.mark.parametrize("gen_kwargs", [{}, {"max_length": 7, "num_beams": 2}, {"repetition_penalty": 9.0}])
@pytest.mark.parametrize("family", ["bart", "llama"])
def test_all_metrics_of_an_evaluation_see_the_same_summaries(tmp_path, monkeypatch, family, gen_kwargs):
    seen, calls, tokenizer, model = [], [], tiny_tokenizer(family), tiny_model(family)

    def compute_metrics(prediction):
        ids = [row[row >= 0] for row in prediction.predictions]
        seen[:] = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return {}

    changed = {"predict_with_generate": True, "generation_max_length": 12, "per_device_eval_batch_size": 2}
    chooser, data = recording(num_eval_samples=5), rows(family, 5)
    changed |= {"eval_dataset": data, "callbacks": [chooser]}
    run = trainer(family, tmp_path, model=model, compute_metrics=compute_metrics, **changed)
    generate = model.generate

    def counted(**kwargs):
        calls.append(len(kwargs["input_ids"]))
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", counted)
    before = model.generation_config.to_dict()
    metrics = run.evaluate(**gen_kwargs)
    table = shown(tmp_path, "eval-0")
    assert [row["candidate"] for row in table] == seen
    assert metrics["eval_rule"] == fmean(row["rule"] for row in table if row["rule"] is not None)
    assert calls == [2, 2, 1]
    assert model.generation_config.to_dict() == before
    # And what they see is what was asked for.
    length = gen_kwargs.get("max_length", 12)
    limit = {"max_length" if family == "bart" else "max_new_tokens": length}
    rest = {name: value for name, value in gen_kwargs.items() if name != "max_length"}
    for row, text in zip(data, seen, strict=True):
        ids = row["input_ids"]
        if family == "llama":
            ids = [token for token, label in zip(ids, row["labels"], strict=True) if label == -100]
        written = generate(input_ids=torch.tensor([ids]), do_sample=False, pad_token_id=0, **limit, **rest)[0]
        written = written[len(ids) :] if family == "llama" else written
        assert text == tokenizer.decode(written, skip_special_tokens=True).strip()
    # Without other metrics, the same summaries are generated for the score alone.
    run.compute_metrics = None
    assert run.evaluate(**gen_kwargs)["eval_rule"] == metrics["eval_rule"]
    assert shown(tmp_path, "eval-0") == table
    assert run.predict(data, metric_key_prefix="predict", **gen_kwargs).metrics["predict_rule"] == metrics["eval_rule"]
    assert shown(tmp_path, "predict-0") == table


def test_the_callbacks_length_is_that_of_all_summaries_where_no_other_is_named(tmp_path):
    lengths = []

    def compute_metrics(prediction):
        lengths.append(max((row > 3).sum() for row in prediction.predictions))
        return {}

    changed = {"predict_with_generate": True, "compute_metrics": compute_metrics, "eval_dataset": rows("llama", 4)}
    run = trainer("llama", tmp_path, callbacks=[recording(num_eval_samples=2, max_new_tokens=5)], **changed)
    run.evaluate()
    run.model.generation_config.max_new_tokens = 9
    run.evaluate()
    assert lengths == [5, 9]


def test_a_checkpoints_own_lengths_give_no_warning_in_training_and_evaluation(tmp_path):
    model, data = tiny_model("bart"), rows("bart", 8)
    model.generation_config.update(**SUMMARIZER_SETTINGS)
    run = trainer(
        "bart",
        tmp_path,
        data=data,
        model=model,
        callbacks=[callback(RougeScorer(), num_triples=2)],
        eval_dataset=data,
        predict_with_generate=True,
        num_train_epochs=1,
    )
    with all_warnings() as texts:
        run.train()
        run.evaluate()
        predictions = run.predict(data, max_new_tokens=20).predictions
    assert texts == []
    assert predictions.shape[1] > 14


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_a_length_of_an_evaluation_comes_before_the_models_own(tmp_path, family):
    model, lengths, data = tiny_model(family), [], rows(family, 4)
    model.generation_config.max_new_tokens = 12
    model.generation_config.eos_token_id = None

    def compute_metrics(prediction):
        lengths.append(max(int((row >= 3).sum()) for row in prediction.predictions))  # 0 to 2 are special tokens
        return {}

    changed = {"eval_dataset": data, "callbacks": [callback()], "predict_with_generate": True}
    run = trainer(family, tmp_path, model=model, compute_metrics=compute_metrics, **changed)
    run.evaluate()
    run.evaluate(max_length=5)
    run.args.generation_max_length = 4
    run.evaluate()
    assert lengths[0] > 5 >= lengths[1]
    assert lengths[2] <= 4


def test_rows_that_workers_bring_out_of_order_are_scored_against_their_own_documents(tmp_path):
    class SlowFirst(list):
        def __getitem__(self, index):
            if index == 0 and torch.utils.data.get_worker_info() is not None:
                time.sleep(1)
            return super().__getitem__(index)

    data = SlowFirst(rows("bart", 4))
    changed = {"predict_with_generate": True, "per_device_eval_batch_size": 1, "dataloader_num_workers": 2}
    changed["compute_metrics"] = lambda prediction: {}  # else nothing is generated before the score
    shown_of = []
    for in_order in (True, False):
        folder = tmp_path / str(in_order)
        more = {"dataloader_in_order": in_order, **changed}
        trainer("bart", folder, callbacks=[callback()], eval_dataset=data, **more).evaluate()
        shown_of.append([(row["document"], row["candidate"]) for row in shown(folder, "eval-0")])
    assert shown_of[0] == shown_of[1]
    assert len({candidate for _, candidate in shown_of[0]}) > 1


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_a_step_of_predictions_needs_no_evaluation_before_it(tmp_path, family):
    run = trainer(family, tmp_path, predict_with_generate=True)
    inputs = next(iter(run.get_eval_dataloader(rows(family, 2))))
    _, generated, labels = run.prediction_step(run.model, inputs, False)
    assert len(generated) == len(labels) == 2


def test_arguments_of_an_evaluation_hold_for_each_of_its_sets(tmp_path):
    sets = {"near": rows("bart", 2), "far": rows("bart", 3)}
    run = trainer("bart", tmp_path, callbacks=[recording(num_eval_samples=3)], eval_dataset=sets)
    metrics = run.evaluate(max_length=3)
    assert {"eval_near_rule", "eval_far_rule"} <= metrics.keys()
    assert all(len(row["candidate"]) <= 2 for name in sets for row in shown(tmp_path, f"eval_{name}-0"))


def test_predictions_without_references_are_made_and_not_scored(tmp_path):
    run = trainer("bart", tmp_path, callbacks=[recording(num_eval_samples=2)], predict_with_generate=True)
    output = run.predict(rows("bart", 3).remove_columns("labels"))
    assert len(output.predictions) == 3
    assert "test_rule" not in output.metrics


# ---- Bad input ----


def changed_row(data, number, **columns):
    made = list(data)
    made[number] = {**made[number], **columns}
    return made


TOKENS = [1, 2]  # <s> </s>


@pytest.mark.parametrize(
    ("data", "columns", "message"),
    [
        (changed_row(rows("bart"), 3, labels=TOKENS), {}, "Row 3 of the training set has no text in column 'labels'"),
        (changed_row(rows("bart"), 3, input_ids=TOKENS, attention_mask=[1, 1]), {}, "no text in column 'input_ids'"),
        (changed_row(rows("bart"), 2, summary=" "), {"reference_column": "summary"}, "Row 2 .* 'summary', got ' '"),
        (changed_row(rows("bart"), 2, document=None), {"document_column": "document"}, "'document', got None"),
        (rows("bart").remove_columns("labels"), {}, "has no column 'labels'; it has attention_mask, document, input_"),
        (rows("bart").remove_columns("input_ids"), {}, "has no column 'input_ids'"),
        (rows("bart"), {"document_column": "article"}, "has no column 'article'"),
        (rows("bart").select([]), {}, "a row at least, and Dataset has not"),
        (rows("bart"), {"num_triples": 17}, "num_triples=17, but the training set has 16 documents"),
        (rows("bart").to_iterable_dataset(), {}, "single rows of the training set: .* IterableDataset has not"),
    ],
)
def test_a_training_set_that_cannot_work_is_refused_before_training(tmp_path, data, columns, message):
    with pytest.raises(ValueError, match=message):
        trainer("bart", tmp_path, data=data, callbacks=[callback(**columns)], max_steps=3)


def test_a_row_without_a_prompt_is_refused_before_training(tmp_path):
    row = rows("llama")[1]
    data = changed_row(rows("llama"), 1, labels=row["input_ids"])
    with pytest.raises(ValueError, match="Row 1 of the training set has no text in column 'input_ids'"):
        trainer("llama", tmp_path, data=data, callbacks=[callback()])


def test_a_decoder_only_row_whose_summary_is_not_its_end_is_refused_before_training(tmp_path):
    labels = rows("llama")[1]["labels"]
    for changed, message in (
        ([*labels[:-1], -100], "Row 1 of the training set: The labels of a row are -100 on a token behind"),
        (labels[3:], f"Row 1 of the training set has {len(labels)} input_ids and {len(labels) - 3} labels"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer("llama", tmp_path, data=changed_row(rows("llama"), 1, labels=changed), callbacks=[callback()])


def test_negatives_of_a_column_are_refused_beside_a_callback(tmp_path):
    with pytest.raises(ValueError, match="has a column 'negative_labels', which a QualsCallback fills"):
        trainer("bart", tmp_path, data=rows("bart", negatives=True), callbacks=[callback()])


def test_an_evaluation_set_that_cannot_work_is_refused_before_training(tmp_path):
    data = rows("bart", 3)
    for broken, message in (
        (data.remove_columns("labels"), "Row 0 of the eval set has no column 'labels'"),
        ({"far": changed_row(data, 1, labels=TOKENS)}, "Row 1 of the eval_far set has no text"),
        (data.to_iterable_dataset(), "single rows of the eval set"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer("bart", tmp_path, callbacks=[callback()], eval_dataset=broken)
    trainer("bart", tmp_path, callbacks=[callback(num_eval_samples=0)], eval_dataset=data.remove_columns("labels"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataloader_persistent_workers": True, "dataloader_num_workers": 1}, "keeps workers that never see"),
        ({"train_sampling_strategy": "group_by_length"}, "measures the lengths once"),
        ({"train_sampling_strategy": "batch_rebalance"}, "measures the lengths once"),
    ],
)
def test_arguments_that_keep_old_rows_are_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        trainer("bart", tmp_path, callbacks=[callback()], **changed)


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_evaluations_sample_nothing_whatever_the_models_settings_say(tmp_path, family):
    model = tiny_model(family)
    model.generation_config.do_sample = True
    data = rows(family, 5)
    chooser, changed = recording(num_eval_samples=5), {"predict_with_generate": True, "generation_max_length": 9}
    run = trainer(family, tmp_path, model=model, callbacks=[chooser], eval_dataset=data, **changed)
    run.evaluate()
    table = shown(tmp_path, "eval-0")
    model.generation_config.do_sample = False
    run.evaluate()
    assert shown(tmp_path, "eval-0") == table
    # Unless one asks for it.
    assert run.generation_settings(do_sample=True)["do_sample"] is True
    assert "do_sample" not in trainer(family, tmp_path).generation_settings()


def test_rows_that_an_evaluation_drops_are_summarized_for_the_score_alone(tmp_path):
    """Of five rows in batches of four the loader drops the last."""
    data, chooser = rows("bart", 5), recording(num_eval_samples=5)
    changed = {"predict_with_generate": True, "per_device_eval_batch_size": 4, "dataloader_drop_last": True}
    run = trainer("bart", tmp_path, callbacks=[chooser], eval_dataset=data, compute_metrics=lambda _: {}, **changed)
    assert run.evaluate()["eval_rule"] == run.evaluate()["eval_rule"]
    assert len(shown(tmp_path, "eval-0")) == 5


def test_tensor_parallelism_is_refused(tmp_path):
    run = trainer("bart", tmp_path)
    run.get_tp_size = lambda: 2
    with pytest.raises(ValueError, match="Tensor parallelism splits each row over processes"):
        callback().attach(run)


def test_a_sharded_model_needs_the_number_of_triples_beforehand(tmp_path):
    run = trainer("bart", tmp_path)
    run.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="give QualsCallbackConfig num_triples"):
        callback(num_triples=None).attach(run)
    with pytest.raises(ValueError, match="set fsdp_version to 2"):
        callback().attach(run)


def test_a_missing_tokenizer_is_refused_beside_the_users_collator(tmp_path):
    collator = DataCollatorForSeq2Seq(tiny_tokenizer("bart"))
    with pytest.raises(ValueError, match="processing_class is missing"):
        trainer("bart", tmp_path, callbacks=[callback()], data_collator=collator, processing_class=None)


def test_what_is_no_scorer_is_refused_with_what_it_lacks(tmp_path):
    nameless = SimpleNamespace(score=None, reads_references=False, settings=None)
    with pytest.raises(
        ValueError, match=r"must be a hf_quals.Scorer .* 'some/model' lacks name, reads_references, score"
    ):
        QualsCallback("some/model")
    with pytest.raises(ValueError, match="None lacks name"):
        QualsCallback(None)
    with pytest.raises(ValueError, match=r"lacks name\.$"):
        QualsCallback(nameless)
    with pytest.raises(ValueError, match="is a class: make an object of it"):
        QualsCallback(Recording)
    with pytest.raises(OSError, match="no-such-model"):
        QualsCallback(QualsScorer.from_pretrained(str(tmp_path / "no-such-model")))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_candidates": 0}, "num_candidates must be at least 1, got 0"),
        ({"refresh_every": 0}, "refresh_every must be at least 1, got 0"),
        ({"num_eval_samples": -1}, "num_eval_samples must be at least 0, got -1"),
        ({"num_triples": 0}, "num_triples must be at least 1, got 0"),
        ({"positive_share": 0.0}, "positive_share must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        callback(**changed)


def test_a_selection_without_a_document_is_refused(tmp_path):
    class Unscored(Recording):
        @staticmethod
        def rule(summary):
            return math.nan

    with pytest.raises(ValueError, match="No document of 16 has both"):
        trainer("bart", tmp_path, callbacks=[recording(Unscored(), num_triples=None)]).train()
    with pytest.raises(ValueError, match="6 triples were asked for, but only 0 of 16"):
        trainer("bart", tmp_path, callbacks=[recording(Unscored())]).train()


def test_it_works_with_one_contrastive_trainer_that_knows_it_from_the_start(tmp_path):
    with pytest.raises(ValueError, match="takes one QualsCallback"):
        trainer("bart", tmp_path, callbacks=[callback(), callback()])
    with pytest.raises(ValueError, match="works with a ContrastiveSeq2SeqTrainer"):
        trainer(
            "bart",
            tmp_path,
            trainer_class=Seq2SeqTrainer,
            callbacks=[callback()],
            data_collator=DataCollatorForSeq2Seq(tiny_tokenizer("bart")),
        ).train()
    late = trainer("bart", tmp_path)
    late.add_callback(callback())
    with pytest.raises(ValueError, match="pass it in `callbacks`"):
        late.train()
    replaced = trainer("bart", tmp_path, callbacks=[callback()])
    replaced.train_dataset = Dataset.from_list([])
    with pytest.raises(ValueError, match="training set was replaced"):
        replaced.train()
