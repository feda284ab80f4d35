"""QAGS (https://huggingface.co/papers/2004.04228): questions about a summary, answered from it and from its document.

A question writer asks, a reader answers. `Seq2SeqQuestionWriter` and `ExtractiveReader` are the published pair of
models; `QAGenQuestionWriter` and `QAGenReader` are both one QAGen, which needs nothing that QUALS does not have.
"""

from __future__ import annotations

import collections
import copy
import math
import os
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoTokenizer, DynamicCache

from ..qagen.model import QAGenModel, _device
from ..scorers import check_texts
from .entities import EntityFinder, load_finder, numbers
from .windows import check_fast, encode_windows, forward_windows


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUESTION_WRITER = "lmqg/bart-large-squad-qg"
READER = "deepset/roberta-large-squad2"

_FEWEST_WORDS = 3


@dataclass(frozen=True)
class WrittenQuestion:
    """
    A question written for an answer.

    Args:
        question (`str`): The question.
        candidate (`str`): The answer it was written for.
        log_prob (`float`): Mean log-probability of its tokens, by which questions are ranked.
    """

    question: str
    candidate: str
    log_prob: float


class QuestionWriter(Protocol):
    """Writes questions whose answers are given."""

    def write(
        self, texts: Sequence[str], candidates: Sequence[Sequence[str]], *, batch_size: int
    ) -> tuple[list[list[WrittenQuestion]], list[bool]]:
        """
        Args:
            texts (`Sequence[str]`): What to ask about.
            candidates (`Sequence[Sequence[str]]`): Of each text the answers to ask for, which occur in it.
            batch_size (`int`): How many sequences are computed together.

        Returns:
            `tuple[list[list[WrittenQuestion]], list[bool]]`: of each text its questions, in any order, and whether it
            was truncated.
        """


class Reader(Protocol):
    """Answers questions from texts."""

    def read(
        self, texts: Sequence[str], questions: Sequence[Sequence[str]], *, batch_size: int
    ) -> tuple[list[list[str]], list[bool]]:
        """
        Args:
            texts (`Sequence[str]`): What to answer from.
            questions (`Sequence[Sequence[str]]`): Of each text the questions, possibly none.
            batch_size (`int`): How many sequences are computed together.

        Returns:
            `tuple[list[list[str]], list[bool]]`: of each text its answers, `""` where it has none, and whether it was
            truncated.
        """


@dataclass
class Seq2SeqQuestionWriter:
    """
    An encoder–decoder that writes a question for an answer in a text, by beam search.

    Args:
        model (`PreTrainedModel`): The model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        prompt (`str`, *optional*, defaults to `"{before}<hl> {answer} <hl>{after}"`): How the checkpoint reads text
            and answer; holds `{answer}`, and `{text}`, or `{before}` and `{after}`, the text around the answer.
        num_beams (`int`, *optional*, defaults to 10): Beams, all of which are returned, for each answer.
        max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a question.

    Raises:
        `ValueError`: if the prompt holds an unknown placeholder or no `{answer}`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: str = "{before}<hl> {answer} <hl>{after}"
    num_beams: int = 10
    max_new_tokens: int = 60

    def __post_init__(self):
        fields = {name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None}
        if "answer" not in fields or fields - {"text", "answer", "before", "after"}:
            raise ValueError(
                "prompt must hold {answer}, and no other placeholders than {text}, {before} and {after}; got "
                f"{self.prompt!r}."
            )

    @torch.inference_mode()
    def write(self, texts, candidates, *, batch_size):
        prompts = [
            (row, candidate, self._prompt(text, candidate))
            for row, (text, answers) in enumerate(zip(texts, candidates, strict=True))
            for candidate in answers
        ]
        questions: list[list[WrittenQuestion]] = [[] for _ in texts]
        truncated = [False] * len(texts)
        for start in range(0, len(prompts), batch_size):
            part = prompts[start : start + batch_size]
            inputs = self.tokenizer([prompt for _, _, prompt in part], verbose=False)["input_ids"]
            limit = self.tokenizer.model_max_length
            for (row, _, _), ids in zip(part, inputs, strict=True):
                truncated[row] |= len(ids) > limit
            batch = self.tokenizer(
                [prompt for _, _, prompt in part], truncation=True, padding=True, return_tensors="pt"
            )
            output = self.model.generate(  # type: ignore[operator]
                **batch.to(self.model.device),
                do_sample=False,
                num_beams=self.num_beams,
                num_return_sequences=self.num_beams,
                length_penalty=1.0,
                max_new_tokens=self.max_new_tokens,
                return_dict_in_generate=True,
                output_scores=True,
            )
            written = self.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
            for number, (question, score) in enumerate(zip(written, output.sequences_scores.tolist(), strict=True)):
                row, candidate, _ = part[number // self.num_beams]
                questions[row].append(WrittenQuestion(question.strip(), candidate, score))
        return questions, truncated

    def _prompt(self, text: str, candidate: str) -> str:
        found = re.search(rf"(?<!\w){re.escape(candidate)}(?!\w)", text)
        if found is None:
            raise ValueError(f"The answer {candidate!r} does not occur in the text {text!r}.")
        before, after = text[: found.start()], text[found.end() :]
        return self.prompt.format(text=text, answer=candidate, before=before, after=after)


@dataclass
class ExtractiveReader:
    """
    A SQuAD reader: the most probable span of the text, or no answer where that is more probable.

    A long text is read in overlapping windows. As in SQuAD 2's baseline, a span's score is the sum of its start and
    end logits, the best of all windows counts, and the score of no answer is the lowest of any window's first token.

    Args:
        model (`PreTrainedModel`): An extractive question answering model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, a fast one.
        max_length (`int`, *optional*, defaults to 384): The most tokens of a window, the question included.
        stride (`int`, *optional*, defaults to 128): How many tokens neighbouring windows share.
        max_answer_length (`int`, *optional*, defaults to 30): The most tokens of an answer.

    Raises:
        `ValueError`: if the tokenizer is not a fast one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int = 384
    stride: int = 128
    max_answer_length: int = 30

    def __post_init__(self):
        check_fast(self.tokenizer)

    def read(self, texts, questions, *, batch_size):
        asked = [(row, question) for row, part in enumerate(questions) for question in part]
        windows, owners = encode_windows(
            self.tokenizer,
            [question for _, question in asked],
            [texts[row] for row, _ in asked],
            cut="only_second",
            max_length=self.max_length,
            stride=self.stride,
        )
        best = [(-math.inf, "")] * len(asked)
        no_answer = [math.inf] * len(asked)
        number = 0
        for output in forward_windows(self.model, self.tokenizer, windows, batch_size):
            for start_logits, end_logits in zip(output.start_logits.cpu(), output.end_logits.cpu(), strict=True):
                window, owner = windows[number], owners[number]
                number += 1
                null = window["input_ids"].index(self.tokenizer.cls_token_id)
                no_answer[owner] = min(no_answer[owner], float(start_logits[null] + end_logits[null]))
                context = [place for place, side in enumerate(window["sequence_ids"]) if side == 1]
                if context:
                    places = slice(context[0], context[-1] + 1)
                    score, start, end = best_span(start_logits[places], end_logits[places], self.max_answer_length)
                    offsets = window["offset_mapping"][places]
                    answer = texts[asked[owner][0]][offsets[start][0] : offsets[end][1]].strip()
                    best[owner] = max(best[owner], (score, answer), key=lambda found: found[0])
        answers: list[list[str]] = [[] for _ in texts]
        for (row, _), (score, answer), null_score in zip(asked, best, no_answer, strict=True):
            answers[row].append(answer if score > null_score else "")
        return answers, [False] * len(texts)


def best_span(start_logits: torch.Tensor, end_logits: torch.Tensor, max_length: int) -> tuple[float, int, int]:
    """
    The best answer of a window.

    Args:
        start_logits (`torch.Tensor` of shape `(length,)`): Logits of the tokens that may start it.
        end_logits (`torch.Tensor` of shape `(length,)`): Logits of the same tokens to end it.
        max_length (`int`): The most tokens of an answer.

    Returns:
        `tuple[float, int, int]`: the highest sum of a start and an end logit, and the indices of the two, the end not
        before the start and less than `max_length` behind it.
    """
    scores = start_logits.float()[:, None] + end_logits.float()[None, :]
    allowed = torch.ones_like(scores, dtype=torch.bool).triu().tril(max_length - 1)
    score, place = scores.masked_fill(~allowed, -math.inf).flatten().max(dim=0)
    return float(score), int(place) // len(scores), int(place) % len(scores)


@dataclass
class QAGenQuestionWriter:
    """
    A QAGen that writes questions for given answers.

    QAGen chooses what it asks: of the pairs that diverse beam search finds for a text, the questions for a candidate
    are those whose generated answer is most like it, with a token F1 of at least one half. A candidate may be left
    without a question.

    Args:
        model (`QAGenModel`): The model, of either family.
        num_sequences (`int`, *optional*, defaults to 60): Sequences generated from a text, of one beam group each.
        num_beams (`int`, *optional*, defaults to 10): The most questions to return for each candidate.
        max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a sequence.
        max_length (`int`, *optional*, defaults to 1024): The most tokens of a text with its markers.
    """

    model: QAGenModel
    num_sequences: int = 60
    num_beams: int = 10
    max_new_tokens: int = 60
    max_length: int = 1024

    def write(self, texts, candidates, *, batch_size):
        encoded = self.model.encode(texts, self.max_length)
        generated = self.model.generate(
            encoded,
            num_beams=self.num_sequences,
            num_beam_groups=self.num_sequences,
            max_new_tokens=self.max_new_tokens,
            # A text is as many sequences.
            batch_size=max(batch_size // self.num_sequences, 1),
        )
        questions = []
        for answers, pairs in zip(candidates, generated, strict=True):
            by_answer: dict[str, list[WrittenQuestion]] = {answer: [] for answer in answers}
            for pair in pairs:
                likeness, answer = max(
                    ((token_f1(pair.answer, answer), answer) for answer in answers if pair.is_pair),
                    key=lambda found: found[0],
                    default=(0.0, ""),
                )
                if likeness >= 0.5:
                    log_prob = math.fsum(pair.log_probs) / len(pair.log_probs)
                    by_answer[answer].append(WrittenQuestion(pair.question, answer, log_prob))
            for written in by_answer.values():
                written.sort(key=lambda one: -one.log_prob)
            questions.append([one for written in by_answer.values() for one in written[: self.num_beams]])
        return questions, [text.truncated for text in encoded]


@dataclass
class QAGenReader:
    """
    A decoder-only QAGen that answers: behind a text and a question it goes on with the answer.

    The text is computed once for all its questions. QAGen always answers; an answer that does not occur in the text
    counts as none.

    Args:
        model (`QAGenModel`): A decoder-only model whose template has the question before the answer.
        max_new_tokens (`int`, *optional*, defaults to 30): The most tokens of an answer.
        max_length (`int`, *optional*, defaults to 1024): The most tokens of a text with its markers.

    Raises:
        `ValueError`: if the model is an encoder–decoder or writes the answer first.
    """

    model: QAGenModel
    max_new_tokens: int = 30
    max_length: int = 1024

    def __post_init__(self):
        if self.model.is_encoder_decoder or not self._answer_is_last:
            raise ValueError(
                "Only a decoder-only QAGen that writes the question before the answer can be asked a question. Pass "
                "another reader, for example an ExtractiveReader."
            )

    @property
    def _answer_is_last(self) -> bool:
        return self.model.template.pair.endswith("{answer}")

    @torch.inference_mode()
    def read(self, texts, questions, *, batch_size):
        encoded = self.model.encode(texts, self.max_length)
        answers: list[list[str]] = []
        for text, context, asked in zip(texts, encoded, questions, strict=True):
            found = self._continue(context.input_ids, asked, batch_size) if asked else []
            answers.append([answer if answer.casefold() in text.casefold() else "" for answer in found])
        return answers, [context.truncated for context in encoded]

    def _continue(self, context: list[int], questions: Sequence[str], batch_size: int) -> list[str]:
        model, tokenizer = self.model.model, self.model.tokenizer
        before_answer = self.model.template.pair.removesuffix("{answer}").rstrip(" ")
        asked = [
            tokenizer(before_answer.replace("{question}", question), add_special_tokens=False)["input_ids"]
            for question in questions
        ]
        context_ids, context_mask = self.model._pad([context], left=True)
        shared = DynamicCache()
        model(
            input_ids=context_ids,
            attention_mask=context_mask,
            position_ids=(context_mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=shared,
            logits_to_keep=1,
        )
        answers: list[list[int]] = []
        for start in range(0, len(asked), batch_size):
            question_ids, question_mask = self.model._pad(asked[start : start + batch_size], left=True)
            rows = len(question_ids)
            cache = copy.deepcopy(shared)
            cache.batch_repeat_interleave(rows)
            answers += self._greedy(question_ids, torch.cat([context_mask.expand(rows, -1), question_mask], 1), cache)
        return [answer.strip() for answer in tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def _greedy(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: DynamicCache) -> list[list[int]]:
        """
        The most probable token again and again, until each row ends.

        Not by `generate`: most answers are short, and there all rows are computed until the longest one ends.
        """
        device = input_ids.device
        ends = torch.tensor(self.model._eos_token_ids, device=device)
        # As an index and not as a number: the last position comes out contiguous, without which torch's matrix product
        # with the vocabulary copies all its weights for each row.
        last = torch.tensor([-1], device=device)
        answers: list[list[int]] = [[] for _ in input_ids]
        rows = torch.arange(len(input_ids), device=device)
        running = torch.ones_like(rows, dtype=torch.bool)
        for _ in range(self.max_new_tokens):
            positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            tokens = (
                self.model.model(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    position_ids=positions,
                    past_key_values=cache,
                    logits_to_keep=last,
                )
                .logits[:, -1]
                .argmax(-1)
            )
            running &= ~torch.isin(tokens, ends)
            for row, token in zip(rows[running].tolist(), tokens[running].tolist(), strict=True):
                answers[row].append(token)
            if not running.any():
                break
            if 2 * running.sum() <= len(rows):
                # By halves: to select rows copies the cache.
                kept = running.nonzero().squeeze(-1)
                cache.batch_select_indices(kept)
                rows, running, tokens, attention_mask = rows[kept], running[kept], tokens[kept], attention_mask[kept]
            input_ids = tokens[:, None]
            attention_mask = torch.nn.functional.pad(attention_mask, (0, 1), value=1)
        return answers


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
        return {
            **vars(self),
            "score": None if math.isnan(self.score) else self.score,
            "num_questions": self.num_questions,
            "questions": [dict(vars(question)) for question in self.questions],
        }


@dataclass
class QagsScorer:
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

    writer: QuestionWriter
    reader: Reader
    finder: EntityFinder = field(default_factory=load_finder)
    max_candidates: int = 10
    max_questions: int = 20

    def __post_init__(self):
        for name in ("max_candidates", "max_questions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

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
        """
        # Wrong numbers are refused before a model is loaded.
        finder = load_finder() if finder is None else finder
        cls(None, None, finder, max_candidates, max_questions)  # type: ignore[arg-type]
        place = _device(device)
        asking = Seq2SeqQuestionWriter(
            AutoModelForSeq2SeqLM.from_pretrained(writer, **model_kwargs).to(place).eval(),
            AutoTokenizer.from_pretrained(writer),
            prompt,
        )
        answering = ExtractiveReader(
            AutoModelForQuestionAnswering.from_pretrained(reader, **model_kwargs).to(place).eval(),
            AutoTokenizer.from_pretrained(reader),
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
            name_or_path (`str` or `os.PathLike`, *optional*): A decoder-only QAGen; the default if left out.
            finder, max_candidates, max_questions: Fields of [`QagsScorer`].
            **model_options: Passed to [`QAGenModel.from_pretrained`] (`dtype`, `device`, `adapter`, …).
        """
        # Wrong numbers are refused before a model is loaded.
        finder = load_finder() if finder is None else finder
        cls(None, None, finder, max_candidates, max_questions)  # type: ignore[arg-type]
        model = QAGenModel.from_pretrained(name_or_path, **model_options)
        return cls(QAGenQuestionWriter(model), QAGenReader(model), finder, max_candidates, max_questions)

    def score(self, documents: Sequence[str], summaries: Sequence[str], *, batch_size: int = 16) -> list[QagsResult]:
        """
        Scores each summary against the document at the same index.

        Args:
            documents (`Sequence[str]`): The documents.
            summaries (`Sequence[str]`): As many summaries.
            batch_size (`int`, *optional*, defaults to 16): Sequences computed together; bounds memory.

        Returns:
            `list[QagsResult]`: one result a summary, in order.

        Raises:
            `ValueError`: if the lists differ in length, or a text is not a string or empty; the message names the row.
        """
        check_texts(documents, summaries, batch_size)
        asked = self._ask(list(dict.fromkeys(summaries)), batch_size)
        wanted: dict[str, dict[str, None]] = {document: {} for document in documents}
        for document, summary in zip(documents, summaries, strict=True):
            wanted[document].update((written.question, None) for written, _ in asked[summary].kept)
        questions = [list(part) for part in wanted.values()]
        read, truncated = self.reader.read(list(wanted), questions, batch_size=batch_size)
        answers = {
            document: dict(zip(part, found, strict=True))
            for document, part, found in zip(wanted, questions, read, strict=True)
        }
        document_truncated = dict(zip(wanted, truncated, strict=True))
        return [
            self._result(asked[summary], answers[document], document_truncated[document])
            for document, summary in zip(documents, summaries, strict=True)
        ]

    def _ask(self, summaries: list[str], batch_size: int) -> dict[str, _Asked]:
        """Of each summary the questions to ask of its document, with its own answers."""
        found = [candidates(summary, self.finder)[: self.max_candidates] for summary in summaries]
        written, cut_writing = self.writer.write(summaries, found, batch_size=batch_size)
        distinct = [_distinct(questions) for questions in written]
        long = [[one for one in part if len(one.question.split()) >= _FEWEST_WORDS] for part in distinct]
        answers, cut_reading = self.reader.read(
            summaries, [[one.question for one in part] for part in long], batch_size=batch_size
        )
        asked = {}
        for row, summary in enumerate(summaries):
            answered = [pair for pair in zip(long[row], answers[row], strict=True) if pair[1]]
            asked[summary] = _Asked(
                kept=answered[: self.max_questions],
                counts={
                    "num_candidates": len(found[row]),
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
                question=written.question,
                candidate=written.candidate,
                log_prob=written.log_prob,
                summary_answer=answer,
                document_answer=answers[written.question],
                f1=token_f1(answer, answers[written.question]),
            )
            for written, answer in asked.kept
        )
        return QagsResult(
            score=math.fsum(one.f1 for one in questions) / len(questions) if questions else math.nan,
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
    for one in sorted(written, key=lambda one: (-one.log_prob, one.question)):
        distinct.setdefault(" ".join(one.question.casefold().split()), one)
    return list(distinct.values())


def normalize_answer(answer: str) -> str:
    """SQuAD's normal form: lowercase, without punctuation, articles and surplus white space."""
    bare = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def token_f1(first: str, second: str) -> float:
    """
    SQuAD's F1 of two answers: harmonic mean of the shares of common tokens, repetitions counted.

    Args:
        first (`str`): An answer.
        second (`str`): Another; the order does not matter.

    Returns:
        `float`: from 0 to 1. If one of the two is empty, 1 if both are, else 0.
    """
    one, other = (collections.Counter(normalize_answer(answer).split()) for answer in (first, second))
    if not one or not other:
        return float(one == other)
    return 2 * (one & other).total() / (one.total() + other.total())
