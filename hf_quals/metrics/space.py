"""The page of a metric's Space: a document and a summary, or a file of them, in; what the judge says, and why, out.

A judge is loaded when the first visitor opens the page, so that a Space serves at once; visitors wait in one queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from huggingface_hub import SpaceCard

from ..comparing.rows import Source
from ..errors import InputError
from ..quals.page import iframe
from ..scorers import Scorer, score_written


if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_DOCUMENT, MAX_SUMMARY = 20_000, 2_000  # characters
MAX_ROWS = 20
_MAX_WAITING = 50
_FORMATS = (".csv", ".jsonl")

_BOXERS = (
    "Lennox Lewis believes that Wladimir Klitschko is weaker than he used to be. The 41-year-old Ukrainian lost his "
    "heavyweight titles to Tyson Fury in November 2015 and has not been in the ring since then. According to Lewis, "
    "that defeat still troubles Klitschko, who has a chink in his armour as he prepares to meet Anthony Joshua at "
    "Wembley Stadium in April. Joshua, 27, has won all of his 18 professional fights. The Briton took gold at the "
    "London Olympics in 2012."
)
EXAMPLES = {
    "The right boxer": (_BOXERS, "Lewis says that Klitschko has a chink in his armour before the fight at Wembley."),
    "The wrong boxer": (_BOXERS, "Lewis says that Joshua has a chink in his armour before the fight at Wembley."),
    "A wrong number": (_BOXERS, "Joshua, 27, has won all of his 31 professional fights."),
}

_LOADING = (
    "**The model is being fetched and its weights unpacked**, once, since this Space has just started. It takes a "
    "minute or so; write your texts meanwhile."
)
_PLACEHOLDER = (
    '<div class="nothing-yet"><b>What the judge says appears here.</b><br>Write a document and a summary, or try an '
    "example.</div>"
)
# The frame of a result has the page's ground and goes to its edges, so that it looks like a part of it.
_CSS = """
.gradio-container { max-width: 80rem !important; }
.title h1 { font-size: 2rem; letter-spacing: -.015em; }
.title p { color: var(--body-text-color-subdued); max-width: 60rem; font-size: 1rem; }
#output, #output .html-container { padding: 0 !important; margin: 0 !important; overflow: visible; }
.nothing-yet {
  border: 1px dashed var(--border-color-primary); border-radius: 14px; padding: 5rem 1rem; text-align: center;
  color: var(--body-text-color-subdued);
}
#output iframe {
  --edge: clamp(1rem, 3vw, 2rem); width: calc(100% + 2 * var(--edge)) !important; max-width: none; display: block;
  margin-inline: calc(-1 * var(--edge)); margin-block: -1rem; color-scheme: light;
}
.dark #output iframe { color-scheme: dark; }
#picture .matplotlib { overflow-x: auto; justify-content: flex-start; align-items: flex-start; }
#picture img { width: max(100%, 52rem); max-width: none; flex: none; }
"""
# Rules of `css` count inside of .app alone.
_NARROW = "@media (max-width: 46rem) { .app.app { padding-inline: 1rem } }"
# Frames say how high they are; one that is pinned to its own height would scroll inside a page that scrolls.
_FRAMES = """
addEventListener("message", ({ data, source }) => {
  for (const frame of document.querySelectorAll("#output iframe"))
    if (frame.contentWindow === source && data.height > 0)
      frame.style.height = `${innerWidth < 900 ? data.height : Math.min(data.height, 1600)}px`;
});
"""
_FONTS = ["system-ui", "Liberation Sans", "sans-serif"]
_THEME = gr.themes.Default(primary_hue="blue", neutral_hue="stone", radius_size="lg", font=_FONTS).set(
    body_background_fill="#f8f7f4",
    body_background_fill_dark="#121316",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="#1b1d21",
    block_background_fill_dark="#1b1d21",
    input_background_fill_dark="#121316",
    body_text_color_subdued="#5b5d66",
    body_text_color_subdued_dark="#a3a5ae",
    border_color_primary="#e5e2da",
    border_color_primary_dark="#2e3037",
    button_primary_background_fill="#1a56b0",
    button_primary_background_fill_hover="#16478f",
    button_primary_background_fill_dark="#2f6cc7",
)

LAUNCH: dict[str, Any] = {
    "theme": _THEME,
    "css": _CSS,
    "head": f"<script>{_FRAMES}</script><style>{_NARROW}</style>",
    "max_file_size": "2mb",
}
"""What `launch` of an interface takes."""


def interface(
    folder: str | Path,
    load: Callable[[], Scorer],
    page: Callable[[Sequence[str], Sequence[str], Sequence[Any]], str],
    *,
    picture: Callable[[Any], Figure] | None = None,
) -> gr.Blocks:
    """
    The page of one metric, to be launched with [`LAUNCH`].

    Args:
        folder (`str` or `Path`): The metric's folder, whose `README.md` is its card.
        load (`Callable`): Loads the scorer; called once, in the background, when the page is first opened.
        page (`Callable`): What makes an HTML page of documents, summaries and results, such as [`QualsScorer.page`].
        picture (`Callable`, *optional*): What makes a picture of a result, such as [`QualsResult.plot`].

    Returns:
        `gradio.Blocks`: with the functions `score` and `score_file` of the page, and `compute`, which returns JSON.
    """
    card, judge = SpaceCard.load(Path(folder) / "README.md"), _Judge(load)
    actions = _Actions(judge, page, picture)
    # Visitors' files are deleted after a day.
    with gr.Blocks(title=card.data.title, delete_cache=(86_400, 86_400)) as demo:
        gr.Markdown(f"# {card.data.title}\n\n{card.data.description}", elem_classes="title")
        status = gr.Markdown(visible=False, elem_id="status")
        with gr.Tabs():
            with gr.Tab("One summary"), gr.Row(equal_height=True):
                document, summary, score_button, examples = _text_fields()
            with gr.Tab("A file"):
                file = gr.File(
                    label=f"CSV or JSONL with the columns document and summary, up to {MAX_ROWS} rows",
                    file_types=list(_FORMATS),
                    height=140,
                    elem_id="file",
                )
                file_button = gr.Button("Score the file", variant="primary", elem_id="score-file")
        outputs: list[Any] = [gr.HTML(_PLACEHOLDER, elem_id="output")]
        if picture is not None:
            name = "Picture: the tokens of each question, given the summary and given the document"
            with gr.Accordion(name, open=False, visible=False, elem_id="picture") as accordion:
                outputs += [accordion, gr.Plot(show_label=False)]
        with gr.Accordion("What this score is, and what it cannot see", open=False):
            gr.Markdown(card.text)

        queue: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "judge"}
        shown: dict[str, Any] = {"outputs": outputs, "show_progress_on": outputs[0], "scroll_to_output": True}
        of_texts: dict[str, Any] = {"fn": actions.score, "inputs": [document, summary], "validator": check_texts}
        gr.on([score_button.click, summary.submit], **of_texts, **shown, **queue, api_name="score")
        examples.load_input_event.then(**of_texts, **shown, **queue, api_visibility="private")
        file_button.click(actions.score_file, file, validator=check_file, **shown, **queue, api_name="score_file")
        gr.api(actions.compute, api_name="compute", **queue)
        demo.load(
            actions.waken, outputs=status, show_progress="hidden", concurrency_limit=None, api_visibility="private"
        )
    return demo.queue(max_size=_MAX_WAITING)


def _text_fields() -> tuple[gr.Textbox, gr.Textbox, gr.Button, Any]:
    document = gr.Textbox(
        label="document", lines=9, max_lines=9, placeholder="The text that was summarized", scale=3, elem_id="document"
    )
    with gr.Column(scale=2):
        summary = gr.Textbox(
            label="summary", lines=3, max_lines=6, placeholder="What is to be judged by it", elem_id="summary"
        )
        button = gr.Button("Score", variant="primary", elem_id="score")
        examples = gr.Examples(
            [list(texts) for texts in EXAMPLES.values()],
            [document, summary],
            label="Try an example",
            example_labels=list(EXAMPLES),
            cache_examples=False,
            api_visibility="private",
            elem_id="examples",
        )
    return document, summary, button, examples


@dataclass(frozen=True)
class _Actions:
    """What the page does."""

    judge: _Judge
    page: Callable[[Sequence[str], Sequence[str], Sequence[Any]], str]
    picture: Callable[[Any], Figure] | None

    def score(self, document: str, summary: str, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
        return self._shown([(document, summary)], progress)

    def score_file(self, file: str, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
        return self._shown(read_file(file), progress)

    def compute(self, document: str, summary: str) -> dict[str, Any]:
        """The score of a summary and all that it rests on."""
        refusal = refuse_document(document) or refuse_summary(summary)
        if refusal:
            raise gr.Error(refusal, print_exception=False)
        [result] = self.judge.score([(document, summary)], gr.Progress())
        return result.to_dict()

    async def waken(self) -> AsyncIterator[Any]:
        """Loads the judge, and says so meanwhile."""
        if not self.judge.is_loaded:
            yield gr.update(value=_LOADING, visible=True)
            try:
                await asyncio.to_thread(self.judge.loaded)
            except gr.Error as error:
                yield gr.update(value=error.message)
                return
        yield gr.update(visible=False)

    def _shown(self, rows: list[tuple[str, str]], progress: gr.Progress) -> Any:
        """The page of all rows and, in a panel that is there if there is one, the picture of the lowest score."""
        results = self.judge.score(rows, progress)
        documents, summaries = zip(*rows, strict=True)
        frame = iframe(self.page(documents, summaries, results))
        if self.picture is None:
            return frame
        scored = [result for result in results if result is not None and not math.isnan(result.score)]
        worst = min(scored, key=lambda result: result.score, default=None)
        return [frame, gr.update(visible=worst is not None), None if worst is None else self.picture(worst)]


class _Judge:
    """A scorer that is loaded once, when it is first needed, whoever needs it; what fails is tried again."""

    def __init__(self, load: Callable[[], Scorer]):
        self._load, self._lock = load, threading.Lock()
        self._scorer: Scorer | None = None
        self._seconds = 8.0  # what a summary takes: a guess, then the mean of the last ones

    @property
    def is_loaded(self) -> bool:
        return self._scorer is not None

    def loaded(self) -> Scorer:
        with self._lock:
            if self._scorer is None:
                try:
                    self._scorer = self._load()
                except (OSError, ImportError, ValueError) as error:
                    raise gr.Error(f"The model cannot be loaded: {error}", print_exception=False) from error
            return self._scorer

    def score(self, rows: list[tuple[str, str]], progress: gr.Progress) -> list[Any]:
        """One result a row, `None` for a blank summary."""
        if not self.is_loaded:
            progress(0, desc="Unpacking the model's weights, once")
        scorer = self.loaded()
        results = []
        for number, (document, summary) in enumerate(rows):
            started = time.monotonic()
            desc = "Scoring" if len(rows) == 1 else f"Scoring summary {number + 1} of {len(rows)}"

            def show(part: float, number: int = number, desc: str = desc) -> None:
                progress((number + part) / len(rows), desc=desc)

            with self._moving(show):
                try:
                    results += score_written(scorer, [document], [summary])
                except ValueError as error:
                    raise gr.Error(str(error), print_exception=False) from error
            self._seconds = (self._seconds + time.monotonic() - started) / 2
        return results

    @contextlib.contextmanager
    def _moving(self, show: Callable[[float], Any]) -> Iterator[None]:
        """Shows how much of a summary's usual time is over: a scorer says nothing before it has scored it."""
        done, started = threading.Event(), time.monotonic()

        def move() -> None:
            while True:
                show(min((time.monotonic() - started) / self._seconds, 0.95))
                if done.wait(0.25):
                    return

        # What is shown goes to the visitor whose context this is.
        thread = threading.Thread(target=contextvars.copy_context().run, args=(move,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def refuse_document(text: str) -> str | None:
    """Why a text is no document for the page, in its words."""
    if not text.strip():
        return "Please paste the document: a summary is judged by what its document says."
    return _refuse("document", text, MAX_DOCUMENT)


def refuse_summary(text: str) -> str | None:
    """Why a text is no summary for the page, in its words."""
    return (
        "Please write the summary that is to be judged." if not text.strip() else _refuse("summary", text, MAX_SUMMARY)
    )


def _refuse(name: str, text: str, most: int) -> str | None:
    if len(text) > most:
        return (
            f"This {name} has {len(text):,} characters, and this page reads up to {most:,}. Please shorten it, or use "
            "`hf-quals score` on a machine of your own."
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        return f"This {name} holds half of a character (a lone surrogate). Please remove it."
    return None


def check_texts(document: str, summary: str) -> list[dict[str, Any]]:
    """What a form says of its two fields before anybody waits."""
    return [_valid(refuse_document(document or "")), _valid(refuse_summary(summary or ""))]


def check_file(file: str | None) -> dict[str, Any]:
    """What a form says of its file before anybody waits."""
    if file is None:
        return _valid("Please choose a file.")
    try:
        read_file(file)
    except InputError as error:
        return _valid(str(error))
    return _valid(None)


def _valid(refusal: str | None) -> dict[str, Any]:
    return gr.validate(refusal is None, refusal or "")


def read_file(path: str) -> list[tuple[str, str]]:
    """
    Documents and summaries of an uploaded file; a summary may be blank.

    Raises:
        [`InputError`]: for what [`Source`] refuses, too many rows or too long texts; files go by their name.
    """
    name = Path(path).name
    if Path(path).suffix.lower() not in _FORMATS:
        raise InputError(f"{name}: expected a file that ends in {' or '.join(_FORMATS)}.")
    source = Source(path)
    rows: list[tuple[str, str]] = []
    try:
        for where, row in source.rows():
            source.check_texts(where, row)
            if len(rows) == MAX_ROWS:
                raise InputError(f"{path}: more than {MAX_ROWS} rows. Please score it with `hf-quals score`.")
            document, summary = source.texts(row)
            refusal = refuse_document(document) or _refuse("summary", summary, MAX_SUMMARY)
            if refusal:
                raise InputError(f"{where}: {refusal}")
            rows.append((document, summary))
    except InputError as error:
        raise InputError(str(error).replace(path, name)) from error
    if not rows:
        raise InputError(f"{name}: no rows.")
    return rows
