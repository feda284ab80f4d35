"""A tiny summarization task for every model family and the trainer on it, for the tests of contrastive training."""

import random

from conftest import tiny_model, tiny_qagen, tiny_tokenizer
from datasets import Dataset

from hf_quals import ContrastiveSeq2SeqTrainer, ContrastiveSeq2SeqTrainingArguments, QualsCallback, QualsScorer


WORDS = ["ann", "bob", "cat", "dog", "red", "sun", "ran", "sat"]
NUM_ROWS = 16


def rows(family: str, num_rows: int = NUM_ROWS, negatives: bool = False) -> Dataset:
    """Documents of four to seven words; the first two are the reference, the last three are the summary to avoid."""
    tokenizer, rng = tiny_tokenizer(family), random.Random(0)
    made = []
    for _ in range(num_rows):
        words = rng.choices(WORDS, k=rng.randint(4, 7))
        document, summary, negative = " ".join(words), " ".join(words[:2]), " ".join(words[-3:])
        if family == "llama":
            prompt = tokenizer(document + "?")["input_ids"]
            continued = [*tokenizer(summary)["input_ids"], tokenizer.eos_token_id]
            row = {"input_ids": prompt + continued, "labels": [-100] * len(prompt) + continued}
            avoided = [*tokenizer(negative)["input_ids"], tokenizer.eos_token_id]
        else:
            row = {"input_ids": tokenizer(document)["input_ids"], "labels": tokenizer(summary)["input_ids"]}
            avoided = tokenizer(negative)["input_ids"]
        row |= {"attention_mask": [1] * len(row["input_ids"]), "document": document, "summary": summary}
        made.append(row | ({"negative_labels": avoided} if negatives else {}))
    return Dataset.from_list(made)


def arguments(folder, **changed) -> ContrastiveSeq2SeqTrainingArguments:
    values = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "learning_rate": 1e-3,
        "use_cpu": True,
        "disable_tqdm": True,
        **changed,
    }
    return ContrastiveSeq2SeqTrainingArguments(str(folder), **values)


def callback(**changed) -> QualsCallback:
    values = {
        "num_candidates": 3,
        "max_new_tokens": 8,
        "num_eval_samples": 4,
        "positive_share": 0.7,
        "negative_share": 0.7,
        "num_triples": 6,
        "batch_size": 4,
        **changed,
    }
    return QualsCallback(QualsScorer(tiny_qagen("bart"), num_beams=8, num_beam_groups=8), **values)


def trainer(family: str, folder, *, data=None, model=None, callbacks=None, **changed) -> ContrastiveSeq2SeqTrainer:
    return ContrastiveSeq2SeqTrainer(
        model=model or tiny_model(family),
        args=arguments(folder, **changed),
        train_dataset=rows(family) if data is None else data,
        processing_class=tiny_tokenizer(family),
        callbacks=callbacks or [],
    )
