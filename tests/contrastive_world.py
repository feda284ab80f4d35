"""A tiny summarization task for every model family and the trainer on it, for the tests of contrastive training."""

import copy
import random

import torch
from conftest import tiny_model, tiny_qagen, tiny_tokenizer
from datasets import Dataset

from hf_quals import (
    ContrastiveSeq2SeqTrainer,
    ContrastiveSeq2SeqTrainingArguments,
    QualsCallback,
    QualsCallbackConfig,
    QualsConfig,
    QualsScorer,
)


WORDS = ["ann", "bob", "cat", "dog", "red", "sun", "ran", "sat"]
NUM_ROWS = 16
# Adam would hide a loss that is scaled wrongly, and so would clipping.
PLAIN_DESCENT = {
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-3,
    "train_sampling_strategy": "sequential",
}


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


def emptied(data: Dataset, numbers) -> Dataset:
    """The same rows without negatives for some."""
    return Dataset.from_list(
        [{**row, "negative_labels": []} if number in numbers else row for number, row in enumerate(data)]
    )


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_step(before, left, right) -> None:
    """Two trainings moved the weights by the same, up to a thousandth of its length."""
    step = torch.cat([(right[name] - before[name]).flatten() for name in before])
    difference = torch.cat([(left[name] - right[name]).flatten() for name in before])
    assert step.norm() > 0
    assert difference.norm() < 1e-3 * step.norm()


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


def callback(scorer=None, *, document_column=None, reference_column=None, **changed) -> QualsCallback:
    """With a tiny QAGen if no scorer is given; `changed` are numbers of the config."""
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
    return QualsCallback(
        scorer or QualsScorer(tiny_qagen("bart"), QualsConfig(num_beams=8)),
        QualsCallbackConfig(**values),
        document_column=document_column,
        reference_column=reference_column,
    )


def without_dropout(model):
    """The same weights in a model whose training is the same for any number of processes and batches."""
    config = copy.deepcopy(model.config)
    config.update({"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "dropout_rate": 0.0})
    copied = type(model)(config)
    copied.load_state_dict(model.state_dict())
    return copied


def trainer(
    family: str, folder, *, data=None, model=None, callbacks=None, trainer_class=ContrastiveSeq2SeqTrainer, **changed
):
    """A trainer of `trainer_class`; `changed` holds arguments of the trainer and of its training arguments."""
    tokenizer = changed.pop("processing_class", tiny_tokenizer(family))
    names = ("data_collator", "eval_dataset", "compute_metrics", "model_init", "optimizers")
    of_trainer = {name: changed.pop(name) for name in names if name in changed}
    if "model_init" not in of_trainer:
        of_trainer["model"] = tiny_model(family) if model is None else model
    return trainer_class(
        args=arguments(folder, **changed),
        train_dataset=rows(family) if data is None else data,
        processing_class=tokenizer,
        callbacks=callbacks or [],
        **of_trainer,
    )
