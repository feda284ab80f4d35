import csv
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from hf_quals.cli import app
from hf_quals.human_eval.answers import Answers, Key, read_key
from hf_quals.human_eval.report import picture, report_of, to_markdown
from hf_quals.human_eval.study import CRITERIA, Comparison, draw, write_study
from hf_quals.human_eval.verdicts import krippendorff_alpha, majority, sign_test


TRAP = "A </script><script>document.title = 'broken'</script> <!-- <script> “quoted”, 2 < 3 & 3 > 2"


def comparisons(count):
    """Summaries "good" of the first system and "bad" of the second, with a number that makes them unique."""
    places = ("first.jsonl", "second.jsonl")
    return [Comparison(f"document {n}", (f"good {n}", f"bad {n}"), places) for n in range(count)]


def invoke(*arguments):
    """Exit status and what was printed by `hf-quals human-eval`."""
    result = CliRunner().invoke(app, ["human-eval", *map(str, arguments)])
    return result.exit_code, result.output


def write_jsonl(path, summaries, documents=None):
    documents = documents or [f"document {number}" for number in range(len(summaries))]
    rows = ({"document": d, "summary": s} for d, s in zip(documents, summaries, strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def systems(tmp_path):
    """Files of two systems, good.jsonl and bad.jsonl, with six documents; the second in reverse order."""
    numbers = range(6)
    good = write_jsonl(tmp_path / "good.jsonl", [f"good {n}" for n in numbers])
    bad = write_jsonl(
        tmp_path / "bad.jsonl", [f"bad {n}" for n in numbers][::-1], [f"document {n}" for n in numbers][::-1]
    )
    return good, bad


@pytest.fixture
def study(tmp_path, systems):
    """The folder of a study of all six documents."""
    status, printed = invoke("make", *systems, "--output", tmp_path / "study", "--num-items", 6)
    assert status == 0, printed
    return tmp_path / "study"


def items_of(folder):
    """What the spreadsheet shows."""
    with open(folder / "study.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def good_side(item):
    """What an annotator chooses who knows a good summary when they see it."""
    return "A" if item["A"].startswith("good") else "B"


def write_answers(folder, annotator, choose, criteria=tuple(CRITERIA)):
    """An answer file as the page saves it; `choose` maps an item to a choice, or to `None`: unanswered."""
    answers = {
        item["item"]: {criterion: choose(item) for criterion in criteria}
        for item in items_of(folder)
        if choose(item) is not None
    }
    content = {"kind": "answers of a human-eval study", "study": items_of(folder)[0]["study"]}
    path = folder / f"{annotator}.json"
    path.write_text(json.dumps(content | {"annotator": annotator, "answers": answers}))
    return path


def write_csv_answers(folder, annotator, rows):
    path = folder / f"{annotator}.csv"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# Blinding


@given(count=st.integers(1, 40), seed=st.integers(0, 1000))
def test_each_system_is_a_in_half_of_the_items(count, seed):
    swapped = sum(item.swapped for item in draw(comparisons(40), count, seed).items)
    assert swapped in {count // 2, (count + 1) // 2}


def test_of_an_odd_number_either_system_may_be_a_once_more():
    assert {draw(comparisons(1), 1, seed).items[0].swapped for seed in range(20)} == {False, True}


def test_a_seed_gives_one_study_and_another_seed_another():
    assert draw(comparisons(40), 20, seed=1) == draw(comparisons(40), 20, seed=1)
    one, other = draw(comparisons(40), 20, seed=1), draw(comparisons(40), 20, seed=2)
    assert [item.comparison for item in one.items] != [item.comparison for item in other.items]
    assert [item.swapped for item in one.items] != [item.swapped for item in other.items]
    assert one.id != other.id


def test_id_changes_with_the_sides_alone():
    assert len({draw(comparisons(1), 1, seed).id for seed in range(20)}) == 2


def test_annotators_see_neither_names_nor_places_nor_sides(study):
    for shown in ((study / "study.html").read_text(), (study / "study.csv").read_text()):
        for secret in ("good.jsonl", "bad.jsonl", "swapped", "seed", "places"):
            assert secret not in shown


def test_same_summaries_are_left_out_and_counted(tmp_path):
    first = write_jsonl(tmp_path / "first.jsonl", ["the same", "a", "b"])
    second = write_jsonl(tmp_path / "second.jsonl", ["the \n same ", "c", "d"])
    status, printed = invoke("make", first, second, "--output", tmp_path / "study", "--num-items", 2)
    assert (status, "2 items of 3 documents; 1 with the same summary" in printed) == (0, True)
    assert {item["document"] for item in items_of(tmp_path / "study")} == {"document 1", "document 2"}
    status, printed = invoke("make", first, second, "--output", tmp_path / "other", "--num-items", 3)
    assert (status, "of 3 documents only 2 have two different summaries" in printed) == (2, True)


# Unblinding


@given(truth=st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=30), seed=st.integers(0, 1000))
def test_unblinding_finds_what_the_annotator_saw(tmp_path_factory, truth, seed):
    """An annotator who sees numbers and prefers the larger one, wherever it stands."""
    numbers = [Comparison(f"document {n}", (str(value), "0"), ("", "")) for n, value in enumerate(truth)]
    study = draw(numbers, len(numbers), seed)
    folder = tmp_path_factory.mktemp("study")
    write_study(study, ("first", "second"), folder)
    choices = {
        int(item["item"]): dict.fromkeys(
            CRITERIA, "A" if int(item["A"].strip("'")) > int(item["B"].strip("'")) else "B"
        )
        for item in items_of(folder)
    }
    for row in report_of(read_key(folder / "key.json"), [Answers("Ada", choices)]).criteria:
        assert (row.better, row.equal, row.worse) == (truth.count(1), 0, truth.count(-1))


def test_annotators_of_one_item_count_once_by_their_majority():
    key = Key("id", ("first", "second"), {1: False, 2: True, 3: False, 4: False})
    grammar = [{1: "A", 2: "A", 3: "A"}, {1: "A", 2: "A", 3: "B"}, {1: "equal", 2: "B"}]
    everyone = [
        Answers(name, {item: {"grammar": choice} for item, choice in choices.items()})
        for name, choices in zip(("Ada", "Bob", "Cy"), grammar, strict=True)
    ]
    row = {row.criterion: row for row in report_of(key, everyone).criteria}["grammar"]
    # Item 1: A, A, equal. Item 2, A is the second system's: worse, worse, better. Item 3: one against one. 4: nobody.
    assert (row.better, row.equal, row.worse, row.no_majority, row.unanswered) == (1, 1, 1, 1, 1)
    assert row.p_value == 1


# Statistics


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([1], 1),
        ([1, 1, 0], 1),
        ([0, 0, -1], 0),
        ([1, -1], None),
        ([1, 0], None),
        ([1, 0, -1], None),
        ([1, 1, 0, -1], None),
    ],
)
def test_majority_is_more_than_half(verdicts, expected):
    assert majority(verdicts) == expected


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        (8, 2, 2 * (1 + 10 + 45) / 1024),  # ways to choose 0, 1 or 2 of 10, on either side
        (0, 5, 2 / 32),
        (3, 3, 1.0),
        (0, 0, None),
    ],
)
def test_sign_test_by_hand(better, worse, expected):
    assert sign_test(better, worse) == (expected if expected is None else pytest.approx(expected))


def test_alpha_of_krippendorffs_own_example():
    """The ordinal example of "Computing Krippendorff's Alpha-Reliability": 4 observers, 12 units, 0.815."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[int(value) for value in unit if value != "."] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.815, abs=5e-4)


def test_alpha_of_two_values_by_hand():
    """
    Units (1, 1), (1, 0), (0, 0): 3 ones and 3 zeros. Observed: 2 unequal pairs of 6. Expected: 2 · 3 · 3 of 30. So
    alpha is 1 − (2/6) / (18/30).
    """
    assert krippendorff_alpha([[1, 1], [1, 0], [0, 0]]) == pytest.approx(1 - (2 / 6) / (18 / 30))


def test_alpha_counts_better_for_worse_as_a_larger_disagreement_than_better_for_equal():
    agreed = [[1, 1], [0, 0], [-1, -1]] * 3
    assert krippendorff_alpha([*agreed, [1, 0]]) > krippendorff_alpha([*agreed, [1, -1]])


@pytest.mark.parametrize("units", [[], [[1], [0]], [[1, 1], [1, 1]]], ids=["nothing", "one annotator", "one value"])
def test_alpha_that_is_not_defined_is_none(units):
    assert krippendorff_alpha(units) is None


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), max_size=4), max_size=10), st.randoms())
def test_alpha_is_at_most_1_whatever_the_order(units, rng):
    alpha = krippendorff_alpha(units)
    shuffled = [rng.sample(unit, len(unit)) for unit in rng.sample(units, len(units))]
    assert krippendorff_alpha(shuffled) == (alpha if alpha is None else pytest.approx(alpha))
    assert alpha is None or alpha <= 1


# Commands


def test_report_from_page_and_spreadsheet(study, tmp_path):
    ada = write_answers(study, "Ada", good_side)
    rows = [item | dict.fromkeys(CRITERIA, good_side(item).lower()) for item in items_of(study)]
    rows[0] |= dict.fromkeys(CRITERIA, " Equal ")
    rows[1] |= {"grammar": ""}
    bob = write_csv_answers(study, "bob", rows)
    paths = ["--output", tmp_path / "report.json", "--picture", tmp_path / "bars.svg"]
    status, printed = invoke("report", study / "key.json", ada, bob, *paths)
    assert status == 0, printed
    assert "# good compared with bad" in printed
    assert "| Factual consistency |  83.3% | 16.7% |  0.0% |     6 | p = 0.062 |" in printed
    assert "Of 6 items, completed by: Ada 6, bob 5" in printed
    assert "counted as equal: Factual consistency 1, Informativeness 1, Grammar 1" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["complete"] == {"Ada": 6, "bob": 5}
    grammar = report["criteria"][2]
    assert (grammar["better"], grammar["equal"], grammar["worse"]) == (5, 1, 0)
    assert grammar["shares"] == pytest.approx({"better": 5 / 6, "equal": 1 / 6, "worse": 0})
    assert grammar["p_value"] == pytest.approx(2 / 32)
    assert "<svg" in (tmp_path / "bars.svg").read_text()


def test_markdown_report_is_what_was_printed(study, tmp_path):
    answers = write_answers(study, "Ada", good_side)
    _, printed = invoke("report", study / "key.json", answers, "--output", tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == printed
    invoke("report", study / "key.json", answers, "--output", tmp_path / "report.JSON")
    assert "criteria" in json.loads((tmp_path / "report.JSON").read_text())


@pytest.mark.parametrize("option", [["--output", "missing/report.md"], ["--picture", "missing/bars.svg"]])
def test_a_folder_that_is_not_there_is_named(study, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed = invoke("report", study / "key.json", write_answers(study, "Ada", good_side), *option)
    assert (status, printed) == (
        2,
        f"Error: {option[1]}: the folder missing does not exist or cannot be written to.\n",
    )


def test_unanswered_items_are_counted(study):
    answers = write_answers(study, "Ada", lambda item: "A" if item["item"] == "3" else None)
    status, printed = invoke("report", study / "key.json", answers)
    assert status == 0
    assert "Of 6 items, completed by: Ada 1" in printed
    assert "nobody judged, left out: Factual consistency 5, Informativeness 5, Grammar 5" in printed


def test_one_annotator_has_no_agreement(study):
    _, printed = invoke("report", study / "key.json", write_answers(study, "Ada", good_side))
    assert all(line.endswith(" – |") for line in printed.splitlines() if line.startswith("| Gr"))


def test_shares_of_random_answers_add_up():
    rng = random.Random(0)
    key = Key("id", ("first", "second"), {item: rng.random() < 0.5 for item in range(1, 31)})
    everyone = [
        Answers(name, {item: dict.fromkeys(CRITERIA, rng.choice(["A", "equal", "B"])) for item in key.swapped})
        for name in "xyz"
    ]
    report = report_of(key, everyone)
    for row in report.criteria:
        assert sum(row.share(outcome) for outcome in ("better", "equal", "worse")) == pytest.approx(1)
    assert to_markdown(report).count("\n| ") == 5


def test_picture_labels_every_share():
    key = Key("id", ("costs $5", "costs $6"), dict.fromkeys(range(1, 41), False))
    choices = {
        item: dict.fromkeys(CRITERIA, "A" if item == 1 else "equal" if item < 11 else "B") for item in key.swapped
    }
    figure = picture(report_of(key, [Answers("Ada", choices)]))
    labels = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert sorted(labels) == sorted(["2.5%", "22.5%", "75.0%"] * 3)
    # 1 better and 30 worse of 31: 2 · (1 + 31) ways of 2^31.
    titles = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert titles == [f"{name}\nn = 40, p < 0.001" for name in ("Factual consistency", "Informativeness", "Grammar")]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["better: costs $5", "equal", "better: costs $6"]


@pytest.mark.parametrize(
    ("again", "message"), [('"01"', "item 1 again, as '1'"), ('"1"', "the key '1' occurs 2 times")]
)
def test_an_item_answered_under_two_names_is_refused(study, again, message):
    answers = write_answers(study, "Ada", good_side)
    answers.write_text(answers.read_text().replace('"answers": {', f'"answers": {{{again}: {{"grammar": "A"}}, '))
    status, printed = invoke("report", study / "key.json", answers)
    assert (status, message in printed) == (2, True), printed


def test_a_study_does_not_replace_the_file_it_is_made_of(tmp_path):
    given = tmp_path / "study.csv"
    given.write_text("document,summary\na,b\n")
    (tmp_path / "other.csv").write_text("document,summary\na,c\n")
    files = [given, tmp_path / "other.csv", "--output", tmp_path, "--num-items", 1, "--overwrite"]
    status, printed = invoke("make", *files)
    assert (status, "study.csv is an input" in printed) == (2, True), printed
    assert given.read_text() == "document,summary\na,b\n"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_other_formats_and_columns(tmp_path, suffix):
    from datasets import Dataset

    paths = []
    for name, summary in (("first", "one"), ("second", "two")):
        paths.append(tmp_path / f"{name}{suffix}")
        dataset = Dataset.from_dict({"article": ["a", "b"], "text": [summary, summary]})
        dataset.to_csv(paths[-1]) if suffix == ".csv" else dataset.to_parquet(paths[-1])
    columns = ["--document-column", "article", "--summary-column", "text", "--names", "old,new"]
    status, printed = invoke("make", *paths, "--output", tmp_path / "study", "--num-items", 2, *columns)
    assert status == 0, printed
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    assert key["systems"] == ["old", "new"]
    assert {key["items"][0]["A"], key["items"][1]["A"]} == {"old", "new"}


def test_texts_that_a_spreadsheet_would_run_are_marked_as_text(tmp_path):
    first, second = (write_jsonl(tmp_path / f"{s}.jsonl", [s], ["=1+1"]) for s in ("@first", "-second"))
    invoke("make", first, second, "--output", tmp_path / "study", "--num-items", 1)
    [item] = items_of(tmp_path / "study")
    assert {item["document"], item["A"], item["B"]} == {"'=1+1", "'@first", "'-second"}


def test_names_are_no_markup_of_the_report(study):
    key = Key("<i>id</i>", ("<img src=x>\n# big", "a|b"), {1: False})
    text = to_markdown(report_of(key, [Answers("[Ada](http://example.org)\n<b>", {1: {"grammar": "A"}})]))
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert set(re.findall(r"</?(\w+)", html)) <= {"h1", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert html.count("<h1>") == 1
    assert "[Ada](http://example.org) &lt;b&gt; 0" in html


def test_documents_too_long_for_a_spreadsheet_are_counted(tmp_path):
    first, second = (write_jsonl(tmp_path / f"{s}.jsonl", [s], ["x" * 32_768]) for s in ("a", "b"))
    _, printed = invoke("make", first, second, "--output", tmp_path / "study", "--num-items", 1)
    assert "1 items have a text of more than 32767 characters" in printed


@pytest.mark.parametrize(
    ("documents", "summaries", "message"),
    [
        (
            ["a", "c"],
            ["x", "y"],
            "1 of the 2 documents of .*first.jsonl are not in the other file.*first.jsonl, line 2",
        ),
        (["a"], ["x"], "1 of the 2 documents of .*first.jsonl are not in the other file"),
        (["a", "b", "c"], ["x", "y", "z"], "1 of the 3 documents of .*second.jsonl are not in the other"),
        (["a", "a"], ["x", "y"], "second.jsonl, line 2: the document of .*second.jsonl, line 1 again"),
        (["a", "b"], ["x", " "], "second.jsonl, line 2: the summary is blank"),
        (["a", "b"], ["x", None], "second.jsonl, line 2: column 'summary' must hold text, got None"),
        (["a", "b"], ["x", "\ud800"], "second.jsonl, line 2: column 'summary' holds half of a surrogate pair"),
    ],
)
def test_bad_input_is_refused(tmp_path, documents, summaries, message):
    first = write_jsonl(tmp_path / "first.jsonl", ["u", "v"], ["a", "b"])
    second = write_jsonl(tmp_path / "second.jsonl", summaries, documents)
    status, printed = invoke("make", first, second, "--output", tmp_path / "study", "--num-items", 1)
    assert status == 2
    assert re.search(message, printed), printed
    assert not (tmp_path / "study").exists()


def test_systems_of_one_name_need_names(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [write_jsonl(tmp_path / folder / "system.jsonl", [folder]) for folder in ("", "other")]
    paths[0].write_text(paths[0].read_text().replace('""', '"first"'))
    status, printed = invoke("make", *paths, "--output", tmp_path / "study", "--num-items", 1)
    assert (status, "Pass --names" in printed) == (2, True)


def test_outputs_are_replaced_only_when_asked_to(study, systems, tmp_path):
    before = (study / "key.json").read_bytes()
    command = ["make", *systems, "--output", study, "--num-items", 4]
    status, printed = invoke(*command)
    assert (status, "study.html exists. Pass --overwrite" in printed) == (2, True)
    assert (study / "key.json").read_bytes() == before
    assert invoke(*command, "--overwrite")[0] == 0
    assert sorted(path.name for path in study.iterdir()) == ["key.json", "study.csv", "study.html"]
    # No part of the old study stays, which the new key does not open; what is no part of it does.
    status, printed = invoke(*command, "--annotators", 2)
    assert (status, "exists. Pass --overwrite" in printed) == (2, True)
    rows = [json.loads(line) for line in Path(systems[0]).read_text().splitlines()]
    with (study / "study-1.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["document", "summary"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    status, printed = invoke(command[0], study / "study-1.csv", *command[2:], "--overwrite")
    assert (status, "study-1.csv is an input" in printed) == (2, True)
    (study / "study-1.csv").unlink()
    (study / "study-notes.html").write_text("mine")
    for annotators, parts in ((2, ["study-1", "study-2"]), (1, ["study"])):
        assert invoke(*command, "--annotators", annotators, "--overwrite")[0] == 0
        left = {path.name for path in study.iterdir()}
        assert left == {
            "key.json",
            "study-notes.html",
            *(f"{part}{end}" for part in parts for end in (".csv", ".html")),
        }

    answers = write_answers(study, "Ada", good_side)
    (tmp_path / "report.md").write_text("mine")
    command = ["report", study / "key.json", answers, "--output", tmp_path / "report.md"]
    status, printed = invoke(*command)
    assert (status, "report.md exists. Pass --overwrite" in printed) == (2, True)
    assert (tmp_path / "report.md").read_text() == "mine"
    assert invoke(*command, "--overwrite")[0] == 0
    status, printed = invoke("report", study / "key.json", answers, "--output", study / "key.json", "--overwrite")
    assert (status, "key.json is an input" in printed) == (2, True)


def test_answers_of_another_study_are_refused(study, systems, tmp_path):
    invoke("make", *systems, "--output", tmp_path / "other", "--num-items", 6, "--seed", 1)
    for answers in (write_answers(study, "Ada", good_side), study / "study.csv"):
        status, printed = invoke("report", tmp_path / "other" / "key.json", answers)
        assert (status, "answers of the study" in printed) == (2, True)


def test_two_files_of_one_annotator_are_refused(study):
    ada = write_answers(study, "Ada", good_side)
    again = write_csv_answers(study, "ada", items_of(study))
    status, printed = invoke("report", study / "key.json", ada, again)
    assert (status, "are both of 'ada'" in printed) == (2, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grammar": "better"}, "line 2, column 'grammar': expected A, equal, B or cannot tell, got 'better'"),
        ({"item": "7"}, "line 2: the study has no item '7', it has 1 to 6"),
        ({"item": "2"}, "line 3: item 2 again"),
    ],
)
def test_spreadsheets_filled_in_wrongly_are_refused(study, change, message):
    rows = items_of(study)
    rows[0] |= change
    status, printed = invoke("report", study / "key.json", write_csv_answers(study, "bob", rows))
    assert (status, message in printed) == (2, True), printed


def test_files_of_another_kind_are_refused(study):
    answers = write_answers(study, "Ada", good_side)
    key = study / "key.json"
    assert "expected the key of a human-eval study, got answers" in invoke("report", answers, answers)[1]
    assert "expected the answers of a human-eval study, got key" in invoke("report", key, key)[1]
    assert "expected the answers of a human-eval study, a JSON file" in invoke("report", key, study / "study.html")[1]
    assert "must end in .md or .json" in invoke("report", key, answers, "--output", study / "report.txt")[1]


@pytest.mark.parametrize(("name", "value"), [("study", None), ("annotator", 5), ("answers", [])])
def test_answers_that_were_damaged_are_refused(study, name, value):
    answers = write_answers(study, "Ada", good_side)
    answers.write_text(json.dumps(json.loads(answers.read_text()) | {name: value}))
    status, printed = invoke("report", study / "key.json", answers)
    assert (status, f"{name!r} is missing or damaged" in printed) == (2, True)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"1": None}, "item 1: expected an answer to each criterion, got null. Use the file as it was saved"),
        ({"1": "A"}, 'item 1: expected an answer to each criterion, got "A"'),
        ({"1": {"grammar": None}}, "item 1, grammar: expected A, equal, B or cannot tell, got None"),
        ({"1": {"grammar": ["A"]}}, "item 1, grammar: expected A, equal, B or cannot tell, got ['A']"),
        ({"1": {"grammar": "A"}, "01": {"grammar": "B"}}, "item 1 again, as '01'"),
        ({"9" * 5000: {"grammar": "A"}}, "the study has no item '999"),
    ],
)
def test_answers_with_damaged_items_are_refused(study, answers, message):
    path = write_answers(study, "Ada", good_side)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"answers": answers}))
    status, printed = invoke("report", study / "key.json", path)
    assert (status, message in printed) == (2, True), printed


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"1":', '"2":', "the key '2' occurs 2 times"),
        ('"annotator": "Ada"', '"annotator": " "', "'annotator' is missing or damaged"),
        ('"annotator": "Ada"', '"annotator": "\\ud800"', "surrogates not allowed"),
        ('"answers": {', '"answers": {"x":' + "[" * 5000, "expected the answers of a human-eval study, a JSON file"),
    ],
)
def test_answer_files_that_were_tampered_with_are_refused(study, before, after, message):
    path = write_answers(study, "Ada", good_side)
    assert path.read_text().count(before) == 1
    path.write_text(path.read_text().replace(before, after))
    status, printed = invoke("report", study / "key.json", path)
    assert (status, message in printed) == (2, True), printed


@pytest.mark.parametrize(
    "change",
    [
        {"systems": ["good", "good"]},
        {"systems": [1, 2], "items": [{"item": 1, "A": 1}]},
        {"items": [{"item": "1", "A": "good"}]},
        {"items": [{"item": 1, "A": "good"}] * 2},
        {"systems": ["good"]},
        {"items": [{"item": 1}]},
        {"items": [{"item": 1, "A": "better"}]},
        {"items": [1]},
    ],
)
def test_a_key_that_was_damaged_is_refused(study, change):
    answers, key = write_answers(study, "Ada", good_side), study / "key.json"
    key.write_text(json.dumps(json.loads(key.read_text()) | change))
    status, printed = invoke("report", key, answers)
    assert (status, "systems or items are damaged" in printed) == (2, True), printed


def test_page_holds_every_text_and_no_markup_of_theirs(tmp_path):
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [name], [TRAP]) for name in ("first", "second")]
    invoke("make", *paths, "--output", tmp_path / "study", "--num-items", 1)
    page = (tmp_path / "study" / "study.html").read_text(encoding="utf-8")
    embedded = page.split('<script type="application/json" id="study">')[1].split("</script>")[0]
    assert "<" not in embedded
    assert json.loads(embedded)["items"][0]["document"] == TRAP
    assert "src=" not in page
    assert "href=" not in page.replace('href="data:,"', "")
    assert "http://" not in page
    assert "https://" not in page


def test_a_hundred_items_or_all_are_drawn_where_nobody_asks_for_a_number(systems, tmp_path):
    assert [len(draw(comparisons(count)).items) for count in (6, 100, 101)] == [6, 100, 100]
    status, printed = invoke("make", *systems, "-o", tmp_path / "all")
    assert (status, "6 items of 6 documents" in printed) == (0, True), printed
    status, printed = invoke("make", systems[0], systems[0], "-o", tmp_path / "none", "--names", "a,b")
    assert (status, "only 0 have two different summaries" in printed) == (2, True), printed


def test_parts_hold_every_item_once_and_one_key_unblinds_them(systems, tmp_path):
    status, printed = invoke("make", *systems, "-o", tmp_path / "study", "--annotators", 4)
    assert (status, "study-1.html" in printed) == (0, True), printed
    names = [f"study-{part}.{suffix}" for part in range(1, 5) for suffix in ("csv", "html")]
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["key.json", *names]
    parts = []
    for part in range(1, 5):
        with open(tmp_path / "study" / f"study-{part}.csv", encoding="utf-8-sig", newline="") as file:
            parts.append([row["item"] for row in csv.DictReader(file)])
    assert parts == [["1", "5"], ["2", "6"], ["3"], ["4"]]
    status, printed = invoke("make", *systems, "-o", tmp_path / "many", "--annotators", 7)
    assert (status, "6 items cannot be split among 7 --annotators" in printed) == (2, True), printed


def test_cannot_tell_is_no_verdict_and_alpha_says_what_it_rests_on(study, tmp_path):
    ada = write_answers(study, "Ada", lambda item: "cannot tell" if item["item"] == "1" else good_side(item))
    rows = [item | dict.fromkeys(CRITERIA, good_side(item)) for item in items_of(study)][:3]
    rows[2] |= {"grammar": "equal", "comment": " <b>hard</b>\nto say "}
    bob = write_csv_answers(study, "bob", rows)
    status, printed = invoke("report", study / "key.json", ada, bob, "-o", tmp_path / "report.json")
    assert status == 0, printed
    assert "Answers “cannot tell”, left out: Factual consistency 1, Informativeness 1, Grammar 1" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    grammar = report["criteria"][2]
    # Item 1 has bob's verdict alone; 2 and 3 have both, the third without a majority; 4 to 6 have Ada's.
    assert (grammar["better"], grammar["equal"], grammar["cannot_tell"], grammar["alpha_items"]) == (5, 1, 1, 2)
    assert re.search(r"\| Grammar .* \S+ \(2 items\) \|", printed)
    shown = items_of(study)[2]
    sides = {"A": "good", "B": "bad"} if good_side(shown) == "A" else {"A": "bad", "B": "good"}
    assert report["comments"] == [{"item": 3, "annotator": "bob", **sides, "text": "<b>hard</b>\nto say"}]
    assert f"- Item 3 (A: {sides['A']}, B: {sides['B']}), bob: &lt;b>hard&lt;/b> to say" in printed
    assert report["complete"] == {"Ada": 6, "bob": 3}
