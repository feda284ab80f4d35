import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_quals
from hf_quals.contrastive.losses import LOSSES
from hf_quals.quals.forms import VARIANTS


ROOT = Path(__file__).parents[1]


DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def draw_imports():
    spec = importlib.util.spec_from_file_location("draw_imports", DOCS / "draw_imports.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_import_loads_neither_torch_nor_transformers():
    code = "import hf_quals, sys; sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", hf_quals.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(hf_quals, name).__doc__ or isinstance(getattr(hf_quals, name), hf_quals.QATemplate)


def test_dir_shows_public_names_only_and_packages_are_reachable():
    code = (
        "import hf_quals, sys; print([name for name in dir(hf_quals) if name.startswith('_')], "
        "{'judges', 'metrics'} <= set(dir(hf_quals)), 'hf_quals.metrics' in sys.modules, "
        "hf_quals.metrics.NAMES[0], hf_quals.judges.RougeScorer().name, 'torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == "[] True False entity_precision rouge False".split()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Quals'"):
        hf_quals.Quals  # noqa: B018


def test_drawing_of_imports_is_of_todays_imports(draw_imports):
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert draw_imports.redrawn(page) == page, "Run: python docs/draw_imports.py"


def test_drawing_of_imports_leaves_the_text_around_it(draw_imports):
    page = f"before\n{draw_imports.START}an old drawing\n{draw_imports.END}\nafter\n"
    drawn = draw_imports.redrawn(page)
    assert drawn.startswith(f"before\n{draw_imports.START}\n### Rooms\n")
    assert drawn.endswith(f"{draw_imports.END}\nafter\n")
    assert "    quals_scorer --> quals_pairs\n" in drawn
    assert "an old drawing" not in drawn


def test_drawing_of_rooms_leaves_out_arrows_that_a_longer_way_shows(draw_imports):
    chain = [("cli", "quals"), ("quals", "qagen"), ("qagen", "errors")]
    assert draw_imports._shortest([*chain, ("cli", "qagen"), ("cli", "errors"), ("cli", "files")]) == [
        *chain,
        ("cli", "files"),
    ]


def test_every_loss_and_every_form_has_its_row_in_the_docs():
    for page, names in (("losses.md", LOSSES), ("quals.md", VARIANTS)):
        rows = [line for line in (DOCS / page).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        for name in names:
            assert any(name in row.split("|")[1].strip(' `"') for row in rows), f"{page} has no row for {name}"


def test_links_of_the_page_on_pypi_are_whole(tmp_path):
    build = f"from setuptools.build_meta import prepare_metadata_for_build_wheel as p; print(p({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True, check=True)
    metadata = tmp_path / done.stdout.split()[-1] / "METADATA"
    links = re.findall(r"\]\(([^)\s]+)\)", metadata.read_text(encoding="utf-8"))
    assert "https://github.com/hf-quals/hf-quals/blob/main/docs/quality.md" in links
    assert "https://raw.githubusercontent.com/hf-quals/hf-quals/main/docs/space.png" in links
    assert all(link.startswith(("https://", "http://", "#")) for link in links)
