"""Refinement on this computer, by the package `rnca` in Slicer's own Python: no server, no image leaves it.

The package brings torch, so it is installed only when the user asks for it, and imported only when it is used.
"""

import importlib
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, around, on_box, slices, text, union, whole
from .errors import RefineError
from .events import Event, Finished, Started, Stepped
from .request import Control, Image, Noted, Request

PACKAGE = "rnca"
WHAT_IT_INSTALLS = (
    "This installs the package rnca into Slicer's own Python, with what it needs: PyTorch, MONAI, SimpleITK and"
    " scikit-image, about 1 GB on disk. Nothing else of Slicer changes, and no image leaves this computer."
)


def installed() -> bool:
    """Whether the package can be used."""
    return find_spec(PACKAGE) is not None


def check_wheel(path: str) -> None:
    """Raise RefineError unless this is a file that can be the package: never a name, which anybody could publish."""
    if not (Path(path).is_file() and Path(path).name.startswith(f"{PACKAGE}-") and path.endswith(".whl")):
        raise RefineError(f"{Path(path).name} is not the package: choose the file {PACKAGE}-VERSION-py3-none-any.whl.")


def install(path: str) -> None:
    """Install the package's wheel into Slicer's Python; minutes, in any thread. Call it only after a yes of the user.

    Raises:
        RefineError: it is no such wheel, or it did not work, with pip's last line.
    """
    check_wheel(path)
    import slicer

    # Not slicer.util.pip_install, which writes to Slicer's console as it goes: only the main thread may do that.
    python = shutil.which("PythonSlicer") or sys.executable
    process = slicer.util.launchConsoleProcess([python, "-m", "pip", "install", path], useStartupEnvironment=False)
    said, _ = process.communicate()
    if process.returncode:
        last = (said or "").strip().rpartition("\n")[2]
        raise RefineError(f"{PACKAGE} was not installed: {last or 'pip gave no reason'}")
    importlib.invalidate_caches()


class Local:
    """A `Backend` without a server."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}

    def known(self, image: Image) -> bool:
        """Nothing has to be sent anywhere."""
        return True

    def close(self) -> None:
        """Nothing is kept."""

    def models(self) -> dict[str, list[dict[str, Any]]]:
        """The shipped models, as the server lists them."""
        from rnca.zoo import shipped, shipped_metadata

        return {name: [_about(name, shipped_metadata(name))] for name in shipped()}

    def default_model(self) -> str:
        """The one that is used where none is named."""
        from rnca import DEFAULT_MODEL

        return DEFAULT_MODEL

    def refine(self, request: Request, control: Control) -> Iterator[Event | Noted]:
        """See `Backend`."""
        if not installed():
            raise RefineError(
                "The package rnca is not installed in Slicer: install it from the settings, or use a server."
            )
        import rnca

        yield Noted("Loading the model")
        started = time.monotonic()
        try:
            model = self._model(request.model, request.image.shape)
            roi = None if request.roi is None else text(request.roi)
            steps = rnca.stream(
                itk_image(request.image.voxels, request.image),
                itk_image(request.whole_mask(), request.image),
                model,
                request.steps,
                label=1,
                roi=roi,
            )
            yield from _events(request, control, model, steps, started)
        except rnca.InputError as error:
            raise RefineError(str(error)[:1].upper() + str(error)[1:]) from error

    def confidence(self, request: Request) -> tuple[NDArray[np.uint8], Box]:
        """How often stochastic rollouts agree with the refinement about a voxel, 0 to 255, in a box."""
        import rnca
        from rnca.rollout import confidence

        image, mask = request.image, itk_image(request.whole_mask(), request.image)
        model, roi = self._model(request.model, image.shape), None if request.roi is None else text(request.roi)
        try:
            found = confidence(itk_image(image.voxels, image), mask, model, request.steps, label=1, roi=roi)
        except rnca.InputError as error:
            raise RefineError(str(error)[:1].upper() + str(error)[1:]) from error
        return np.rint(found * 255).astype(np.uint8), whole(image.shape)

    def _model(self, name: str, shape: tuple[int, ...]) -> Any:
        import rnca
        from rnca.zoo import named

        name = named(name.partition("@")[0] or rnca.DEFAULT_MODEL, shape)
        if name not in self._models:
            self._models[name] = rnca.load_model(name)
        return self._models[name]


def _events(request: Request, control: Control, model: Any, steps: Iterator[Any], started: float) -> Iterator[Event]:
    """The package's steps as the events of a stream: what can change is told as the box of what did, so far."""
    about = model.metadata
    box = _reach(request, int(request.steps if request.steps is not None else about.steps), about)
    yield Started("", about.name, about.version, request.image.shape, box, request.steps or about.steps)
    before = on_box(request.mask, request.box, box)
    step, reason = 0, "steps"
    for found in steps:
        if control.abandoned.is_set():
            return
        if found.index == 0:
            continue
        now = _values(found.mask)[slices(box)] != 0
        flips = now ^ before
        tight = around(flips)
        step = found.index
        if tight is None:
            yield Stepped(step, None, None)
        else:
            place = tuple((a + c, b + c) for (a, b), (c, _) in zip(tight, box, strict=True))
            yield Stepped(step, place, flips[slices(tight)])
        before = now
        if found.reason:
            reason = "converged" if found.reason == "converged" else "steps"
    yield Finished(reason, step, time.monotonic() - started, before)


def _reach(request: Request, steps: int, about: Any) -> Box:
    """What can change: the mask grown by a voxel a step, in the region, or everywhere if the model resamples."""
    everything = tuple((0, n) for n in request.image.shape)
    reach = max(everything, key=lambda pair: pair[1])[1] if about.resample else steps
    grown = tuple(
        (max(0, a - reach), min(n, b + reach)) for (a, b), (_, n) in zip(request.box, everything, strict=True)
    )
    return union(grown, request.box)


def _values(mask: Any) -> Any:
    if isinstance(mask, np.ndarray):
        return mask
    import SimpleITK as sitk

    return sitk.GetArrayViewFromImage(mask)


def itk_image(voxels: Any, image: Image) -> Any:
    """A SimpleITK image with the grid of `image` (which is in RAS; ITK is in LPS)."""
    import SimpleITK as sitk

    found = sitk.GetImageFromArray(np.ascontiguousarray(voxels), isVector=voxels.ndim == 4)
    matrix = np.diag([-1.0, -1.0, 1.0]) @ image.ijk_to_ras[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    found.SetSpacing([float(s) for s in spacing])
    found.SetDirection([float(d) for d in (matrix / spacing).ravel()])
    found.SetOrigin([float(o) for o in np.diag([-1.0, -1.0, 1.0]) @ image.ijk_to_ras[:3, 3]])
    return found


def _about(name: str, metadata: Any) -> dict[str, Any]:
    keys = ("version", "description", "licence", "dims", "steps")
    told = {k: getattr(metadata, k) for k in keys}
    return {"name": name, "active": True, "shipped": True, "figures": metadata.headline, **told}
