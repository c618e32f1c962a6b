"""A volume as the bytes of an NRRD file (teem.sourceforge.net/nrrd/format.html), made without the main thread.

Slicer's own writer works on nodes, in the main thread, and a volume of 50 MB would stop the window for a second.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {"b1": "uint8", "i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32"}
TYPES |= {"i8": "int64", "u8": "uint64", "f4": "float", "f8": "double"}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def encode(voxels: NDArray[Any], ijk_to_ras: NDArray[np.float64], compress: bool = True) -> bytes:
    """The file's bytes.

    Args:
        voxels: (k, j, i), or (k, j, i, c) for c values a voxel; bool, integers or floats.
        ijk_to_ras: 4×4, voxel indices (i, j, k) to millimetres in RAS.
        compress: gzip, the fastest level; otherwise raw.
    """
    kind = TYPES[voxels.dtype.str[1:]]
    directions = RAS_TO_LPS @ ijk_to_ras[:3, :3]
    vectors = [_vector(directions[:, axis]) for axis in range(3)]
    sizes, kinds = [str(n) for n in voxels.shape[2::-1]], ["domain"] * 3
    if voxels.ndim == 4:
        sizes, kinds, vectors = [str(voxels.shape[3]), *sizes], ["vector", *kinds], ["none", *vectors]
    lines = [
        "NRRD0005",
        f"type: {kind}",
        f"dimension: {voxels.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(sizes)}",
        f"space directions: {' '.join(vectors)}",
        f"kinds: {' '.join(kinds)}",
        *(["endian: little"] if voxels.dtype.itemsize > 1 else []),
        f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: {_vector(RAS_TO_LPS @ ijk_to_ras[:3, 3])}",
    ]
    data = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    body = data.view(np.uint8).tobytes() if voxels.size else b""
    if compress:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        body = packer.compress(body) + packer.flush()
    return ("\n".join(lines) + "\n\n").encode("ascii") + body


def _vector(values: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"
