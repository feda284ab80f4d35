"""The documentation runs: every block of its pages that is not marked, on tiny random models for the large ones."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from conftest import TINY_TEMPLATE, tiny_model, tiny_qagen, tiny_tokenizer
from contrastive_world import arguments, rows
from datasets import Dataset
from doc_blocks import Block, blocks_of, run
from peft import LoraConfig, get_peft_model
from pymdownx.slugs import slugify
from reader_world import save_classifier

from hf_quals import QualsConfig, QualsScorer, Scorer
from hf_quals.qagen import loading
from hf_quals.quals import config
from hf_quals.quals.forms import Calibration


ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
LANGUAGES = {"python", "bash", "text", "json", "mermaid"}

DOCUMENTS = ["ann saw a red cat. bob ran.", "the dog sat in the sun.", "a cat and a dog ran.", "bob saw the sun."]
SUMMARIES = ["ann saw a cat.", "the dog sat.", "a cat ran.", "bob saw the sun."]


class Brevity(Scorer):
    name = "brevity"

    def score(self, documents, summaries, *, references=None, batch_size=8):
        return [SimpleNamespace(score=-len(summary)) for summary in summaries]


def write_rows(path: str, **columns):
    lines = (json.dumps(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True))
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def save(model, tokenizer, folder: str):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Every model that the pages name, as a tiny one in a folder of that name."""
    folder = tmp_path_factory.mktemp("models")
    llama = tiny_qagen("llama")
    for name in ("base", "path/or/hub-id"):
        llama.save_pretrained(folder / name)
    of_adapter = QualsConfig(
        num_beams=8, variant="divergence", document_answers=True, calibration=Calibration(0.2, 2.0)
    )
    for name in ("adapter", "path/or/hub-id-of-adapter"):
        adapted = get_peft_model(tiny_model("llama"), LoraConfig(task_type="CAUSAL_LM", r=2))
        adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
        adapted.save_pretrained(folder / name)
        TINY_TEMPLATE.save_pretrained(folder / name)
        of_adapter.save_pretrained(folder / name)
    save(tiny_model("bart"), tiny_tokenizer("bart"), folder / "facebook/bart-large-cnn")
    for name in ("a-decoder-only-model", "Qwen/Qwen3-0.6B"):
        save(tiny_model("llama"), tiny_tokenizer("llama"), folder / name)
    for name in ("manueldeprada/FactCC", "a-model-of-natural-language-inference"):
        (folder / name).mkdir(parents=True)
        save_classifier(folder / name)
    return folder


@pytest.fixture
def names(models, tmp_path, monkeypatch) -> dict:
    """Stands in a folder with all files that the pages name; the default model is a tiny one; what readers have."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    (tmp_path / "hf_quals").symlink_to(ROOT / "hf_quals")
    shutil.copytree(ROOT / "hf_quals/metrics/quals", tmp_path / "user/quals")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_QUALS_BASE_MODEL", str(tmp_path / "base"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # what is published is looked for in no package index
    for module in (loading, config):
        monkeypatch.setattr(module, "ADAPTER_FOLDER", tmp_path / "adapter")
    Path("document.txt").write_text(DOCUMENTS[0])
    for name in ("rows", "summaries", "train", "test", "before", "mle"):
        write_rows(f"{name}.jsonl", document=DOCUMENTS, summary=SUMMARIES, reference=SUMMARIES)
    for name in ("after", "conseq", "quals"):
        write_rows(f"{name}.jsonl", document=DOCUMENTS, summary=[*SUMMARIES[1:], SUMMARIES[0]], reference=SUMMARIES)
    write_rows("candidates.jsonl", document=DOCUMENTS, candidates=[SUMMARIES] * 4)
    Dataset.from_dict({"document": DOCUMENTS, "mle": SUMMARIES, "conseq": SUMMARIES[::-1]}).to_csv("summaries.csv")
    data = rows("bart", 4)
    data.to_parquet("train.parquet")
    tokenizer = tiny_tokenizer("bart")
    page = ModuleType("page")  # a module: what a page defines can be saved by its name
    monkeypatch.setitem(sys.modules, "page", page)
    page.__dict__.update(
        {
            "document": DOCUMENTS[0],
            "summary": SUMMARIES[0],
            "reference": SUMMARIES[0],
            "documents": DOCUMENTS,
            "summaries": SUMMARIES,
            "references": SUMMARIES,
            "candidates": SUMMARIES,
            "summary_of_a": SUMMARIES[0],
            "summary_of_b": SUMMARIES[1],
            "a_scorer_of_yours": Brevity(),
            "model": tiny_model("bart"),
            "tokenizer": tokenizer,
            "inputs": tokenizer(DOCUMENTS[:1], return_tensors="pt"),
            "scorer": QualsScorer(tiny_qagen("bart"), QualsConfig(num_beams=8)),
            "train_dataset": data,
            "eval_dataset": data,
            "dataset": Dataset.from_dict({"prompt": DOCUMENTS, "document": DOCUMENTS}),
            "output_dir": "results",
            "args": arguments("results", save_strategy="epoch"),
        }
    )
    yield page.__dict__
    for name, module in list(sys.modules.items()):
        if name.startswith("evaluate_modules.") and hasattr(module, "_scorer"):
            module._scorer.cache_clear()  # a metric keeps its model: the tiny one is nobody else's default


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page):
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block}: which of {', '.join(sorted(LANGUAGES))} is it?"
        assert block.reason != "", f"{block} says not why it is not run"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if {block.language for block in blocks_of(page)} & {"python", "bash"}],
    ids=lambda page: page.name,
)
def test_blocks_run_one_behind_the_other(page, names):
    """And print what the block of text directly behind them says."""
    blocks = blocks_of(page)
    for number, block in enumerate(blocks):
        if block.language not in {"python", "bash"} or block.reason:
            continue
        printed = run(block, names)
        behind = blocks[number + 1] if number + 1 < len(blocks) else None
        if block.language == "python" and behind and behind.language == "text" and follows(block, behind):
            assert printed == behind.code, f"{block} prints something else"


def follows(block: Block, behind: Block) -> bool:
    return behind.line == block.line + block.code.count("\n") + 3


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_are_what_their_script_draws():
    drawings = script("draw_pictures")
    assert {path.name for path in drawings.FOLDER.glob("*.svg")} == drawings.PICTURES.keys()
    for name, draw in drawings.PICTURES.items():
        drawn = (drawings.FOLDER / name).read_text(encoding="utf-8")
        assert draw() == drawn, "Run: python docs/draw_pictures.py"


def test_on_the_site_links_out_of_the_docs_lead_to_the_repository(caplog):
    hooks = script("hooks")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    config = SimpleNamespace(extra={"repository": "https://example.org/r"})
    text = "[a](../recipes/README.md#what-is-measured) [b](cli.md) [c](../README.md)"
    assert hooks.on_page_markdown(text, page, config, []) == (
        "[a](https://example.org/r/blob/main/recipes/README.md#what-is-measured) [b](cli.md) "
        "[c](https://example.org/r/blob/main/README.md)"
    )
    assert not caplog.messages
    hooks.on_page_markdown("[a](../recipes/no_such_file.py)", page, config, [])
    assert caplog.messages == ["page.md: there is no recipes/no_such_file.py"]


def test_types_and_names_of_docstrings_are_shown_as_transformers_shows_them():
    def shown(html: str) -> str:
        return script("hooks").on_page_content(html, None, None, [])

    assert shown("<code>`int`, *optional*, defaults to 8</code>") == "<code>int, optional</code>"
    assert shown("<code>*optional*</code> <code>*args</code>") == "<code>optional</code> <code>*args</code>"
    assert shown("[<code>~hf_quals.QualsScorer.score</code>] [<code>x</code>]") == (
        '<a href="#hf_quals.QualsScorer.score"><code>score</code></a> <code>x</code>'
    )


def anchors(page: Path) -> set[str]:
    """Those that GitHub and the site make of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    slug = slugify(case="lower")
    return {slug(heading.replace("`", ""), "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "recipes/README.md"])
def test_links_of_pages_beside_the_site_lead_somewhere(page):
    """Those of the site are checked by `mkdocs build --strict`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_a_block_that_fails_fails_the_test(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\nx = 1\nassert x == 2\n```\n\n<!-- not run: needs a GPU -->\n```bash\nnope\n```\n"
    )
    first, second = blocks_of(page)
    assert (first.line, first.reason, second.reason) == (4, None, "needs a GPU")
    with pytest.raises(AssertionError) as raised:
        run(first, {})
    assert raised.traceback[-1].lineno + 1 == 5
    with pytest.raises(AssertionError, match="only hf-quals is run"):
        run(second, {})
    page.write_text("```bash\nhf-quals score no-such-file.jsonl --output out.jsonl\n```\n")
    with pytest.raises(AssertionError, match="no-such-file"):
        run(blocks_of(page)[0], {})
