"""The one neural model: a text -> question–answer pairs, and their log-probabilities given any other text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import DynamicCache, DynamicLayer, EncoderDecoderCache, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from .decoding import diverse_beam_search
from .loading import load
from .packing import Continuation, additive_mask, mask_behind_prompts, pack_continuations, round_up
from .proof import evaluated, shareable_length
from .template import EncodedText, QATemplate


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

_C = TypeVar("_C", Continuation, list[int])

# The most tokens of pairs scored in one forward pass for a document: bounds the attention mask and the logits.
_CHUNK_TOKENS = 512
_ANSWER_TOKENS = 30
# Widths are multiples of this: on CPUs every new shape has its matrix products compiled anew and kept in memory.
_WIDTH = 16


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
        answer_start (`int`): Index of the first token behind the separator; the number of tokens if there is no pair.
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


class QAGenModel:
    """
    A language model of question–answer pairs given a text, encoder–decoder or decoder-only.

    Args:
        model (`PreTrainedModel`): A sequence-to-sequence or causal language model.
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
            raise ValueError(f"{type(tokenizer).__name__} has no eos_token, which ends a question–answer pair.")
        implementation = model.config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise ValueError(
                f"attn_implementation={implementation!r} cannot score several pairs behind one document under one "
                "mask. Load the model with attn_implementation='sdpa' or 'eager'."
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.template = template
        # A checkpoint's own decoding settings (n-gram bans, forced lengths) are not QAGen's; its special tokens are.
        special = {
            name: getattr(model.generation_config, name, None)
            for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
        }
        if special["eos_token_id"] is None:
            special["eos_token_id"] = tokenizer.eos_token_id
        if model.config.is_encoder_decoder and special["decoder_start_token_id"] is None:
            special["decoder_start_token_id"] = self._fallback_start(special["bos_token_id"])
        self.model.generation_config = GenerationConfig(**special, pad_token_id=self._pad_token_id)
        with evaluated(self.model):
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
                A folder or Hub id of a model, or of a PEFT adapter (its base is found through its configuration).
                Left out: the package's default model.
            adapter (`str` or `os.PathLike`, *optional*):
                A folder or Hub id of a PEFT adapter to put on the model. It is merged into the weights.
            template (`QATemplate`, *optional*):
                How pairs are written. Left out: `qagen_config.json` of the adapter or the model; for encoder–decoder
                models whose vocabulary holds `<sep>`, [`QUESTION_SEP_ANSWER`].
            dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
                Type of the weights: `"auto"` is bfloat16 where the hardware multiplies it fast, else float32.
            device (`str` or `torch.device`, *optional*):
                Left out: the accelerator of this process if there is one, else the CPU.
            **model_kwargs:
                Passed to `AutoModel….from_pretrained` (`revision`, `token`, `attn_implementation`, …).

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
    def _pad_token_id(self) -> int:
        # What stands in padding is masked everywhere, so any token will do for models that have none of their own.
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @property
    def _eos_token_ids(self) -> list[int]:
        eos = self.model.generation_config.eos_token_id
        return eos if isinstance(eos, list) else [eos]

    @property
    def _decoder_start_token_id(self) -> int:
        return self.model.generation_config.decoder_start_token_id

    def _fallback_start(self, bos_token_id: int | None) -> int:
        """What a decoder starts with where the generation configuration does not tell: as for `generate`, BOS."""
        start = getattr(self.model.config, "decoder_start_token_id", None)
        start = bos_token_id if start is None else start
        if start is None:
            raise ValueError(
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
            `ValueError`: if a text is empty.
        """
        for number, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"Text {number} is empty; questions can only be asked about a text.")
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 0
        if positions > 0:
            max_length = min(max_length, positions - self._behind_text(max_new_tokens))
        return self.template.encode_texts(
            self.tokenizer,
            texts,
            max_length=max_length,
            is_encoder_decoder=self.is_encoder_decoder,
        )

    def _behind_text(self, max_new_tokens: int) -> int:
        return 0 if self.is_encoder_decoder else max_new_tokens + _ANSWER_TOKENS

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

        Returns:
            `list[list[QAPair]]`: `num_beams` sequences a text, best first, those that are no pair included.
        """
        encoded = self._encoded(texts)
        results: list[list[QAPair]] = [[] for _ in encoded]
        for rows in _batches([len(text.input_ids) for text in encoded], batch_size):
            input_ids = [encoded[row].input_ids for row in rows]
            padded, attention_mask = self._pad(input_ids, left=not self.is_encoder_decoder)
            output = self.model.generate(
                input_ids=padded,
                attention_mask=attention_mask,
                custom_generate=diverse_beam_search,
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
        return results

    @torch.inference_mode()
    def log_probs(
        self,
        documents: Sequence[str] | Sequence[EncodedText],
        pairs: Sequence[Sequence[QAPair]],
        *,
        batch_size: int = 4,
    ) -> list[list[tuple[float, ...]]]:
        """
        Scores pairs given other texts by teacher forcing; the generated ids themselves are scored, never a
        re-tokenised string. A document is computed once for all its pairs.

        Args:
            documents (`Sequence[str]` or `Sequence[EncodedText]`): The texts to condition on.
            pairs (`Sequence[Sequence[QAPair]]`): For each document the pairs to score, possibly none.
            batch_size (`int`, *optional*, defaults to 4): Documents computed together.

        Returns:
            `list[list[tuple[float, ...]]]`: for each document and pair log p(token | document, tokens before), one a
            token, end-of-sequence included.

        Raises:
            `ValueError`: if there are not as many lists of pairs as documents.
        """
        if len(documents) != len(pairs):
            raise ValueError(f"Each document needs its list of pairs: got {len(documents)} and {len(pairs)}.")
        encoded = self._encoded(documents)
        results: list[list[tuple[float, ...]]] = [[() for _ in row] for row in pairs]
        scored = [row for row in range(len(encoded)) if pairs[row]]
        for batch in _batches([len(encoded[row].input_ids) for row in scored], batch_size):
            rows = [scored[number] for number in batch]
            contexts = [encoded[row].input_ids for row in rows]
            targets = [[list(pair.token_ids) for pair in pairs[row]] for row in rows]
            longest = max(len(context) + max(map(len, row)) for context, row in zip(contexts, targets, strict=True))
            score = self._log_probs_sharing if longest <= self._shared_length else self._log_probs_alone
            for row, values in zip(rows, score(contexts, targets), strict=True):
                results[row] = values
        return results

    @torch.inference_mode()
    def answer(
        self,
        texts: Sequence[str] | Sequence[EncodedText],
        questions: Sequence[Sequence[str]],
        *,
        max_new_tokens: int = _ANSWER_TOKENS,
        batch_size: int = 4,
    ) -> list[list[str]]:
        """
        Answers questions greedily: behind a text and a question the model goes on with the answer. A text is computed
        once for all its questions.

        Args:
            texts (`Sequence[str]` or `Sequence[EncodedText]`): What to answer from.
            questions (`Sequence[Sequence[str]]`): Of each text the questions, possibly none.
            max_new_tokens (`int`, *optional*, defaults to 30): The most tokens of an answer.
            batch_size (`int`, *optional*, defaults to 4): Texts computed together.

        Returns:
            `list[list[str]]`: of each text one answer a question. A QAGen always answers, from a text that does not
            tell, too.

        Raises:
            `ValueError`: if the model writes the answer first, or there are not as many lists of questions as texts.
        """
        if not self.template.pair.endswith("{answer}"):
            raise ValueError(
                f"A QAGen that writes {self.template.pair!r} cannot be asked: the question must stand before the "
                "answer, and nothing behind it."
            )
        if len(texts) != len(questions):
            raise ValueError(f"Each text needs its list of questions: got {len(texts)} and {len(questions)}.")
        encoded = self._encoded(texts)
        results: list[list[str]] = [[] for _ in encoded]
        asked = [row for row in range(len(encoded)) if questions[row]]
        for batch in _batches([len(encoded[row].input_ids) for row in asked], batch_size):
            rows = [asked[number] for number in batch]
            contexts = [encoded[row].input_ids for row in rows]
            prefixes = [[self._before_answer(question) for question in questions[row]] for row in rows]
            answers = iter(self._answer(contexts, prefixes, max_new_tokens))
            for row in rows:
                results[row] = [self._decode_answer(next(answers)) for _ in questions[row]]
        return results

    def _before_answer(self, question: str) -> list[int]:
        text = self.template.pair.removesuffix("{answer}").rstrip(" ").replace("{question}", question)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not self.is_encoder_decoder:
            return ids
        start = self._decoder_start_token_id
        return [start, *self.template.special_tokens(self.tokenizer)[0], *ids]

    def _decode_answer(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()

    def _answer(
        self, contexts: list[list[int]], prefixes: list[list[list[int]]], max_new_tokens: int
    ) -> list[list[int]]:
        if self.is_encoder_decoder:
            return self._answer_from_encoder(contexts, prefixes, max_new_tokens)
        # Columns and not tokens: padding stands between a text and its question.
        columns = round_up(max(map(len, contexts)), _WIDTH) + max_new_tokens
        columns += round_up(max(len(prefix) for part in prefixes for prefix in part), _WIDTH)
        if columns <= self._shared_length:
            return self._answer_behind_prompt(contexts, prefixes, max_new_tokens)
        return [
            self._continue(context + prefix, max_new_tokens)
            for context, part in zip(contexts, prefixes, strict=True)
            for prefix in part
        ]

    def _continue(self, ids: list[int], max_new_tokens: int) -> list[int]:
        """Decoder-only: the most probable continuation of one row by itself."""
        output = self.model.generate(
            input_ids=torch.tensor([ids], device=self.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self.device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
        )
        return self._until_end(output[0, len(ids) :].tolist())

    def _until_end(self, ids: list[int]) -> list[int]:
        end = next((number for number, token in enumerate(ids) if token in self._eos_token_ids), len(ids))
        return ids[:end]

    def _answer_behind_prompt(
        self, contexts: list[list[int]], prefixes: list[list[list[int]]], max_new_tokens: int
    ) -> list[list[int]]:
        context_mask, cache = self._cache_prompts(contexts)
        owners = torch.tensor([row for row, part in enumerate(prefixes) for _ in part], device=self.device)
        cache.batch_select_indices(owners)
        input_ids, mask = self._pad([prefix for part in prefixes for prefix in part], left=True)
        attention_mask = torch.cat([context_mask[owners], mask], dim=1)
        return self._greedy(input_ids, attention_mask, cache, max_new_tokens)

    def _greedy(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: DynamicCache, max_new_tokens: int
    ) -> list[list[int]]:
        """
        The most probable token again and again, until each row ends.

        Not by `generate`: most answers are short, and there all rows are computed until the longest one ends.
        """
        ends = torch.tensor(self._eos_token_ids, device=self.device)
        last = torch.tensor([-1], device=self.device)  # an index, see `_cache_prompts`
        answers: list[list[int]] = [[] for _ in input_ids]
        rows = torch.arange(len(input_ids), device=self.device)
        running = torch.ones_like(rows, dtype=torch.bool)
        for _ in range(max_new_tokens):
            positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            logits = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=last,
            ).logits
            tokens = logits[:, -1].argmax(-1)
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

    def _answer_from_encoder(
        self, contexts: list[list[int]], prefixes: list[list[list[int]]], max_new_tokens: int
    ) -> list[list[int]]:
        input_ids, attention_mask = self._pad(contexts, left=False)
        states = self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        asked = [(row, prefix) for row, part in enumerate(prefixes) for prefix in part]
        answers: list[list[int]] = [[] for _ in asked]
        # A decoder's input cannot be padded on the left: questions of one length go together.
        for length in sorted({len(prefix) for _, prefix in asked}):
            numbers = [number for number, (_, prefix) in enumerate(asked) if len(prefix) == length]
            owners = torch.tensor([asked[number][0] for number in numbers], device=self.device)
            output = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states[owners]),
                attention_mask=attention_mask[owners],
                decoder_input_ids=torch.tensor([asked[number][1] for number in numbers], device=self.device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens,
            )
            for number, ids in zip(numbers, output[:, length:].tolist(), strict=True):
                answers[number] = self._until_end(ids)
        return answers

    def _log_probs_sharing(
        self, contexts: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[tuple[float, ...]]]:
        if self.is_encoder_decoder:
            return self._log_probs_from_encoder(contexts, targets)
        return self._log_probs_behind_prompt(contexts, targets)

    def _log_probs_alone(
        self, contexts: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[tuple[float, ...]]]:
        """One pass a pair, without mask, positions or cache: what every architecture computes as it was trained."""
        results: list[list[tuple[float, ...]]] = []
        for context, row in zip(contexts, targets, strict=True):
            results.append([])
            for ids in row:
                read = {"input_ids": context + ids[:-1]}
                if self.is_encoder_decoder:
                    read = {"input_ids": context, "decoder_input_ids": [self._decoder_start_token_id, *ids[:-1]]}
                tensors = {name: torch.tensor([tokens], device=self.device) for name, tokens in read.items()}
                logits = self.model(**tensors, use_cache=False).logits[:, -len(ids) :]
                labels = torch.tensor([ids], device=self.device)
                results[-1].append(tuple(_token_log_probs(logits, labels)[0].tolist()))
        return results

    def _log_probs_behind_prompt(
        self, contexts: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[tuple[float, ...]]]:
        """
        Decoder-only: the keys and values of the prompts are computed once; pairs follow in packed rows of several
        segments, each of which sees its prompt and itself, at the positions it would have alone.
        """
        prefixes = [context[:-1] for context in contexts]
        rows = [
            [Continuation([context[-1], *ids], start=len(context) - 1) for ids in row]
            for context, row in zip(contexts, targets, strict=True)
        ]
        prefix_mask, cache = self._cache_prompts(prefixes)
        results: list[list[tuple[float, ...]]] = [[] for _ in contexts]
        for chunk in _chunks(rows, _CHUNK_TOKENS):
            packed = pack_continuations(chunk, self._pad_token_id, _WIDTH)
            # (batch, 1, columns, prompt columns + columns)
            mask = mask_behind_prompts(prefix_mask.cpu(), packed.visible, with_prompts=False)
            logits = self.model(
                input_ids=packed.input_ids.to(self.device),
                attention_mask=additive_mask(mask, self.model.dtype).to(self.device),
                position_ids=packed.position_ids.to(self.device),
                past_key_values=cache,
            ).logits
            cache.crop(-packed.input_ids.shape[1])
            log_probs = _token_log_probs(logits, packed.input_ids.roll(-1, dims=1).to(self.device)).tolist()
            for b, spans in enumerate(packed.spans):
                results[b] += [tuple(log_probs[b][span.start : span.stop - 1]) for span in spans]
        return results

    def _cache_prompts(self, prompts: list[list[int]]) -> tuple[torch.Tensor, DynamicCache]:
        """Mask of the left-padded prompts, of shape `(prompts, columns)`, and their keys and values."""
        input_ids, mask = self._pad(prompts, left=True)
        # Without a configuration every layer keeps all it has seen, which `crop` relies on.
        cache = DynamicCache()
        if input_ids.shape[1]:
            self.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                past_key_values=cache,
                # An index and not a number: a slice is not contiguous, and its product copies the vocabulary's matrix.
                logits_to_keep=torch.tensor([input_ids.shape[1] - 1], device=self.device),
            )
        return mask, cache

    def _log_probs_from_encoder(
        self, contexts: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[tuple[float, ...]]]:
        """
        Encoder–decoder: encoder states and cross-attention keys and values are computed once a document; its pairs
        share them by broadcasting.
        """
        input_ids, attention_mask = self._pad(contexts, left=False)
        states = self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        start = self._decoder_start_token_id
        cross = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.model(
            encoder_outputs=(states,),
            attention_mask=attention_mask,
            decoder_input_ids=torch.full((len(contexts), 1), start, device=self.device),
            past_key_values=cross,
        )
        cached: list[Any] = cross.cross_attention_cache.layers
        layers = [(layer.keys, layer.values) for layer in cached]
        results: list[list[tuple[float, ...]]] = []
        for b, (context, row) in enumerate(zip(contexts, targets, strict=True)):
            length = len(context)
            values: list[tuple[float, ...]] = []
            for (chunk,) in _chunks([row], _CHUNK_TOKENS):
                shared = DynamicCache()
                for keys_and_values in layers:
                    # Set and not updated, which would copy what is only to be seen by every pair.
                    layer = DynamicLayer()
                    layer.keys, layer.values = (
                        tensor[b : b + 1, :, :length].expand(len(chunk), -1, -1, -1) for tensor in keys_and_values
                    )
                    layer.is_initialized = True
                    shared.layers.append(layer)
                labels, _ = self._pad(chunk, left=False)
                decoder_input_ids = torch.cat([labels.new_full((len(chunk), 1), start), labels[:, :-1]], dim=1)
                cache = EncoderDecoderCache(DynamicCache(), shared)
                logits = self.model(
                    # Only their shape is read: keys and values come from the cache.
                    encoder_outputs=(states[b : b + 1, :length].expand(len(chunk), -1, -1),),
                    decoder_input_ids=decoder_input_ids,
                    past_key_values=cache,
                ).logits
                log_probs = _token_log_probs(logits, labels).tolist()
                values += [tuple(log_probs[n][: len(ids)]) for n, ids in enumerate(chunk)]
            results.append(values)
        return results

    def _encoded(self, texts: Sequence[str] | Sequence[EncodedText]) -> list[EncodedText]:
        strings = [text for text in texts if isinstance(text, str)]
        fresh = iter(self.encode(strings))
        return [next(fresh) if isinstance(text, str) else text for text in texts]

    def _pad(self, sequences: Sequence[Sequence[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, both of shape `(sequences, padded width)`."""
        width = round_up(max(len(sequence) for sequence in sequences), _WIDTH)
        padded = torch.full((len(sequences), width), self._pad_token_id)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            columns = slice(width - len(sequence), width) if left else slice(0, len(sequence))
            padded[row, columns] = torch.tensor(sequence, dtype=torch.long)
            mask[row, columns] = 1
        return padded.to(self.device), mask.to(self.device)

    def _read(self, ids: list[int], log_probs: list[float]) -> QAPair:
        """One generated row, up to its end-of-sequence, as a pair."""
        eos = set(self._eos_token_ids)
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


def _token_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log p of `ids` of shape `(batch, length)` under `logits` of shape `(batch, length, vocabulary)`, in float32."""
    chosen = logits.gather(-1, ids[..., None]).squeeze(-1).float()
    return chosen - torch.stack([row.float().logsumexp(-1) for row in logits])


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, so that memory runs out at once or not at all."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _chunks(rows: list[list[_C]], most_tokens: int) -> Iterator[list[list[_C]]]:
    """Cuts rows of continuations into pieces of at most `most_tokens` tokens a row (or one that is longer)."""
    positions = [0] * len(rows)
    while any(position < len(row) for position, row in zip(positions, rows, strict=True)):
        chunk = []
        for b, row in enumerate(rows):
            taken: list[_C] = []
            while positions[b] < len(row) and (
                not taken or sum(map(_length, taken)) + _length(row[positions[b]]) <= most_tokens
            ):
                taken.append(row[positions[b]])
                positions[b] += 1
            chunk.append(taken)
        yield chunk


def _length(continuation: Continuation | list[int]) -> int:
    return len(continuation.tokens) if isinstance(continuation, Continuation) else len(continuation)
