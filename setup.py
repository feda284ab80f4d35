"""What pyproject.toml cannot say: the folder `recipes` is in the wheel, and the README's links work on PyPI, too."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup


PAGES = "https://github.com/hf-quals/hf-quals/blob/main/"
PICTURES = "https://raw.githubusercontent.com/hf-quals/hf-quals/main/"


def readme() -> str:
    """The README with whole addresses, in the place of those that begin at the repository."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    return re.sub(
        r"(!?)(\[[^\]]*\])\((?!https?:|#)([^)\s]+)\)",
        lambda link: f"{link[1]}{link[2]}({PICTURES if link[1] else PAGES}{link[3]})",
        text,
    )


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    # As `hf_quals/recipes`, which is the top-level folder.
    packages=[
        *find_namespace_packages(include=["hf_quals*"]),
        *(f"hf_quals.{name}" for name in find_namespace_packages(include=["recipes*"])),
    ],
    package_dir={"hf_quals.recipes": "recipes"},
)
