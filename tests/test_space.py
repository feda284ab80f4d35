"""The page of a Space: real apps with tiny models, called by real clients and driven in a real browser."""

import csv
import html
import math
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest
from conftest import tiny_qagen
from explained import told
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from hf_quals import QualsScorer, metrics
from hf_quals.errors import InputError
from hf_quals.judges.entities import EntityResult
from hf_quals.judges.factcc import FactccResult
from hf_quals.judges.qags import QagsResult
from hf_quals.judges.qags.scorer import QagsQuestion
from hf_quals.metrics.parts import entity_page, factcc_page, qags_page
from hf_quals.metrics.space import EXAMPLES, LAUNCH, MAX_DOCUMENT, MAX_ROWS, MAX_SUMMARY, interface, read_file
from hf_quals.quals.scorer import QualsResult


FOLDER = metrics.path("quals")
DOCUMENT, SUMMARY = "abc def ghi", "abc def"
TRAP = '<img src=x onerror="document.title=1">'


@dataclass
class Alone(QualsScorer):
    """Counts how many calls it is in at once."""

    inside: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def score(self, documents, summaries, **options):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            return super().score(documents, summaries, **options)
        finally:
            with self.lock:
                self.inside -= 1


@dataclass
class Space:
    url: str
    scorer: Alone
    may_load: threading.Event
    num_loads: int = 0


@pytest.fixture(scope="module")
def space():
    """The page of QUALS, whose model is loaded when a test lets it."""

    def load():
        started.num_loads += 1
        started.may_load.wait()
        return started.scorer

    started = Space("", Alone(tiny_qagen("llama")), threading.Event())
    demo = interface(FOLDER, load, QualsScorer.page, picture=QualsResult.plot)
    _, started.url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    yield started
    started.may_load.set()
    demo.close()


@pytest.fixture
def client(space):
    space.may_load.set()
    return Client(space.url, verbose=False)


class Page:
    """A visitor's browser."""

    def __init__(self, browser, url, width=1280, scheme="light"):
        self.browser, self.wait = browser, WebDriverWait(browser, 30, poll_frequency=0.05)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get("about:blank")
        browser.get(url)
        self.until(lambda: self["#score"].is_displayed())

    def __getitem__(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def until(self, condition):
        return self.wait.until(lambda _: quietly(condition))

    def type(self, document, summary):
        for name, text in (("document", document), ("summary", summary)):
            self[f"#{name} textarea"].clear()
            self[f"#{name} textarea"].send_keys(text)

    def says(self, text):
        return self.until(lambda: text in self["body"].text)

    def result(self, heading):
        """Goes into the frame of the page about a summary, or of their list."""
        self.browser.switch_to.default_content()
        self.until(lambda: self["#output iframe"].is_displayed())
        self.browser.switch_to.frame(self["#output iframe"])
        self.until(lambda: heading in self["body"].text)

    def brightness(self):
        """Of what is behind all, from 0 to 255."""
        return max(map(int, re.findall(r"\d+", self["body"].value_of_css_property("background-color"))[:3]))


def quietly(condition):
    try:
        return condition()
    except Exception:  # what is not there yet, or is drawn anew
        return False


def test_the_page_is_there_before_the_model_and_says_what_a_visitor_waits_for(space, browser):
    page = Page(browser, space.url)
    page.says("The model is being fetched and its weights unpacked, once")

    other = Client(space.url, verbose=False).submit(DOCUMENT, SUMMARY, api_name="/score")
    page.until(lambda: other.status().progress_data[0].desc == "Unpacking the model's weights, once")
    page.type(DOCUMENT, SUMMARY)
    page["#score"].click()
    page.says("queue: 1/1")

    space.may_load.set()
    page.result("QUALS: ")
    [expected] = space.scorer.score([DOCUMENT], [SUMMARY])
    assert f"QUALS: {expected.score:.3f} from {expected.num_pairs} pairs." in page["#says"].text.replace("−", "-")
    spans = {span.text for span in browser.find_elements(By.CSS_SELECTOR, "#summary .span")}
    assert spans
    assert all(span in SUMMARY for span in spans)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#pairs tbody tr")) == expected.num_pairs
    assert page.brightness() > 200

    browser.switch_to.default_content()
    page.until(lambda: "unpacked, once" not in page["body"].text)
    assert space.num_loads == 1
    page["#picture button"].click()
    page.until(lambda: page["#picture img"].size["height"] > 100)
    # All of the frame is in view: the page scrolls, and not the frame in it.
    height = page["#output iframe"].size["height"]
    browser.switch_to.frame(page["#output iframe"])
    assert height >= browser.execute_script("return document.body.offsetHeight")


def test_an_example_is_filled_in_and_scored_by_one_click(space, browser):
    space.may_load.set()
    page = Page(browser, space.url, width=390)
    label, (document, summary) = list(EXAMPLES.items())[1]
    buttons = browser.find_elements(By.CSS_SELECTOR, "#examples button")
    assert [button.text for button in buttons] == list(EXAMPLES)
    next(button for button in buttons if button.text == label).click()
    page.result("QUALS: ")
    assert page["#summary"].get_attribute("textContent") == summary
    browser.switch_to.default_content()
    assert page["#document textarea"].get_property("value") == document
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_the_result_is_as_dark_as_the_page_around_it_where_the_address_chooses(space, browser):
    """As the Hub's does, whatever the visitor's system prefers."""
    space.may_load.set()
    page = Page(browser, f"{space.url}?__theme=dark", scheme="light")
    page.type(DOCUMENT, SUMMARY)
    page["#score"].click()
    page.result("QUALS: ")
    assert page.brightness() < 80


def test_a_file_is_scored_and_listed_by_score(space, browser, tmp_path):
    space.may_load.set()
    path = tmp_path / "two.csv"
    path.write_text('document,summary\nabc def ghi,abc def\n"xyz, uvw",zyx b\nabc,\n')
    page = Page(browser, space.url)
    browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")[1].click()
    page["#file input[type=file]"].send_keys(str(path))
    page.until(lambda: "two" in page["#file"].text)
    page["#score-file"].click()
    page.result("Does the document say so?")
    shown = [cell.text.strip() for cell in browser.find_elements(By.CSS_SELECTOR, "#summaries td:first-child")]
    first, second = (result.score for result in space.scorer.score(["abc def ghi", "xyz, uvw"], ["abc def", "zyx b"]))
    assert shown == [*(["abc def", "zyx b"] if first < second else ["zyx b", "abc def"]), "(blank)"]


def test_what_cannot_be_scored_is_refused_beside_its_field(space, browser, tmp_path):
    space.may_load.set()
    page = Page(browser, space.url)
    page["#score"].click()
    page.until(lambda: "Please paste the document" in page["#document"].text)
    assert "Please write the summary" in page["#summary"].text

    page.type(DOCUMENT, SUMMARY)
    fill = (
        "const field = document.querySelector('#document textarea'); field.value = 'x'.repeat(arguments[0]);"
        "field.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    browser.execute_script(fill, MAX_DOCUMENT + 1)
    page["#score"].click()
    page.until(lambda: "This document has 20,001 characters" in page["#document"].text)
    assert "Please" not in page["#summary"].text

    path = tmp_path / "wrong.csv"
    path.write_text(f"document,{TRAP.replace(chr(34), '')}\nabc,def\n")
    browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")[1].click()
    page["#score-file"].click()
    page.says("Please choose a file.")
    page["#file input[type=file]"].send_keys(str(path))
    page.until(lambda: "wrong" in page["#file"].text)
    page["#score-file"].click()
    page.says("wrong.csv, line 2: no column 'summary'.")
    assert browser.title == "QUALS"


# What clients get.


def in_frame(shown):
    """What the page in a frame is told."""
    return told(html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]))


def test_visitors_at_once_each_get_their_own_result_and_the_model_scores_one_at_a_time(space, client):
    texts = [(f"{letter}bc def ghi", f"{letter}bc def") for letter in "uvwxyz"]
    space.scorer.most = 0
    expected = [result.score for result in QualsScorer.score(space.scorer, *map(list, zip(*texts, strict=True)))]
    assert len(set(expected)) > 3

    def visit(row):
        document, summary = texts[row]
        visitor = Client(space.url, verbose=False)
        if row % 2:
            return visitor.predict(document, summary, api_name="/compute")["score"]
        [shown] = in_frame(visitor.predict(document, summary, api_name="/score")[0])["summaries"]
        assert shown["summary"] == summary
        return shown["score"]

    space.scorer.most = 0
    with ThreadPoolExecutor(len(texts)) as visitors:
        scores = list(visitors.map(visit, range(len(texts))))
    assert scores == pytest.approx([None if math.isnan(score) else score for score in expected], abs=1e-4)
    assert space.scorer.most == 1


def test_texts_are_refused_before_anybody_waits(client):
    with pytest.raises(ValidationError, match="Please paste the document"):
        client.predict(" ", SUMMARY, api_name="/score")
    with pytest.raises(ValidationError, match="This summary has 2,001 characters, and this page reads up to 2,000"):
        client.predict(DOCUMENT, "x" * (MAX_SUMMARY + 1), api_name="/score")
    with pytest.raises(AppError, match="This document has 20,001 characters"):
        client.predict("x" * (MAX_DOCUMENT + 1), SUMMARY, api_name="/compute")


def test_files_are_refused_in_words_that_name_the_line(client, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"document": "abc", "summary": "b"}\n{"document": " ", "summary": "b"}\n')
    with pytest.raises(ValidationError, match=r"rows\.jsonl, line 2: column 'document' must hold text"):
        client.predict(handle_file(path), api_name="/score_file")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "document,summary\n", "rows.csv: no rows."),
        ("rows.csv", "document,summary\n" + "a,b\n" * (MAX_ROWS + 1), "rows.csv: more than 20 rows."),
        ("rows.csv", f"document,summary\na,{'x' * (MAX_SUMMARY + 1)}\n", "rows.csv, line 2: This summary has 2,001"),
        ("rows.parquet", "PAR1", "rows.parquet: expected a file that ends in .csv or .jsonl."),
        ("rows.jsonl", "[1]\n", "rows.jsonl, line 1: expected a JSON object, got list."),
    ],
)
def test_what_a_file_may_not_be(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_file(str(tmp_path / name))
    assert str(tmp_path) not in str(error.value)


def test_a_file_as_long_as_may_be_is_read(tmp_path):
    rows = [("x" * MAX_DOCUMENT, "y" * MAX_SUMMARY)] * (MAX_ROWS - 1) + [("x", " ")]
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([("document", "summary"), *rows])
    assert read_file(str(tmp_path / "rows.csv")) == rows


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_a_model_that_cannot_be_loaded_is_said_and_tried_again(kind):
    scorer, problems = QualsScorer(tiny_qagen("llama")), [kind("no model on this machine")]

    def load():
        if problems:
            raise problems.pop()
        return scorer

    demo = interface(FOLDER, load, QualsScorer.page)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    try:
        client = Client(url, verbose=False)
        with pytest.raises(AppError, match="The model cannot be loaded: no model on this machine"):
            client.predict(DOCUMENT, SUMMARY, api_name="/compute")
        [shown] = in_frame(client.predict(DOCUMENT, SUMMARY, api_name="/score"))["summaries"]
        assert shown["summary"] == SUMMARY
    finally:
        demo.close()


# The other judges' pages.


def marks(page):
    return re.findall(r"<mark(| class=\"most\") style=\"--lost: ([\d.]+)\">(.*?)</mark>", page)


def test_names_and_numbers_that_the_document_lacks_are_marked_and_come_first():
    summary = f"Joshua beat Klitschko & 31 others. {TRAP}"
    result = EntityResult(1 / 3, ("Joshua",), ("Klitschko", "31"), "rules")
    page = entity_page(["d"], [summary], [result])
    assert marks(page) == [
        ("", "0.00", "Joshua"),
        (' class="most"', "1.00", "Klitschko"),
        (' class="most"', "1.00", "31"),
    ]
    assert re.findall(r'<td data-label="name or number">(.*?)</td>', page) == ["Klitschko", "31", "Joshua"]
    assert "<h1>0.33</h1>" in page
    assert "The document supports 1 of 3." in page
    assert TRAP not in page
    assert html.escape(TRAP) in page


def test_sentences_and_questions_show_what_their_judge_has():
    page = factcc_page(["d"], ["A won. B lost."], [FactccResult(0.55, ("A won.", "B lost."), (0.9, 0.2), 1)])
    assert marks(page) == [("", "0.10", "A won."), (' class="most"', "0.80", "B lost.")]
    asked = QagsQuestion("Who won?", "Ann", -0.5, "Ann", "", 0.0)
    page = qags_page(["d"], ["Ann won"], [QagsResult(0.0, (asked,), "rules", 1, 1, 0, 0, 0, 0, True, False)])
    assert "The document supports 0 of 1. The document was cut to the model's context;" in page
    assert re.findall(r"<td [^>]*>(.*?)</td>", page) == ["Who won?", "Ann", "no answer", "0.00"]
    assert marks(page) == [(' class="most"', "1.00", "Ann")]


def test_of_several_summaries_the_lowest_score_comes_first_and_none_last():
    def result(score):
        return EntityResult(score, (), (), "rules")

    page = entity_page(["d"] * 4, ["", "none", "high", "low"], [None, result(math.nan), result(0.9), result(0.1)])
    assert re.findall(r"<h1>(.*?)</h1>", page) == ["0.10", "0.90", "No score", "No score"]
    assert re.findall(r'<p class="quiet">(No|The summary is).*?</p>', page) == ["The summary is", "No"]
