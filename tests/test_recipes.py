"""The recipes as a user runs them: real processes on tiny models, and every file that ships beside them."""

import dataclasses
import json
import os
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from conftest import tiny_model, tiny_qagen, tiny_tokenizer
from contrastive_world import rows, trainer
from safetensors.torch import load_file
from transformers import Seq2SeqTrainingArguments

from hf_quals import QualsCallbackConfig, QualsConfig
from hf_quals.files import read_json_lines
from hf_quals.judges.rouge import RougeScorer, rouge


RECIPES = Path(__file__).parents[1] / "recipes"
sys.path[:0] = [str(RECIPES), str(RECIPES / "benchmarks")]

import common  # noqa: E402
import conseq  # noqa: E402
import real_text  # noqa: E402
import train_qagen  # noqa: E402


CONSEQ = conseq.ARGUMENTS
QAGEN = (train_qagen.QAGenArguments, Seq2SeqTrainingArguments)


def parse(monkeypatch, *words, types=CONSEQ):
    monkeypatch.setattr(sys, "argv", ["recipe.py", *map(str, words)])
    return common.parse_arguments(*types, **(conseq.PAPER if types is CONSEQ else {}))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Tiny models and data in a folder."""
    folder = tmp_path_factory.mktemp("world")
    for family in ("llama", "bart", "t5"):
        tiny_model(family).save_pretrained(folder / family)
        tiny_tokenizer(family).save_pretrained(folder / family)
    tiny_qagen("bart").save_pretrained(folder / "qagen")
    data = [
        {"source": row["document"].split(), "target": [row["summary"], "not this one"]} for row in rows("bart", 16)
    ]
    for name, part in (("train", data), ("test", data[:5])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def command(world: Path, family: str, output_dir: Path, *flags, processes: int = 1) -> list[str]:
    words = f"--model_name_or_path {world / family} --dataset {world / 'train.jsonl'}"
    words += f" --eval_dataset {world / 'test.jsonl'} --document_column source --summary_column target"
    words += f" --quals_model {world / 'qagen'} --quals_num_beams 8 --max_new_tokens 8 --num_candidates 3"
    words += " --positive_share 0.7 --negative_share 0.7 --num_triples 6 --per_device_train_batch_size 2"
    words += " --mle_num_train_epochs 1 --mle_learning_rate 1e-3 --learning_rate 1e-3 --save_steps 1"
    words += f" --use_cpu --report_to none --output_dir {output_dir}"
    launcher = f"-m torch.distributed.run --standalone --nproc_per_node {processes}".split() if processes > 1 else []
    return [sys.executable, *launcher, str(RECIPES / "conseq.py"), *words.split(), *map(str, flags)]


def run(*args, **kwargs) -> str:
    result = subprocess.run(command(*args, **kwargs), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr


def predictions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


# ---- The command ----


def hf_quals(*words):
    command = [sys.executable, "-m", "hf_quals.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_recipes_are_listed_copied_and_refused_by_name(tmp_path):
    listed = hf_quals("recipes").stdout
    for path in [*RECIPES.glob("*.yaml"), *RECIPES.glob("accelerate/*.yaml")]:
        assert f"\n{path.relative_to(RECIPES).with_suffix('')}: " in f"\n{listed}"
    assert f"lie in {RECIPES}" in listed
    copy = tmp_path / "mine.yaml"
    assert hf_quals("recipes", "accelerate/fsdp2", "-o", copy).returncode == 0
    assert copy.read_text() == (RECIPES / "accelerate" / "fsdp2.yaml").read_text()
    for words, message in [
        (["recipes", "accelerate/fsdp2", "-o", copy], "exists. Pass --overwrite"),
        (["recipes", "bart"], "No recipe is called 'bart'. There are accelerate/ddp"),
        (["train", "bart"], "No recipe is called 'bart'"),
    ]:
        refused = hf_quals(*words)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr


@pytest.mark.parametrize("name", ["smollm2_scitldr_cpu", RECIPES / "smollm2_scitldr_cpu.yaml"])
def test_train_is_the_script_and_a_recipe_goes_by_its_name(name, tmp_path):
    words = ["--dataset", "none.jsonl", "--stage", "wrong", "--output_dir", tmp_path]
    assert "stage must be one of mle, conseq, all, got 'wrong'" in hf_quals("train", name, *words).stderr
    assert "required: --dataset" in hf_quals("train", name, *words[4:]).stderr  # of the file, --dataset is not


@pytest.mark.alone
@pytest.mark.slow
def test_processes_of_a_launcher_train_with_the_command(world, tmp_path):
    words = command(world, "bart", tmp_path, "--stage", "conseq", "--selection", "none", "--max_steps", 2, processes=2)
    script = words.index(str(RECIPES / "conseq.py"))
    words[script : script + 1] = ["-m", "hf_quals.cli", "train"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "conseq" / "all_results.json").read_text())["steps"] == 2
    assert len(predictions(tmp_path / "conseq")) == 5


# ---- Whole runs ----


@pytest.mark.slow
def test_both_stages_train_evaluate_and_describe_a_model_and_are_not_done_twice(world, tmp_path):
    run(world, "llama", tmp_path)
    for stage in ("mle", "conseq"):
        folder = tmp_path / stage
        results = json.loads((folder / "all_results.json").read_text())
        assert {"eval_loss", "eval_rouge1", "eval_rouge2", "eval_rougeL", "eval_quals"} < set(results)
        found = predictions(folder)
        assert [row["document"] for row in found] == [row["document"] for row in rows("bart", 5)]
        assert [row["reference"] for row in found] == [row["summary"] for row in rows("bart", 5)]
        scores = [row["quals"] for row in found if row["quals"] is not None]
        assert results["eval_quals"] == pytest.approx(sum(scores) / len(scores))
        assert results["eval_quals_unscored"] == pytest.approx(1 - len(scores) / 5)
        card = (folder / "README.md").read_text()
        assert "Rougel" in card
        assert "train.jsonl" in card
        assert str(world) not in card
    assert json.loads((tmp_path / "mle" / "all_results.json").read_text())["steps"] == 8  # 16 documents, 1 epoch
    assert json.loads((tmp_path / "conseq" / "all_results.json").read_text())["steps"] == 6  # 6 triples, 2 epochs
    preferences = read_json_lines(tmp_path / "conseq" / "preferences.jsonl")
    assert len(preferences) == 6
    assert all(row["chosen"].strip() in {row["summary"] for row in rows("bart", 16)} for row in preferences)
    weights = [load_file(tmp_path / stage / "model.safetensors") for stage in ("mle", "conseq")]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    log = run(world, "llama", tmp_path)
    assert log.count("is finished and left as it is") == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_the_contrastive_stage_goes_on_with_the_adapter_of_the_first_and_chooses_by_rouge(world, tmp_path):
    run(world, "t5", tmp_path, "--lora_r", 2, "--selection", "rouge", "--prompt", "summarize: {text}")
    first, second = (load_file(tmp_path / stage / "adapter_model.safetensors") for stage in ("mle", "conseq"))
    assert first.keys() == second.keys()
    assert any((first[name] != second[name]).any() for name in first)
    [state] = (tmp_path / "conseq").glob("checkpoint-6/quals_state.json")
    assert json.loads(state.read_text())["reference_scores"] == [1.0] * 16
    assert predictions(tmp_path / "conseq")


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_weights_of_an_unbroken_one(world, tmp_path):
    run(world, "bart", tmp_path / "whole")
    broken = tmp_path / "broken"
    with subprocess.Popen(command(world, "bart", broken), stderr=subprocess.PIPE, start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while not list(broken.glob("conseq/checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read().decode()[-3000:]
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (broken / "conseq" / "all_results.json").exists()
    run(world, "bart", broken)
    whole, resumed = (load_file(folder / "conseq" / "model.safetensors") for folder in (tmp_path / "whole", broken))
    assert all((whole[name] == resumed[name]).all() for name in whole)


@pytest.mark.alone
@pytest.mark.slow
def test_the_control_trains_on_references_alone_and_processes_share_the_rows(world, tmp_path):
    run(world, "bart", tmp_path, "--stage", "conseq", "--selection", "none", "--max_steps", 2, processes=2)
    assert not (tmp_path / "mle").exists()
    assert json.loads((tmp_path / "conseq" / "all_results.json").read_text())["steps"] == 2
    assert not list((tmp_path / "conseq").rglob("quals_state.json"))
    # 5 rows in batches of 8 on each of two processes.
    found = [row["document"] for row in predictions(tmp_path / "conseq")]
    assert found == [row["document"] for row in rows("bart", 5)]


@pytest.mark.slow
def test_a_qagen_is_trained_with_lora_and_writes_pairs(world, tmp_path):
    letters = string.ascii_lowercase
    paragraphs = [
        {
            "context": letters[i : i + 9],
            "qas": [{"question": "what", "answers": [{"text": letters[i], "answer_start": 0}]}],
        }
        for i in range(12)
    ]
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    words = f"{RECIPES / 'default_qagen.yaml'} --train_data {tmp_path / 'squad.json'}"
    words += f" --model_name_or_path {world / 'llama'}"
    words += " --prompt {text}? --pair {question}|{answer} --dtype float32 --bf16 false --max_steps 2 --held_out 2"
    words += f" --generate_on 1 --save_steps 1 --dataloader_drop_last false --output_dir {tmp_path / 'qagen'}"
    result = subprocess.run(
        [sys.executable, str(RECIPES / "train_qagen.py"), *words.split()], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "qagen" / "all_results.json").read_text())["generated_pairs_per_text"] == 60
    assert (tmp_path / "qagen" / "adapter_model.safetensors").exists()


# ---- Data ----


def arguments(world, **changed) -> conseq.ConseqArguments:
    values = {"dataset": str(world / "train.jsonl"), "eval_dataset": str(world / "test.jsonl")}
    values |= {"document_column": "source", "summary_column": "target"}
    return conseq.ConseqArguments(**{**values, **changed})


def test_sentences_are_joined_and_the_first_of_several_summaries_counts(world):
    loaded = conseq.load_texts(str(world / "train.jsonl"), "train", 2, arguments(world))
    assert loaded.to_list() == [
        {"document": row["document"], "reference": row["summary"]} for row in rows("bart", 16).select(range(2))
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_rows_without_document_or_summary_are_left_out_and_counted(tmp_path, world, suffix, caplog):
    from datasets import Dataset

    data = Dataset.from_list([{"source": "a dog", "target": "dog"}, {"source": "a cat", "target": " "}])
    path = str(tmp_path / f"data.{suffix}")
    {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[suffix](path)
    assert conseq.load_texts(path, "train", None, arguments(world)).to_list() == [
        {"document": "a dog", "reference": "dog"}
    ]
    assert "1 rows without document or summary are left out" in caplog.text


def test_a_column_that_is_missing_is_named_with_those_that_are_there(world):
    with pytest.raises(ValueError, match="no column 'text', it has source, target: name one with --document_column"):
        conseq.load_texts(str(world / "train.jsonl"), "train", None, arguments(world, document_column="text"))


def test_a_column_of_numbers_is_refused(tmp_path, world):
    (tmp_path / "data.jsonl").write_text('{"source": 3, "target": "dog"}\n')
    with pytest.raises(ValueError, match="column 'source' must hold text or lists of texts, got int"):
        conseq.load_texts(str(tmp_path / "data.jsonl"), "train", None, arguments(world))


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_long_texts_lose_their_end_but_not_their_end_marker_and_are_counted(world, family, caplog):
    from datasets import Dataset

    texts = Dataset.from_list([{"document": "abcdefgh", "reference": "wxyz"}, {"document": "ab", "reference": "w"}])
    tokenizer, is_encoder_decoder = tiny_tokenizer(family), family != "llama"
    args = arguments(world, max_document_length=6, max_summary_length=4, prompt="{text}?")
    with caplog.at_level("INFO", logger="conseq"):
        found = conseq.tokenize(texts, tokenizer, is_encoder_decoder, args)
    assert "{'document_truncated': 1, 'summary_truncated': 1}" in caplog.text
    read = [tokenizer.decode(row["input_ids"]) for row in found]
    learned = [tokenizer.decode([token for token in row["labels"] if token >= 0]) for row in found]
    assert (read, learned) == {
        "llama": (["abcde? wx</s>", "ab? w</s>"], [" wx</s>", " w</s>"]),
        "bart": (["<s>abc?</s>", "<s>ab?</s>"], ["<s>wx</s>", "<s>w</s>"]),
        "t5": (["abcd?</s>", "ab?</s>"], ["wxy</s>", "w</s>"]),
    }[family]
    if family == "llama":
        assert found[1]["labels"] == [-100] * 3 + found[1]["input_ids"][3:]


# ---- Arguments ----


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stage", "both"], "stage must be one of mle, conseq, all, got 'both'"),
        (["--selection", "bleu"], "selection must be one of quals, rouge, none, got 'bleu'"),
        (["--max_eval_samples", 0], "max_eval_samples must be at least 1, got 0"),
        (["--max_summary_length", 1], "max_summary_length must be at least 2, got 1"),
        (["--contrastive_loss", "hinge"], "contrastive_loss must be one of"),
        (["--dataset", "rows.jsonl"], "would be those to train on: name other ones with --eval_dataset"),
        (["--eval_split", "train"], "would be those to train on"),
        (["--learning_rat", 1, "--no_such_flag", 1], "not used by the HfArgumentParser: .*no_such_flag"),
    ],
)
def test_bad_flags_are_refused(monkeypatch, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        parse(monkeypatch, "--dataset", "x", "--output_dir", tmp_path, *flags)


def test_what_the_contrastive_stage_refuses_is_refused_before_the_first(monkeypatch, world):
    monkeypatch.setattr(conseq, "load_texts", lambda *args: pytest.fail("the first stage has begun"))
    _, _, *flags = command(world, "bart", world / "out", "--train_sampling_strategy", "group_by_length")
    monkeypatch.setattr(sys, "argv", ["conseq.py", *flags])
    with pytest.raises(ValueError, match="measures the lengths once"):
        conseq.main()


def test_documents_that_a_run_left_behind_are_gone_before_its_model_can_be_pushed(monkeypatch, world, tmp_path):
    class Begun(Exception):
        pass

    def train(self, **kwargs):
        raise Begun(sorted(path.name for path in Path(self.args.output_dir).glob("*.json*")))

    (tmp_path / "conseq").mkdir()
    for name in ("predictions.jsonl", "preferences.jsonl", "kept.json"):
        (tmp_path / "conseq" / name).write_text("{}\n")
    monkeypatch.setattr(conseq.ContrastiveSeq2SeqTrainer, "train", train)
    _, _, *flags = command(world, "bart", tmp_path, "--stage", "conseq", "--selection", "none")
    monkeypatch.setattr(sys, "argv", ["conseq.py", *flags])
    with pytest.raises(Begun, match=r"^\['kept.json'\]$"):
        conseq.main()


def test_predictions_stand_beside_their_documents_whatever_the_order_of_training(tmp_path):
    held_out = rows("bart", 5).rename_column("summary", "reference")
    order = sorted(range(5), key=lambda number: len(held_out[number]["input_ids"]))
    found = []
    for strategy in ("random", "group_by_length"):
        run = trainer("bart", tmp_path / strategy, predict_with_generate=True, train_sampling_strategy=strategy)
        conseq.evaluate(run, held_out.select(order), tiny_scorer(), 4)
        found.append([(row["document"], row["summary"]) for row in predictions(tmp_path / strategy)])
    assert found[0] == found[1]
    assert len({summary for _, summary in found[0]}) > 1


def test_defaults_are_the_papers(monkeypatch, tmp_path):
    args, config, quals, training_args = parse(monkeypatch, "--dataset", "x", "--output_dir", tmp_path)
    assert common.given(quals, "quals_") == {}  # the QAGen's own
    assert (training_args.learning_rate, training_args.num_train_epochs, training_args.max_grad_norm) == (3e-6, 2, 0.1)
    assert (training_args.adam_beta1, training_args.adam_beta2) == (0.9, 0.999)
    assert (training_args.lr_scheduler_type, training_args.label_smoothing_factor) == ("polynomial", 0.1)
    scorer = tiny_scorer()
    callback = conseq.selection_callback(args.selection, config, scorer)
    assert (callback.scorer, callback.config) == (scorer, QualsCallbackConfig())


def test_rouge_takes_all_references_because_they_score_alike():
    config = QualsCallbackConfig(positive_share=0.5, num_triples=7)
    callback = conseq.selection_callback("rouge", config, tiny_scorer())
    assert callback.scorer.name == "rouge"
    assert callback.config == QualsCallbackConfig(positive_share=1.0, num_triples=7)


def tiny_scorer():
    from hf_quals import QualsScorer

    return QualsScorer(tiny_qagen("bart"))


def test_flags_win_over_the_file_whose_lists_and_mappings_are_read(monkeypatch, tmp_path):
    path = tmp_path / "recipe.yaml"
    # What is null is left out.
    values = {"dataset": "x", "lora_r": 4, "bf16": False, "learning_rate": 0.5, "quals_model": None}
    path.write_text(yaml.safe_dump({**values, "label_names": ["a", "b"], "lr_scheduler_kwargs": {"power": 2.0}}))
    args, _, _, training_args = parse(monkeypatch, path, "--output_dir", tmp_path, "--lora_r", 8)
    assert (args.dataset, args.lora_r, training_args.bf16, training_args.learning_rate) == ("x", 8, False, 0.5)
    assert args.quals_model is None
    assert (training_args.label_names, training_args.lr_scheduler_kwargs) == (["a", "b"], {"power": 2.0})


def test_every_number_of_the_score_and_of_the_selection_has_its_flag(monkeypatch, tmp_path):
    numbers = "--quals_max_new_tokens 30 --quals_variant log_ratio --quals_round_trip true --quals_diversity_penalty 0"
    _, config, quals, _ = parse(
        monkeypatch, "--dataset", "x", "--output_dir", tmp_path, *numbers.split(), "--max_new_tokens", 140
    )
    assert config == QualsCallbackConfig(max_new_tokens=140)
    assert common.given(quals, "quals_") == {
        "max_new_tokens": 30,
        "variant": "log_ratio",
        "round_trip": True,
        "diversity_penalty": 0.0,
    }
    parsed = {field.name.removeprefix("quals_") for field in dataclasses.fields(quals)}
    # The calibration is fitted, by recipes/calibrate.py, and heads are found, by recipes/find_retrieval_heads.py.
    numbers = {field.name for field in dataclasses.fields(QualsConfig)}
    assert parsed == numbers - {"calibration", "retrieval_heads"}


def test_an_adapter_goes_on_only_with_its_own_rank(world, tmp_path):
    model, _ = common.load_model(common.ModelArguments(model_name_or_path=str(world / "llama"), lora_r=2))
    model.save_pretrained(tmp_path)
    tiny_tokenizer("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is an adapter of rank 2: pass --lora_r 2, not 4"):
        common.load_model(common.ModelArguments(model_name_or_path=str(tmp_path), lora_r=4))
    model, _ = common.load_model(common.ModelArguments(model_name_or_path=str(tmp_path), lora_r=2))
    assert any(parameter.requires_grad for parameter in model.parameters())


# ---- Files ----


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_names_arguments_of_its_recipe(monkeypatch, tmp_path, path):
    is_qagen = path.stem == "default_qagen"
    needed = ["--train_data", "x"] if is_qagen else [] if "dataset:" in path.read_text() else ["--dataset", "x"]
    parsed = parse(
        monkeypatch, path, *needed, "--output_dir", tmp_path, "--use_cpu", types=QAGEN if is_qagen else CONSEQ
    )
    for name, value in yaml.safe_load(path.read_text()).items():
        [found] = [getattr(part, name) for part in parsed if hasattr(part, name)]
        assert found == ([] if (name, value) == ("report_to", "none") else value), name


@pytest.mark.parametrize("path", sorted(RECIPES.glob("accelerate/*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_config_loads(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    expected = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    assert config.distributed_type == expected[path.stem]
    assert config.deepspeed_config.get("zero_stage") == {"deepspeed_zero2": 2, "deepspeed_zero3": 3}.get(path.stem)
    assert config.fsdp_config.get("fsdp_version") == {"fsdp2": 2}.get(path.stem)


def test_the_readme_names_every_recipe():
    readme = (RECIPES / "README.md").read_text()
    for path in [*RECIPES.glob("*.yaml"), *RECIPES.rglob("*/*.py"), *RECIPES.rglob("accelerate/*.yaml")]:
        assert str(path.relative_to(RECIPES)) in readme


# ---- ROUGE ----


def test_rouge_counts_words_pairs_of_words_and_the_longest_common_subsequence():
    # Both have 4 words; 3 are shared, of the neighbouring pairs only "the cat", in order "the cat sat".
    found = rouge("the cat sat down", "the cat has sat")
    assert found == pytest.approx({"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": 3 / 4})


def test_rouge_scores_summaries_against_references_and_not_documents():
    results = RougeScorer().score(["dog"] * 2, ["the cat", "dog"], references=["the cat"] * 2)
    assert [result.score for result in results] == [1.0, 0.0]


# ---- What is measured on real text ----


def write_predictions(folder: Path, summaries: list[str]) -> str:
    folder.mkdir(parents=True)
    found = [{"document": f"{text} dog", "reference": "ann", "summary": text} for text in ("ann", "bob", "cat")]
    for row, summary in zip(found, summaries, strict=True):
        row["summary"] = summary
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(folder)


def test_runs_are_compared_by_pairs_of_documents_that_both_have_scored():
    scores, baseline = np.array([3.0, 1.0, np.nan, 5.0]), np.array([1.0, 1.0, 7.0, np.nan])
    mean, low, high = real_text.difference(scores, baseline)
    # Of the two pairs (difference 2 and 0) a quarter of the resamples takes one twice.
    assert (mean, low, high) == (1.0, 0.0, 2.0)
    assert np.isnan(real_text.difference(scores[2:3], baseline[2:3])).all()


def test_samples_stand_at_fixed_percentiles_of_the_difference():
    baseline = np.zeros(12)
    scores = np.array([10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, np.nan])
    assert real_text.sample_rows(scores, baseline) == [9, 7, 5, 3, 1]


def test_runs_on_different_documents_are_refused(tmp_path):
    first, second = (write_predictions(tmp_path / name, ["a", "b", "c"]) for name in ("first", "second"))
    path = tmp_path / "second" / "predictions.jsonl"
    path.write_text(path.read_text().replace("cat dog", "a cow"))
    with pytest.raises(ValueError, match=r"second and .*first hold predictions for different documents"):
        real_text.read_predictions([first, second])


def test_runs_on_real_text_print_one_table_and_keep_their_scores(world, tmp_path, monkeypatch, capsys):
    runs = [write_predictions(tmp_path / "a", ["ann dog", "bob", ""]), write_predictions(tmp_path / "b", ["ann"] * 3)]
    words = ["real_text.py", "--runs", *runs, "--output_dir", str(tmp_path), "--model", str(world / "qagen")]
    monkeypatch.setattr(sys, "argv", [*words, "--num_beams", "4"])
    real_text.main()
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("| ROUGE-1")]
    # "ann dog" and "ann" against "ann": 2/3 and 1; the other summaries of the first run share nothing.
    assert [line.split(" | ")[2:5] for line in lines] == [["22.222", "0", ""], ["100.000", "0", "+77.778"]]
    # Of the three summaries of the first run one has a bigram, and its document has it.
    copied = [line.split(" | ")[2] for line in printed.splitlines() if line.startswith("| copied bigrams")]
    assert copied == ["0.333", "0.000"]
    assert len((tmp_path / "quals.jsonl").read_text().splitlines()) == 1 + 3
    monkeypatch.setattr(real_text.QualsScorer, "from_pretrained", None)  # all scores are there
    real_text.main()
    assert capsys.readouterr().out == printed
    write_predictions(tmp_path / "c", ["another"] * 3)
    monkeypatch.setattr(sys, "argv", [*words[:2], str(tmp_path / "c"), *words[3:], "--num_beams", "4"])
    with pytest.raises(ValueError, match="was begun with something else"):
        real_text.main()
