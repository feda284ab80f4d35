"""SQuAD-format data -> training features for a QAGen.

A passage is encoded once for all its questions: decoder-only models read one packed row a text, in which every pair
sees the prompt and itself; encoder–decoder models run the encoder once and share its states among the text's pairs.
"""

from __future__ import annotations

import bisect
import itertools
import json
import logging
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Seq2SeqTrainer

from .normal_form import normalize
from .packing import Continuation, additive_mask, mask_behind_prompts, pack_continuations, round_up
from .template import QATemplate


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MOST_PAIR_TOKENS = 512
# Answers of other texts looked at for each that is wanted: nearly always one is not in the text at hand.
_FOREIGN_DRAWS = 8
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Pair:
    """
    A question, its answer, where the answer begins in the passage (in characters), and wrong answers to rank below it
    ([`with_distractors`]).
    """

    question: str
    answer: str
    answer_start: int
    distractors: tuple[str, ...] = ()


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
    Questions without an answer (SQuAD 2) and those asked of a passage before are left out, with a warning that counts
    them, as are passages left without a question.

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
    unanswered = repeated = 0
    for title, context, question, answers in rows:
        for text, start in answers:
            if context[start : start + len(text)] != text:
                raise ValueError(
                    f"{name_or_path}: the answer {text!r} to {question!r} is not found at character {start} of its "
                    f"passage, which reads {context[start : start + len(text)]!r} there."
                )
        spans = [(text.strip(), start + len(text) - len(text.lstrip())) for text, start in answers if text.strip()]
        question = _clean_question(question)
        if not (spans and question):
            unanswered += 1
            continue
        text, start = min(spans, key=lambda span: len(span[0]))
        pairs = passages.setdefault(context, (title, {}))[1]
        repeated += question in pairs
        pairs.setdefault(question, Pair(question, text, start))
    if unanswered or repeated:
        logger.warning(
            "%s: left out %d questions without an answer and %d that were asked of their passage before.",
            name_or_path,
            unanswered,
            repeated,
        )
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


def in_normal_form(passage: Passage) -> Passage:
    """
    A passage as the scorer shows it to the model: text, questions and answers in normal form ([`normalize`]), without
    the pairs whose answer is nothing then, or not found in the text.
    """
    text = normalize(passage.text)
    pairs = []
    for pair in passage.pairs:
        answer = normalize(pair.answer).text
        start = text.text.find(answer, max(text.normal_start(pair.answer_start) - 1, 0))
        if answer and start >= 0:
            pairs.append(replace(pair, question=normalize(pair.question).text, answer=answer, answer_start=start))
    return replace(passage, text=text.text, pairs=tuple(pairs))


# Names and numbers; a name that opens a sentence may be none, so a few words that often do are left out.
_FACT = re.compile(r"\d[\d,.]*\d|\d|[A-Z][\w'-]*(?: [A-Z][\w'-]*)*")
_NO_NAME = re.compile(
    r"(?:(?:The|An?|In|On|At|It|He|She|They|We|I|This|That|There|But|And|As|For|From|After|When)(?: |$))+"
)


def with_distractors(passages: Sequence[Passage], seed: int, count: int = 1, foreign: int = 0) -> list[Passage]:
    """
    Gives each pair wrong answers, for the ranking of answers that [`QAGenTrainer`] adds.

    Wrong answers are answers of the text's other pairs, names and numbers: what a summary says that confuses its
    document. Foreign ones are answers from other texts that the text itself does not hold: what a summary makes up.
    Those of the right answer's kind (with digits, with a capital letter, neither) are preferred; none that holds the
    right answer or is held by it is taken, and of other texts only some of its kind.

    Args:
        passages (`Sequence[Passage]`): Texts with their pairs.
        seed (`int`): Seed of the choice.
        count (`int`, *optional*, defaults to 1): Wrong answers a pair from its own text, as far as it offers so many.
        foreign (`int`, *optional*, defaults to 0): Wrong answers a pair from other texts, as far as some are found.

    Returns:
        `list[Passage]`: the same passages; pairs have up to `count + foreign` different `distractors`.
    """
    rng = random.Random(seed)
    answers: dict[str, list[str]] = {}
    for passage in passages:
        for pair in passage.pairs:
            answers.setdefault(_kind(pair.answer), []).append(pair.answer)
    results = []
    for passage in passages:
        facts = [_NO_NAME.sub("", match.group()) for match in _FACT.finditer(passage.text)]
        offered = sorted({pair.answer for pair in passage.pairs} | {fact for fact in facts if fact})
        folded = passage.text.casefold()
        pairs = []
        for pair in passage.pairs:
            wrong = [other for other in offered if not _overlap(pair.answer, other)]
            rng.shuffle(wrong)
            wrong.sort(key=lambda other: _kind(other) != _kind(pair.answer))
            elsewhere = answers[_kind(pair.answer)]
            drawn = rng.sample(elsewhere, min(_FOREIGN_DRAWS * foreign, len(elsewhere)))
            unheld = [other for other in drawn if other.casefold() not in folded and not _overlap(pair.answer, other)]
            pairs.append(replace(pair, distractors=(*wrong[:count], *list(dict.fromkeys(unheld))[:foreign])))
        results.append(replace(passage, pairs=tuple(pairs)))
    return results


def _overlap(answer: str, other: str) -> bool:
    answer, other = answer.casefold(), other.casefold()
    return answer in other or other in answer


def _kind(answer: str) -> str:
    if any(char.isdigit() for char in answer):
        return "number"
    return "name" if any(char.isupper() for char in answer) else "other"


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
    hold an answer, as it is, or joined with others, those of its article first: a document is about one story, and a
    question about it fits several places. Some texts are lowercased whole, since much of the data of summarization is.

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
    articles = {passage.group: number for number, passage in enumerate(to_join)}
    to_join.sort(key=lambda passage: articles[passage.group])
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
            pairs = tuple(replace(p, answer_start=p.answer_start - start) for p in inside)
            sentences.append(Passage(passage.text[start:end].rstrip(), pairs, passage.group))
    return sentences


def _join(passages: Sequence[Passage]) -> Passage:
    text, pairs = "", []
    for passage in passages:
        offset = len(text)
        pairs += [replace(p, answer_start=p.answer_start + offset) for p in passage.pairs]
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
    question_share: float = 1.0,
    seed: int = 0,
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
        question_share (`float`, *optional*, defaults to 1.0):
            Share of pairs whose question is learned; of the others only the answer is. Most of a pair's tokens are its
            question's, and which question comes next cannot be known: with a small share reading is what is learned.
        seed (`int`, *optional*, defaults to 0): Seed of the choice of these pairs.

    Returns:
        `tuple[list[dict], dict[str, int]]`: features `{"input_ids": list[int], "pairs": list[list[int]],
        "distractors": list[list[list[int]]], "unlearned": list[int], "length": int}` (`unlearned` counts the first
        tokens of a pair that are not learned), of a text with many pairs several; and how many there are, how many
        pairs, and how many pairs were left out because they are too long, or their text had to be cut, so that the
        answer might be missing.

    Raises:
        `ValueError`: if questions are to be left out and the template writes answers first.
    """
    if question_share < 1 and not template.question_first:
        raise ValueError(
            f"question_share={question_share} needs a template with questions first, not {template.pair!r}."
        )
    rng = random.Random(seed)
    encoded = template.encode_texts(
        tokenizer, [p.text for p in passages], max_length=max_length, is_encoder_decoder=is_encoder_decoder
    )
    features = []
    counts = {"texts": 0, "pairs": 0, "pairs_too_long": 0, "pairs_of_truncated_texts": 0}
    for passage, text in zip(passages, encoded, strict=True):
        if text.truncated:
            counts["pairs_of_truncated_texts"] += len(passage.pairs)
            continue
        kept: list[dict[str, Any]] = []
        for pair in passage.pairs:
            ids, *others = (
                template.encode_pair(tokenizer, pair.question, answer, is_encoder_decoder=is_encoder_decoder)
                for answer in (pair.answer, *pair.distractors)
            )
            if len(ids) > max_pair_length:
                counts["pairs_too_long"] += 1
                continue
            others = [other for other in others if len(other) <= max_pair_length]
            learned = rng.random() < question_share
            unlearned = 0 if learned else _question_length(ids, pair, tokenizer, template, is_encoder_decoder)
            kept.append({"pairs": ids, "distractors": others, "unlearned": unlearned})
        lengths = [_num_tokens(one["pairs"], one["distractors"], is_encoder_decoder) for one in kept]
        for part in _parts(lengths):
            length = len(text.input_ids) + sum(lengths[part])
            columns = {name: [one[name] for one in kept[part]] for name in ("pairs", "distractors", "unlearned")}
            features.append({"input_ids": text.input_ids, **columns, "length": length})
            counts["texts"] += 1
            counts["pairs"] += len(kept[part])
    return features, counts


def _question_length(
    ids: Sequence[int],
    pair: Pair,
    tokenizer: PreTrainedTokenizerBase,
    template: QATemplate,
    is_encoder_decoder: bool,
) -> int:
    """How many tokens of a pair come before its answer."""
    begin, _ = template.special_tokens(tokenizer) if is_encoder_decoder else ([], [])
    before = template.format_pair(pair.question, "").rstrip(" ")
    return _common_prefix(ids, begin + tokenizer(before, add_special_tokens=False)["input_ids"])


def _num_tokens(ids: Sequence[int], others: Sequence[Sequence[int]], is_encoder_decoder: bool) -> int:
    """Tokens of a pair and its distractors, which for decoder-only models branch off behind what all share."""
    shared = 1 if is_encoder_decoder else _common_prefix(ids, *others)
    return len(ids) + sum(len(other) - shared + 1 for other in others)


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Neighbours of at most `_MOST_PAIR_TOKENS` together (or one that is longer): bounds the memory of a row."""
    first, total = 0, 0
    for number, length in enumerate(lengths):
        if number > first and total + length > _MOST_PAIR_TOKENS:
            yield slice(first, number)
            first, total = number, 0
        total += length
    if lengths:
        yield slice(first, len(lengths))


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
        `input_ids`, `attention_mask`, `labels` and what the family needs beside them. For decoder-only models each row
        is a prompt and its pairs packed behind it; `labels` are of shape `(batch, columns of pairs)`, and
        `logits_to_keep` lets the model compute the vocabulary only there. For encoder–decoder models `labels` are of
        shape `(pairs, length)`, and `text_of_pair` of shape `(pairs,)` tells whose pair each is. Where pairs have
        distractors, `ranked_labels` (the tokens of right and wrong answers, -100 elsewhere) and `answer_number` (n for
        a token of the n-th answer, 0 elsewhere), both of the shape of `labels`, and `comparisons` of shape
        `(comparisons, 2)`: the numbers of a right answer and of a wrong one.
    """

    pad_token_id: int
    is_encoder_decoder: bool
    dtype: torch.dtype = torch.float32
    pad_to_multiple_of: int = 32

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return self._encoder_decoder(features) if self.is_encoder_decoder else self._decoder_only(features)

    def _decoder_only(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = [feature["input_ids"] for feature in features]
        rows: list[list[Continuation]] = []
        # What is learned of each continuation: from which of its tokens on by likelihood (none of a distractor), from
        # which on in the ranking, and the number of its answer there (0 for an answer that is not compared).
        learned: list[list[tuple[int | None, int, int]]] = []
        comparisons: list[tuple[int, int]] = []
        numbers = itertools.count(1)
        for feature in features:
            start = len(feature["input_ids"]) - 1
            row: list[Continuation] = []
            roles: list[tuple[int | None, int, int]] = []
            for ids, others, unlearned in _pairs_of(feature):
                trunk, shared = len(row), _common_prefix(ids, *others)
                right = next(numbers) if others else 0
                row.append(Continuation([feature["input_ids"][-1], *ids], start))
                roles.append((1 + unlearned, 1 + shared, right))
                for other in others:
                    # A wrong answer branches off behind the question, which is not computed again.
                    tokens = [feature["input_ids"][-1], *other][shared:]
                    row.append(Continuation(tokens, start + shared, trunk))
                    roles.append((None, 1, next(numbers)))
                    comparisons.append((right, roles[-1][2]))
            rows.append(row)
            learned.append(roles)
        packed = pack_continuations(rows, self.pad_token_id, self.pad_to_multiple_of)
        labels, ranked = (torch.full_like(packed.input_ids, -100) for _ in range(2))
        answer_number = torch.zeros_like(packed.input_ids)
        for b, (spans, roles) in enumerate(zip(packed.spans, learned, strict=True)):
            for span, (likely, first, number) in zip(spans, roles, strict=True):
                if likely is not None:
                    labels[b, span.start + likely : span.stop] = packed.input_ids[b, span.start + likely : span.stop]
                if number:
                    answer = slice(span.start + first, span.stop)
                    ranked[b, answer] = packed.input_ids[b, answer]
                    answer_number[b, answer] = number
        width = round_up(max(len(prompt) - 1 for prompt in prompts), self.pad_to_multiple_of)
        prompt_ids = torch.full((len(prompts), width), self.pad_token_id)
        prompt_mask = torch.zeros_like(prompt_ids)
        for b, prompt in enumerate(prompts):
            prompt_ids[b, width - len(prompt) + 1 :] = torch.tensor(prompt[:-1], dtype=torch.long)
            prompt_mask[b, width - len(prompt) + 1 :] = 1
        mask = mask_behind_prompts(prompt_mask, packed.visible)
        positions = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
        columns, kept = width + labels.shape[1], labels.shape[1]
        return {
            "input_ids": torch.cat([prompt_ids, packed.input_ids], dim=1),
            "position_ids": torch.cat([positions, packed.position_ids], dim=1),
            "attention_mask": additive_mask(mask, self.dtype),
            "labels": labels,
            # Indices, not a number: a slice is not contiguous, and its product copies the vocabulary's matrix a row.
            "logits_to_keep": torch.arange(columns - kept, columns),
            **_ranking(ranked, answer_number, comparisons),
        }

    def _encoder_decoder(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = [feature["input_ids"] for feature in features]
        targets: list[list[int]] = []
        labels: list[list[int]] = []
        ranked: list[list[int]] = []
        answer_number: list[list[int]] = []
        text_of_pair = []
        comparisons: list[tuple[int, int]] = []
        for number, feature in enumerate(features):
            for ids, others, unlearned in _pairs_of(feature):
                shared = _common_prefix(ids, *others) if others else len(ids)
                right = len(targets) + 1
                for sequence in (ids, *others):
                    targets.append(sequence)
                    is_right = len(targets) == right
                    labels.append([-100] * unlearned + ids[unlearned:] if is_right else [-100] * len(sequence))
                    ranked.append([-100] * shared + sequence[shared:])
                    answer_number.append([0] * shared + [len(targets)] * (len(sequence) - shared))
                    comparisons += [] if is_right else [(right, len(targets))]
                    text_of_pair.append(number)
        batch = {
            "input_ids": _pad(prompts, self.pad_token_id),
            "attention_mask": _pad([[1] * len(prompt) for prompt in prompts], 0),
            "labels": _pad(labels, -100),
            "text_of_pair": torch.tensor(text_of_pair),
        }
        if comparisons or any(any(feature.get("unlearned", ())) for feature in features):
            # Labels that are left out are inputs all the same, and the model would make its inputs of the labels.
            batch["target_ids"] = _pad(targets, -100)
        return batch | _ranking(_pad(ranked, -100), _pad(answer_number, 0), comparisons)


def _ranking(
    ranked_labels: torch.Tensor, answer_number: torch.Tensor, comparisons: list[tuple[int, int]]
) -> dict[str, torch.Tensor]:
    if not comparisons:
        return {}
    return {
        "ranked_labels": ranked_labels,
        "answer_number": answer_number,
        "comparisons": torch.tensor(comparisons),
    }


def _pairs_of(feature: dict[str, Any]) -> Iterator[tuple[list[int], list[list[int]], int]]:
    """The tokens of each pair, those of its distractors, and how many of its first tokens are not learned."""
    pairs = feature["pairs"]
    distractors = feature.get("distractors") or [[]] * len(pairs)
    return zip(pairs, distractors, feature.get("unlearned") or [0] * len(pairs), strict=True)


def _common_prefix(ids: Sequence[int], *others: Sequence[int]) -> int:
    """How many first tokens all have in common."""
    columns = zip(ids, *others, strict=False)
    shortest = min(len(sequence) for sequence in (ids, *others))
    return next((n for n, column in enumerate(columns) if len(set(column)) > 1), shortest)


def _pad(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(sequence) for sequence in sequences], batch_first=True, padding_value=value
    )


class QAGenTrainer(Seq2SeqTrainer):
    """
    `Seq2SeqTrainer` that runs an encoder once for all the pairs of a text, and ranks right answers above wrong ones.

    The likelihood's loss is the model's own. Where pairs have distractors, `ranking_weight` times the mean of
    `-log sigmoid(log p(answer | question, text) - log p(distractor | question, text))` is added: the judge must tell
    what answers a question from what does not, which likelihood alone does not ask of it.

    Args:
        ranking_weight (`float`, *optional*, defaults to 0.5): Weight of the ranking.
        *args, **kwargs: Arguments of `Seq2SeqTrainer`.
    """

    def __init__(self, *args: Any, ranking_weight: float = 0.5, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.ranking_weight = ranking_weight
        trained: Any = self.model
        if trained.config.is_encoder_decoder:
            # True of any model whose forward takes keyword arguments, though BART's and T5's loss stays a mean over
            # the batch. As means, Trainer divides likelihood and ranking alike by the batches of a step.
            self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ranking = [inputs.pop(name, None) for name in ("ranked_labels", "answer_number", "comparisons")]
        is_encoder_decoder = "text_of_pair" in inputs
        if is_encoder_decoder:
            self._encode_once(model, inputs)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        logits, (ranked_labels, answer_number, comparisons) = outputs["logits"], ranking
        if comparisons is not None:
            if not is_encoder_decoder:
                logits, ranked_labels, answer_number = logits[:, :-1], ranked_labels[:, 1:], answer_number[:, 1:]
            ranked = ranking_loss(logits, ranked_labels, answer_number, comparisons)
            # Training adds up the losses of a step's batches where tokens are counted over the step.
            is_summed = model.training and num_items_in_batch is not None
            loss = loss + self.ranking_weight * ranked / (self.current_gradient_accumulation_steps if is_summed else 1)
        return (loss, outputs) if return_outputs else loss

    def _encode_once(self, model, inputs) -> None:
        text_of_pair = inputs.pop("text_of_pair")
        input_ids = inputs.pop("input_ids")
        attention_mask = inputs["attention_mask"]
        base = self.accelerator.unwrap_model(model)
        # Mixed precision is put around the model's forward alone, of which this is no part.
        with self.accelerator.autocast():
            states = base.get_encoder()(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        states.last_hidden_state = states.last_hidden_state[text_of_pair]
        inputs["encoder_outputs"] = states
        inputs["attention_mask"] = attention_mask[text_of_pair]
        target_ids = inputs.pop("target_ids", None)
        if target_ids is None and (self.label_smoother is not None or self.compute_loss_func is not None):
            # Then Trainer keeps the labels to itself, and the model cannot make its inputs of them.
            target_ids = inputs["labels"]
        if target_ids is not None:
            inputs["decoder_input_ids"] = base.prepare_decoder_input_ids_from_labels(labels=target_ids)


def ranking_loss(
    logits: torch.Tensor, labels: torch.Tensor, answer_number: torch.Tensor, comparisons: torch.Tensor
) -> torch.Tensor:
    r"""
    `mean of -log sigmoid(log p(right answer) - log p(wrong answer))` over the comparisons of a batch.

    Args:
        logits (`torch.Tensor` of shape `(batch, columns, vocabulary)`): Logits of each column's label.
        labels (`torch.LongTensor` of shape `(batch, columns)`): Tokens of right and wrong answers, -100 elsewhere.
        answer_number (`torch.LongTensor` of shape `(batch, columns)`): n for a token of the n-th answer, 0 elsewhere.
        comparisons (`torch.LongTensor` of shape `(comparisons, 2)`): The numbers of a right answer and of a wrong one.

    Returns:
        `torch.Tensor`: a scalar in float32.
    """
    is_compared = answer_number != 0
    chosen, numbers = logits[is_compared].float(), answer_number[is_compared]
    log_probs = chosen.gather(-1, labels[is_compared][:, None]).squeeze(-1) - chosen.logsumexp(-1)
    answers = log_probs.new_zeros(int(comparisons.max()) + 1).index_add(0, numbers, log_probs)  # (answers + 1,)
    margins = answers[comparisons[:, 0]] - answers[comparisons[:, 1]]
    return -torch.nn.functional.logsigmoid(margins).mean()
