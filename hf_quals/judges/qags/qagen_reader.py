"""The reader of QAGS that is a QAGen: behind a text and a question it goes on with the answer."""

from __future__ import annotations

from dataclasses import dataclass

from ...qagen.model import QAGenModel


@dataclass
class QAGenReader:
    """
    A QAGen that answers, of either family: behind a text and a question it goes on with the answer.

    The text is computed once for all its questions. QAGen always answers; an answer that does not occur in the text
    counts as none.

    Args:
        model (`QAGenModel`): A model whose template has the question before the answer.
        max_new_tokens (`int`, *optional*, defaults to 30): The most tokens of an answer.
        max_length (`int`, *optional*, defaults to 1024): The most tokens of a text with its markers.

    Raises:
        [`InputError`]: if the model writes the answer first.
    """

    model: QAGenModel
    max_new_tokens: int = 30
    max_length: int = 1024

    def __post_init__(self):
        self.model.check_asked()

    def read(self, texts, questions, *, batch_size):
        encoded = self.model.encode(texts, self.max_length)
        # `batch_size` counts questions.
        most = max(map(len, questions), default=1) or 1
        answers = self.model.answer(
            encoded, questions, max_new_tokens=self.max_new_tokens, batch_size=max(batch_size // most, 1)
        )
        in_text = [
            [answer if answer.casefold() in text.casefold() else "" for answer in part]
            for text, part in zip(texts, answers, strict=True)
        ]
        return in_text, [context.truncated for context in encoded]
