"""The blocks of code of the documentation: which there are, and how they are run."""

import re
import shlex
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from typer.testing import CliRunner

from hf_quals.cli import app


BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
NOT_RUN = "not run: "


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    code: str
    line: int
    reason: str | None
    """Why it is not run, as the comment before it says: `<!-- not run: needs a GPU -->`."""

    def __str__(self):
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order; `line` is that of the first line of code."""
    text = page.read_text(encoding="utf-8")
    made = []
    for match in BLOCK.finditer(text):
        mark = match["mark"] or ""
        reason = mark.removeprefix(NOT_RUN) if mark.startswith(NOT_RUN) else None
        line = text.count("\n", 0, match.start("code")) + 1
        made.append(Block(page, match["language"], match["code"], line, reason))
    return made


def run(block: Block, names: dict) -> str:
    """Runs a block of Python in `names`, or each `hf-quals` command of a block of bash; what it prints."""
    if block.language == "python":
        printed = StringIO()
        with redirect_stdout(printed):
            # Behind as many empty lines as stand before it on the page, whose line a traceback then names.
            exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), names)
        return printed.getvalue()
    printed = ""
    for command in block.code.replace("\\\n", " ").strip().splitlines():
        program, *arguments = shlex.split(command, comments=True)
        assert program == "hf-quals", f"{block}: only hf-quals is run; mark what cannot be with <!-- {NOT_RUN}why -->"
        result = CliRunner().invoke(app, arguments)
        if result.exit_code:
            raise AssertionError(f"{block}: {command}\n{result.output}") from result.exception
        printed += result.output
    return printed
