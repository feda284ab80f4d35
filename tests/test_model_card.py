"""The card that a trained summarizer is saved and pushed with."""

import json
import subprocess
import sys

import pytest
import training_run
from conftest import tiny_model
from contrastive_world import callback, rows, trainer
from hub import environment, running_hub
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model

from hf_quals.contrastive.card import add_contrastive_training
from hf_quals.contrastive.tables import markdown


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two epochs with an evaluation before it and after each."""
    data = rows("bart")
    data.info.dataset_name = "tiny_news"
    model = tiny_model("bart")
    model.config._name_or_path = "someone/tiny-bart"
    folder = tmp_path_factory.mktemp("card") / "tiny-faithful"
    run = trainer(
        "bart",
        folder,
        data=data,
        model=model,
        callbacks=[callback()],
        eval_dataset=rows("bart", 4),
        eval_strategy="epoch",
        label_smoothing_factor=0.1,
    )
    run.train()
    return run


def score_rows(run):
    evaluations = [entry for entry in run.state.log_history if "eval_quals" in entry]
    assert [entry["step"] for entry in evaluations] == [0, 3, 6]
    return [
        {
            "metric": "eval_quals",
            "step": entry["step"],
            "score": entry["eval_quals"],
            "unscored": entry["eval_quals_unscored"],
        }
        for entry in (evaluations[0], evaluations[2])
    ]


def test_a_saved_model_tells_base_data_settings_and_scores_before_and_after(run, tmp_path):
    run.save_model(str(tmp_path / "saved"))
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.base_model == "someone/tiny-bart"
    assert card.data.library_name == "transformers"
    assert {"summarization", "hf-quals"} <= set(card.data.tags)
    for line in (
        "- base model: someone/tiny-bart",
        "- data: tiny_news, 16 documents",
        "- loss: unlikelihood, label smoothing 0.1",
        "- S+ and S-: num_candidates 3, top_k 50, max_new_tokens 8, positive_share 0.7, negative_share 0.7, "
        "num_triples 6, refresh_every 1",
        "- score: quals, num_beams 8, diversity_penalty 0.5, min_new_tokens 8, max_new_tokens 60, max_length 1024, "
        "max_pairs 10, variant published, likelihood_weight 0.0, attention_weight 0.0, dtype torch.float32",
    ):
        assert f"\n{line}\n" in card.text
    assert markdown(run.quals_callback.state.history) in card.text  # the model's samples at each refresh
    assert markdown(score_rows(run)) in card.text


def test_a_pushed_models_card_holds_it_beside_the_trainers_own(run):
    run.create_model_card(model_name="tiny-faithful")  # what push_to_hub uploads
    card = ModelCard.load(f"{run.args.output_dir}/README.md")
    assert "## Training procedure" in card.text
    assert card.text.count("## Contrastive training") == 1
    assert markdown(score_rows(run)) in card.text
    assert card.data.base_model == "someone/tiny-bart"


def test_a_card_that_is_there_keeps_its_text_and_gets_the_section_once(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [news]\n---\n\n# Mine\n\nKeep this.\n")
    for _ in range(2):
        add_contrastive_training(tmp_path, base_model="", dataset=None, loss="ranking")
    card = ModelCard.load(tmp_path / "README.md")
    assert "Keep this." in card.text
    assert card.text.count("## Contrastive training") == 1
    assert card.data.license == "mit"
    assert card.data.tags == ["hf-quals", "news", "summarization"]


def test_a_base_model_in_a_folder_is_named_but_is_no_metadata(tmp_path):
    model = tiny_model("bart")
    model.save_pretrained(tmp_path / "base")
    model = type(model).from_pretrained(tmp_path / "base")
    run = trainer("bart", tmp_path / "out", model=model, data=rows("bart", 3, negatives=True))
    run.save_model()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model is None
    assert "- base model: base\n" in card.text
    assert str(tmp_path) not in card.text


def test_an_adapters_card_has_the_section(tmp_path):
    model = get_peft_model(tiny_model("bart"), LoraConfig(r=2, target_modules="all-linear"))
    run = trainer("bart", tmp_path, model=model, data=rows("bart", 3, negatives=True))
    run.save_model()
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "peft"
    assert card.text.count("## Contrastive training") == 1


@pytest.mark.parametrize("data", [None, rows("bart", 3).to_iterable_dataset()])
def test_a_model_is_saved_whatever_its_training_set_is_now(tmp_path, data):
    run = trainer("bart", tmp_path, data=rows("bart", 3, negatives=True))
    run.train_dataset = data
    run.save_model()
    assert "- data: not known" in ModelCard.load(tmp_path / "README.md").text


@pytest.mark.parametrize("data", [rows("bart", 3), rows("bart", 3).to_iterable_dataset()])
def test_what_was_not_trained_contrastively_does_not_say_so(tmp_path, data):
    run = trainer("bart", tmp_path, data=data, max_steps=1)
    run.save_model()
    assert not (tmp_path / "README.md").exists()
    run.create_model_card()
    assert "Contrastive training" not in ModelCard.load(tmp_path / "README.md").text


def test_a_markdown_table_keeps_its_cells_apart():
    table = markdown([{"text": "a|b\nc", "quals": -0.12346}, {"text": "abcdefghi", "quals": None}], longest=7)
    assert table.splitlines() == [
        "| text | quals |",
        "| --- | --- |",
        "| a\\|b c | -0.1235 |",
        "| abcdefg… |  |",
    ]


def test_what_a_training_pushes_is_the_model_with_its_card_and_no_table_of_documents(tmp_path):
    folder, home = tmp_path / "run", tmp_path / "home"
    settings = {"num_train_epochs": 1, "eval_strategy": "epoch", "save_strategy": "epoch"}
    settings |= {"push_to_hub": True, "hub_model_id": "user/summarizer", "hub_private_repo": True}
    options = [folder, "--num-rows", "8", "--num-triples", "2", "--arguments", json.dumps(settings)]
    with running_hub(user="hf_right") as hub:
        result = subprocess.run(
            [sys.executable, training_run.__file__, *options],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment(hub, home, "hf_right"),
        )
        assert result.returncode == 0, result.stderr
        repository = hub.repositories["model", "user/summarizer"]
    assert repository.private
    assert repository.commits >= 2  # at the save, and at the end
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= repository.files.keys()
    for name, content in repository.files.items():
        assert content == (folder / name).read_bytes()
    card = ModelCard(repository.files["README.md"].decode())
    assert "## Contrastive training" in card.text
    table = (folder / "_quals" / "eval-1.jsonl").read_text()
    documents = [json.loads(line)["document"] for line in table.splitlines()]
    assert documents
    for document in documents:
        assert not any(document.encode() in content for content in repository.files.values())
