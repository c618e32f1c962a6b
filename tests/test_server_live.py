"""The live stream of a real server: steps that add up, stopping, leaving, slow readers, a full queue."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra `server`")

from conftest import random_net
from little import broken, load, ring
from rnca.registry import Registry
from rnca.zoo import describe
from serving import SHAPE, Server, big_mask, bits, events, expected, live, make_studies, mask_file, running, slices

BROKEN = broken(ring(SHAPE))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = make_studies(tmp_path_factory.mktemp("serve") / "studies")
    with running(studies, conf={"model": "filler", "workers": 2, "waiting": 2}) as server:
        yield server


def test_stream_adds_up_to_what_infer_gives(server: Server, tmp_path: Path) -> None:
    mask = mask_file(tmp_path)
    answer = live(server, mask)
    assert answer.headers["content-type"] == "application/x-ndjson"
    start, *steps, done = events(answer)
    assert (start["event"], start["model"], start["version"]) == ("start", "filler", "1.0.0")
    assert start["shape"] == list(SHAPE) and start["steps"] == 24 and start["topology"]["betti"] == [2, 0, 0]
    assert done["event"] == "done" and done["reason"] == "steps" and done["step"] == 24

    now = BROKEN.copy()
    for step in steps:
        assert step["event"] == "step"
        if step["bbox"]:
            change = bits(step["delta"], step["bbox"])
            assert change.sum() == step["changed"] > 0
            now[slices(step["bbox"])] ^= change
    last = bits(done["mask"], start["bbox"])
    assert (now[slices(start["bbox"])] == last).all()
    assert (now == expected(server, mask).astype(bool)).all()
    assert done["sha256"] == hashlib.sha256(np.packbits(last.ravel()).tobytes()).hexdigest()
    assert done["topology"]["betti"] == [1, 1, 0]


def test_every_leaves_steps_out_and_the_sum_stays_right(server: Server, tmp_path: Path) -> None:
    mask = mask_file(tmp_path)
    _, *steps, _ = events(live(server, mask, every=7))
    assert [step["step"] for step in steps] == [7, 14, 21, 24]
    now = BROKEN.copy()
    for step in steps:
        if step["bbox"]:
            now[slices(step["bbox"])] ^= bits(step["delta"], step["bbox"])
    assert (now == expected(server, mask).astype(bool)).all()


def test_refusal_before_the_first_step_is_an_error_event_with_its_status(server: Server, tmp_path: Path) -> None:
    answer = live(server, mask_file(tmp_path), label=5)
    (event,) = events(answer)
    assert answer.status_code == 400 and event["event"] == "error" and event["status"] == 400
    assert "label 5 is not in the mask" in event["message"]


def test_stop_ends_with_the_mask_so_far(server: Server) -> None:
    mask = big_mask(server)
    params = {"params": json.dumps({"steps": 1000})}
    files = {"label": (mask.name, mask.read_bytes())}
    with server.http.stream("POST", "/rnca/refine", params={"image": "big"}, data=params, files=files) as answer:
        lines = answer.iter_lines()
        start = json.loads(next(lines))
        while json.loads(next(lines))["step"] < 3:
            pass
        assert httpx.post(f"{server.url}/rnca/refine/{start['id']}/stop").status_code == 200
        done = [json.loads(line) for line in lines][-1]
    assert done["event"] == "done" and done["reason"] == "stopped" and 3 <= done["step"] < 1000
    assert bits(done["mask"], start["bbox"]).any()
    assert httpx.post(f"{server.url}/rnca/refine/{start['id']}/stop").status_code == 404


def test_client_that_leaves_frees_the_worker(server: Server) -> None:
    mask = big_mask(server)
    before = len([line for line in server.audit() if line["what"] == "refine"])
    with server.http.stream(
        "POST",
        "/rnca/refine",
        params={"image": "big"},
        data={"params": json.dumps({"steps": 1000})},
        files={"label": (mask.name, mask.read_bytes())},
    ) as answer:
        next(answer.iter_lines())
        assert server.status()["refinements"]["taken"] == 1
    server.idle(10)  # a thousand steps would take much longer
    assert len([line for line in server.audit() if line["what"] == "refine"]) == before  # it did not run to its end


def test_slow_client_gets_fewer_steps_and_the_right_sum(server: Server) -> None:
    mask = big_mask(server)
    now = load(mask).astype(bool)
    numbers = []
    with server.http.stream(
        "POST",
        "/rnca/refine",
        params={"image": "big"},
        data={"params": json.dumps({"steps": 60})},
        files={"label": (mask.name, mask.read_bytes())},
    ) as answer:
        for line in answer.iter_lines():
            event = json.loads(line)
            if event["event"] == "start":
                box = event["bbox"]
            elif event["event"] == "step":
                numbers.append(event["step"])
                if event["bbox"]:
                    now[slices(event["bbox"])] ^= bits(event["delta"], event["bbox"])
                time.sleep(0.01)
    assert event["event"] == "done" and numbers == sorted(set(numbers))
    last = bits(event["mask"], box)
    missing = now[slices(box)] ^ last
    assert not missing.any() or numbers[-1] < 60


def test_buffer_never_holds_more_than_a_few_lines() -> None:
    import asyncio

    from lib.stream import BUFFERED, Lines, run

    class Fake:
        values, label, steps, box = np.zeros((4, 4), np.uint8), 1, 5000, (slice(0, 4), slice(0, 4))
        start = np.zeros((4, 4), bool)

        def topology(self, now: Any) -> dict[str, Any]:
            return {}

        def run(self) -> Iterator[np.ndarray]:
            for index in range(self.steps):
                yield np.full((4, 4), bool(index % 2 == 0))

    class Record:
        name, version = "x", "1.0.0"

    lines = Lines(asyncio.new_event_loop())
    run(lines, lambda: (Fake(), Record(), {}), 1, lambda *_: None)
    assert len(lines._waiting) <= BUFFERED + 2


def test_refinement_ends_on_the_model_it_began_with(server: Server) -> None:
    mask, registry = big_mask(server), Registry(server.state / "models")
    begun = registry.active("filler")
    wanted = expected(server, mask, "big", steps=60)
    params = {"params": json.dumps({"steps": 60})}
    files = {"label": (mask.name, mask.read_bytes())}
    with server.http.stream("POST", "/rnca/refine", params={"image": "big"}, data=params, files=files) as answer:
        lines = answer.iter_lines()
        start = json.loads(next(lines))
        net = random_net(0, state_channels=2, filters=1, hidden=8)
        newer = registry.publish(net, describe(net, "filler", steps=24), user="tests", gate={}, data={})
        assert server.http.get("/rnca/models").json()["filler"][-1]["active"]
        done = [json.loads(line) for line in lines][-1]
    try:
        assert start["version"] == begun.version != newer.version
        assert (bits(done["mask"], start["bbox"]) == wanted[slices(start["bbox"])]).all()
        assert json.loads(live(server, mask, "big", steps=0).text.splitlines()[0])["version"] == newer.version
    finally:
        registry.activate("filler", begun.version, "tests")


def test_full_queue_is_429_with_retry_after(server: Server) -> None:
    server.idle()
    mask = big_mask(server)
    content, answers = mask.read_bytes(), []

    def ask() -> None:
        answers.append(
            httpx.post(
                f"{server.url}/infer/rnca_refine",
                params={"image": "big", "output": "json"},
                data={"params": json.dumps({"steps": 40})},
                files={"label": (mask.name, content)},
                timeout=120,
            )
        )

    threads = [threading.Thread(target=ask) for _ in range(9)]  # 2 run, 2 wait
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [a for a in answers if a.status_code == 429]
    assert refused and {a.status_code for a in answers} == {200, 429}
    assert all(int(a.headers["retry-after"]) >= 1 and "busy" in a.json()["detail"] for a in refused)
