"""Load and faults of the server: python benchmarks/server.py [--only first,load] [-o FILE.md]

Starts servers of its own on loopback, in a temporary folder, with generated images. Needs a checkout (it shares the
server's test helpers) and the extra `server`.

    start   from the command to the first answer of /info, by `rnca serve` and by MONAI Label's own start_server
    first   a 512×512×100 volume in a session, a mask of about 260,000 voxels: seconds from the last byte sent to the
            first step, and steps a second after it
    load    1, 4 and 16 clients that refine a small volume: p50, p95, p99 of first step and of the whole
    info    /info while two refinements and a training run
    train   10 corrected cases of 256×256×20 (thin rings, `before` and `final` saved by the API): seconds from POST
            /train to the end, with the train task's defaults, and what the gate said
    resume  a training process that is killed half-way and resumed, beside one that was not
    memory  resident memory over many refinements
    kill    SIGKILL at random moments of save and publish: label and model always the old or the new one
    fuzz    random requests: answers below 500, nothing left behind
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "apps" / "rnca_refine")]

Row = tuple[str, str, str]


def percentiles(values: list[float]) -> str:
    """p50 / p95 / p99 in seconds."""
    return " / ".join(f"{float(np.percentile(values, p)):.3f}" for p in (50, 95, 99))


def tube(shape: tuple[int, int, int], radius: float, reach: int) -> np.ndarray:
    """A winding tube around the middle of the volume, the same thickness everywhere."""
    k, j, i = np.ogrid[: shape[0], : shape[1], : shape[2]]
    angle = 2 * np.pi * k / shape[0]
    where = (j - shape[1] / 2 - reach * np.sin(angle)) ** 2 + (i - shape[2] / 2 - reach * np.cos(angle)) ** 2
    return np.broadcast_to(where <= radius**2, shape).copy()


def write_volume(folder: Path, name: str, truth: np.ndarray) -> tuple[Path, Path]:
    """An image of a bright structure with noise, and its mask with slices of it lost."""
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray((truth * 800 + rng.normal(100, 40, truth.shape)).astype(np.int16))
    broken = truth.copy()
    broken[:, :, : truth.shape[2] // 2 - 30] &= rng.random(truth[:, :, : truth.shape[2] // 2 - 30].shape) > 0.02
    mask = sitk.GetImageFromArray(broken.astype(np.uint8))
    for volume in (image, mask):
        volume.SetSpacing((0.7, 0.7, 2.0))
    paths = folder / f"{name}.nrrd", folder / f"{name}-mask.nrrd"
    sitk.WriteImage(image, str(paths[0]), useCompression=False)
    sitk.WriteImage(mask, str(paths[1]), useCompression=True)
    return paths


def stream(url: str, mask: bytes, query: dict[str, str], params: dict[str, Any]) -> tuple[float, float, int]:
    """(seconds from the request's end to the first step, to the last one, steps) of one live refinement."""
    sent: list[float] = []

    def body() -> Any:
        edge = "0123456789abcdef"
        head = f'--{edge}\r\ncontent-disposition: form-data; name="{{}}"{{}}\r\n\r\n'
        yield head.format("params", "").encode() + json.dumps(params).encode() + b"\r\n"
        yield head.format("label", '; filename="mask.nrrd"').encode() + mask + f"\r\n--{edge}--\r\n".encode()
        sent.append(time.perf_counter())

    headers = {"content-type": "multipart/form-data; boundary=0123456789abcdef"}
    address, first, steps = f"{url}/rnca/refine", 0.0, 0
    with httpx.stream("POST", address, params=query, content=body(), headers=headers, timeout=600) as answer:
        for line in answer.iter_lines():
            event = json.loads(line)
            if event["event"] == "error":
                raise RuntimeError(event["message"])
            if event["event"] == "step":
                steps = event["step"]
                first = first or time.perf_counter() - sent[0]
                last = time.perf_counter() - sent[0]
    return first, last, steps


def bench_start(folder: Path) -> list[Row]:
    from serving import make_studies, running

    studies, rows = make_studies(folder / "start"), []
    for plain, name in ((False, "rnca serve"), (True, "start_server")):
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            with running(studies, plain=plain):
                seconds.append(time.perf_counter() - begun)
        rows.append((f"{name} to /info", " / ".join(f"{value:.2f} s" for value in seconds), "three starts"))
    return rows


def bench_first(folder: Path, steps: int) -> list[Row]:
    from serving import running

    studies = folder / "first"
    studies.mkdir()
    truth = tube((100, 512, 512), 28.8, 60)
    image, mask = write_volume(folder, "volume", truth)
    rows = []
    with running(studies) as server:
        session = server.http.put("/session/", files={"files": (image.name, image.read_bytes())}).json()["session_id"]
        time.sleep(5)
        for run in ("first click", "second click"):
            first, last, done = stream(
                server.url, mask.read_bytes(), {"session_id": session}, {"steps": steps, "model": "ring-2d"}
            )
            rate = (done - 1) / (last - first) if last > first else float("nan")
            rows.append((f"{run}, {int(truth.sum())} voxels", f"first step {first:.2f} s", f"{rate:.1f} steps/s"))
    return rows


def bench_load(folder: Path) -> list[Row]:
    from serving import make_studies, mask_file, running

    rows = []
    studies = make_studies(folder / "load")
    mask = mask_file(folder).read_bytes()
    with running(studies, conf={"model": "filler", "waiting": 32}) as server:
        for clients in (1, 4, 16):
            found: list[tuple[float, float]] = []

            def client(found: list[tuple[float, float]] = found) -> None:
                for _ in range(5):
                    first, last, _ = stream(server.url, mask, {"image": "ring0"}, {})
                    found.append((first, last))

            threads = [threading.Thread(target=client) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rows.append((f"{clients} clients", percentiles([f for f, _ in found]), percentiles([t for _, t in found])))
    return rows


def bench_info(folder: Path, seconds: float) -> list[Row]:
    from serving import make_studies, running

    studies = make_studies(folder / "info")
    image, mask = write_volume(folder, "slab", tube((40, 256, 256), 28, 30))
    (studies / image.name).write_bytes(image.read_bytes())
    with running(studies) as server:
        for number in range(3):
            label = (studies / "labels" / "original" / f"ring{number}.nii.gz").read_bytes()
            server.http.put("/datastore/label", params={"image": f"ring{number}"}, files={"label": ("f.nii.gz", label)})
        started = server.http.post("/train/rnca_refine", json={"iterations": 100_000, "patch": 24, "batch": 4})
        assert started.status_code == 200, started.text
        over = threading.Event()
        content = mask.read_bytes()

        def refine() -> None:
            while not over.is_set():
                stream(server.url, content, {"image": "slab"}, {"steps": 64, "model": "ring-2d"})

        threads = [threading.Thread(target=refine) for _ in range(2)]
        for thread in threads:
            thread.start()
        times, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.perf_counter()
            assert server.http.get("/info/").status_code == 200
            times.append(time.perf_counter() - begun)
            time.sleep(0.05)
        over.set()
        for thread in threads:
            thread.join()
        training = server.status()["training"]
    return [(f"/info, {len(times)} times, training {'on' if training else 'ended'}", percentiles(times), "")]


def corrected_case(server: Any, folder: Path, number: int, shape: tuple[int, int, int]) -> None:
    """Save an image, its mask before the correction (each slice broken anew) and the corrected one by the API."""
    from rnca.defects import damage
    from rnca.phantoms import phantom

    image, truth = phantom("thin-rings", shape, number)
    before = np.stack([damage(part, "mixed", 0.5, number * 1000 + k) for k, part in enumerate(truth)])
    parts = (("image", (image * 1000).astype(np.int16)), ("before", before), ("final", truth))
    for name, values in parts:
        volume = sitk.GetImageFromArray(values.astype(np.uint8) if values.dtype == bool else values)
        volume.SetSpacing((0.7, 0.7, 3.0))
        path = folder / f"{name}.nrrd"
        sitk.WriteImage(volume, str(path), useCompression=True)
        if name == "image":
            answer = server.http.put("/datastore/", params={"image": f"case{number}"}, files=_part("file", path))
        else:
            query = {"image": f"case{number}", "tag": name}
            answer = server.http.put("/datastore/label", params=query, files=_part("label", path))
        answer.raise_for_status()


def _part(name: str, path: Path) -> dict[str, tuple[str, bytes]]:
    return {name: (path.name, path.read_bytes())}


def bench_train(folder: Path, count: int, shape: tuple[int, int, int] = (20, 256, 256)) -> list[Row]:
    from serving import running

    studies = folder / "train"
    studies.mkdir()
    with running(studies) as server:
        for number in range(count):
            corrected_case(server, folder, number, shape)
        begun = time.perf_counter()
        started = server.http.post("/train/rnca_refine", json={})
        started.raise_for_status()
        task = finished(server)
        seconds = time.perf_counter() - begun
        print("\n".join(task["details"]), file=sys.stderr)
    if task["status"] != "DONE":
        raise RuntimeError(task["result"]["message"])
    result = task["result"]
    gate = result["gate"]
    kept = result["published"] or result["message"]
    scores = ", ".join(f"{name} {gate['old'][name]:.4f} → {gate['new'][name]:.4f}" for name in gate["old"])
    size = "×".join(map(str, shape[::-1]))
    return [(f"{count} cases of {size}, {result['iterations']} iterations", f"{seconds:.0f} s", f"{kept}; {scores}")]


def finished(server: Any) -> dict[str, Any]:
    """The training run that is under way, when it has ended."""
    while (task := server.http.get("/train/").json())["status"] == "RUNNING":
        time.sleep(0.05)
    return dict(task)


def bench_resume(folder: Path, iterations: int = 180) -> list[Row]:
    import psutil

    from serving import make_studies, running

    studies = make_studies(folder / "resume")
    asked = {"iterations": iterations, "patch": 24, "batch": 4, "from": "filler@1.0.0", "early_stop": 0}
    with running(studies) as server:
        for path in sorted((studies / "labels" / "original").iterdir()):
            query = {"image": path.name.partition(".")[0]}
            server.http.put("/datastore/label", params=query, files=_part("label", path)).raise_for_status()
        whole = server.http.post("/train/rnca_refine", json=asked).json()["id"]
        assert finished(server)["status"] == "DONE"
        name = server.http.post("/train/rnca_refine", json=asked).json()["id"]
        run = server.state / "runs" / name
        while not (run / "best.json").exists():
            time.sleep(0.01)
        (child,) = psutil.Process(server.process.pid).children()
        child.send_signal(signal.SIGKILL)
        told = finished(server)["result"]["message"]
        server.http.post("/train/rnca_refine", json={"resume": name}).raise_for_status()
        task = finished(server)
        weights = [np.load(place / "best.npz") for place in (server.state / "runs" / whole, run)]
        same = all((weights[0][key] == weights[1][key]).all() for key in weights[0].files)
    end = f"{task['status']}, {task['result']['iterations']} of {iterations} iterations"
    kept = "the same weights as without the kill" if same else "OTHER WEIGHTS than without the kill"
    return [(f"SIGKILL of a training run ({told})", end, kept)]


def bench_memory(folder: Path, count: int) -> list[Row]:
    import psutil

    from serving import make_studies, mask_file, running

    studies = make_studies(folder / "memory")
    mask = mask_file(folder).read_bytes()
    sizes = []
    with running(studies, conf={"model": "filler"}) as server:
        process = psutil.Process(server.process.pid)
        for _ in range(count):
            stream(server.url, mask, {"image": "ring0"}, {"steps": 8})
            sizes.append(process.memory_info().rss / 2**20)
    marks = [0, count // 10, count // 2, count - 1]
    return [(f"after {mark + 1} refinements", f"{sizes[mark]:.0f} MiB", "") for mark in marks]


def save_for_ever(studies: str, files: list[str]) -> None:
    from lib.datastore import Studies
    from lib.state import State

    store = Studies(studies, State.of(studies, {}), auto_reload=True, read_only=False)
    while True:
        for number, file in enumerate(files, start=1):
            store.save_label("image", file, "final", {"value": number})


def publish_for_ever(folder: str) -> None:
    from conftest import filler
    from rnca.registry import Registry
    from rnca.zoo import describe

    net = filler()
    while True:
        Registry(folder).publish(net, describe(net, "mine"), user="u", gate={}, data={})


def killed(target: Callable[..., None], *args: Any, chance: random.Random) -> None:
    """Let a process work and kill it at a random moment."""
    worker = multiprocessing.get_context("fork").Process(target=target, args=args)
    worker.start()
    time.sleep(0.05 + 0.25 * chance.random())
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()


def bench_kill(folder: Path, count: int) -> list[Row]:
    from lib.datastore import Studies
    from lib.state import State
    from rnca.registry import Registry

    studies, chance = folder / "kill", random.Random(0)
    studies.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 64, 64), np.int16)), str(studies / "image.nii.gz"))
    files = []
    for number, name in enumerate(("one.nii.gz", "two.nrrd"), start=1):
        sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 64, 64), number, np.uint8)), str(folder / name))
        files.append(str(folder / name))
    whole = 0
    for _ in range(count):
        killed(save_for_ever, str(studies), files, chance=chance)
        store = Studies(str(studies), State.of(str(studies), {}), auto_reload=True, read_only=False)
        path = store.get_label_uri("image", "final")
        if not path:
            whole += not store.history.versions("image", "final")
            continue
        values = sitk.GetArrayFromImage(sitk.ReadImage(path))
        same = bool((values == values.flat[0]).all())
        whole += same and store.get_label_info("image", "final")["value"] == int(values.flat[0])
    rows: list[Row] = [("SIGKILL during save", f"{whole} of {count} times the old or the new label", "")]
    whole, models = 0, folder / "models"
    for _ in range(count):
        killed(publish_for_ever, str(models), chance=chance)
        registry = Registry(models)
        if "mine" in registry.names() and any(models.glob("mine/*/record.json")):
            active = registry.active("mine")
            whole += registry.load(active).metadata.version == active.version
        else:
            whole += 1
    return [*rows, ("SIGKILL during publish", f"{whole} of {count} times the old or the new model", "")]


def bench_fuzz(folder: Path, count: int) -> list[Row]:
    from hypothesis import HealthCheck, given, settings

    import fuzzing
    from serving import make_studies, mask_file, running

    studies = make_studies(folder / "fuzz", 2)
    mask = mask_file(folder).read_bytes()
    codes: dict[int, int] = {}
    with running(studies, conf={"model": "filler", "voxels": 1_000_000}) as server:

        @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(request=fuzzing.requests(mask))
        def fuzz(request: dict[str, Any]) -> None:
            answer = fuzzing.send(server, request)
            codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
            fuzzing.check(answer)

        fuzz()
        server.idle()
        left = [p.name for p in (server.state / "tmp").iterdir()]
    told = ", ".join(f"{code}: {n}" for code, n in sorted(codes.items()))
    return [(f"{sum(codes.values())} random requests", told, f"{len(left)} files left")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="which parts, separated by commas; default: all")
    parser.add_argument("--steps", type=int, default=64, help="steps of the large volume")
    parser.add_argument("--seconds", type=float, default=60, help="how long /info is asked")
    parser.add_argument("--corrected", type=int, default=10, help="cases of the train part")
    parser.add_argument("--refinements", type=int, default=300, help="of the memory part")
    parser.add_argument("--kills", type=int, default=100, help="of save, and of publish")
    parser.add_argument("--cases", type=int, default=2000, help="random requests")
    parser.add_argument("-o", "--output", type=Path, help="write the table (Markdown) here as well")
    args = parser.parse_args()
    parts: dict[str, Callable[[Path], list[Row]]] = {
        "start": bench_start,
        "first": lambda folder: bench_first(folder, args.steps),
        "load": bench_load,
        "info": lambda folder: bench_info(folder, args.seconds),
        "train": lambda folder: bench_train(folder, args.corrected),
        "resume": bench_resume,
        "memory": lambda folder: bench_memory(folder, args.refinements),
        "kill": lambda folder: bench_kill(folder, args.kills),
        "fuzz": lambda folder: bench_fuzz(folder, args.cases),
    }
    lines = ["| part | what | p50 / p95 / p99 (s), or figure | whole |", "| --- | --- | --- | --- |"]
    print("\n".join(lines), flush=True)
    for name in args.only.split(",") if args.only else parts:
        with tempfile.TemporaryDirectory() as folder:
            for row in parts[name](Path(folder)):
                lines.append(f"| {name} | " + " | ".join(row) + " |")
                print(lines[-1], flush=True)
    if args.output:
        args.output.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
