"""The server's HTTP interface: one method a thing it can do; blocks, so it belongs into a worker thread.

TLS certificates are always verified. Errors become one sentence for the user (errors.py).
"""

import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import requests

from .errors import Busy, LoginNeeded, RefineError, Unreachable

SERVER_NAME = "rNCA Refine"
OLDEST, TOO_NEW = (0, 1), (2, 0)
"""Versions of the server that this client speaks with: from OLDEST on, below TOO_NEW."""

BLOCK = 1 << 16


def is_local(address: str) -> bool:
    """Whether what is sent there stays on this computer."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tidy(address: str) -> str:
    """An address as users type it: http:// where nothing is said, no slash at the end."""
    address = address.strip().rstrip("/")
    if not address:
        raise RefineError("No server is given: type its address, such as http://127.0.0.1:8000.")
    return address if "://" in address else f"http://{address}"


class Upload:
    """The body of a multipart request, read in blocks so that it can be cut off and its progress told."""

    def __init__(self, body: bytes, told: Callable[[float], None] | None, ended: threading.Event | None) -> None:
        self._view, self._place = memoryview(body), 0
        self._told, self._ended = told, ended

    def __len__(self) -> int:
        return len(self._view)

    def read(self, count: int = -1) -> bytes:
        if self._ended is not None and self._ended.is_set():
            raise ConnectionAbortedError
        count = max(count, BLOCK) if count >= 0 else len(self._view)
        block = self._view[self._place : self._place + count]
        self._place += len(block)
        if self._told and len(self._view):
            self._told(self._place / len(self._view))
        return bytes(block)


class Client:
    """One server. Thread-safe as far as the calls are; each thread's connection is its own.

    Args:
        address: 'http://host:port', or https.
        token: of an OpenID login, if the server wants one.
        certificates: a file of certificate authorities to trust besides the usual ones, such as a hospital's own.
        timeout: seconds to wait for a connection.
    """

    def __init__(self, address: str, token: str = "", certificates: str = "", timeout: float = 5.0) -> None:
        self.address = tidy(address)
        self.token, self._certificates, self._timeout = token, certificates, timeout
        self._local = threading.local()

    def _http(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.trust_env = not is_local(self.address)  # a proxy has no business between this computer and itself
            session.verify = self._certificates or True
            self._local.session = session
        found: requests.Session = self._local.session
        found.headers["Authorization"] = f"Bearer {self.token}" if self.token else None
        return found

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Turn what requests raises into a sentence."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise Unreachable(
                f"The certificate of {self.address} is not trusted: check the address, or name the file of your"
                " hospital's certificate authority in the server settings."
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise Unreachable(
                f"'{self.address}' is not an address: expected something like http://127.0.0.1:8000."
            ) from error
        except requests.exceptions.ConnectTimeout as error:
            raise Unreachable(f"{self.address} does not answer: check the address and your network.") from error
        except (requests.exceptions.RequestException, ConnectionError, OSError) as error:
            raise Unreachable(
                f"There is no connection to {self.address}: check that the server runs (rnca serve) and the address."
            ) from error

    def _ask(self, method: str, path: str, timeout: float = 60.0, **more: Any) -> requests.Response:
        with self._answers():
            answer = self._http().request(method, self.address + path, timeout=(self._timeout, timeout), **more)
        check(answer, self.address)
        return answer

    def _json(self, method: str, path: str, **more: Any) -> Any:
        answer = self._ask(method, path, **more)
        try:
            return answer.json()
        except ValueError as error:
            raise Unreachable(not_ours(self.address)) from error

    # ---- what the server is

    def info(self) -> dict[str, Any]:
        """What the server offers; checks that it is one of ours and of a version that this client speaks with."""
        try:
            found = self._json("GET", "/info/", timeout=15)
        except RefineError as error:
            if getattr(error, "status", 0) in (404, 405):
                raise Unreachable(not_ours(self.address)) from error
            raise
        if not isinstance(found, dict) or "rnca_refine" not in (found.get("models") or {}):
            raise Unreachable(
                f"{self.address} has no rNCA Refine app: start it with `rnca serve`, or check the address."
            )
        version = tuple(int(p) for p in str(found.get("version", "0")).split(".")[:2] if p.isdigit())
        if not OLDEST <= version < TOO_NEW:
            raise Unreachable(
                f"The server has version {found.get('version')}, this extension works with"
                f" {'.'.join(map(str, OLDEST))} to below {'.'.join(map(str, TOO_NEW))}: update the older of the two."
            )
        return found

    def log_in(self, user: str, password: str) -> None:
        """Exchange a password for a token, which is kept in memory only."""
        form = {"username": user, "password": password, "grant_type": "password"}
        with self._answers():
            answer = self._http().post(self.address + "/auth/token", data=form, timeout=(self._timeout, 30))
        if answer.status_code in (400, 401, 403):
            raise LoginNeeded("The server did not accept this user and password: check both.")
        check(answer, self.address)
        try:
            self.token = str(answer.json()["access_token"])
        except (ValueError, KeyError, TypeError) as error:
            raise LoginNeeded("This server has no login with a password: ask for a token.") from error

    def status(self) -> dict[str, Any]:
        """How busy it is, and which model it uses where none is named."""
        return dict(self._json("GET", "/rnca/status", timeout=15))

    def models(self) -> dict[str, list[dict[str, Any]]]:
        """Every version of every model, by name, oldest first."""
        return dict(self._json("GET", "/rnca/models"))

    def activate(self, name: str, version: str) -> dict[str, Any]:
        """Make a version the one that is used."""
        return dict(self._json("POST", f"/rnca/models/{name}/activate", params={"version": version}))

    # ---- refinement

    def open_session(
        self, image: bytes, told: Callable[[float], None] | None = None, ended: threading.Event | None = None
    ) -> str:
        """Upload an image (NRRD) for a while; gives the session's id."""
        body, kind = multipart({}, {"files": ("image.nrrd", image)})
        headers = {"Content-Type": kind}
        found = self._json("PUT", "/session/", data=Upload(body, told, ended), headers=headers, timeout=600)
        return str(found["session_id"])

    def close_session(self, session: str) -> None:
        """End it; one that is gone already is fine."""
        with suppress(RefineError):
            self._ask("DELETE", f"/session/{session}", timeout=5)

    def stream(self, mask: bytes, params: Mapping[str, Any], **target: str) -> "Stream":
        """Begin a live refinement; `target` is `session_id` or `image`."""
        body, kind = multipart({"params": json.dumps(params)}, {"label": ("mask.nrrd", mask)})
        with self._answers():
            answer = self._http().post(
                self.address + "/rnca/refine",
                params=target,
                data=Upload(body, None, None),
                headers={"Content-Type": kind},
                stream=True,
                timeout=(self._timeout, 600),
            )
        check(answer, self.address)
        return Stream(answer, self._answers)

    def confidence(self, mask: bytes, params: Mapping[str, Any], **target: str) -> dict[str, Any]:
        """How sure the model is of each voxel (packed bytes in a box); see the server's API."""
        body, kind = multipart({"params": json.dumps(params)}, {"label": ("mask.nrrd", mask)})
        return dict(
            self._json(
                "POST", "/rnca/confidence", params=target, data=body, headers={"Content-Type": kind}, timeout=600
            )
        )

    # ---- the datastore

    def has_image(self, image: str) -> bool:
        """Whether the datastore has an image of this id."""
        try:
            self._ask("HEAD", "/datastore/image", params={"image": image}, timeout=15)
        except RefineError as error:
            if getattr(error, "status", 0) == 404:
                return False
            raise
        return True

    def add_image(self, image: str, content: bytes) -> None:
        """Put an image (NRRD) into the datastore."""
        body, kind = multipart({}, {"file": ("image.nrrd", content)})
        self._ask("PUT", "/datastore/", params={"image": image}, data=body, headers={"Content-Type": kind}, timeout=600)

    def save_label(self, image: str, tag: str, content: bytes, info: Mapping[str, Any]) -> None:
        """Save a mask (NRRD) of an image under a tag."""
        body, kind = multipart({"params": json.dumps(info)}, {"label": ("mask.nrrd", content)})
        where = {"image": image, "tag": tag}
        self._ask("PUT", "/datastore/label", params=where, data=body, headers={"Content-Type": kind}, timeout=600)

    def next_case(self) -> dict[str, Any]:
        """The image whose mask needs work most; empty if none does."""
        return dict(self._json("POST", "/activelearning/most_broken", json={}, timeout=600) or {})

    def download(self, kind: str, **which: str) -> tuple[str, bytes]:
        """(file name, content) of an 'image' (image=ID) or a 'label' (label=ID, tag=TAG)."""
        answer = self._ask("GET", f"/datastore/{kind}", params=which, timeout=600)
        said = answer.headers.get("content-disposition", "")
        name = said.rpartition("filename=")[2].strip('"; ') or f"{kind}.nii.gz"
        return name.replace("\\", "/").rsplit("/", 1)[-1], answer.content

    # ---- training

    def train(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Start fine-tuning on the corrections."""
        return dict(self._json("POST", "/train/rnca_refine", json=dict(params)))

    def training(self) -> dict[str, Any]:
        """How it goes: status, progress, result, gate."""
        try:
            return dict(self._json("GET", "/train/") or {})
        except RefineError as error:
            if getattr(error, "status", 0) == 404:  # none since the server started
                return {}
            raise

    def stop_training(self) -> None:
        """End it; it can be resumed."""
        self._ask("DELETE", "/train/", timeout=60)


class Stream:
    """The lines of one live refinement."""

    def __init__(self, answer: requests.Response, answers: Callable[[], Any]) -> None:
        self._answer, self._answers = answer, answers
        self._cut = False

    def lines(self) -> Iterator[bytes]:
        """Lines as they come. Unreachable if the connection ends in the middle; nothing after `cut`."""
        try:
            with self._answers():
                yield from self._answer.iter_lines(chunk_size=BLOCK)
        except Unreachable as error:
            if not self._cut:
                raise Unreachable(
                    "The connection to the server broke off; the segment is as it was. Try again when it is back."
                ) from error
        except (AttributeError, ValueError):  # closed under the reader's hands
            if not self._cut:
                raise
        finally:
            self._answer.close()

    def cut(self) -> None:
        """Shut the connection down, from any thread: the server notices and ends the work within a step."""
        self._cut = True
        found = _socket(self._answer)
        if found is not None:
            with suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)


def _socket(answer: requests.Response) -> socket.socket | None:
    """The socket below a response: in the connection, or where http.client keeps it when that is closed at the end."""
    raw = answer.raw
    found = getattr(getattr(raw, "_connection", None), "sock", None)
    if found is None:
        below = getattr(getattr(getattr(raw, "_fp", None), "fp", None), "raw", None)
        found = getattr(below, "_sock", None)
    return found


def multipart(fields: Mapping[str, str], files: Mapping[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    """(body, content type) of a multipart form."""
    prepared = requests.Request("POST", "http://localhost", data=fields, files=files).prepare()
    assert isinstance(prepared.body, bytes)
    return prepared.body, str(prepared.headers["Content-Type"])


def check(answer: requests.Response, address: str) -> None:
    """Raise what a refused request means."""
    if answer.status_code < 400:
        return
    said = _sentence(answer)
    if answer.status_code == 401:
        raise LoginNeeded(said or "This server wants to know who you are: log in.")
    if answer.status_code == 429:
        seconds = float(answer.headers.get("Retry-After") or 5)
        raise Busy(said or f"The server is busy: try again in {seconds:.0f} seconds.", seconds)
    if answer.status_code in (404, 405) and not said:
        error: RefineError = Unreachable(not_ours(address))
    elif answer.status_code == 403:
        error = RefineError(said or "You are logged in, but may not do this: ask the server's administrator.")
    elif answer.status_code in (502, 503, 504) and not said:
        error = Unreachable(f"The server behind {address} does not answer: ask its administrator.")
    else:
        error = RefineError(said or f"The server refused this (HTTP {answer.status_code}): look at its log.")
    error.status = answer.status_code  # type: ignore[attr-defined]
    raise error


def not_ours(address: str) -> str:
    """The sentence for a server that is another one."""
    return f"{address} is not an rNCA server: check the address and port."


def _sentence(answer: requests.Response) -> str:
    """The server's own explanation, in its JSON."""
    try:
        said = answer.json()
    except ValueError:
        return ""
    found = said.get("message") or said.get("detail") if isinstance(said, dict) else None
    if not isinstance(found, str) or not found:
        return ""
    return found[0].upper() + found[1:]
