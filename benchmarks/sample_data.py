"""Write the synthetic cases of sample-data/ again: python benchmarks/sample_data.py [-o FOLDER]

Phantoms (`rnca.phantoms`) with damage (`rnca.defects`). Everything is drawn from the seeds below, so every run writes
the same bytes with the same versions of NumPy, SciPy and SimpleITK.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rnca.defects import damage
from rnca.files import write_image
from rnca.phantoms import phantom

FOLDER = Path(__file__).parent.parent / "sample-data"

# name: phantom, edge in pixels, its seed, kind of damage, severity, its seed; 2-D PNG
PICTURES = {
    "ring-1": ("thin-rings", 128, 2, "gaps", 0.6, 2),
    "ring-2": ("thin-rings", 128, 1, "wedges", 0.6, 1),
    "ring-3": ("thin-rings", 128, 9, "mixed", 0.7, 1),
    "vessel-1": ("vessels", 256, 0, "gaps", 0.4, 1),
    "vessel-2": ("vessels", 256, 3, "gaps", 0.6, 1),
}
STACK, STACK_SHAPE, STACK_SEED, STACK_SEVERITY = "ring-stack", (16, 96, 96), 5, 0.6
STACK_KINDS = ("gaps", "wedges", "gaps", "none")  # of one slice after the other; the slice's number is the seed
SPACING, ORIGIN = (1.5, 1.5, 8.0), (-71.0, -64.5, 20.0)  # mm, x y z: like short-axis heart MR
TILT = np.radians(30)  # about x, as a scanner's oblique slices are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder to write to")
    output = parser.parse_args().output
    for part in ("images", "masks", "truth"):
        (output / part).mkdir(parents=True, exist_ok=True)
    for name, images in cases():
        for part, image in images.items():
            write_image(image, output / part / name)
    size = sum(path.stat().st_size for path in output.glob("*/*"))
    print(f"{output}: {len(list(output.glob('masks/*')))} cases, {size / 1000:.0f} kB")


def cases() -> Iterator[tuple[str, dict[str, sitk.Image]]]:
    """File name and images (images, masks, truth) of each case."""
    for name, (kind, edge, seed, harm, severity, harm_seed) in PICTURES.items():
        image, truth = phantom(kind, (edge, edge), seed)
        mask = damage(truth, harm, severity, harm_seed)
        parts = {"images": image, "masks": mask, "truth": truth}
        yield f"{name}.png", {part: sitk.GetImageFromArray(as_bytes(array, 255)) for part, array in parts.items()}

    image, truth = phantom("thin-rings", STACK_SHAPE, STACK_SEED)
    harms = (STACK_KINDS[k % len(STACK_KINDS)] for k in range(len(truth)))
    mask = np.stack(
        [damage(ring, harm, STACK_SEVERITY, k) for k, (ring, harm) in enumerate(zip(truth, harms, strict=True))]
    )
    stack: dict[str, NDArray[Any]] = {
        "images": (image * 1000).astype(np.int16),
        "masks": as_bytes(mask, 1),
        "truth": as_bytes(truth, 1),
    }
    yield f"{STACK}.nii.gz", {part: placed(array) for part, array in stack.items()}


def as_bytes(array: NDArray[Any], full: int) -> NDArray[np.uint8]:
    """Values from 0 to 1 (or false and true) to 0 to `full`."""
    return np.rint(array.astype(np.float32) * full).astype(np.uint8)


def placed(array: NDArray[Any]) -> sitk.Image:
    """A volume with its place in space."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    c, s = float(np.cos(TILT)), float(np.sin(TILT))
    image.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
    return image


if __name__ == "__main__":
    main()
