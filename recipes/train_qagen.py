"""
Trains a QAGen: a model that reads a text and writes `question <sep> answer` pairs about it.

Works for encoder–decoder and decoder-only models, full fine-tuning or LoRA, on Hub datasets or SQuAD JSON files.

BART-large on SQuAD, all weights (as in the QUALS paper):

    python recipes/train_qagen.py --model_name_or_path facebook/bart-large --train_data rajpurkar/squad \\
        --prompt "{text}" --pair "{question} <sep> {answer}" \\
        --learning_rate 3e-5 --num_train_epochs 2 --per_device_train_batch_size 8 --output_dir qagen-bart-large

A decoder-only model with LoRA:

    python recipes/train_qagen.py --model_name_or_path Qwen/Qwen3-0.6B --train_data rajpurkar/squad --lora_r 16 \\
        --learning_rate 5e-4 --bf16 --output_dir qagen-qwen

The package's default adapter (see its model card): `recipes/default_qagen.yaml`, on a CPU:

    python recipes/train_qagen.py recipes/default_qagen.yaml --model_name_or_path ADAPTER --train_data DATA/*.json \\
        --output_dir qagen-default

A run that was cut off goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import transformers
from common import ModelArguments, base_and_adapter, base_options, leave_together, load_model, parse_arguments
from transformers import Seq2SeqTrainingArguments, set_seed

from hf_quals import QAGenModel, QAPair
from hf_quals.contrastive.trainer import last_complete_checkpoint
from hf_quals.qagen.template import QATemplate
from hf_quals.qagen.training import (
    DataCollatorForQAGen,
    Passage,
    QAGenTrainer,
    hold_out,
    in_normal_form,
    load_squad,
    tokenize_passages,
    vary_lengths,
    with_distractors,
)
from hf_quals.quals.pairs import same_answer, select_pairs


logger = logging.getLogger("train_qagen")


@dataclass(kw_only=True)
class QAGenArguments(ModelArguments):
    """What to train, on what; the rest is [`~transformers.Seq2SeqTrainingArguments`]."""

    train_data: list[str] = field(
        metadata={"help": "SQuAD JSON files, or datasets of the Hub in SQuAD form (`rajpurkar/squad`)."}
    )
    prompt: str = field(default=QATemplate.prompt, metadata={"help": "QATemplate.prompt: what the model reads."})
    pair: str = field(default=QATemplate.pair, metadata={"help": "QATemplate.pair: what the model writes."})
    adapter_dtype: str | None = field(
        default=None, metadata={"help": "Type the finished adapter is saved in (`float16` halves it); else float32."}
    )
    max_length: int = field(default=1024, metadata={"help": "The most tokens of a text."})
    max_pair_length: int = field(default=64, metadata={"help": "The most tokens of a pair; longer ones are left out."})
    held_out: int = field(default=250, metadata={"help": "The least number of passages held out for evaluation."})
    variants: int = field(
        default=1, metadata={"help": "An epoch holds every passage this often, cut and joined differently each time."}
    )
    sentence_share: float = field(default=0.3, metadata={"help": "Share of passages cut into single sentences."})
    joined_share: float = field(default=0.4, metadata={"help": "Share of passages joined into longer documents."})
    max_joined_characters: int = field(default=1700, metadata={"help": "The most characters of a joined document."})
    lowercase_share: float = field(default=0.25, metadata={"help": "Share of texts that are lowercased."})
    normal_form: bool = field(default=True, metadata={"help": "Train on texts in normal form, as they are scored."})
    ranking_weight: float = field(
        default=0.5,
        metadata={"help": "Weight of ranking right answers above wrong ones; 0 for none."},
    )
    num_distractors: int = field(default=1, metadata={"help": "Wrong answers a pair from its own text."})
    num_foreign_distractors: int = field(default=0, metadata={"help": "Wrong answers a pair from other texts."})
    question_share: float = field(
        default=1.0, metadata={"help": "Share of pairs whose question is learned; of the others only the answer is."}
    )
    generate_on: int = field(
        default=50,
        metadata={"help": "Held-out passages to write about and to read at the end; 0 leaves that out."},
    )

    def __post_init__(self):
        for name in ("sentence_share", "joined_share", "lowercase_share", "question_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")
        if self.sentence_share + self.joined_share > 1:
            raise ValueError("sentence_share and joined_share are shares of the same passages: at most 1 together.")
        if self.variants < 1:
            raise ValueError(f"variants must be at least 1, got {self.variants}.")
        if min(self.num_distractors, self.num_foreign_distractors) < 0:
            raise ValueError("num_distractors and num_foreign_distractors must not be negative.")
        if self.ranking_weight and not (self.num_distractors or self.num_foreign_distractors):
            raise ValueError(
                f"ranking_weight={self.ranking_weight} needs distractors, got none. Pass ranking_weight=0."
            )
        if self.question_share < 1 and not QATemplate(self.prompt, self.pair).question_first:
            raise ValueError(f"question_share={self.question_share} needs questions first in pair={self.pair!r}.")


def evaluate_generation(model: QAGenModel, texts: list[str]) -> dict[str, float]:
    """
    How good the pairs are that a QAGen writes about texts it has not seen.

    Args:
        model (`QAGenModel`): The model.
        texts (`Sequence[str]`): Texts to ask about.

    Returns:
        `dict[str, float]`: `generated_pairs_per_text`; `share_parsable`, of the generated; `share_answer_is_span`, of
        the parsable, whose answer is an exact span of the text; `share_usable`, of the generated, that are distinct
        pairs with a case-folded answer in the text, which QUALS keeps.
    """
    generated = parsable = spans = usable = 0
    for text, pairs in zip(texts, model.generate(texts), strict=True):
        parsed = [pair for pair in pairs if pair.is_pair]
        selection = select_pairs(pairs, text, max_pairs=len(pairs))
        generated += len(pairs)
        parsable += len(parsed)
        spans += sum(pair.answer in text for pair in parsed)
        usable += len(selection.kept)
    return {
        "generated_pairs_per_text": generated / len(texts),
        "share_parsable": parsable / generated,
        "share_answer_is_span": spans / max(parsable, 1),
        "share_usable": usable / generated,
    }


def evaluate_reading(model: QAGenModel, passages: Sequence[Passage]) -> dict[str, float]:
    """
    How well a QAGen reads texts it has not seen.

    Args:
        model (`QAGenModel`): The model.
        passages (`Sequence[Passage]`): Texts with pairs that have distractors ([`with_distractors`]).

    Returns:
        `dict[str, float]`: `answer_beats_distractor`, the share of pairs whose right answer is more probable than the
        wrong one from the same text; `answer_is_given`, the share of questions that the model answers greedily with
        words that hold the right answer. Empty if no pair has a distractor.
    """
    asked = [replace(passage, pairs=tuple(p for p in passage.pairs if p.distractors)) for passage in passages]
    asked = [passage for passage in asked if passage.pairs]
    if not asked:
        return {}
    texts = [passage.text for passage in asked]

    def log_probs(answers: list[list[str]]) -> list[float]:
        ids = [
            [
                model.template.encode_pair(
                    model.tokenizer, pair.question, answer, is_encoder_decoder=model.is_encoder_decoder
                )
                for pair, answer in zip(passage.pairs, part, strict=True)
            ]
            for passage, part in zip(asked, answers, strict=True)
        ]
        pairs = [[QAPair("", "", tuple(one), (), len(one), "") for one in part] for part in ids]
        return [sum(values) for part in model.log_probs(texts, pairs, batch_size=2) for values in part]

    right = log_probs([[pair.answer for pair in passage.pairs] for passage in asked])
    wrong = log_probs([[pair.distractors[0] for pair in passage.pairs] for passage in asked])
    given = model.answer(texts, [[pair.question for pair in passage.pairs] for passage in asked], batch_size=2)
    correct = [
        same_answer(pair.answer, answer)
        for passage, part in zip(asked, given, strict=True)
        for pair, answer in zip(passage.pairs, part, strict=True)
    ]
    return {
        "answer_beats_distractor": sum(a > b for a, b in zip(right, wrong, strict=True)) / len(right),
        "answer_is_given": sum(correct) / len(correct),
    }


def num_pairs(passages: Sequence[Passage]) -> int:
    return sum(len(passage.pairs) for passage in passages)


def main():
    args, training_args = parse_arguments(QAGenArguments, Seq2SeqTrainingArguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers.utils.logging.set_verbosity_info()
    template = QATemplate(prompt=args.prompt, pair=args.pair)
    set_seed(training_args.seed)

    passages = [passage for name in args.train_data for passage in load_squad(name)]
    num_read = num_pairs(passages)
    if args.normal_form:
        passages = [in_normal_form(passage) for passage in passages]
    train, held_out = hold_out(passages, args.held_out, training_args.seed)

    model, tokenizer = load_model(args)
    is_encoder_decoder = model.config.is_encoder_decoder
    weights_dtype = model.dtype

    def features(texts, **kwargs):
        rows, counts = tokenize_passages(
            texts,
            tokenizer,
            template,
            is_encoder_decoder=is_encoder_decoder,
            max_length=args.max_length,
            max_pair_length=args.max_pair_length,
            **kwargs,
        )
        logger.info("%s", counts)
        return rows, counts

    names = ("sentence_share", "joined_share", "max_joined_characters", "lowercase_share")
    shares = {name: getattr(args, name) for name in names}
    varied = [
        text
        for seed in range(training_args.seed, training_args.seed + args.variants)
        for text in vary_lengths(train, seed=seed, **shares)
    ]
    left_out = {
        "answer_not_in_normal_form": num_read - num_pairs([*train, *held_out]),
        "answer_over_the_end_of_a_sentence": args.variants * num_pairs(train) - num_pairs(varied),
    }
    logger.info("Questions left out: %s", left_out)
    if args.ranking_weight:
        varied = with_distractors(varied, training_args.seed, args.num_distractors, args.num_foreign_distractors)
    train_features, train_counts = features(varied, question_share=args.question_share, seed=training_args.seed)
    eval_features, eval_counts = features(held_out)

    # The collator pads and packs by itself; nothing of a feature is an argument of the model's forward.
    training_args.remove_unused_columns = False
    training_args.label_names = ["labels"]
    training_args.prediction_loss_only = True
    trainer = QAGenTrainer(
        model=model,
        args=training_args,
        train_dataset=train_features,
        eval_dataset=eval_features,
        data_collator=DataCollatorForQAGen(tokenizer.pad_token_id, is_encoder_decoder, weights_dtype),
        processing_class=tokenizer,
        ranking_weight=args.ranking_weight,
    )
    output_dir = Path(training_args.output_dir)
    last = last_complete_checkpoint(output_dir)
    if last:
        logger.info("Going on from %s", last)
    result = trainer.train(resume_from_checkpoint=last)
    metrics = {
        **result.metrics,
        **trainer.evaluate(),
        "questions_left_out": left_out,
        "train_data": train_counts,
        "held_out_data": eval_counts,
        "steps": trainer.state.global_step,
    }
    if args.lora_r:
        for parameter in model.parameters():
            if parameter.requires_grad and args.adapter_dtype:
                parameter.data = parameter.data.to(getattr(torch, args.adapter_dtype))
    trainer.save_model()
    template.save_pretrained(output_dir)
    if args.generate_on:
        if args.lora_r:
            base, before = base_and_adapter(args.model_name_or_path)
            qagen = QAGenModel.from_pretrained(base, adapter=output_dir, **base_options(before))
        else:
            qagen = QAGenModel.from_pretrained(output_dir)
        some = held_out[: args.generate_on]
        metrics.update(evaluate_generation(qagen, [passage.text for passage in some]))
        metrics.update(evaluate_reading(qagen, with_distractors(some, training_args.seed)))
    trainer.save_metrics("all", metrics)
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
    leave_together()
