import json
import sys
from asyncio.subprocess import PIPE, STDOUT, create_subprocess_exec
from pathlib import Path

import pytest

from tests.fix_mariadb import make_mariadb
from tests.waiting import deadline

pytestmark = [pytest.mark.asyncio, pytest.mark.extended]

GOALS = {"stream_local": 1.5, "insert": 0.95, "latency_p50": 2.2, "mysql_stream_asyncmy": 0.8}


@pytest.mark.timeout(deadline(240))
async def test_every_benchmark_runs_and_prints_its_results(tmp_path: Path) -> None:
    # Not started: skips the test where MariaDB is not installed, as other tests do.
    make_mariadb()
    output = tmp_path / "quick.json"
    bench = await create_subprocess_exec(
        sys.executable, "-m", "benchmarks", "--quick", "--output", str(output), stdout=PIPE, stderr=STDOUT
    )
    printed = (await bench.communicate())[0].decode()

    assert bench.returncode == 0, printed
    assert "</svg>" in output.with_suffix(".svg").read_text()
    results = json.loads(output.read_text())
    for series in results.pop("series"):
        assert all(cost > 0 for _, cost in series["points"]), series["name"]
        assert series["what"] in printed
    assert {name: results[name]["goal"] for name in GOALS} == GOALS
    for name, result in results.items():
        assert result["ratio"] > 0, name
        assert result["runs"], name
        assert result["unit"], name
        assert result["what"] in printed


async def test_few_rows_are_refused() -> None:
    bench = await create_subprocess_exec(sys.executable, "-m", "benchmarks", "--rows", "1", stderr=PIPE)
    refused = (await bench.communicate())[1].decode()

    assert bench.returncode == 2
    assert "--rows is at least 1000" in refused
