"""From a key and annotators' answers to shares, sign test and agreement: as data, as Markdown, as a picture."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ..comparing.reports import check_folder, check_outputs, check_suffix, write_files
from ..files import as_markdown, markdown_table
from .answers import Answers, Key
from .study import CRITERIA
from .verdicts import krippendorff_alpha, majority, sign_test


_OUTCOMES = ("better", "equal", "worse")
# Blue and orange of Okabe and Ito, told apart with every colour vision; they differ in lightness too.
_COLORS = {"better": "#0072B2", "equal": "#DDDDDD", "worse": "#E69F00"}
_LABEL_COLORS = {"better": "white", "equal": "black", "worse": "black"}
_NARROW = 7  # per cent of the width; a label needs as much


@dataclass(frozen=True)
class CriterionReport:
    """
    One criterion, the first system relative to the second. The unit is the item, however many people judged it: its
    verdict is what more than half of them say, and equal where there is no such majority.

    Args:
        criterion (`str`): The criterion.
        better (`int`): Items in which the first system is better.
        equal (`int`): Items in which both are equal, those without a majority included.
        worse (`int`): Items in which the first system is worse.
        no_majority (`int`): Items that are equal for want of a majority.
        unanswered (`int`): Items that nobody judged; they are in none of the counts above.
        cannot_tell (`int`): Answers, of whatever annotator, that it cannot be told; they are no verdicts.
        p_value (`float`): Of the exact two-sided sign test over better and worse items; `None` without any.
        alpha (`float`): Krippendorff's alpha between annotators, of ordinal values; `None` where it is not defined.
        alpha_items (`int`): Items with the verdicts of two annotators at least, which alpha rests on.
    """

    criterion: str
    better: int
    equal: int
    worse: int
    no_majority: int
    unanswered: int
    cannot_tell: int
    p_value: float | None
    alpha: float | None
    alpha_items: int

    @property
    def items(self) -> int:
        """How many items were judged."""
        return self.better + self.equal + self.worse

    def share(self, outcome: str) -> float | None:
        """Share of the judged items with the outcome `"better"`, `"equal"` or `"worse"`; `None` if none is judged."""
        return getattr(self, outcome) / self.items if self.items else None


@dataclass(frozen=True)
class Report:
    """
    A study's result.

    Args:
        study (`str`): The study's id.
        systems (`tuple[str, str]`): The names of the two systems.
        num_items (`int`): Items of the study.
        complete (`dict[str, int]`): How many items each annotator completed.
        criteria (`tuple[CriterionReport, ...]`): The results.
        comments (`tuple[Comment, ...]`): What annotators said beside their choices.
    """

    study: str
    systems: tuple[str, str]
    num_items: int
    complete: dict[str, int]
    criteria: tuple[CriterionReport, ...]
    comments: tuple[Comment, ...] = ()


@dataclass(frozen=True)
class Comment:
    """What an annotator said of an item, in which A is the summary of the system `A`."""

    item: int
    annotator: str
    A: str
    B: str
    text: str


def report_of(key: Key, everyone: Sequence[Answers]) -> Report:
    """Unblinds the answers and counts."""
    return Report(
        study=key.study,
        systems=key.systems,
        num_items=len(key.swapped),
        complete={answers.annotator: answers.num_complete for answers in everyone},
        criteria=tuple(_criterion_report(criterion, key, everyone) for criterion in CRITERIA),
        comments=tuple(
            Comment(item, answers.annotator, *key.sides(item), text)
            for item in key.swapped
            for answers in everyone
            if (text := answers.comments.get(item))
        ),
    )


def _criterion_report(criterion: str, key: Key, everyone: Sequence[Answers]) -> CriterionReport:
    answered = [
        [
            key.verdict(item, answers.choices[item][criterion])
            for answers in everyone
            if criterion in answers.choices.get(item, {})
        ]
        for item in key.swapped
    ]
    verdicts_of_items = [[verdict for verdict in verdicts if verdict is not None] for verdicts in answered]
    majorities = [majority(verdicts) for verdicts in verdicts_of_items if verdicts]
    better, worse = majorities.count(1), majorities.count(-1)
    return CriterionReport(
        criterion=criterion,
        better=better,
        equal=len(majorities) - better - worse,
        worse=worse,
        no_majority=majorities.count(None),
        unanswered=len(verdicts_of_items) - len(majorities),
        cannot_tell=sum(verdicts.count(None) for verdicts in answered),
        p_value=sign_test(better, worse),
        alpha=krippendorff_alpha(verdicts_of_items),
        alpha_items=sum(len(verdicts) > 1 for verdicts in verdicts_of_items),
    )


def to_json(report: Report) -> str:
    """The report's fields, and the shares."""
    fields = dataclasses.asdict(report)
    for row, criterion in zip(fields["criteria"], report.criteria, strict=True):
        row["shares"] = {outcome: criterion.share(outcome) for outcome in _OUTCOMES}
    return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def to_markdown(report: Report) -> str:
    """The report as text to print, and as Markdown."""
    first, second = report.systems
    header = [f"{first} is …", *_OUTCOMES, "items", "sign test", "alpha"]
    rows = [
        [
            _title(row.criterion),
            *("–" if (share := row.share(outcome)) is None else f"{share:.1%}" for outcome in _OUTCOMES),
            str(row.items),
            _p_value(row),
            ("–" if row.alpha is None else f"{row.alpha:.2f}")
            + (f" ({row.alpha_items} items)" if row.alpha_items else ""),
        ]
        for row in report.criteria
    ]
    table = markdown_table(header, rows)
    return "\n".join([f"# {as_markdown(f'{first} compared with {second}')}", "", table, "", *_notes(report)]) + "\n"


def _p_value(row: CriterionReport) -> str:
    return "–" if row.p_value is None else "p < 0.001" if row.p_value < 0.001 else f"p = {row.p_value:.3f}"


def _notes(report: Report) -> list[str]:
    counts = {
        f"Of {report.num_items} items, completed by": report.complete,
        "Items without a majority of annotators, counted as equal": {
            _title(row.criterion): row.no_majority for row in report.criteria if row.no_majority
        },
        "Items that nobody judged, left out": {
            _title(row.criterion): row.unanswered for row in report.criteria if row.unanswered
        },
        "Answers “cannot tell”, left out": {
            _title(row.criterion): row.cannot_tell for row in report.criteria if row.cannot_tell
        },
    }
    lines = [
        f"- {what}: {as_markdown(', '.join(f'{name} {count}' for name, count in named.items()))}"
        for what, named in counts.items()
        if named
    ]
    comments = [
        f"- Item {comment.item} (A: {comment.A}, B: {comment.B}), {comment.annotator}: {comment.text}"
        for comment in report.comments
    ]
    return [f"- Study: {as_markdown(report.study)}", *lines, *map(as_markdown, comments)]


def picture(report: Report) -> Figure:
    """The shares as stacked bars, one a criterion, with the number of items and the sign test's p-value."""
    first, second = report.systems
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.add_subplot()
    titles = [
        f"{_title(row.criterion)}\nn = {row.items}" + ("" if row.p_value is None else f", {_p_value(row)}")
        for row in report.criteria
    ]
    labels = {"better": f"better: {first}", "equal": "equal", "worse": f"better: {second}"}
    left = [0.0] * len(titles)
    for outcome in _OUTCOMES:
        shares = [100 * (row.share(outcome) or 0) for row in report.criteria]
        bars = axes.barh(titles, shares, left=left, color=_COLORS[outcome], label=labels[outcome], height=0.6)
        wide = [f"{share:.1f}%" if share >= _NARROW else "" for share in shares]
        axes.bar_label(bars, wide, label_type="center", color=_LABEL_COLORS[outcome])
        for row, (start, share) in enumerate(zip(left, shares, strict=True)):
            if 0 < share < _NARROW:
                # Of two narrow neighbours one is "equal": their labels stand on different sides of the bar.
                y, align = (row + 0.32, "top") if outcome == "equal" else (row - 0.32, "bottom")
                axes.text(start + share / 2, y, f"{share:.1f}%", ha="center", va=align, fontsize="small")
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_xlim(0, 100)
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # parse_math: a dollar sign in a system's name is no formula.
    figure.suptitle(f"{first} compared with {second}", parse_math=False)
    legend = figure.legend(loc="outside lower center", ncols=len(_OUTCOMES), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def write_report(
    report: Report,
    output: Path | None,
    picture_path: Path | None,
    *,
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """
    Writes the report as `.md` or `.json`, and the picture as `.png` or `.svg`; never over one of the inputs.

    Raises:
        [`InputError`]: for another suffix, a folder that is not there, or a file that may not be replaced.
    """
    files = {}
    if output is not None:
        check_suffix(output, (".md", ".json"))
        files[output] = (to_json(report) if output.suffix.lower() == ".json" else to_markdown(report)).encode()
    if picture_path is not None:
        check_suffix(picture_path, (".png", ".svg"))
        image = io.BytesIO()
        picture(report).savefig(image, format=picture_path.suffix[1:].lower(), dpi=200)
        files[picture_path] = image.getvalue()
    check_outputs(files, inputs, overwrite=overwrite)
    for path in files:
        check_folder(path)
    write_files(files)


def _title(criterion: str) -> str:
    return criterion.replace("_", " ").capitalize()
