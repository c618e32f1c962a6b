"""Where the sample cases are: beside the package in a wheel, at the top of a checkout."""

from pathlib import Path

from .errors import InputError

_PACKAGE = Path(__file__).parent


def sample_folder() -> Path:
    """The folder with images/NAME, masks/NAME (damaged) and truth/NAME of the synthetic sample cases.

    Raises:
        InputError: it is in neither place.
    """
    for folder in (_PACKAGE / "sample-data", _PACKAGE.parent.parent / "sample-data"):
        if (folder / "masks").is_dir():
            return folder
    raise InputError("there is no sample data: reinstall rnca, or in a checkout run: python benchmarks/sample_data.py")
