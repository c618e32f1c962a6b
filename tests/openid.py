"""An OpenID issuer for tests, and the tokens that it would have signed."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


@contextmanager
def issuer(as_key_set: bool) -> Iterator[str]:
    """The address of a realm that publishes its key: as Keycloak's realms do, or as a key set."""
    public = KEY.public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    numbers = public.public_numbers()
    jwk = {"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256", "n": _number(numbers.n), "e": _number(numbers.e)}

    class Issuer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            realm = f"http://127.0.0.1:{self.server.server_port}/realms/lab"  # type: ignore[attr-defined]
            pages: dict[str, Any] = {"/realms/lab": {"public_key": base64.b64encode(der).decode()}}
            if as_key_set:
                pages = {
                    "/realms/lab/.well-known/openid-configuration": {"issuer": realm, "jwks_uri": realm + "/certs"},
                    "/realms/lab/certs": {"keys": [jwk]},
                }
            body = json.dumps(pages.get(self.path, {})).encode()
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Issuer)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/realms/lab"
    finally:
        http.shutdown()


def token(*roles: str, key: Any = KEY, algorithm: str = "RS256", seconds: int = 60) -> dict[str, str]:
    claims = {
        "preferred_username": "reader",
        "exp": int(time.time()) + seconds,
        "realm_access": {"roles": [f"monailabel-{role}" for role in roles]},
    }
    return {"Authorization": f"Bearer {jwt.encode(claims, key, algorithm, headers={'kid': 'one'})}"}
