"""A stack of broken rings to try the module on: one of the project's own sample cases, shipped beside the module."""

from pathlib import Path
from typing import Any

from . import cases

NAME, CATEGORY = "rNCA broken ring", "rNCA Refine"
FOLDER = Path(__file__).parents[1] / "Resources" / "SampleData"
IMAGE, MASK = "ring-stack.nii.gz", "ring-stack-broken.nii.gz"


def load() -> list[Any]:
    """The volume and the segmentation (one segment, "ring") as nodes of Slicer's scene."""
    import slicer

    volume = slicer.util.loadVolume(str(FOLDER / IMAGE), {"name": NAME})
    segmentation = cases.load_mask(MASK, (FOLDER / MASK).read_bytes(), volume)
    segmentation.GetSegmentation().GetNthSegment(0).SetName("ring")
    return [volume, segmentation]


def register(icon: str) -> None:
    """Offer it in Slicer's module Sample Data, if that is there; `icon` is a path."""
    try:
        import SampleData
    except ImportError:
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="RNCABrokenRing",
        thumbnailFileName=icon,
        customDownloader=lambda *_source: load(),
        nodeNames=NAME,
    )
