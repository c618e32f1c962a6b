"""The process that fine-tunes a model: `python train_process.py RUN_FOLDER`. Needs `rnca` and nothing of MONAI Label.

It reads RUN/request.json, lays the cases out in RUN/cases, trains with replay, keeps the best checkpoint by the
held-out cases, lets the gate judge it, publishes it if it passes, and writes RUN/result.json. Started again on the same
folder it goes on from the last checkpoint.
"""

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

EPOCH = 20  # iterations that are counted as an epoch where clients think in epochs
HELD_OUT = 0.2  # share of the cases that is never trained on
REPLAY_CASES = 24


def die_with_the_server() -> None:
    """End this process when its standard input closes, which is when the server ends, however it ends."""

    def wait() -> None:
        while os.read(0, 1):  # not through sys.stdin, whose lock would be held at exit
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def held_out(case: str, seed: int) -> float:
    """A number in 0..1 that decides on which side of the split a case is: the same in every run with this seed."""
    return int(hashlib.sha256(f"{seed} {case}".encode()).hexdigest()[:8], 16) / 2**32


def split(cases: list[dict[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training, held-out) cases, whole images; at least one on each side."""
    order = sorted(cases, key=lambda c: held_out(c["id"], seed))
    count = min(max(sum(held_out(c["id"], seed) < HELD_OUT for c in cases), 1), len(cases) - 1)
    return order[count:], order[:count]


def lay_out(folder: Path, cases: list[dict[str, Any]]) -> None:
    """images/, labels/ and states/ of a folder of cases; images are linked, masks copied."""
    for number, case in enumerate(cases):
        for part, key in (("images", "image"), ("labels", "final"), ("states", "before")):
            (folder / part).mkdir(parents=True, exist_ok=True)
            if not case.get(key):
                continue
            source = Path(case[key])
            suffix = "" if source.is_dir() else source.name[source.name.index(".", len(case["stem"].get(key, ""))) :]
            target = folder / part / f"case{number:04d}{suffix}"
            if target.exists():
                continue
            if part == "images":
                target.symlink_to(source)
            else:
                shutil.copyfile(source, target)


def check_unchanged(cases: list[dict[str, Any]]) -> None:
    """Refuse to train on files that are not those the run was started with."""
    from rnca import InputError
    from rnca.files import sha256

    for case in cases:
        for key in ("image", "final", "before"):
            if case.get(key) and sha256(case[key]) != case[f"{key}_sha256"]:
                raise InputError("a mask or image of this run was changed since it was started: start a new one.")


class Run:
    """One fine-tuning run."""

    def __init__(self, folder: Path) -> None:
        from rnca.files import read_mask
        from rnca.geometry import Grid
        from rnca.registry import Registry
        from rnca.zoo import named

        self.folder = folder
        self.request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
        self.registry = Registry(self.request["models"])
        name, _, version = self.request["from"].partition("@")
        shape = Grid.of(read_mask(self.request["cases"][0]["final"])).shape
        self.parent = self.registry.record(named(name, shape), version or None)
        self.base = self.registry.load(self.parent)
        self.progress: dict[str, Any] = {"total_epochs": -(-self.request["iterations"] // EPOCH), "epoch": 0}
        self.best, self.best_at, self.best_net = -1.0, 0, self.base.definition

    def cases(self) -> tuple[list[Any], list[Any]]:
        """(training, held-out) cases, laid out and read."""
        from rnca.cases import load_cases

        check_unchanged(self.request["cases"])
        sides = []
        meta = self.base.metadata
        for side, chosen in zip(("train", "held"), split(self.request["cases"], self.request["seed"]), strict=True):
            lay_out(self.folder / "cases" / side, chosen)
            sides.append(
                load_cases(
                    self.folder / "cases" / side,
                    dims=meta.dims,
                    channels=meta.image_channels,
                    intensity=meta.intensity,
                    colour=meta.colour,
                    label=self.request["label"],
                    object_size=meta.object_size,
                )
            )
        return sides[0], sides[1]

    def replay(self) -> list[Any]:
        """Generated cases of the kinds that the model was made with: what it could do stays trained."""
        from rnca.cases import phantom_cases

        meta = self.base.metadata
        told = meta.training.get("data", {}).get("phantoms") if isinstance(meta.training, dict) else None
        kinds = [str(text).partition(":")[0] for text in told or ()] or ["thin-rings"]
        size = (max(self.request["patch"], 16),) * meta.dims
        return [
            case
            for kind in kinds
            for case in phantom_cases(
                kind, size, max(4, REPLAY_CASES // len(kinds)), 7, meta.image_channels, meta.intensity
            )
        ]

    def train(self) -> dict[str, Any]:
        """Train, judge, publish; what there is to tell."""
        import gate

        from rnca.training import Settings, Starts, Trainer, train

        started = time.perf_counter()
        training, held = self.cases()
        trials = gate.trials(held, self.request["seed"])
        old = gate.judge(self.base.definition, trials, self.base.metadata)
        self.tell(best_metric=round(old["dice"], 4))
        starts = Starts(given=0.8, clean=0.25, soft=0.2)
        request = self.request
        settings = Settings(
            iterations=request["iterations"],
            batch=request["batch"],
            pool=max(4 * request["batch"], 64),
            patch=request["patch"],
            learning_rate=3e-4,
            seed=request["seed"],
            starts=starts,
        )
        pool = training + self.replay()
        checkpoint = self.folder / "checkpoint.npz"
        if checkpoint.exists():
            trainer = Trainer.resume(checkpoint, pool, iterations=request["iterations"])
            self.recall()
        else:
            trainer = Trainer(self.base.definition, pool, settings)
        every = max(1, min(3 * EPOCH, request["iterations"]))
        with suppress(Enough):
            train(
                trainer,
                self.folder,
                on_progress=self.on_progress,
                checkpoint_every=every,
                on_checkpoint=lambda t: self.on_checkpoint(t, trials),
            )
        new = gate.judge(self.best_net, trials, self.base.metadata)
        report = gate.compare(old, new, len(trials))
        result: dict[str, Any] = {"gate": report, "seconds": round(time.perf_counter() - started, 1)}
        result["iterations"] = trainer.iteration
        if report["passed"]:
            record = self.publish(report)
            result |= {"published": f"{record.name} {record.version}", "sha256": record.sha256}
        else:
            result |= {"published": None, "message": "not published: " + "; ".join(report["reasons"])}
        return result

    def on_progress(self, report: Any) -> None:
        """After some iterations."""
        self.tell(epoch=-(-report.iteration // EPOCH), loss=round(report.loss, 5))

    def on_checkpoint(self, trainer: Any, trials: list[Any]) -> None:
        """After a checkpoint: is it the best so far, and is it worth going on?"""
        import gate

        net = type(trainer.net)(**trainer.net.config)
        net.load_state_dict({k: v.detach().clone() for k, v in trainer.net.state_dict().items()})
        net.eval()
        scores = gate.judge(net, trials, self.base.metadata)
        value = scores["dice"] - 0.05 * scores["betti"] - scores["harmed"]
        if value > self.best:
            self.best, self.best_at, self.best_net = value, trainer.iteration, net
            self.remember(trainer)
        self.tell(best_metric=round(max(scores["dice"], self.progress.get("best_metric", 0)), 4))
        print(
            f"iteration {trainer.iteration}: Dice {scores['dice']:.4f}, Betti error {scores['betti']:.3f}", flush=True
        )
        patience = self.request["early_stop"]
        if patience and trainer.iteration - self.best_at >= patience * 3 * EPOCH:
            raise Enough

    def remember(self, trainer: Any) -> None:
        """Keep the best weights beside the checkpoint, for a run that is resumed."""
        import numpy as np

        from rnca.files import atomic_path, write_json

        with atomic_path(self.folder / "best.npz") as path, path.open("wb") as file:
            np.savez(file, **{k: v.detach().cpu().numpy() for k, v in trainer.net.state_dict().items()})
        write_json(self.folder / "best.json", {"value": self.best, "iteration": self.best_at})

    def recall(self) -> None:
        """The best weights of the run that is resumed."""
        import numpy as np
        import torch

        if not (self.folder / "best.json").exists():
            return
        about = json.loads((self.folder / "best.json").read_text(encoding="utf-8"))
        with np.load(self.folder / "best.npz", allow_pickle=False) as stored:
            self.best_net.load_state_dict({k: torch.from_numpy(stored[k]) for k in stored.files})
        self.best, self.best_at = about["value"], about["iteration"]

    def publish(self, report: dict[str, Any]) -> Any:
        """Make the candidate a version and the active one; noted in the audit trail."""
        meta = self.base.metadata
        parent = f"{self.parent.name} {self.parent.version} {self.parent.sha256}"
        data = {c["id"]: {k: c[k] for k in c if k.endswith("_sha256")} for c in self.request["cases"]}
        metadata = replace(
            meta,
            parent=parent,
            training={
                "run": self.folder.name,
                "settings": {k: self.request[k] for k in ("iterations", "batch", "patch", "seed")},
                "data": meta.training.get("data", {}),
            },
            figures={"gate": report},
            trained_on=[
                *meta.trained_on,
                {"name": f"{len(data)} corrected cases of this server", "licence": "", "citation": ""},
            ],
        )
        return self.registry.publish(self.best_net, metadata, user=self.request["user"], gate=report, data=data)

    def tell(self, **values: Any) -> None:
        """Update what clients see of the run."""
        from rnca.files import write_json

        self.progress.update(values)
        write_json(self.folder / "progress.json", self.progress)


class Enough(Exception):
    """The held-out cases got no better for a while."""


def main(folder: Path) -> int:
    """Run to the end; the exit code."""
    import torch

    from rnca import InputError
    from rnca.files import write_json

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    started = time.time()
    run = Run(folder)
    try:
        result = run.train()
    except InputError as error:
        result = {"published": None, "message": str(error)}
    run.tell(total_time=round(time.time() - started, 1), epoch=run.progress["total_epochs"])
    write_json(folder / "result.json", result)
    print(json.dumps({k: result.get(k) for k in ("published", "message", "seconds")}), flush=True)
    return 0 if "gate" in result else 1


if __name__ == "__main__":
    die_with_the_server()
    if hasattr(os, "nice"):
        os.nice(10)  # whoever waits for a repair comes first
    sys.exit(main(Path(sys.argv[1])))
