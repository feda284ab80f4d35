"""How a question–answer pair is written as text and read back.

The way a pair is written belongs to a checkpoint, not to the code: a [`QATemplate`] is stored beside the weights in
`qagen_config.json`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import write_atomically


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

TEMPLATE_FILE = "qagen_config.json"
# Tokens read behind those that are kept of a long text.
_MARGIN = 256


def num_positions(config: PreTrainedConfig) -> int:
    """How many positions a model has; 0 where nothing bounds them."""
    return max(getattr(config.get_text_config(), "max_position_embeddings", None) or 0, 0)


@dataclass(frozen=True)
class EncodedText:
    """Token ids of one text, ready for the model.

    Args:
        input_ids (`list[int]`):
            The prompt (decoder-only) or the encoder input (encoder–decoder), special tokens included.
        truncated (`bool`):
            Whether the text was cut to fit the model's context.
        text_span (`tuple[int, int]`, *optional*, defaults to `(0, 0)`):
            Where the text's own tokens begin and end among `input_ids`.
    """

    input_ids: list[int]
    truncated: bool
    text_span: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class QATemplate:
    r"""
    The written form of QAGen's input and output.

    Args:
        prompt (`str`, *optional*, defaults to `"Passage: {text}\nQuestion:"`):
            What the model reads. Holds `{text}` once. For encoder–decoder models usually `"{text}"` alone. For
            decoder-only models a word should stand before the text: where the tokenizer puts no marker there, the
            first token becomes the place where attention rests, and what it says is lost.
        pair (`str`, *optional*, defaults to `" {question}\n {answer}"`):
            What the model writes. Holds `{question}` and `{answer}` once each, in either order. What stands between
            the two is the separator; spaces around it do not belong to it.

    Raises:
        `ValueError`: if a field is no string, if a placeholder is missing or repeated, or if nothing but spaces
            separates question and answer.

    Example:

    ```python
    >>> from hf_quals import QATemplate
    >>> template = QATemplate(prompt="{text}", pair="{question} <sep> {answer}")
    >>> template.parse("Who has a chink in his armour? <sep> Klitschko")
    ('Who has a chink in his armour?', 'Klitschko')
    ```
    """

    prompt: str = "Passage: {text}\nQuestion:"
    pair: str = " {question}\n {answer}"

    def __post_init__(self):
        for name, placeholders in (("prompt", ("{text}",)), ("pair", ("{question}", "{answer}"))):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ValueError(f"QATemplate.{name} must be a string, got {value!r}.")
            for placeholder in placeholders:
                if value.count(placeholder) != 1:
                    raise ValueError(f"QATemplate.{name} must hold {placeholder} exactly once, got {value!r}.")
        if not self.separator:
            raise ValueError(
                f"QATemplate.pair must separate question and answer by more than spaces, got {self.pair!r}."
            )

    @property
    def separator(self) -> str:
        """What stands between question and answer, without the spaces around it."""
        return self._around[1].strip(" ")

    @property
    def _around(self) -> tuple[str, str, str]:
        """What is written before, between and behind question and answer."""
        before, between, after = re.split(r"\{question\}|\{answer\}", self.pair)
        return before, between, after

    def format_pair(self, question: str, answer: str) -> str:
        """The text of one pair, as the model is trained to write it."""
        first, second = (question, answer) if self.question_first else (answer, question)
        before, between, after = self._around
        return before + first + between + second + after

    def parse(self, text: str) -> tuple[str, str] | None:
        """
        Reads a pair back from generated text.

        Returns:
            `tuple[str, str]` or `None`: question and answer, stripped of white space; `None` unless the separator
            occurs exactly once with something on both sides.
        """
        before, _, after = (part.strip() for part in self._around)
        parts = text.strip().removeprefix(before).removesuffix(after).split(self.separator)
        if len(parts) != 2:
            return None
        first, second = (part.strip() for part in parts)
        if not first or not second:
            return None
        return (first, second) if self.question_first else (second, first)

    @property
    def question_first(self) -> bool:
        """Whether a pair is written question first."""
        return self.pair.index("{question}") < self.pair.index("{answer}")

    def encode_texts(
        self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int, is_encoder_decoder: bool
    ) -> list[EncodedText]:
        """
        Tokenizes texts into prompts or encoder inputs of at most `max_length` tokens.

        A text that does not fit loses its end; what the template and the tokenizer put before and behind the text
        (instructions, end-of-sequence marker) is kept whole.

        Args:
            tokenizer (`PreTrainedTokenizerBase`): The tokenizer of the QAGen model.
            texts (`Sequence[str]`): Documents or summaries.
            max_length (`int`): The most tokens of the whole input, markers included.
            is_encoder_decoder (`bool`): An encoder's input ends with the tokenizer's end marker, a prompt does not.

        Returns:
            `list[EncodedText]`: one entry a text, in order.

        Raises:
            `ValueError`: if `max_length` leaves no room for a single token of text.
        """
        begin, end = self.special_tokens(tokenizer)
        head, tail = self.prompt.split("{text}")
        # One string for the tokenizer: " Lewis" behind a word is the token that it is in a pair.
        num_head = len(begin) + len(_token_ids(tokenizer, head.rstrip(" ")))
        tail_ids = _token_ids(tokenizer, tail) + (end if is_encoder_decoder else [])
        room = max_length - len(tail_ids)
        if room <= num_head:
            raise ValueError(
                f"max_length={max_length} leaves no room for text: the template and the tokenizer's markers alone "
                f"take {num_head + len(tail_ids)} tokens."
            )
        cut = room - len(begin)
        all_ids = _first_tokens(tokenizer, [head + text for text in texts], cut)
        return [
            EncodedText(
                begin + ids[:cut] + tail_ids,
                truncated=len(ids) > cut,
                text_span=(num_head, len(begin) + min(len(ids), cut)),
            )
            for ids in all_ids
        ]

    def encode_pair(
        self, tokenizer: PreTrainedTokenizerBase, question: str, answer: str, *, is_encoder_decoder: bool
    ) -> list[int]:
        """
        Tokenizes a pair as a training target, end-of-sequence included.

        Encoder–decoder targets carry the tokenizer's own special tokens (BART's `<s> … </s>`); for decoder-only
        models the pair continues the prompt and is closed by `eos_token_id`.

        Returns:
            `list[int]`: the ids a QAGen model is trained to generate.
        """
        ids = _token_ids(tokenizer, self.format_pair(question, answer))
        if not is_encoder_decoder:
            return [*ids, tokenizer.eos_token_id]
        begin, end = self.special_tokens(tokenizer)
        return begin + ids + (end or [tokenizer.eos_token_id])

    def encode_continuation(
        self, tokenizer: PreTrainedTokenizerBase, text: str, *, is_encoder_decoder: bool
    ) -> tuple[list[int], int]:
        """
        Tokenizes a text as if the model went on with it where the first part of a pair begins.

        Returns:
            `tuple[list[int], int]`: ids, without end-of-sequence, and how many of them stand before the text: an
            encoder–decoder's first markers, and what the template puts before a pair.
        """
        before, _, _ = self._around
        begin = self.special_tokens(tokenizer)[0] if is_encoder_decoder else []
        # As in a prompt, the space before a word is part of the word's token.
        num_before = len(begin) + len(_token_ids(tokenizer, before.rstrip(" ")))
        return begin + _token_ids(tokenizer, before + text), num_before

    @staticmethod
    def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind one sequence, e.g. BART's `[<s>]` and `[</s>]`."""
        bare = _token_ids(tokenizer, "a")
        whole = tokenizer("a")["input_ids"]
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        raise ValueError(f"{type(tokenizer).__name__} does not keep the tokens of a text when it adds special tokens.")

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Writes `qagen_config.json` into `save_directory`."""
        path = Path(save_directory, TEMPLATE_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> QATemplate:
        """
        Reads a `qagen_config.json`.

        Raises:
            `InputError`: if the file is not a JSON object with the fields of [`QATemplate`] and nothing else.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**fields)
        except (TypeError, ValueError) as error:  # no JSON, no UTF-8, no fields, not their values
            reason = str(error).rstrip(".")
            raise InputError(
                f"{path} is not a QAGen template: {reason}. Expected a JSON object like {json.dumps(asdict(cls()))}."
            ) from error


# How public generators of the Hub write pairs, among them potsawee/t5-large-generation-squad-QuestionAnswer.
QUESTION_SEP_ANSWER = QATemplate(prompt="{text}", pair="{question} <sep> {answer}")


def _first_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], number: int) -> list[list[int]]:
    """
    At least the first `number` tokens of each text, if it has as many, and more than these if it has more.

    Of a long text only its beginning is tokenized: whole words, and so many tokens more than wanted that where the
    beginning ends cannot matter.
    """
    all_ids = []
    for text in texts:
        length = 16 * (number + _MARGIN)
        while True:
            # A text without spaces is cut within its only word.
            end = len(text) if len(text) <= length else max(text.rfind(" ", 0, length), 0) or length
            ids = tokenizer(text[:end], add_special_tokens=False, verbose=False)["input_ids"]
            if end == len(text) or len(ids) >= number + _MARGIN:
                break
            length *= 2
        all_ids.append(ids)
    return all_ids


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
