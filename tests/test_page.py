"""The page that explains results: what it is told, and what a reader sees and does in a real browser."""

import re
from dataclasses import replace

import pytest
from explained import ALL_OF_THEM, BOB, DOCUMENT, GUESTS, MAY, PAIRS, SUMMARY, result, told
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from hf_quals import QualsScorer
from hf_quals.quals.page import page, supporting_sentence


TRAP = "</script><script>document.title = 'x'</script><!--<script> <img src=x onerror=\"document.title='x'\"> {{data}}"
SENTENCES = [
    "😀 Ann Lee came to Rome in May.",
    "Bob stayed at home.",
    "They had 30 guests, and Ann Lee paid for 12 of them.",
]


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        (BOB, 0),  # "Ann Lee" stands in the first and the third; the first shares "came" and "Rome"
        (GUESTS, 2),
        (replace(BOB, document_answer="Cid"), 0),  # stands nowhere: question and answer share three words with it
        (replace(BOB, document_answer=None, question="Who stayed?"), 1),
        (replace(BOB, document_answer=None, question="Who sang?", answer="Cid"), None),
    ],
)
def test_the_sentence_beside_a_pair_holds_the_documents_answer_and_shares_most_with_the_question(pair, sentence):
    span = supporting_sentence(DOCUMENT, pair)
    assert (span and DOCUMENT[slice(*span)]) == (None if sentence is None else SENTENCES[sentence])


def test_only_what_was_read_is_shown_as_evidence():
    start = DOCUMENT.index("They")
    span = supporting_sentence(DOCUMENT, BOB, [(start, len(DOCUMENT))])
    assert DOCUMENT[slice(*span)] == SENTENCES[2]
    assert supporting_sentence("", BOB) is None


def test_a_page_is_told_the_numbers_of_a_result():
    [shown] = told(page([DOCUMENT], [SUMMARY], [result()]))["summaries"]
    assert [pair["question"] for pair in shown["pairs"]] == [
        pair.question for pair in (BOB, GUESTS, ALL_OF_THEM, MAY)
    ]  # by lost probability
    worst = shown["pairs"][0]
    assert worst["summary"] == pytest.approx(0.8)
    assert worst["document"] == pytest.approx(0.008)
    assert worst["lost"] == pytest.approx(0.792)
    assert (worst["span"], worst["blame"], worst["same"]) == ([2, 5], True, False)
    assert [pair["same"] for pair in shown["pairs"]] == [False, False, False, True]
    assert (shown["calibrated"], shown["threshold"]) == (True, 0.7)


def test_equal_documents_are_held_once_and_summaries_have_names():
    data = told(page([DOCUMENT] * 2, [SUMMARY, " "], [result(), None], names=["a", "b"]))
    assert data["documents"] == [DOCUMENT]
    assert [(row["name"], row["document"], row["says"][0]) for row in data["summaries"]] == [
        ("a", 0, f"QUALS: {result().score:.3f} from 4 pairs: supported (people would call it consistent with "
         f"probability {result().probability:.2f})."),
        ("b", 0, "QUALS: none: the summary is blank."),
    ]  # fmt: skip


@pytest.mark.parametrize(("counts", "message"), [((0, 0, 0), "got 0 doc"), ((1, 2, 2), "got 1 documents, 2 summ")])
def test_a_page_needs_as_many_of_each(counts, message):
    with pytest.raises(ValueError, match=message):
        page([DOCUMENT] * counts[0], [SUMMARY] * counts[1], [result()] * counts[2])


def test_a_result_is_one_line_and_a_frame_in_a_notebook():
    """The frame keeps the page's style and script from the notebook's."""
    # (1 + .1 + .01 + .75) / 4
    assert repr(BOB) == "ScoredPair('Who came to Rome?', 'Bob', score=-1.151, support=0.010)"
    assert repr(result()).startswith("QualsResult(score=0.465, supported, pairs=4, blame=ScoredPair('Who came to")
    assert "\n" not in repr(result())
    assert repr(result(pairs=())) == "QualsResult(score=nan, no pairs, pairs=0, blame=None)"
    frame = result()._repr_html_()
    assert re.fullmatch(r'<iframe srcdoc="[^"]*" sandbox="allow-scripts"[^<>]*></iframe>', frame)
    assert QualsScorer.page([DOCUMENT], [SUMMARY], [result()]) == page([DOCUMENT], [SUMMARY], [result()])


@pytest.fixture
def opened(browser, tmp_path):
    def open_page(text, width=1280, scheme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        browser.get("about:blank")
        browser.get((tmp_path / "page.html").as_uri())
        return Page(browser)

    return open_page


class Page:
    def __init__(self, browser):
        self.browser = browser

    def __getitem__(self, name):
        return self.browser.find_element(By.ID, name)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return [element.text for element in self.all(selector)]

    def span(self, text):
        return next(element for element in self.all("#summary .span") if element.text.strip() == text)

    def sort(self, name):
        next(button for button in self.all("th button") if button.is_displayed() and name in button.text).click()

    def press(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    def point_at(self, element):
        ActionChains(self.browser).move_to_element(element).perform()

    @property
    def question(self):
        return "".join(self.texts("#panel .question"))

    @property
    def evidence(self):
        """The marked part of the document, without the mark's sign."""
        return "".join(self.texts("mark")).removeprefix("▸ ")

    @property
    def overflow(self):
        return self.browser.execute_script("return document.documentElement.scrollWidth - innerWidth")


@pytest.mark.slow
class TestInABrowser:
    def test_the_pair_that_stands_out_is_pinned_with_what_the_document_says_instead(self, opened):
        shown = opened(page([DOCUMENT], [SUMMARY], [result()]))
        assert shown["heading"].text == "One answer stands out"
        assert shown.question == BOB.question
        assert shown.texts("#panel dt") == [
            "The summary says",
            "The document says instead",
            "● given the summary",
            "■ given the document",
        ]
        assert shown.texts("#panel dd") == ["Bob", "Ann Lee", "80 %", "1 %"]
        assert shown.evidence == SENTENCES[0]
        assert shown.span("Bob").get_attribute("aria-pressed") == "true"
        assert shown["summary"].text == SUMMARY
        assert shown["document"].text.replace("▸ ", "") == DOCUMENT

    def test_what_falls_is_told_by_underline_and_label_and_not_by_colour_alone(self, opened, browser):
        shown = opened(page([DOCUMENT], [SUMMARY], [result()]))
        lines = {
            text: shown.span(text).value_of_css_property("text-decoration-style")
            for text in ("Bob", "May", "30", "guests")
        }
        assert lines == {"Bob": "wavy", "May": "dotted", "30": "dashed", "guests": "dotted"}
        lost = "return arguments[0].style.getPropertyValue('--lost')"  # what the tint is made of
        tints = [browser.execute_script(lost, shown.span(text)) for text in ("Bob", "30")]
        assert list(map(float, tints)) == pytest.approx([0.792, 0.45])
        label = "Bob: given the document, its probability falls most, from 80 % to 1 %"
        assert shown.span("Bob").get_attribute("aria-label") == label

    def test_pointing_shows_and_a_click_pins(self, opened):
        shown = opened(page([DOCUMENT], [SUMMARY], [result()]))
        shown.point_at(shown.span("May"))
        assert shown.question == MAY.question
        assert shown.texts("#panel dt")[1] == "The document says the same"
        shown.point_at(shown["heading"])
        assert shown.question == BOB.question  # which is pinned
        shown.span("30").click()
        shown.point_at(shown["heading"])
        assert shown.question == GUESTS.question
        assert shown.evidence == SENTENCES[2]
        assert shown.texts(".others button") == [ALL_OF_THEM.question]  # asks about these words, too
        shown.all(".others button")[0].click()
        assert shown.question == ALL_OF_THEM.question

    def test_the_keyboard_reaches_all_of_it(self, opened):
        shown = opened(page([DOCUMENT], [SUMMARY], [result()]))
        shown.press(Keys.TAB, Keys.TAB)
        assert shown.question == MAY.question
        shown.press(Keys.ENTER, Keys.TAB)
        assert shown.question == GUESTS.question
        shown.press(Keys.SPACE)
        assert shown.span("30").get_attribute("aria-pressed") == "true"
        shown.press(Keys.ESCAPE, Keys.TAB, Keys.TAB)
        assert shown["panel"].text.startswith("No question is chosen")
        assert "mark" not in shown["document"].get_attribute("innerHTML")

    def test_pairs_are_sorted_and_chosen_in_the_table(self, opened):
        shown = opened(page([DOCUMENT], [SUMMARY], [result()]))
        assert shown.texts("#pairs td:nth-child(6)") == ["79 %", "45 %", "10 %", "0 %"]
        shown.sort("Question")
        questions = sorted(pair.question for pair in PAIRS)
        assert [text.split("\n")[0] for text in shown.texts("#pairs td:first-child")] == questions
        shown.sort("Question")
        assert [text.split("\n")[0] for text in shown.texts("#pairs td:first-child")] == questions[::-1]
        shown.all("#pairs td button")[2].click()
        assert shown.question == MAY.question

    def test_nothing_stands_out_where_no_pair_loses_more_than_the_calibrations_threshold(self, opened):
        shown = opened(page([DOCUMENT], [SUMMARY], [result(pairs=(MAY, GUESTS))]))
        assert shown["heading"].text == "Nothing stands out"
        assert shown["panel"].text.startswith("No question is chosen\nNo answer loses so much")
        shown = opened(page([DOCUMENT], [SUMMARY], [result(pairs=(), document_truncated=True)]))
        assert shown["heading"].text == "There is no score"
        assert "of 60 generated sequences 20 are no pair" in shown["says"].text
        assert "The document was cut to the model's context" in shown["says"].text

    def test_the_published_form_without_calibration_and_answers_of_the_document(self, opened):
        pairs = [replace(pair, document_answer=None) for pair in PAIRS]
        shown = opened(page([DOCUMENT], [SUMMARY], [result(pairs, calibration=None, variant="published")]))
        assert shown["heading"].text == "Where the document agrees least"
        assert shown.question == BOB.question
        assert shown.texts("#panel dd")[1] == "It was not asked."
        assert [text.split(" ")[0] for text in shown.texts("th")][-1] == "Pair's"
        assert shown.texts("#pairs td:last-child") == ["−1.15", "−0.58", "−0.07", "0.00"]

    def test_texts_are_shown_and_not_run_and_nothing_is_loaded(self, opened, browser):
        browser.get_log("browser")
        odd = replace(BOB, question=TRAP, document_answer=TRAP)
        shown = opened(page([f"{DOCUMENT} {TRAP}"], [f"{SUMMARY} {TRAP}"], [result([odd])], names=[TRAP]))
        assert shown["summary"].get_attribute("textContent") == f"{SUMMARY} {TRAP}"
        assert shown["document"].get_attribute("textContent") == f"{DOCUMENT} {TRAP}"
        assert shown.all("#panel .question")[0].get_attribute("textContent") == TRAP
        assert browser.title == "Does the document say so?"
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert browser.get_log("browser") == []

    def test_a_hundred_summaries_are_listed_by_score_and_walked_through(self, opened, browser):
        """Of score 0.01 to 1, in any order, and a blank one at the end."""
        results = [replace(result(), score=((7 * n) % 100 + 1) / 100) for n in range(100)]
        text = page([DOCUMENT] * 101, [*(f"Number {n}. {SUMMARY}" for n in range(100)), ""], [*results, None])
        assert len(text) < 300_000
        shown = opened(text)
        scores = shown.texts("#summaries td:nth-child(2)")
        assert scores == [f"{n / 100:.3f}" for n in range(1, 101)] + ["–"]
        shown.all("#summaries td button")[1].click()
        assert shown["position"].text == "2 of 101"
        assert shown["summary"].text.startswith("Number 43.")  # 7 * 43 = 301
        shown["next"].click()
        assert shown["position"].text == "3 of 101"
        browser.back()
        assert shown["position"].text == "2 of 101"
        shown["back"].click()
        assert browser.switch_to.active_element.text.startswith("Number 43.")

    def test_a_phone_shows_all_of_it_without_scrolling_sideways(self, opened, browser):
        name = "x" * 300
        odd = replace(BOB, document_answer=name)
        shown = opened(page([f"{DOCUMENT} {name}"], [f"{SUMMARY} {name}"], [result([odd, MAY])]), width=390)
        assert shown.overflow <= 0
        browser.execute_script("arguments[0].click()", shown.span("May"))
        assert shown.question == MAY.question
        shown["to-document"].click()
        assert shown["document-heading"].is_displayed()
        shown = opened(page([DOCUMENT] * 2, [SUMMARY, name], [result()] * 2, names=[name, "b"]), width=390)
        assert shown.overflow <= 0

    def test_dark_where_the_reader_wants_it_dark(self, opened):
        text = page([DOCUMENT], [SUMMARY], [result()])
        light = opened(text).all("body")[0].value_of_css_property("background-color")
        dark = opened(text, scheme="dark").all("body")[0].value_of_css_property("background-color")
        assert (light, dark) == ("rgba(248, 247, 244, 1)", "rgba(18, 19, 22, 1)")

    def test_in_a_notebook_the_frame_shows_the_pairs_and_several_summaries_are_walked_through(self, opened, browser):
        shown = opened(f"<h1>Notebook</h1>{result()._repr_html_()}")
        assert shown.all("h1")[0].value_of_css_property("font-weight") == "700"  # no style of the page
        browser.switch_to.frame(0)
        assert shown.question == BOB.question
        assert not shown["summary-card"].is_displayed()
        assert not shown["document-card"].is_displayed()
        shown.all("#pairs td button")[1].click()
        assert shown.question == GUESTS.question
