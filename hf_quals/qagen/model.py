"""The one neural model: a text -> question–answer pairs, and their log-probabilities given any other text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DynamicCache,
    DynamicLayer,
    EncoderDecoderCache,
    GenerationConfig,
)
from transformers.utils import cached_file, logging

from .decoding import diverse_beam_search
from .default import ADAPTER_FOLDER, default_base_model
from .template import QUESTION_SEP_ANSWER, TEMPLATE_FILE, EncodedText, QATemplate


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

# The most tokens of pairs scored in one forward pass for a document: bounds the attention mask and the logits.
_CHUNK_TOKENS = 512


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
        `ValueError`: if the tokenizer has no end-of-sequence token, or the attention implementation cannot take the
            masks that scoring needs.

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
        self.model.generation_config = GenerationConfig(**special, pad_token_id=self._pad_token_id)

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
            `ValueError`: if how the model writes pairs is not known, or `device` is not available.
        """
        device = _device(device)
        torch_dtype = _dtype(dtype, device)
        if name_or_path is None:
            name_or_path = default_base_model()
            adapter = adapter or ADAPTER_FOLDER
        elif adapter is None and _find(name_or_path, "adapter_config.json", model_kwargs):
            from peft import PeftConfig

            adapter = name_or_path
            name_or_path = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
        name_or_path = str(name_or_path)

        hub_options = _hub_options(model_kwargs)
        config = AutoConfig.from_pretrained(name_or_path, **hub_options)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **hub_options)
        if template is None:
            places = [place for place in (adapter, name_or_path) if place is not None]
            template = _find_template(places, config.is_encoder_decoder, tokenizer, model_kwargs)
        auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        # Adapters are merged in float32: rounding base and update apart loses part of the update.
        load_dtype = torch.float32 if adapter is not None else torch_dtype
        model = auto_class.from_pretrained(name_or_path, dtype=load_dtype, **model_kwargs)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        model.to(device=device, dtype=torch_dtype)  # type: ignore[call-arg]
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

    def encode(self, texts: Sequence[str], max_length: int = 1024) -> list[EncodedText]:
        """
        Tokenizes texts for [`~QAGenModel.generate`] and [`~QAGenModel.log_probs`].

        Args:
            texts (`Sequence[str]`): Documents or summaries.
            max_length (`int`, *optional*, defaults to 1024): The most tokens of a model input, markers included; less
                where the model's positions end earlier. Longer texts lose their end, which `truncated` tells.

        Returns:
            `list[EncodedText]`: one entry a text.

        Raises:
            `ValueError`: if a text is empty.
        """
        for number, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"Text {number} is empty; questions can only be asked about a text.")
        positions = getattr(self.model.config, "max_position_embeddings", None) or max_length
        return self.template.encode_texts(
            self.tokenizer,
            texts,
            max_length=min(max_length, positions),
            is_encoder_decoder=self.is_encoder_decoder,
        )

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
        score = self._log_probs_from_encoder if self.is_encoder_decoder else self._log_probs_behind_prompt
        for batch in _batches([len(encoded[row].input_ids) for row in scored], batch_size):
            rows = [scored[number] for number in batch]
            contexts = [encoded[row].input_ids for row in rows]
            targets = [[list(pair.token_ids) for pair in pairs[row]] for row in rows]
            for row, values in zip(rows, score(contexts, targets), strict=True):
                results[row] = values
        return results

    def _log_probs_behind_prompt(
        self, contexts: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[tuple[float, ...]]]:
        """
        Decoder-only: the keys and values of the prompts are computed once; pairs follow in packed rows of several
        segments, each of which sees its prompt and itself, at the positions it would have alone.
        """
        # A segment starts with the prompt's last token, whose output predicts the pair's first.
        prefixes = [context[:-1] for context in contexts]
        segments = [[[context[-1], *ids] for ids in row] for context, row in zip(contexts, targets, strict=True)]
        prefix_ids, prefix_mask = self._pad(prefixes, left=True)
        num_prefix = prefix_ids.shape[1]
        longest = num_prefix + max(len(segment) for row in segments for segment in row)
        window = getattr(self.model.config, "sliding_window", None)
        if window is not None and longest > window:
            raise ValueError(
                f"{type(self.model).__name__} attends to a sliding window of {window} tokens, a document and a pair "
                f"take {longest} here. Score with a max_length below {window - longest + num_prefix}."
            )
        # Without a configuration every layer keeps all it has seen, which `crop` relies on.
        cache = DynamicCache()
        if num_prefix:
            self.model(
                input_ids=prefix_ids,
                attention_mask=prefix_mask,
                position_ids=(prefix_mask.cumsum(-1) - 1).clamp(min=0),
                past_key_values=cache,
                logits_to_keep=1,
            )
        results: list[list[tuple[float, ...]]] = [[] for _ in contexts]
        for chunk in _chunks(segments, _CHUNK_TOKENS):
            width = _padded_width(max(sum(len(segment) for segment in row) for row in chunk))
            input_ids = torch.full((len(chunk), width), self._pad_token_id)
            position_ids = torch.zeros((len(chunk), width), dtype=torch.long)
            block = torch.zeros((len(chunk), width), dtype=torch.long)
            for b, row in enumerate(chunk):
                column = 0
                for number, segment in enumerate(row):
                    end = column + len(segment)
                    input_ids[b, column:end] = torch.tensor(segment)
                    position_ids[b, column:end] = torch.arange(len(segment)) + len(prefixes[b])
                    block[b, column:end] = number + 1
                    column = end
            same = block[:, :, None] == block[:, None, :]
            visible = same & torch.ones(width, width, dtype=torch.bool).tril()
            seen = torch.cat([prefix_mask.bool().cpu()[:, None].expand(-1, width, -1), visible], dim=-1)
            mask = torch.zeros(seen.shape, dtype=self.model.dtype).masked_fill(
                ~seen, torch.finfo(self.model.dtype).min
            )
            logits = self.model(
                input_ids=input_ids.to(self.device),
                attention_mask=mask[:, None].to(self.device),
                position_ids=position_ids.to(self.device),
                past_key_values=cache,
            ).logits
            cache.crop(-width)
            next_ids = torch.cat([input_ids[:, 1:], input_ids[:, :1]], dim=1).to(self.device)
            log_probs = _token_log_probs(logits, next_ids).tolist()
            for b, row in enumerate(chunk):
                column = 0
                for segment in row:
                    results[b].append(tuple(log_probs[b][column : column + len(segment) - 1]))
                    column += len(segment)
        return results

    def _log_probs_from_encoder(
        self, contexts: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[tuple[float, ...]]]:
        """
        Encoder–decoder: encoder states and cross-attention keys and values are computed once a document; its pairs
        share them by broadcasting.
        """
        input_ids, attention_mask = self._pad(contexts, left=False)
        states = self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        start = self.model.generation_config.decoder_start_token_id
        if start is None:
            start = self.model.config.decoder_start_token_id
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
        width = _padded_width(max(len(sequence) for sequence in sequences))
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


def _padded_width(longest: int) -> int:
    """The next multiple of 16: on CPUs every new shape has its matrix products compiled anew and kept in memory."""
    return -(-longest // 16) * 16


def _token_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log p of `ids` of shape `(batch, length)` under `logits` of shape `(batch, length, vocabulary)`, in float32."""
    chosen = logits.gather(-1, ids[..., None]).squeeze(-1).float()
    return chosen - torch.stack([row.float().logsumexp(-1) for row in logits])


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, so that memory runs out at once or not at all."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _chunks(rows: list[list[list[int]]], most_tokens: int) -> Iterator[list[list[list[int]]]]:
    """Cuts rows of sequences into pieces of at most `most_tokens` tokens a row (or one sequence that is longer)."""
    positions = [0] * len(rows)
    while any(position < len(row) for position, row in zip(positions, rows, strict=True)):
        chunk = []
        for b, row in enumerate(rows):
            taken: list[list[int]] = []
            while positions[b] < len(row) and (
                not taken or sum(map(len, taken)) + len(row[positions[b]]) <= most_tokens
            ):
                taken.append(row[positions[b]])
                positions[b] += 1
            chunk.append(taken)
        yield chunk


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        from accelerate import PartialState

        return PartialState().device
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={str(device)!r} is not available here: {str(error).splitlines()[0]}") from error
    return device


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype must be 'auto', 'float32', 'bfloat16' or 'float16', got {dtype!r}.")
    return found


def _hub_options(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: model_kwargs[key] for key in ("revision", "token", "cache_dir") if key in model_kwargs}


def _find(place: str | os.PathLike, file: str, model_kwargs: dict[str, Any]) -> str | None:
    """Path of `file` in a folder or Hub repository, `None` if that does not have it."""
    if Path(place).is_dir():
        path = Path(place, file)
        return str(path) if path.is_file() else None
    return cached_file(
        str(place),
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
        **_hub_options(model_kwargs),
    )


def _find_template(
    places: Sequence[str | os.PathLike],
    is_encoder_decoder: bool,
    tokenizer: PreTrainedTokenizerBase,
    model_kwargs: dict[str, Any],
) -> QATemplate:
    for place in places:
        if path := _find(place, TEMPLATE_FILE, model_kwargs):
            return QATemplate.from_file(path)
    if is_encoder_decoder and "<sep>" in tokenizer.get_vocab():
        return QUESTION_SEP_ANSWER
    raise ValueError(
        f"{' and '.join(map(str, places))}: no {TEMPLATE_FILE} tells how this model writes question–answer pairs. "
        "Pass template=QATemplate(prompt=…, pair=…), or save one beside the weights with QATemplate.save_pretrained."
    )
