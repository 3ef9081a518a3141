"""Command lines of the project's own tools: what a user can cause is one line, and exit status 4."""

from __future__ import annotations

import argparse
from typing import NoReturn

UNUSABLE = 4
"""Exit status of a usage error, as in the suite itself."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit with status 4."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave."""
        self.exit(UNUSABLE, f"{self.prog}: {message}\n")
