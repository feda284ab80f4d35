"""The reader of QAGS that is a QAGen: behind a text and a question it goes on with the answer."""

from __future__ import annotations

from dataclasses import dataclass

from ...qagen.model import QAGenModel


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
        if self.model.is_encoder_decoder or not self.model.template.pair.endswith("{answer}"):
            raise ValueError(
                "Only a decoder-only QAGen that writes the question before the answer can be asked a question. Pass "
                "another reader, for example an ExtractiveReader."
            )

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
