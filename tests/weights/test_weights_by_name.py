"""Weights by name, from a loopback server that speaks the Hugging Face Hub's protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pvtctl.cli.main import main
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.hub import parse_hub_name, read_listing
from pvtctl.models.backbones import build_classifier
from pvtctl.weights.download import fetch_weights
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.resolve import resolve_weights

COMMIT, OTHER = "c" * 40, "d" * 40
REPOSITORY = "timm/pvt_v2_b0.in1k"


@dataclass
class Hub:
    """A hub with one repository, and the requests that it saw."""

    files: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=lambda: {"license": "apache-2.0"})
    refusal: tuple[int, str] | None = None
    """(status, X-Error-Code) of every answer."""
    cdn: str | None = None
    """Where files are redirected to."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Stated instead of the true ones."""
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str) -> bytes | None:
        path = path.partition("?")[0]
        if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            return json.dumps({"sha": COMMIT, "siblings": self.siblings(), "cardData": self.card}).encode()
        place = f"/{REPOSITORY}/resolve/{COMMIT}/"
        return self.files.get(path.removeprefix(place)) if path.startswith(place) else None

    def siblings(self) -> list[dict[str, Any]]:
        entries = []
        for name, content in self.files.items():
            digest = self.hashes.get(name, hashlib.sha256(content).hexdigest())
            large = {"lfs": {"sha256": digest, "size": len(content)}} if name.endswith((".safetensors", ".bin")) else {}
            entries.append({"rfilename": name, "size": len(content), **large})
        return entries


def serve(hub: Hub) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.seen.append((self.path, self.headers["Authorization"]))
            body = hub.answer(self.path)
            if hub.refusal is not None or body is None:
                status, code = hub.refusal or (404, "EntryNotFound" if REPOSITORY in self.path else "RepoNotFound")
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                body = b""
            elif hub.cdn is not None and "/resolve/" in self.path:
                self.send_response(302)
                self.send_header("Location", hub.cdn + self.path)
                body = b""
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    hub.port = httpd.server_address[1]
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return httpd


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A narrow pvt_v2_b0 in timm's names is not needed: any layout that pvtctl reads will do."""
    return build_classifier("pvt_v2_b0@0.125", num_classes=3).state_dict()


@pytest.fixture(scope="module")
def weights(state: dict[str, torch.Tensor]) -> bytes:
    return save({name: value.contiguous() for name, value in state.items()})


@pytest.fixture
def hub(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    hub = Hub({"model.safetensors": weights, "README.md": b"words"})
    httpd = serve(hub)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield hub
    httpd.shutdown()
    httpd.server_close()


def kept_by_hub(root: Path, files: dict[str, bytes], commit: str = OTHER) -> Path:
    """A repository in the layout of huggingface_hub's cache."""
    home = root / "hf" / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for folder in (home / "refs", home / "blobs", snapshot):
        folder.mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    for name, content in files.items():
        blob = home / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_weights_are_fetched_once_with_their_licence_and_hash(
    hub: Hub, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    first = resolve_weights("timm:pvt_v2_b0.in1k")
    assert first.read_bytes() == weights
    assert "licence apache-2.0" in capsys.readouterr().err
    asked = len(hub.seen)
    assert resolve_weights("timm:pvt_v2_b0.in1k") == first
    assert resolve_weights("hf:timm/pvt_v2_b0.in1k") == first
    assert len(hub.seen) == asked == 2
    first.write_bytes(weights[:-1] + b"x")
    with pytest.raises(PvtctlError, match="wrong hash"):
        resolve_weights("timm:pvt_v2_b0.in1k")
    assert fetch_weights("timm:pvt_v2_b0.in1k", again=True).read_bytes() == weights


def test_default_weights_of_a_backbone(hub: Hub, state: dict[str, torch.Tensor]) -> None:
    file = resolve_weights("timm", "pvt_v2_b0@0.125")
    assert file == resolve_weights("timm:pvt_v2_b0")
    model = build_classifier("pvt_v2_b0@0.125", num_classes=3)
    load_checkpoint(model, "timm:pvt_v2_b0")
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match="stands for"):
        resolve_weights("timm")


def test_a_wrong_hash_is_refused_and_nothing_kept(hub: Hub, tmp_path: Path) -> None:
    hub.hashes = {"model.safetensors": "0" * 64}
    with pytest.raises(PvtctlError, match="wrong hash"):
        resolve_weights("timm:pvt_v2_b0.in1k")
    assert not list((tmp_path / "cache").rglob("*.safetensors*"))


def test_huggingface_hub_s_copy_comes_first(hub: Hub, weights: bytes, tmp_path: Path) -> None:
    snapshot = kept_by_hub(tmp_path, {"model.safetensors": weights})
    assert resolve_weights("timm:pvt_v2_b0.in1k") == snapshot / "model.safetensors"
    assert not hub.seen
    assert resolve_weights(f"hf:timm/pvt_v2_b0.in1k@{COMMIT}").parent.name == COMMIT  # another commit than the kept one
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(PvtctlError, match="wrong hash"):
        resolve_weights("timm:pvt_v2_b0.in1k")


def test_an_incomplete_copy_is_not_taken(hub: Hub, weights: bytes, tmp_path: Path) -> None:
    snapshot = kept_by_hub(tmp_path, {"model.safetensors": weights})
    (snapshot / "model.safetensors").resolve().unlink()
    assert tmp_path / "cache" in resolve_weights("timm:pvt_v2_b0.in1k").parents


def test_described_weights_and_weights_in_parts_are_folders(hub: Hub, state: dict[str, torch.Tensor]) -> None:
    names = sorted(state)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    index = {"weight_map": {name: part for part, members in parts.items() for name in members}}
    hub.files = {part: save({name: state[name].contiguous() for name in members}) for part, members in parts.items()}
    hub.files |= {"model.safetensors.index.json": json.dumps(index).encode(), "config.json": b"{}", "other.bin": b"no"}
    folder = resolve_weights("hf:timm/pvt_v2_b0.in1k")
    assert {"config.json", "model.safetensors.index.json", *parts} == {
        path.name
        for path in folder.iterdir()
        if not path.name.endswith(".json.json") and ".safetensors.json" not in path.name
    }
    hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "../../../secret"}}'
    with pytest.raises(UsageError, match="does not have"):
        fetch_weights("hf:timm/pvt_v2_b0.in1k", again=True)


def test_a_token_goes_to_the_hub_only(hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Hub(hub.files)
    httpd = serve(elsewhere)
    hub.cdn = elsewhere.url
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert resolve_weights("timm:pvt_v2_b0.in1k").read_bytes() == weights
    assert {token for _, token in hub.seen} == {"Bearer hf_secret"}
    assert [token for _, token in elsewhere.seen] == [None]
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize(
    ("name", "refusal", "said", "hint"),
    [
        ("hf:timm/pvt_v2_b0.in1k", (403, "GatedRepo"), "after consent only", "HF_TOKEN"),
        ("hf:timm/pvt_v2_b0.in1k", (401, "GatedRepo"), "after consent only", "HF_TOKEN"),
        ("hf:nobody/nothing", (401, "RepoNotFound"), "there is no nobody/nothing", "HF_TOKEN"),
        ("hf:timm/pvt_v2_b0.in1k@v9", (404, "RevisionNotFound"), "no revision v9", "timm/pvt_v2_b0.in1k"),
        ("hf:timm/pvt_v2_b0.in1k/model.bin", None, "has no model.bin", "model.safetensors"),
        ("hf:nothing", None, "is not a name of the Hugging Face Hub", "hf:OWNER/NAME"),
        ("hf:../..", None, "is not a name of the Hugging Face Hub", "hf:OWNER/NAME"),
        ("timm:pvt_v2_b00", None, "timm has no weights 'pvt_v2_b00'", "pvt_v2_b0"),
        ("timm:pvt_v2_b0.in21k", None, "timm has no weights", "pvt_v2_b0.in1k"),
    ],
)
def test_names_that_cannot_be_used(
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
    name: str,
    refusal: tuple[int, str] | None,
    said: str,
    hint: str,
) -> None:
    hub.refusal = refusal
    assert main(["weights", "inspect", name]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert hint in err
    assert "Traceback" not in err


def test_without_network(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="could not be fetched") as caught:
        fetch_weights("timm:pvt_v2_b0.in1k", pause=0)
    assert "HF_ENDPOINT" in (caught.value.hint or "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["weights", "inspect", "timm:pvt_v2_b0.in1k"]) == 2
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    assert not hub.seen


def test_several_weights_are_named(hub: Hub, weights: bytes) -> None:
    hub.files = {"small.pth": weights, "large.pth": weights}
    with pytest.raises(UsageError, match="several weights") as caught:
        resolve_weights("hf:timm/pvt_v2_b0.in1k")
    assert "hf:timm/pvt_v2_b0.in1k/large.pth" in (caught.value.hint or "")
    assert resolve_weights("hf:timm/pvt_v2_b0.in1k/small.pth").name == "small.pth"


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "{}",
        '{"sha": "main", "siblings": []}',
        f'{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "m.bin", "lfs": {{"sha256": "../x"}}}}]}}',
        f'{{"sha": "{COMMIT}", "siblings": 3}}',
    ],
)
def test_answers_that_are_not_the_hub_s(tmp_path: Path, answer: str) -> None:
    (tmp_path / "main.json").write_text(answer)
    with pytest.raises(UsageError, match=r"main\.json"):
        read_listing(tmp_path / "main.json")


def test_files_outside_the_repository_are_not_listed(tmp_path: Path) -> None:
    names = ["model.bin", "../model.bin", "/etc/passwd", "a/b.bin", "a/../b.bin"]
    answer = {"sha": COMMIT, "siblings": [{"rfilename": name} for name in names], "tags": ["license:mit"]}
    (tmp_path / "main.json").write_text(json.dumps(answer))
    listing = read_listing(tmp_path / "main.json")
    assert set(listing.sha256) == {"model.bin", "a/b.bin"}
    assert listing.license == "mit"


def test_names() -> None:
    found = parse_hub_name("hf:depth-anything/Depth-Anything-V2-Small@main/weights/v2.pth")
    assert (found.id, found.revision, found.file) == (
        "depth-anything/Depth-Anything-V2-Small",
        "main",
        "weights/v2.pth",
    )


def test_fetch_takes_no_mirror_for_them(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "timm:pvt_v2_b0.in1k"]) == 0
    assert capsys.readouterr().out.strip().endswith("model.safetensors")
    assert main(["weights", "fetch", "timm:pvt_v2_b0.in1k", "--mirror", "http://127.0.0.1"]) == 2
