"""Diverse beam search (https://huggingface.co/papers/1610.02424) for `model.generate`.

Transformers 5 has no group beam search of its own. [`diverse_beam_search`] is a decoding function for
`generate(custom_generate=...)`, made for many groups of one beam: one prefill a text, one `topk` a step, and beams
that leave the batch when they end. `_BeamBatch` is the model's side of it, `_OneBeamGroups` and `_BeamGroups` choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import StaticLayer
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput, logits_process
from transformers.generation.utils import ALL_CACHE_NAMES, is_deepspeed_zero3_enabled, is_fsdp_managed_module

from .branches import NO_BRANCH, WIDTH, Branches
from .packing import round_up


if TYPE_CHECKING:
    from transformers._typing import GenerativePreTrainedModel

# The value with which Transformers' beam search marks a score that is not to be chosen. The same value, rather than
# infinity, is what makes one group equal to Transformers in every corner.
_NOT_A_CANDIDATE = -1.0e9

# Processors that treat every row alike, whatever row it is, and do not write in place. All others (the user's, those
# that count rows to find the text a beam belongs to) are shown `batch_size * num_beams` rows at every step, as beam
# search shows them.
_ROW_WISE_PROCESSORS = {
    logits_process.ExponentialDecayLengthPenalty,
    logits_process.ForcedBOSTokenLogitsProcessor,
    logits_process.ForcedEOSTokenLogitsProcessor,
    logits_process.InfNanRemoveLogitsProcessor,
    logits_process.LogitNormalization,
    logits_process.MinLengthLogitsProcessor,
    logits_process.MinNewTokensLengthLogitsProcessor,
    logits_process.NoBadWordsLogitsProcessor,
    logits_process.NoRepeatNGramLogitsProcessor,
    logits_process.SequenceBiasLogitsProcessor,
    logits_process.SuppressTokensAtBeginLogitsProcessor,
    logits_process.SuppressTokensLogitsProcessor,
}


@dataclass
class DiverseBeamSearchDecoderOnlyOutput(GenerateBeamDecoderOnlyOutput):
    """
    What [`diverse_beam_search`] returns for decoder-only models: Transformers' output for beam methods, and

    Args:
        token_log_probs (`torch.FloatTensor` of shape `(batch_size * num_return_sequences, generated_length)`):
            The model's own log-probability of each generated token (nats): log-softmax in float32 of the raw logits,
            before any logits processor and without the diversity penalty. EOS is included; 0 after it.
    """

    token_log_probs: torch.FloatTensor | None = None


@dataclass
class DiverseBeamSearchEncoderDecoderOutput(GenerateBeamEncoderDecoderOutput):
    """
    What [`diverse_beam_search`] returns for encoder–decoder models: Transformers' output for beam methods, and the
    `token_log_probs` of [`DiverseBeamSearchDecoderOnlyOutput`].
    """

    token_log_probs: torch.FloatTensor | None = None


def diverse_beam_search(
    model: GenerativePreTrainedModel,
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    branching: bool = False,
    **model_kwargs,
) -> DiverseBeamSearchDecoderOnlyOutput | DiverseBeamSearchEncoderDecoderOutput | torch.LongTensor:
    r"""
    Diverse beam search with Hamming diversity, from [Diverse Beam Search: Decoding Diverse Solutions from Neural
    Sequence Models](https://huggingface.co/papers/1610.02424). Not called directly but through
    [`~transformers.GenerationMixin.generate`], which prepares the arguments below from its own.

    The `num_beams` beams of a text are split into `num_beam_groups` groups, which take turns at every step. From the
    log-probability of each token a group subtracts `diversity_penalty` times the number of beams of the groups before
    it that went on with this token at this step. Within a group the search is Transformers' beam search, with these
    penalised scores accumulated; with one group it is Transformers' beam search and nothing else. The returned
    sequences are the best of all groups, by `score / length**length_penalty`.

    As in Transformers 4, what counts as "went on with" are the best tokens of a group that are not EOS, as many as it
    has beams: ending is never penalised, and a beam that ends is represented by its runner-up at that step. A group
    that had finished at an earlier step counts for nothing. (Transformers 4 counted its padding token.)

    Among equal scores a group of one beam takes the lowest token id. (Only where the last of its `num_beam_groups` +
    number of EOS ids candidates ties with tokens left out does `topk` decide which of these are candidates.)

    A `streamer` cannot be refused here, nor used: `generate` shows it the prompts and hands it to no decoding function
    of others. `TextStreamer` refuses the prompts of several beams ("only supports batch size 1"); any other gets
    nothing more and is never told the end. The best sequences are known at the end only: leave `streamer` out, and
    decode what is returned.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A decoder-only or encoder–decoder model.
        input_ids (`torch.LongTensor` of shape `(batch_size * num_beams, sequence_length)`):
            The prompts, or the first decoder ids, each repeated `num_beams` times.
        logits_processor ([`~transformers.LogitsProcessorList`]):
            Applied to the log-probabilities of all beams at once, before the diversity penalty.
        stopping_criteria ([`~transformers.StoppingCriteriaList`]):
            When a hypothesis ends; those of `generate` hold the EOS ids and the maximal length. They are shown the
            candidates of the beams still running, so they must judge each row by itself.
        generation_config ([`~transformers.GenerationConfig`]):
            Besides what beam search reads (`num_beams`, `length_penalty`, `early_stopping`, `num_return_sequences`,
            `return_dict_in_generate`, `output_scores`, `output_logits`, `output_hidden_states`, `output_attentions`,
            `use_cache`, and of `cache_implementation` `"dynamic"` and `"static"`), two fields count:
            `num_beam_groups` (`int`, *optional*, defaults to 1), which divides `num_beams`, and `diversity_penalty`
            (`float`, *optional*, defaults to 0.0), in nats, larger than 0 with more than one group.
        branching (`bool`, *optional*, defaults to `False`):
            Whether the beams of a text are computed as branches behind it, without copies of its cache: faster, with
            the same result. For decoder-only models that compute packed rows as separate ones (which is not checked:
            [`QAGenModel`] does), and one beam a group. Only `input_ids` and `attention_mask` are read, and hidden
            states and attentions cannot be returned.
        model_kwargs:
            Passed to the model's `forward`. Encoder–decoder models need `encoder_outputs`.

    Returns:
        [`DiverseBeamSearchDecoderOnlyOutput`], [`DiverseBeamSearchEncoderDecoderOutput`] or `torch.LongTensor`: the
        sequences of shape `(batch_size * num_return_sequences, sequence_length)`, alone or, with
        `return_dict_in_generate=True`, in an output that always carries `token_log_probs`. Its `scores` hold the
        processed and penalised log-probabilities, so that they sum to `sequences_scores`; where a group of one beam
        had ended they are `-inf`, and its `logits`, hidden states and attentions NaN. Its `past_key_values` is `None`:
        the cache is that of the running beams, of which none may be left. After their end sequences are filled as by
        Transformers' beam search: with the padding id, with EOS where that id is 0, with -1 where there is no EOS.

    Raises:
        `ValueError`: if `num_beams` is not divisible by `num_beam_groups`, if `diversity_penalty` is negative, or 0
        with more than one group, if more sequences than beams are to be returned, if `branching` is asked for what it
        cannot do, or if the generation config or `model_kwargs` ask for something this search does not do
        (`do_sample`, `low_memory`, `force_words_ids`, `constraints`, a cache that is filled, offloaded or quantized,
        multimodal encoder outputs).

    Example:

    ```python
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> from hf_quals.qagen.decoding import diverse_beam_search

    >>> tokenizer = AutoTokenizer.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
    >>> model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
    >>> output = model.generate(
    ...     **tokenizer("The capital of France", return_tensors="pt"),
    ...     custom_generate=diverse_beam_search,
    ...     num_beams=60,
    ...     num_beam_groups=60,
    ...     diversity_penalty=0.5,
    ...     num_return_sequences=60,
    ...     min_new_tokens=8,
    ...     max_new_tokens=60,
    ...     return_dict_in_generate=True,
    ... )
    >>> output.token_log_probs.shape[0]
    60
    ```
    """
    _check_arguments(generation_config, model_kwargs)
    if branching:
        _check_branching(model, generation_config, model_kwargs)
    num_beams = generation_config.num_beams
    num_beam_groups = generation_config.num_beam_groups or 1

    # With one beam a group, a hypothesis that ends is final: its runner-up, of the same length, has a lower score.
    # Only "never" compares it with what the runner-up could become.
    final_at_end = generation_config.early_stopping != "never" or generation_config.length_penalty <= 0
    groups_class = _OneBeamGroups if num_beam_groups == num_beams and final_at_end else _BeamGroups
    groups = groups_class(input_ids, num_beam_groups, logits_processor, stopping_criteria, generation_config)
    batch = (_BranchBatch if branching else _BeamBatch)(model, generation_config, model_kwargs)
    groups.rows_multiple = batch.rows_multiple
    of_encoder = _encoder_states(generation_config, model_kwargs)

    # `generate` does not hand its `synced_gpus` to custom decoding functions, so its default is repeated here.
    synced_gpus = (
        (is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model))  # type: ignore[arg-type]
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )
    logits = batch.prefill(input_ids)
    finished = False
    while True:
        if not finished:
            groups.record(batch.states)
            finished, kept_rows = groups.advance(logits)
            if not finished and kept_rows is not None:
                batch.select(kept_rows)
        if not model._has_unfinished_sequences(finished, synced_gpus, device=input_ids.device):
            break
        logits = batch.step(groups.running_ids())

    output = groups.output()
    if not generation_config.return_dict_in_generate:
        return output["sequences"]
    if not model.config.is_encoder_decoder:
        return DiverseBeamSearchDecoderOnlyOutput(**output)
    return DiverseBeamSearchEncoderDecoderOutput(**output, **of_encoder)


def _check_arguments(config: GenerationConfig, model_kwargs: dict[str, Any]):
    num_beams, num_groups = config.num_beams, config.num_beam_groups or 1
    penalty = config.diversity_penalty or 0.0
    if num_groups < 1 or num_beams % num_groups != 0:
        raise ValueError(
            f"`num_beams` must be a multiple of `num_beam_groups`, got num_beams={num_beams} and "
            f"num_beam_groups={num_groups}. For one beam a group pass the same number for both."
        )
    if penalty < 0:
        raise ValueError(f"`diversity_penalty` must not be negative, got {penalty}. Pass e.g. 0.5.")
    if num_groups > 1 and penalty == 0:
        raise ValueError(
            f"`diversity_penalty` must be larger than 0 with more than one group, got {config.diversity_penalty} with "
            f"num_beam_groups={num_groups}: all groups would find the same sequences. Pass e.g. "
            "`diversity_penalty=0.5`, or `num_beam_groups=1` for beam search."
        )
    if config.num_return_sequences > num_beams:
        raise ValueError(
            f"`num_return_sequences` must be at most `num_beams`, got {config.num_return_sequences} and {num_beams}."
        )
    for name in ("do_sample", "low_memory"):
        if getattr(config, name):
            raise ValueError(
                f"`{name}={getattr(config, name)}` is not supported by `diverse_beam_search`. Pass `{name}=False`."
            )
    for name in ("force_words_ids", "constraints"):
        if getattr(config, name, None) is not None:
            raise ValueError(
                f"`{name}` is not supported by `diverse_beam_search`, which forces no words. Leave it out, or use "
                "constrained beam search (`custom_generate='transformers-community/constrained-beam-search'`)."
            )
    if config.cache_implementation not in (None, "dynamic", "static"):
        raise ValueError(
            f"`cache_implementation={config.cache_implementation!r}` is not supported by `diverse_beam_search`. Leave "
            "it unset, or pass 'dynamic' or 'static'."
        )
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError(
            f"`diverse_beam_search` starts with an empty cache, got one of {cache.get_seq_length()} positions. Pass "
            "the whole text instead of `past_key_values`."
        )
    if model_kwargs.get("mm_encoder_outputs") is not None:
        raise ValueError("`diverse_beam_search` supports text inputs only, got `mm_encoder_outputs`.")


def _check_branching(model: GenerativePreTrainedModel, config: GenerationConfig, model_kwargs: dict[str, Any]):
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"`branching=True` is for decoder-only models, got {type(model).__name__}. Leave it out: an encoder's "
            "states are shared anyway."
        )
    if config.num_beam_groups != config.num_beams:
        raise ValueError(
            "`branching=True` needs one beam a group, which continues itself alone, got "
            f"num_beams={config.num_beams} and num_beam_groups={config.num_beam_groups}."
        )
    for name in ("output_hidden_states", "output_attentions"):
        if getattr(config, name):
            raise ValueError(f"`{name}=True` cannot be had with `branching=True`. Leave one of them out.")
    if not model_kwargs.get("use_cache", True) or config.cache_implementation == "static":
        raise ValueError(
            "`branching=True` has a dynamic cache of its own. Leave `use_cache` and the cache's kind out."
        )
    # `generate` makes positions of the mask, as branches do.
    tensors = {name for name, value in model_kwargs.items() if torch.is_tensor(value)}
    if others := sorted(tensors - {"attention_mask", "position_ids"}):
        raise ValueError(f"`branching=True` reads the text's tokens and their mask alone, got {', '.join(others)}.")


def _encoder_states(config: GenerationConfig, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """What of the encoder belongs to the output: of each text, not of each beam."""
    outputs = model_kwargs.get("encoder_outputs") or {}
    return {
        "encoder_hidden_states": outputs.get("hidden_states") if config.output_hidden_states else None,
        "encoder_attentions": outputs.get("attentions") if config.output_attentions else None,
    }


class _BeamBatch:
    """
    The rows the model computes: their inputs and their cache.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model.
        generation_config ([`~transformers.GenerationConfig`]):
            Its `num_beams` and what `_prefill` reads.
        model_kwargs (`dict[str, Any]`):
            Inputs of the model, each text repeated `num_beams` times.
    """

    # The batch shrinks to multiples of this many rows: selecting rows copies the whole cache, and on CPUs every new
    # number of rows has its matrix products compiled anew and kept.
    rows_multiple = 32

    def __init__(
        self, model: GenerativePreTrainedModel, generation_config: GenerationConfig, model_kwargs: dict[str, Any]
    ):
        self.model = model
        self.config = generation_config
        self.model_kwargs = model_kwargs
        # Of the last pass, the hidden states and attentions that are asked for: by their name a tensor for each layer.
        self.states: dict[str, tuple | None] = {}

    def prefill(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Reads each text once. Returns the logits of all its beams, of shape `(batch_size * num_beams, vocab)`."""
        # A static cache that is there already has a row for every beam.
        num_beams = 1 if self._has_static_rows() else self.config.num_beams
        texts = torch.arange(0, input_ids.shape[0], num_beams, device=input_ids.device)
        self.select(texts, with_cache=False)
        outputs = self.model._prefill(
            input_ids[texts],
            self.config,
            self.model_kwargs,
            is_first_iteration=not self.config.is_assistant,
        )
        logits = self._update(outputs, input_ids.device)
        rows = torch.arange(len(texts), device=input_ids.device).repeat_interleave(num_beams)
        self.select(rows)
        for name, layers in self.states.items():
            self.states[name] = _map_layers(lambda layer: layer[rows.to(layer.device)], layers)
        return logits[rows]

    def _has_static_rows(self) -> bool:
        cache = self.model_kwargs.get("past_key_values")
        layers = () if cache is None else getattr(cache, "self_attention_cache", cache).layers
        return any(isinstance(layer, StaticLayer) and layer.is_initialized for layer in layers)

    def step(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Returns the logits `(rows, vocab)` that follow `input_ids`, of shape `(rows, current_length)`."""
        inputs = self.model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=1 if self.model_kwargs["use_cache"] else None, **self.model_kwargs
        )
        return self._update(self.model(**inputs, return_dict=True), input_ids.device)

    def select(self, rows: torch.Tensor, with_cache: bool = True):
        """Makes `rows`, of any number and order, the rows of the batch."""
        for name, value in self.model_kwargs.items():
            if name in ALL_CACHE_NAMES:
                if with_cache and value is not None:
                    self.model_kwargs[name] = self._select_cache(value, rows)
            elif name == "encoder_outputs" and value is not None:
                self.model_kwargs[name] = type(value)(
                    **{key: states[rows] if torch.is_tensor(states) else states for key, states in value.items()}
                )
            elif torch.is_tensor(value):
                # multimodal position ids have the batch in their second dimension
                dim = 1 if name == "position_ids" and value.ndim == 3 else 0
                self.model_kwargs[name] = value.index_select(dim, rows.to(value.device))

    def _select_cache(self, cache, rows: torch.Tensor):
        # `reorder_cache` is an `index_select`: it repeats and drops rows as well, and every kind of cache has it
        if hasattr(self.model, "_reorder_cache"):
            return self.model._reorder_cache(cache, rows)
        if not hasattr(cache, "reorder_cache"):
            raise ValueError(
                f"{type(self.model).__name__} has a cache whose rows cannot be selected ({type(cache).__name__}). "
                "Pass `use_cache=False`."
            )
        cache.reorder_cache(rows)
        return cache

    def _update(self, outputs, device: torch.device) -> torch.Tensor:
        self.model_kwargs = self.model._update_model_kwargs_for_generation(
            outputs, self.model_kwargs, is_encoder_decoder=self.model.config.is_encoder_decoder
        )
        self.states = {name: getattr(outputs, name) for name in self._state_names()}
        # the copy lets go of the prompt's logits
        return outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=device)

    def _state_names(self) -> list[str]:
        config = self.config
        if not config.return_dict_in_generate:
            return []
        prefix = "decoder_" if self.model.config.is_encoder_decoder else ""
        names = [f"{prefix}hidden_states"] if config.output_hidden_states else []
        if config.output_attentions:
            names += ["decoder_attentions", "cross_attentions"] if prefix else ["attentions"]
        return names


class _BranchBatch:
    """
    Beams as branches behind the prompt of their text: nothing is copied, whatever rows are selected. Arguments and
    methods are those of `_BeamBatch`.
    """

    rows_multiple = 1
    states: ClassVar[dict[str, tuple | None]] = {}

    def __init__(
        self, model: GenerativePreTrainedModel, generation_config: GenerationConfig, model_kwargs: dict[str, Any]
    ):
        self.model = model
        self.num_beams = generation_config.num_beams
        # None where nothing is padded.
        self.attention_mask = model_kwargs.get("attention_mask")

    def prefill(self, input_ids: torch.Tensor) -> torch.Tensor:
        num_texts = len(input_ids) // self.num_beams
        mask = torch.ones_like(input_ids) if self.attention_mask is None else self.attention_mask
        self.branches = Branches(self.model, input_ids[:: self.num_beams], mask[:: self.num_beams])
        # The text of each row of the batch, its beam, and the position of the token it reads next.
        self.texts = torch.arange(num_texts, device=input_ids.device).repeat_interleave(self.num_beams)
        self.beams = torch.arange(self.num_beams, device=input_ids.device).repeat(num_texts)
        self.positions = self.branches.lengths[self.texts]
        return self.branches.prompt_logits[self.texts, 0].float()

    def step(self, input_ids: torch.Tensor) -> torch.Tensor:
        # Rows are in the order of their texts: the column of each is its number among those of its text.
        counts = torch.bincount(self.texts, minlength=len(self.branches.lengths))
        columns = torch.arange(len(self.texts), device=input_ids.device) - (counts.cumsum(0) - counts)[self.texts]
        shape = (len(counts), round_up(int(counts.max()), WIDTH))
        tokens, positions, beams = (
            values.new_full(shape, fill).index_put_((self.texts, columns), values)
            for values, fill in ((input_ids[:, -1], 0), (self.positions, 0), (self.beams, NO_BRANCH))
        )
        self.positions = self.positions + 1
        return self.branches.extend(tokens, positions, beams).logits[self.texts, columns].float()

    def select(self, rows: torch.Tensor):
        self.texts, self.beams, self.positions = self.texts[rows], self.beams[rows], self.positions[rows]
        running, renumbered = self.texts.unique(return_inverse=True)
        if self.branches.keep(running):
            self.texts = renumbered


def _map_layers(function: Callable[[torch.Tensor], torch.Tensor], layers: tuple | None) -> tuple | None:
    """Of each layer; some implementations tell nothing of some layers, or of none."""
    return layers and tuple(None if layer is None else function(layer) for layer in layers)


@dataclass
class _Beams:
    """Partial or finished sequences. The leading dimensions are the same in all fields."""

    sequences: torch.Tensor  # integers (..., max_length)
    beam_indices: torch.Tensor  # (..., max_new_tokens), the row each token was chosen from, -1 where there is none
    token_log_probs: torch.Tensor  # (..., max_new_tokens), the model's own
    scores: torch.Tensor  # (...)

    @classmethod
    def start(cls, input_ids: torch.Tensor, max_length: int, fill: int) -> _Beams:
        """Empty beams after `input_ids`, of shape `(rows, prompt_length)`."""
        rows, prompt_length = input_ids.shape
        new = (rows, max_length - prompt_length)
        device = input_ids.device
        return cls(
            sequences=torch.cat((input_ids, input_ids.new_full(new, fill)), dim=-1),
            beam_indices=torch.full(new, -1, dtype=torch.int32, device=device),
            token_log_probs=torch.zeros(new, device=device),
            scores=torch.zeros(rows, device=device),
        )

    def map(self, function) -> _Beams:
        return _Beams(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def take(self, indices: torch.Tensor) -> _Beams:
        """The beams at `indices` `(searches, n)` of beams `(searches, m)`, as new tensors."""
        return self.map(lambda tensor: _take(tensor, indices))

    def append(self, other: _Beams) -> _Beams:
        """These beams and the others, along the second dimension."""
        return _Beams(
            **{f.name: torch.cat((getattr(self, f.name), getattr(other, f.name)), dim=1) for f in fields(self)}
        )


def _take(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return tensor.take_along_dim(indices.view(*indices.shape, *[1] * (tensor.ndim - indices.ndim)), dim=1)


class _Groups:
    """
    The beams of all groups of all texts, and what both ways of choosing share. Beam `b` of group `g` of text `t` is
    row `t * num_beams + g * group_size + b`.
    """

    def __init__(
        self,
        input_ids: torch.Tensor,
        num_groups: int,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        config: GenerationConfig,
    ):
        self.config = config
        self.logits_processor = logits_processor
        self.stopping_criteria = stopping_criteria
        self.num_rows, self.prompt_length = input_ids.shape
        self.length = self.prompt_length
        self.device = input_ids.device
        self.batch_size = self.num_rows // config.num_beams
        self.num_groups = num_groups
        self.group_size = config.num_beams // num_groups
        self.penalty = config.diversity_penalty or 0.0
        eos_ids = config._eos_token_tensor
        self.eos_ids = torch.tensor([], dtype=torch.long) if eos_ids is None else eos_ids
        self.num_eos = len(self.eos_ids)
        # A pad id of 0 is false, so that Transformers' beam search fills up with EOS. Equality with it comes first.
        self.fill = int(config._pad_token_tensor or self.eos_ids[0]) if self.num_eos else -1
        self.row_wise = all(type(processor) in _ROW_WISE_PROCESSORS for processor in logits_processor)
        in_full = config.return_dict_in_generate
        self.all_scores: tuple[torch.Tensor, ...] | None = () if in_full and config.output_scores else None
        self.all_logits: tuple[torch.Tensor, ...] | None = () if in_full and config.output_logits else None
        self.all_states: dict[str, tuple] = {}
        self.rows_multiple = 1  # the batch's

    def record(self, states: dict[str, tuple | None]):
        """Keeps what the model computed before the next `advance`, for the output."""
        for name, layers in states.items():
            of_step = _map_layers(lambda layer: self._of_all_beams(layer, torch.nan), layers)
            self.all_states[name] = (*self.all_states.get(name, ()), of_step)

    def _of_all_beams(self, values: torch.Tensor, fill: float) -> torch.Tensor:
        """Values of the rows in the batch as those of all `batch_size * num_beams` beams, `fill` where one ended."""
        return values

    def advance(self, logits: torch.Tensor) -> tuple[bool, torch.Tensor | None]:
        """
        Chooses the next token of every beam.

        Args:
            logits (`torch.FloatTensor` of shape `(rows, vocab)`):
                What the model says after `running_ids()`.

        Returns:
            `tuple(bool, torch.LongTensor | None)`: whether all groups have finished, and if not, which rows of
            `logits` the rows of the new `running_ids()` come from (`None`: they are the same).
        """
        raise NotImplementedError

    def running_ids(self) -> torch.Tensor:
        """The ids `(rows, current_length)` of the beams the model has to continue."""
        raise NotImplementedError

    def hypotheses(self) -> _Beams:
        """The finished sequences of each text, `(batch_size, num_beams)`, with their final scores."""
        raise NotImplementedError

    def output(self) -> dict[str, Any]:
        """The fields of the output, of the best `num_return_sequences` hypotheses of each text."""
        hypotheses = self.hypotheses()
        best = hypotheses.scores.argsort(dim=-1, descending=True, stable=True)[:, : self.config.num_return_sequences]
        beams = hypotheses.take(best).map(lambda tensor: tensor.flatten(0, 1))
        new_length = (beams.beam_indices >= 0).sum(-1).max()
        return {
            "sequences": beams.sequences[:, : self.prompt_length + new_length],
            "sequences_scores": beams.scores if self.config.output_scores else None,
            "scores": self.all_scores,
            "logits": self.all_logits,
            "beam_indices": beams.beam_indices[:, :new_length],
            "token_log_probs": beams.token_log_probs[:, :new_length],
            **self.all_states,
        }

    def _process(self, input_ids: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        if len(self.logits_processor) == 0:
            return log_probs
        # another's processor may write in place, and the model's own log-probabilities are needed later
        log_probs = log_probs if self.row_wise else log_probs.clone()
        return self.logits_processor(input_ids, log_probs)  # type: ignore[arg-type]

    def _is_eos(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.isin(tokens, self.eos_ids.to(tokens.device))


class _OneBeamGroups(_Groups):
    """
    One beam a group. A beam continues itself, so the cache keeps its order; one that ends leaves the batch; and the
    tokens that group `g` can choose are few: at most `g` are penalised, so its best one is among its `g + 1` best
    unpenalised ones, and its best one that does not end among `g + 1 + num_eos`.
    """

    def __init__(self, input_ids, *args):
        super().__init__(input_ids, *args)
        self.beams = _Beams.start(input_ids, self.config.max_length, self.fill)
        self.running = torch.ones(self.num_rows, dtype=torch.bool, device=self.device)
        self.rows = torch.arange(self.num_rows, device=self.device)  # the beams in the batch; a few may have ended

    def running_ids(self):
        # without any EOS id sequences are filled with -1, which the rows that ended must not feed to the model
        return self.beams.sequences[self.rows, : self.length].clamp(min=0)

    def hypotheses(self):
        return self.beams.map(lambda tensor: tensor.unflatten(0, (self.batch_size, self.num_groups)))

    def advance(self, logits):
        log_probs = nn.functional.log_softmax(logits, dim=-1)
        scores = self._process(self.running_ids(), log_probs)
        num_candidates = min(self.num_groups + self.num_eos, scores.shape[-1])
        top_scores, top_tokens = scores.topk(num_candidates, dim=-1)
        # in the order of token ids, so that the first of equal scores is the one an `argmax` over all tokens finds
        top_tokens, order = top_tokens.sort(dim=-1)
        top_scores = top_scores.gather(-1, order)

        tokens, token_scores = self._choose(top_scores, top_tokens, logits, scores)

        step = self.length - self.prompt_length
        new = self.running[self.rows]  # of the rows in the batch, those that choose a token
        rows = self.rows[new]
        tokens, beams = tokens[rows], self.beams
        beams.sequences[rows, self.length] = tokens
        beams.beam_indices[rows, step] = rows.to(torch.int32)
        beams.token_log_probs[rows, step] = log_probs[new].gather(-1, tokens[:, None]).squeeze(-1)
        beams.scores[rows] += token_scores[rows]

        self.length += 1
        ended = rows[self.stopping_criteria(beams.sequences[rows, : self.length], self.all_scores)]
        beams.scores[ended] /= (step + 1) ** self.config.length_penalty
        self.running[ended] = False

        still_running = self.running[self.rows]
        num_running = int(still_running.sum())
        num_kept = round_up(num_running, self.rows_multiple)
        if num_running == 0 or num_kept >= len(self.rows):
            return num_running == 0, None
        # all that run, filled up with some that have ended
        kept = still_running.argsort(descending=True, stable=True)[:num_kept].sort().values
        self.rows = self.rows[kept]
        return False, kept

    def _process(self, input_ids, log_probs):
        if self.row_wise or len(self.rows) == self.num_rows:
            return super()._process(input_ids, log_probs)
        all_ids = self.beams.sequences[:, : self.length]
        return super()._process(all_ids, self._to_all_rows(log_probs, 0.0))[self.rows]

    def _to_all_rows(self, values: torch.Tensor, fill: float) -> torch.Tensor:
        all_values = values.new_full((self.num_rows, *values.shape[1:]), fill)
        all_values[self.rows.to(values.device)] = values
        return all_values

    def _of_all_beams(self, values, fill):
        all_values = self._to_all_rows(values, fill)
        all_values[~self.running.to(values.device)] = fill
        return all_values

    def _choose(self, top_scores, top_tokens, logits, scores) -> tuple[torch.Tensor, torch.Tensor]:
        """The token of every beam and its penalised score, `(num_rows,)` each; meaningless where a beam has ended."""
        # Off the device: a turn of each group is a few operations on a few numbers.
        shape = (self.batch_size, self.num_groups, top_tokens.shape[-1])
        candidates = self._to_all_rows(top_tokens, 0).view(shape).cpu()
        candidate_scores = self._to_all_rows(top_scores, 0.0).view(shape).cpu()
        candidate_ends = self._is_eos(candidates)
        running = self.running.view(self.batch_size, self.num_groups, 1).to("cpu", torch.float32)
        counts = torch.zeros(self.batch_size, scores.shape[-1])
        penalties = []

        choices = torch.empty(self.batch_size, self.num_groups, 1, dtype=torch.long)
        for group in range(self.num_groups):
            group_tokens = candidates[:, group]
            penalised = candidate_scores[:, group] - self.penalty * counts.gather(-1, group_tokens)
            candidate_scores[:, group] = penalised
            choices[:, group] = penalised.argmax(-1, keepdim=True)
            if self.all_scores is not None:
                penalties.append(self.penalty * counts)
            going_on = penalised.masked_fill(candidate_ends[:, group], -torch.inf)
            score, index = going_on.max(-1, keepdim=True)
            counts.scatter_add_(-1, group_tokens.gather(-1, index), running[:, group] * (score > -torch.inf))

        if self.all_scores is not None:
            step_penalties = torch.stack(penalties, dim=1).flatten(0, 1).to(self.device)
            self.all_scores += (self._of_all_beams(scores, -torch.inf) - step_penalties,)
        if self.all_logits is not None:
            self.all_logits += (self._of_all_beams(logits, torch.nan),)
        tokens = candidates.gather(-1, choices).flatten().to(self.device)
        return tokens, candidate_scores.gather(-1, choices).flatten().to(self.device)


class _BeamGroups(_Groups):
    """
    Groups of any number of beams. Each group of each text is a beam search of its own (`searches` are
    `batch_size * num_groups`), bound to the groups before it by the penalty alone.
    """

    def __init__(self, input_ids, *args):
        super().__init__(input_ids, *args)
        self.num_searches = self.batch_size * self.num_groups
        # enough candidates that `group_size` are left when every beam's best tokens are all EOS ids
        self.num_candidates = max(2, 1 + self.num_eos) * self.group_size
        beams = _Beams.start(input_ids, self.config.max_length, self.fill)
        self.running = beams.map(lambda tensor: tensor.unflatten(0, (self.num_searches, self.group_size)))
        self.finished = self.running.map(torch.clone)
        # at first all beams are the same one
        self.running.scores[:, 1:] = _NOT_A_CANDIDATE
        self.finished.scores[:] = _NOT_A_CANDIDATE
        self.is_finished = torch.zeros((self.num_searches, self.group_size), dtype=torch.bool, device=self.device)
        self.improvable = torch.ones((self.num_searches, 1), dtype=torch.bool, device=self.device)
        self.open = self.improvable

    def running_ids(self):
        return self.running.sequences[:, :, : self.length].flatten(0, 1)

    def hypotheses(self):
        return self.finished.map(lambda tensor: tensor.unflatten(0, (self.batch_size, self.num_groups)).flatten(1, 2))

    def advance(self, logits):
        log_probs = nn.functional.log_softmax(logits, dim=-1)
        scores = self._process(self.running_ids(), log_probs)
        candidates = self._candidates(log_probs, *self._choose(scores))
        if self.all_logits is not None:
            self.all_logits += (logits,)

        self.length += 1
        new_length = self.length - self.prompt_length
        ended = self.stopping_criteria(candidates.sequences[:, :, : self.length].flatten(0, 1), self.all_scores)
        ended = ended.view(self.num_searches, self.num_candidates)

        running_scores = candidates.scores + ended * _NOT_A_CANDIDATE
        self._add_finished(candidates, ended, new_length)
        candidates.scores = running_scores
        self.running = candidates.take(running_scores.topk(self.group_size, dim=-1).indices)

        self.improvable = self.improvable & self._can_improve(new_length)
        full = self.is_finished.all(-1, keepdim=True) & (self.config.early_stopping is True)
        self.open = self.open & self.improvable & ~full & ~ended.all(-1, keepdim=True)
        return not self.open.any(), self.running.beam_indices[:, :, new_length - 1].flatten()

    def _choose(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Lets the groups choose in turn. Returns the accumulated scores of the best continuations of each search,
        `(searches, candidates)`, best first, and which they are: `beam * vocab + token`.
        """
        vocab = scores.shape[-1]
        scores = scores.view(self.batch_size, self.num_groups, self.group_size, vocab)
        accumulated = self.running.scores.view(self.batch_size, self.num_groups, self.group_size, 1)
        is_open = self.open.view(self.batch_size, self.num_groups, 1)
        counts = scores.new_zeros(self.batch_size, 1, vocab)
        penalised, chosen = [], []
        for group in range(self.num_groups):
            penalised.append(scores[:, group] - self.penalty * counts)
            top = (penalised[-1] + accumulated[:, group]).flatten(1).topk(self.num_candidates, dim=-1)
            chosen.append(top)
            tokens = top.indices % vocab
            going_on = ~self._is_eos(tokens)
            counted = going_on & (going_on.cumsum(-1) <= self.group_size) & (top.values > -torch.inf)
            counts.squeeze(1).scatter_add_(-1, tokens, (counted & is_open[:, group]).to(counts.dtype))
        if self.all_scores is not None:
            self.all_scores += (torch.stack(penalised, dim=1).view(self.num_rows, vocab),)
        values = torch.stack([top.values for top in chosen], dim=1).flatten(0, 1)
        indices = torch.stack([top.indices for top in chosen], dim=1).flatten(0, 1)
        return values, indices

    def _candidates(self, log_probs: torch.Tensor, scores: torch.Tensor, indices: torch.Tensor) -> _Beams:
        """The running beams continued with the chosen tokens, `(searches, candidates)`."""
        vocab = log_probs.shape[-1]
        parents, tokens = indices // vocab, indices % vocab
        step = self.length - self.prompt_length
        candidates = self.running.take(parents)
        rows = parents + self.group_size * torch.arange(self.num_searches, device=self.device)[:, None]
        candidates.sequences[:, :, self.length] = tokens
        candidates.beam_indices[:, :, step] = rows.to(torch.int32)
        candidates.token_log_probs[:, :, step] = log_probs[rows, tokens]
        candidates.scores = scores
        return candidates

    def _add_finished(self, candidates: _Beams, ended: torch.Tensor, new_length: int):
        """Keeps the best finished sequences. Only the `group_size` best candidates may end."""
        ended = ended & (torch.arange(self.num_candidates, device=self.device) < self.group_size)
        scores = candidates.scores / new_length**self.config.length_penalty
        candidates.scores = scores + (~ended) * _NOT_A_CANDIDATE + (~self.open) * _NOT_A_CANDIDATE
        merged = self.finished.append(candidates)
        best = merged.scores.topk(self.group_size, dim=-1).indices
        self.finished = merged.take(best)
        self.is_finished = torch.cat((self.is_finished, ended), dim=-1).gather(-1, best)

    def _can_improve(self, new_length: int) -> torch.Tensor:
        """Whether the best running beam of each search may still beat a finished one, `(searches, 1)`."""
        length_penalty = self.config.length_penalty
        if self.config.early_stopping == "never" and length_penalty > 0:
            new_length = self.config.max_length - self.prompt_length
        best_running = self.running.scores[:, :1] / new_length**length_penalty
        worst_finished = self.finished.scores.min(-1, keepdim=True).values.where(self.is_finished, _NOT_A_CANDIDATE)
        return (best_running > worst_finished).any(-1, keepdim=True)
