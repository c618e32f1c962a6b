"""The server behind nginx with TLS, configured as the how-to says."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra `server`")

import openid
from little import save
from serving import ROOT, Server, free_port, make_studies, running

CONF = ROOT / "docs" / "how-to" / "nginx" / "rnca.conf"
NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)


def test_how_to_shows_the_configuration_that_is_tested() -> None:
    assert CONF.read_text(encoding="utf-8") in (ROOT / "docs" / "how-to" / "server.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server with login, and the address of nginx before it."""
    if NGINX is None or shutil.which("openssl") is None:
        pytest.skip("needs nginx and openssl")
    folder = tmp_path_factory.mktemp("proxy")
    studies = make_studies(folder / "studies", 1)
    with openid.issuer(False) as realm:
        env = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": realm}
        with running(studies, conf={"model": "filler"}, env=env) as server, nginx(folder, server.url) as address:
            yield server, address


class nginx:
    """nginx with the how-to's file, other ports and a certificate of its own."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.folder, self.port = folder, free_port()
        names = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *subject],
            check=True,
            capture_output=True,
        )
        text = CONF.read_text(encoding="utf-8")
        for old, new in (
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("rnca.example.org", "localhost"),
            ("/etc/ssl/certs/rnca.pem", str(folder / "cert.pem")),
            ("/etc/ssl/private/rnca.key", str(folder / "key.pem")),
            ("http://127.0.0.1:8000", upstream),
        ):
            assert old in text
            text = text.replace(old, new)
        temp = "\n".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        head = f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/nginx.log; events {{}}\n"
        (folder / "nginx.conf").write_text(f"{head}http {{ access_log off; {temp}\n{text}\n}}\n", encoding="utf-8")

    def __enter__(self) -> str:
        self.process = subprocess.Popen(
            [str(NGINX), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = f"https://localhost:{self.port}"
        for _ in range(100):
            try:
                httpx.get(address, verify=str(self.folder / "cert.pem"))
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        return address

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)


def test_steps_come_through_while_the_refinement_runs(proxied: tuple[Server, str]) -> None:
    server, address = proxied
    block = np.zeros((8, 120, 120), np.int16)
    block[:, 20:100, 20:100] = 100
    save(server.studies / "big.nii.gz", block)
    start = (block > 0).astype(np.uint8)
    start[:, 50:60] = 0
    mask = save(server.studies.parent / "big-mask.nrrd", start)
    client = httpx.Client(base_url=address, verify=str(server.studies.parent / "cert.pem"), timeout=300)
    assert client.get("/info/").status_code == 401
    assert client.get("/info/", headers=openid.token("user")).status_code == 200
    with client.stream(
        "POST",
        "/rnca/refine",
        params={"image": "big"},
        data={"params": json.dumps({"steps": 1000})},
        files={"label": (mask.name, mask.read_bytes())},
        headers=openid.token("user"),
    ) as answer:
        lines = answer.iter_lines()
        first = [json.loads(next(lines)) for _ in range(4)]
        assert [event["event"] for event in first] == ["start", "step", "step", "step"]
        busy = httpx.get(f"{server.url}/rnca/status", headers=openid.token("user"), timeout=60).json()
        assert busy["refinements"]["taken"] == 1  # the steps came while it runs, not all at its end
        stopped = client.post(f"/rnca/refine/{first[0]['id']}/stop", headers=openid.token("user"))
        assert stopped.status_code == 200
        assert json.loads(list(lines)[-1])["reason"] == "stopped"
