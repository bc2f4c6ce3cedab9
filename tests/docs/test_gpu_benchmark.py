"""The script that measures a GPU runs from end to end, on the CPU with tiny sizes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import forked
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(forked, "COPIED", (*forked.COPIED, "run"))


def test_the_dry_run_writes_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import gpu

    gpu.main(["--dry-run", "--device", "cpu", "--out", str(tmp_path / "gpu.md")])
    text = (tmp_path / "gpu.md").read_text()
    assert text in capfd.readouterr().out
    assert text.startswith("A trial of the script: no measurement.")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[2] for row in rows] == [
        name if name != case.ours else f"{name} (ours)" for case in gpu.TRIAL for name in case.contestants
    ]
    for _, _, name, ms, ratio, _ in rows:
        assert float(ms) > 0
        assert re.fullmatch(r"\*\*\d+\.\d\d\*\* \(\d+\.\d\d-\d+\.\d\d\)", ratio)
        assert ratio.startswith("**1.00**") or not name.endswith("(ours)")


def test_cases_for_which_no_time_is_left_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    import gpu

    gpu.main(["--dry-run", "--device", "cpu", "--minutes", "-1"])
    rows = [line for line in capfd.readouterr().out.splitlines() if "the time was up" in line]
    assert [row.split("|")[1].strip() for row in rows] == [case.title for case in gpu.TRIAL]


def test_a_cpu_is_not_measured_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    import gpu

    with pytest.raises(SystemExit) as ended:
        gpu.main(["--device", "cpu"])
    assert ended.value.code == 2
    assert "tests/benchmarks/run.py measures CPUs" in capsys.readouterr().err


def test_every_contestant_can_be_built() -> None:
    import gpu
    from peers import BUILD

    named = {name for case in (*gpu.CASES, *gpu.TRIAL) for name in case.contestants}
    assert named <= set(BUILD)
    assert "run" in sys.modules
