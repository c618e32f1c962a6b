"""Corrections, fine-tuning, the gate, versions and the next case, on a live server."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra `server`")

from monailabel.client import MONAILabelClient

from lib import gate, train_process
from little import broken, load, ring, save
from rnca.cases import Case
from rnca.registry import Registry
from serving import SHAPE, Server, add_filler, make_studies, mask_file, running

RING = ring(SHAPE)
BROKEN = broken(RING)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = make_studies(tmp_path_factory.mktemp("serve") / "studies", 4)
    with running(studies, conf={"model": "filler"}) as server:
        yield server


def until(true: Callable[[], Any], seconds: float = 400) -> Any:
    """Wait for something to become true; its value."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)
    return value


def save_final(server: Server, image: str, values: np.ndarray | None = None) -> None:
    mask = mask_file(server.studies.parent, f"{image}-final.nrrd", RING.astype(np.uint8) if values is None else values)
    answer = server.http.put(
        "/datastore/label", params={"image": image}, files={"label": (mask.name, mask.read_bytes())}
    )
    assert answer.status_code == 200, answer.text


def refine(server: Server, image: str) -> None:
    mask = mask_file(server.studies.parent)
    answer = server.http.post("/rnca/refine", params={"image": image}, files={"label": (mask.name, mask.read_bytes())})
    assert json.loads(answer.text.splitlines()[-1])["event"] == "done"


def corrections(server: Server, image: str) -> list[dict[str, Any]]:
    found = [json.loads(p.read_text()) for p in (server.state / "runs" / "corrections").glob("*/record.json")]
    return sorted((record for record in found if record["image"] == image), key=lambda r: len(r["masks"]), reverse=True)


# --- corrections ----------------------------------------------------------------------------------------------------


def test_final_label_seals_before_refined_and_final(server: Server) -> None:
    refine(server, "ring0")
    until(lambda: (server.studies / "labels" / "refined" / "ring0.nrrd").exists())
    save_final(server, "ring0")
    (record,) = until(lambda: corrections(server, "ring0"))
    assert set(record["masks"]) == {"before", "refined", "final"} and record["accepted"] is True
    (folder,) = (server.state / "runs" / "corrections").iterdir()
    for tag, expected in (("before", BROKEN), ("refined", RING), ("final", RING)):
        entry = record["masks"][tag]
        assert (load(folder / entry["file"]).astype(bool) == expected).all()
        assert len(entry["sha256"]) == 64 and not (folder / entry["file"]).stat().st_mode & 0o222
    info = record["masks"]["refined"]["info"]
    assert (info["model"], info["version"], info["steps"], info["user"]) == ("filler", "1.0.0", 24, "admin")

    save_final(server, "ring0", BROKEN.astype(np.uint8))  # a second correction without a refinement in between
    second = until(lambda: corrections(server, "ring0")[1:])[0]
    assert set(second["masks"]) == {"final"} and second["accepted"] is None


# --- training -------------------------------------------------------------------------------------------------------


def wait_for_end(server: Server, seconds: float = 400) -> dict[str, Any]:
    return dict(until(lambda: (t := server.http.get("/train/").json())["status"] != "RUNNING" and t, seconds))


def test_training_needs_two_corrected_cases(tmp_path: Path) -> None:
    from lib.audit import Audit
    from lib.refusals import Refusal
    from lib.state import State
    from lib.training import Trainings

    trainings = Trainings(State.of(str(tmp_path), {}), Audit(tmp_path / "a"), list, lambda _: None)
    with pytest.raises(Refusal, match="at least 2"):
        trainings.start({}, "u")


def test_stock_client_trains_watches_and_gets_a_version_or_a_reason(server: Server) -> None:
    for number in range(4):
        refine(server, f"ring{number}")
        until(lambda n=number: (server.studies / "labels" / "refined" / f"ring{n}.nrrd").exists())
        save_final(server, f"ring{number}")
    client = MONAILabelClient(server.url)
    assert client.train_start("rnca_refine", {"iterations": 20, "patch": 16, "batch": 2})["status"] == "RUNNING"
    assert client.train_status(check_if_running=True)
    assert server.http.post("/train/rnca_refine", json={}).status_code == 429
    task = wait_for_end(server)
    assert task["status"] == "DONE", task
    stats = client.info()["train_stats"]["rnca_refine"]
    assert stats["epoch"] == stats["total_epochs"] == 1 and 0 <= stats["best_metric"] <= 1 and stats["total_time"] > 0
    report = task["result"]["gate"]
    assert set(report["old"]) == {"dice", "betti", "harmed"} and report["trials"] > 0
    versions = server.http.get("/rnca/models").json()["filler"]
    if report["passed"]:
        assert [v["version"] for v in versions if v["active"]] == ["1.1.0"]
        made = versions[-1]
        assert made["parent"].startswith("filler 1.0.0 ") and made["gate"] == report and made["user"] == "admin"
        assert all(len(hashes["final_sha256"]) == 64 for hashes in made["data"].values())
    else:
        assert report["reasons"] and [v["version"] for v in versions if v["active"]] == ["1.0.0"]
    assert {"train"} <= {line["what"] for line in server.audit()}


def children(pid: int) -> list[int]:
    texts = [p.read_text(encoding="ascii") for p in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(word) for text in texts for word in text.split()]


def test_training_stops_within_seconds_and_goes_on_where_it_was(server: Server) -> None:
    answer = server.http.post("/train/rnca_refine", json={"iterations": 2000, "patch": 16, "batch": 2, "early_stop": 0})
    name = answer.json()["id"]
    checkpoint = server.state / "runs" / name / "checkpoint.npz"
    until(checkpoint.exists)
    started = time.monotonic()
    assert server.http.request("DELETE", "/train/").json()["status"] == "STOPPED"
    assert time.monotonic() - started < 5 and not server.status()["training"]
    at = int(np.load(checkpoint)["about"].tobytes().decode().partition('"iteration": ')[2].partition(",")[0])
    assert server.http.post("/train/rnca_refine", json={"resume": "train-no-such"}).status_code == 404
    assert server.http.post("/train/rnca_refine", json={"resume": name}).status_code == 200
    first = until(lambda: server.http.get("/info/").json()["train_stats"]["rnca_refine"].get("epoch"))
    assert first * train_process.EPOCH >= at
    server.http.request("DELETE", "/train/")


def test_training_ends_when_the_server_is_killed(tmp_path: Path) -> None:
    studies = make_studies(tmp_path / "studies", 2)
    with running(studies, conf={"model": "filler"}) as server:
        for number in range(2):
            save_final(server, f"ring{number}")
        server.http.post("/train/rnca_refine", json={"iterations": 100_000, "patch": 16, "batch": 2})
        (child,) = until(lambda: children(server.process.pid))
        os.kill(server.process.pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text(), 20)


@pytest.mark.parametrize(("depth", "name"), [(4, "general-2d"), (16, "general-3d")])
def test_the_general_model_is_fine_tuned_as_that_for_the_cases_size(tmp_path: Path, depth: int, name: str) -> None:
    final = save(tmp_path / "final.nrrd", ring((depth, *SHAPE[1:])))
    request = {
        "models": str(tmp_path / "models"),
        "from": "general",
        "cases": [{"final": str(final)}],
        "iterations": 20,
    }
    (tmp_path / "request.json").write_text(json.dumps(request), encoding="utf-8")
    assert train_process.Run(tmp_path).base.metadata.name == name


def test_cases_are_split_by_image_and_always_the_same_way() -> None:
    cases = [{"id": f"case{n}"} for n in range(50)]
    training, held = train_process.split(cases, 0)
    assert train_process.split(cases[::-1], 0) == (training, held)
    assert 3 <= len(held) <= 20 and {c["id"] for c in training}.isdisjoint(c["id"] for c in held)
    more = [*cases, *({"id": f"new{n}"} for n in range(50))]
    assert {c["id"] for c in held} <= {c["id"] for c in train_process.split(more, 0)[1]}  # none is trained on later
    assert [len(side) for side in train_process.split(cases[:2], 0)] == [1, 1]


# --- the gate -------------------------------------------------------------------------------------------------------


def test_gate_refuses_what_is_worse_and_says_why() -> None:
    good = {"dice": 0.95, "betti": 1.0, "harmed": 0.1}
    assert gate.compare(good, good, 4)["passed"]
    assert gate.compare(good, {**good, "dice": 0.96}, 4)["passed"]
    for worse in ({"dice": 0.9}, {"betti": 1.5}, {"harmed": 0.2}):
        report = gate.compare(good, {**good, **worse}, 4)
        assert not report["passed"] and len(report["reasons"]) == 1


def test_gate_judges_a_perfect_model_as_perfect_and_a_random_one_as_worse() -> None:
    from conftest import filler, random_net
    from rnca.zoo import describe

    image = (RING[0] * 1.0).astype(np.float32)[None]
    cases = [Case(f"c{n}", image, RING[0], [BROKEN[0].astype(np.float32)]) for n in range(3)]
    trials = gate.trials(cases, 0)
    meta = describe(filler(), "filler", steps=24)
    perfect = gate.judge(filler(), trials, meta)
    assert perfect == {"dice": 1.0, "betti": 0.0, "harmed": 0.0}
    assert not gate.compare(perfect, gate.judge(random_net(0), trials, meta), len(trials))["passed"]


# --- versions -------------------------------------------------------------------------------------------------------


def test_versions_are_activated_rolled_back_and_downloaded(server: Server) -> None:
    before = server.http.get("/rnca/models").json()["filler"]
    add_filler(server.studies)  # as a training run publishes: by another process
    versions = server.http.get("/rnca/models").json()["filler"]
    newest = versions[-1]["version"]
    assert len(versions) == len(before) + 1 and versions[-1]["active"]
    told = server.infer(image="ring1", output="json").json()
    assert told["version"] == newest
    assert server.http.post("/rnca/models/filler/activate", params={"version": "1.0.0"}).status_code == 200
    assert server.infer(image="ring1", output="json").json()["version"] == "1.0.0"
    asked = server.infer(image="ring1", output="json", params={"model": f"filler@{newest}"}).json()
    assert asked["version"] == newest
    line = [line for line in server.audit() if line["what"] == "activate"][-1]
    assert (line["version"], line["before"]) == ("1.0.0", newest)
    archive = server.http.get("/rnca/models/filler/download", params={"version": newest}).content
    registry = Registry(server.state / "models")
    assert archive == registry.path(registry.record("filler", newest)).read_bytes()
    assert server.http.post("/rnca/models/filler/activate", params={"version": "9.9.9"}).status_code == 400
    assert server.http.get("/rnca/models/nobody/report").status_code == 400


# --- the next case --------------------------------------------------------------------------------------------------


def test_most_broken_mask_comes_next_and_a_final_one_never(tmp_path: Path) -> None:
    studies = make_studies(tmp_path / "studies", 3)
    torn = RING.copy()
    torn[:, ::6] = False
    torn[:, :, ::6] = False
    save(studies / "labels" / "original" / "ring1.nii.gz", torn.astype(np.uint8))
    save(studies / "labels" / "original" / "ring2.nii.gz", RING.astype(np.uint8))
    with running(studies, conf={"model": "filler"}) as server:
        client = MONAILabelClient(server.url)
        found = client.next_sample("most_broken", {})
        assert found["id"] == "ring1" and found["weight"] > 0 and found["topology"]["pieces"] > 2
        save_final(server, "ring1")
        assert client.next_sample("most_broken", {})["id"] == "ring0"
        scores = server.http.post("/scoring/topology").json()
        assert scores["ring1"]["final"]["topology"]["betti"] == [1, 1, 0]
        assert scores["ring0"]["original"]["brokenness"] > scores["ring2"]["original"]["brokenness"]
        info = until(lambda: server.http.get("/datastore/label/info?label=ring1&tag=final").json())
        assert info["topology"]["betti"] == [1, 1, 0]
