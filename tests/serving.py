"""A live server for tests: MONAI Label with the app, with small images and a model that surely repairs them."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

import rnca
from conftest import filler
from little import broken, ring, save
from rnca.registry import Registry
from rnca.zoo import describe

ROOT = Path(__file__).parents[1]
APP = ROOT / "apps" / "rnca_refine"
SHAPE = (4, 24, 26)


class Server:
    """One running server."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, studies: Path, log: Path) -> None:
        self.process, self.url, self.studies, self.log = process, url, studies, log
        self.state = studies / ".rnca"
        self.http = httpx.Client(base_url=url, timeout=300)

    def status(self) -> dict[str, Any]:
        return dict(self.http.get("/rnca/status").json())

    def idle(self, seconds: float = 60) -> None:
        """Wait until no refinement runs or waits."""
        deadline = time.monotonic() + seconds
        while self.status()["refinements"]["taken"]:
            assert time.monotonic() < deadline, "a refinement does not end"
            time.sleep(0.02)

    def audit(self) -> list[dict[str, Any]]:
        path = self.state / "audit.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def infer(self, task: str = "rnca_refine", mask: Path | None = None, **more: Any) -> httpx.Response:
        """POST /infer; `params` as a dictionary, the rest goes into the address."""
        params = more.pop("params", {})
        files = {"label": (mask.name, mask.read_bytes())} if mask else None
        return self.http.post(f"/infer/{task}", params=more, data={"params": json.dumps(params)}, files=files)

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """In which the server finds the package that is being tested."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MONAI_LABEL", "RNCA_"))}
    return kept | {"PYTHONPATH": str(ROOT / "model"), "OMP_NUM_THREADS": "1"} | more


@contextmanager
def running(
    studies: Path,
    *more: str,
    archive: str | None = None,
    conf: dict[str, Any] | None = None,
    plain: bool = True,
    env: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Start a server by MONAI Label's own command, or by `rnca serve`; stops it at the end.

    With `archive`, it serves that DICOMweb address and keeps its state where that of `studies` would be.
    """
    port = free_port()
    pairs = ((conf or {}) | ({"state": str(studies / ".rnca")} if archive else {})).items()
    serves = archive or str(studies)
    if plain:
        words = ["-m", "monailabel.main", "start_server", "--app", str(APP), "--studies", serves]
        words += [word for k, v in pairs for word in ("--conf", k, str(v))]
    else:
        words = ["-c", "from rnca.cli import main; main()", "serve", "--studies", serves]
        words += [word for k, v in pairs for word in ("--conf", f"{k}={v}")]
    log = studies.parent / f"{studies.name}-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *words, "--port", str(port), *more],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment(**(env or {})),
            cwd=studies.parent,
        )
    server = Server(process, f"http://127.0.0.1:{port}", studies, log)
    try:
        wait_for(server)
        yield server
    finally:
        server.stop()


def wait_for(server: Server, seconds: float = 300) -> None:
    """Until the server answers, whatever it answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            server.http.get("/info/", timeout=5)
            return
        except httpx.TransportError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(server.log.read_text(encoding="utf-8", errors="replace")) from None
            time.sleep(0.1)


def make_studies(folder: Path, count: int = 3) -> Path:
    """A folder of images ring0 …: bright rings with noise, broken masks as `original`, and the model `filler`."""
    rng = np.random.default_rng(0)
    truth = ring(SHAPE)
    for number in range(count):
        image = truth * 200 + 20 + rng.integers(0, 8, SHAPE)
        save(folder / f"ring{number}.nii.gz", image.astype(np.int16))
        save(folder / "labels" / "original" / f"ring{number}.nii.gz", (broken(truth) * 1).astype(np.uint8))
    add_filler(folder)
    return folder


def add_filler(studies: Path) -> None:
    """Publish the network that fills what is bright, as a server would have done."""
    net = filler()
    meta = describe(net, "filler", steps=24)
    Registry(studies / ".rnca" / "models").publish(net, meta, user="tests", gate={"passed": True}, data={})


def mask_file(folder: Path, name: str = "mask.nrrd", values: NDArray[Any] | None = None) -> Path:
    """A broken ring as a file to upload; the ring's value is 1."""
    return save(folder / name, (broken(ring(SHAPE)) * 1).astype(np.uint8) if values is None else values)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The lines of a live stream."""
    return [json.loads(line) for line in response.text.splitlines()]


def bits(text: str, box: list[list[int]]) -> NDArray[np.bool_]:
    """A mask or change as a client unpacks it: bool, of the box's shape."""
    shape = [stop - start for start, stop in box]
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(raw, count=int(np.prod(shape))).reshape(shape).astype(bool)


def slices(box: list[list[int]]) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def expected(server: Server, mask: Path, image: str = "ring0", name: str = "filler", **options: Any) -> np.ndarray:
    """What the package itself makes of the same input."""
    model = Registry(server.state / "models")
    given = sitk.ReadImage(str(server.studies / f"{image}.nii.gz")), sitk.ReadImage(str(mask))
    return sitk.GetArrayFromImage(rnca.refine(*given, model.load(model.active(name)), **options).mask)


def live(server: Server, mask: Path, image: str = "ring0", **params: Any) -> httpx.Response:
    return server.http.post(
        "/rnca/refine",
        params={"image": image},
        data={"params": json.dumps(params)},
        files={"label": (mask.name, mask.read_bytes())},
    )


def big_mask(server: Server, name: str = "big") -> Path:
    """An image on which a thousand steps take a while, and a mask for it."""
    shape = (8, 120, 120)
    truth = np.zeros(shape, bool)
    truth[:, 20:100, 20:100] = True
    image = server.studies / f"{name}.nii.gz"
    if not image.exists():
        save(image, (truth * 100).astype(np.int16))
    start = truth.copy()
    start[:, 50:60] = False
    return save(server.studies.parent / f"{name}-mask.nrrd", start.astype(np.uint8))
