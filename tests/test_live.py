"""The live stream as its client reads it: steps that add up, gaps, and what must not be taken for a result."""

import base64
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from little import broken, ring
from rnca import live
from rnca.errors import InputError
from rnca.live import Server, read_steps

TRUTH, START = ring(), broken(ring())
BOX = [[0, 24], [0, 26]]


def packed(mask):
    return base64.b64encode(zlib.compress(np.packbits(mask.ravel()).tobytes())).decode()


def event(kind, **values):
    return json.dumps({"event": kind, **values})


def start(**values):
    return event("start", **{"bbox": BOX, "steps": 2, **values})


def step(index, flips):
    return event("step", step=index, changed=int(flips.sum()), bbox=BOX, delta=packed(flips))


def done(index, mask, **values):
    digest = hashlib.sha256(np.packbits(mask.ravel()).tobytes()).hexdigest()
    return event("done", **{"step": index, "seconds": 1.5, "mask": packed(mask), "sha256": digest, **values})


def half():
    """The ring's gap closed, the island still there."""
    return START | TRUTH


def read(*lines, mask=None):
    return list(read_steps(START.astype(np.uint8) * 7 if mask is None else mask, iter(lines)))


def test_changes_add_up_and_the_last_step_tells_the_end():
    first, last = read(start(), step(1, START ^ half()), step(2, half() ^ TRUTH), done(2, TRUTH))
    assert (first.index, first.steps, first.changed, first.reason) == (1, 2, (START ^ half()).sum(), None)
    assert (last.index, last.reason, last.seconds, last.label) == (2, "steps", 1.5, 7)
    assert (first.mask == half() * 7).all() and (last.mask == TRUTH * 7).all()


def test_a_mask_of_sitk_keeps_its_geometry():
    mask = sitk.GetImageFromArray(START.astype(np.uint8))
    mask.SetSpacing((0.5, 2.0))
    (last,) = read(start(), step(2, START ^ TRUTH), done(2, TRUTH), mask=mask)
    assert last.mask.GetSpacing() == (0.5, 2.0) and (sitk.GetArrayFromImage(last.mask) == TRUTH).all()


def test_steps_that_were_left_out_are_in_the_result():
    first, last = read(start(), step(1, START ^ half()), done(2, TRUTH))
    assert (first.index, last.index, last.reason) == (1, 2, "steps")
    assert last.changed == (half() ^ TRUTH).sum() and (last.mask == TRUTH * 7).all()


def test_an_empty_mask_is_one_step_that_says_so():
    (last,) = read(start(bbox=None), done(0, np.zeros(0, bool)), mask=np.zeros((24, 26), np.uint8))
    assert (last.index, last.reason) == (0, "empty") and not last.mask.any()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([event("error", status=400, message="label 5 is not there.")], "the server says: label 5 is not there"),
        ([json.dumps({"detail": "the server is busy."})], "the server says: the server is busy"),
        ([start(), step(1, START ^ half())], "without a result"),
        ([start(), step(2, START ^ half()), done(2, TRUTH)], "does not add up"),
        ([start(), step(2, START ^ TRUTH), done(2, TRUTH, sha256="0" * 64)], "does not add up"),
    ],
    ids=["refused", "busy", "cut off", "wrong sum", "wrong digest"],
)
def test_what_is_no_result_is_an_error(lines, sentence):
    with pytest.raises(InputError, match=sentence):
        read(*lines)


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("httpx", reason="needs the extra `server`")
    monkeypatch.setattr(live, "RUN", "raise SystemExit('no such luck')")
    with pytest.raises(InputError, match="did not start: no such luck"), Server.start(tmp_path, "ring-2d"):
        pass
