"""
How well do scores of factual consistency agree with people, and do they see a wrong fact?

Prints one table for QUALS and for other judges computed in the same run, beside published numbers. Never pooled: each
set has columns of its own.

- QAGS (system summaries of CNN/DM and XSum articles, three human judgements a sentence): Pearson correlation, with its
  95 % interval by bootstrap over summaries, and Spearman correlation with the share of a summary's sentences that most
  annotators call supported.
- AggreFact (summaries of BART and PEGASUS, consistent or not by people): area under the ROC curve within each set,
  with its interval; 0.5 is chance.
- Swaps (a document, a right and a wrong summary): how often the right one scores higher.

    python recipes/benchmarks/human_correlation.py --cnndm qags_cnndm.jsonl --xsum qags_xsum.jsonl \\
        --aggrefact aggrefact.jsonl --swaps swaps.jsonl --output_dir results/human_correlation

The first two files are the annotations published with "Asking and Answering Questions to Evaluate the Factual
Consistency of Summaries" (https://huggingface.co/papers/2004.04228); rows of the third have `set`, `origin`,
`document`, `summary` and `consistent`, of the fourth `document`, `good` and `bad`. Each is left out if not named.
`--configs` takes several `quals_config.json`: each is a row, so that parts of the score can be compared. Scores are
kept in `output_dir`; a run that was cut off goes on where it was. QAGS is scored last and takes longest: `--limit`
prints the table from fewer rows, and from all that earlier runs have scored. Entity precision and QAGS look for
names by rules, and once more with spaCy where it has an English model.
"""

from __future__ import annotations

import functools
import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import BootstrapMethod, pearsonr, rankdata, spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

from hf_quals import QAGenModel, QATemplate, QualsConfig, QualsScorer, ScoredPair, Scorer
from hf_quals.comparing.run import judge_rows, kept_scores
from hf_quals.comparing.statistics import RESAMPLES
from hf_quals.comparing.systems import Comparison
from hf_quals.files import locked, markdown_table, nan_to_none
from hf_quals.judges.entities import RULES, EntityFinder, EntityScorer, load_finder
from hf_quals.judges.qags import QagsScorer
from hf_quals.judges.registry import Judge, default_judges
from hf_quals.judges.registry import make_judges as registered
from hf_quals.judges.rouge import RougeResult
from hf_quals.memory import reuse_freed_memory
from hf_quals.qagen.default import default_base_model
from hf_quals.qagen.loading import resolve_device, resolve_dtype
from hf_quals.quals.config import find_config
from hf_quals.quals.forms import VARIANTS


# Pearson on (CNN/DM, XSum) as published: QAGS and its comparisons in 2004.04228, CTC 2109.06379, UniEval 2210.07197.
PUBLISHED = {
    "ROUGE-L": {"QAGS CNN/DM": 0.357, "QAGS XSum": 0.024},
    "BERTScore": {"QAGS CNN/DM": 0.576, "QAGS XSum": 0.024},
    "FactCC": {"QAGS CNN/DM": 0.416, "QAGS XSum": 0.297},
    "QAGS": {"QAGS CNN/DM": 0.545, "QAGS XSum": 0.175},
    "BARTScore": {"QAGS CNN/DM": 0.735, "QAGS XSum": 0.184},
    "CTC": {"QAGS CNN/DM": 0.619, "QAGS XSum": 0.309},
    "UniEval": {"QAGS CNN/DM": 0.682, "QAGS XSum": 0.461},
}
CORRELATION = ("Pearson", "95 % interval", "Spearman", "n")
AUROC = ("AUROC", "95 % interval", "n")

Scores = Sequence[Sequence[float | None]]


@dataclass
class JudgedSet:
    """
    Summaries that people have judged.

    Args:
        name (`str`): Goes before the names of its columns.
        comparisons (`list[Comparison]`): Documents with a summary each, or with a right and a wrong one.
        columns (`tuple[str, ...]`): What is measured.
        measure (`Callable`): Makes these columns' cells of a row of scores for each of the first documents.
    """

    name: str
    comparisons: list[Comparison]
    columns: tuple[str, ...]
    measure: Callable[[Scores], list[str]]


@dataclass
class Arguments:
    """What to score, with which model."""

    output_dir: str = field(metadata={"help": "Where scores are kept; a second run goes on from them."})
    cnndm: str | None = field(default=None, metadata={"help": "The QAGS annotations of CNN/DM summaries, JSON lines."})
    xsum: str | None = field(default=None, metadata={"help": "The QAGS annotations of XSum summaries, JSON lines."})
    aggrefact: str | None = field(default=None, metadata={"help": "Consistent summaries and others, JSON lines."})
    swaps: str | None = field(default=None, metadata={"help": "Right and wrong summaries, JSON lines."})
    configs: list[str] | None = field(
        default=None,
        metadata={"help": "QualsConfig files, each in a folder that names it; the model's own if left out."},
    )
    judges: list[str] | None = field(
        default=None,
        metadata={"help": "Registered judges; those that need neither references nor the Hub if left out."},
    )
    model: str | None = field(default=None, metadata={"help": "The QAGen model; the package's default if left out."})
    dtype: str = field(default="auto", metadata={"help": "Type of the weights."})
    batch_size: int = field(default=8, metadata={"help": "Texts computed together."})
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
        if not any((self.cnndm, self.xsum, self.aggrefact, self.swaps)):
            raise ValueError("Name at least one of cnndm, xsum, aggrefact and swaps.")
        if self.qags_models is not None and len(self.qags_models) != 2:
            raise ValueError(f"qags_models must be a question writer and a reader, got {self.qags_models}.")


def read_sets(args: Arguments) -> list[JudgedSet]:
    """The sets whose files are named."""
    sets = []
    for name, path in (("QAGS CNN/DM", args.cnndm), ("QAGS XSum", args.xsum)):
        if path is not None:
            comparisons, human = read_qags(path)
            sets.append(JudgedSet(name, comparisons, CORRELATION, functools.partial(correlation_cells, human=human)))
    if args.aggrefact is not None:
        for name, (comparisons, labels) in read_aggrefact(args.aggrefact).items():
            sets.append(JudgedSet(name, comparisons, AUROC, functools.partial(auroc_cells, labels=labels)))
    if args.swaps is not None:
        sets.append(JudgedSet("swaps", read_swaps(args.swaps), ("right one higher",), swap_cells))
    return sets


def read_qags(path: str) -> tuple[list[Comparison], list[float]]:
    """Documents with their summary, and the share of each summary's sentences that most annotators call supported."""
    comparisons, human = [], []
    for place, item in _json_lines(path):
        sentences = item["summary_sentences"]
        supported = [
            sum(answer["response"] == "yes" for answer in sentence["responses"]) * 2 > len(sentence["responses"])
            for sentence in sentences
        ]
        summary = " ".join(sentence["sentence"] for sentence in sentences)
        comparisons.append(Comparison(item["article"], (summary,), (place,)))
        human.append(sum(supported) / len(supported))
    return comparisons, human


def read_aggrefact(path: str) -> dict[str, tuple[list[Comparison], list[bool]]]:
    """Of each set and origin the documents with their summary, and whether people call it consistent; shuffled."""
    sets: dict[str, tuple[list[Comparison], list[bool]]] = {}
    lines = list(_json_lines(path))
    # The first rows stand for all of them where a limit is set.
    random.Random(0).shuffle(lines)
    for place, item in lines:
        comparisons, labels = sets.setdefault(f"{item['set']} {item['origin']}", ([], []))
        comparisons.append(Comparison(item["document"], (item["summary"],), (place,)))
        labels.append(bool(item["consistent"]))
    return dict(sorted(sets.items()))


def read_swaps(path: str) -> list[Comparison]:
    """Documents with their right and their wrong summary."""
    return [
        Comparison(item["document"], (item["good"], item["bad"]), (place, place)) for place, item in _json_lines(path)
    ]


def _json_lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # At newlines alone: texts may hold other marks that end a line.
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        yield f"{path}, line {number}", json.loads(line)


def make_judges(args: Arguments) -> list[Judge]:
    """What scores the summaries: registered judges, some of them in several forms, and two of this benchmark's own."""
    names = args.judges or default_judges(with_references=False, with_slow=True)
    if args.factcc_model is not None and "factcc" not in names:
        names = [*names, "factcc"]
    judges = registered(names, model=args.model, factcc_model=args.factcc_model)
    forms = {"entity": entity_judges, "qags": qags_judges, "quals": quals_judges}
    chosen = [form for judge in judges for form in (forms[judge.name](args) if judge.name in forms else [judge])]
    chosen += [
        Judge("rouge", {f"ROUGE-{n} precision against the document": f"rouge{n}" for n in "12L"}, RougePrecision),
        Judge(
            "likelihood",
            {"mean log p of the summary given the document, same base model": "score"},
            functools.partial(Likelihood, args.dtype),
        ),
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
    """One for each configuration."""
    configs = {f"quals-{Path(path).parent.name}": QualsConfig.from_file(path) for path in args.configs or ()}
    configs = configs or {"quals": find_config(args.model)}
    return [
        Judge(
            name,
            {"result": "result"},
            functools.partial(WholeQuals, args, config),
            {"model": args.model or "default", "dtype": args.dtype, **config.to_dict()},
        )
        for name, config in configs.items()
    ]


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
    """Whole results of QUALS as JSON: the forms are computed from their pairs."""

    name = "quals"

    def __init__(self, args: Arguments, config: QualsConfig):
        self.scorer = QualsScorer.from_pretrained(args.model, config=config, dtype=args.dtype)

    def score(self, documents, summaries, *, references=None, batch_size=8):
        results = self.scorer.score(documents, summaries, batch_size=batch_size)
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

    def __init__(self, dtype: str):
        base = default_base_model()
        device = resolve_device(None)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=resolve_dtype(dtype, device)).to(device)
        self.model = QAGenModel(
            model, AutoTokenizer.from_pretrained(base), QATemplate(prompt="Passage: {text}\n\nSummary:")
        )

    def score(self, documents, summaries, *, references=None, batch_size=8):
        return [
            SimpleNamespace(score=self.mean_log_prob(document, summary))
            for document, summary in zip(documents, summaries, strict=True)
        ]

    def mean_log_prob(self, document: str, summary: str) -> float:
        target, _ = self.model.as_continuation(summary)
        return float(np.mean(self.model.log_probs([document], [[target]])[0][0]))


def pairs_of(fields: dict) -> list[ScoredPair]:
    names = ("question", "answer", "tokens", "summary_log_probs", "document_log_probs", "answer_start")
    names += ("document_answer",)
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


def correlation_cells(scores: Scores, human: Sequence[float]) -> list[str]:
    return correlations([row[0] for row in scores], human)


def auroc_cells(scores: Scores, labels: Sequence[bool]) -> list[str]:
    """
    Area under the ROC curve of the summaries that have a score: the probability that a consistent one scores higher
    than another, ties counting half. With its 95 % interval (percentiles of 2,000 resamples), and how many they are.
    """
    scored = np.array([row[0] for row in scores], dtype=float)
    has_score = ~np.isnan(scored)
    judged, consistent = scored[has_score], np.array(labels)[: len(scored)][has_score]
    if consistent.all() or not consistent.any():
        return ["–", "–", str(len(judged))]
    rng = np.random.default_rng(0)
    samples = (rng.integers(0, len(judged), len(judged)) for _ in range(2000))
    resampled = [auroc(judged[rows], consistent[rows]) for rows in samples]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return [f"{auroc(judged, consistent):.3f}", f"{low:.3f} to {high:.3f}", str(len(judged))]


def auroc(scores: np.ndarray, consistent: np.ndarray) -> float:
    """The area for scores of shape `(rows,)` and labels of the same shape; NaN without both kinds."""
    num_consistent = int(consistent.sum())
    if num_consistent in (0, len(scores)):
        return math.nan
    ranks = rankdata(scores)[consistent].sum() - num_consistent * (num_consistent + 1) / 2
    return float(ranks / (num_consistent * (len(scores) - num_consistent)))


def swap_cells(scores: Scores) -> list[str]:
    """How many right summaries score higher than the wrong one; one without a score does not."""
    higher = sum(None not in (right, wrong) and right > wrong for right, wrong in scores)
    return [f"{higher} of {len(scores)}"]


# What a result holds of the summary as a whole, where it counts.
PARTS = ("log_likelihood", "document_attention")


def quals_forms(name: str, rows: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Scores]:
    """The score as configured, every form of it from the pairs of whole results, and what else it counts by itself."""
    pairs = [[pairs_of(result) for result in row] for row in rows]
    parts = {part: [[result[part] for result in row] for row in rows] for part in PARTS}
    return {
        f"{name}, as configured": [[result["score"] for result in row] for row in rows],
        **{f"{name}, `{part}` alone": of_rows for part, of_rows in parts.items() if any(any(row) for row in of_rows)},
        **{
            f"{name}, form `{variant}`": [[nan_to_none(form(part)) for part in row] for row in pairs]
            for variant, form in VARIANTS.items()
        },
    }


def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    sets = read_sets(args)
    table: dict[str, list[str]] = {}
    for judge in make_judges(args):
        for judged in sets:
            folder = Path(args.output_dir) / judged.name.replace("/", "").replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f"{judge.name}.jsonl"):
                kept = kept_scores(judge, judged.comparisons, folder, resume=True)
                done = kept.num_rows - kept.num_missing
                started = time.perf_counter()
                # All that earlier runs have scored count.
                wanted = None if args.limit is None else max(args.limit, done)
                rows = judge_rows(judge, judged.comparisons[:wanted], kept, batch_size=args.batch_size)
                seconds = time.perf_counter() - started
            scores: dict[str, Scores] = {column: [row[column] for row in rows] for column in judge.columns}
            truncated = sum(sum(row["truncated"]) for row in rows)
            print(
                f"{judged.name}, {judge.name}: {len(rows)} of {len(judged.comparisons)} scored, {truncated} with a "
                f"text cut, {seconds:.0f} s for {max(len(rows) - done, 0)}"
            )
            if judge.name.startswith("quals"):
                results = scores.pop("result")
                every = [result for row in results for result in row]
                generated = sum(result["num_generated"] for result in every)
                kept_pairs = sum(result["num_pairs"] for result in every)
                print(f"{judged.name}, {judge.name}: {generated} pairs generated, {kept_pairs} kept")
                scores = quals_forms(judge.name, results)
            for method, values in scores.items():
                table.setdefault(method, []).extend(judged.measure(values))
    print(f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, dtype {args.dtype}\n")
    header = ["", *(f"{judged.name} {what}" for judged in sets for what in judged.columns)]
    published = [
        [f"{method}, published", *(cell for judged in sets for cell in published_cells(judged, values))]
        for method, values in PUBLISHED.items()
        if args.cnndm or args.xsum
    ]
    print(markdown_table(header, [*([method, *cells] for method, cells in table.items()), *published]))


def published_cells(judged: JudgedSet, values: dict[str, float]) -> list[str]:
    cells = [""] * len(judged.columns)
    if judged.name in values:
        cells[0] = f"{values[judged.name]:.3f}"
    return cells


if __name__ == "__main__":
    main()
