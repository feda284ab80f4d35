"""Systems' summaries of the same documents before several judges: one table, with intervals and paired tests.

A judge that fails costs its own cells alone. Scores are kept document by document, a file a judge.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap, permutation_test

from . import __version__
from .comparing.partial import RowScores
from .comparing.reports import check_outputs, check_suffix, write_files
from .comparing.rows import Row
from .errors import InputError
from .files import markdown_table
from .systems import Comparison


JUDGES = ("quals", "qags", "factcc", "rouge", "entity")
RESAMPLES = 10_000

_SEED = 0
_RESAMPLES_AT_ONCE = 100
_DOCUMENTS_AT_ONCE = 8


# ---- Statistics ----


def bootstrap_interval(scores: np.ndarray) -> tuple[float, float]:
    """
    The 95 % interval of a mean by bootstrap: the 2.5th and 97.5th percentile of the means of 10,000 resamples.

    Args:
        scores (`np.ndarray` of shape `(documents,)`): Scores, none of them NaN.

    Returns:
        `tuple[float, float]`: both ends, the same for the same scores; NaN if there are fewer than two scores.
    """
    if len(scores) < 2:
        return math.nan, math.nan
    interval = bootstrap(
        (scores,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_RESAMPLES_AT_ONCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired_test(scores: np.ndarray, baseline: np.ndarray) -> tuple[float, float]:
    """
    The paired randomisation test of a difference in means (https://aclanthology.org/D12-1091).

    If two systems were alike, either could have got either score of a document: the p-value is the share of ways to
    swap the scores within documents whose mean difference is at least as far from 0, twice the share of the more
    extreme side, at most 1. All ways are counted if there are at most 10,000 (up to 13 documents), else 9,999 random
    ones and the observed one.

    Args:
        scores (`np.ndarray` of shape `(documents,)`): Scores of a system, none of them NaN.
        baseline (`np.ndarray` of shape `(documents,)`): Scores of another for the same documents.

    Returns:
        `tuple[float, float]`: the mean of `scores - baseline`, and the two-sided p-value; NaN without a document, the
        p-value with fewer than two.
    """
    differences = scores - baseline
    if len(differences) < 2:
        return (float(differences.mean()) if len(differences) else math.nan), math.nan
    test = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",  # of one sample: flips signs
        n_resamples=RESAMPLES - 1,
        batch=_RESAMPLES_AT_ONCE,
        rng=np.random.default_rng(_SEED),
    )
    return float(differences.mean()), float(test.pvalue)


# ---- Judges ----


@dataclass(frozen=True)
class Judge:
    """
    What scores summaries.

    Args:
        name (`str`): One of `JUDGES`.
        columns (`dict[str, str]`): The names of its scores, and under which key a result has them. Higher is better.
        load (`Callable`): Loads what it needs, and returns what scores: texts and summaries to one result a summary.
        settings (`dict[str, str]`): All that its scores depend on.
        reads_reference (`bool`): Whether the texts are the references, not the documents.
    """

    name: str
    columns: dict[str, str]
    load: Callable[[], Callable[[list[str], list[str]], list[dict[str, Any]]]]
    settings: dict[str, str] = field(default_factory=dict)
    reads_reference: bool = False


def make_judges(names: Sequence[str], *, model: str | None = None, factcc_model: str | None = None) -> list[Judge]:
    """
    Judges by their names. None loads its model yet.

    Args:
        names (`Sequence[str]`): Some of `quals`, `qags`, `factcc`, `rouge` and `entity`.
        model (`str`, *optional*): The QAGen of QUALS and QAGS; the package's default if left out.
        factcc_model (`str`, *optional*): The classifier of FactCC; `manueldeprada/FactCC` if left out.

    Raises:
        [`InputError`]: for a name that is unknown or given twice.
    """
    for place, name in enumerate(names):
        if name not in JUDGES:
            raise InputError(f"No judge is called {name!r}. Known are {', '.join(JUDGES)}.")
        if name in names[:place]:
            raise InputError(f"The judge {name!r} is named twice.")
    from .judges.entities import EntityScorer, load_finder
    from .judges.factcc import FACTCC, FactccScorer
    from .judges.qags import QagsScorer
    from .quals.scorer import QualsScorer

    qagen = {"model": model or f"default of hf-quals {__version__}"}
    finder = {"names found by": load_finder().name}
    classifier = factcc_model or FACTCC
    judges = [
        Judge("quals", {"QUALS": "score"}, lambda: _results(QualsScorer.from_pretrained(model)), qagen),
        Judge("qags", {"QAGS": "score"}, lambda: _results(QagsScorer.from_qagen(model)), qagen | finder),
        Judge(
            "factcc",
            {"FactCC": "score"},
            lambda: _results(FactccScorer.from_pretrained(classifier)),
            {"model": classifier},
        ),
        Judge(
            "rouge",
            {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"},
            _load_rouge,
            reads_reference=True,
        ),
        Judge("entity", {"entity precision": "score"}, lambda: _results(EntityScorer()), finder),
    ]
    return [judge for name in names for judge in judges if judge.name == name]


def _results(scorer: Any) -> Callable[[list[str], list[str]], list[dict[str, Any]]]:
    return lambda documents, summaries: [result.to_dict() for result in scorer.score(documents, summaries)]


def _load_rouge() -> Callable[[list[str], list[str]], list[dict[str, Any]]]:
    from .judges.rouge import rouge

    return lambda references, summaries: list(map(rouge, references, summaries))


# ---- The table ----


@dataclass(frozen=True)
class Cell:
    """
    What a judge says about a system.

    Args:
        judge (`str`): The judge's score: `"QUALS"`, `"ROUGE-1"`, ….
        system (`str`): The system.
        mean (`float`, *optional*): Mean over the documents with a score.
        low (`float`, *optional*): Lower end of its 95 % interval ([`bootstrap_interval`]).
        high (`float`, *optional*): Upper end.
        unscored (`int`, *optional*): How many documents have no score.
        difference (`float`, *optional*): Mean difference to the first system over the documents that both have scores
            for.
        paired (`int`, *optional*): How many documents these are.
        p_value (`float`, *optional*): Of the difference ([`paired_test`]), not corrected for how many are made.
        error (`str`, *optional*): Why there is no score at all: the judge failed.
    """

    judge: str
    system: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    unscored: int | None = None
    difference: float | None = None
    paired: int | None = None
    p_value: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """
    A table.

    Args:
        systems (`tuple[str, ...]`): The systems; all others are compared with the first.
        num_documents (`int`): How many documents they summarized.
        settings (`dict[str, dict[str, str]]`): What each judge's scores depend on.
        truncated (`dict[str, int]`): For how many summaries each judge did not see the end of a text.
        cells (`tuple[Cell, ...]`): By judge, then by system.
    """

    systems: tuple[str, ...]
    num_documents: int
    settings: dict[str, dict[str, str]]
    truncated: dict[str, int]
    cells: tuple[Cell, ...]

    @property
    def errors(self) -> dict[str, str]:
        """Of each score whose judge failed, why."""
        return {cell.judge: cell.error for cell in self.cells if cell.error is not None}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """One line a cell."""
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow([column.name for column in fields(Cell)])
        writer.writerows(astuple(cell) for cell in self.cells)
        return file.getvalue()

    def to_markdown(self) -> str:
        """The table as text to print, and as Markdown."""
        header = ["judge", "system", "mean", "95 % interval", "unscored"]
        if len(self.systems) > 1:
            header += [f"minus {self.systems[0]}", "p"]
        rows = [self._row(cell)[: len(header)] for cell in self.cells]
        return "\n".join([markdown_table(header, rows, num_left=2), "", *self._notes()]) + "\n"

    def _row(self, cell: Cell) -> list[str]:
        if cell.error is not None:
            return [cell.judge, cell.system, "failed", *["–"] * 4]
        row = [cell.judge, cell.system, _number(cell.mean)]
        row += [f"{_number(cell.low)} to {_number(cell.high)}" if cell.low is not None else "–", str(cell.unscored)]
        if cell.system == self.systems[0]:
            return [*row, "", ""]
        p_value = "< 0.001" if cell.p_value is not None and cell.p_value < 0.001 else _number(cell.p_value)
        return [*row, _number(cell.difference, "+"), p_value]

    def _notes(self) -> list[str]:
        notes = [f"- Documents: {self.num_documents}"]
        for name, settings in self.settings.items():
            facts = [f"{what} {value}" for what, value in settings.items()]
            if self.truncated.get(name):
                num_summaries = self.num_documents * len(self.systems)
                facts.append(f"end of a text not seen: {self.truncated[name]} of {num_summaries} summaries")
            notes += [f"- {name}: {', '.join(facts)}"] if facts else []
        return [*notes, *(f"- {judge} failed: {error}" for judge, error in self.errors.items())]


def _number(value: float | None, sign: str = "-") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def evaluate(
    comparisons: Sequence[Comparison],
    systems: Sequence[str],
    judges: Sequence[Judge],
    folder: Path | None = None,
    *,
    resume: bool = False,
) -> Evaluation:
    """
    Lets judges score systems.

    Args:
        comparisons (`Sequence[Comparison]`): Documents with the summaries of all systems; at least one.
        systems (`Sequence[str]`): The names of the systems.
        judges (`Sequence[Judge]`): Who scores.
        folder (`Path`, *optional*): Where scores are kept, in a `.jsonl` file a judge.
        resume (`bool`, *optional*, defaults to `False`): Whether to go on from scores in `folder`.

    Raises:
        [`InputError`]: if there are no references for ROUGE, or scores to go on from are of other texts or settings.
    """
    if comparisons[0].reference is None and any(judge.reads_reference for judge in judges):
        raise InputError("ROUGE needs references, and the files have none. Name their column, or leave rouge out.")
    # Scores of something else are refused before any judge begins.
    kept: dict[str, tuple[RowScores | None, int]] = {
        judge.name: (None, 0) if folder is None else kept_scores(judge, comparisons, folder, resume=resume)
        for judge in judges
    }
    cells: list[Cell] = []
    truncated = {}
    for judge in judges:
        try:
            rows = judge_rows(judge, comparisons, *kept[judge.name])
        except Exception as error:  # whatever a model or a library raises is this judge's failure alone
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            cells += [Cell(column, system, error=reason) for column in judge.columns for system in systems]
            continue
        truncated[judge.name] = sum(sum(row["truncated"]) for row in rows)
        for column in judge.columns:
            cells += _cells(column, systems, np.array([row[column] for row in rows], dtype=float))
    settings = {judge.name: judge.settings for judge in judges}
    return Evaluation(tuple(systems), len(comparisons), settings, truncated, tuple(cells))


def system_names(known: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """
    The systems' names: as given, or those they are known by, which are their files' or columns'.

    Raises:
        [`InputError`]: if there are not as many as systems, or two are the same.
    """
    found = list(names) if names is not None else list(known)
    if len(found) != len(known):
        raise InputError(f"{len(known)} systems need as many --names, separated by commas; got {len(found)}.")
    for place, name in enumerate(found):
        if not name.strip() or name in found[:place]:
            raise InputError(f"Each system needs a name of its own, got {', '.join(map(repr, found))}. Pass --names.")
    return found


def default_judges(with_references: bool) -> list[str]:
    """The judges that need no Hub; ROUGE only with references."""
    return [name for name in JUDGES if name != "factcc" and (with_references or name != "rouge")]


def scores_folder(output: Path, inputs: Sequence[Path], *, resume: bool, overwrite: bool) -> Path:
    """
    Where the scores behind an output are kept.

    Raises:
        [`InputError`]: if the output cannot be written, is an input, or would replace what it may not.
    """
    check_suffix(output, (".md", ".csv", ".json"))
    folder = output.with_name(output.name + ".scores")
    if folder.exists() and not (resume or overwrite):
        raise InputError(f"{folder} holds scores of an earlier run. Pass --resume or --overwrite.")
    check_outputs([output], inputs, overwrite=overwrite or (resume and folder.exists()))
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"{output}: the folder {output.parent} does not exist or cannot be written to.")
    return folder


def write_evaluation(evaluation: Evaluation, output: Path) -> None:
    """Writes the table in the format of the file's suffix: `.md`, `.csv` or `.json`."""
    to_text = {".md": evaluation.to_markdown, ".csv": evaluation.to_csv, ".json": evaluation.to_json}
    write_files({output: to_text[output.suffix]().encode()})


def kept_scores(
    judge: Judge, comparisons: Sequence[Comparison], folder: Path, *, resume: bool = False
) -> tuple[RowScores, int]:
    """
    Where a judge's scores are kept, and how many documents are scored there.

    Args:
        judge (`Judge`): The judge.
        comparisons (`Sequence[Comparison]`): All documents.
        folder (`Path`): Where its file `NAME.jsonl` is.
        resume (`bool`, *optional*, defaults to `False`): Whether to go on from what is there.

    Raises:
        [`InputError`]: if the scores to go on from are of other texts or settings.
    """
    texts = [(comparison.document, comparison.summaries, comparison.reference) for comparison in comparisons]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    header = {"judge": judge.name, "rows": len(texts), "sha256": digest, "hf_quals": __version__, **judge.settings}
    scores = RowScores(folder / f"{judge.name}.jsonl", header)
    return scores, scores.resume() if resume and scores.path.exists() else 0


def judge_rows(
    judge: Judge, comparisons: Sequence[Comparison], kept: RowScores | None = None, done: int = 0
) -> list[Row]:
    """
    Lets a judge score what is not scored yet.

    Args:
        judge (`Judge`): The judge; loaded only if there is something to score.
        comparisons (`Sequence[Comparison]`): Documents with the summaries of all systems.
        kept (`RowScores`, *optional*): Where its scores are kept.
        done (`int`, *optional*, defaults to 0): How many documents are scored there.

    Returns:
        `list[dict]`: a row for every document, scored now or before: its `places`, under each column's name the scores
        of the systems, and for which of them a text was `truncated`.
    """
    from tqdm import tqdm

    rows = list(kept.rows()) if kept is not None and done else []
    if done >= len(comparisons):
        return rows
    score = judge.load()
    if kept is not None and not done:
        # Not before the model is there: a mistyped name leaves nothing behind, and an older run's scores alone.
        kept.path.parent.mkdir(parents=True, exist_ok=True)
        kept.start()
    with tqdm(total=len(comparisons), initial=done, desc=judge.name, unit=" documents") as progress:
        for start in range(done, len(comparisons), _DOCUMENTS_AT_ONCE):
            part = comparisons[start : start + _DOCUMENTS_AT_ONCE]
            scored = _score(judge, score, part)
            if kept is not None:
                kept.append(scored)
            rows += scored
            progress.update(len(part))
    return rows


def _score(judge: Judge, score: Callable, comparisons: Sequence[Comparison]) -> list[Row]:
    texts = [one.reference if judge.reads_reference else one.document for one in comparisons for _ in one.summaries]
    results = iter(score(texts, [summary for one in comparisons for summary in one.summaries]))
    rows = []
    for one in comparisons:
        of_systems = [next(results) for _ in one.summaries]
        row: Row = {"places": one.places}
        row |= {column: [result[key] for result in of_systems] for column, key in judge.columns.items()}
        row["truncated"] = [
            result.get("document_truncated", False) or result.get("summary_truncated", False) for result in of_systems
        ]
        rows.append(row)
    return rows


def _cells(column: str, systems: Sequence[str], scores: np.ndarray) -> list[Cell]:
    """The cells of a judge from its scores, of shape `(documents, systems)`."""
    cells = []
    for number, system in enumerate(systems):
        ours = scores[:, number]
        scored = ours[~np.isnan(ours)]
        low, high = bootstrap_interval(scored)
        compared: dict[str, Any] = {}
        if number:
            both = ~np.isnan(ours) & ~np.isnan(scores[:, 0])
            difference, p_value = paired_test(ours[both], scores[both, 0])
            compared = {"difference": _or_none(difference), "paired": int(both.sum()), "p_value": _or_none(p_value)}
        cells.append(
            Cell(
                column,
                system,
                mean=float(scored.mean()) if len(scored) else None,
                low=_or_none(low),
                high=_or_none(high),
                unscored=len(ours) - len(scored),
                **compared,
            )
        )
    return cells


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
