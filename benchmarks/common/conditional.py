"""The conditional U-Net of Table 1: photograph and starting mask in, mask out."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.data import Picture
from common.fitting import Recipe, Sample, fit, predict
from common.networks import build, parameters
from common.refiners import Refiner
from rnca.geometry import image_channels
from rnca.intensity import normalise

PERCENTILES = {"kind": "percentile", "low": 0.5, "high": 99.5}


def stack(image: NDArray[Any], start: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C + 1, H, W): the image's channels in 0..1 and the start."""
    return np.concatenate([normalise(image_channels(image, start.shape), PERCENTILES), start[None]])


def samples(cases: Sequence[Picture], model: str) -> list[Sample]:
    """Each case twice, with its soft start and with the binary one."""
    found = []
    for case in cases:
        if model in case.starts:
            start = (case.starts[model] / 255).astype(np.float32)
            for given in (start, (start > 0.5).astype(np.float32)):
                found.append(Sample(case.name, case.group, stack(case.image, given), case.truth.astype(np.uint8)))
    return found


def conditional_unet(
    train: Sequence[Picture],
    model: str,
    val: Sequence[Picture],
    val_model: str,
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
) -> Refiner:
    """Trained from the train cases' predictions, or read: folder/networks/vessels_conditional_N.pt, N iterations."""
    networks = folder / "networks"
    networks.mkdir(parents=True, exist_ok=True)
    sets = samples(train, model), samples(val, val_model)
    net = fit(f"vessels_conditional_{recipe.iterations}", "unet", 1, recipe, *sets, networks, device)
    digest = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in net.state_dict().values())).hexdigest()[:16]

    def repair(image: NDArray[Any], start: NDArray[np.float32]) -> dict[int, NDArray[np.bool_]]:
        return {0: predict(net, stack(image, start), recipe, device)[0] > 0.5}

    return Refiner("conditional U-Net", {"weights": digest, "recipe": asdict(recipe)}, repair, parameters(net))


def untrained_unet(channels: int, device: str = "cpu") -> Refiner:
    """The same with random weights: for timings."""
    torch.manual_seed(0)
    net = build("unet", channels + 1, 1).eval().to(device)

    def repair(image: NDArray[Any], start: NDArray[np.float32]) -> dict[int, NDArray[np.bool_]]:
        return {0: predict(net, stack(image, start), Recipe(0, patch=64), device)[0] > 0.5}

    return Refiner("conditional U-Net", {}, repair, parameters(net))
