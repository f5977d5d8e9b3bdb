"""Nothing but a word to setuptools; what the package is stands in pyproject.toml."""

import warnings

from setuptools import setup

# pip shows what setuptools tells whoever installs with -e: that a folder here with the package's name is imported first. It is
# the package.
warnings.filterwarnings("ignore", message="Editable installation")

setup()
