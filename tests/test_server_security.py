"""What a live server refuses: each weakness of a stock MONAI Label 0.8.5, tried on ours."""

import base64
import hashlib
import hmac
import io
import json
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("monailabel", reason="needs the extra `server`")

from cryptography.hazmat.primitives import serialization

import openid
from little import command, tree
from openid import KEY, OTHER, token
from serving import APP, Server, environment, free_port, make_studies, mask_file, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = make_studies(tmp_path_factory.mktemp("serve") / "studies")
    with running(studies, conf={"model": "filler", "upload_mib": 4, "voxels": 1_000_000}, plain=False) as server:
        yield server


def sentence(answer: httpx.Response) -> str:
    """The one sentence of a refusal."""
    told = answer.json()
    assert list(told)[-1] == "detail" and isinstance(told["detail"], str) and "Traceback" not in answer.text
    return str(told["detail"])


# --- where it listens, and who may come in --------------------------------------------------------------------------


def outside() -> str | None:
    """An address of this computer that is not the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(s.getsockname()[0])
    return None if found.startswith("127.") else found


def test_listens_on_this_computer_only_unless_told(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    listening = [
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port
    ]
    assert listening == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize("way", ["rnca serve", "start_server"])
def test_refuses_to_start_for_others_without_a_login(way: str, tmp_path: Path) -> None:
    tmp_path = tmp_path / "studies"
    tmp_path.mkdir()
    words = command("serve", "--studies", tmp_path, "--host", "0.0.0.0", "--port", free_port())
    if way == "start_server":
        words = [words[0], "-m", "monailabel.main", "start_server", "--app", str(APP), "--studies", str(tmp_path)]
        words += ["--host", "0.0.0.0", "--port", str(free_port())]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode != 0
    assert "without logging in" in done.stdout + done.stderr


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_what_a_proxy_forwards_needs_a_login(server: Server, header: str) -> None:
    answer = server.http.get("/info/", headers={header: "192.0.2.7"})
    assert answer.status_code == 403 and "need a login" in sentence(answer)


def test_other_host_name_is_refused(server: Server) -> None:
    answer = server.http.get("/info/", headers={"Host": "evil.example"})
    assert answer.status_code == 403


def test_web_pages_from_elsewhere_are_refused(server: Server) -> None:
    page = {"Origin": "https://evil.example"}
    for answer in (
        server.http.get("/info/", headers=page),
        server.http.options("/info/", headers={**page, "Access-Control-Request-Method": "GET"}),
    ):
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    own = server.http.get("/info/", headers={"Origin": server.url})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers
    log = server.log.read_text(encoding="utf-8")
    assert "web pages that may call: those of this server\n" in log and "Allow Origins" not in log


# --- switched off ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/reload"),
        ("GET", "/proxy/dicom/wado/studies"),
        ("GET", "/proxy/dicom/anything"),
        ("PUT", "/model/rnca_refine"),
        ("DELETE", "/model/rnca_refine"),
        ("GET", "/logs/"),
        ("GET", "/logs/gpu"),
        ("POST", "/batch/infer/rnca_refine"),
        ("POST", "/infer/wsi/rnca_refine"),
        ("GET", "/ohif/../../etc/passwd"),
    ],
)
def test_stock_route_is_gone(server: Server, method: str, path: str) -> None:
    answer = server.http.request(method, path)
    assert answer.status_code in (404, 405)
    assert "/docs" in sentence(answer)


# --- no way to other files ------------------------------------------------------------------------------------------


@pytest.fixture
def secret(server: Server) -> Path:
    """An image outside of the studies, which a client would like to read or replace."""
    path = server.studies.parent / "secret.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 4, 4), np.uint8)), str(path))
    return path


@pytest.mark.parametrize("name", ["{}", "../secret", "..%2Fsecret", "/etc/passwd", ".rnca", "a\x00b", "x" * 300, "."])
def test_image_id_leads_nowhere_else(server: Server, secret: Path, name: str) -> None:
    name = name.format(secret)
    mask = mask_file(server.studies.parent)
    before = tree(server.studies)
    for answer in (
        server.infer(mask=mask, image=name),
        server.http.get("/datastore/image", params={"image": name}),
        server.http.get("/datastore/image/info", params={"image": name}),
        server.http.get("/datastore/label", params={"label": name, "tag": "final"}),
        server.http.get("/datastore/label/history", params={"label": name}),
        server.http.put("/datastore/", params={"image": name}, files={"file": ("i.exe", b"x")}),
        server.http.put("/datastore/label", params={"image": name}, files={"label": (mask.name, mask.read_bytes())}),
        server.http.delete("/datastore/", params={"id": name}),
    ):
        assert answer.status_code in (200, 400, 404, 415), answer.text
        if answer.status_code == 200:
            assert answer.json() == []  # the history of what is not there
        else:
            sentence(answer)
    assert tree(server.studies) == before and secret.exists()


def test_image_is_not_written_outside_of_the_studies(server: Server) -> None:
    content = (server.studies / "ring0.nii.gz").read_bytes()
    for name in ("../evil", str(server.studies.parent / "evil"), "a/b", "..", ".hidden"):
        answer = server.http.put("/datastore/", params={"image": name}, files={"file": ("x.nii.gz", content)})
        assert answer.status_code == 400, answer.text
    assert not list(server.studies.parent.rglob("evil*"))


@pytest.mark.parametrize("tag", ["../evil-tag", "{studies}/evil-tag", "..", "a/b", ".x", ""])
def test_tag_is_not_a_path(server: Server, tag: str) -> None:
    tag = tag.format(studies=server.studies)
    mask = mask_file(server.studies.parent)
    before = set((server.studies / "labels").iterdir())
    answer = server.http.put(
        "/datastore/label", params={"image": "ring2", "tag": tag}, files={"label": (mask.name, mask.read_bytes())}
    )
    assert answer.status_code == (200 if tag == "" else 400)
    assert set((server.studies / "labels").iterdir()) - before <= {server.studies / "labels" / "final"}
    assert not list(server.studies.parent.rglob("evil-tag*"))


def test_params_cannot_name_a_file_as_image_or_label(server: Server, secret: Path) -> None:
    for params in ({"label": str(secret)}, {"image": str(secret)}, {"model": str(secret)}, {"rnca": {"x": 1}}):
        answer = server.infer(image="ring0", output="json", params=params)
        if set(params) & {"label", "model"}:
            assert answer.status_code == 400
        else:  # not looked at: the image is the one of the address
            assert answer.json()["topology"]["before"]["voxels"] != 64


def test_name_of_an_upload_is_not_used_as_a_path(server: Server) -> None:
    mask = mask_file(server.studies.parent)
    content = mask.read_bytes()
    for climb in ("../" * 1, "../" * 2, "../" * 3, "../" * 4, f"{server.studies}/"):
        answer = server.http.post(
            "/infer/rnca_refine",
            params={"image": "ring0", "output": "json"},
            files={"label": (f"{climb}evil-upload.nrrd", content)},
        )
        assert answer.status_code == 200
    assert not list(server.studies.parent.rglob("evil-upload*"))


@pytest.mark.parametrize("name", ["..", "../..", "%2e%2e", "x", "00000000-0000-0000-0000-000000000000"])
def test_session_id_is_not_a_path(server: Server, name: str) -> None:
    before = tree(server.studies)
    assert server.http.delete(f"/session/{name}").status_code in (404, 405)
    assert server.infer(session_id=name, mask=mask_file(server.studies.parent)).status_code == 404
    assert tree(server.studies) == before


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_too_large_request_is_413_announced_or_not(server: Server) -> None:
    content = b"0" * (5 << 20)
    files = {"file": ("i.nii.gz", content)}
    assert server.http.put("/datastore/", params={"image": "large"}, files=files).status_code == 413

    def drip() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="i.nii.gz"\r\n\r\n'
        for _ in range(6):
            yield b"0" * (1 << 20)
        yield b"\r\n--x--\r\n"

    try:
        answer = server.http.put(
            "/datastore/?image=large", content=drip(), headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.RemoteProtocolError):
        pass  # the connection was closed while more was being sent
    assert not list(server.studies.glob("large*"))


def test_small_file_that_announces_a_huge_volume_is_413(server: Server) -> None:
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 30000 30000 30000\nencoding: gzip\n\n"
    answer = server.http.post("/infer/rnca_refine?image=ring0", files={"label": ("m.nrrd", header + b"\x1f\x8b")})
    assert answer.status_code == 413 and "announces" in sentence(answer)


def test_zip_that_unpacks_to_too_much_is_413(server: Server) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.dcm", b"\0" * (8 << 20))
    answer = server.http.put("/session/", params={"uncompress": True}, files={"files": ("s.zip", buffer.getvalue())})
    assert answer.status_code == 413
    assert not list((server.state / "sessions").iterdir())


def test_params_of_a_megabyte_or_endless_depth_are_refused(server: Server) -> None:
    for text in ("[" * 100_000, '{"steps": ' * 5000, json.dumps({"x": "y" * (2 << 20)}), "nonsense", "[]", "1e999"):
        answer = server.http.post("/infer/rnca_refine?image=ring0", data={"params": text})
        assert answer.status_code == 400, text[:20]
        sentence(answer)


def test_failed_requests_leave_no_file(server: Server) -> None:
    before = set((server.state / "tmp").iterdir())
    for name, content in (("m.nrrd", b"no image"), ("m.nii.gz", b""), ("m.exe", b"MZ"), ("m", b"x" * 2000)):
        for part in ("label", "file"):
            answer = server.http.post("/infer/rnca_refine?image=ring0", files={part: (name, content)})
            assert answer.status_code in (400, 415), answer.text
            assert str(server.studies) not in sentence(answer)
    server.idle()
    assert set((server.state / "tmp").iterdir()) == before


# --- what is loaded, what is logged ---------------------------------------------------------------------------------


def test_model_that_the_registry_does_not_know_is_not_loaded(server: Server) -> None:
    home = server.state / "models" / "filler" / "1.0.0"
    archive = home / "filler.ts"
    kept = archive.read_bytes()
    try:
        archive.write_bytes(kept + b"more")
        answer = server.infer(image="ring0", params={"device": "auto", "model": "filler"})
        # what is in memory already may go on; what is read from disk must be the published bytes
        assert answer.status_code in (200, 400)
        archive.write_bytes(kept[:-10] + b"0123456789")
        with running(server.studies, conf={"model": "filler"}) as fresh:
            answer = fresh.infer(image="ring0")
            assert answer.status_code == 400 and "damaged or was replaced" in sentence(answer)
            assert "SHA-256" in sentence(answer)
    finally:
        archive.write_bytes(kept)


def test_log_names_no_patient(server: Server) -> None:
    content = (server.studies / "ring0.nii.gz").read_bytes()
    name = "DOE_JANE_19700101"
    mask = mask_file(server.studies.parent)
    assert (
        server.http.put("/datastore/", params={"image": name}, files={"file": ("x.nii.gz", content)}).status_code == 200
    )
    label = {"label": (f"{name}.nrrd", mask.read_bytes())}
    server.http.put("/datastore/label", params={"image": name}, files=label)
    server.infer(image=name)
    server.infer(image=name, params={"steps": name})
    server.infer(image=name + "x")
    server.http.get("/datastore/label", params={"label": name, "tag": "nothing"})
    server.http.post(f"/activelearning/{name}")
    server.http.delete("/datastore/", params={"id": name})
    time.sleep(0.5)
    assert "JANE" not in server.log.read_text(encoding="utf-8")
    assert any(line.get("image") == name for line in server.audit())  # the audit trail does, and is not a log


# --- login ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["realm", "key set"])
def issuer(request: pytest.FixtureRequest) -> Iterator[str]:
    with openid.issuer(request.param == "key set") as realm:
        yield realm


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, issuer: str) -> Iterator[Server]:
    """A server with login."""
    studies = make_studies(tmp_path_factory.mktemp("guarded") / "studies", 1)
    env = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": issuer}
    with running(studies, "--host", "0.0.0.0", conf={"model": "filler"}, env=env) as server:
        yield server


def test_roles_decide_what_a_user_may_do(guarded: Server) -> None:
    mask = mask_file(guarded.studies.parent)

    def save_label(headers: dict[str, str]) -> int:
        label = {"label": (mask.name, mask.read_bytes())}
        return guarded.http.put("/datastore/label", params={"image": "ring0"}, files=label, headers=headers).status_code

    def remove(headers: dict[str, str]) -> int:
        return guarded.http.delete(
            "/datastore/label", params={"id": "ring0", "tag": "final"}, headers=headers
        ).status_code

    assert guarded.http.get("/info/").status_code == 401
    for role, expected in (("nobody", 403), ("user", 200), ("annotator", 200), ("admin", 200)):
        assert guarded.http.get("/info/", headers=token(role)).status_code == expected
    assert [save_label(token(r)) for r in ("user", "annotator", "admin")] == [403, 200, 200]
    assert [remove(token(r)) for r in ("user", "annotator", "admin")] == [403, 403, 200]
    assert guarded.http.post("/train/rnca_refine", headers=token("annotator")).status_code == 403
    assert guarded.audit()[-1]["who"] == "reader"


def test_forged_tokens_are_401(guarded: Server) -> None:
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = {"exp": int(time.time()) + 60, "realm_access": {"roles": ["monailabel-admin"]}}

    def part(value: Any) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    symmetric = f"{signed}.{part(hmac.new(public, signed.encode(), hashlib.sha256).digest())}"
    forged = [
        token("admin", key=OTHER),
        token("admin", seconds=-60),
        {"Authorization": f"Bearer {part({'alg': 'none'})}.{part(claims)}."},
        {"Authorization": f"Bearer {symmetric}"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"Authorization": "Bearer " + "a." * 5000},
    ]
    for headers in forged:
        answer = guarded.http.get("/info/", headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        sentence(answer)


def test_every_route_needs_a_login(guarded: Server) -> None:
    free = ("/docs", "/openapi.json", "/auth", "/static", "/favicon.ico")
    for path, methods in guarded.http.get("/openapi.json").json()["paths"].items():
        if not path.startswith(free):
            for method in methods:
                url = path.replace("{", "").replace("}", "")
                assert guarded.http.request(method, url).status_code in (401, 400), (method, path)


def test_refuses_another_refinements_stop(guarded: Server) -> None:
    assert guarded.http.post("/rnca/refine/abc/stop", headers=token("user")).status_code == 404
