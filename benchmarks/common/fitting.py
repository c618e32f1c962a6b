"""Training of the comparison networks on random patches, resumable, and their predictions on whole images."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from common.networks import build, parameters
from rnca.bars import progress_bar
from rnca.files import atomic_path, write_json

CHECKPOINT_SECONDS = 60


@dataclass
class Sample:
    """One image with its classes."""

    name: str
    group: str  # patient
    image: NDArray[np.float32]  # (C, H, W)
    classes: NDArray[np.uint8]  # (H, W), 0 is background
    source: str = ""  # data set


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Dice loss, AdamW, cosine decay of the learning rate, random patches."""

    iterations: int
    batch: int = 4
    patch: int = 128
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    turn: float = math.pi  # rotations up to this angle
    zoom: tuple[float, float] = (0.8, 1.25)
    grey: bool = True  # blend the colours with their grey value
    validate_every: int = 500  # iterations; 0: never, the last weights are kept
    bfloat16: bool = False  # matrix products, in training and prediction
    seed: int = 0


def draw_batch(samples: Sequence[Sample], recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random patches, flipped, turned, zoomed and blended with grey: (B, C, p, p) float32 and (B, 1, p, p) classes."""
    images, classes = [], []
    for _ in range(recipe.batch):
        sample = samples[int(rng.integers(len(samples)))]
        grid = _grid(sample.classes.shape, recipe, rng)
        image = torch.from_numpy(sample.image)[None]
        labels = torch.from_numpy(sample.classes)[None, None].float()
        image = grid_sample(image, grid, align_corners=True)
        if recipe.grey:
            share = rng.random() if rng.random() < 0.5 else 0.0
            image = (1 - share) * image + share * image.mean(1, keepdim=True)
        images.append(image)
        classes.append(grid_sample(labels, grid, mode="nearest", align_corners=True))
    return torch.cat(images), torch.cat(classes)


def _grid(shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Where a patch's pixels are in the image, (1, p, p, 2) in grid_sample's -1..1, x before y."""
    half = recipe.patch / 2
    centre = [rng.uniform(min(half, n / 2), max(n - half, n / 2)) for n in shape]
    angle, scale = rng.uniform(-recipe.turn, recipe.turn), 1 / rng.uniform(*recipe.zoom)
    flips = rng.choice([-1.0, 1.0], 2)
    offset = np.arange(recipe.patch) - half + 0.5
    y, x = np.meshgrid(offset * flips[0] * scale, offset * flips[1] * scale, indexing="ij")
    rows = centre[0] + np.cos(angle) * y + np.sin(angle) * x - 0.5
    columns = centre[1] - np.sin(angle) * y + np.cos(angle) * x - 0.5
    grid = np.stack([2 * columns / (shape[1] - 1) - 1, 2 * rows / (shape[0] - 1) - 1], -1)
    return torch.from_numpy(grid[None].astype(np.float32))


def one_hot(classes: Tensor, outputs: int) -> Tensor:
    """(B, 1, H, W) classes -> (B, outputs, H, W): with one output, foreground; else one channel a class."""
    return (classes > 0).float() if outputs == 1 else torch.cat([classes == k for k in range(outputs)], 1).float()


class Fit:
    """One network in training; a checkpoint holds all of it, so that an interrupted run goes on where it was."""

    def __init__(self, net: nn.Module, outputs: int, recipe: Recipe, device: str = "cpu") -> None:
        from monai.losses import DiceLoss

        self.net, self.outputs, self.recipe, self.device = net.to(device), outputs, recipe, device
        self.loss = DiceLoss(sigmoid=outputs == 1, softmax=outputs > 1, batch=True)
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.rng = np.random.default_rng(recipe.seed)
        self.iteration, self.seconds = 0, 0.0
        self.best_dice, self.best_at = -1.0, 0
        self.best: dict[str, Tensor] = {}

    def step(self, samples: Sequence[Sample]) -> float:
        """One iteration; returns the loss."""
        started = time.perf_counter()
        images, classes = draw_batch(samples, self.recipe, self.rng)
        images, classes = images.to(self.device), classes.to(self.device)
        self.net.train()
        with _products(self.device, self.recipe):
            logits = self.net(images)
        loss: Tensor = self.loss(logits.float(), one_hot(classes, self.outputs))
        self.optimizer.zero_grad()
        loss.backward()
        done = self.iteration / self.recipe.iterations
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * (0.5 + 0.5 * math.cos(math.pi * done))
        self.optimizer.step()
        self.iteration += 1
        self.seconds += time.perf_counter() - started
        return float(loss.detach())

    def keep_best(self, dice: float) -> None:
        """Remember the weights if this is the highest Dice on the validation images so far, or if there is none."""
        if dice > self.best_dice or math.isnan(dice):
            self.best_dice, self.best_at = dice, self.iteration
            self.best = {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all; tensors, numbers and text only."""
        about = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "best_dice": self.best_dice,
            "best_at": self.best_at,
            "random": self.rng.bit_generator.state,
        }
        stored = {
            "net": self.net.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "about": json.dumps(about),
        }
        with atomic_path(path) as temporary:
            torch.save(stored, temporary)

    def resume(self, path: Path) -> None:
        """Take over a checkpoint."""
        stored = torch.load(path, map_location=self.device, weights_only=True)
        about = json.loads(stored["about"])
        self.net.load_state_dict(stored["net"])
        self.best = stored["best"]
        self.optimizer.load_state_dict(stored["optimizer"])
        self.iteration, self.seconds = about["iteration"], about["seconds"]
        self.best_dice, self.best_at = about["best_dice"], about["best_at"]
        self.rng.bit_generator.state = about["random"]


def _products(device: str, recipe: Recipe) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=recipe.bfloat16)


def predict(net: nn.Module, image: NDArray[np.float32], recipe: Recipe, device: str = "cpu") -> NDArray[np.float32]:
    """Probabilities (outputs, H, W) of a whole image (C, H, W): overlapping windows, logits averaged as a Gaussian."""
    from monai.inferers import sliding_window_inference

    net.eval()
    pixels = torch.from_numpy(image)[None].to(device)
    with torch.inference_mode(), _products(device, recipe):
        logits = sliding_window_inference(pixels, (recipe.patch,) * 2, 16, net, overlap=0.5, mode="gaussian")
        assert isinstance(logits, Tensor)
        logits = logits.float()
        soft = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
    return soft[0].cpu().numpy()


def foreground_dice(net: nn.Module, samples: Sequence[Sample], recipe: Recipe, device: str = "cpu") -> float:
    """Mean Dice over whole images, and over the classes that a sample has."""
    from rnca.metrics import dice

    scores = []
    for sample in samples:
        soft = predict(net, sample.image, recipe, device)
        chosen = (soft[0] > 0.5).astype(np.uint8) if len(soft) == 1 else soft.argmax(0)
        kinds = [1] if len(soft) == 1 else range(1, len(soft))
        truth = (sample.classes > 0).astype(np.uint8) if len(soft) == 1 else sample.classes
        scores += [dice(chosen == k, truth == k) for k in kinds if (truth == k).any()]
    return float(np.mean(scores))


def fit(
    name: str,
    kind: str,
    outputs: int,
    recipe: Recipe,
    train: Sequence[Sample],
    val: Sequence[Sample],
    out: Path,
    device: str,
) -> nn.Module:
    """The network NAME, trained as far as it is not yet: out/NAME.pt, .json about it, .partly.pt while it is trained.

    Without validation the last weights are kept.
    """
    finished, partly = out / f"{name}.pt", out / f"{name}.partly.pt"
    torch.manual_seed(recipe.seed)
    net = build(kind, train[0].image.shape[0], outputs)
    if finished.exists():
        net.load_state_dict(torch.load(finished, map_location="cpu", weights_only=True))
        return net.to(device)
    run = Fit(net, outputs, recipe, device)
    if partly.exists():
        run.resume(partly)
    _train(run, name, train, val, partly)
    with atomic_path(finished) as temporary:
        torch.save(run.best, temporary)
    about = {
        "network": kind,
        "parameters": parameters(net),
        "recipe": asdict(recipe),
        "patients": sorted({s.group for s in train}),
        "seconds": round(run.seconds, 1),
        "threads": torch.get_num_threads(),
        "validation_dice": None if math.isnan(run.best_dice) else round(run.best_dice, 4),
        "chosen_iteration": run.best_at,
        "torch": torch.__version__,
    }
    write_json(out / f"{name}.json", about)
    partly.unlink(missing_ok=True)
    net.load_state_dict(run.best)
    return net


def _train(run: Fit, name: str, train: Sequence[Sample], val: Sequence[Sample], partly: Path) -> None:
    recipe, out = run.recipe, Console(stderr=True, soft_wrap=True)
    losses: list[float] = []
    saved = run.seconds
    with progress_bar(out, name, recipe.iterations) as advance:
        while run.iteration < recipe.iterations:
            losses.append(run.step(train))
            advance(run.iteration, None, f"{name}: loss {np.mean(losses[-50:]):.3f}")
            at_end = run.iteration == recipe.iterations
            if at_end or run.iteration % (recipe.validate_every or 100) == 0:
                dice = foreground_dice(run.net, val, recipe, run.device) if val and recipe.validate_every else math.nan
                run.keep_best(dice)
                out.print(
                    f"{name}: iteration {run.iteration}, loss {np.mean(losses[-100:]):.3f}, validation Dice {dice:.4f},"
                    f" {run.seconds / run.iteration:.3f} s an iteration"
                )
            if run.seconds - saved > CHECKPOINT_SECONDS or at_end:
                run.save(partly)
                saved = run.seconds
