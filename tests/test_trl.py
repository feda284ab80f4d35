"""Scores as rewards, and S+ and S- as preferences: in TRL's own trainers, on tiny models."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_qagen, tiny_tokenizer
from contrastive_world import callback, rows, trainer
from trl import DPOTrainer, GRPOTrainer
from typer.testing import CliRunner

from hf_quals import QualsConfig, QualsScorer, Scorer, as_reward, load_preference_dataset
from hf_quals.cli import app
from hf_quals.judges.rouge import RougeScorer


RECIPES = Path(__file__).parents[1] / "recipes"
sys.path[:0] = [str(RECIPES)]

import dpo  # noqa: E402
import grpo  # noqa: E402


class Vowels(Scorer):
    """The share of vowels; none for a summary of consonants. It keeps what it was asked."""

    name = "vowels"

    def __init__(self):
        self.calls = []

    def score(self, documents, summaries, *, references=None, batch_size=8):
        self.calls.append((list(documents), list(summaries)))
        shares = [sum(letter in "aeiou" for letter in text) / len(text) for text in summaries]
        return [SimpleNamespace(score=share or math.nan) for share in shares]


# ---- Rewards ----


def test_a_batch_is_scored_together_and_what_has_no_score_has_no_reward():
    scorer = Vowels()
    reward = as_reward(scorer, "article")
    assert reward.__name__ == "vowels"
    rewards = reward(
        prompts=["?"] * 5, completions=["ab", " ", "xyz", "aeix", "ab"], article=["d", "d", "d", "e", "d"]
    )
    assert rewards == [0.5, None, None, 0.75, 0.5]
    assert scorer.calls == [(["d", "d", "e", "d"], ["ab", "xyz", "aeix", "ab"])]
    assert reward(completions=["", "\n"], article=["d", "d"]) == [None, None]


def test_conversational_completions_are_their_last_message():
    assistant = {"role": "assistant"}
    completions = [
        [{**assistant, "content": "ab"}],
        [{**assistant, "content": "aa"}, {"role": "tool", "content": "uu"}, {**assistant, "content": "abcd"}],
        [{**assistant, "content": [{"type": "text", "text": "ab"}, {"type": "text", "text": "ac"}]}],
        [{**assistant, "content": None, "tool_calls": []}],
        [],
    ]
    assert as_reward(Vowels())(completions=completions, document=["d"] * 5) == [0.5, 0.25, 0.5, None, None]


def test_a_reward_is_the_score_of_the_scorer():
    scorer = QualsScorer(tiny_qagen("llama"), QualsConfig(num_beams=8))
    documents, summaries = ["a red cat sat", "a dog ran"], ["cat sat", "sun"]
    rewards = scorer.as_reward()(completions=summaries, document=documents)
    expected = [result.score for result in scorer.score(documents, summaries)]
    assert [math.nan if reward is None else reward for reward in rewards] == pytest.approx(expected, nan_ok=True)
    assert any(reward is not None for reward in rewards)


def test_a_scorer_that_reads_references_has_them_from_their_column():
    reward = as_reward(RougeScorer(), reference_column="gold")
    assert reward(completions=["cat", "dog"], document=["d", "d"], gold=["cat", "cat"]) == [2 / 3, 0.0]
    with pytest.raises(ValueError, match=r"no column 'gold', it has document. Name one with `reference_column`"):
        reward(completions=["cat"], document=["d"])


def test_a_batch_without_documents_is_refused():
    with pytest.raises(ValueError, match=r"no column 'document', it has text, trainer_state. Name one with `docum"):
        as_reward(Vowels())(completions=["a"], text=["d"], trainer_state=None)
    with pytest.raises(ValueError, match="Row 1 of the batch: column 'document' must hold text, got None"):
        as_reward(Vowels())(completions=["a", "b"], document=["d", None])


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny decoder-only model with its tokenizer, a QAGen, and documents."""
    folder = tmp_path_factory.mktemp("world")
    tiny_model("llama").save_pretrained(folder / "model")
    tiny_tokenizer("llama").save_pretrained(folder / "model")
    tiny_qagen("llama").save_pretrained(folder / "qagen")
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"document": row["document"]}) + "\n" for row in rows("llama", 4))
    )
    return folder


def run(monkeypatch, recipe, words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe.py", *words.split()])
    recipe.main()


COMMON = (
    " --max_steps 2 --use_cpu --bf16 false --report_to none --logging_steps 1 --save_strategy no --disable_tqdm true"
)


def is_changed(folder: Path) -> bool:
    before = tiny_model("llama").state_dict()
    after = type(tiny_model("llama")).from_pretrained(folder, dtype=torch.float32).state_dict()
    return any(not torch.equal(before[name], after[name]) for name in before)


def test_the_recipe_trains_with_the_score_as_reward(world, tmp_path, monkeypatch):
    batches = []
    compute = GRPOTrainer._calculate_rewards

    def calculate(self, inputs, prompts, completions, *rest):
        rewards = compute(self, inputs, prompts, completions, *rest)
        batches.append((self, [row["document"] for row in inputs], completions, rewards[:, 0].tolist()))
        return rewards

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", calculate)
    words = f"--model_name_or_path {world / 'model'} --train_file {world / 'train.jsonl'} --output_dir {tmp_path}"
    words += f" --quals_model {world / 'qagen'} --per_device_train_batch_size 4 --num_generations 4"
    run(monkeypatch, grpo, words + " --max_completion_length 8 --learning_rate 1e-2 --prompt {text}?" + COMMON)
    assert [len(completions) for _, _, completions, _ in batches] == [4, 4]
    scorer = QualsScorer.from_pretrained(world / "qagen")
    for trained, documents, completions, rewards in batches:
        assert len(set(documents)) == 1
        asked = [index for index, text in enumerate(completions) if text.strip()]
        results = scorer.score([documents[index] for index in asked], [completions[index] for index in asked])
        expected = [math.nan] * 4
        for index, result in zip(asked, results, strict=True):
            expected[index] = result.score
        assert rewards == pytest.approx(expected, abs=1e-4, nan_ok=True)
        logged = trained.state.log_history[batches.index((trained, documents, completions, rewards))]
        assert logged["rewards/quals/mean"] == pytest.approx(np.nanmean(rewards), abs=1e-4)
    assert is_changed(tmp_path)


# ---- Preferences ----


class Brevity(Scorer):
    """The fewer letters, the better."""

    name = "brevity"

    def score(self, documents, summaries, *, references=None, batch_size=8):
        return [SimpleNamespace(score=-float(len(text))) for text in summaries]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A contrastive training of each family, its callback and a checkpoint."""
    done = {}
    for family in ("llama", "bart", "t5"):
        chooser = callback(Brevity(), num_triples=6)
        folder = tmp_path_factory.mktemp(family)
        run = trainer(family, folder, callbacks=[chooser], save_strategy="epoch", num_train_epochs=1)
        run.train()
        [checkpoint] = folder.glob("checkpoint-*")
        done[family] = chooser, run, checkpoint
    return done


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_preferences_are_the_texts_of_the_triples(trained, family):
    chooser, _, checkpoint = trained[family]
    dataset, mark = rows(family), "?" if family == "llama" else ""
    pairs = chooser.preference_dataset()
    assert pairs.column_names == ["prompt", "chosen", "rejected"]
    assert len(pairs) == 6
    for pair, triple in zip(pairs, chooser.state.triples, strict=True):
        candidates = chooser.state.candidates[triple.document]
        assert pair["prompt"] == dataset[triple.document]["document"] + mark
        assert pair["chosen"] == dataset[triple.document]["summary"]
        # The state's text has no blanks around.
        assert pair["rejected"].strip() == candidates.texts[triple.candidate]
        assert candidates.scores[triple.candidate] == min(score for score in candidates.scores if score == score)
    assert load_preference_dataset(checkpoint, dataset).to_list() == pairs.to_list()


def test_trl_trains_on_the_tokens_that_contrastive_training_trained_on(trained, tmp_path, monkeypatch, world):
    chooser, _, checkpoint = trained["llama"]
    rows("llama").to_parquet(tmp_path / "train.parquet")
    arguments = ["preferences", str(checkpoint), str(tmp_path / "train.parquet")]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "preferences.jsonl")])
    assert result.exit_code == 0, result.output
    assert "6 pairs of 16 documents" in result.output
    written = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert written == chooser.preference_dataset().to_list()

    seen = []
    train = DPOTrainer.train
    monkeypatch.setattr(DPOTrainer, "train", lambda self: (seen.extend(self.train_dataset), train(self)))
    words = f"--model_name_or_path {world / 'model'} --preferences {tmp_path / 'preferences.jsonl'}"
    words += f" --output_dir {tmp_path / 'dpo'} --per_device_train_batch_size 3 --learning_rate 1e-2"
    run(monkeypatch, dpo, words + COMMON)
    dataset = rows("llama")
    for row, triple, negative in zip(seen, chooser.state.triples, chooser.state.negatives(), strict=True):
        ids, labels = dataset[triple.document]["input_ids"], dataset[triple.document]["labels"]
        assert row["prompt_ids"] + row["chosen_ids"] == ids
        assert row["chosen_ids"] == [label for label in labels if label != -100]
        # TRL ends every text, those that were cut off, too.
        assert row["rejected_ids"] == [*(token for token in negative if token > 3), 2]
    assert is_changed(tmp_path / "dpo")


def test_blanks_and_special_tokens_of_a_chat_survive(tmp_path):
    from hf_quals.contrastive.preferences import preferences
    from hf_quals.contrastive.refresh import Candidates, RefreshState
    from hf_quals.contrastive.rows import TextRows
    from hf_quals.contrastive.selection import Triple

    tokenizer = tiny_tokenizer("bart")  # it puts <s> before each text, and </s> behind
    ids = {letter: tokenizer.convert_tokens_to_ids(letter) for letter in "ab "}
    prompt = [1, ids["a"], 3, ids["b"]]  # <s> a <unk> b: a special token within
    summary = [ids[" "], ids["a"], 2]
    row = {"input_ids": prompt + summary, "labels": [-100] * 4 + summary}
    state = RefreshState(0, [1.0], [Candidates([[ids[" "], ids["b"]]], ["b"], [0.5])], [Triple(0, 0)])
    found = preferences(state, TextRows([row], "training", tokenizer, is_encoder_decoder=False))
    assert found.to_list() == [{"prompt": "a<unk>b", "chosen": " a", "rejected": " b"}]


def test_another_training_set_and_a_folder_without_state_are_refused(trained, tmp_path):
    _, _, checkpoint = trained["bart"]
    with pytest.raises(
        ValueError, match="was written for 16 documents, the training set has 12: give the training set"
    ):
        load_preference_dataset(checkpoint, rows("bart", 12))
    with pytest.raises(ValueError, match="was written for another training set"):
        load_preference_dataset(checkpoint, rows("bart").select(range(15, -1, -1)))
    with pytest.raises(ValueError, match=r"holds no quals_state.json: give a checkpoint"):
        load_preference_dataset(tmp_path, rows("bart"))
    with pytest.raises(ValueError, match=r"There are no S\+ and S- yet: train first"):
        callback(Brevity()).preference_dataset()
    (tmp_path / "train.jsonl").write_text('{"document": "a cat"}\n')
    arguments = ["preferences", str(checkpoint), str(tmp_path / "train.jsonl"), "--output", str(tmp_path / "x.jsonl")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "training set has 1: give" in result.output
    (tmp_path / "train.jsonl").write_text('{"document": "a cat"}\n' * 16)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "Row 0 of the training set has no column 'input_ids'; it has document" in result.output.replace("\n", " ")
    assert not (tmp_path / "x.jsonl").exists()
