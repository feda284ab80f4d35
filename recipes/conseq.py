"""
Trains a summarizer that stays with the facts: maximum likelihood first, contrastive training from there.

Works for encoder–decoder and decoder-only models, all weights or LoRA, on Hub datasets or local files.

BART-large on XSum, as in the paper (https://huggingface.co/papers/2105.04623), on eight GPUs:

    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/conseq.py recipes/bart_large_xsum.yaml \\
        --output_dir results/xsum

The contrastive stage alone, from a model of the Hub that is fine-tuned already:

    python recipes/conseq.py recipes/bart_large_cnn_dailymail.yaml --stage conseq \\
        --model_name_or_path facebook/bart-large-cnn --output_dir results/cnn

The package's default base model on SciTLDR, on a CPU:

    python recipes/conseq.py recipes/smollm2_scitldr_cpu.yaml --dataset scitldr/train.jsonl \\
        --eval_dataset scitldr/test.jsonl --output_dir results/scitldr

Its control, maximum likelihood for as many more steps:

    python recipes/conseq.py recipes/smollm2_scitldr_cpu.yaml --dataset scitldr/train.jsonl \\
        --eval_dataset scitldr/test.jsonl --stage conseq --selection none \\
        --model_name_or_path results/scitldr/mle --max_steps 72 --output_dir results/scitldr_none

Stages write into `output_dir/mle` and `output_dir/conseq`: the model, its card, `predictions.jsonl` (document,
reference, summary and QUALS of each held-out row), `all_results.json`, and, where S+ and S- were chosen,
`preferences.jsonl`, which `dpo.py` trains on. The same command given again goes on where
it was cut off, and leaves a finished stage as it is.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.utils import gather_object, parse_flag_from_env
from common import ModelArguments, given, leave_together, load_model, parse_arguments, with_prefix
from datasets import Dataset, load_dataset
from transformers import DataCollatorForSeq2Seq, set_seed

from hf_quals import (
    ContrastiveSeq2SeqTrainer,
    ContrastiveSeq2SeqTrainingArguments,
    QualsCallback,
    QualsCallbackConfig,
    QualsConfig,
    QualsScorer,
)
from hf_quals.contrastive.checks import check_settings
from hf_quals.contrastive.evaluation import table_metrics, write_table
from hf_quals.contrastive.scoring import score_summaries
from hf_quals.contrastive.trainer import last_complete_checkpoint
from hf_quals.files import nan_to_none, write_atomically
from hf_quals.judges.rouge import RougeScorer, rouge
from hf_quals.qagen.template import QATemplate
from hf_quals.quals.config import find_config


logger = logging.getLogger("conseq")

BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
# What the paper trains with, where it says so.
PAPER = {
    "learning_rate": 3e-6,
    "num_train_epochs": 2,
    "max_grad_norm": 0.1,
    "lr_scheduler_type": "polynomial",
    "label_smoothing_factor": 0.1,
    "predict_with_generate": True,
}


@dataclass(kw_only=True)
class ConseqArguments(ModelArguments):
    """
    What to train, on what; the rest is [`QualsCallbackConfig`], of which `max_new_tokens` and `batch_size` count for
    every evaluation, [`QualsConfig`] behind `quals_` (what is not given is the QAGen's own), and
    [`ContrastiveSeq2SeqTrainingArguments`].
    """

    dataset: str = field(metadata={"help": "A dataset of the Hub, or a local .jsonl, .json, .csv or .parquet file."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    train_split: str = field(default="train", metadata={"help": "Split of a Hub dataset to train on."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Held-out rows; `dataset` if left out."})
    eval_split: str = field(default="validation", metadata={"help": "Split of a Hub dataset that is held out."})
    document_column: str = field(
        default="document", metadata={"help": "Column of documents: text, or a list of sentences, which are joined."}
    )
    summary_column: str = field(
        default="summary",
        metadata={"help": "Column of references: text, or a list of them, the first of which counts."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many rows."})
    max_contrastive_samples: int | None = field(
        default=None, metadata={"help": "Of these, the contrastive stage samples and scores the first so many."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many rows."})

    prompt: str | None = field(
        default=None,
        metadata={"help": "What the model reads; `{text}\\n\\nTL;DR:` (decoder-only) or `{text}` if left out."},
    )
    max_document_length: int = field(default=1024, metadata={"help": "The most tokens of a document and its prompt."})
    max_summary_length: int = field(default=128, metadata={"help": "The most tokens of a reference."})

    stage: str = field(
        default="all",
        metadata={"help": "`mle`, `conseq` (from --model_name_or_path), or `all`: one after the other."},
    )
    mle_learning_rate: float = field(
        default=3e-5, metadata={"help": "`learning_rate` of the maximum-likelihood stage."}
    )
    mle_num_train_epochs: float = field(default=3, metadata={"help": "`num_train_epochs` of the same."})

    selection: str = field(
        default="quals",
        metadata={
            "help": "How the contrastive stage chooses S+ and S-: `quals`, `rouge` (mean of ROUGE-1/2/L against the "
            "reference, with all references in S+), or `none`: maximum likelihood goes on, as a control."
        },
    )

    quals_model: str | None = field(default=None, metadata={"help": "The QAGen; the package's default if left out."})
    quals_dtype: str = field(default="auto", metadata={"help": "Type of the QAGen's weights."})

    def __post_init__(self):
        for name, values in (("stage", ("mle", "conseq", "all")), ("selection", ("quals", "rouge", "none"))):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}.")
        for name in ("max_train_samples", "max_contrastive_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        is_same = self.eval_dataset in (None, self.dataset)
        if is_same and (Path(self.dataset).suffix in BUILDERS or self.eval_split == self.train_split):
            raise ValueError(
                f"The rows to evaluate on would be those to train on: name other ones with --eval_dataset, or another "
                f"split of {self.dataset} with --eval_split."
            )
        if self.max_summary_length < 2:
            raise ValueError(f"max_summary_length must be at least 2, got {self.max_summary_length}.")


ARGUMENTS = (
    ConseqArguments,
    QualsCallbackConfig,
    with_prefix(QualsConfig, "quals_"),
    ContrastiveSeq2SeqTrainingArguments,
)


# ---- Data ----


def load_texts(name: str, split: str, max_samples: int | None, args: ConseqArguments) -> Dataset:
    """
    Loads documents and references.

    Args:
        name (`str`): A dataset of the Hub or a local file.
        split (`str`): Split of a Hub dataset.
        max_samples (`int`, *optional*): Takes the first so many.
        args (`ConseqArguments`): Which columns, and which configuration of a Hub dataset.

    Returns:
        `Dataset`: columns `document` and `reference`.

    Raises:
        `ValueError`: if a column is missing, a value is no text, or no row has both.
    """
    if builder := BUILDERS.get(Path(name).suffix):
        dataset = load_dataset(builder, data_files=name, split="train")
    else:
        dataset = load_dataset(name, args.dataset_config, split=split)
    columns = {"document": args.document_column, "reference": args.summary_column}
    for flag, column in (("document_column", args.document_column), ("summary_column", args.summary_column)):
        if column not in dataset.column_names:
            raise ValueError(
                f"{name} has no column {column!r}, it has {', '.join(dataset.column_names)}: name one with --{flag}."
            )
    texts = dataset.map(
        lambda row: {new: _text(row[old], new, f"{name}, column {old!r}") for new, old in columns.items()},
        remove_columns=dataset.column_names,
    )
    complete = texts.filter(lambda row: row["document"] and row["reference"])
    if len(complete) < len(texts):
        logger.warning("%s: %d rows without document or summary are left out.", name, len(texts) - len(complete))
    if not len(complete):
        raise ValueError(f"{name} has no row with a document and a summary.")
    return complete if max_samples is None else complete.select(range(min(max_samples, len(complete))))


def _text(value: Any, role: str, source: str) -> str:
    if isinstance(value, list):
        value = " ".join(value) if role == "document" else next(iter(value), "")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{source} must hold text or lists of texts, got {type(value).__name__}.")
    return value.strip()


def tokenize(dataset: Dataset, tokenizer, is_encoder_decoder: bool, args: ConseqArguments) -> Dataset:
    """
    Adds `input_ids` and `labels`; texts that are too long lose their end, but not their end marker, and are counted.

    A decoder-only model reads prompt and summary, and learns the summary only.
    """
    template = QATemplate(prompt=args.prompt or ("{text}" if is_encoder_decoder else "{text}\n\nTL;DR:"))

    def features(rows: dict[str, list[str]]) -> dict[str, list]:
        documents = template.encode_texts(
            tokenizer, rows["document"], max_length=args.max_document_length, is_encoder_decoder=is_encoder_decoder
        )
        if is_encoder_decoder:
            summaries = tokenizer(text_target=rows["reference"], verbose=False)["input_ids"]
        else:
            ids = tokenizer([f" {text}" for text in rows["reference"]], add_special_tokens=False)["input_ids"]
            summaries = [[*row, tokenizer.eos_token_id] for row in ids]
        most = args.max_summary_length
        labels = [ids if len(ids) <= most else [*ids[: most - 1], ids[-1]] for ids in summaries]
        prompts = [document.input_ids for document in documents]
        cut = {
            "document_truncated": [document.truncated for document in documents],
            "summary_truncated": [len(ids) > most for ids in summaries],
        }
        if is_encoder_decoder:
            return {"input_ids": prompts, "labels": labels, **cut}
        return {
            "input_ids": [prompt + ids for prompt, ids in zip(prompts, labels, strict=True)],
            "labels": [[-100] * len(prompt) + ids for prompt, ids in zip(prompts, labels, strict=True)],
            **cut,
        }

    tokenized = dataset.map(features, batched=True)
    counts = {name: sum(tokenized[name]) for name in ("document_truncated", "summary_truncated")}
    logger.info("%d rows, %s", len(tokenized), counts)
    return tokenized.remove_columns(list(counts))


# ---- Training ----


def run_stage(
    stage: str,
    model_name_or_path: str | None,
    args: ConseqArguments,
    config: QualsCallbackConfig,
    training_args: ContrastiveSeq2SeqTrainingArguments,
    texts: dict[str, Dataset],
    scorer: QualsScorer,
) -> str:
    """Trains and evaluates one stage; returns the folder of its model."""
    folder = Path(training_args.output_dir) / stage
    if (folder / "all_results.json").exists():
        logger.warning("%s is finished and left as it is: delete the folder to train it anew.", folder)
        return str(folder)
    for name in ("predictions.jsonl", "preferences.jsonl"):
        # Of a run that was cut off behind its training: they hold documents, and would be pushed with the model.
        (folder / name).unlink(missing_ok=True)
    is_contrastive = stage == "conseq" and args.selection != "none"
    changes: dict[str, Any] = {"output_dir": str(folder)}
    train_texts = texts["train"]
    if stage == "mle":
        changes |= {"learning_rate": args.mle_learning_rate, "num_train_epochs": args.mle_num_train_epochs}
    elif args.max_contrastive_samples is not None:
        train_texts = train_texts.select(range(min(args.max_contrastive_samples, len(train_texts))))
    training_args = dataclasses.replace(training_args, **changes)

    set_seed(training_args.seed)
    model, tokenizer = load_model(args, model_name_or_path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config.max_new_tokens = config.max_new_tokens
    is_encoder_decoder = model.config.is_encoder_decoder
    with training_args.main_process_first():
        train, held_out = (
            tokenize(rows, tokenizer, is_encoder_decoder, args) for rows in (train_texts, texts["held_out"])
        )

    def compute_metrics(predictions) -> dict[str, float]:
        summaries, references = (decode(tokenizer, ids) for ids in (predictions.predictions, predictions.label_ids))
        return mean_rouge_scores(references, summaries)

    callback = selection_callback(args.selection, config, scorer) if is_contrastive else None
    trainer = ContrastiveSeq2SeqTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=held_out,
        # Few distinct shapes: on CPUs each new one has its matrix products compiled and kept in memory.
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, pad_to_multiple_of=16),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        callbacks=[callback] if callback else [],
    )
    metrics = trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder)).metrics
    trainer.save_model()
    if callback and trainer.is_world_process_zero():
        # Behind what `push_to_hub` sends with the model: it holds documents.
        write_table(callback.preference_dataset().to_list(), folder / "preferences.jsonl")
    metrics |= evaluate(trainer, held_out, scorer, config.batch_size) | {"steps": trainer.state.global_step}
    is_file = Path(args.dataset).suffix in BUILDERS
    trainer.create_model_card(dataset=Path(args.dataset).name if is_file else args.dataset)
    results = json.dumps(nan_to_none(metrics), indent=4, sort_keys=True)
    if trainer.is_world_process_zero():
        # There whole or not at all: it tells a finished stage.
        write_atomically(folder / "all_results.json", results)
    logger.info("%s: %s", stage, results)
    return str(folder)


def selection_callback(selection: str, config: QualsCallbackConfig, scorer: QualsScorer) -> QualsCallback:
    """What chooses S+ and S-."""
    columns = {"document_column": "document", "reference_column": "reference"}
    if selection == "rouge":
        # Against themselves all references score 1: a share of them would be the first ones.
        return QualsCallback(RougeScorer(), dataclasses.replace(config, positive_share=1.0), **columns)
    return QualsCallback(scorer, config, **columns)


def evaluate(
    trainer: ContrastiveSeq2SeqTrainer, held_out: Dataset, scorer: QualsScorer, batch_size: int
) -> dict[str, float]:
    """Summarizes and scores the held-out rows, and writes `predictions.jsonl`."""
    # Whatever a model's generation settings and the loader of its training say: all rows, in order, none by chance.
    trainer.args.dataloader_drop_last, trainer.args.dataloader_in_order = False, True
    trainer.args.train_sampling_strategy = "sequential"
    output = trainer.predict(held_out, metric_key_prefix="eval", do_sample=False)
    # Several processes have seen some of the first rows again, to fill the last batches.
    summaries = decode(trainer.processing_class, output.predictions)[: len(held_out)]
    rows = [(row["document"], summary, row["reference"]) for row, summary in zip(held_out, summaries, strict=True)]
    with trainer.accelerator.split_between_processes(rows) as own_rows:
        scores = list(map(nan_to_none, score_summaries(scorer, own_rows, batch_size)))
        table = gather_object(
            [
                {"document": document, "reference": reference, "summary": summary, "quals": score}
                for (document, summary, reference), score in zip(own_rows, scores, strict=True)
            ]
        )
    if trainer.is_world_process_zero():
        write_table(table, Path(trainer.args.output_dir, "predictions.jsonl"))
    metrics = {
        **(output.metrics or {}),
        **{f"eval_{name}": value for name, value in mean_rouge_scores(held_out["reference"], summaries).items()},
    }
    # Not "eval": that is the score of a sample, which was logged before training.
    trainer.log({**metrics, **table_metrics(table, "quals", "test")})
    return {**metrics, **table_metrics(table, "quals", "eval")}


def mean_rouge_scores(references: Sequence[str], summaries: Sequence[str]) -> dict[str, float]:
    """Means of ROUGE-1/2/L F1, in percent."""
    scores = [rouge(reference, summary) for reference, summary in zip(references, summaries, strict=True)]
    return {name: 100 * fmean(score[name] for score in scores) for name in scores[0]}


def decode(tokenizer, ids) -> list[str]:
    """Texts of generated tokens or labels, which are padded with -100."""
    texts = tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
    return [text.strip() for text in texts]


def main():
    args, config, quals, training_args = parse_arguments(*ARGUMENTS, **PAPER)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers.utils.logging.set_verbosity_info()
    if find_spec("rouge_score") is None:
        raise ImportError("Evaluations need rouge_score: pip install 'hf-quals[benchmarks]'.")
    if args.stage != "mle" and args.selection != "none":
        # Now and not behind the first stage.
        is_sharded = any(parse_flag_from_env(f"ACCELERATE_USE_{engine}") for engine in ("FSDP", "DEEPSPEED"))
        check_settings(training_args, config, is_sharded=is_sharded)
    with training_args.main_process_first():
        texts = {
            "train": load_texts(args.dataset, args.train_split, args.max_train_samples, args),
            "held_out": load_texts(args.eval_dataset or args.dataset, args.eval_split, args.max_eval_samples, args),
        }
    scorer = QualsScorer.from_pretrained(
        args.quals_model,
        config=find_config(args.quals_model).but(**given(quals, "quals_")),
        dtype=args.quals_dtype,
    )
    model_name_or_path = args.model_name_or_path
    for stage in ("mle", "conseq"):
        if args.stage in (stage, "all"):
            model_name_or_path = run_stage(stage, model_name_or_path, args, config, training_args, texts, scorer)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
    leave_together()
