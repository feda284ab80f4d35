"""The annotators' page in a real browser, from `hf-quals human-eval make` to `report`."""

import json
import shutil
import time

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from typer.testing import CliRunner

from hf_quals.cli import app
from hf_quals.human_eval.study import CRITERIA


BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
DIGIT = {"A": "1", "equal": "2", "B": "3", "cannot tell": "4"}
OTHER = {"A": "B", "B": "A"}
TRAP = "</script><script>document.title = 'broken'</script><!--<script> “quoted”\n2 < 3 &amp; {{study}}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="no chromium and chromedriver: the page is not driven in a browser"
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,800"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture
def study(tmp_path, request):
    """The folder of a study of three items, in which summaries of the first system begin with "good"."""
    for system in ("good", "bad"):
        rows = [{"document": f"{request.node.name} {n} {TRAP}", "summary": f"{system} {n} {TRAP}"} for n in range(3)]
        (tmp_path / f"{system}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [str(tmp_path / "good.jsonl"), str(tmp_path / "bad.jsonl")]
    result = CliRunner().invoke(
        app, ["human-eval", "make", *files, "--output", str(tmp_path / "study"), "--num-items", "3"]
    )
    assert result.exit_code == 0, result.output
    return tmp_path / "study"


class Page:
    def __init__(self, browser, study, name="Ada Lovelace"):
        self.browser = browser
        browser.get((study / "study.html").as_uri())
        self["annotator"].send_keys(name, Keys.ENTER)

    def __getitem__(self, name):
        return self.browser.find_element(By.ID, name)

    def focused(self):
        """Name or id of the element that has the focus."""
        element = self.browser.switch_to.active_element
        return element.get_attribute("name") or element.get_attribute("id")

    def tab_to(self, name):
        for _ in range(10):
            if self.focused() == name:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"Tab does not reach {name}")

    def press(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    def click(self, criterion, choice):
        selector = f"label:has([name={criterion}][value={choice}])"
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def chosen(self):
        """The choices that the page shows for the item."""
        checked = self.browser.find_elements(By.CSS_SELECTOR, "#questions :checked")
        return {element.get_attribute("name"): element.get_attribute("value") for element in checked}

    def good_side(self):
        return "A" if self["A"].text.startswith("good") else "B"

    def download(self):
        for file in self.browser.downloads.iterdir():
            file.unlink()
        self["download"].click()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            files = [
                file for file in self.browser.downloads.iterdir() if file.suffix == ".json" and file.stat().st_size
            ]
            if files:
                return files[0]
            time.sleep(0.05)
        raise AssertionError("nothing was downloaded")


class PageAsItIs(Page):
    """The page that the browser shows."""

    def __init__(self, browser):
        self.browser = browser


def test_three_items_by_keyboard_and_mouse_with_a_reload_in_between(browser, study, tmp_path):
    """The annotator finds the good summary more factual, both as informative, the other one more grammatical."""
    page = Page(browser, study)
    assert page["heading"].text == "Item 1 of 3"
    good = page.good_side()
    page.press(DIGIT[good], DIGIT["equal"], DIGIT[OTHER[good]])
    assert page.chosen() == {"factual_consistency": good, "informativeness": "equal", "grammar": OTHER[good]}
    assert page.focused() == "next"
    page.press("j")

    assert page["heading"].text == "Item 2 of 3"
    assert page.chosen() == {}
    second = page.good_side()
    page.click("factual_consistency", second)
    page.click("informativeness", "equal")
    browser.refresh()
    assert page["heading"].text == "Item 2 of 3"
    assert page["progress-text"].text == "1 of 3 complete"
    assert page.chosen() == {"factual_consistency": second, "informativeness": "equal"}
    page.click("grammar", OTHER[second])
    page["next"].click()

    # Radio buttons as every browser has them: space chooses, arrows move the choice, Tab goes to the next question.
    assert page["heading"].text == "Item 3 of 3"
    third = page.good_side()
    for criterion, choice in zip(CRITERIA, (third, "equal", OTHER[third]), strict=True):
        page.tab_to(criterion)
        page.press(Keys.SPACE, *[Keys.ARROW_RIGHT] * ("A", "equal", "B").index(choice))
    assert page.chosen() == {"factual_consistency": third, "informativeness": "equal", "grammar": OTHER[third]}
    assert page["message"].text == "Every item is complete. Download your answers and send the file back."

    answers = page.download()
    assert answers.name == "answers-Ada-Lovelace.json"
    arguments = [str(study / "key.json"), str(answers), "--output", str(tmp_path / "report.json")]
    result = CliRunner().invoke(app, ["human-eval", "report", *arguments])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["complete"] == {"Ada Lovelace": 3}
    counts = {row["criterion"]: (row["better"], row["equal"], row["worse"]) for row in report["criteria"]}
    assert counts == {"factual_consistency": (3, 0, 0), "informativeness": (0, 3, 0), "grammar": (0, 0, 3)}


def test_texts_are_shown_as_they_are_and_nothing_is_loaded(browser, study):
    browser.get_log("browser")
    page = Page(browser, study)
    shown = {browser.execute_script("return document.getElementById(arguments[0]).textContent", x) for x in ("A", "B")}
    number = page["document"].text.removeprefix("test_texts_are_shown_as_they_are_and_nothing_is_loaded ")[0]
    assert shown == {f"good {number} {TRAP}", f"bad {number} {TRAP}"}
    assert browser.title == "Which summary is better?"
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []


def test_unfinished_answers_can_be_downloaded_and_say_so(browser, study):
    page = Page(browser, study, name="Åsa")
    page.press("2")
    content = json.loads(page.download().read_text(encoding="utf-8"))
    assert content["annotator"] == "Åsa"
    assert content["answers"] == {"1": {"factual_consistency": "equal"}}
    assert page["message"].text == "answers-Åsa.json is downloaded. 3 of 3 items are not complete yet."


def test_a_name_is_asked_for(browser, study):
    page = Page(browser, study, name="  ")
    assert page["start"].is_displayed()
    assert not page["items"].is_displayed()


def test_moving_between_items(browser, study):
    page = Page(browser, study)
    page.press("222", "j", "2", "j", "j")
    assert page["heading"].text == "Item 3 of 3"
    page.press("k", "k")
    assert page["heading"].text == "Item 1 of 3"
    assert page.chosen() == dict.fromkeys(CRITERIA, "equal")
    page.press("u")
    assert page["heading"].text == "Item 2 of 3"
    page["previous"].click()
    page["unfinished"].click()
    page["unfinished"].click()
    assert page["heading"].text == "Item 3 of 3"
    page["jump"].send_keys(Keys.HOME)
    assert page["heading"].text == "Item 1 of 3"


ANSWERED = {"annotator": "Ada", "shortcuts": True, "item": 2, "answers": {"1": {"grammar": "A"}}}


@pytest.mark.parametrize(
    "change",
    [
        {"item": 99},
        {"item": "2"},
        {"item": None},
        {"annotator": 5},
        {"shortcuts": "no"},
        {"answers": {"1": {"grammar": "A", "informativeness": "C", "style": "A"}}},
        {"answers": {"1": {"grammar": "A"}, "2": None, "3": "A", "01": {"grammar": "B"}, "7": {"grammar": "B"}}},
        {"answers": {"1": {"grammar": "A"}, "2": {"grammar": None, "informativeness": ["A"]}}},
    ],
)
def test_damaged_stored_answers_cost_only_themselves(browser, study, change):
    stored_as(browser, study, json.dumps(ANSWERED | change))
    page = Page(browser, study) if "annotator" in change else PageAsItIs(browser)
    assert "was damaged. Look through the items" in page["message"].text
    assert json.loads(page.download().read_text())["answers"] == {"1": {"grammar": "A"}}
    page.press("1")
    assert "factual_consistency" in page.chosen()


@pytest.mark.parametrize("stored", ["{", "null", "[]", '"abc"', "5", '{"answers": null}', '{"answers": "abc"}'])
def test_a_page_whose_stored_state_is_lost_begins_anew_and_says_so(browser, study, stored):
    stored_as(browser, study, stored)
    page = Page(browser, study)
    assert page["heading"].text == "Item 1 of 3"
    assert "was damaged. Look through the items" in page["message"].text
    page.press("1")
    assert page.chosen() == {"factual_consistency": "A"}
    page.press("j", "k")
    assert page["message"].text == ""


def test_a_whole_stored_state_is_taken_without_a_word(browser, study):
    page = Page(browser, study)
    page.click("grammar", "A")
    page.click("factual_consistency", "B")
    browser.refresh()
    assert page["message"].text == ""
    assert page.chosen() == {"grammar": "A", "factual_consistency": "B"}


def stored_as(browser, study, state):
    """Opens the page of a study in a browser that kept this."""
    browser.get((study / "study.html").as_uri())
    key = browser.execute_script("return storageKey")
    empty = study / "empty.html"
    empty.touch()
    browser.get(empty.as_uri())
    browser.execute_script("localStorage.setItem(...arguments)", key, state)

    def read_by_the_next_page(browser):
        """What a page stores may reach the next one late: it loads in another process."""
        browser.get(empty.as_uri())
        return browser.execute_script("return localStorage.getItem(arguments[0])", key) == state

    WebDriverWait(browser, 20).until(read_by_the_next_page)
    browser.get((study / "study.html").as_uri())


def test_single_keys_can_be_switched_off(browser, study):
    page = Page(browser, study)
    page["instructions"].click()
    page["shortcuts"].click()
    page["annotator"].send_keys(Keys.ENTER)
    page.press("1", "j")
    assert page["heading"].text == "Item 1 of 3"
    assert page.chosen() == {}


def test_another_annotator_starts_from_nothing_after_the_answers_are_deleted(browser, study):
    page = Page(browser, study)
    page.press("1")
    page["instructions"].click()
    page["clear"].click()
    browser.switch_to.alert.accept()
    assert page["annotator"].get_attribute("value") == ""
    page["annotator"].send_keys("Bob", Keys.ENTER)
    assert page.chosen() == {}


def test_two_tabs_do_not_overwrite_each_other(browser, study):
    page = Page(browser, study)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get((study / "study.html").as_uri())
    page.press("1")
    browser.switch_to.window(first)
    page.press("j", "3")
    assert json.loads(page.download().read_text())["answers"] == {
        "1": {"factual_consistency": "A"},
        "2": {"factual_consistency": "B"},
    }
    browser.switch_to.window(browser.window_handles[-1])
    browser.close()
    browser.switch_to.window(first)


def test_comments_and_cannot_tell_reach_the_report(browser, study, tmp_path):
    page = Page(browser, study)
    page.press(DIGIT["cannot tell"], "1", "1")
    assert page.chosen()["factual_consistency"] == "cannot tell"
    page["comment"].send_keys("too short j2 to judge")  # letters that are keys elsewhere
    assert page["heading"].text == "Item 1 of 3"
    browser.refresh()
    assert page["message"].text == ""
    assert page["comment"].get_attribute("value") == "too short j2 to judge"
    page["next"].click()
    assert page["comment"].get_attribute("value") == ""
    answers = page.download()
    arguments = [str(study / "key.json"), str(answers), "--output", str(tmp_path / "report.json")]
    result = CliRunner().invoke(app, ["human-eval", "report", *arguments])
    assert "“cannot tell”, left out: Factual consistency 1" in result.output
    assert "Ada Lovelace: too short j2 to judge" in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["complete"] == {"Ada Lovelace": 1}
    assert [(row["unanswered"], row["cannot_tell"]) for row in report["criteria"]] == [(3, 1), (2, 0), (2, 0)]


def test_annotators_split_the_items(browser, study, tmp_path):
    files = [str(study.parent / f"{system}.jsonl") for system in ("good", "bad")]
    arguments = ["make", *files, "-o", str(tmp_path / "parts"), "--annotators", "2"]
    assert CliRunner().invoke(app, ["human-eval", *arguments]).exit_code == 0
    answers = []
    for part, (name, count) in enumerate([("Ada", 2), ("Bob", 1)], start=1):
        browser.get((tmp_path / "parts" / f"study-{part}.html").as_uri())
        page = PageAsItIs(browser)
        page["annotator"].send_keys(name, Keys.ENTER)
        for number in range(count):
            assert page["heading"].text == f"Item {number + 1} of {count}"
            assert page["message"].text == ""
            page.press(*[DIGIT[page.good_side()]] * 3, "j")
        answers.append(tmp_path / f"{name}.json")
        shutil.copy(page.download(), answers[-1])
    assert [sorted(json.loads(path.read_text())["answers"]) for path in answers] == [["1", "3"], ["2"]]
    result = CliRunner().invoke(
        app, ["human-eval", "report", str(tmp_path / "parts" / "key.json"), *map(str, answers)]
    )
    assert "completed by: Ada 2, Bob 1" in result.output
    assert "| 100.0% |  0.0% |  0.0% |     3 |" in result.output


@pytest.fixture
def phone(browser):
    metrics = {"width": 390, "height": 664, "deviceScaleFactor": 2, "mobile": True}  # beneath Safari's bars
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def box(browser, name):
    return browser.execute_script(
        "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.top, box.bottom]", name
    )


def test_a_phone_shows_summaries_beside_the_document_and_the_start_button_at_once(phone, tmp_path):
    for system in ("good", "bad"):
        row = {
            "document": "A sentence of a long document. " * 200,
            "summary": f"{system} summary of some length. " * 6,
        }
        (tmp_path / f"{system}.jsonl").write_text(json.dumps(row) + "\n")
    files = [str(tmp_path / f"{system}.jsonl") for system in ("good", "bad")]
    assert CliRunner().invoke(app, ["human-eval", "make", *files, "-o", str(tmp_path / "study")]).exit_code == 0
    phone.get((tmp_path / "study" / "study.html").as_uri())
    assert box(phone, "#start button.primary")[1] <= 664
    page = Page(phone, tmp_path / "study")
    assert page["progress-text"].is_displayed()
    assert page["progress-text"].text == "0 of 1 complete"
    before = box(phone, ".summaries")
    phone.execute_script("document.getElementById('document-card').scrollTop = 2000")
    assert phone.execute_script("return document.getElementById('document-card').scrollTop") == 2000
    assert box(phone, ".summaries") == before
    assert before[1] <= 664
    assert phone.execute_script("return document.documentElement.scrollWidth") == 390
