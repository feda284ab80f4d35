"""What pyproject.toml cannot say: the top-level folder `recipes` is in the wheel, as `hf_quals/recipes`."""

from setuptools import find_namespace_packages, setup


setup(
    packages=[
        *find_namespace_packages(include=["hf_quals*"]),
        *(f"hf_quals.{name}" for name in find_namespace_packages(include=["recipes*"])),
    ],
    package_dir={"hf_quals.recipes": "recipes"},
)
