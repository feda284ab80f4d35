"""The recipes that come with the package: the scripts, their settings and launch configurations, by name."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError


def recipes_folder() -> Path:
    """Where the recipes lie: in the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "recipes"


def recipe_files() -> dict[str, Path]:
    """All settings and launch configurations by name: `bart_large_xsum`, `accelerate/ddp`, …."""
    folder = recipes_folder()
    paths = sorted([*folder.glob("*.yaml"), *folder.glob("accelerate/*.yaml")])
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def recipe_file(name: str) -> Path:
    """
    A file by its name, with or without `.yaml`.

    Raises:
        [`InputError`]: if there is no such recipe.
    """
    files = recipe_files()
    if (path := files.get(name.removesuffix(".yaml"))) is None:
        raise InputError(f"No recipe is called {name!r}. There are {', '.join(files)}.")
    return path


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """
    Arguments of a script, in which a first word that names a recipe becomes the path of its file.

    Raises:
        [`InputError`]: if the first word is no option, and neither a file nor a recipe.
    """
    first, *rest = arguments or [""]
    if not first or first.startswith("-") or Path(first).is_file():
        return list(arguments)
    return [str(recipe_file(first)), *rest]


def run_recipe(script: str, arguments: Sequence[str]) -> None:
    """
    Runs a script of the recipes as `python recipes/SCRIPT ARGUMENTS` does.

    Args:
        script (`str`): Its file name.
        arguments (`Sequence[str]`): Its arguments.
    """
    path = recipes_folder() / script
    sys.path.insert(0, str(path.parent))  # as Python does for a script: what it imports lies beside it
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")
