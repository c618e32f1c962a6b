"""Random requests: no 5xx, no hang, no file left behind. Thousands of them: python benchmarks/server.py --only fuzz."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("monailabel", reason="needs the extra `server`")

import fuzzing
from little import tree
from serving import Server, make_studies, mask_file, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = make_studies(tmp_path_factory.mktemp("serve") / "studies", 2)
    with running(studies, conf={"model": "filler", "voxels": 1_000_000}) as server:
        yield server


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_random_requests_are_answered(server: Server, data: Any) -> None:
    mask = mask_file(server.studies.parent).read_bytes()
    fuzzing.check(fuzzing.send(server, data.draw(fuzzing.requests(mask))))


def test_nothing_is_left_behind(server: Server) -> None:
    server.idle()
    images = {p.name for p in server.studies.iterdir() if p.is_file()}
    assert images <= {"ring0.nii.gz", "ring1.nii.gz", "datastore_v2.json", ".lock"}
    assert tree(server.state / "tmp") == {} and list((server.state / "sessions").iterdir()) == []
