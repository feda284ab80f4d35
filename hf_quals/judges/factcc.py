"""FactCC (https://huggingface.co/papers/1910.12840): a classifier of a document and a sentence of its summary."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import nan_to_none
from ..scorers import Scorer, check_texts
from ..text import split_sentences
from .registry import register_judge, weights_of
from .windows import check_fast, encode_windows, forward_windows


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FACTCC = "manueldeprada/FactCC"
# What checkpoints call a claim that its document supports, case-folded.
CONSISTENT_LABELS = ("correct", "consistent", "entailment", "entailed", "supported")


@dataclass(frozen=True)
class FactccResult:
    """
    FactCC of one summary, and all it rests on.

    Args:
        score (`float`): Mean of `probabilities`, from 0 to 1.
        sentences (`tuple[str, ...]`): The sentences of the summary.
        probabilities (`tuple[float, ...]`): For each sentence the probability that the document supports it.
        num_windows (`int`): In how many windows the document was read, the most of any sentence.
    """

    score: float
    sentences: tuple[str, ...]
    probabilities: tuple[float, ...]
    num_windows: int

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        return nan_to_none(vars(self))


@dataclass
class FactccScorer(Scorer):
    """
    Scores summaries by a classifier of (document, claim) pairs: FactCC, or any model of natural language inference.

    Each sentence of a summary is a claim. A document that does not fit is read in overlapping windows, and a claim is
    as consistent as in its best window: what one window does not say, another may.

    Args:
        model (`PreTrainedModel`): A sequence classifier.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, a fast one.
        consistent_label (`str`, *optional*): Which label says that the document supports the claim. Left out: the one
            in the model's `id2label` that is called `correct`, `consistent`, `entailment`, `entailed` or `supported`,
            in any case.
        max_length (`int`, *optional*, defaults to 512): The most tokens of a window, the claim included.
        stride (`int`, *optional*, defaults to 128): How many tokens neighbouring windows share.

    Raises:
        `ValueError`: if the label is not one of the model's, or none or several of the model's are known; the message
            lists them. Or if the tokenizer is not a fast one; and in scoring, if a sentence leaves no room for a
            window of the document.

    Example:

    ```python
    >>> from hf_quals.judges.factcc import FactccScorer
    >>> scorer = FactccScorer.from_pretrained()  # manueldeprada/FactCC
    >>> scorer.score(["Lewis believes that Klitschko is hurt."], ["Klitschko is hurt. Lewis won."])[0].probabilities
    ```
    """

    name = "factcc"

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    consistent_label: str | None = None
    max_length: int = 512
    stride: int = 128

    def __post_init__(self):
        check_fast(self.tokenizer)
        labels: dict[Any, str] = dict(self.model.config.id2label or {})
        wanted = CONSISTENT_LABELS if self.consistent_label is None else (self.consistent_label.casefold(),)
        label_ids = [number for number, label in labels.items() if str(label).casefold() in wanted]
        if len(label_ids) != 1 or len(labels) < 2:
            looked_for = " or ".join(map(repr, wanted))
            raise InputError(
                f"The classifier's labels are {', '.join(map(repr, labels.values()))}; exactly one of several must be "
                f"{looked_for}. Pass consistent_label=… to name the one that says that a claim is supported."
            )
        self._label_id = label_ids[0]
        self.consistent_label = str(labels[self._label_id])

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike = FACTCC,
        *,
        device: str | torch.device | None = None,
        consistent_label: str | None = None,
        max_length: int = 512,
        stride: int = 128,
        **model_kwargs: Any,
    ) -> FactccScorer:
        """
        Loads a classifier.

        Args:
            name_or_path (`str` or `os.PathLike`, *optional*, defaults to `"manueldeprada/FactCC"`): A folder or Hub
                id.
            device (`str` or `torch.device`, *optional*): Left out: the accelerator of this process if there is one,
                else the CPU.
            consistent_label, max_length, stride: Fields of [`FactccScorer`].
            **model_kwargs: Passed to `from_pretrained` (`dtype`, `token`, …).

        Raises:
            [`InputError`]: if the device is not available, or the files lack weights of the model, such as the head of
                a bare encoder.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from ..qagen.hub import hub_options
        from .loading import load_whole

        model = load_whole(AutoModelForSequenceClassification, name_or_path, device=device, **model_kwargs)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **hub_options(model_kwargs))
        return cls(model, tokenizer, consistent_label, max_length, stride)

    def settings(self) -> dict[str, Any]:
        from ..qagen.identity import identity_in_memory

        return {
            "model": self.model.name_or_path,
            "weights": identity_in_memory(self.model),
            "consistent_label": self.consistent_label,
            "max_length": self.max_length,
            "stride": self.stride,
        }

    def score(self, documents, summaries, *, references=None, batch_size=8) -> list[FactccResult]:
        check_texts(documents, summaries, batch_size)
        sentences = [split_sentences(summary) for summary in summaries]
        claims = dict.fromkeys(
            (document, sentence) for document, part in zip(documents, sentences, strict=True) for sentence in part
        )
        probabilities = dict(zip(claims, self._probabilities(list(claims), batch_size), strict=True))
        results = []
        for document, part in zip(documents, sentences, strict=True):
            by_window = [probabilities[document, sentence] for sentence in part]
            values = tuple(map(max, by_window))
            results.append(
                FactccResult(math.fsum(values) / len(values), tuple(part), values, max(map(len, by_window)))
            )
        return results

    def _probabilities(self, claims: list[tuple[str, str]], batch_size: int) -> list[list[float]]:
        """Of each document and claim the probability of the consistent label in every window."""
        windows, owners = encode_windows(
            self.tokenizer,
            [document for document, _ in claims],
            [claim for _, claim in claims],
            cut="only_first",
            max_length=self.max_length,
            stride=self.stride,
        )
        probabilities: list[list[float]] = [[] for _ in claims]
        owner = iter(owners)
        for output in forward_windows(self.model, self.tokenizer, windows, batch_size):
            for probability in output.logits.float().softmax(dim=-1)[:, self._label_id].tolist():
                probabilities[next(owner)].append(probability)
        return probabilities


@register_judge(
    "factcc",
    columns={"FactCC": "score"},
    needs=f"a classifier, `{FACTCC}` of the Hub unless another is named",
    cost="a classifier of the Hub reads each document once for each sentence of a summary",
    needs_hub=True,
)
def prepare(*, factcc_model: str = FACTCC, device: str | None = None, dtype: str = "auto"):
    # Of a classifier "auto" is the type that its weights are saved in, whatever the device.
    settings = {"model": factcc_model, "weights": weights_of(factcc_model), "dtype": dtype}
    return settings, lambda: FactccScorer.from_pretrained(factcc_model, device=device, dtype=dtype)
