"""Mutation checks of the code on which the events depend: each small change to it has to fail a test.

``python -m tests.mutants [area ...]``, with cosmic-ray in ``.venv-mutants``, which ``make mutants`` makes. The exit
status is 0 only if each mutant that survives is explained in survivors.md.
"""

import argparse
import json
import random
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SURVIVORS = Path(__file__).with_name("survivors.md")

# On one of the PostgreSQL servers and one client library each, as each mutant takes a run of the tests.
_ONCE = "not pg15 and not aiomysql"
# Annotations and messages are no behaviour; a number that is a time is not, either.
_EXCLUDED = [
    "core/NumberReplacer",
    "core/ReplaceBinaryOperator_(BitOr|Mod|Pow|FloorDiv|LShift|RShift|BitAnd|BitXor).*",
    "core/ReplaceBinaryOperator_(Add|Sub|Mul|Div)_(?!Add|Sub).*",
    "core/ReplaceUnaryOperator_.*",
    "core/ReplaceComparisonOperator_(Is|IsNot)_(?!Is|IsNot).*",
    "core/RemoveDecorator",
    "core/ExceptionReplacer",
]


@dataclass(frozen=True)
class Area:
    modules: tuple[str, ...]
    """Files below reflex_aio/sql."""
    tests: tuple[str, ...]


AREAS = {
    "horizon": Area(
        ("events/postgres/horizon.py",), ("tests/gaps/test_horizon.py", "tests/gaps/test_horizon_model.py")
    ),
    "postgres-gaps": Area(
        ("events/postgres/gaps.py", "events/postgres/catalog.py"),
        (
            "tests/gaps/test_in_flight.py",
            "tests/gaps/test_drawn_not_inserted.py",
            "tests/gaps/test_unrelated.py",
            "tests/gaps/test_replaced_tables.py",
            "tests/gaps/test_lost_writers.py",
            "tests/gaps/test_primary.py",
        ),
    ),
    "mysql-gaps": Area(("events/mysql/gaps.py", "events/mysql/gap_fill.py"), ("tests/gaps/mysql",)),
    "cursors": Area(
        ("cursors/table.py", "cursors/store.py", "cursors/postgres.py", "cursors/mysql.py"),
        ("tests/sql/test_cursors.py", "tests/sql/test_cursor_store.py", "tests/sql/mysql/test_cursors.py"),
    ),
    "leases": Area(
        ("leases/store.py", "leases/postgres.py", "leases/mysql.py"),
        ("tests/sql/test_leases.py", "tests/runner/test_write_behind_leases.py"),
    ),
    "tail": Area(("events/tail.py",), ("tests/sql/test_tail.py", "tests/sql/mysql/test_tail.py")),
}


@dataclass(frozen=True)
class Mutant:
    module: str
    before: str
    after: str
    survived: bool

    @property
    def key(self) -> str:
        """The mutant's line in survivors.md, which stays the same when lines move."""
        return f"- `{self.module}`: `{self.before}` as `{self.after}`"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("areas", nargs="*", metavar="area", help=f"of {', '.join(AREAS)}; all by default")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="check N mutants of each area, chosen at random"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the choice (1)")
    options = parser.parse_args()
    if unknown := set(options.areas) - AREAS.keys():
        parser.error(f"no such areas: {', '.join(sorted(unknown))}")
    explained = SURVIVORS.read_text()
    unexplained = 0
    print(f"{'area':<16}{'mutants':>9}{'killed':>8}{'survived':>10}{'unexplained':>13}", flush=True)
    for name in options.areas or AREAS:
        mutants = check(AREAS[name], options.sample, options.seed)
        survivors = [mutant for mutant in mutants if mutant.survived]
        new = [mutant for mutant in survivors if mutant.key not in explained]
        unexplained += len(new)
        print(
            f"{name:<16}{len(mutants):>9}{len(mutants) - len(survivors):>8}{len(survivors):>10}{len(new):>13}",
            flush=True,
        )
        for mutant in new:
            print(f"  {mutant.key}", flush=True)
    return 1 if unexplained else 0


def check(area: Area, sample: int | None, seed: int) -> list[Mutant]:
    """Mutate the modules of an area, in a copy of the checkout, and run its tests on each mutant."""
    with tempfile.TemporaryDirectory(prefix="reflex-mutants-") as place:
        copy = Path(place)
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        for file in listed.stdout.splitlines():
            target = copy / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, target)
        return _check(copy, area, sample, seed)


def _check(copy: Path, area: Area, sample: int | None, seed: int) -> list[Mutant]:
    tests = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "--dist", "loadgroup", "--seed=1"]
    command = shlex.join([*tests, "-p", "no:cacheprovider", "-k", _ONCE, *area.tests])
    settings = {
        "module-path": [f"reflex_aio/sql/{module}" for module in area.modules],
        "timeout": 300.0,
        "excluded-modules": [],
        "test-command": command,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    lines = ["[cosmic-ray]", *lines, "[cosmic-ray.distributor]", 'name = "local"']
    lines += ["[cosmic-ray.filters.operators-filter]", f"exclude-operators = {json.dumps(_EXCLUDED)}"]
    (copy / "mutants.toml").write_text("\n".join(lines))
    # A test that fails anyway would kill each mutant.
    before = subprocess.run(shlex.split(command), cwd=copy, capture_output=True, text=True)
    assert before.returncode == 0, before.stdout
    _run(copy, "cosmic-ray", "init", "mutants.toml", "mutants.sqlite")
    _run(copy, "cr-filter-operators", "mutants.sqlite", "mutants.toml")
    if sample is not None:
        _keep(copy / "mutants.sqlite", sample, seed)
    _run(copy, "cosmic-ray", "exec", "mutants.toml", "mutants.sqlite")
    found = []
    for line in _run(copy, "cosmic-ray", "dump", "mutants.sqlite").splitlines():
        _, result = json.loads(line)
        if result is not None and result["worker_outcome"] == "normal":
            found.append(_mutant(result["diff"], survived=result["test_outcome"] == "survived"))
    return found


def _keep(session: Path, sample: int, seed: int) -> None:
    """Mark all but some work items as skipped."""
    with sqlite3.connect(session) as connection:
        jobs = {job for (job,) in connection.execute("SELECT job_id FROM work_items")}
        jobs -= {job for (job,) in connection.execute("SELECT job_id FROM work_results")}
        skipped = random.Random(seed).sample(sorted(jobs), max(0, len(jobs) - sample))
        connection.executemany(
            "INSERT INTO work_results (job_id, worker_outcome) VALUES (?, 'SKIPPED')",
            [(job,) for job in skipped],
        )


def _mutant(diff: str, *, survived: bool) -> Mutant:
    [module] = re.findall(r"^--- .*?reflex_aio/sql/(\S+)", diff, re.MULTILINE)
    removed = " ".join(line.strip() for line in re.findall(r"^-(?!--)(.*)", diff, re.MULTILINE))
    added = " ".join(line.strip() for line in re.findall(r"^\+(?!\+\+)(.*)", diff, re.MULTILINE))
    return Mutant(module, removed, added, survived)


def _run(copy: Path, program: str, *arguments: str) -> str:
    command = [str(ROOT / ".venv-mutants" / "bin" / program), *arguments]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
