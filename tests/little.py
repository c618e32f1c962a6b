"""Small cases on disk: a bright ring, its mask with a gap, and a model that provably repairs it."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

import rnca
from conftest import filler
from rnca import cli
from rnca.zoo import describe, save_model

Tree = dict[str, bytes | None]


def ring(shape: tuple[int, ...] = (24, 26)) -> NDArray[np.bool_]:
    """A square ring three pixels wide, the same in every slice: β = (1, 1), of a volume (1, 1, 0)."""
    out = np.zeros(shape, bool)
    out[..., 5:-5, 5:-5] = True
    out[..., 8:-8, 8:-8] = False
    return out


def broken(truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With a gap four pixels wide, and an island far from it: β = (2, 0)."""
    out = truth.copy()
    out[..., :12, 11:15] = False
    out[..., 1:3, 1:3] = True
    return out


def save(path: Path, array: NDArray[np.generic], spacing: tuple[float, ...] | None = None) -> Path:
    """Write an array as an image; volumes get a geometry that is nowhere trivial."""
    image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
    if image.GetDimension() == 3:
        image.SetSpacing(spacing or (0.5, 0.75, 3.0))
        image.SetOrigin((-12.5, 3.25, 100.0))
        image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def load(path: Path) -> NDArray[np.generic]:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def save_filler(folder: Path, dims: int = 2) -> Path:
    """An archive of the network that fills what is bright and clears what is dark, listed in its manifest."""
    net = filler(dims)
    return save_model(net, folder / "filler.ts", describe(net, "filler", "1.2.3", steps=24))


def case(folder: Path, name: str = "case.png") -> tuple[Path, Path]:
    """Image and broken mask (255 in PNG, else 7) of a ring, in images/ and masks/ of a folder."""
    truth = ring() if name.endswith((".png", ".tif")) else ring((4, 24, 26))
    value = 255 if name.endswith(".png") else 7
    image = save(folder / "images" / name, (truth * 200 + 20).astype(np.uint8))
    return image, save(folder / "masks" / name, (broken(truth) * value).astype(np.uint8))


def run_cli(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """Run `rnca ARGS` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["rnca", *map(str, args)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code if isinstance(exit_.value.code, int) else 1


def command(*args: object) -> list[str]:
    """The command line of `rnca ARGS` as a process of its own."""
    return [sys.executable, "-c", "from rnca.cli import main; main()", *map(str, args)]


def environment() -> dict[str, str]:
    """In which a process finds the package that is being tested."""
    home = str(Path(rnca.__file__).parents[1])
    return os.environ | {"PYTHONPATH": home, "OMP_NUM_THREADS": "1"}


def tree(folder: Path) -> Tree:
    """Every file (its bytes) and folder (None) under a folder, hidden ones too: to see that nothing was written."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
