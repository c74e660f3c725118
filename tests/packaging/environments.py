"""Virtual environments that hold the built wheel and what a test names, and nothing else."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def pyproject() -> dict[str, Any]:
    """What pyproject.toml says."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program away from this checkout's own package and return its output.

    :raises AssertionError: if it fails, with what it said
    """
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTEST_", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env=inherited, capture_output=True, text=True)
    told = " ".join(map(str, command))
    assert done.returncode == 0, f"{told}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A virtual environment."""

    def __init__(self, directory: Path, interpreter: str = sys.executable) -> None:
        run(interpreter, "-m", "venv", "--without-pip", directory)
        self.python = directory / "bin" / "python"
        self.directory = directory

    def install(self, *requirements: str) -> None:
        # The pip that runs the tests, as each environment's own would have to be installed first. It compiles nothing:
        # most of what is installed is never imported.
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", self.python]
        run(*pip, "install", "--quiet", "--no-compile", *requirements)

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run ``python *arguments``, by default in a directory without the checkout's package."""
        return run(self.python, *arguments, cwd=cwd or self.directory)


def interpreter_of(version: str) -> str | None:
    """A Python of that version (``"3.12"``) on PATH or among pyenv's, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    others = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    for candidate in shutil.which(f"python{version}"), *others:
        # What is on PATH may be a shim of pyenv's that fails.
        if candidate and subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return str(candidate)
    return None
