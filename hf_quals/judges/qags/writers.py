"""Question writers of QAGS: the published kind, an encoder–decoder that is given the answer, and QAGen."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .answers import token_f1


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...qagen.model import QAGenModel


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
            batch_size (`int`): How many of a model's inputs are computed together.

        Returns:
            `tuple[list[list[WrittenQuestion]], list[bool]]`: of each text its questions, in any order, and whether it
            was truncated.
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
            of_part = [prompt for _, _, prompt in part]
            for (row, _, _), ids in zip(part, self.tokenizer(of_part, verbose=False)["input_ids"], strict=True):
                truncated[row] |= len(ids) > self.tokenizer.model_max_length
            batch = self.tokenizer(of_part, truncation=True, padding=True, return_tensors="pt")
            output = self.model.generate(  # type: ignore[operator]
                **batch.to(self.model.device),
                do_sample=False,
                num_beams=self.num_beams,
                num_return_sequences=self.num_beams,
                length_penalty=1.0,
                # With the decoder's start. Beside a checkpoint's own `max_length`, `max_new_tokens` gives a warning.
                max_length=1 + self.max_new_tokens,
                max_new_tokens=None,
                return_dict_in_generate=True,
                output_scores=True,
            )
            written = self.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
            for number, (question, score) in enumerate(zip(written, output.sequences_scores.tolist(), strict=True)):
                row, candidate, _ = part[number // self.num_beams]
                questions[row].append(WrittenQuestion(question.strip(), candidate, score))
        return questions, truncated

    def _prompt(self, text: str, candidate: str) -> str:
        # As a word where it can: of "J.K.Rowling" the finder takes "J.K.".
        as_it_is = re.escape(candidate)
        match = re.search(rf"(?<!\w){as_it_is}(?!\w)", text) or re.search(as_it_is, text)
        if match is None:
            raise ValueError(f"The answer {candidate!r} does not occur in the text {text!r}.")
        before, after = text[: match.start()], text[match.end() :]
        return self.prompt.format(text=text, answer=candidate, before=before, after=after)


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
        encoded = self.model.encode(texts, self.max_length, max_new_tokens=self.max_new_tokens)
        generated = self.model.generate(
            encoded,
            num_beams=self.num_sequences,
            num_beam_groups=self.num_sequences,
            max_new_tokens=self.max_new_tokens,
            batch_size=batch_size,
        )
        questions = []
        for answers, pairs in zip(candidates, generated, strict=True):
            by_answer: dict[str, list[WrittenQuestion]] = {answer: [] for answer in answers}
            for pair in pairs:
                likeness, answer = max(
                    ((token_f1(pair.answer, answer), answer) for answer in answers if pair.is_pair),
                    key=lambda scored: scored[0],
                    default=(0.0, ""),
                )
                if likeness >= 0.5:
                    log_prob = math.fsum(pair.log_probs) / len(pair.log_probs)
                    by_answer[answer].append(WrittenQuestion(pair.question, answer, log_prob))
            for written in by_answer.values():
                written.sort(key=lambda question: -question.log_prob)
            questions.append([question for written in by_answer.values() for question in written[: self.num_beams]])
        return questions, [text.truncated for text in encoded]
