"""SQuAD-format data -> training features for a QAGen.

A passage is encoded once for all its questions: decoder-only models read one packed row a text, in which every pair
sees the prompt and itself; encoder–decoder models run the encoder once and share its states among the text's pairs.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Seq2SeqTrainer

from .template import QATemplate


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Pair:
    """A question, its answer, and where the answer begins in the passage (in characters)."""

    question: str
    answer: str
    answer_start: int


@dataclass(frozen=True)
class Passage:
    """A text with all its questions; `group` names the article, so that a split never divides one."""

    text: str
    pairs: tuple[Pair, ...]
    group: str


def load_squad(name_or_path: str | os.PathLike, split: str = "train") -> list[Passage]:
    """
    Reads question–answer data in SQuAD's form, from a JSON file or from the Hub.

    Of several annotated answers the shortest is taken: QUALS looks for facts, and the shortest span is closest to one.
    Questions without an answer (SQuAD 2) are left out, as are passages left without a question.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A `.json` file as published by SQuAD (`data` → `paragraphs` → `qas`), or a dataset of the Hub or a local
            folder with the columns `context`, `question` and `answers` (`rajpurkar/squad`).
        split (`str`, *optional*, defaults to `"train"`):
            The split of a Hub dataset; a JSON file has none.

    Returns:
        `list[Passage]`: passages in the order of the file.

    Raises:
        `ValueError`: if the file is not SQuAD JSON, or an answer is not the span of its passage it claims to be.
    """
    if str(name_or_path).endswith(".json"):
        rows = _rows_of_squad_json(Path(name_or_path))
    else:
        from datasets import load_dataset

        dataset = load_dataset(str(name_or_path), split=split)
        missing = {"context", "question", "answers"} - set(dataset.column_names)
        if missing:
            raise ValueError(
                f"{name_or_path} is not in SQuAD form: no column {', '.join(sorted(missing))}. "
                f"It has {', '.join(dataset.column_names)}."
            )
        rows = (
            (
                str(row.get("title", row["context"])),
                row["context"],
                row["question"],
                list(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)),
            )
            for row in dataset
        )

    passages: dict[str, tuple[str, dict[str, Pair]]] = {}
    for title, context, question, answers in rows:
        for text, start in answers:
            if context[start : start + len(text)] != text:
                raise ValueError(
                    f"{name_or_path}: the answer {text!r} to {question!r} is not found at character {start} of its "
                    f"passage, which reads {context[start : start + len(text)]!r} there."
                )
        spans = [(text.strip(), start + len(text) - len(text.lstrip())) for text, start in answers if text.strip()]
        question = _clean_question(question)
        if spans and question:
            text, start = min(spans, key=lambda span: len(span[0]))
            passages.setdefault(context, (title, {}))[1].setdefault(question, Pair(question, text, start))
    return [Passage(text, tuple(pairs.values()), group) for text, (group, pairs) in passages.items()]


def _rows_of_squad_json(path: Path):
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        for number, article in enumerate(articles):
            for paragraph in article["paragraphs"]:
                # A file that is one big article (Reddit posts) has no article structure to respect.
                title = paragraph["context"] if len(articles) == 1 else article.get("title", str(number))
                for qa in paragraph["qas"]:
                    answers = [(answer["text"], answer["answer_start"]) for answer in qa["answers"]]
                    yield f"{path.stem}/{title}", paragraph["context"], qa["question"], answers
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not SQuAD JSON ({type(error).__name__}: {error}). "
            "Expected data → paragraphs → context and qas → question and answers."
        ) from error


def _clean_question(question: str) -> str:
    question = " ".join(question.split())
    return question[:1].upper() + question[1:]


def hold_out(passages: Sequence[Passage], size: int, seed: int) -> tuple[list[Passage], list[Passage]]:
    """
    Splits passages into training and held-out ones; an article goes to one side whole.

    Args:
        passages (`Sequence[Passage]`): All passages.
        size (`int`): The least number of held-out passages (all passages of the last article taken are held out).
        seed (`int`): Seed of the choice of articles.

    Returns:
        `tuple[list[Passage], list[Passage]]`: training and held-out passages.

    Raises:
        `ValueError`: if nothing would be left to train on.
    """
    groups = sorted({passage.group for passage in passages})
    random.Random(seed).shuffle(groups)
    counts: dict[str, int] = {}
    for passage in passages:
        counts[passage.group] = counts.get(passage.group, 0) + 1
    held_out: set[str] = set()
    taken = 0
    for group in groups:
        if taken >= size:
            break
        held_out.add(group)
        taken += counts[group]
    train = [passage for passage in passages if passage.group not in held_out]
    if not train:
        raise ValueError(f"Holding out {size} of {len(passages)} passages leaves none to train on.")
    return train, [passage for passage in passages if passage.group in held_out]


def vary_lengths(
    passages: Sequence[Passage],
    *,
    seed: int,
    sentence_share: float = 0.3,
    joined_share: float = 0.4,
    max_joined_characters: int = 1700,
    lowercase_share: float = 0.25,
) -> list[Passage]:
    """
    Rewrites passages as texts of all lengths QUALS meets: single sentences like summaries, passages, long documents.

    QUALS compares probabilities given a summary of a sentence or two with those given a document of several hundred
    words; a QAGen trained on passages alone knows neither length. Each passage is used once: as its sentences that
    hold an answer, as it is, or joined with its neighbours in a shuffled order. Some texts are lowercased whole, since
    much of the data of summarization is.

    Args:
        passages (`Sequence[Passage]`): What to rewrite.
        seed (`int`): Seed of all choices.
        sentence_share (`float`, *optional*, defaults to 0.3): Share of passages cut into sentences.
        joined_share (`float`, *optional*, defaults to 0.4): Share of passages joined into longer texts.
        max_joined_characters (`int`, *optional*, defaults to 1700):
            A joined text grows, passage by passage, up to a length drawn between half of this and this.
        lowercase_share (`float`, *optional*, defaults to 0.25): Share of resulting texts that are lowercased.

    Returns:
        `list[Passage]`: the rewritten passages; a question appears in exactly one of them, unless its answer runs over
        the end of a sentence in a passage that was cut into sentences (then it is left out).
    """
    rng = random.Random(seed)
    order = list(passages)
    rng.shuffle(order)
    num_sentences = round(sentence_share * len(order))
    num_joined = round(joined_share * len(order))
    texts = [sentence for passage in order[:num_sentences] for sentence in _sentences_with_answers(passage)]
    to_join, rest = order[num_sentences : num_sentences + num_joined], order[num_sentences + num_joined :]
    texts += rest
    while to_join:
        longest = rng.randint(max_joined_characters // 2, max_joined_characters)
        lengths = itertools.accumulate(len(passage.text) + 1 for passage in to_join)
        size = max(1, bisect.bisect_right(list(lengths), longest))
        texts.append(_join(to_join[:size]))
        to_join = to_join[size:]
    rng.shuffle(texts)
    return [_lowercase(text) if rng.random() < lowercase_share else text for text in texts]


def _sentences_with_answers(passage: Passage) -> list[Passage]:
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(passage.text)), len(passage.text)]
    sentences = []
    for start, end in itertools.pairwise(starts):
        inside = [p for p in passage.pairs if start <= p.answer_start and p.answer_start + len(p.answer) <= end]
        if inside:
            pairs = tuple(Pair(p.question, p.answer, p.answer_start - start) for p in inside)
            sentences.append(Passage(passage.text[start:end].rstrip(), pairs, passage.group))
    return sentences


def _join(passages: Sequence[Passage]) -> Passage:
    text, pairs = "", []
    for passage in passages:
        offset = len(text)
        pairs += [Pair(p.question, p.answer, p.answer_start + offset) for p in passage.pairs]
        text += passage.text.rstrip() + " "
    return Passage(text.rstrip(), tuple(pairs), passages[0].group)


def _lowercase(passage: Passage) -> Passage:
    # The question keeps its case: on the lowercased texts of summarization data, too, questions begin with a capital.
    pairs = tuple(
        Pair(p.question[:1] + _lower(p.question[1:]), _lower(p.answer), p.answer_start) for p in passage.pairs
    )
    return Passage(_lower(passage.text), pairs, passage.group)


def _lower(text: str) -> str:
    """Lower case of the same length, so that spans stay where they are ("İ".lower() is two characters long)."""
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def tokenize_passages(
    passages: Sequence[Passage],
    tokenizer: PreTrainedTokenizerBase,
    template: QATemplate,
    *,
    is_encoder_decoder: bool,
    max_length: int = 1024,
    max_pair_length: int = 64,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """
    Turns passages into training features.

    Args:
        passages (`Sequence[Passage]`): Texts with their pairs.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of the model to train.
        template (`QATemplate`): How inputs and pairs are written.
        is_encoder_decoder (`bool`): The family of the model.
        max_length (`int`, *optional*, defaults to 1024): The most tokens of a text.
        max_pair_length (`int`, *optional*, defaults to 64): The most tokens of a pair; longer pairs are left out.

    Returns:
        `tuple[list[dict], dict[str, int]]`: features `{"input_ids": list[int], "pairs": list[list[int]],
        "length": int}`, and how many passages and pairs there are and how many pairs were left out because they are
        too long, or their text had to be cut, so that the answer might be missing.
    """
    encoded = template.encode_texts(
        tokenizer, [p.text for p in passages], max_length=max_length, is_encoder_decoder=is_encoder_decoder
    )
    features = []
    counts = {"texts": 0, "pairs": 0, "pairs_too_long": 0, "pairs_of_truncated_texts": 0}
    for passage, text in zip(passages, encoded, strict=True):
        if text.truncated:
            counts["pairs_of_truncated_texts"] += len(passage.pairs)
            continue
        pairs = [
            template.encode_pair(tokenizer, pair.question, pair.answer, is_encoder_decoder=is_encoder_decoder)
            for pair in passage.pairs
        ]
        kept = [pair for pair in pairs if len(pair) <= max_pair_length]
        counts["pairs_too_long"] += len(pairs) - len(kept)
        if kept:
            length = len(text.input_ids) + sum(len(pair) for pair in kept)
            features.append({"input_ids": text.input_ids, "pairs": kept, "length": length})
            counts["texts"] += 1
            counts["pairs"] += len(kept)
    return features, counts


def pack_pairs(
    prompts: Sequence[Sequence[int]],
    pairs: Sequence[Sequence[Sequence[int]]],
    pad_token_id: int,
    dtype: torch.dtype = torch.float32,
    pad_to_multiple_of: int = 1,
) -> dict[str, torch.Tensor]:
    """
    Packs each prompt with all its pairs into one row, so that the prompt is computed once.

    Row `b` is `[padding, prompt without its last token | segment, segment, …, padding]`. A segment is the prompt's
    last token followed by one pair; it sees the prompt and itself, at the positions it would have alone. All prompts
    end, and all segments begin, at the same column.

    Args:
        prompts (`Sequence[Sequence[int]]`): Token ids of `batch` prompts.
        pairs (`Sequence[Sequence[Sequence[int]]]`): Token ids of the pairs of each prompt.
        pad_token_id (`int`): What fills the gaps.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): The type of the mask, that of the model.
        pad_to_multiple_of (`int`, *optional*, defaults to 1): Prompts and segments each fill a multiple of so many
            columns.

    Returns:
        `dict[str, torch.Tensor]`: with `L` the row's length and `S` the columns that belong to segments:
        `input_ids` and `position_ids` of shape `(batch, L)`; `attention_mask`, additive, of shape `(batch, 1, L, L)`;
        `labels` of shape `(batch, S)`, -100 where nothing is predicted, aligned with the last `S` columns.
    """
    prefixes = [list(prompt[:-1]) for prompt in prompts]
    segments = [[[prompt[-1], *pair] for pair in row] for prompt, row in zip(prompts, pairs, strict=True)]
    num_prefix = _round_up(max(len(prefix) for prefix in prefixes), pad_to_multiple_of)
    num_segments = _round_up(max(sum(len(segment) for segment in row) for row in segments), pad_to_multiple_of)
    shape = (len(prompts), num_prefix + num_segments)
    input_ids = torch.full(shape, pad_token_id)
    position_ids = torch.zeros(shape, dtype=torch.long)
    labels = torch.full((len(prompts), num_segments), -100)
    block = torch.zeros(shape, dtype=torch.long)  # 0 padding, 1 prompt, 2, 3, … its segments
    for b, (prefix, row) in enumerate(zip(prefixes, segments, strict=True)):
        start = num_prefix - len(prefix)
        input_ids[b, start:num_prefix] = torch.tensor(prefix, dtype=torch.long)
        position_ids[b, start:num_prefix] = torch.arange(len(prefix))
        block[b, start:num_prefix] = 1
        column = num_prefix
        for number, segment in enumerate(row):
            end = column + len(segment)
            input_ids[b, column:end] = torch.tensor(segment)
            position_ids[b, column:end] = torch.arange(len(prefix), len(prefix) + len(segment))
            labels[b, column - num_prefix + 1 : end - num_prefix] = torch.tensor(segment[1:])
            block[b, column:end] = number + 2
            column = end
    queries, keys = block[:, :, None], block[:, None, :]
    causal = torch.ones(shape[1], shape[1]).tril().bool()
    # Padding sees itself: a row of attention without a single key would be NaN.
    visible = ((queries == keys) | ((keys == 1) & (queries >= 1))) & causal
    # Additive, since both eager attention and SDPA take it.
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": mask[:, None],
        "labels": labels,
    }


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass
class DataCollatorForQAGen:
    """
    Batches the features of [`tokenize_passages`].

    Args:
        pad_token_id (`int`): The model's padding token.
        is_encoder_decoder (`bool`): The family of the model.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): The type of the model's weights.
        pad_to_multiple_of (`int`, *optional*, defaults to 32): Columns are padded to a multiple of this. Few distinct
            shapes matter on CPUs, where each new shape of a matrix product is compiled first.

    Returns:
        For decoder-only models the tensors of [`pack_pairs`] and `logits_to_keep`, so that plain `Trainer` computes
        the vocabulary only where pairs stand. For encoder–decoder models `input_ids` and `attention_mask` of shape
        `(texts, length)`, `labels` of shape `(pairs, length)` and `text_of_pair` of shape `(pairs,)`, for
        [`QAGenTrainer`].
    """

    pad_token_id: int
    is_encoder_decoder: bool
    dtype: torch.dtype = torch.float32
    pad_to_multiple_of: int = 32

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = [feature["input_ids"] for feature in features]
        pairs = [feature["pairs"] for feature in features]
        if not self.is_encoder_decoder:
            batch: dict[str, Any] = pack_pairs(prompts, pairs, self.pad_token_id, self.dtype, self.pad_to_multiple_of)
            columns, kept = batch["input_ids"].shape[1], batch["labels"].shape[1]
            # Indices, not a number: a slice is not contiguous, and its product copies the vocabulary's matrix a row.
            return {**batch, "logits_to_keep": torch.arange(columns - kept, columns)}
        input_ids = _pad(prompts, self.pad_token_id)
        return {
            "input_ids": input_ids,
            "attention_mask": _pad([[1] * len(prompt) for prompt in prompts], 0),
            "labels": _pad([pair for row in pairs for pair in row], -100),
            "text_of_pair": torch.tensor([i for i, row in enumerate(pairs) for _ in row]),
        }


def _pad(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(sequence) for sequence in sequences], batch_first=True, padding_value=value
    )


class QAGenTrainer(Seq2SeqTrainer):
    """`Seq2SeqTrainer` that runs an encoder once for all the pairs of a text; the loss is the model's own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if "text_of_pair" in inputs:
            text_of_pair = inputs.pop("text_of_pair")
            input_ids = inputs.pop("input_ids")
            attention_mask = inputs["attention_mask"]
            encoder = self.accelerator.unwrap_model(model).get_encoder()
            with self.compute_loss_context_manager():
                states = encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
            states.last_hidden_state = states.last_hidden_state[text_of_pair]
            inputs["encoder_outputs"] = states
            inputs["attention_mask"] = attention_mask[text_of_pair]
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
