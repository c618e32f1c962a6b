"""Training runs: one process at a time beside the server, started, watched and ended from here.

A run is a folder RUNS/train-WHEN-ID/ with `request.json` (what to do, written before the process starts), `cases/`
(what it is trained on, laid out as `rnca train` takes it), `checkpoint.npz`, `progress.json` and finally `result.json`.
The process holds the other end of a pipe: when the server ends, however it ends, the pipe closes and the process ends
itself.
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

import rnca
from rnca.files import write_json
from rnca.registry import now

from . import train_process
from .audit import Audit
from .params import _number
from .refusals import Refusal
from .state import State

# name: (default, lowest, highest)
NUMBERS = {
    "iterations": (300, 1, 100_000),
    "batch": (8, 1, 64),
    "patch": (64, 8, 512),
    "seed": (0, 0, 2**31 - 1),
    "early_stop": (4, 0, 1000),
    "threads": (1, 1, 64),
}


def parse_request(params: dict[str, Any], default_model: str) -> dict[str, Any]:
    """What a training run was asked for, checked; stock clients send `max_epochs` for its length."""
    values = dict(params)
    if values.get("max_epochs") not in (None, "") and not values.get("iterations"):
        epochs = _number(values["max_epochs"])
        values["iterations"] = epochs * train_process.EPOCH if epochs is not None else values["max_epochs"]
    out: dict[str, Any] = {}
    for name, (default, low, high) in NUMBERS.items():
        value = default if values.get(name) in (None, "") else _number(values[name])
        if value is None or not low <= value <= high:
            raise Refusal(400, f"{name} is {str(values.get(name))[:40]}: give a whole number from {low} to {high}.")
        out[name] = value
    label = values.get("label")
    if label not in (None, "") and (_number(label) is None or not 1 <= _number(label) < 2**31):  # type: ignore[operator]
        raise Refusal(400, "label is no value of a mask: give a whole number from 1.")
    out["label"] = _number(label) if label not in (None, "") else None
    from_model = values.get("from") or values.get("refine_model") or default_model
    if not isinstance(from_model, str) or len(from_model) > 96:
        raise Refusal(400, "from is the name of a model of this server, or NAME@VERSION.")
    out["from"] = from_model
    resume = values.get("resume")
    if resume not in (None, ""):
        if not isinstance(resume, str) or not resume.startswith("train-") or "/" in resume or ".." in resume:
            raise Refusal(400, "resume is the name of a training run, as its status gives it.")
        out["resume"] = resume
    return out


class Trainings:
    """The training process of a server."""

    def __init__(
        self,
        state: State,
        audit: Audit,
        cases: Callable[[], list[dict[str, Any]]],
        ended: Callable[[dict[str, Any]], None],
    ) -> None:
        self._state, self._audit, self._cases, self._ended = state, audit, cases, ended
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._tasks: deque[dict[str, Any]] = deque(maxlen=50)
        self._folder: Path | None = None

    def start(self, params: dict[str, Any], user: str) -> dict[str, Any]:
        """Begin a run, or go on with one (`resume`); Refusal 429 while another one runs."""
        asked = parse_request(params, self._state.model)
        with self._lock:
            if self._process is not None:
                raise Refusal(429, "a training run is under way: wait for its end, or stop it first.", 60)
            folder, request = self._resumed(asked) if "resume" in asked else self._new(asked, user)
            self._folder = folder
            task = {
                "id": folder.name,
                "status": "RUNNING",
                "request": {k: v for k, v in request.items() if k != "cases"},
                "start_ts": time.strftime("%Y-%m-%d %H:%M:%S"),
                "details": deque(maxlen=20),
            }
            self._process = self._launch(folder, request["threads"])
            self._tasks.append(task)
            self._audit.write(
                "train",
                user,
                run=folder.name,
                model=request["from"],
                cases={c["id"]: c["final_sha256"] for c in request["cases"]},
            )
            threading.Thread(target=self._watch, args=(self._process, task, folder), daemon=True).start()
        return self._shown(task)

    def _new(self, asked: dict[str, Any], user: str) -> tuple[Path, dict[str, Any]]:
        cases = self._cases()
        if len(cases) < 2:
            raise Refusal(
                400,
                f"{len(cases)} image has a final label, and training needs at least 2: correct and save some first.",
            )
        stamp = now().replace(":", "").replace("+0000", "Z")
        folder = self._state.runs / f"train-{stamp}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        request = {**asked, "user": user, "cases": cases, "models": str(self._state.models)}
        request["audit"] = str(self._audit.path)
        write_json(folder / "request.json", request)
        return folder, request

    def _resumed(self, asked: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        folder = self._state.runs / asked["resume"]
        try:
            request = dict(json.loads((folder / "request.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise Refusal(404, "there is no training run of this name: see the list of runs.") from None
        if (folder / "result.json").exists():
            raise Refusal(409, "this training run has ended: start a new one.")
        return folder, request

    def _launch(self, folder: Path, threads: int) -> "subprocess.Popen[str]":
        home = str(Path(rnca.__file__).parents[1])
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([home, os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": str(threads),
            "PYTHONIOENCODING": "utf-8",
        }
        command = [sys.executable, str(Path(train_process.__file__)), str(folder)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )

    def _watch(self, process: "subprocess.Popen[str]", task: dict[str, Any], folder: Path) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            task["details"].append(line.rstrip()[:300])
        code = process.wait()
        result = read_json(folder / "result.json")
        if task["status"] == "RUNNING":
            task["status"] = "DONE" if code == 0 else "ERROR"
        task["end_ts"] = time.strftime("%Y-%m-%d %H:%M:%S")
        task["result"] = result or {"message": "the training run ended early: go on with it by resume."}
        with self._lock:
            self._process = None
        self._ended(task)

    def stop(self, user: str) -> dict[str, Any] | None:
        """End the run that is under way, within seconds; what it has learned up to its last checkpoint stays."""
        with self._lock:
            process, task = self._process, self._tasks[-1] if self._tasks else None
            if process is None or task is None:
                return None
            task["status"] = "STOPPED"
            end(process)
        self._audit.write("stop training", user, run=task["id"])
        deadline = time.monotonic() + 5
        while self._process is process and time.monotonic() < deadline:
            time.sleep(0.02)
        return self._shown(task)

    def status(self, every: bool, only_running: bool) -> Any:
        """As MONAI Label's: the last run, all of them, or 404 where there is none."""
        if only_running and self._process is None:
            raise Refusal(404, "no training run is under way.")
        if not self._tasks:
            raise Refusal(404, "there was no training run since the server started.")
        return [self._shown(t) for t in self._tasks] if every else self._shown(self._tasks[-1])

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._process is not None

    def stats(self) -> dict[str, Any]:
        """What the progress bars of stock clients read."""
        return {} if self._folder is None else read_json(self._folder / "progress.json") or {}

    def close(self) -> None:
        """The server is ending."""
        with self._lock:
            if self._process is not None:
                end(self._process)

    def _shown(self, task: dict[str, Any]) -> dict[str, Any]:
        return {**task, "details": list(task["details"])}


def end(process: "subprocess.Popen[str]") -> None:
    """End a training process at once: its files are written whole or not at all, so nothing is lost by it."""
    with suppress(OSError):
        process.kill()


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None where there is none."""
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return None


class RefineTraining(TrainTask):
    """The train task as stock clients see it."""

    def __init__(self, trainings: Callable[[], Trainings], models: Callable[[], list[str]]) -> None:
        super().__init__("Fine-tune a refinement model on corrected masks; published only if it is not worse.")
        self._trainings, self._models = trainings, models

    def config(self) -> dict[str, Any]:
        """What a client may set, with the defaults."""
        return {
            "max_epochs": NUMBERS["iterations"][0] // train_process.EPOCH,
            **{name: default for name, (default, _, _) in NUMBERS.items() if name != "iterations"},
            "from": self._models(),
        }

    def stats(self) -> dict[str, Any]:
        return self._trainings().stats()

    def __call__(self, request: Any, datastore: Any) -> Any:
        raise Refusal(400, "training is started through /train/rnca_refine only.")
