"""Requests that no client should send, drawn at random: for the tests a few, for `benchmarks/server.py` thousands."""

import json
from typing import Any

import httpx
from hypothesis import strategies as st

from serving import Server

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(-5, 200), max_size=8),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
NAMES = ("model", "steps", "label", "roi", "device", "every", "label_tag", "result_extension", "result_dtype")
NAMES = (*NAMES, "label_info", "selected_label_name", "image", "rnca")
PARAMS = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=5).map(lambda values: json.dumps({"steps": 2, **values})),
    st.text(max_size=30),
    st.binary(max_size=30).map(lambda b: b.decode("latin-1")),
)
IDS = st.one_of(st.sampled_from(("ring0", "ring1", "", "../ring0", "/etc/passwd")), st.text(max_size=30))
ADDRESSES = ("/infer/rnca_refine", "/infer/rnca_refine_edit", "/rnca/refine")


@st.composite
def uploads(draw: st.DrawFn, mask: bytes) -> tuple[str, bytes]:
    """A file to upload: a mask that is whole, cut off, changed in a few bytes, or none at all; any name."""
    content = draw(st.sampled_from((mask, b"", b"NRRD0004\n", b"\x1f\x8b\x08\0", bytes(400))))
    kind = draw(st.sampled_from(("whole", "cut", "changed")))
    if kind == "cut":
        content = content[: draw(st.integers(0, max(len(content) - 1, 0)))]
    if kind == "changed" and content:
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 6))):
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        content = bytes(changed)
    suffix = draw(st.sampled_from((".nrrd", ".nii.gz", ".nii", ".mha", ".png", ".zip", ".dcm", ".exe", "")))
    return draw(st.sampled_from(("mask", "../m", "/m", "m" * 300, "ä", ".."))) + suffix, content


@st.composite
def requests(draw: st.DrawFn, mask: bytes) -> dict[str, Any]:
    """Arguments for `send`."""
    parts = {}
    for part in ("label", "file"):
        if draw(st.sampled_from((True, False) if part == "label" else (False, False, True))):
            parts[part] = draw(uploads(mask))
    query = {"image": draw(IDS)}
    if draw(st.booleans()):
        query["session_id"] = draw(st.text(max_size=10))
    return {"path": draw(st.sampled_from(ADDRESSES)), "query": query, "params": draw(PARAMS), "files": parts}


def send(server: Server, request: dict[str, Any]) -> httpx.Response:
    """Send one drawn request."""
    return server.http.post(
        request["path"],
        params={k: v.encode("utf-8", "replace").decode() for k, v in request["query"].items()},
        data={"params": request["params"].encode("utf-8", "replace").decode()},
        files=request["files"] or None,
    )


def check(answer: httpx.Response) -> None:
    """No 5xx; a refusal is one sentence; a stream that began ends with done or error."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        told = answer.json()
        assert isinstance(told.get("detail"), str) and 10 < len(told["detail"]) < 1000, answer.text
    elif answer.headers["content-type"] == "application/x-ndjson":
        last = json.loads(answer.text.splitlines()[-1])
        assert last["event"] == "done" or (last["event"] == "error" and last["status"] < 500), last
