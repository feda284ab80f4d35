"""
What do fewer beams cost in agreement, and save in time?

Scores judged summaries (the sets of `human_correlation.py`) with the default model and 60, 30, 20 and 10 beams: the
agreement with people, the rank correlation with the scores of 60 beams, how many pairs are left, and the seconds a
summary, measured on the first rows in a pass of their own. Prints one table.

    python recipes/benchmarks/beams.py --output_dir results --aggrefact aggrefact.jsonl --swaps swaps.jsonl --limit 40

Scores are kept in `output_dir`; a second run goes on from them. About 40 summaries an hour and core.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from human_correlation import Arguments as Judged
from human_correlation import JudgedSet, WholeQuals, read_sets
from scipy.stats import spearmanr
from sizes import machine, seconds
from transformers import HfArgumentParser

from hf_quals.comparing.run import judge_rows, kept_scores
from hf_quals.files import locked, markdown_table
from hf_quals.judges.registry import Judge
from hf_quals.memory import reuse_freed_memory
from hf_quals.qagen.loading import resolve_device
from hf_quals.quals.config import find_config


@dataclass
class Arguments(Judged):
    """What to score; the options of `human_correlation.py`, of which `judges` and `configs` are not read."""

    num_beams: list[int] = field(default_factory=lambda: [60, 30, 20, 10], metadata={"help": "Numbers to compare."})
    timed: int = field(default=4, metadata={"help": "How many documents are scored once more to take the time."})


def beams_judge(args: Arguments, num_beams: int) -> Judge:
    """The model's own configuration with another number of beams."""
    config = find_config(args.model).but(num_beams=num_beams)
    settings = {"model": args.model or "default", "dtype": args.dtype, **config.to_dict()}
    return Judge(
        f"quals-{num_beams}-beams", {"result": "result"}, functools.partial(WholeQuals, args, config), settings
    )


def score_set(judge: Judge, judged: JudgedSet, args: Arguments) -> list[list[dict]]:
    """Results of the first documents of a set, one a summary; what earlier runs have kept is not scored again."""
    folder = Path(args.output_dir) / judged.name.replace("/", "").replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{judge.name}.jsonl"):
        kept = kept_scores(judge, judged.comparisons, folder, resume=True)
        wanted = judged.comparisons[: args.limit]
        return [row["result"] for row in judge_rows(judge, wanted, kept, batch_size=args.batch_size)]


def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    sets = read_sets(args)
    table, reference = [], None
    for num_beams in args.num_beams:
        judge = beams_judge(args, num_beams)
        results = [score_set(judge, judged, args) for judged in sets]
        flat = [result for of_set in results for row in of_set for result in row]
        scores = np.array([result["score"] for result in flat], dtype=float)
        reference = scores if reference is None else reference
        both = ~(np.isnan(scores) | np.isnan(reference))
        agreement = spearmanr(scores[both], reference[both]).statistic
        cells = [
            cell
            for judged, of_set in zip(sets, results, strict=True)
            for cell in judged.measure([[result["score"] for result in row] for row in of_set])
        ]
        timed = [
            (text.document, summary)
            for judged in sets
            for text in judged.comparisons[: args.timed]
            for summary in text.summaries
        ]
        scorer = judge.load()
        scorer.score(*map(list, zip(*timed[:1], strict=True)))  # warms up
        time = seconds(lambda scorer=scorer, timed=timed: scorer.score(*map(list, zip(*timed, strict=True))), 1)
        num_pairs = np.mean([result["num_pairs"] for result in flat])
        table.append([str(num_beams), f"{time / len(timed):.1f}", f"{num_pairs:.1f}", f"{agreement:.3f}", *cells])
    header = ["beams", "s a summary", "pairs", f"Spearman with {args.num_beams[0]} beams"]
    print(f"{machine(args.dtype, resolve_device(None).type)}. Time: {len(timed)} summaries.\n")
    print(
        markdown_table([*header, *(f"{judged.name} {column}" for judged in sets for column in judged.columns)], table)
    )


if __name__ == "__main__":
    main()
