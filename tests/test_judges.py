"""The registry: what it knows of each judge is true, and one file adds a judge to everything."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from reader_world import save_classifier

import hf_quals.judges
from hf_quals import QualsConfig, Scorer
from hf_quals.cli import _judges_help
from hf_quals.comparing.run import compare_systems
from hf_quals.comparing.systems import Comparison
from hf_quals.errors import InputError
from hf_quals.files import markdown_table
from hf_quals.judges import registry
from hf_quals.judges.entities import EntityScorer, RuleFinder
from hf_quals.judges.registry import (
    Judge,
    default_judges,
    make_judges,
    register_judge,
    registered_judges,
    weights_of,
)
from hf_quals.judges.rouge import RougeScorer
from hf_quals.scorers import by_document


NAMES = ["entity", "factcc", "qags", "quals", "rouge"]


@pytest.fixture
def options(tmp_path, tiny_causal_folder):
    return {"model": tiny_causal_folder, "factcc_model": save_classifier(tmp_path / "classifier")}


def test_that_the_default_model_cannot_be_had_is_not_taken_for_a_name_that_loading_refuses(monkeypatch, tmp_path):
    def unreachable():
        raise OSError("no index")

    monkeypatch.setattr("hf_quals.qagen.loading.default_base_model", unreachable)
    with pytest.raises(OSError, match="no index"):
        weights_of()
    assert weights_of(str(tmp_path / "nothing")) is None


def test_every_judge_of_the_package_is_found():
    assert list(registered_judges()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_registered_is_what_the_scorer_says(name, options):
    registered = registered_judges()[name]
    (judge,) = make_judges([name], **options)
    scorer = judge.load()
    assert isinstance(scorer, Scorer)
    assert (scorer.name, scorer.reads_references) == (name, registered.reads_references)
    (result,) = scorer.score(["a b c ?"], ["a b d ?"], references=["a b c ?"])
    assert all(isinstance(getattr(result, attribute), float) for attribute in registered.columns.values())


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_a_scorer_are_json(name, options):
    (judge,) = make_judges([name], **options)
    settings = judge.load().settings()
    assert json.loads(json.dumps(settings)) == settings


def test_defaults_need_no_hub_and_references_only_where_there_are_some():
    assert default_judges(with_references=True) == ["entity", "quals", "rouge"]
    assert default_judges(with_references=False) == ["entity", "quals"]
    assert default_judges(with_references=False, with_slow=True) == ["entity", "qags", "quals"]


def test_each_judge_takes_the_options_that_are_its_own():
    quals, factcc, entity = make_judges(["quals", "factcc", "entity"], model="a", factcc_model=None, dtype="float16")
    # A configuration beside the model changes its scores, too.
    assert quals.settings == {"model": "a", "weights": None, "dtype": "float16", **QualsConfig().to_dict()}
    assert factcc.settings == {"model": "manueldeprada/FactCC", "weights": None, "dtype": "float16"}
    assert list(entity.settings) == ["names found by"]


def test_options_and_names_that_no_judge_has_are_refused():
    with pytest.raises(TypeError, match=r"No judge has the option 'modle'\. Known are device, dtype, factcc_model"):
        make_judges(["entity"], modle="a")
    with pytest.raises(InputError, match="No judge is called 'bleu'"):
        make_judges(["bleu"])
    with pytest.raises(ValueError, match="There is a judge 'quals' already"):
        register_judge("quals", columns={"QUALS": "score"}, needs="nothing")(lambda: None)


BREVITY = """
from types import SimpleNamespace

from hf_quals.judges.registry import register_judge
from hf_quals.scorers import Scorer


class BrevityScorer(Scorer):
    name = "brevity"

    def score(self, documents, summaries, *, references=None, batch_size=8):
        return [SimpleNamespace(score=1 / len(summary)) for summary in summaries]


@register_judge("brevity", columns={"brevity": "score"}, needs="no more than a summary")
def prepare():
    return {}, BrevityScorer
"""


def test_one_file_adds_a_judge_to_help_and_defaults_and_table(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registered_judges()))
    (tmp_path / "brevity.py").write_text(BREVITY)
    monkeypatch.setattr(hf_quals.judges, "__path__", [*hf_quals.judges.__path__, str(tmp_path)])
    assert "brevity" in default_judges(with_references=False)
    assert "brevity (no more than a summary)" in _judges_help()
    table = compare_systems([Comparison("a document", ("ab", "abcd"), ("", ""))], ["A", "B"], make_judges(["brevity"]))
    assert [(cell.judge, cell.system, cell.mean) for cell in table.cells] == [
        ("brevity", "A", 0.5),
        ("brevity", "B", 0.25),
    ]


class Overlap(Scorer):
    """The share of the reference's words that the summary has."""

    name = "overlap"
    reads_references = True

    def score(self, documents, summaries, *, references=None, batch_size=8):
        pairs = zip(references, summaries, strict=True)
        words = [(set(reference.split()), set(summary.split())) for reference, summary in pairs]
        return [SimpleNamespace(score=len(wanted & said) / len(wanted)) for wanted, said in words]

    def settings(self):
        return {"words": "split at spaces"}


def test_any_scorer_is_a_judge():
    comparisons = [
        Comparison("x", ("rain fell", "snow"), ("", ""), "rain fell today"),
        Comparison("y", ("b", "a b"), ("", ""), "a b"),
    ]
    table = compare_systems(comparisons, ["A", "B"], [Judge.of(Overlap())])
    assert [cell.mean for cell in table.cells] == pytest.approx([(2 / 3 + 1 / 2) / 2, (0 + 1) / 2])
    assert table.settings == {"overlap": {"words": "split at spaces"}}


def test_help_imports_no_torch():
    code = (
        "import sys; from hf_quals.cli import app\n"
        "try: app(['evaluate', '--help'])\n"
        "except SystemExit: print({'torch', 'transformers', 'spacy', 'rouge_score'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "set()"


def test_the_table_of_the_docs_is_the_registry():
    rows = [
        [
            f"`{judge.name}`",
            ", ".join(judge.columns),
            judge.needs,
            judge.cost,
            "yes" if judge.reads_references else "no",
            "yes" if judge.needs_hub else "no",
        ]
        for judge in registered_judges().values()
    ]
    table = markdown_table(["judge", "scores", "needs", "cost of a summary", "references", "Hub"], rows, num_left=6)
    assert table in (Path(__file__).parents[1] / "docs" / "judges.md").read_text()


def test_rouge_of_a_reference_is_worked_out_by_hand():
    # Common are 3 of 4 words, 1 of 3 pairs of neighbours, and the subsequence of the 3 words.
    (result,) = RougeScorer().score(["-"], ["the cat has sat"], references=["the cat sat down"])
    assert (result.rouge1, result.rouge2, result.rougeL) == pytest.approx((3 / 4, 1 / 3, 3 / 4))
    assert result.score == pytest.approx((3 / 4 + 1 / 3 + 3 / 4) / 3)
    assert result.to_dict() == {
        "score": result.score,
        "rouge1": 3 / 4,
        "rouge2": pytest.approx(1 / 3),
        "rougeL": 3 / 4,
    }


def test_rouge_without_references_or_with_bad_rows_is_refused():
    with pytest.raises(ValueError, match="Pass references"):
        RougeScorer().score(["a"], ["b"])
    with pytest.raises(ValueError, match="got 1 documents and 2 references"):
        RougeScorer().score(["a"], ["b"], references=["c", "d"])
    with pytest.raises(ValueError, match="Row 0: the reference is empty"):
        RougeScorer().score(["a"], ["b"], references=[" "])


def test_what_is_wanted_of_a_document_is_gathered_over_its_rows():
    wanted = [{"q": 1}, {"r": 2}, {"q": 3, "s": 4}]
    assert by_document(["x", "y", "x"], wanted) == {"x": {"q": 3, "s": 4}, "y": {"r": 2}}
    assert by_document([], []) == {}


@pytest.mark.parametrize("num_results", [0, 2])
def test_judge_that_returns_another_number_of_results_is_said_to(num_results):
    class Miscounting(Scorer):
        name = "miscounting"

        def score(self, documents, summaries, *, references=None, batch_size=8):
            return [SimpleNamespace(score=1.0)] * num_results

    comparison = Comparison("Fury won.", ("Fury won.",), ("line 1",))
    table = compare_systems([comparison], ["one"], [Judge.of(Miscounting())])
    assert table.errors == {"miscounting": f"ValueError: miscounting returned {num_results} results for 1 summaries."}


def test_names_given_as_one_string_are_refused():
    with pytest.raises(InputError, match="got the string 'quals'"):
        make_judges("quals")


@pytest.mark.parametrize("scorer", [EntityScorer(RuleFinder()), RougeScorer()], ids=["entity", "rouge"])
def test_one_document_goes_with_many_summaries_and_one_summary_has_one_result(scorer):
    document, summaries = "Lewis saw 12 fights.", ["Lewis saw 12.", "Fury saw 13."]
    reference = "Lewis saw 12 fights"
    whole = scorer.score([document] * 2, summaries, references=[reference] * 2)
    assert whole[0] != whole[1]
    assert scorer.score(document, summaries, references=reference) == whole
    assert scorer.score(document, summaries[1], references=reference) == whole[1]


class ShortSighted(Scorer):
    name = "short-sighted"

    def score(self, documents, summaries, *, references=None, batch_size=8):
        return [
            SimpleNamespace(score=0.0, document_truncated=len(document) > 5, summary_truncated=len(summary) > 3)
            for document, summary in zip(documents, summaries, strict=True)
        ]


def test_that_the_end_of_texts_was_not_seen_is_said_once(caplog):
    scorer = ShortSighted()
    scorer.score(["abc", "abcdef"], ["a", "b"])
    scorer.score("abcdef", ["abcd", "b", "c"])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "of 2 rows, 1 documents are longer than its model reads" in message
    assert "passage_words" in message
