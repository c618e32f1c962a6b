"""Training: a pool of evolving states and one loop, for research and for fine-tuning (paper, section 3.3, A.1).

Every iteration takes a batch from the pool, replaces a few of its states by fresh ones, unrolls the automaton
and puts the results back, so that it learns to repair and then to hold what it has repaired: the right mask
becomes an attractor. Against the paper: the loss is summed over a few late moments of the rollout instead of
one, and each weight tensor's gradient is divided by its norm (as in "Growing NCA"): both shorten the plateau
before growth is learned.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .automaton import RNCA
from .cases import Case, Starts
from .errors import InputError
from .files import atomic_path, write_text
from .gradients import rollout
from .patches import Patches, PatchesAhead

REPORT_EVERY = 20  # iterations a line of the log


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on besides network and cases; the defaults suit 64×64 patches on two CPU cores."""

    iterations: int = 3000
    batch: int = 8
    pool: int = 256
    fresh: int = 2  # N: states of a batch replaced by new ones
    patch: int = 64  # edge length, pixels
    first: tuple[int, int] = (16, 32)  # updates before the first moment of the loss
    between: tuple[int, int] = (4, 8)  # updates between further moments
    moments: int = 3
    learning_rate: float = 1e-3
    last_rate: float = 0.02  # the share of the learning rate that is left at the end of its cosine
    weight_decay: float = 1e-4
    focus: float = 0.0  # what a pixel that is wrong when an iteration begins weighs above 1; falls to 0 with the rate
    hold: float = 0.0  # what a pixel that is right when an iteration begins weighs above 1; rises as the rate falls
    topology: float = 0.0  # what a pixel weighs above 1 that is wrong and not only the outline's, see `off_outline`
    noise: float = 0.04  # largest standard deviation of white noise added to a normalised image
    zoom: tuple[float, float] = (1.0, 1.0)  # range of factors by which a case is enlarged
    neighbours: float = 0.0  # share of the patches that get something as bright as the object beside it
    precision: str = "auto"  # of the matrix products: float32, bfloat16, or what the processor does fast
    seed: int = 0
    starts: Starts = field(default_factory=Starts)

    def dtype(self, device: torch.device) -> torch.dtype:
        """The precision of the matrix products on this device."""
        if self.precision != "auto":
            return getattr(torch, self.precision)
        fast = device.type == "cuda" or any(torch.cpu.get_capabilities().get(x) for x in ("avx512_bf16", "amx_bf16"))
        return torch.bfloat16 if fast else torch.float32


def settings_from(values: dict[str, Any]) -> Settings:
    """Settings from their JSON form (`asdict`); what other versions knew beside is left out."""
    known = {f.name for f in fields(Settings)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    starts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.pop("starts", {}).items()}
    return Settings(**values, starts=Starts(**starts))


def off_outline(mask: Tensor, target: Tensor) -> Tensor:
    """Where a mask is wrong in more than its outline: small holes and gaps, specks, bridges, and what is far off.

    A pixel missing from the mask counts where closing by one pixel would add it or where no pixel beside it is in the
    mask; one that is too much, where the same holds for the background.

    Args:
        mask, target: (B, 1, *S) bool.

    Returns:
        (B, 1, *S) bool.
    """
    pool = F.max_pool2d if mask.dim() == 4 else F.max_pool3d

    def grow(x: Tensor) -> Tensor:
        return pool(x.float(), 3, stride=1, padding=1) > 0

    def mendable(x: Tensor) -> Tensor:
        wide = grow(x)
        return ~grow(~wide) | ~wide  # closed; or nothing beside it

    return (target & ~mask & mendable(mask)) | (~target & mask & mendable(~mask))


def patches_of(cases: Sequence[Case], dims: int, settings: Settings) -> Patches:
    """The patches that a run draws from its cases."""
    s = settings
    return Patches(cases, (s.patch,) * dims, s.starts, s.noise, s.zoom, s.neighbours)


def draw_ahead(cases: Sequence[Case], dims: int, settings: Settings, workers: int, done: int = 0) -> PatchesAhead:
    """The patches of a run drawn by worker processes; others after every number of iterations that are `done`."""
    seed = settings.seed * 1_000_003 + done
    return PatchesAhead(patches_of(cases, dims, settings), workers=workers, seed=seed)


class Pool:
    """Evolving states with the image and target they belong to; one row a state."""

    def __init__(
        self,
        cases: Sequence[Case],
        net: RNCA,
        settings: Settings,
        rng: np.random.Generator,
        device: torch.device | None = None,
        patches: Patches | PatchesAhead | None = None,
    ) -> None:
        self.size = (settings.patch,) * net.dims
        self.patches = patches or patches_of(cases, net.dims, settings)
        count = settings.pool
        self.image = torch.zeros([count, net.image_channels, *self.size], device=device)
        self.target = torch.zeros([count, 1, *self.size], device=device)
        self.state = torch.zeros([count, net.state_channels, *self.size], device=device)
        for row in range(count):
            self.refresh(row, rng)

    def refresh(self, row: int, rng: np.random.Generator) -> None:
        """Put a newly drawn patch and starting state into a row."""
        image, start, target = self.patches.draw(rng)
        self.image[row] = torch.from_numpy(image)
        self.target[row, 0] = torch.from_numpy(target)
        self.state[row] = 0
        self.state[row, 0] = torch.from_numpy(start)


class Trainer:
    """A run: network, optimizer, pool and random generators, which a checkpoint holds completely.

    The random generators of NumPy and torch's CPU continue where a checkpoint left them, so an interrupted run
    ends in the same weights as one that was not (on the CPU).
    """

    def __init__(
        self,
        net: RNCA,
        cases: Sequence[Case],
        settings: Settings,
        device: str | torch.device = "cpu",
        patches: Patches | PatchesAhead | None = None,
    ) -> None:
        if not cases:
            raise InputError("there are no training cases: give a folder with images and labels, or --phantoms.")
        self.settings, self.device = settings, torch.device(device)
        self.net = net.to(self.device).train()
        self.optimizer = torch.optim.AdamW(
            net.parameters(), lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=settings.weight_decay
        )
        torch.manual_seed(settings.seed)
        self.rng = np.random.default_rng(settings.seed)
        self.pool = Pool(cases, net, settings, self.rng, self.device, patches)
        self.iteration = 0

    def to_come(self) -> float:
        """Half a cosine over the run, from 1 to 0."""
        return (1 + math.cos(math.pi * self.iteration / self.settings.iterations)) / 2

    def learning_rate(self) -> float:
        """The rate of the coming iteration.

        Gradients of norm 1 do not become smaller as the net becomes better: only a small rate lets it come to rest.
        """
        last = self.settings.last_rate
        return self.settings.learning_rate * (last + (1 - last) * self.to_come())

    def step(self) -> float:
        """One iteration; returns the loss, summed over the moments."""
        s, pool, rng = self.settings, self.pool, self.rng
        rows = rng.choice(len(pool.state), s.batch, replace=False)
        for row in rows[: s.fresh]:
            pool.refresh(row, rng)
        image, target, state = (t[rows] for t in (pool.image, pool.target, pool.state))
        gaps = [rng.integers(s.first[0], s.first[1] + 1)]
        gaps += [rng.integers(s.between[0], s.between[1] + 1) for _ in range(s.moments - 1)]
        moments = tuple(int(t) for t in np.cumsum(gaps))

        visible, last = rollout(self.net, image, state, moments, precision=s.dtype(self.device))
        right = target > 0.5
        wrong = (state[:, :1] > 0.5) != right
        weight = 1 + s.focus * self.to_come() * wrong + s.hold * (1 - self.to_come()) * ~wrong
        weights = [weight + s.topology * off_outline(v > 0.5, right) if s.topology else weight for v in visible]
        loss = sum((w * (v - target) ** 2).mean() for w, v in zip(weights, visible, strict=True))  # (3)
        assert isinstance(loss, Tensor)
        self.optimizer.zero_grad()
        loss.backward()
        gradients = [weight.grad for weight in self.net.parameters() if weight.grad is not None]
        norms = torch.stack([gradient.norm() for gradient in gradients])
        sound = bool(torch.isfinite(loss + norms.sum()))
        for gradient, norm in zip(gradients, norms, strict=True):
            gradient /= norm + 1e-8
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        if sound:
            self.optimizer.step()
            pool.state[rows] = last
        else:  # states that exploded are not worth keeping
            for row in rows:
                pool.refresh(row, rng)
        self.iteration += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Write a checkpoint (NumPy .npz without pickles), whole or not at all."""
        arrays = {f"net/{k}": v.detach().cpu().numpy() for k, v in self.net.state_dict().items()}
        for index, slot in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{index}/{k}": torch.as_tensor(v).cpu().numpy() for k, v in slot.items()}
        arrays |= {f"pool/{k}": getattr(self.pool, k).cpu().numpy() for k in ("image", "target", "state")}
        arrays["torch_random"] = torch.get_rng_state().numpy()
        about = {
            "config": self.net.config,
            "settings": asdict(self.settings),
            "iteration": self.iteration,
            "random": self.rng.bit_generator.state,
        }
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    @classmethod
    def resume(
        cls,
        path: Path,
        cases: Sequence[Case],
        device: str | torch.device = "cpu",
        iterations: int | None = None,
        patches: Patches | PatchesAhead | None = None,
    ) -> "Trainer":
        """Continue from a checkpoint; the cases must be those it was made with. `iterations` prolongs the run."""
        about, arrays = read_checkpoint(path)
        settings = settings_from(about["settings"])
        if iterations is not None:
            settings = replace(settings, iterations=iterations)
        trainer = cls(net_from(about, arrays), cases, settings, device, patches)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, array in arrays.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                slots.setdefault(int(index), {})[key] = torch.from_numpy(array)
        optimizer = trainer.optimizer.state_dict()
        trainer.optimizer.load_state_dict({"state": slots, "param_groups": optimizer["param_groups"]})
        for key in ("image", "target", "state"):
            getattr(trainer.pool, key).copy_(torch.from_numpy(arrays[f"pool/{key}"]))
        trainer.rng.bit_generator.state = about["random"]
        torch.set_rng_state(torch.from_numpy(arrays["torch_random"]))
        trainer.iteration = about["iteration"]
        return trainer


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a checkpoint says about itself, and its arrays; never unpickles."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if damaged := stored.zip.testzip():
                raise ValueError(f"{damaged} is damaged")
            arrays = {name: stored[name] for name in stored.files}
            if len(arrays) < len(stored.files):
                raise ValueError("its directory is damaged")
        return json.loads(arrays.pop("about").tobytes()), arrays
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError, BadZipFile) as error:
        raise InputError(f"{path} is not a training checkpoint that can be read ({error}).") from error


def net_from(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> RNCA:
    """The network of a checkpoint."""
    net = RNCA(**about["config"])
    net.load_state_dict({k[4:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("net/")})
    return net


@dataclass
class Progress:
    """What a listener is told after some iterations."""

    iteration: int
    loss: float  # mean over the iterations since the last report
    learning_rate: float
    seconds: float  # an iteration


def train(
    trainer: Trainer,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    checkpoint_every: int = 250,
    on_checkpoint: Callable[[Trainer], None] = lambda _: None,
) -> RNCA:
    """Run to the end, writing `folder/checkpoint.npz` and `folder/log.csv`; returns the network in eval mode.

    Interrupt it at any time: `Trainer.resume(folder / "checkpoint.npz", cases)` goes on from the last checkpoint.
    `on_checkpoint` is where validation and pictures are hung in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.csv"
    lines = log.read_text(encoding="utf-8").splitlines()[1:] if log.exists() and trainer.iteration else []
    lines = [line for line in lines if int(line.split(",")[0]) <= trainer.iteration]
    losses: list[float] = []
    started = time.perf_counter()
    while trainer.iteration < trainer.settings.iterations:
        losses.append(trainer.step())
        at_end = trainer.iteration == trainer.settings.iterations
        if trainer.iteration % REPORT_EVERY == 0 or at_end:
            seconds = (time.perf_counter() - started) / len(losses)
            report = Progress(trainer.iteration, float(np.mean(losses)), trainer.learning_rate(), seconds)
            lines.append(f"{report.iteration},{report.loss:.6g},{report.learning_rate:.3g},{report.seconds:.3g}")
            on_progress(report)
            losses, started = [], time.perf_counter()
        if trainer.iteration % checkpoint_every == 0 or at_end:
            trainer.save(folder / "checkpoint.npz")
            write_text(log, "\n".join(["iteration,loss,learning_rate,seconds", *lines, ""]))
            on_checkpoint(trainer)
            started = time.perf_counter()
    return trainer.net.eval()
