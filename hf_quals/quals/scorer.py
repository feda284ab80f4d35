"""The score: documents and summaries in, QUALS and the pairs it rests on out."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from tqdm.auto import tqdm

from ..errors import InputError
from ..files import nan_to_none
from ..qagen.identity import identity_in_memory
from ..qagen.model import PairReading, QAGenModel, QAPair
from ..qagen.normal_form import NormalText, normalize
from ..qagen.template import EncodedText, QATemplate
from ..scorers import Scorer, as_reward, by_document, check_texts
from .columns import plain_values
from .config import QualsConfig, find_config
from .explain import worst_first
from .forms import document_attention
from .pairs import PairSelection, keep_round_trips, same_answer, select_pairs
from .passages import select_passages


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ScoredPair:
    """
    A question–answer pair with the probabilities of its tokens given the summary and given the document.

    Args:
        question (`str`): The question.
        answer (`str`): The answer, which occurs in the summary.
        tokens (`tuple[str, ...]`): The generated tokens as text, end-of-sequence included.
        summary_log_probs (`tuple[float, ...]`): log p(token | summary, tokens before), one a token.
        document_log_probs (`tuple[float, ...]`): log p(token | document, tokens before), one a token.
        answer_start (`int`): Index of the answer's first token.
        answer_span (`tuple[int, int]`, *optional*): Where the answer first occurs in the summary, in characters.
        document_answer (`str`, *optional*): What the model answers from the document; `None` if it was not asked.
    """

    question: str
    answer: str
    tokens: tuple[str, ...]
    summary_log_probs: tuple[float, ...]
    document_log_probs: tuple[float, ...]
    answer_start: int
    answer_span: tuple[int, int] | None = None
    document_answer: str | None = None

    @property
    def summary_score(self) -> float:
        """Mean of log p(token | summary) over the pair's tokens."""
        return fmean(self.summary_log_probs)

    @property
    def document_score(self) -> float:
        """Mean of log p(token | document) over the pair's tokens."""
        return fmean(self.document_log_probs)

    @property
    def score(self) -> float:
        """`document_score - summary_score`: far below 0 betrays a pair that the document does not support."""
        return self.document_score - self.summary_score

    @property
    def summary_answer_log_prob(self) -> float:
        """log p(answer | question, summary)."""
        return math.fsum(self.summary_log_probs[self.answer_start :])

    @property
    def document_answer_log_prob(self) -> float:
        """log p(answer | question, document)."""
        return math.fsum(self.document_log_probs[self.answer_start :])

    @property
    def support(self) -> float:
        """
        The share of the answer's probability that is left when the document is asked, `min(1, p(answer | question,
        document) / p(answer | question, summary))`; 1 if the document's own answer says the same in other form.
        """
        return math.exp(self.log_support)

    @property
    def log_support(self) -> float:
        """The logarithm of `support`, which may be too small for a number."""
        if self.document_answer is not None and same_answer(self.answer, self.document_answer):
            return 0.0
        return min(self.document_answer_log_prob - self.summary_answer_log_prob, 0.0)

    @property
    def lost_probability(self) -> float:
        """The probability that the document takes away, `p(answer | question, summary) * (1 - support)`."""
        return math.exp(self.summary_answer_log_prob) * (1 - self.support)

    def __repr__(self) -> str:
        return f"ScoredPair({self.question!r}, {self.answer!r}, score={self.score:.3f}, support={self.support:.3f})"


@dataclass(frozen=True)
class QualsResult:
    """
    QUALS of one summary, and all it rests on.

    Args:
        score (`float`): The score; higher is better. NaN if no pair was kept.
        pairs (`tuple[ScoredPair, ...]`): The kept pairs.
        selection (`PairSelection`): The kept pairs as they were generated, and what became of the others.
        document_truncated (`bool`): Whether the document was cut to the model's context.
        summary_truncated (`bool`): Whether the summary was cut to the model's context.
        passages (`tuple[tuple[int, int], ...]`): Start and end of the passages of the document that were read.
        log_likelihood (`float`, *optional*): The mean of log p(token | document, tokens before) over the summary's
            tokens, in nats; `None` where the summary is not read as a whole.
        document_attention (`float`, *optional*): The share of the retrieval heads' attention that rests on the
            document while the model reads the summary, mean over the third of its tokens where it is lowest; `None`
            where it does not count ([`QualsConfig.attention_weight`]).
        config (`QualsConfig`, *optional*): How it was computed; its `variant` says which pair is worst.
    """

    score: float
    pairs: tuple[ScoredPair, ...]
    selection: PairSelection
    document_truncated: bool
    summary_truncated: bool
    passages: tuple[tuple[int, int], ...] = ()
    log_likelihood: float | None = None
    config: QualsConfig = field(default_factory=QualsConfig)
    document_attention: float | None = None

    @property
    def num_pairs(self) -> int:
        """How many pairs the score rests on; with 0 there is no score."""
        return len(self.pairs)

    @property
    def parts(self) -> dict[str, float]:
        """What the score is the sum of: see [`QualsConfig.parts`]."""
        return self.config.parts(self.pairs, self.log_likelihood, self.document_attention)

    @property
    def probability(self) -> float | None:
        """The probability that people would call the summary consistent; `None` without score or calibration."""
        if self.config.calibration is None or math.isnan(self.score):
            return None
        return self.config.calibration.probability(self.score)

    @property
    def verdict(self) -> str | None:
        """`"supported"`, `"doubtful"` or `"no pairs"`; `None` without calibration."""
        if not self.pairs:
            return "no pairs"
        if self.config.calibration is None or self.probability is None:
            return None
        return "supported" if self.probability >= self.config.calibration.threshold else "doubtful"

    @property
    def worst_pair(self) -> ScoredPair | None:
        """
        The pair to look at first, `None` if there are no pairs: where answers are judged, the one whose answer loses
        most probability, else the one with the lowest score.
        """
        return next(iter(worst_first(self)), None)

    @property
    def pair_to_blame(self) -> ScoredPair | None:
        """The worst pair, if it loses more than the calibration's threshold; without calibration the worst pair."""
        worst, calibration = self.worst_pair, self.config.calibration
        if worst is None or calibration is None:
            return worst
        return worst if worst.lost_probability > calibration.pair_threshold else None

    def plot(self, pair: ScoredPair | None = None) -> Figure:
        """
        The paper's picture (https://huggingface.co/papers/2105.04623): the tokens of a pair, and how probable each is
        given the summary (blue) and given the document (orange), the answer's in grey, the pair's score above.

        Args:
            pair (`ScoredPair`, *optional*): The pair to draw; all, the worst first, if left out.

        Returns:
            `matplotlib.figure.Figure`: to show, or to save with its `savefig("pairs.svg")`.

        Raises:
            `ValueError`: if there is no pair to draw.
            `ImportError`: if matplotlib is not installed.
        """
        from .plot import plot

        return plot(self, pair)

    def __repr__(self) -> str:
        verdict = f", {self.verdict}" if self.verdict else ""
        return f"QualsResult(score={self.score:.3f}{verdict}, pairs={self.num_pairs}, blame={self.pair_to_blame})"

    def _repr_html_(self) -> str:
        # The texts are not the result's; `page` shows it with them.
        from .page import iframe, page

        return iframe(page([None], [None], [self]))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON's types; a score that is NaN becomes `None`."""
        return plain_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], config: QualsConfig) -> QualsResult:
        """
        The result that `to_dict` made JSON of, without what JSON leaves out: the `passages`, and the pairs as they
        were generated.

        Args:
            values (`Mapping[str, Any]`): What `to_dict` returned; counts may be left out.
            config (`QualsConfig`): How the score was computed.

        Raises:
            `ValueError`: if the score or its probability is not what the configuration makes of the pairs.
            `KeyError`: if a value is missing.
        """
        pairs = tuple(
            ScoredPair(**{part.name: _frozen(pair[part.name]) for part in fields(ScoredPair)})
            for pair in values["pairs"]
        )
        counts = {count.name: values.get(count.name, 0) for count in fields(PairSelection) if count.name != "kept"}
        result = cls(
            score=config.score(pairs, values["log_likelihood"], values["document_attention"]),
            pairs=pairs,
            selection=PairSelection(kept=(), **counts),
            document_truncated=values["document_truncated"],
            summary_truncated=values["summary_truncated"],
            log_likelihood=values["log_likelihood"],
            document_attention=values["document_attention"],
            config=config,
        )
        for name in ("score", "probability"):
            given, computed = values[name], nan_to_none(getattr(result, name))
            if (given is None) != (computed is None) or (given is not None and not math.isclose(given, computed)):
                raise ValueError(f"The {name} is {given}, but the configuration makes {computed} of the pairs.")
        return result


@dataclass
class QualsScorer(Scorer):
    """
    Scores summaries against their documents (https://huggingface.co/papers/2105.04623).

    One QAGen model writes question–answer pairs from the summary; pairs that are probable given the summary but
    improbable given the document betray a wrong fact.

    Args:
        model (`QAGenModel`): The model that writes and scores pairs.
        config (`QualsConfig`, *optional*): Every number of the score; the published form if left out.

    Raises:
        `ValueError`: if attention counts and the model has not the configuration's `retrieval_heads`, or if answers
            are asked for or judged alone and the model writes the answer first.

    Example:

    ```python
    >>> from hf_quals import QualsScorer
    >>> scorer = QualsScorer.from_pretrained()
    >>> document, summary = "Lewis believes that Klitschko is hurt.", "Klitschko believes that Lewis is hurt."
    >>> result = scorer.score([document], [summary])[0]
    >>> result.score, result.verdict, result.worst_pair
    ```
    """

    model: QAGenModel
    config: QualsConfig = field(default_factory=QualsConfig)

    name: ClassVar[str] = "quals"  # type: ignore[misc]
    reads_references: ClassVar[bool] = False  # type: ignore[misc]

    def __post_init__(self):
        if self.config.round_trip or self.config.document_answers:
            self.model.check_asked()
        if self.config.judges_answers and not self.model.template.question_first:
            raise InputError(
                f"A QAGen that writes {self.model.template.pair!r} cannot be judged by its answers, variant="
                f"{self.config.variant!r}: the question must stand before the answer."
            )
        if self.config.attention_weight:
            self.model.check_heads(self.config.retrieval_heads)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike | None = None,
        *,
        config: QualsConfig | None = None,
        adapter: str | os.PathLike | None = None,
        template: QATemplate | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        num_beams: int | None = None,
        max_pairs: int | None = None,
        max_length: int | None = None,
        variant: str | None = None,
    ) -> QualsScorer:
        """
        Loads the QAGen model (see [`QAGenModel.from_pretrained`]) and makes a scorer of it.

        Args:
            name_or_path, adapter, template, dtype, device:
                Which model, and where; the package's default model if left out.
            config (`QualsConfig`, *optional*):
                Every number of the score. Left out: the `quals_config.json` of adapter or model; the published form
                for those that have none.
            num_beams, max_pairs, max_length, variant (*optional*):
                Take the place of the configuration's. Another variant leaves out its calibration, and what is read of
                the summary as a whole.

        Raises:
            `OSError`: if the model or one of its files cannot be found.
            `ValueError`: if a number is out of range; before a model is loaded.
        """
        options = {"num_beams": num_beams, "max_pairs": max_pairs, "max_length": max_length, "variant": variant}
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        QualsConfig(**given)  # refuses what is out of range before anything is looked for
        config = (find_config(name_or_path, adapter) if config is None else config).but(**given)
        model = QAGenModel.from_pretrained(
            name_or_path, adapter=adapter, template=template, dtype=dtype, device=device
        )
        return cls(model, config)

    def settings(self) -> dict[str, Any]:
        """The configuration, and the model's name, weights and type."""
        model = self.model.model
        return {
            **self.config.to_dict(),
            "model": model.config._name_or_path,
            "weights": identity_in_memory(model, self.model.template),
            "dtype": str(model.dtype),
        }

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str],
        *,
        references: Sequence[str] | None = None,
        batch_size: int = 8,
        show_progress_bar: bool | None = None,
    ) -> list[QualsResult]:
        """
        Scores each summary against the document at the same index.

        Equal documents and equal summaries (in normal form, where the configuration has it) are computed once, so that
        the candidates of one document cost its context once. Results depend neither on `batch_size` nor on the order
        of the rows (to 1e-4 in float32).

        Args:
            documents (`Sequence[str]` or `str`): The documents, or the document of all summaries.
            summaries (`Sequence[str]` or `str`): As many summaries, or a single one.
            references (`Sequence[str]`, *optional*): Not read.
            batch_size (`int`, *optional*, defaults to 8): Texts computed together; bounds memory.
            show_progress_bar (`bool`, *optional*): Whether a bar moves with every batch. Left out: on a terminal,
                where there are several batches.

        Returns:
            `list[QualsResult]`: one result a summary, in order; for a single summary, passed as a string, its result.

        Raises:
            `ValueError`: if the lists differ in length, or a text is not a string or empty; the message names the row.
        """
        check_texts(documents, summaries, batch_size)
        normal = {text: self._normal(text) for text in [*documents, *summaries]}
        distinct = list(dict.fromkeys(normal[summary].text for summary in summaries))
        passages = {
            (document, summary): self._passages(normal[document].text, normal[summary].text)
            for document, summary in dict.fromkeys(zip(documents, summaries, strict=True))
        }
        contexts = {
            (document, summary): " ".join(normal[document].text[start:end] for start, end in spans)
            for (document, summary), spans in passages.items()
        }
        num_texts = len(distinct) + len(set(contexts.values()))
        # `None` hides it where there is no terminal.
        is_hidden = None if show_progress_bar is None and num_texts > 2 * batch_size else not show_progress_bar
        with tqdm(total=num_texts, desc="QUALS", unit=" texts", leave=False, disable=is_hidden) as progress:
            asked = self._ask(distinct, batch_size, progress.update)
            # Of each context what it is to read of all summaries that are judged by it, each pair once.
            of_summaries = ({pair.token_ids: pair for pair in asked[normal[s].text].wanted} for _, s in contexts)
            read = self._read(by_document(contexts.values(), of_summaries), batch_size, progress.update)
        return [
            self._result(
                normal[summary],
                asked[normal[summary].text],
                read[contexts[document, summary]],
                tuple(normal[document].original_span(start, end) for start, end in passages[document, summary]),
            )
            for document, summary in zip(documents, summaries, strict=True)
        ]

    def as_reward(
        self, document_column: str = "document", *, batch_size: int = 8
    ) -> Callable[..., list[float | None]]:
        """The score as a reward function of TRL's trainers: see [`~hf_quals.as_reward`]."""
        return as_reward(self, document_column, batch_size=batch_size)

    @staticmethod
    def page(documents: Sequence[str], summaries: Sequence[str], results: Sequence[QualsResult | None]) -> str:
        """Results on an HTML page: see [`~hf_quals.quals.page.page`]."""
        from .page import page

        return page(documents, summaries, results)

    def _normal(self, text: str) -> NormalText:
        # A text of nothing but invisible characters has no normal form.
        normal = normalize(text) if self.config.normal_form else None
        return normal if normal is not None and normal.text else NormalText(text, text)

    def _passages(self, document: str, summary: str) -> tuple[tuple[int, int], ...]:
        if self.config.passage_words is None:
            return ((0, len(document)),)
        return tuple(select_passages(document, summary, self.config.passage_words))

    def _ask(self, summaries: list[str], batch_size: int, on_batch: Callable[[int], object]) -> dict[str, _Asked]:
        """Pairs of each distinct summary, as it is tokenized."""
        config = self.config
        encoded = self.model.encode(summaries, config.max_length, max_new_tokens=config.max_new_tokens)
        generated = self.model.generate(
            encoded,
            num_beams=config.num_beams,
            num_beam_groups=config.num_beam_groups or config.num_beams,
            diversity_penalty=config.diversity_penalty,
            min_new_tokens=config.min_new_tokens,
            max_new_tokens=config.max_new_tokens,
            batch_size=batch_size,
            on_batch=on_batch,
        )
        # A round trip drops some: more are taken to it.
        most = config.max_pairs * (2 if config.round_trip else 1)
        selections = [
            select_pairs(pairs, summary, most, facts_first=config.facts_first)
            for summary, pairs in zip(summaries, generated, strict=True)
        ]
        if config.round_trip:
            questions = [[pair.question for pair in selection.kept] for selection in selections]
            answers = self.model.answer(encoded, questions, batch_size=batch_size)
            selections = [
                keep_round_trips(selection, dict(zip(asked, answered, strict=True)), config.max_pairs)
                for selection, asked, answered in zip(selections, questions, answers, strict=True)
            ]
        return {
            summary: self._asked(summary, selection, context.truncated)
            for summary, selection, context in zip(summaries, selections, encoded, strict=True)
        }

    def _asked(self, summary: str, selection: PairSelection, truncated: bool) -> _Asked:
        config = self.config
        if not (config.reads_whole and selection.kept):
            return _Asked(selection, None, truncated)
        whole, is_cut = self.model.as_continuation(summary, config.max_length, max_new_tokens=config.max_new_tokens)
        return _Asked(selection, whole, truncated or is_cut)

    def _read(
        self,
        wanted: dict[str, dict[tuple[int, ...], QAPair]],
        batch_size: int,
        on_batch: Callable[[int], object],
    ) -> dict[str, _Read]:
        """What each context makes of what it is to read."""
        pairs = [list(part.values()) for part in wanted.values()]
        encoded: list[EncodedText] = self.model.encode(
            list(wanted), self.config.max_length, max_new_tokens=self.config.max_new_tokens
        )
        readings = self.model.read(
            encoded,
            pairs,
            answers=self.config.document_answers,
            retrieval_heads=self.config.retrieval_heads if self.config.attention_weight else (),
            batch_size=batch_size,
            on_batch=on_batch,
        )
        return {
            context: _Read(dict(zip(part, row, strict=True)), text.truncated)
            for (context, part), row, text in zip(wanted.items(), readings, encoded, strict=True)
        }

    def _result(
        self, summary: NormalText, asked: _Asked, read: _Read, passages: tuple[tuple[int, int], ...]
    ) -> QualsResult:
        pairs = tuple(
            ScoredPair(
                question=pair.question,
                answer=pair.answer,
                tokens=tuple(str(self.model.tokenizer.decode([token])) for token in pair.token_ids),
                summary_log_probs=pair.log_probs,
                document_log_probs=read.pairs[pair.token_ids].log_probs,
                answer_start=pair.answer_start,
                answer_span=_find(pair.answer, summary),
                document_answer=read.pairs[pair.token_ids].answer,
            )
            for pair in asked.selection.kept
        )
        log_likelihood, attention = None, None
        if (whole := asked.whole) is not None:
            reading = read.pairs[whole.token_ids]
            log_likelihood = fmean(reading.log_probs[whole.answer_start :])
            if reading.attention:
                attention = document_attention(reading.attention[whole.answer_start :])
        return QualsResult(
            score=self.config.score(pairs, log_likelihood, attention),
            pairs=pairs,
            selection=asked.selection,
            document_truncated=read.truncated,
            summary_truncated=asked.truncated,
            passages=passages,
            log_likelihood=log_likelihood,
            document_attention=attention,
            config=self.config,
        )


@dataclass(frozen=True)
class _Asked:
    """The pairs of a summary, the summary as a whole where that is read, too, and whether it was cut."""

    selection: PairSelection
    whole: QAPair | None
    truncated: bool

    @property
    def wanted(self) -> list[QAPair]:
        """What its document is to read."""
        return [*([] if self.whole is None else [self.whole]), *self.selection.kept]


@dataclass(frozen=True)
class _Read:
    """What a context makes of each pair and whole summary, by its tokens, and whether it was cut."""

    pairs: dict[tuple[int, ...], PairReading]
    truncated: bool


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _find(answer: str, text: NormalText) -> tuple[int, int] | None:
    """Where an answer first stands in the user's own text, as a word where it can."""
    match = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text.text, re.IGNORECASE) or re.search(
        re.escape(answer), text.text, re.IGNORECASE
    )
    return None if match is None else text.original_span(*match.span())
