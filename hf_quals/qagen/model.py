"""The one neural model: a text -> question–answer pairs, and their log-probabilities given any other text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from ..errors import InputError
from .attention import Head, Lookback, one_at_a_time
from .decoding import diverse_beam_search
from .loading import load
from .proof import evaluated, shareable_length
from .reading import Asked, Read, pad, read_alone, read_behind_prompts, read_from_encoder
from .template import EncodedText, QATemplate, num_positions


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

_ANSWER_TOKENS = 30


@dataclass(frozen=True)
class QAPair:
    """
    A generated question–answer pair.

    Args:
        question (`str`): The question; empty if what was generated is no pair.
        answer (`str`): The answer; empty if what was generated is no pair.
        token_ids (`tuple[int, ...]`): The generated tokens, end-of-sequence included where it was reached.
        log_probs (`tuple[float, ...]`): log p(token | text the pair was generated from, tokens before), one a token,
            without any penalty of the decoding.
        answer_start (`int`): Index of the first token behind the separator; the number of tokens if no pair was
            generated.
        text (`str`): What was generated, as text.
    """

    question: str
    answer: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    answer_start: int
    text: str

    @property
    def is_pair(self) -> bool:
        """Whether exactly a question, a separator and an answer were generated, and ended in time."""
        return bool(self.answer)


class PairReading(NamedTuple):
    """
    What a text makes of a pair that was written about another one.

    Args:
        log_probs (`tuple[float, ...]`): log p(token | text, tokens before), one a token, end-of-sequence included.
        answer (`str`, *optional*): What the model answers to the pair's question from the text, greedily; `None` if it
            was not asked.
        attention (`tuple[float, ...]`): The share of the heads' attention that rests on the text, one a token; empty
            if it was not asked for.
    """

    log_probs: tuple[float, ...]
    answer: str | None
    attention: tuple[float, ...] = ()


class QAGenModel:
    """
    A language model of question–answer pairs given a text, encoder–decoder or decoder-only.

    Args:
        model (`PreTrainedModel`): A sequence-to-sequence or causal language model.
            It is put into evaluation mode, and of its generation configuration the special tokens are kept.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        template (`QATemplate`): How the model reads texts and writes pairs.

    Raises:
        `ValueError`: if the tokenizer has no end-of-sequence token, the attention implementation cannot take the masks
            that scoring needs, an encoder–decoder has no token to start with, or the model generates with other
            probabilities than it gives the same text by itself, which a few random tokens show (models that see what
            follows, or do not take padded batches).

    Example:

    ```python
    >>> from hf_quals import QAGenModel
    >>> qagen = QAGenModel.from_pretrained()  # the default model
    >>> pairs = qagen.generate(["Klitschko has a chink in his armour, says Lewis."])[0]
    >>> qagen.log_probs(["Lewis believes that Klitschko is hurt by losing to Fury."], [pairs])[0][0]
    ```
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: QATemplate):
        if tokenizer.eos_token_id is None:
            raise InputError(f"{type(tokenizer).__name__} has no eos_token, which ends a question–answer pair.")
        implementation = model.config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise InputError(
                f"attn_implementation={implementation!r} cannot score several pairs behind one document under one "
                "mask. Load the model with attn_implementation='sdpa' or 'eager'."
            )
        was_training, generation_config = model.training, model.generation_config
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.template = template
        try:
            self._prepare()
        except BaseException:
            # A model that is refused stays as it was.
            model.train(was_training)
            model.generation_config = generation_config
            raise

    def _prepare(self) -> None:
        model = self.model
        # A checkpoint's own decoding settings (n-gram bans, forced lengths) are not QAGen's; its special tokens are.
        special = {
            name: getattr(model.generation_config, name, None)
            for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
        }
        if special["eos_token_id"] is None:
            special["eos_token_id"] = self.tokenizer.eos_token_id
        if model.config.is_encoder_decoder and special["decoder_start_token_id"] is None:
            special["decoder_start_token_id"] = self._fallback_start(special["bos_token_id"])
        model.generation_config = GenerationConfig(**special, pad_token_id=self.pad_token_id)
        self._shared_length: float = 0
        with evaluated(model):
            # The most tokens of a text and a pair up to which a text is computed once for all its pairs.
            self._shared_length = shareable_length(self)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike | None = None,
        *,
        adapter: str | os.PathLike | None = None,
        template: QATemplate | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        **model_kwargs: Any,
    ) -> QAGenModel:
        """
        Loads a QAGen model.

        Args:
            name_or_path (`str` or `os.PathLike`, *optional*):
                A folder or Hub id of a model, or of a PEFT adapter (its base, in which revision, is found through its
                configuration).
                Left out: the package's default model.
            adapter (`str` or `os.PathLike`, *optional*):
                A folder or Hub id of a PEFT adapter to put on the model. It is merged into the weights; a tokenizer
                that is saved with it takes the place of the model's.
            template (`QATemplate`, *optional*):
                How pairs are written. Left out: `qagen_config.json` of the adapter or the model; for encoder–decoder
                models whose vocabulary holds `<sep>`, [`QUESTION_SEP_ANSWER`].
            dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
                Type of the weights: `"auto"` is bfloat16 where the hardware multiplies it fast, else float32.
            device (`str` or `torch.device`, *optional*):
                Left out: the accelerator of this process if there is one, else the CPU.
            **model_kwargs:
                Passed to `AutoModel….from_pretrained` (`revision`, `token`, `attn_implementation`, …). A `revision` is
                that of `name_or_path`; `token` and `cache_dir` serve model and adapter.

        Returns:
            `QAGenModel`: the model in evaluation mode.

        Raises:
            `OSError`: if the model or one of its files cannot be found.
            `InputError`: if a file is damaged, lacks weights of the model, has others, or values that are not finite.
            `ValueError`: if how the model writes pairs is not known, or `device` is not available.
        """
        model, tokenizer, template = load(
            name_or_path, adapter=adapter, template=template, dtype=dtype, device=device, **model_kwargs
        )
        return cls(model, tokenizer, template)

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Writes weights (safetensors, adapters merged), tokenizer and template for `from_pretrained`."""
        self.model.save_pretrained(save_directory)
        self.tokenizer.save_pretrained(save_directory)
        self.template.save_pretrained(save_directory)

    @property
    def is_encoder_decoder(self) -> bool:
        return self.model.config.is_encoder_decoder

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def pad_token_id(self) -> int:
        # What stands in padding is masked everywhere, so any token will do for models that have none of their own.
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @property
    def eos_token_ids(self) -> list[int]:
        eos = self.model.generation_config.eos_token_id
        return eos if isinstance(eos, list) else [eos]

    @property
    def decoder_start_token_id(self) -> int:
        return self.model.generation_config.decoder_start_token_id

    def _fallback_start(self, bos_token_id: int | None) -> int:
        """What a decoder starts with where the generation configuration does not tell: as for `generate`, BOS."""
        start = getattr(self.model.config, "decoder_start_token_id", None)
        start = bos_token_id if start is None else start
        if start is None:
            raise InputError(
                f"{type(self.model).__name__} has neither decoder_start_token_id nor bos_token_id, one of which "
                "starts what the decoder writes. Set model.generation_config.decoder_start_token_id, or add it to the "
                "model's generation_config.json."
            )
        return start

    def encode(self, texts: Sequence[str], max_length: int = 1024, *, max_new_tokens: int = 60) -> list[EncodedText]:
        """
        Tokenizes texts for [`~QAGenModel.generate`] and [`~QAGenModel.log_probs`].

        Args:
            texts (`Sequence[str]`): Documents or summaries.
            max_length (`int`, *optional*, defaults to 1024): The most tokens of a model input, markers included; less
                where the model's positions end earlier. Longer texts lose their end, which `truncated` tells.
            max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a pair, for which, and for the
                answer to its question, positions of a decoder-only model are left.

        Returns:
            `list[EncodedText]`: one entry a text.

        Raises:
            `ValueError`: if a text is empty, or the model's positions leave no room for any.
        """
        for number, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"Text {number} is empty; questions can only be asked about a text.")
        if self.num_positions:
            behind_text = 0 if self.is_encoder_decoder else max_new_tokens + _ANSWER_TOKENS
            if behind_text >= self.num_positions:
                raise InputError(
                    f"Of the model's {self.num_positions} positions none is left for a text: {max_new_tokens} are a "
                    f"pair's (max_new_tokens) and {_ANSWER_TOKENS} an answer's. Write shorter pairs, or take a model "
                    "of more positions."
                )
            max_length = min(max_length, self.num_positions - behind_text)
        return self.template.encode_texts(
            self.tokenizer,
            texts,
            max_length=max_length,
            is_encoder_decoder=self.is_encoder_decoder,
        )

    def as_continuation(self, text: str, max_length: int = 1024, *, max_new_tokens: int = 60) -> tuple[QAPair, bool]:
        """
        A text in the place of a pair: what the model could have written itself. [`~QAGenModel.log_probs`] and
        [`~QAGenModel.read`] give the log-probabilities of its tokens behind others.

        Args:
            text (`str`): A summary.
            max_length, max_new_tokens (`int`, *optional*): What `encode` was given for the texts that it is read
                behind. It is cut to `max_length`, and to the positions that are left behind the longest of these.

        Returns:
            `tuple[QAPair, bool]`: a pair without question and answer, of whose tokens those from `answer_start` on are
            the text's, and whether it was cut.
        """
        ids, first = self.template.encode_continuation(
            self.tokenizer, text, is_encoder_decoder=self.is_encoder_decoder
        )
        if self.num_positions:
            # A decoder has positions of its own, of which its start takes one.
            longest = 1 if self.is_encoder_decoder else self.num_positions - max_new_tokens - _ANSWER_TOKENS
            max_length = min(max_length, self.num_positions - min(max_length, longest))
        return QAPair("", "", tuple(ids[:max_length]), (), first, text), len(ids) > max_length

    @property
    def num_positions(self) -> int:
        """How many the model has; 0 where nothing bounds them."""
        return num_positions(self.model.config)

    @torch.inference_mode()
    def generate(
        self,
        texts: Sequence[str] | Sequence[EncodedText],
        *,
        num_beams: int = 60,
        num_beam_groups: int = 60,
        diversity_penalty: float = 0.5,
        min_new_tokens: int = 8,
        max_new_tokens: int = 60,
        batch_size: int = 4,
        on_batch: Callable[[int], object] | None = None,
    ) -> list[list[QAPair]]:
        """
        Writes question–answer pairs about each text by diverse beam search (https://huggingface.co/papers/1610.02424).

        Args:
            texts (`Sequence[str]` or `Sequence[EncodedText]`): What to ask about.
            num_beams (`int`, *optional*, defaults to 60): Sequences generated for a text.
            num_beam_groups (`int`, *optional*, defaults to 60): Groups of beams that avoid each other's tokens.
            diversity_penalty (`float`, *optional*, defaults to 0.5): Strength of the Hamming diversity.
            min_new_tokens (`int`, *optional*, defaults to 8): The least tokens of a sequence.
            max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a sequence.
            batch_size (`int`, *optional*, defaults to 4): Texts whose beams are advanced together.
            on_batch (`Callable[[int], object]`, *optional*): Called with the number of texts when a batch is done.

        Returns:
            `list[list[QAPair]]`: `num_beams` sequences a text, best first, those that are no pair included.
        """
        encoded = self._encoded(texts, max_new_tokens=max_new_tokens)
        results: list[list[QAPair]] = [[] for _ in encoded]
        for rows in _batches([len(text.input_ids) for text in encoded], batch_size):
            input_ids = [encoded[row].input_ids for row in rows]
            padded, attention_mask = pad(self, input_ids, left=not self.is_encoder_decoder)
            longest = max(map(len, input_ids)) + max_new_tokens
            branching = not self.is_encoder_decoder and num_beam_groups == num_beams and longest <= self._shared_length
            with one_at_a_time:
                output = self.model.generate(
                    input_ids=padded,
                    attention_mask=attention_mask,
                    custom_generate=partial(diverse_beam_search, branching=branching),
                    num_beams=num_beams,
                    num_beam_groups=num_beam_groups,
                    num_return_sequences=num_beams,
                    diversity_penalty=diversity_penalty,
                    min_new_tokens=min_new_tokens,
                    max_new_tokens=max_new_tokens,
                    return_dict_in_generate=True,
                )
            log_probs = output.token_log_probs.float().cpu()
            generated = output.sequences[:, -log_probs.shape[1] :].cpu()
            for number, (ids, scores) in enumerate(zip(generated.tolist(), log_probs.tolist(), strict=True)):
                results[rows[number // num_beams]].append(self._read(ids, scores))
            if on_batch is not None:
                on_batch(len(rows))
        return results

    def log_probs(
        self,
        documents: Sequence[str] | Sequence[EncodedText],
        pairs: Sequence[Sequence[QAPair]],
        *,
        batch_size: int = 4,
        on_batch: Callable[[int], object] | None = None,
    ) -> list[list[tuple[float, ...]]]:
        """
        Scores pairs given other texts by teacher forcing; the generated ids themselves are scored, never a
        re-tokenised string. A document is computed once for all its pairs.

        Args:
            documents (`Sequence[str]` or `Sequence[EncodedText]`): The texts to condition on.
            pairs (`Sequence[Sequence[QAPair]]`): For each document the pairs to score, possibly none.
            batch_size (`int`, *optional*, defaults to 4): Documents computed together.
            on_batch (`Callable[[int], object]`, *optional*): Called with the number of texts when a batch is done.

        Returns:
            `list[list[tuple[float, ...]]]`: for each document and pair log p(token | document, tokens before), one a
            token, end-of-sequence included.

        Raises:
            `ValueError`: if there are not as many lists of pairs as documents.
        """
        readings = self.read(documents, pairs, answers=False, batch_size=batch_size, on_batch=on_batch)
        return [[reading.log_probs for reading in row] for row in readings]

    @torch.inference_mode()
    def read(
        self,
        documents: Sequence[str] | Sequence[EncodedText],
        pairs: Sequence[Sequence[QAPair]],
        *,
        answers: bool = True,
        retrieval_heads: Sequence[Head] = (),
        max_new_tokens: int = _ANSWER_TOKENS,
        batch_size: int = 4,
        on_batch: Callable[[int], object] | None = None,
    ) -> list[list[PairReading]]:
        """
        What other texts make of pairs: the log-probabilities that [`~QAGenModel.log_probs`] gives and the answers that
        [`~QAGenModel.answer`] gives to the pairs' questions, in little more time than the former alone: as far as a
        text answers like the pair, the pass that scores the pair has read its answer.

        Args:
            documents, pairs, batch_size, on_batch: See [`~QAGenModel.log_probs`].
            answers (`bool`, *optional*, defaults to `True`): Whether the pairs' questions are asked.
            retrieval_heads (`Sequence[tuple[int, int]]`, *optional*): Layers and heads of a decoder-only model, whose
                attention to the text is wanted while they read what is no pair ([`~QAGenModel.as_continuation`]).
            max_new_tokens (`int`, *optional*, defaults to 30): The most tokens of an answer.

        Returns:
            `list[list[PairReading]]`: one reading a document and pair; nothing is answered to what is no pair.

        Raises:
            `ValueError`: if the model is to answer and writes the answer first, if it has no such heads, or if there
                are not as many lists of pairs as documents.
        """
        if answers:
            self.check_asked()
        if retrieval_heads:
            self.check_heads(retrieval_heads)

        def asked_for(pair: QAPair, text: EncodedText) -> Asked:
            if pair.is_pair:
                return Asked(list(pair.token_ids), *((pair.answer_start, max_new_tokens) if answers else ()))
            if not retrieval_heads:
                return Asked(list(pair.token_ids))
            if text.text_span[0] >= text.text_span[1]:
                raise ValueError(f"The attention to a text needs its text_span, got {text.text_span}.")
            lookback = Lookback(tuple(retrieval_heads), *text.text_span)
            return Asked(list(pair.token_ids), lookback=lookback)

        encoded = self._encoded(documents)
        _check_lengths(encoded, pairs, "pairs")
        wanted = [[asked_for(pair, text) for pair in row] for row, text in zip(pairs, encoded, strict=True)]
        return [
            [
                PairReading(
                    read.log_probs,
                    None if one.answer_start is None else self._decode_answer(read.answer),
                    read.attention,
                )
                for one, read in zip(asked, row, strict=True)
            ]
            for asked, row in zip(wanted, self._read_all(encoded, wanted, "pairs", batch_size, on_batch), strict=True)
        ]

    @torch.inference_mode()
    def answer(
        self,
        texts: Sequence[str] | Sequence[EncodedText],
        questions: Sequence[Sequence[str]],
        *,
        max_new_tokens: int = _ANSWER_TOKENS,
        batch_size: int = 4,
        on_batch: Callable[[int], object] | None = None,
    ) -> list[list[str]]:
        """
        Answers questions greedily: behind a text and a question the model goes on with the answer. A text is computed
        once for all its questions.

        Args:
            texts (`Sequence[str]` or `Sequence[EncodedText]`): What to answer from.
            questions (`Sequence[Sequence[str]]`): Of each text the questions, possibly none.
            max_new_tokens (`int`, *optional*, defaults to 30): The most tokens of an answer.
            batch_size (`int`, *optional*, defaults to 4): Texts computed together.
            on_batch (`Callable[[int], object]`, *optional*): Called with the number of texts when a batch is done.

        Returns:
            `list[list[str]]`: of each text one answer a question. A QAGen always answers, from a text that does not
            tell, too.

        Raises:
            `ValueError`: if the model writes the answer first, or there are not as many lists of questions as texts.
        """
        self.check_asked()
        wanted = []
        for row in questions:
            before = [self._before_answer(question) for question in row]
            wanted.append([Asked(ids, len(ids), max_new_tokens) for ids in before])
        return [
            [self._decode_answer(read.answer) for read in row]
            for row in self._read_all(texts, wanted, "questions", batch_size, on_batch)
        ]

    def check_heads(self, heads: Sequence[Head]) -> None:
        """
        Refuses heads that the model has not.

        Raises:
            `ValueError`: for an encoder–decoder, or if a layer or head is none of the model's.
        """
        if self.is_encoder_decoder:
            raise InputError(
                "retrieval_heads are of decoder-only models: an encoder–decoder's decoder sees the text by "
                "cross-attention alone, all of which rests on it."
            )
        config = self.model.config.get_text_config()
        layers, num_heads = config.num_hidden_layers, config.num_attention_heads
        for layer, head in heads:
            if not (0 <= layer < layers and 0 <= head < num_heads):
                raise InputError(
                    f"The model has {layers} layers of {num_heads} heads; there is no head {head} in layer {layer}. "
                    "recipes/find_retrieval_heads.py finds the heads of a model."
                )

    def check_asked(self) -> None:
        """
        Refuses to ask a model that cannot be asked.

        Raises:
            `ValueError`: if its template does not end with the answer.
        """
        if not self.template.pair.endswith("{answer}"):
            raise InputError(
                f"A QAGen that writes {self.template.pair!r} cannot be asked: the question must stand before the "
                "answer, and nothing behind it."
            )

    def _before_answer(self, question: str) -> list[int]:
        text = self.template.pair.removesuffix("{answer}").rstrip(" ").replace("{question}", question)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*self.template.special_tokens(self.tokenizer)[0], *ids] if self.is_encoder_decoder else ids

    def _decode_answer(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()

    def _read_all(
        self,
        texts: Sequence[str] | Sequence[EncodedText],
        asked: list[list[Asked]],
        what: str,
        batch_size: int,
        on_batch: Callable[[int], object] | None,
    ) -> list[list[Read]]:
        _check_lengths(texts, asked, what)
        encoded = self._encoded(texts)
        results: list[list[Read]] = [[] for _ in encoded]
        wanted = [row for row in range(len(encoded)) if asked[row]]
        for batch in _batches([len(encoded[row].input_ids) for row in wanted], batch_size):
            rows = [wanted[number] for number in batch]
            contexts, of_rows = [encoded[row].input_ids for row in rows], [asked[row] for row in rows]
            longest = max(
                len(context) + len(one.ids) + one.max_new_tokens
                for context, part in zip(contexts, of_rows, strict=True)
                for one in part
            )
            shared = read_from_encoder if self.is_encoder_decoder else read_behind_prompts
            read = shared if longest <= self._shared_length else read_alone
            with one_at_a_time:
                of_batch = read(self, contexts, of_rows)
            for row, values in zip(rows, of_batch, strict=True):
                results[row] = values
            if on_batch is not None:
                on_batch(len(rows))
        return results

    def _encoded(self, texts: Sequence[str] | Sequence[EncodedText], **room: int) -> list[EncodedText]:
        strings = [text for text in texts if isinstance(text, str)]
        fresh = iter(self.encode(strings, **room))
        return [next(fresh) if isinstance(text, str) else text for text in texts]

    def _read(self, ids: list[int], log_probs: list[float]) -> QAPair:
        """One generated row, up to its end-of-sequence, as a pair."""
        eos = set(self.eos_token_ids)
        end = next((i + 1 for i, token in enumerate(ids) if token in eos), len(ids))
        ids, log_probs = ids[:end], log_probs[:end]
        finished = ids[-1] in eos
        special = {self.model.generation_config.bos_token_id, *eos}
        shown = [token for token in ids if token not in special]
        text = self._decode(shown)
        # A sequence that ran into max_new_tokens may have lost part of its answer.
        parsed = self.template.parse(text) if finished else None
        question, answer = parsed or ("", "")
        start = self._answer_start(ids) if parsed else len(ids)
        return QAPair(question, answer, tuple(ids), tuple(log_probs), start, text)

    def _decode(self, ids: list[int]) -> str:
        # Special tokens stay: `<sep>` is one in some vocabularies.
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def _answer_start(self, ids: list[int]) -> int:
        separator = self.template.separator
        for end in range(1, len(ids) + 1):
            if separator in self._decode(ids[:end]):
                return end
        return len(ids)


def _check_lengths(texts: Sequence[Any], asked: Sequence[Any], what: str) -> None:
    if len(texts) != len(asked):
        raise ValueError(f"Each text needs its list of {what}: got {len(texts)} and {len(asked)}.")


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, so that memory runs out at once or not at all."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
