"""A scene with a broken ring, and what tests do with it: wait for Qt, look at nodes, spoil what a server sends."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray

from little import broken, ring
from RNCARefineLib import nodes
from RNCARefineLib.boxes import whole
from RNCARefineLib.segments import read_box
from serving import SHAPE, free_port

RING, BROKEN = ring(SHAPE), broken(ring(SHAPE))
OTHER = np.zeros(SHAPE, bool)
OTHER[:, 10:14, 10:16] = True  # in the hole of the ring
TILTED = np.array([[0.4, -0.45, 0.0, -12.5], [0.3, 0.6, 0.0, 3.25], [0.0, 0.0, -3.0, 100.0], [0.0, 0.0, 0.0, 1.0]])

Mask = NDArray[np.bool_]


class Case:
    """A volume with a bright ring, and a segmentation with the ring broken and a second segment beside it."""

    def __init__(self, scene: Any, name: str = "ring") -> None:
        from vtk.util.numpy_support import numpy_to_vtk

        self.scene = scene
        self.volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        image = (RING * 200 + 20 + np.random.default_rng(0).integers(0, 8, SHAPE)).astype(np.int16)
        data = vtk.vtkImageData()
        data.SetDimensions(*SHAPE[::-1])
        data.GetPointData().SetScalars(numpy_to_vtk(image.ravel(), deep=True))
        self.volume.SetAndObserveImageData(data)
        self.volume.SetIJKToRASMatrix(nodes.matrix_of(TILTED))
        self.segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} segmentation")
        self.segmentation.CreateDefaultDisplayNodes()
        self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(self.volume)
        inside = self.segmentation.GetSegmentation()
        self.ring, self.other = (inside.AddEmptySegment(n, n) for n in ("ring", "other"))
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        for segment, mask in ((self.ring, BROKEN), (self.other, OTHER)):
            part = nodes.oriented(mask, whole(SHAPE), TILTED)
            logic.SetBinaryLabelmapToSegment(part, self.segmentation, segment, logic.MODE_REPLACE)

    def mask(self, segment: str = "") -> Mask:
        """What a segment holds, on the volume's grid."""
        return read_box(self.segmentation, segment or self.ring, self.volume, whole(SHAPE))

    def preview(self, preview_node: Any, segment: str = "refined 1") -> Mask:
        """What the preview shows."""
        return read_box(preview_node, segment, self.volume, whole(SHAPE))

    def untouched(self) -> bool:
        """Whether both segments are as they were made."""
        return bool((self.mask() == BROKEN).all() and (self.mask(self.other) == OTHER).all())


def names_of(scene: Any) -> list[str]:
    """Every node of the scene, to see that none is left behind."""
    return sorted(scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes()))


def our_threads() -> list[str]:
    """The library's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rNCA")]


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    """Let Qt work until something comes true; its value."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "it does not come true"
        slicer.app.processEvents()
        time.sleep(0.002)
    return value


class Relay:
    """Passes bytes between clients and a server, until told to spoil them.

    Attributes:
        spoil: called with each block that the server sends; what it gives is passed on, None ends the connection.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._there = parts.hostname or "", parts.port or 80
        self.spoil: Callable[[bytes], bytes | None] = lambda block: block
        self._socket = socket.create_server(("127.0.0.1", free_port()))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            far = socket.create_connection(self._there)
            threading.Thread(target=self._pass, args=(near, far, lambda block: block), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, lambda block: self.spoil(block)), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes | None]) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 14):
                changed = change(block)
                if changed is None:
                    break
                target.sendall(changed)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
