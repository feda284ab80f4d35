"""What the site does with pages that are written to be read on GitHub, too."""

import logging
import posixpath
import re
from pathlib import Path

import hf_quals


logger = logging.getLogger("mkdocs.hooks")
ROOT = Path(__file__).parents[1]
DRAWING = re.compile(r"<!-- drawn by: .*?<!-- end of the drawing -->", re.DOTALL)


def on_page_markdown(markdown, page, config, files):
    """Links out of docs/ lead to the repository, where GitHub draws the imports; a link to nothing is a warning."""
    repository = f"{config.extra['repository']}/blob/main"

    def link(match):
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), match["path"]))
        if not (ROOT / path).exists():
            logger.warning(f"{page.file.src_uri}: there is no {path}")
        return f"]({repository}/{path}{match['anchor'] or ''})"

    markdown = re.sub(r"\]\((?P<path>(?:\.\./)+[^)#]*)(?P<anchor>#[^)]*)?\)", link, markdown)
    return DRAWING.sub(f"[The drawing]({repository}/docs/{page.file.src_uri}#imports), as GitHub shows it.", markdown)


def on_page_content(html, page, config, files):
    """Docstrings of Transformers' kind: names in brackets lead to their entries, types are shown without Markdown."""

    def kind(match):
        # The default stands behind it, taken from the signature.
        return f"<code>{re.sub(r', defaults to .*|[`*]', '', match['type'])}</code>"

    def reference(match):
        name = match["name"].removeprefix("hf_quals.")
        shown = f"<code>{name.split('.')[-1]}</code>"
        return f'<a href="#hf_quals.{name}">{shown}</a>' if name.split(".")[0] in hf_quals.__all__ else shown

    html = re.sub(r"<code>(?P<type>[^<]*(?:`|\*optional\*)[^<]*)</code>", kind, html)
    return re.sub(r"\[<code>~?(?P<name>[\w.]+)</code>\](?!\()", reference, html)
