"""
Does ConSeq cut wrong facts where the truth is known?

Documents are made from a grammar: a bout of three people, each with a role, a place, a month and a number of wins, one
of whom was hurt. References state the facts of the one who was hurt, but a share of them says the right thing of the
wrong boxer: it gives the wins of the one who struck first. A tiny encoder–decoder trained from scratch becomes the
QAGen, others the summarizers, and an exact checker reads the facts of each summary. Prints one table over seeds:
wrong facts and ROUGE of maximum likelihood, of maximum likelihood on the references that QUALS likes best, and of
ConSeq with ROUGE and with QUALS selection.

    OMP_NUM_THREADS=1 python recipes/benchmarks/fact_world.py --output_dir results/fact_world

Models and results are kept in `output_dir` as they come; the same command goes on where it was cut off.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from datasets import Dataset
from scipy.stats import mannwhitneyu
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    HfArgumentParser,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from hf_quals import (
    ContrastiveSeq2SeqTrainer,
    ContrastiveSeq2SeqTrainingArguments,
    QAGenModel,
    QATemplate,
    QualsCallback,
    QualsCallbackConfig,
    QualsConfig,
    QualsScorer,
)
from hf_quals.files import read_kept_lines, write_atomically
from hf_quals.judges.rouge import RougeScorer, rouge
from hf_quals.memory import reuse_freed_memory
from hf_quals.qagen.training import DataCollatorForQAGen, Pair, Passage, QAGenTrainer, tokenize_passages


# ---- The world ----

NAMES = (
    "adams baker clark davis evans flores garcia harris ito jones khan lewis moreno novak olsen patel quinn rossi "
    "silva tanaka usman vargas walker young"
).split()
FACTS = {
    "role": "boxer coach doctor driver farmer judge lawyer nurse painter pilot singer teacher".split(),
    "place": "athens berlin cairo dublin geneva havana lima madrid oslo paris rome tokyo".split(),
    "date": "january february march april may june july august september october november december".split(),
    "number": "12 15 18 21 24 27 30 33 36 39 42 45".split(),
}
HURT, STRUCK, STOPPED = EVENTS = ("was hurt", "struck first", "stopped the fight")
PERSON = (
    "{name} , a {role} from {place} , born in {date} , with {number} wins , {event} .",
    "{name} {event} : a {role} from {place} , born in {date} , with {number} wins .",
)
SUMMARY = "{name} was hurt : a {role} from {place} , born in {date} , with {number} wins ."
QUESTIONS = {
    "name": "who was hurt ?",
    "role": "what is the job of the one who was hurt ?",
    "place": "where does the one who was hurt come from ?",
    "date": "in which month was the one who was hurt born ?",
    "number": "how many wins has the one who was hurt ?",
}
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
SEPARATOR = "|"

Facts = dict[str, str]


@dataclass(frozen=True)
class Example:
    """
    A document, what it says, and a summary of it.

    Args:
        document (`str`): The document.
        people (`dict[str, dict[str, str]]`): For every event the facts of its person.
        truth (`str`): The summary whose facts are right.
        reference (`str`): The same, or one that differs from it in one fact.
    """

    document: str
    people: dict[str, Facts]
    truth: str
    reference: str


def make_examples(count: int, seed: str, wrong_share: float = 0.0) -> list[Example]:
    """
    Documents with references.

    Args:
        count (`int`): How many.
        seed (`str`): Seed of all choices.
        wrong_share (`float`, *optional*, defaults to 0.0): Share of the references that say the right thing of the
            wrong boxer: they give the one who was hurt as many wins as the one who struck first.
    """
    rng = random.Random(seed)
    return [_make_example(rng, wrong_share) for _ in range(count)]


def _make_example(rng: random.Random, wrong_share: float) -> Example:
    values = {kind: rng.sample(words, len(EVENTS)) for kind, words in {"name": NAMES, **FACTS}.items()}
    people = {event: {kind: values[kind][place] for kind in values} for place, event in enumerate(EVENTS)}
    sentences = [rng.choice(PERSON).format(event=event, **facts) for event, facts in people.items()]
    rng.shuffle(sentences)
    stated = dict(people[HURT])
    if rng.random() < wrong_share:
        stated["number"] = people[STRUCK]["number"]
    return Example(" ".join(sentences), people, SUMMARY.format(**people[HURT]), SUMMARY.format(**stated))


_SUMMARY_FORM = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>\\S+)", SUMMARY))


def wrong_facts(example: Example, summary: str) -> int:
    """
    How many of the five facts of a summary its document denies.

    The name is wrong unless its bearer was hurt; all other facts are those of whom the summary names, so that a
    summary of the wrong person is wrong once, and one of a stranger in everything. So is what is no sentence of the
    grammar.
    """
    match = _SUMMARY_FORM.fullmatch(summary)
    if match is None:
        return 1 + len(FACTS)
    stated = match.groupdict()
    named = next((facts for facts in example.people.values() if facts["name"] == stated["name"]), {})
    return (named is not example.people[HURT]) + sum(stated[kind] != named.get(kind) for kind in FACTS)


def qagen_passages(examples: Sequence[Example]) -> list[Passage]:
    """Training data of a QAGen: documents and their true summaries, which answer the same questions."""
    passages = []
    for number, example in enumerate(examples):
        for text in (example.document, example.truth):
            pairs = [
                Pair(question, example.people[HURT][kind], f" {text} ".index(f" {example.people[HURT][kind]} "))
                for kind, question in QUESTIONS.items()
            ]
            passages.append(Passage(text, tuple(pairs), str(number)))
    return passages


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of words that holds exactly the grammar's."""
    texts = [*PERSON, SUMMARY, *QUESTIONS.values(), *EVENTS, *NAMES, *(word for row in FACTS.values() for word in row)]
    words = dict.fromkeys(word for text in texts for word in text.split() if not word.startswith("{"))
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, SEPARATOR, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, vocabulary[token]) for token in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


# ---- Training in it ----

TEMPLATE = QATemplate(prompt="{text}", pair="{question} " + SEPARATOR + " {answer}")
MAX_NEW_TOKENS = 30


@dataclass
class Arguments:
    """How large the world is, and how long is trained in it."""

    output_dir: str = field(metadata={"help": "Where models and results are kept; a second run goes on from them."})
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Of the data and the summarizers, a run each."}
    )
    wrong_share: float = field(default=0.6, metadata={"help": "Share of references that state a wrong fact."})
    num_qagen_documents: int = field(default=20000, metadata={"help": "Documents that QAGen learns from."})
    qagen_steps: int = field(default=1500, metadata={"help": "Steps of QAGen, 32 texts with five pairs each."})
    num_documents: int = field(default=20000, metadata={"help": "Documents that the summarizer learns from."})
    mle_steps: int = field(default=1000, metadata={"help": "Steps of maximum likelihood, 32 documents each."})
    num_contrastive: int = field(default=1000, metadata={"help": "Of its documents, those of the second training."})
    num_triples: int = field(default=240, metadata={"help": "Triples an epoch of the second training."})
    epochs: int = field(default=5, metadata={"help": "Epochs of the second training."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Of the second training, whatever its method."})
    num_test: int = field(default=300, metadata={"help": "Documents to test on."})


def tiny_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> T5ForConditionalGeneration:
    """A T5 of 172 thousand weights; its positions are relative, so that it learns in minutes to look back and copy."""
    set_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        relative_attention_max_distance=64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


def training_arguments(folder: Path, seed: int, **changed: Any) -> ContrastiveSeq2SeqTrainingArguments:
    values: dict[str, Any] = {
        "per_device_train_batch_size": 32,
        "learning_rate": 3e-3,
        "warmup_steps": 100,
        "save_strategy": "no",
        "report_to": "none",
        "label_smoothing_factor": 0.1,
        "logging_steps": 100,
        "use_cpu": True,
        "seed": seed,
        **changed,
    }
    return ContrastiveSeq2SeqTrainingArguments(str(folder), **values)


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made now unless an earlier run has made it whole."""
    if not folder.exists():
        temporary = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        make(temporary)
        os.replace(temporary, folder)
    return folder


def train_qagen(folder: Path, args: Arguments) -> None:
    tokenizer = make_tokenizer()
    passages = qagen_passages(make_examples(args.num_qagen_documents, "qagen"))
    features, _ = tokenize_passages(passages, tokenizer, TEMPLATE, is_encoder_decoder=True)
    trainer = QAGenTrainer(
        model=tiny_model(tokenizer, seed=0),
        args=training_arguments(
            folder,
            0,
            max_steps=args.qagen_steps,
            label_smoothing_factor=0.0,
            remove_unused_columns=False,
            label_names=["labels"],
        ),
        train_dataset=features,
        data_collator=DataCollatorForQAGen(tokenizer.pad_token_id, is_encoder_decoder=True),
        processing_class=tokenizer,
    )
    trainer.train()
    QAGenModel(trainer.model, tokenizer, TEMPLATE).save_pretrained(folder)


def tokenized(examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast) -> Dataset:
    columns = {name: [getattr(example, name) for example in examples] for name in ("document", "reference")}
    features = {
        "input_ids": tokenizer(columns["document"])["input_ids"],
        "labels": tokenizer(columns["reference"])["input_ids"],
    }
    return Dataset.from_dict({**features, **columns})


def train_mle(folder: Path, examples: Sequence[Example], seed: int, args: Arguments) -> None:
    tokenizer = make_tokenizer()
    trainer = ContrastiveSeq2SeqTrainer(
        model=tiny_model(tokenizer, seed),
        args=training_arguments(folder, seed, max_steps=args.mle_steps),
        train_dataset=tokenized(examples, tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()


METHODS = {
    "mle": "MLE",
    "mle_longer": "MLE, as many steps more",
    "mle_filtered": "MLE, as many steps more on the references that QUALS likes best",
    "conseq_rouge": "ConSeq, ROUGE selection",
    "conseq_quals_once": "ConSeq, QUALS selection, one refresh",
    "conseq_quals": "ConSeq, QUALS selection, a refresh each epoch",
    "conseq_quals_hellinger": "the same with the Hellinger loss",
}


def train_method(
    method: str, mle: Path, examples: Sequence[Example], scorer: QualsScorer, seed: int, args: Arguments
) -> T5ForConditionalGeneration:
    """The summarizer after the second training, which has the same number of steps for all methods."""
    model = T5ForConditionalGeneration.from_pretrained(mle)
    if method == "mle":
        return model
    tokenizer = make_tokenizer()
    config = QualsCallbackConfig(
        max_new_tokens=MAX_NEW_TOKENS,
        num_candidates=4,
        # All references score alike by ROUGE.
        positive_share=1.0 if method == "conseq_rouge" else 0.3,
        negative_share=0.8,  # nearly every document has a wrong one among its samples
        num_triples=args.num_triples,
        refresh_every=args.epochs if method == "conseq_quals_once" else 1,
        num_eval_samples=0,
        batch_size=64,
    )
    if method == "mle_filtered":
        results = scorer.score(
            [example.document for example in examples], [example.reference for example in examples], batch_size=64
        )
        best = sorted(range(len(examples)), key=lambda number: -results[number].score)
        examples = [examples[number] for number in sorted(best[: args.num_triples])]
    callback = QualsCallback(
        RougeScorer() if method == "conseq_rouge" else scorer,
        config,
        document_column="document",
        reference_column="reference",
    )
    batch_size = 8
    trainer = ContrastiveSeq2SeqTrainer(
        model=model,
        args=training_arguments(
            Path(args.output_dir) / "training" / f"{method}-{seed}",
            seed,
            per_device_train_batch_size=batch_size,
            max_steps=args.epochs * -(-args.num_triples // batch_size),
            learning_rate=args.learning_rate,
            contrastive_loss="hellinger" if method.endswith("hellinger") else "unlikelihood",
            warmup_steps=0,
            logging_steps=10,
        ),
        train_dataset=tokenized(examples, tokenizer),
        processing_class=tokenizer,
        callbacks=[callback] if method.startswith("conseq") else [],
    )
    trainer.train()
    return model


# ---- What comes out ----


@torch.no_grad()
def summarize(model: T5ForConditionalGeneration, examples: Sequence[Example], **gen_kwargs: Any) -> list[str]:
    tokenizer = make_tokenizer()
    batch = tokenizer([example.document for example in examples], padding=True, return_tensors="pt")
    generated = model.eval().generate(**batch, max_new_tokens=MAX_NEW_TOKENS, **gen_kwargs)
    return tokenizer.batch_decode(generated, skip_special_tokens=True)


def quality(model: T5ForConditionalGeneration, examples: Sequence[Example]) -> dict[str, float]:
    """Greedy summaries: per cent of facts that are wrong, of summaries that are no sentence, and ROUGE F1."""
    summaries = summarize(model, examples, do_sample=False)
    rouges = [rouge(example.truth, summary) for example, summary in zip(examples, summaries, strict=True)]
    wrong = [wrong_facts(example, summary) for example, summary in zip(examples, summaries, strict=True)]
    return {
        "wrong_facts": 100 * fmean(wrong) / (1 + len(FACTS)),
        "wrong_summaries": 100 * fmean(count > 0 for count in wrong),
        "unparsable": 100 * fmean(_SUMMARY_FORM.fullmatch(summary) is None for summary in summaries),
        **{name: 100 * fmean(scores[name] for scores in rouges) for name in rouges[0]},
    }


def auroc(scorer: QualsScorer, examples: Sequence[Example], summaries: Sequence[str]) -> float:
    """
    How often QUALS is higher for a right summary than for a wrong one, ties counting half, among those that are
    sentences of the grammar: of others the checker cannot read the facts.
    """
    read = [pair for pair in zip(examples, summaries, strict=True) if _SUMMARY_FORM.fullmatch(pair[1])]
    results = scorer.score([example.document for example, _ in read], [text for _, text in read], batch_size=64)
    right: list[float] = []
    wrong: list[float] = []
    for (example, summary), result in zip(read, results, strict=True):
        if not math.isnan(result.score):
            (wrong if wrong_facts(example, summary) else right).append(result.score)
    return float(mannwhitneyu(right, wrong).statistic) / (len(right) * len(wrong))


def run_seed(seed: int, scorer: QualsScorer, args: Arguments, results: list[dict], path: Path) -> None:
    def keep(row: dict) -> None:
        results.append({"seed": seed, **row})
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(results[-1]) + "\n")

    output_dir = Path(args.output_dir)
    train = make_examples(args.num_documents, f"train {seed}", args.wrong_share)
    test = make_examples(args.num_test, f"test {seed}", args.wrong_share)
    mle = once(output_dir / f"mle-{seed}", lambda folder: train_mle(folder, train, seed, args))
    done = {row["method"] for row in results if row["seed"] == seed}
    if "auroc" not in done:
        set_seed(seed)
        four_times = [example for example in test for _ in range(4)]
        sampled = summarize(T5ForConditionalGeneration.from_pretrained(mle), four_times, do_sample=True, top_k=50)
        references = [example.reference for example in test]
        keep(
            {
                "method": "auroc",
                "samples": auroc(scorer, four_times, sampled),
                "references": auroc(scorer, test, references),
            }
        )
    for method in METHODS:
        if method not in done:
            model = train_method(method, mle, train[: args.num_contrastive], scorer, seed, args)
            keep({"method": method, **quality(model, test)})
            print(json.dumps(results[-1]), flush=True)


def print_table(results: list[dict]) -> None:
    def cell(method: str, name: str, digits: int = 1) -> str:
        values = [row[name] for row in results if row["method"] == method]
        spread = stdev(values) if len(values) > 1 else 0.0
        return f"{fmean(values):.{digits}f} ± {spread:.{digits}f}"

    columns = ("wrong_facts", "wrong_summaries", "unparsable", "rouge1", "rouge2", "rougeL")
    print(f"Mean and standard deviation of {len({row['seed'] for row in results})} seeds, in per cent:\n")
    print("| method | " + " | ".join(columns) + " |\n|" + " --- |" * (1 + len(columns)))
    for method, name in METHODS.items():
        print(f"| {name} | " + " | ".join(cell(method, column) for column in columns) + " |")
    for kind, name in (("samples", "four samples a document"), ("references", "references")):
        print(f"\nAUROC of QUALS against the checker, {name}: {cell('auroc', kind, 3)}")


def check_world(path: Path, args: Arguments) -> None:
    """Refuses to go on from the models and results of other settings."""
    settings = {name: value for name, value in asdict(args).items() if name not in ("seeds", "output_dir")}
    if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8"))) != settings:
        raise ValueError(f"{path.parent} holds results of {kept}, not of {settings}: name another --output_dir.")
    write_atomically(path, json.dumps(settings) + "\n")


def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    check_world(output_dir / "settings.json", args)
    qagen = once(output_dir / "qagen", lambda folder: train_qagen(folder, args))
    config = QualsConfig(num_beams=8, min_new_tokens=4, max_new_tokens=20)
    scorer = QualsScorer.from_pretrained(qagen, config=config, dtype="float32")
    path = output_dir / "results.jsonl"
    results = read_kept_lines(path)
    for seed in args.seeds:
        run_seed(seed, scorer, args, results, path)
    print_table([row for row in results if row["seed"] in args.seeds])


if __name__ == "__main__":
    main()
