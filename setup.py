"""For `--setup_file` and old tools only: everything about the package stands in pyproject.toml."""

from setuptools import setup

setup()
