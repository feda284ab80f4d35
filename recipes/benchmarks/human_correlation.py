"""
How well do scores of factual consistency agree with people?

Scores the QAGS annotations (system summaries of CNN/DM and XSum articles, three human judgements a sentence) and
prints one table: Pearson correlation, with its 95 % interval by bootstrap over summaries, and Spearman correlation
with the share of a summary's sentences that most annotators call supported, for QUALS and for other judges computed in
the same run, beside published numbers.

    python recipes/benchmarks/human_correlation.py --cnndm qags_cnndm.jsonl --xsum qags_xsum.jsonl \\
        --output_dir results/human_correlation

The two files are the annotations published with "Asking and Answering Questions to Evaluate the Factual Consistency of
Summaries" (https://huggingface.co/papers/2004.04228). Scores are kept in `output_dir`; a run that was cut off goes on
where it was. QAGS is scored last and takes longest: with `--limit` the table is printed from fewer rows, and from all
that earlier runs have scored. Entity precision and QAGS look for names by rules, and once more with spaCy where it has
an English model.
"""

from __future__ import annotations

import functools
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import BootstrapMethod, pearsonr, spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

from hf_quals import QAGenModel, QAPair, QATemplate, QualsScorer, ScoredPair, Scorer
from hf_quals.comparing.run import judge_rows, kept_scores
from hf_quals.comparing.statistics import RESAMPLES
from hf_quals.comparing.systems import Comparison
from hf_quals.files import markdown_table
from hf_quals.judges.entities import RULES, EntityFinder, EntityScorer, load_finder
from hf_quals.judges.qags import QagsScorer
from hf_quals.judges.registry import Judge, default_judges
from hf_quals.judges.registry import make_judges as registered
from hf_quals.judges.rouge import RougeResult
from hf_quals.qagen.default import default_base_model
from hf_quals.quals.forms import VARIANTS


# Pearson on (CNN/DM, XSum) as published: QAGS and its comparisons in 2004.04228, CTC 2109.06379, UniEval 2210.07197.
PUBLISHED = {
    "ROUGE-L": (0.357, 0.024),
    "BERTScore": (0.576, 0.024),
    "FactCC": (0.416, 0.297),
    "QAGS": (0.545, 0.175),
    "BARTScore": (0.735, 0.184),
    "CTC": (0.619, 0.309),
    "UniEval": (0.682, 0.461),
}

# How many pairs a score rests on: the published number, and one that serves summaries of several sentences better.
NUM_PAIRS = (10, 20)


@dataclass
class Arguments:
    """What to score, with which model."""

    cnndm: str = field(metadata={"help": "The QAGS annotations of CNN/DM summaries (JSON lines)."})
    xsum: str = field(metadata={"help": "The QAGS annotations of XSum summaries (JSON lines)."})
    output_dir: str = field(metadata={"help": "Where scores are kept; a second run goes on from them."})
    judges: list[str] | None = field(
        default=None,
        metadata={"help": "Registered judges; those that need neither references nor the Hub if left out."},
    )
    model: str | None = field(default=None, metadata={"help": "The QAGen model; the package's default if left out."})
    dtype: str = field(default="auto", metadata={"help": "Type of the weights."})
    batch_size: int = field(default=8, metadata={"help": "Texts computed together by QUALS."})
    finder: str | None = field(
        default=None, metadata={"help": "The spaCy model that finds names; en_core_web_sm, if installed, if left out."}
    )
    factcc_model: str | None = field(
        default=None, metadata={"help": "FactCC's classifier, a folder or Hub id; without one FactCC is left out."}
    )
    qags_models: list[str] | None = field(
        default=None,
        metadata={"help": "A question writer and a reader, folders or Hub ids, for QAGS as published beside offline."},
    )
    limit: int | None = field(default=None, metadata={"help": "Score only the first so many rows of each file."})

    def __post_init__(self):
        if self.qags_models is not None and len(self.qags_models) != 2:
            raise ValueError(f"qags_models must be a question writer and a reader, got {self.qags_models}.")


def read_rows(path: str) -> tuple[list[Comparison], list[float]]:
    """Documents with their summary, and the share of each summary's sentences that most annotators call supported."""
    comparisons, human = [], []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        item = json.loads(line)
        sentences = item["summary_sentences"]
        supported = [
            sum(answer["response"] == "yes" for answer in sentence["responses"]) * 2 > len(sentence["responses"])
            for sentence in sentences
        ]
        summary = " ".join(sentence["sentence"] for sentence in sentences)
        comparisons.append(Comparison(item["article"], (summary,), (f"{path}, line {number}",)))
        human.append(sum(supported) / len(supported))
    return comparisons, human


def make_judges(args: Arguments) -> list[Judge]:
    """What scores the summaries: registered judges, some of them in several forms, and two of this benchmark's own."""
    names = args.judges or default_judges(with_references=False)
    if args.factcc_model is not None and "factcc" not in names:
        names = [*names, "factcc"]
    judges = registered(names, model=args.model, factcc_model=args.factcc_model)
    forms = {"entity": entity_judges, "qags": qags_judges, "quals": quals_judges}
    chosen = [form for judge in judges for form in (forms[judge.name](args) if judge.name in forms else [judge])]
    chosen += [
        Judge("rouge", {f"ROUGE-{n} precision against the document": f"rouge{n}" for n in "12L"}, RougePrecision),
        Judge("likelihood", {"mean log p of the summary given the document, same base model": "score"}, Likelihood),
    ]
    return sorted(chosen, key=lambda judge: judge.name.startswith("qags"))  # the slowest last


def finders(args: Arguments) -> list[EntityFinder]:
    """Rules, and spaCy where it has a model."""
    by_name = {finder.name: finder for finder in (load_finder(RULES), load_finder(args.finder))}
    return list(by_name.values())


def entity_judges(args: Arguments) -> list[Judge]:
    return [
        Judge(
            f"entity-{Path(finder.name).name}",
            {f"entity precision, names found by {finder.name}": "score"},
            functools.partial(EntityScorer, finder),
        )
        for finder in finders(args)
    ]


def qags_judges(args: Arguments) -> list[Judge]:
    """Offline with each finder, and as published if its models are given."""
    judges = [
        Judge(
            f"qags-{Path(finder.name).name}",
            {f"QAGS, offline, candidates found by {finder.name}": "score"},
            functools.partial(QagsScorer.from_qagen, args.model, finder=finder, dtype=args.dtype),
            {"model": args.model or "default", "dtype": args.dtype},
        )
        for finder in finders(args)
    ]
    if args.qags_models is not None:
        writer, reader = args.qags_models
        finder = finders(args)[-1]
        judges.append(
            Judge(
                "qags-published",
                {f"QAGS, {writer} and {reader}": "score"},
                functools.partial(QagsScorer.from_pretrained, writer, reader, finder=finder),
                {"writer": writer, "reader": reader, "finder": finder.name},
            )
        )
    return judges


def quals_judges(args: Arguments) -> list[Judge]:
    settings = {"model": args.model or "default", "dtype": args.dtype}
    return [Judge("quals", {"result": "result"}, functools.partial(WholeQuals, args), settings)]


class RougePrecision(Scorer):
    """ROUGE of the document: how much of the summary's wording it has."""

    name = "rouge"

    def score(self, documents, summaries, *, references=None, batch_size=8):
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
        return [
            RougeResult(**{name: score.precision for name, score in scorer.score(*texts).items()})
            for texts in zip(documents, summaries, strict=True)
        ]


class WholeQuals(Scorer):
    """Whole results of QUALS as JSON: the variants are computed from their pairs."""

    name = "quals"

    def __init__(self, args: Arguments):
        # Pairs are chosen in order: the first 10 of 20 are those that `max_pairs=10` chooses.
        self.scorer = QualsScorer.from_pretrained(args.model, dtype=args.dtype, max_pairs=max(NUM_PAIRS))
        self.batch_size = args.batch_size

    def score(self, documents, summaries, *, references=None, batch_size=None):
        results = self.scorer.score(documents, summaries, batch_size=batch_size or self.batch_size)
        return [
            SimpleNamespace(
                result=result.to_dict(),
                document_truncated=result.document_truncated,
                summary_truncated=result.summary_truncated,
            )
            for result in results
        ]


class Likelihood(Scorer):
    """Mean log p(token of the summary | document) of the default's base model, before it was made a QAGen."""

    name = "likelihood"

    def __init__(self):
        base = default_base_model()
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        self.model = QAGenModel(model, AutoTokenizer.from_pretrained(base), QATemplate(prompt="{text}\n\nSummary:"))

    def score(self, documents, summaries, *, references=None, batch_size=8):
        return [
            SimpleNamespace(score=self.mean_log_prob(document, summary))
            for document, summary in zip(documents, summaries, strict=True)
        ]

    def mean_log_prob(self, document: str, summary: str) -> float:
        ids = self.model.tokenizer(" " + summary, add_special_tokens=False)["input_ids"]
        target = QAPair("", "", tuple(ids), (), len(ids), summary)
        return float(np.mean(self.model.log_probs([document], [[target]])[0][0]))


def pairs_of(fields: dict) -> list[ScoredPair]:
    names = ("question", "answer", "tokens", "summary_log_probs", "document_log_probs", "answer_start")
    return [ScoredPair(**{name: pair[name] for name in names}) for pair in fields["pairs"]]


def correlations(scores: Sequence[float | None], human: Sequence[float]) -> list[str]:
    """
    Agreement with people over the summaries that have a score, as cells: Pearson, its 95 % interval (percentiles of
    10,000 resamples of summaries), Spearman, and how many summaries these are.
    """
    scored = np.array(scores, dtype=float)
    has_score = ~np.isnan(scored)
    judged, people = scored[has_score], np.array(human)[: len(scored)][has_score]
    if len(judged) < 3 or min(np.ptp(judged), np.ptp(people)) == 0:
        return ["–", "–", "–", str(len(judged))]
    resampling = BootstrapMethod(n_resamples=RESAMPLES, batch=100, method="percentile", rng=np.random.default_rng(0))
    pearson = pearsonr(judged, people)
    low, high = pearson.confidence_interval(method=resampling)
    spearman = spearmanr(judged, people).statistic
    # Of a few summaries some resample is the same one over and over, which has no correlation.
    interval = "–" if np.isnan(low) else f"{low:.3f} to {high:.3f}"
    return [f"{pearson.statistic:.3f}", interval, f"{spearman:.3f}", str(len(judged))]


def means_by_support(scores: Sequence[float | None], human: Sequence[float]) -> tuple[float, float]:
    """Mean scores of the summaries of which people support every sentence, and of the others; NaN without any."""
    scored = np.array(scores, dtype=float)
    is_whole = np.array(human)[: len(scored)] == 1
    has_score = ~np.isnan(scored)
    parts = scored[is_whole & has_score], scored[~is_whole & has_score]
    supported, others = (float(part.mean()) if len(part) else math.nan for part in parts)
    return supported, others


def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    data = {name: (Path(path), *read_rows(path)) for name, path in (("CNN/DM", args.cnndm), ("XSum", args.xsum))}
    table: dict[str, list[str]] = {}
    for judge in make_judges(args):
        for name, (path, comparisons, human) in data.items():
            kept, done = kept_scores(judge, comparisons, Path(args.output_dir) / path.stem, resume=True)
            rows = judge_rows(judge, comparisons[: args.limit], kept, done)
            scores = {column: [row[column][0] for row in rows] for column in judge.columns}
            truncated = sum(row["truncated"][0] for row in rows)
            print(f"{name}, {judge.name}: {len(rows)} of {len(comparisons)} scored, {truncated} with a text cut")
            if judge.name == "quals":
                results = scores.pop("result")
                generated = sum(result["num_generated"] for result in results)
                survived = sum(result["num_pairs"] + result["num_surplus"] for result in results) / generated
                print(f"{name}, quals: {survived:.0%} of the generated pairs are good and distinct")
                pairs = [pairs_of(result) for result in results]
                scores = {
                    f"`{variant}`, max_pairs={most}": [score(of_row[:most]) for of_row in pairs]
                    for variant, score in VARIANTS.items()
                    for most in NUM_PAIRS
                }
            for method, values in scores.items():
                supported, others = means_by_support(values, human)
                print(f"{name}, {method}: mean {supported:.3f} if people support every sentence, else {others:.3f}")
                table.setdefault(method, []).extend(correlations(values, human))
    print(f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, dtype {args.dtype}\n")
    columns = ("Pearson", "95 % interval", "Spearman", "n")
    header = ["", *(f"{name} {what}" for name in data for what in columns)]
    published = [
        [f"{method}, published", f"{cnndm:.3f}", "", "", "", f"{xsum:.3f}", "", "", ""]
        for method, (cnndm, xsum) in PUBLISHED.items()
    ]
    print(markdown_table(header, [*([method, *cells] for method, cells in table.items()), *published]))


if __name__ == "__main__":
    main()
