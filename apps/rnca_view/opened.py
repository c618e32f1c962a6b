"""The case that is open: from samples or files into the scene and the views."""

from pathlib import Path
from typing import Any

import numpy as np

from rnca.errors import InputError
from RNCARefineLib.boxes import Box
from RNCARefineLib.nodes import ijk_to_ras
from RNCARefineLib.segments import read_segment

from . import case as cases
from .case import Case
from .samples import sample_cases
from .views import Views


class Opened:
    """What is open, one case at a time.

    Attributes:
        case: None before the first.
        sample_name: of the sample that it is; None for the user's own files.
        model: the one for that sample; '' where nobody knows.
    """

    def __init__(self, scene: Any, views: Views) -> None:
        self._scene, self._views = scene, views
        self.samples = sample_cases()
        self.case: Case | None = None
        self.sample_name: str | None = None
        self.model = ""

    def sample(self, name: str | None) -> None:
        """Open one of the cases that come with the package."""
        found = next((sample for sample in self.samples if sample.name == name), None)
        if found is None:
            raise InputError("there is no such sample case: reinstall rnca")
        self.files(found.image, found.mask)
        self.sample_name, self.model = found.name, found.model

    def files(self, image: Path | None, mask: Path | None) -> None:
        """Open an image, a mask on the image that is open, or both.

        Raises:
            InputError: one of them cannot be opened; what was open before it stays.
        """
        if image is not None:
            opened = cases.open_image(self._scene, image)
            before, self.case = self.case, opened
            self.sample_name, self.model = None, ""
            if before is not None:
                cases.close(self._scene, before)
            self._views.show(opened.volume, opened.flat)  # before the mask: what comes first is drawn below
        if mask is not None:
            if self.case is None:
                raise InputError("there is no image yet: open the image first, then its mask")
            cases.open_mask(self._scene, self.case, mask)
            self._go_to_mask(self.case)

    def _go_to_mask(self, case: Case) -> None:
        """Slices through the middle of what the first segment fills."""
        _, box = read_segment(case.segmentation, next(iter(case.values)), case.volume)
        self._views.go_to(middle(box, case.volume))


def middle(box: Box, volume: Any) -> tuple[float, float, float]:
    """The centre of a box of a volume's grid, in RAS."""
    index = [np.floor((start + stop - 1) / 2) for start, stop in reversed(box)]
    x, y, z = (ijk_to_ras(volume) @ [*index, 1.0])[:3]
    return float(x), float(y), float(z)
