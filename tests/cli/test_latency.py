"""`pvtctl latency` as a user meets it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked import ForkedPopen

from pvtctl.cli import latency as command
from pvtctl.cli.main import main
from pvtctl.latency.measure import Case, Latency


def test_json_has_the_documented_keys(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", ForkedPopen.__base__)  # a copy of this process has free memory to fill
    arguments = [
        "--backbone",
        "pvt_tiny",
        "--size",
        "64",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--repeats",
        "2",
        "--json",
    ]
    assert main(["latency", *arguments]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    row = document["rows"][0]
    assert row["p90_ms"] >= row["p50_ms"] > 0
    assert row["peak_memory_bytes"] > 0
    assert (row["backbone"], row["size"], row["batch_size"], row["mode"]) == ("pvt_tiny", [64, 64], 1, "forward")
    assert document["machine"]["threads"] == 1
    assert "warming up pvt_tiny at 64x64, batch 1" in err


@pytest.mark.parametrize("form", ["table", "markdown", "csv"])
def test_formats(form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = Latency(Case("pvt_tiny"), 9, 20.0, 22.5, 21.0, 19.0, 90.0, 47.6, 3 << 20, 0.5)
    machine = {
        "cpu": "a CPU",
        "cpu_capability": "AVX2",
        "threads": 2,
        "cpu_cores": 4,
        "torch": "2.6",
        "allocator": "kept",
        "kernels": "folded batch norm",
    }
    monkeypatch.setattr("pvtctl.latency.measure.measure_latency", lambda cases, **options: ([result], machine))
    assert main(["latency", "--backbone", "pvt_tiny", "--format", form]) == 0
    out, err = capsys.readouterr()
    for word in ("pvt_tiny", "224x224", "20.00", "22.50", "47.60", "3", "9"):
        assert word in out
    assert "a CPU (AVX2), 2 threads of 4 cores" in err
    assert "CPU kernels: folded batch norm" in err
    assert "other processes used up to 50.0% of this machine meanwhile: times may be too long" in err


def test_a_detector_in_three_parts(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backbone", "resnet18", "--head", "retinanet", "--size", "64x96", "--repeats", "2", "--warmup", "0"]
    assert main(["latency", *arguments, "--device", "cpu", "--threads", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert list(row["parts_ms"]) == ["preprocess", "network", "postprocess"]
    assert sum(row["parts_ms"].values()) == pytest.approx(row["p50_ms"], rel=0.5)


def test_parts_are_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"preprocess": 1.25, "network": 17.5, "postprocess": 1.5}
    result = Latency(Case("pvt_tiny", head="mask_rcnn"), 9, 20.0, 22.5, 21.0, 19.0, 90.0, 47.6, 3 << 20, None, parts)
    machine = {
        "cpu": "a CPU",
        "cpu_capability": "AVX2",
        "threads": 2,
        "cpu_cores": 4,
        "torch": "2.6",
        "allocator": "kept",
        "kernels": "folded batch norm",
    }
    monkeypatch.setattr("pvtctl.latency.measure.measure_latency", lambda cases, **options: ([result], machine))
    assert main(["latency", "--backbone", "pvt_tiny", "--head", "mask_rcnn", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    columns, row = (line.split(",") for line in out.splitlines())
    assert columns[5:8] == ["preprocess ms", "network ms", "postprocess ms"]
    assert row[5:8] == ["1.25", "17.50", "1.50"]
    assert "1000 candidates an image for NMS" in err


def test_cases_are_grouped_by_size_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Case] = []
    monkeypatch.setattr(
        "pvtctl.latency.measure.measure_latency", lambda cases, **options: seen.extend(cases) or ([], {})
    )
    monkeypatch.setattr(command, "_print", lambda *arguments: None)
    assert main(["latency", "--backbone", "pvt_tiny,resnet50", "--size", "64,96x64", "--batch-size", "1,8"]) == 0
    assert len(seen) == 8
    assert seen[0] == Case("pvt_tiny", (64, 64), 1)
    assert seen[1] == Case("resnet50", (64, 64), 1)
    assert seen[-1] == Case("resnet50", (96, 64), 8)
    seen.clear()
    assert main(["latency", "--backbone", "pvt_tiny", "--engine", "torch, onnxruntime"]) == 0
    assert seen == [Case("pvt_tiny"), Case("pvt_tiny", engine="onnxruntime")]
    seen.clear()
    assert main(["latency", "--backbone", "pvt_tiny", "--compile"]) == 0
    assert seen == [Case("pvt_tiny", engine="compile")] == [Case("pvt_tiny", compile=True)]


def test_engines_are_told_apart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (9, 20.0, 22.5, 21.0, 19.0, 90.0, 47.6, 3 << 20, None)
    results = [Latency(Case("pvt_tiny", engine=engine), *numbers) for engine in ("torch", "onnxruntime")]
    machine = {
        "cpu": "a CPU",
        "cpu_capability": "AVX2",
        "threads": 2,
        "cpu_cores": 4,
        "torch": "2.6",
        "kernels": "none",
    }
    machine |= {"allocator": "kept", "onnxruntime": "1.20"}
    monkeypatch.setattr("pvtctl.latency.measure.measure_latency", lambda cases, **options: (results, machine))
    assert main(["latency", "--backbone", "pvt_tiny", "--engine", "torch,onnxruntime", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(",224x224")[0] for line in out.splitlines()[1:]] == [
        '"pvt_tiny, torch"',
        '"pvt_tiny, onnxruntime"',
    ]
    assert "by torch and onnxruntime" in err
    assert "onnxruntime 1.20" in err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--size", "0"], "size '0' is out of range", "between 32 and 8192"),
        (["--size", "-5"], "size '-5'", "224"),
        (["--size", "800x"], "size '800x'", "HEIGHTxWIDTH"),
        (["--backbone", "resnet5"], "resnet5", "resnet50"),
        (["--batch-size", "0"], "batch size '0'", "1,8"),
        (["--batch-size", "²"], "batch size '²'", "1,8"),
        (["--batch-size", "-1"], "batch size '-1'", "1,8"),
        (["--batch-size", "9" * 24], "batch size '9", "1,8"),
        (["--threads", "9" * 14], "--threads", "latency --help"),
        (["--device", "tpu"], "tpu", "cpu"),
        (["--device", "cuda:99"], "no cuda:99", "doctor"),
        (["--device", "mps"], "mps", "cpu"),
        (["--repeats", "0"], "--repeats", "--help"),
        (["--dtype", "int8"], "int8", "--help"),
        (["--head", "detr", "--compile", "--mode", "train"], "training detectors is not compiled", "--head none"),
        (["--engine", "onnx"], "no engine 'onnx'", "onnxruntime"),
        (["--engine", "torch,"], "no engine ''", "torch, compile, onnxruntime"),
        (["--engine", "auto"], "auto takes one of two engines", "--engine torch,onnxruntime"),
        (["--engine", "onnxruntime", "--mode", "train"], "the engine onnxruntime does not train", "--engine"),
        (["--engine", "torch,onnxruntime", "--dtype", "bf16"], "computes in fp32, not bf16", "--engine"),
        (["--engine", "onnxruntime", "--channels-last"], "chooses layouts itself", "--engine"),
        (["--dtype", "tf32", "--device", "cpu"], "TF32 is a format of NVIDIA GPUs, and this is cpu", "fp32"),
        (["--layers", "--mode", "train"], "forward pass", "--mode train"),
        (["--layers", "--compile"], "not compiled", "--compile"),
        (["--layers", "--engine", "torch,onnxruntime"], "not compiled", "--engine"),
        (["--depth", "2", "--size", "64,96"], "--depth is for the parts", "--layers"),
        (["--plot", "a.png"], "make no curve", "--layers"),
        (["--layers", "--plot", "a.pdf"], "a.pdf is not a picture's name", ".svg"),
        (["--layers", "--plot", "/dev/null/a.png"], "/dev/null is a file", "--plot"),
        (["--seconds", "nan"], "--seconds", "--help"),
        (["--seconds", "inf"], "--seconds inf is not a number to use", "finite"),
        (["--batch-size", "9" * 5000], "more digits than can be read", "thousand"),
        (["--size", "9" * 5000], "more digits than can be read", "thousand"),
        (["--layers", "--plot", "a.png", "--batch-size", "1,2"], "a roofline is of one model", "one batch size"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    error, advice = err.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint in advice


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children through Linux's /proc")
def test_ctrl_c_leaves_no_process_behind() -> None:
    arguments = ["--backbone", "resnet18,pvt_v2_b0", "--size", "64", "--device", "cpu", "--seconds", "600"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pvtctl", "latency", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("timing"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    time.sleep(0.1)
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)


@pytest.mark.parametrize(("head", "classes"), [("semantic_fpn", None), ("dpt", "5")])
def test_a_dense_model_in_three_parts(head: str, classes: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backbone", "pvt_v2_b0", "--head", head, "--size", "64x96", "--repeats", "2", "--warmup", "0"]
    arguments += ["--num-classes", classes] if classes else []
    assert main(["latency", *arguments, "--device", "cpu", "--threads", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert list(row["parts_ms"]) == ["preprocess", "network", "postprocess"]
    assert sum(row["parts_ms"].values()) == pytest.approx(row["p50_ms"], rel=0.5)


def test_a_dense_models_size_and_classes_reach_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Case] = []
    monkeypatch.setattr(
        "pvtctl.latency.measure.measure_latency", lambda cases, **options: seen.extend(cases) or ([], {})
    )
    monkeypatch.setattr(command, "_print", lambda *arguments: None)
    assert main(["latency", "--backbone", "vit_large_patch16", "--head", "dpt", "--mode", "train"]) == 0
    assert main(["latency", "--backbone", "resnet50s", "--head", "deeplabv3plus", "--output-stride", "8"]) == 0
    assert (seen[0].size, seen[0].head, seen[0].num_classes, seen[0].mode) == ((384, 384), "dpt", None, "train")
    assert (seen[1].size, seen[1].output_stride) == ((512, 512), 8)


def test_what_a_model_does_not_have_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backbone", "pvt_tiny", "--head", "deeplabv3plus", "--output-stride", "8", "--device", "cpu"]
    assert main(["latency", *arguments]) == 2
    assert "error: pvt_tiny has no output_stride" in capsys.readouterr().err


def test_layers_as_table_and_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvtctl.latency.ceilings.copy_gb_s", lambda device: 10.0)
    monkeypatch.setattr("pvtctl.latency.ceilings.matmul_gflops", lambda device, kind: 50.0)
    arguments = [
        "--backbone",
        "pvt_v2_b0",
        "--head",
        "none",
        "--size",
        "64",
        "--repeats",
        "3",
        "--warmup",
        "0",
        "--layers",
    ]
    arguments += ["--device", "cpu", "--threads", "1"]
    assert main(["latency", *arguments, "--json", "--plot", str(tmp_path / "roofline.png")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ceilings"] == {"macs_per_second": 25e9, "bytes_per_second": 10e9}
    (row,) = document["rows"]
    layers = {layer["name"]: layer for layer in row["layers"]}
    assert layers["stages.3.blocks.0-1.attn"]["calls"] == 2
    assert row["parts_ms"] is None
    for layer in layers.values():
        assert 0 <= layer["p10_ms"] <= layer["p50_ms"] <= layer["p90_ms"]
    assert (tmp_path / "roofline.png").is_file()
    assert main(["latency", *arguments, "--depth", "1", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in out.splitlines()][:5] == ["part", *(f"stages.{at}" for at in range(4))]
    assert "limits: 25 GMAC/s (product of square matrices), 10 GB/s" in err
    assert "without hooks" in err


@pytest.mark.parametrize("over", ["--size", "--batch-size"])
def test_growth_beside_what_is_computed(
    over: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvtctl.latency.ceilings.copy_gb_s", lambda device: 10.0)
    monkeypatch.setattr("pvtctl.latency.ceilings.matmul_gflops", lambda device, kind: 50.0)

    def measured(cases: list[Case], **options: Any) -> tuple[list[Latency], dict[str, Any]]:
        return [Latency(case, 9, 20.0, 22.5, 21.0, 19.0, 90.0, 47.6, 30 << 20, None) for case in cases], {}

    monkeypatch.setattr("pvtctl.latency.measure.measure_latency", measured)
    drawn: list[Any] = []
    monkeypatch.setattr("pvtctl.views.curves.draw_panels", lambda *given, **options: drawn.append(given))
    given = {"--size": "64", "--batch-size": "1"} | {over: "128,64" if over == "--size" else "2,1"}
    arguments = ["--backbone", "resnet18", "--device", "cpu", "--json", "--plot", str(tmp_path / "a.png")]
    assert main(["latency", *arguments, *itertools.chain(*given.items())]) == 0
    large, small = [row["computed"] for row in json.loads(capsys.readouterr().out)["rows"]]
    times = 4 if over == "--size" else 2
    assert large["gmacs"] == pytest.approx(times * small["gmacs"], rel=0.02)
    assert small["limit_ms"] == pytest.approx(1e3 * small["gmacs"] / 25)
    weights = 4 * 11_689_512
    assert large["memory_bytes"] - weights == pytest.approx(times * (small["memory_bytes"] - weights), rel=0.02)
    _, (time, memory), xlabel = drawn[0]
    assert [series.label for series in memory.series] == ["resnet18", "resnet18, computed"]
    assert time.series[0].xs == ((64, 128) if over == "--size" else (1, 2))
    assert memory.series[0].means == (30, 30)
    assert time.series[1].means == pytest.approx((small["limit_ms"], large["limit_ms"]))
    assert xlabel == ("input scale, pixels" if over == "--size" else "images a call")
