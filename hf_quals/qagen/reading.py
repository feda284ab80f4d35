"""What a text makes of pairs: their log-probabilities, and its own answers to their questions.

A text is computed once for all its pairs. A pair's own answer serves as the draft of the text's: as far as the most
probable tokens are the pair's own, the pass that scores the pair has read the answer already.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from .attention import Lookback, attention_share, eager_attention
from .branches import Branches, Start
from .packing import Continuation, PackedContinuations, pack_continuations, round_up


if TYPE_CHECKING:
    from .model import QAGenModel

# The most tokens of pairs scored in one forward pass for a document: bounds the attention mask and the logits.
_CHUNK_TOKENS = 512
# The most tokens whose attention is looked at at once: its weights of all layers are in memory together.
_SEEN_TOKENS = 64
# Widths are multiples of this: on CPUs every new shape has its matrix products compiled anew and kept in memory.
_WIDTH = 16


class Asked(NamedTuple):
    """
    What is asked of a text.

    Args:
        ids (`list[int]`): The tokens of a pair, or those before an answer.
        answer_start (`int`, *optional*): Where the answer begins that is wanted of the text; `None` if none is.
        max_new_tokens (`int`, *optional*, defaults to 0): The most tokens of this answer.
        lookback (`Lookback`, *optional*): Whose attention to the text is wanted; decoder-only.
    """

    ids: list[int]
    answer_start: int | None = None
    max_new_tokens: int = 0
    lookback: Lookback | None = None


class Read(NamedTuple):
    """
    What a text says to it.

    Args:
        log_probs (`tuple[float, ...]`): log p(token | text, tokens before), one a token.
        answer (`list[int]`): The most probable tokens from `answer_start` on, without the end; empty if not wanted.
        attention (`tuple[float, ...]`): The share of attention that rests on the text, one a token; empty if not
            wanted.
    """

    log_probs: tuple[float, ...]
    answer: list[int]
    attention: tuple[float, ...] = ()


def read_alone(qagen: QAGenModel, contexts: list[list[int]], asked: list[list[Asked]]) -> list[list[Read]]:
    """One pass a pair, without mask, positions or cache: what every architecture computes as it was trained."""
    results: list[list[Read]] = []
    for context, row in zip(contexts, asked, strict=True):
        results.append([])
        for ids, answer_start, most, lookback in row:
            read = {"input_ids": context + ids[:-1]}
            if qagen.is_encoder_decoder:
                read = {"input_ids": context, "decoder_input_ids": [qagen.decoder_start_token_id, *ids[:-1]]}
            tensors = {name: torch.tensor([tokens], device=qagen.device) for name, tokens in read.items()}
            logits = qagen.model(**tensors, use_cache=False).logits[:, -len(ids) :]
            labels = torch.tensor([ids], device=qagen.device)
            answer = [] if answer_start is None else _continue_alone(qagen, context, ids[:answer_start], most)
            attention = () if lookback is None else _attention_alone(qagen, context, ids, lookback)
            results[-1].append(Read(tuple(token_log_probs(logits, labels)[0].tolist()), answer, attention))
    return results


def _attention_alone(qagen: QAGenModel, context: list[int], ids: list[int], lookback: Lookback) -> tuple[float, ...]:
    with eager_attention(qagen.model):
        output = qagen.model(
            input_ids=torch.tensor([context + ids], device=qagen.device),
            output_attentions=True,
            use_cache=False,
        )
    shares = attention_share(output.attentions, lookback.heads, _is_text([context], [lookback], 0, qagen.device))
    return tuple(shares[0, -len(ids) :].tolist())


def _is_text(
    contexts: list[list[int]], lookbacks: list[Lookback | None], width: int, device: torch.device
) -> torch.Tensor:
    """
    The columns of the texts in prompts without their last token, padded on the left to `width`.

    Returns:
        `torch.BoolTensor` of shape `(contexts, columns)`.
    """
    width = max(width, *(len(context) - 1 for context in contexts))
    is_text = torch.zeros(len(contexts), width, dtype=torch.bool)
    for row, (context, lookback) in enumerate(zip(contexts, lookbacks, strict=True)):
        if lookback is not None:
            first = width - (len(context) - 1)
            is_text[row, first + lookback.start : first + min(lookback.stop, len(context) - 1)] = True
    return is_text.to(device)


def _continue_alone(qagen: QAGenModel, context: list[int], prefix: list[int], most: int) -> list[int]:
    if qagen.is_encoder_decoder:
        return _write(qagen, {"input_ids": torch.tensor([context], device=qagen.device)}, [prefix], most)[0]
    ids = torch.tensor([context + prefix], device=qagen.device)
    output = qagen.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, max_new_tokens=most
    )
    return _until_end(output[0, ids.shape[1] :].tolist(), qagen.eos_token_ids)


def read_behind_prompts(qagen: QAGenModel, contexts: list[list[int]], asked: list[list[Asked]]) -> list[list[Read]]:
    """
    Decoder-only: the keys and values of the prompts are computed once; pairs follow as branches, each of which sees
    its prompt and itself, at the positions it would have alone.
    """
    # The last token of a prompt predicts the first of every pair: it is read with each.
    prompts = [context[:-1] for context in contexts]
    branches = Branches(qagen.model, *pad(qagen, prompts, left=True))
    ends = set(qagen.eos_token_ids)
    results: list[list[Read]] = [[] for _ in contexts]
    attention = _attention_behind_prompts(qagen, branches, contexts, asked)
    chunks = list(_chunks(asked, _CHUNK_TOKENS))
    for chunk in chunks:
        packed = _packed(qagen, contexts, chunk)
        input_ids, *where = packed.tensors(qagen.device)
        logits = branches.extend(input_ids, *where).logits
        log_probs = token_log_probs(logits, input_ids.roll(-1, dims=1)).tolist()
        best = _best(logits, chunk)
        starts: list[list[Start]] = [[] for _ in chunk]
        for b, (row, spans) in enumerate(zip(chunk, packed.spans, strict=True)):
            for number, (one, span) in enumerate(zip(row, spans, strict=True)):
                answer, is_open = _draft(one, best[b][span] if best else [], ends)
                if is_open:
                    agreed = span.start + (one.answer_start or 0) + len(answer)
                    branches.leave(b, slice(agreed, span.stop))
                    position = len(contexts[b]) + (one.answer_start or 0) + len(answer) - 1
                    starts[b].append(Start(number, answer, position, one.max_new_tokens))
                looked = () if one.lookback is None else next(attention[b])
                results[b].append(Read(tuple(log_probs[b][span.start : span.stop - 1]), answer, looked))
        branches.write(starts, ends, let_go=chunk is chunks[-1])
        branches.clear()
    return results


def _attention_behind_prompts(
    qagen: QAGenModel, branches: Branches, contexts: list[list[int]], asked: list[list[Asked]]
) -> list[Iterator[tuple[float, ...]]]:
    """
    The attention to its text of what is asked for it, in the order of each row, in a pass of its own: attention that
    can be seen is slow, and takes memory.
    """
    wanted = [[one for one in row if one.lookback is not None] for row in asked]
    looked: list[list[tuple[float, ...]]] = [[] for _ in contexts]
    for chunk in _chunks(wanted, _CHUNK_TOKENS):
        packed = _packed(qagen, contexts, chunk)
        lookbacks = [row[0].lookback if row else None for row in chunk]
        is_text = _is_text(contexts, lookbacks, branches.prompt_mask.shape[1], qagen.device)
        heads = next(lookback.heads for lookback in lookbacks if lookback is not None)
        parts = []
        with eager_attention(qagen.model):
            # A branch sees what was appended to it before.
            for tensors in zip(*(t.split(_SEEN_TOKENS, dim=1) for t in packed.tensors(qagen.device)), strict=True):
                seen = branches.extend(
                    *tensors, output_attentions=True, logits_to_keep=torch.tensor([0], device=qagen.device)
                )
                parts.append(attention_share(seen.attentions, heads, is_text))
        shares = torch.cat(parts, dim=1).tolist()
        for b, spans in enumerate(packed.spans):
            # The first column is the prompt's last token.
            looked[b] += [tuple(shares[b][span.start + 1 : span.stop]) for span in spans]
        branches.clear()
    return [iter(row) for row in looked]


def read_from_encoder(qagen: QAGenModel, contexts: list[list[int]], asked: list[list[Asked]]) -> list[list[Read]]:
    """
    Encoder–decoder: encoder states and cross-attention keys and values are computed once a document; its pairs share
    them by broadcasting.
    """
    input_ids, attention_mask = pad(qagen, contexts, left=False)
    states = qagen.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    start = qagen.decoder_start_token_id
    cross = EncoderDecoderCache(DynamicCache(), DynamicCache())
    qagen.model(
        encoder_outputs=(states,),
        attention_mask=attention_mask,
        decoder_input_ids=torch.full((len(contexts), 1), start, device=qagen.device),
        past_key_values=cross,
    )
    cached: list[Any] = cross.cross_attention_cache.layers
    layers = [(layer.keys, layer.values) for layer in cached]
    results: list[list[Read]] = []
    unfinished: list[tuple[int, list[int], list[int], int]] = []
    for b, (context, row) in enumerate(zip(contexts, asked, strict=True)):
        length = len(context)
        results.append([])
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
            # A pair's last token is read, too: behind it an answer may begin.
            read, _ = pad(qagen, [[start, *one.ids] for one in chunk], left=False)
            logits = qagen.model(
                # Only their shape is read: keys and values come from the cache.
                encoder_outputs=(states[b : b + 1, :length].expand(len(chunk), -1, -1),),
                decoder_input_ids=read,
                past_key_values=EncoderDecoderCache(DynamicCache(), shared),
            ).logits
            log_probs = token_log_probs(logits, read.roll(-1, dims=1)).tolist()
            best = _best(logits, [chunk])
            for n, one in enumerate(chunk):
                answer, is_open = _draft(one, best[n] if best else [], set(qagen.eos_token_ids))
                if is_open:
                    unfinished.append((b, [*one.ids[: one.answer_start], *answer], answer, one.max_new_tokens))
                results[b].append(Read(tuple(log_probs[n][: len(one.ids)]), answer))
    # A decoder's input cannot be padded on the left: what is of one length goes together.
    for length, most in sorted({(len(written), most - len(answer)) for _, written, answer, most in unfinished}):
        group = [one for one in unfinished if (len(one[1]), one[3] - len(one[2])) == (length, most)]
        owners = torch.tensor([b for b, *_ in group], device=qagen.device)
        inputs = {
            "encoder_outputs": BaseModelOutput(last_hidden_state=states[owners]),
            "attention_mask": attention_mask[owners],
        }
        for (_, _, answer, _), new in zip(
            group, _write(qagen, inputs, [written for _, written, *_ in group], most), strict=True
        ):
            answer += new
    return results


def _packed(qagen: QAGenModel, contexts: list[list[int]], chunk: list[list[Asked]]) -> PackedContinuations:
    """What is asked, each behind the last token of its prompt."""
    rows = [
        [Continuation([context[-1], *one.ids], start=len(context) - 1) for one in row]
        for context, row in zip(contexts, chunk, strict=True)
    ]
    return pack_continuations(rows, qagen.pad_token_id, _WIDTH)


def _best(logits: torch.Tensor, asked: Sequence[Sequence[Asked]]) -> list[list[int]]:
    """The most probable token behind each column; empty where no answer is wanted."""
    wanted = any(one.answer_start is not None for row in asked for one in row)
    return logits.argmax(-1).tolist() if wanted else []


def _draft(asked: Asked, best: list[int], ends: set[int]) -> tuple[list[int], bool]:
    """
    The answer as far as it is known: up to the first token that is not the pair's own, or its end.

    Args:
        asked (`Asked`): The pair.
        best (`list[int]`): The most probable token behind what is read before the pair's first token, and behind each.
        ends (`set[int]`): The tokens that end an answer.

    Returns:
        `tuple[list[int], bool]`: its tokens, and whether it goes on.
    """
    ids, start, most, _ = asked
    answer: list[int] = []
    if start is None:
        return answer, False
    for token, own in itertools.zip_longest(best[start : len(ids) + 1], ids[start:]):
        if token in ends or len(answer) == most:
            return answer, False
        answer.append(token)
        if token != own:
            break
    return answer, len(answer) < most


def _write(qagen: QAGenModel, inputs: dict[str, Any], prefixes: list[list[int]], most: int) -> list[list[int]]:
    """Encoder–decoder: the most probable tokens behind prefixes of one length."""
    start = qagen.decoder_start_token_id
    output = qagen.model.generate(
        **inputs,
        decoder_input_ids=torch.tensor([[start, *prefix] for prefix in prefixes], device=qagen.device),
        do_sample=False,
        num_beams=1,
        max_new_tokens=most,
    )
    return [_until_end(ids, qagen.eos_token_ids) for ids in output[:, 1 + len(prefixes[0]) :].tolist()]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, ids))


def _chunks(rows: list[list[Asked]], most_tokens: int) -> Iterator[list[list[Asked]]]:
    """Cuts rows of pairs into pieces of at most `most_tokens` tokens a row (or one that is longer)."""
    positions = [0] * len(rows)
    while any(position < len(row) for position, row in zip(positions, rows, strict=True)):
        chunk = []
        for b, row in enumerate(rows):
            taken: list[Asked] = []
            tokens = 0
            while positions[b] < len(row) and (not taken or tokens + len(row[positions[b]].ids) + 1 <= most_tokens):
                tokens += len(row[positions[b]].ids) + 1
                taken.append(row[positions[b]])
                positions[b] += 1
            chunk.append(taken)
        yield chunk


def pad(qagen: QAGenModel, sequences: Sequence[Sequence[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both of shape `(sequences, padded width)`."""
    longest = max(len(sequence) for sequence in sequences)
    width = round_up(longest, _WIDTH)
    if qagen.num_positions:
        # Padding takes positions, too.
        width = max(longest, min(width, qagen.num_positions))
    padded = torch.full((len(sequences), width), qagen.pad_token_id)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        columns = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        padded[row, columns] = torch.tensor(sequence, dtype=torch.long)
        mask[row, columns] = 1
    return padded.to(qagen.device), mask.to(qagen.device)


def token_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log p of `ids` of shape `(batch, length)` under `logits` of shape `(batch, length, vocabulary)`, in float32."""
    chosen = logits.gather(-1, ids[..., None]).squeeze(-1).float()
    return chosen - torch.stack([row.float().logsumexp(-1) for row in logits])
