"""QAGS (https://huggingface.co/papers/2004.04228): questions about a summary, answered from it and from its document.

A question writer asks, a reader answers. `Seq2SeqQuestionWriter` and `ExtractiveReader` are the published pair of
models; `QAGenQuestionWriter` and `QAGenReader` are both one QAGen, which needs nothing that QUALS does not have.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ...files import nan_to_none
from ...scorers import Scorer, by_document, check_texts
from ..entities import EntityFinder, load_finder, numbers
from ..registry import qagen_settings, register_judge
from .answers import normalize_answer, token_f1
from .writers import QAGenQuestionWriter, QuestionWriter, Seq2SeqQuestionWriter, WrittenQuestion


if TYPE_CHECKING:
    import torch

    from .readers import Reader

QUESTION_WRITER = "lmqg/bart-large-squad-qg"
READER = "deepset/roberta-large-squad2"

_FEWEST_WORDS = 3


@dataclass(frozen=True)
class QagsQuestion:
    """
    A question with both answers.

    Args:
        question (`str`): The question.
        candidate (`str`): The phrase of the summary it was written for.
        log_prob (`float`): The writer's mean log-probability of its tokens.
        summary_answer (`str`): The answer read from the summary.
        document_answer (`str`): The answer read from the document; empty if it has none.
        f1 (`float`): Token F1 of the two.
    """

    question: str
    candidate: str
    log_prob: float
    summary_answer: str
    document_answer: str
    f1: float


@dataclass(frozen=True)
class QagsResult:
    """
    QAGS of one summary, and all it rests on.

    Args:
        score (`float`): Mean F1 of the questions, from 0 to 1; NaN if no question is left.
        questions (`tuple[QagsQuestion, ...]`): The questions asked, the most probable first.
        finder (`str`): What found the candidates: `"rules"` or a spaCy model.
        num_candidates (`int`): How many phrases of the summary questions were written for.
        num_written (`int`): How many questions were written.
        num_duplicate (`int`): How many of them repeat a more probable one.
        num_short (`int`): How many have fewer than three words.
        num_unanswered (`int`): How many the reader cannot answer from the summary.
        num_surplus (`int`): How many good questions were more than the most to ask.
        document_truncated (`bool`): Whether the end of the document was not seen.
        summary_truncated (`bool`): Whether the end of the summary was not seen.
    """

    score: float
    questions: tuple[QagsQuestion, ...]
    finder: str
    num_candidates: int
    num_written: int
    num_duplicate: int
    num_short: int
    num_unanswered: int
    num_surplus: int
    document_truncated: bool
    summary_truncated: bool

    @property
    def num_questions(self) -> int:
        """How many questions the score rests on; with 0 there is no score."""
        return len(self.questions)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON's types; a score that is NaN becomes `None`."""
        return nan_to_none({**asdict(self), "num_questions": self.num_questions})


@dataclass
class QagsScorer(Scorer):
    """
    Scores summaries by whether their documents give the same answers (https://huggingface.co/papers/2004.04228).

    As published: named entities (numbers included) and noun phrases of the summary are candidates; questions are
    written for each; those that repeat another, have fewer than three words, or have no answer in the summary are
    dropped; the most probable are answered from the summary and from the document, and the score is the mean token F1
    of the two answers. Unlike the released code, nothing is sampled: of too many candidates the first are taken,
    entities before noun phrases, and of too few good questions no bad ones are added.

    Args:
        writer (`QuestionWriter`): Writes questions for candidates.
        reader (`Reader`): Answers them.
        finder (`EntityFinder`, *optional*): Finds candidates; [`~hf_quals.judges.entities.load_finder`]`()` if
            left out.
        max_candidates (`int`, *optional*, defaults to 10): The most candidates of a summary.
        max_questions (`int`, *optional*, defaults to 20): The most questions a score rests on.

    Raises:
        `ValueError`: if a number is less than 1.

    Example:

    ```python
    >>> from hf_quals.judges.qags import QagsScorer
    >>> scorer = QagsScorer.from_qagen()  # the package's default model in both roles
    >>> document, summary = "Lewis believes that Klitschko is hurt.", "Klitschko believes that Lewis is hurt."
    >>> scorer.score([document], [summary])[0].questions
    ```
    """

    name = "qags"

    writer: QuestionWriter
    reader: Reader
    finder: EntityFinder = field(default_factory=load_finder)
    max_candidates: int = 10
    max_questions: int = 20

    def __post_init__(self):
        _check_numbers(self.max_candidates, self.max_questions)

    @classmethod
    def from_pretrained(
        cls,
        writer: str | os.PathLike = QUESTION_WRITER,
        reader: str | os.PathLike = READER,
        *,
        prompt: str = Seq2SeqQuestionWriter.prompt,
        device: str | torch.device | None = None,
        finder: EntityFinder | None = None,
        max_candidates: int = 10,
        max_questions: int = 20,
        **model_kwargs: Any,
    ) -> QagsScorer:
        """
        Loads a question writer and a reader.

        Args:
            writer (`str` or `os.PathLike`, *optional*): A folder or Hub id of an encoder–decoder that writes questions
                for answers.
            reader (`str` or `os.PathLike`, *optional*): A folder or Hub id of an extractive reader, best one that was
                trained on SQuAD 2 and knows when there is no answer.
            prompt (`str`, *optional*): How the writer reads text and answer; see [`Seq2SeqQuestionWriter`].
            device (`str` or `torch.device`, *optional*): Left out: the accelerator of this process if there is one,
                else the CPU.
            finder, max_candidates, max_questions: Fields of [`QagsScorer`].
            **model_kwargs: Passed to both `from_pretrained` (`dtype`, `token`, …).

        Raises:
            [`InputError`]: if the device is not available, or files lack weights of a model, such as the head of a
                bare encoder.
        """
        from transformers import AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoTokenizer

        from ...qagen.hub import hub_options
        from ..loading import load_whole
        from .readers import ExtractiveReader

        _check_numbers(max_candidates, max_questions)
        finder = load_finder() if finder is None else finder
        asking = Seq2SeqQuestionWriter(
            load_whole(AutoModelForSeq2SeqLM, writer, device=device, **model_kwargs),
            AutoTokenizer.from_pretrained(writer, **hub_options(model_kwargs)),
            prompt,
        )
        answering = ExtractiveReader(
            load_whole(AutoModelForQuestionAnswering, reader, device=device, **model_kwargs),
            AutoTokenizer.from_pretrained(reader, **hub_options(model_kwargs)),
        )
        return cls(asking, answering, finder, max_candidates, max_questions)

    @classmethod
    def from_qagen(
        cls,
        name_or_path: str | os.PathLike | None = None,
        *,
        finder: EntityFinder | None = None,
        max_candidates: int = 10,
        max_questions: int = 20,
        **model_options: Any,
    ) -> QagsScorer:
        """
        Loads one QAGen for both roles; the package's default needs no Hub.

        Args:
            name_or_path (`str` or `os.PathLike`, *optional*): A QAGen; the default if left out.
            finder, max_candidates, max_questions: Fields of [`QagsScorer`].
            **model_options: Passed to [`QAGenModel.from_pretrained`] (`dtype`, `device`, `adapter`, …).
        """
        from ...qagen.model import QAGenModel
        from .qagen_reader import QAGenReader

        _check_numbers(max_candidates, max_questions)
        finder = load_finder() if finder is None else finder
        model = QAGenModel.from_pretrained(name_or_path, **model_options)
        return cls(QAGenQuestionWriter(model), QAGenReader(model), finder, max_candidates, max_questions)

    def settings(self) -> dict[str, Any]:
        return {
            "writer": _settings_of(self.writer),
            "reader": _settings_of(self.reader),
            "finder": self.finder.name,
            "max_candidates": self.max_candidates,
            "max_questions": self.max_questions,
        }

    def score(self, documents, summaries, *, references=None, batch_size=8) -> list[QagsResult]:
        check_texts(documents, summaries, batch_size)
        asked = self._ask(list(dict.fromkeys(summaries)), batch_size)
        questions = by_document(
            documents, ({written.question: written for written, _ in asked[summary].kept} for summary in summaries)
        )
        read, truncated = self.reader.read(
            list(questions), [list(of_document) for of_document in questions.values()], batch_size=batch_size
        )
        answers = {
            document: dict(zip(of_document, answered, strict=True))
            for (document, of_document), answered in zip(questions.items(), read, strict=True)
        }
        document_truncated = dict(zip(questions, truncated, strict=True))
        return [
            self._result(asked[summary], answers[document], document_truncated[document])
            for document, summary in zip(documents, summaries, strict=True)
        ]

    def _ask(self, summaries: list[str], batch_size: int) -> dict[str, _Asked]:
        """Of each summary the questions to ask of its document, with its own answers."""
        phrases = [candidates(summary, self.finder)[: self.max_candidates] for summary in summaries]
        written, cut_writing = self.writer.write(summaries, phrases, batch_size=batch_size)
        distinct = [_distinct(questions) for questions in written]
        long = [[item for item in part if len(item.question.split()) >= _FEWEST_WORDS] for part in distinct]
        answers, cut_reading = self.reader.read(
            summaries, [[item.question for item in part] for part in long], batch_size=batch_size
        )
        asked = {}
        for row, summary in enumerate(summaries):
            answered = [pair for pair in zip(long[row], answers[row], strict=True) if pair[1]]
            asked[summary] = _Asked(
                kept=answered[: self.max_questions],
                counts={
                    "num_candidates": len(phrases[row]),
                    "num_written": len(written[row]),
                    "num_duplicate": len(written[row]) - len(distinct[row]),
                    "num_short": len(distinct[row]) - len(long[row]),
                    "num_unanswered": len(long[row]) - len(answered),
                    "num_surplus": max(len(answered) - self.max_questions, 0),
                },
                truncated=cut_writing[row] or cut_reading[row],
            )
        return asked

    def _result(self, asked: _Asked, answers: dict[str, str], document_truncated: bool) -> QagsResult:
        questions = tuple(
            QagsQuestion(
                **vars(written),
                summary_answer=answer,
                document_answer=answers[written.question],
                f1=token_f1(answer, answers[written.question]),
            )
            for written, answer in asked.kept
        )
        return QagsResult(
            score=math.fsum(question.f1 for question in questions) / len(questions) if questions else math.nan,
            questions=questions,
            finder=self.finder.name,
            document_truncated=document_truncated,
            summary_truncated=asked.truncated,
            **asked.counts,
        )


@dataclass(frozen=True)
class _Asked:
    kept: list[tuple[WrittenQuestion, str]]
    counts: dict[str, int]
    truncated: bool


def candidates(text: str, finder: EntityFinder) -> list[str]:
    """
    The phrases questions are written for: names, then numbers, then noun phrases, each once.

    Args:
        text (`str`): A summary.
        finder (`EntityFinder`): What finds names and noun phrases.

    Returns:
        `list[str]`: the phrases as the text writes them; of those that are equal but for case, articles and marks the
        first.
    """
    distinct: dict[str, str] = {}
    for phrase in [*finder.names(text), *numbers(text), *finder.noun_phrases(text)]:
        distinct.setdefault(normalize_answer(phrase), phrase)
    distinct.pop("", None)
    return list(distinct.values())


def _distinct(written: Sequence[WrittenQuestion]) -> list[WrittenQuestion]:
    """Each question once, by case-folded words; the most probable first."""
    distinct: dict[str, WrittenQuestion] = {}
    for item in sorted(written, key=lambda item: (-item.log_prob, item.question)):
        distinct.setdefault(" ".join(item.question.casefold().split()), item)
    return list(distinct.values())


def _check_numbers(max_candidates: int, max_questions: int) -> None:
    for name, value in (("max_candidates", max_candidates), ("max_questions", max_questions)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def _settings_of(part: QuestionWriter | Reader) -> dict[str, Any]:
    """The class of a question writer or reader, its numbers, and the name and weights of its model."""
    from ...qagen.identity import identity_in_memory
    from ...qagen.model import QAGenModel

    settings: dict[str, Any] = {"type": type(part).__name__}
    for name, value in vars(part).items():
        if isinstance(value, (str, int)):
            settings[name] = value
        elif name == "model":
            # Of others, too, something may be called `model`: that of a BART is all but its head.
            model, template = (value.model, value.template) if isinstance(value, QAGenModel) else (value, None)
            settings |= {name: model.name_or_path, "weights": identity_in_memory(model, template)}
    return settings


@register_judge(
    "qags",
    columns={"QAGS": "score"},
    needs="the default model, or another QAGen that writes the question first",
    cost="slow: a language model asks about each name and phrase of a summary, and answers from both texts",
    is_slow=True,
)
def prepare(*, model: str | None = None, device: str | None = None, dtype: str = "auto"):
    finder = load_finder()
    settings = {**qagen_settings(model, dtype, device), "names found by": finder.name}
    return settings, lambda: QagsScorer.from_qagen(model, finder=finder, device=device, dtype=dtype)
