"""Who speaks, and which exit code comes back, where several processes run one command."""

from __future__ import annotations

import pytest
import torch
from tiny_run import Cli
from torch.distributed import DistBackendError, DistNetworkError

from pvtctl.cli.main import main
from pvtctl.cli.pretrain import in_processes, one_voice
from pvtctl.engine import Distributed, Stopped
from pvtctl.errors import ExitCode, PvtctlError, ToldElsewhereError, UsageError

SECOND = Distributed(1, 2, torch.device("cpu"))
LATE = "another process has not answered for 30 minutes ($PVTCTL_PATIENCE); its own output may say why"


@pytest.mark.parametrize(
    "arguments", [["pretrain", "scenes", "--nonsense"], ["pretrain", "scenes", "--backbone", "pvt_smal"], ["pretrian"]]
)
@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_wrong_usage_is_told_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], rank: str, speaks: bool
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", rank)
    result = cli(*arguments)
    assert result.code == ExitCode.USAGE
    assert ("error: " in result.err) == speaks


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PvtctlError("out of memory"), "process 1: out of memory"),
        (Stopped("stopped by SIGTERM"), ""),
        (ToldElsewhereError("the disk is full"), ""),
        (RuntimeError("Connection closed by peer"), ""),
        (DistNetworkError("The client socket has timed out after 1800000ms"), f"process 1: {LATE}"),
        (
            RuntimeError("Timed out waiting 1800000ms for recv operation: gloo/transport/tcp/unbound_buffer.cc"),
            f"process 1: {LATE}",
        ),
        (DistBackendError("NCCL error: remote process exited or there was a network error"), ""),
    ],
)
def test_another_process_tells_its_own_faults_only(
    capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    with pytest.raises(ToldElsewhereError) as raised, one_voice(SECOND):
        raise error
    assert raised.value.exit_code == getattr(error, "exit_code", ExitCode.FAILED)
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize("text", ["shapes differ", "CUDA out of memory in NCCL's buffers"])
def test_a_fault_of_ours_is_not_hidden(text: str) -> None:
    with pytest.raises(RuntimeError, match=text), one_voice(SECOND):
        raise RuntimeError(text)


@pytest.mark.parametrize(("code", "said"), [(0, ""), (2, ""), (75, ""), (130, ""), (137, "ended by signal 9")])
def test_the_code_of_the_processes_is_handed_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("pvtctl.engine.launch", lambda command, processes: code)
    assert main(["pretrain", "scenes", "--gpus", "2", "--device", "cpu"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert ("error: " in err) == bool(said)


def test_a_process_of_torchrun_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("pvtctl.engine.launch", lambda *_: pytest.fail("launched"))
    with pytest.raises(UsageError, match="torchrun has started them already"):
        in_processes(2, "cpu", ["pretrain", "scenes"])


def test_usage_errors_of_the_group_keep_their_kind() -> None:
    with pytest.raises(UsageError), one_voice(SECOND):
        raise UsageError("no data")
