import doctest
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib.metadata import Distribution
from pathlib import Path

import evaluate
import numpy as np
import pytest
from conftest import tiny_model, tiny_tokenizer
from contrastive_world import rows, trainer
from datasets import Dataset
from packaging.requirements import Requirement
from reader_world import save_classifier
from tokenizers import decoders
from transformers import (
    DataCollatorForSeq2Seq,
    EvalPrediction,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

import hf_quals
from hf_quals import QualsScorer, metrics
from hf_quals.errors import InputError
from hf_quals.files import nan_to_none
from hf_quals.judges.entities import EntityScorer, RuleFinder
from hf_quals.judges.factcc import FactccScorer
from hf_quals.judges.qags import QagsScorer
from hf_quals.metrics import prediction_texts


ROOT = Path(hf_quals.__file__).parent.parent
SOURCES = ["Q saw K.", "Fury won.", "Z lost"]
PREDICTIONS = ["Q won. Z lost.", " ", "K and Z saw Q, says a summary that is longer than its document"]


@pytest.fixture(scope="session")
def tiny_asking_folder(tmp_path_factory, tiny_causal_folder) -> str:
    """The tiny QAGen with spaces between its letters, since QAGS asks no question of one word."""
    folder = shutil.copytree(tiny_causal_folder, tmp_path_factory.mktemp("tiny-asking") / "model")
    tokenizer = tiny_tokenizer("llama")
    tokenizer.backend_tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_classifier_folder(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("tiny-classifier"))


@pytest.fixture
def options(tiny_asking_folder, tiny_causal_folder, tiny_classifier_folder):
    """Of each metric the options that make it small."""
    return {
        "entity_precision": {"finder": "rules"},
        "factcc": {"model_id": tiny_classifier_folder},
        "qags": {"model_id": tiny_asking_folder},
        "quals": {"model_id": tiny_causal_folder},
    }


@pytest.fixture(params=metrics.NAMES)
def judged(request, options):
    """Of each metric its name, the options for a judge, and that judge."""
    name, chosen = request.param, options[request.param]
    if name == "entity_precision":
        return name, chosen, EntityScorer(RuleFinder())
    load_judge = {
        "factcc": FactccScorer.from_pretrained,
        "qags": QagsScorer.from_qagen,
        "quals": QualsScorer.from_pretrained,
    }[name]
    return name, chosen, load_judge(chosen["model_id"])


def load(name, **options):
    return evaluate.load(metrics.path(name), **options)


def test_scores_are_the_judges_and_a_blank_prediction_is_counted(judged):
    name, options, judge = judged
    result = load(name).compute(predictions=PREDICTIONS, sources=SOURCES, **options)
    first, third = (result.score for result in judge.score([SOURCES[0], SOURCES[2]], [PREDICTIONS[0], PREDICTIONS[2]]))
    assert result["scores"] == pytest.approx([nan_to_none(first), None, nan_to_none(third)], abs=1e-5)
    scored = [score for score in (first, third) if not math.isnan(score)]
    assert scored
    assert result[name] == pytest.approx(sum(scored) / len(scored), abs=1e-5)
    assert result["num_unscored"] == 3 - len(scored)


def test_what_the_scores_rest_on_is_returned_if_asked_for(judged):
    name, options, judge = judged
    inputs = {"predictions": PREDICTIONS[:2], "sources": SOURCES[:2]}
    assert "details" not in load(name).compute(**inputs, **options)
    first, blank = load(name).compute(**inputs, **options, return_details=True)["details"]
    (expected,) = judge.score(SOURCES[:1], PREDICTIONS[:1])
    assert blank is None
    assert first.keys() == expected.to_dict().keys()
    if name == "entity_precision":
        assert (first["supported"], first["unsupported"]) == (["Q"], ["Z"])
    elif name == "factcc":
        assert first["sentences"] == ["Q won.", "Z lost."]
        assert first["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    else:
        key = {"qags": "questions", "quals": "pairs"}[name]
        assert [item["question"] for item in first[key]] == [item.question for item in getattr(expected, key)]
        assert first[key]


@pytest.mark.parametrize("name", metrics.NAMES)
def test_nothing_to_score_gives_no_number(name, options):
    for predictions in ([], ["", "\n"]):
        result = load(name).compute(predictions=predictions, sources=["a"] * len(predictions), **options[name])
        assert result[name] is None
        assert result["num_unscored"] == len(result["scores"]) == len(predictions)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_what_evaluate_saves_of_a_result_is_json(name, options, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    for predictions in (PREDICTIONS, [" "] * 3):
        result = load(name).compute(predictions=predictions, sources=SOURCES, **options[name], return_details=True)
        saved = json.loads(evaluate.save(tmp_path / "result.json", **result).read_text(), parse_constant=refuse)
        assert saved["scores"] == result["scores"]
        assert saved[name] == result[name]


def test_the_lines_that_stand_for_an_evaluator_give_the_sources_to_a_metric():
    """As `docs/metric.md` has them."""
    page = (ROOT / "docs" / "metric.md").read_text()
    lines = page.split("## `evaluate.evaluator`")[1].split("```python\n")[1].split("```")[0]
    names = {
        "model": tiny_model("bart"),
        "tokenizer": tiny_tokenizer("bart"),
        "documents": ["abc def", "xyz"],
        "quals": load("entity_precision"),
    }
    exec(lines, names)
    assert len(names["summaries"]) == len(names["results"]["scores"]) == 2


@pytest.mark.parametrize("name", ["factcc", "qags", "quals"])
def test_a_model_is_loaded_once_for_all_calls_and_anew_for_another(name, options, tmp_path):
    metric, inputs = load(name), {"predictions": ["abc def"], "sources": ["abc def ghi"]}
    loader = sys.modules[type(metric).__module__]._scorer
    loader.cache_clear()
    for loaded in (metric, metric, load(name)):
        loaded.compute(**inputs, **options[name])
    assert loader.cache_info().misses == 1
    other = shutil.copytree(options[name]["model_id"], tmp_path / "other")
    metric.compute(**inputs, model_id=str(other))
    assert loader.cache_info().misses == 2


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"predictions": ["a"], "sources": ["a", "b"]}, "number of predictions (1) and sources (2)"),
        ({"predictions": None, "sources": ["a"]}, "predictions must be a list of strings, got NoneType"),
        ({"predictions": "ab", "sources": "ab"}, "predictions must be a list of strings, got str"),
        ({"predictions": ["a"], "sources": "a"}, "sources must be a list of strings, got str"),
        ({"predictions": ["a", None], "sources": ["a", "b"]}, "predictions, row 1: expected a string, got NoneType"),
        ({"predictions": ["a", "b"], "sources": ["a", 2]}, "sources, row 1: expected a string, got int"),
        ({"predictions": ["a", "b"], "sources": ["a", " "]}, "sources, row 1: the text is empty"),
        ({"predictions": ["a"]}, "inputs are missing: ['sources']"),
        ({"predictions": ["a"], "sources": ["a"], "batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing_behind(inputs, message, tiny_causal_folder):
    quals = load("quals")
    good = {"predictions": ["abc def"], "sources": ["abc def ghi"], "model_id": tiny_causal_folder}
    before = quals.compute(**good)["quals"]
    assert before is not None
    with pytest.raises(ValueError, match=re.escape(message)):
        quals.compute(**inputs, model_id=tiny_causal_folder)
    assert quals.compute(**good)["quals"] == pytest.approx(before)


def test_unknown_options_and_halves_of_a_choice_are_refused(tiny_causal_folder):
    inputs = {"predictions": ["a"], "sources": ["a"]}
    with pytest.raises(TypeError, match="model_name"):
        load("quals").compute(**inputs, model_name=tiny_causal_folder)
    for options in ({"writer_id": "x"}, {"reader_id": "x"}, {"model_id": "x", "writer_id": "x", "reader_id": "x"}):
        with pytest.raises(ValueError, match="either model_id, or writer_id and reader_id"):
            load("qags").compute(**inputs, **options)


def test_options_of_the_scorer_count_for_quals(tiny_causal_folder):
    texts = {"predictions": ["abc def", "xyz"], "sources": ["abc def ghi", "uvw xyz"]}
    options = {"num_beams": 8, "max_pairs": 2, "variant": "answers", "dtype": "float32", "device": "cpu"}
    given = load("quals").compute(**texts, model_id=tiny_causal_folder, batch_size=1, **options)
    scorer = QualsScorer.from_pretrained(tiny_causal_folder, **options)
    expected = [result.score for result in scorer.score(texts["sources"], texts["predictions"])]
    scores = [math.nan if score is None else score for score in given["scores"]]
    assert scores == pytest.approx(expected, abs=1e-4, nan_ok=True)
    plain = load("quals").compute(**texts, model_id=tiny_causal_folder)
    assert plain["scores"] != given["scores"]


def test_a_name_that_is_no_metric_is_refused():
    with pytest.raises(
        ValueError, match="There is no metric 'rouge'; there are entity_precision, factcc, qags, quals"
    ):
        metrics.path("rouge")


def test_columns_of_a_dataset_and_arrays_are_lists_enough():
    rows, metric = Dataset.from_dict({"document": SOURCES, "summary": PREDICTIONS}), load("entity_precision")
    for predictions, sources in ((rows["summary"], rows["document"]), (np.array(PREDICTIONS), tuple(SOURCES))):
        result = metric.compute(predictions=predictions, sources=sources, finder="rules")
        # Of Q and Z, Q is known; of K, Z and Q, Z is.
        assert result["scores"] == pytest.approx([1 / 2, None, 1 / 3])


def test_a_folder_of_the_checkout_and_a_copy_of_it_are_loaded_alike(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    copy = shutil.copytree("hf_quals/metrics/entity_precision", tmp_path / "entity_precision")
    for folder in ("hf_quals/metrics/entity_precision", str(copy)):
        result = evaluate.load(folder).compute(predictions=["Klitschko won."], sources=["Joshua won."])
        assert result["entity_precision"] == 0.0


# Inside other things.

EXACT_MATCH = """
import datasets
import evaluate

class ExactMatch(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"exact_match": sum(map(str.__eq__, predictions, references)) / len(references)}
"""


def test_combined_with_a_metric_of_references(tmp_path):
    (tmp_path / "exact_match.py").write_text(EXACT_MATCH)
    combined = evaluate.combine([evaluate.load(str(tmp_path / "exact_match.py")), load("entity_precision")])
    combined.add_batch(
        predictions=["Joshua won.", "Fury won."],
        references=["Joshua won.", "Joshua won."],
        sources=["Joshua won."] * 2,
    )
    result = combined.compute()
    assert (result["exact_match"], result["entity_precision"], result["scores"]) == (0.5, 0.5, [1.0, 0.0])


def test_combined_with_each_other_scores_get_their_metrics_name(tiny_asking_folder):
    inputs = {"predictions": PREDICTIONS, "sources": SOURCES, "model_id": tiny_asking_folder}
    combined = evaluate.combine([load("quals"), load("qags")]).compute(**inputs)
    for name in ("quals", "qags"):
        alone = load(name).compute(**inputs)
        assert combined[name] == pytest.approx(alone[name])
        assert combined[f"{name}_scores"] == pytest.approx(alone["scores"])
        assert combined[f"{name}_num_unscored"] == alone["num_unscored"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["bart", "llama"])
def test_a_source_holds_no_reference_whatever_the_models_family(tmp_path, family, side):
    tokenizer, data, seen = tiny_tokenizer(family), rows(family, 5), []
    tokenizer.padding_side = side
    if family == "llama":
        tokenizer.pad_token = tokenizer.eos_token  # as many decoder-only tokenizers have it

    def compute_metrics(prediction):
        seen.append(prediction_texts(prediction, tokenizer, is_encoder_decoder=family == "bart"))
        return {}

    run = trainer(
        family,
        tmp_path,
        eval_dataset=data,
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        predict_with_generate=True,
        generation_max_length=8,
        include_for_metrics=["inputs"],
        per_device_eval_batch_size=2,
    )
    run.evaluate()
    [(predictions, sources, references)] = seen
    assert sources == [text + ("?" if family == "llama" else "") for text in data["document"]]
    assert references == data["summary"][:]
    assert len(predictions) == 5


def test_inputs_that_are_not_prompt_and_reference_are_refused():
    tokenizer = tiny_tokenizer("llama")
    labels = np.array([[7, 8, 2]])
    with pytest.raises(InputError, match=r'pass `include_for_metrics=\["inputs"\]`'):
        prediction_texts(EvalPrediction(labels, labels), tokenizer, is_encoder_decoder=False)
    with pytest.raises(InputError, match="Row 0: the inputs do not end with the labels"):
        prediction_texts(EvalPrediction(labels, labels, np.array([[5, 7, 8, 9]])), tokenizer, is_encoder_decoder=False)


def test_compute_metrics_of_a_trainer(tmp_path, tiny_causal_folder):
    quals, tokenizer, seen = load("quals"), tiny_tokenizer("bart"), {}
    rows = [tokenizer(text) | {"labels": tokenizer("abc")["input_ids"]} for text in ("abc def", "xyz", "ghi jkl mno")]

    def decode(ids):
        return tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)

    def compute_metrics(prediction):
        seen.update(predictions=decode(prediction.predictions), sources=decode(prediction.inputs))
        result = quals.compute(**seen, model_id=tiny_causal_folder)
        return {"quals": result["quals"], "num_unscored": result["num_unscored"]}

    arguments = Seq2SeqTrainingArguments(
        str(tmp_path),
        predict_with_generate=True,
        generation_max_length=16,
        include_for_metrics=["inputs"],
        per_device_eval_batch_size=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = tiny_model("bart")
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    logged = trainer.evaluate()
    assert seen["sources"] == ["abc def", "xyz", "ghi jkl mno"]
    expected = quals.compute(**seen, model_id=tiny_causal_folder)
    assert logged["eval_quals"] == pytest.approx(expected["quals"])
    assert logged["eval_num_unscored"] == expected["num_unscored"]


ONE_OF_TWO = """
import json, sys
import evaluate
from hf_quals import metrics

folder, cache, rank, predictions, sources = json.loads(sys.argv[1])
quals = evaluate.load(
    metrics.path("quals"), num_process=2, process_id=rank, experiment_id="two", cache_dir=cache
)
quals.add_batch(predictions=predictions, sources=sources)
print(json.dumps(quals.compute(model_id=folder)))
"""


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tiny_causal_folder, tmp_path):
    predictions, sources = ["abc def", "xyz", "", "ghi jkl"], ["abc def ghi", "uvw xyz", "abc", "mno pqr"]
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                ONE_OF_TWO,
                json.dumps([tiny_causal_folder, str(tmp_path), rank, predictions[part], sources[part]]),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, part in enumerate((slice(0, 3), slice(3, 4)))
    ]
    main, other = (json.loads(process.communicate(timeout=300)[0]) for process in processes)
    alone = load("quals").compute(predictions=predictions, sources=sources, model_id=tiny_causal_folder)
    assert other is None
    assert main["scores"] == pytest.approx(alone["scores"], abs=1e-5)
    assert main["quals"] == pytest.approx(alone["quals"], abs=1e-5)
    assert main["num_unscored"] == alone["num_unscored"] >= 1


# What is documented, and what a Space is.


def example_of(metric) -> str:
    return textwrap.dedent(metric.inputs_description.split("Example:\n")[1]).strip()


@pytest.mark.parametrize("name", metrics.NAMES)
def test_a_metric_is_as_evaluate_wants_its_own(name):
    """What evaluate asks of its own metrics: `_info`, documented classes, and `_compute` without `**kwargs`."""
    metric = load(name)
    info = metric._info()
    assert all((info.description, info.citation, info.inputs_description))
    assert list(info.features) == ["predictions", "sources"]
    assert info.description in type(metric).__doc__
    assert info.inputs_description in type(metric).__doc__
    parameters = inspect.signature(metric._compute).parameters.values()
    assert all(parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    documented = re.findall(r"^    (\w+) \(", info.inputs_description.split("Returns:")[0], re.MULTILINE)
    assert documented == [parameter.name for parameter in parameters]


@pytest.mark.parametrize(
    "name", ["entity_precision", "factcc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qags", "quals"))]
)
def test_the_examples_of_a_metrics_module_come_out_as_written(name, monkeypatch, tiny_classifier_folder):
    module = sys.modules[type(load(name)).__module__]
    if name == "factcc":  # as evaluate's test does, a small model in the place of the Hub's
        monkeypatch.setattr(module, "_scorer", lambda *_: FactccScorer.from_pretrained(tiny_classifier_folder))
    outcome = doctest.testmod(module, raise_on_error=True)
    assert outcome.failed == 0
    assert outcome.attempted >= 5


@pytest.mark.parametrize("name", metrics.NAMES)
def test_the_card_shows_the_same_example(name):
    assert f"```python\n{example_of(load(name))}\n```" in (Path(metrics.path(name)) / "README.md").read_text()


SPACES = """
import json, runpy, sys
from gradio_client import Client

demos = {name: runpy.run_path(f"{name}/app.py")["demo"] for name in sys.argv[1:]}
_, url, _ = demos["entity_precision"].launch(prevent_thread_lock=True, quiet=True)
client = Client(url, verbose=False)
for prediction in ("Klitschko beat Joshua.", "He won."):
    print(json.dumps(client.predict("Joshua won.", prediction, api_name="/compute")))
print(json.dumps(client.predict("Joshua won.", "Klitschko beat Joshua.", api_name="/score")))
try:
    client.predict("", "Klitschko won.", api_name="/compute")
except Exception as error:
    print(error)
"""


@pytest.mark.slow
def test_copies_of_the_folders_are_spaces(tmp_path):
    for name in metrics.NAMES:
        shutil.copytree(metrics.path(name), tmp_path / name)
    result = subprocess.run(
        [sys.executable, "-c", SPACES, *metrics.NAMES],
        cwd=tmp_path,
        env=os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    scored, unscored, shown, refused = result.stdout.splitlines()
    details = json.loads(scored)
    assert (details["supported"], details["unsupported"]) == (["Joshua"], ["Klitschko"])
    assert details["score"] == 0.5
    assert json.loads(unscored)["score"] is None
    assert "&gt;Klitschko&lt;/mark&gt; beat" in json.loads(shown)
    assert "Please paste the document" in refused


@pytest.mark.slow
def test_requirements_of_a_space_bring_the_project_with_all_that_the_metrics_need(tmp_path):
    source = tmp_path / "source"
    for name in ("hf_quals", "recipes"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "wheels", source], check=True)

    contents = {name: (Path(metrics.path(name)) / "requirements.txt").read_text() for name in metrics.NAMES}
    pictures = {"quals": "[plot]"}
    assert contents == {name: f"hf-quals{pictures.get(name, '')}>=0.1.0\n" for name in metrics.NAMES}
    requirements = Path(metrics.path("quals")) / "requirements.txt"
    site = tmp_path / "site"
    # Only the project: what it needs itself is declared by the wheel, and installed where the tests run.
    install = [*pip, "install", "--no-deps", "--no-index", "--find-links", tmp_path / "wheels", "--target", site]
    subprocess.run([*install, "-r", requirements], check=True)
    (distribution,) = Distribution.discover(name="hf-quals", path=[str(site)])
    declared = {Requirement(line).name for line in distribution.requires or [] if "extra ==" not in line}
    assert {"evaluate", "datasets", "huggingface_hub", "torch", "transformers"} <= declared

    code = (
        "import evaluate, hf_quals; from hf_quals import metrics; print(hf_quals.__file__);"
        "print([evaluate.load(metrics.path(name)).name for name in metrics.NAMES])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert Path(printed[0]).is_relative_to(site)
    assert printed[1] == str(list(metrics.NAMES))
    for name in metrics.NAMES:
        installed = {file.name for file in (site / "hf_quals" / "metrics" / name).iterdir() if file.is_file()}
        assert installed == {"README.md", "app.py", f"{name}.py", "requirements.txt"}
