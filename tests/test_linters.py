"""What reads the source before people do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
COMPILED = sorted(str(path) for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.p[yx][xd]"))

LINTERS = {
    "ruff": [BIN / "ruff", "check", "--no-cache", "."],
    "ruff format": [BIN / "ruff", "format", "--no-cache", "--check", "."],
    "mypy": [BIN / "mypy", "--strict", "--python-executable", sys.executable, "src/virtflash"],
    "cython-lint": [BIN / "cython-lint", *COMPILED],
}


@pytest.mark.parametrize("linter", LINTERS)
def test_nothing_is_found(linter: str) -> None:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}  # cython-lint calls pycodestyle
    run = subprocess.run(LINTERS[linter], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_there_is_something_to_find() -> None:
    assert len(COMPILED) > 20
