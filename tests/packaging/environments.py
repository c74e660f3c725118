"""Virtual environments with the built wheel, the requirements of a test, and nothing else."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def pyproject() -> dict[str, Any]:
    """Return the content of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program without access to this checkout's package, and return its output.

    :raises AssertionError: if it fails; the message contains its output
    """
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTEST_", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env=inherited, capture_output=True, text=True)
    words = " ".join(map(str, command))
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A virtual environment."""

    def __init__(self, directory: Path, interpreter: str = sys.executable) -> None:
        run(interpreter, "-m", "venv", "--without-pip", directory)
        self.python = directory / "bin" / "python"
        self.directory = directory

    def install(self, *requirements: str) -> None:
        # The pip of the tests, as pip is not installed in the environment. Without compilation, as most modules are
        # never imported.
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", self.python]
        run(*pip, "install", "--quiet", "--no-compile", *requirements)

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run ``python *arguments``, by default in a directory without the checkout's package."""
        return run(self.python, *arguments, cwd=cwd or self.directory)


def interpreter_of(version: str) -> str | None:
    """Return a Python of this version (``"3.12"``), from PATH or pyenv, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    others = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    for candidate in shutil.which(f"python{version}"), *others:
        # The one on PATH may be a shim of pyenv that fails.
        if candidate and subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return str(candidate)
    return None
