"""Who is asking: OpenID Connect tokens, checked as they should be, and roles that contain each other.

MONAI Label 0.8.5 decodes a token without naming an algorithm, which its library refuses, so that every login ends in
401. This takes that function's place. Asymmetric algorithms only: with a symmetric one the public key would be the
password.
"""

import threading
import time
from typing import Any

import jwt
import requests
from fastapi import Depends, Request
from monailabel.config import settings
from monailabel.endpoints.user import auth as stock

from .refusals import Refusal

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
AGAIN = 60.0  # seconds before the issuer is asked for its keys again
_lock = threading.Lock()
_keys: dict[str, Any] = {"when": -AGAIN, "by_id": {}, "any": []}

User = stock.User


def _fetch() -> None:
    """The issuer's keys: the realm's own description (Keycloak), and the key set of its OpenID configuration."""
    realm = settings.MONAI_LABEL_AUTH_REALM_URI.rstrip("/")
    timeout, by_id, others = min(settings.MONAI_LABEL_AUTH_TIMEOUT, 10), {}, []
    reached = False
    for read in (_realm_key, _key_set):
        try:
            found, rest = read(realm, timeout)
            by_id |= found
            others += rest
            reached = True
        except (requests.RequestException, ValueError, KeyError, TypeError, jwt.PyJWTError):
            continue
    if not reached:
        raise Refusal(503, "the OpenID issuer cannot be reached, so nobody can be let in: try again later.", 30)
    _keys.update(when=time.monotonic(), by_id=by_id, any=others)


def _realm_key(realm: str, timeout: int) -> tuple[dict[str, Any], list[Any]]:
    found = requests.get(realm, timeout=timeout)
    found.raise_for_status()
    pem = f"-----BEGIN PUBLIC KEY-----\n{found.json()['public_key']}\n-----END PUBLIC KEY-----"
    return {}, [pem]


def _key_set(realm: str, timeout: int) -> tuple[dict[str, Any], list[Any]]:
    about = requests.get(f"{realm}/.well-known/openid-configuration", timeout=timeout)
    about.raise_for_status()
    keys = requests.get(about.json()["jwks_uri"], timeout=timeout)
    keys.raise_for_status()
    known = jwt.PyJWKSet.from_dict(keys.json()).keys
    return {k.key_id: k.key for k in known if k.key_id}, [k.key for k in known if not k.key_id]


def _candidates(token: str, again: bool) -> list[Any]:
    with _lock:
        old = time.monotonic() - _keys["when"]
        if old > 3600 or not (_keys["by_id"] or _keys["any"]) or (again and old > AGAIN):
            _fetch()
    named = _keys["by_id"].get(jwt.get_unverified_header(token).get("kid"))
    return ([named] if named is not None else []) + list(_keys["any"])


def _payload(token: str) -> dict[str, Any]:
    options: Any = {"verify_signature": True, "verify_aud": False, "require": ["exp"]}
    for again in (False, True):  # the second time with fresh keys, for an issuer that has changed them
        for key in _candidates(token, again):
            try:
                return dict(jwt.decode(token, key, algorithms=ALGORITHMS, options=options, leeway=10))
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.InvalidAlgorithmError, TypeError, ValueError):
                continue
    raise jwt.InvalidSignatureError


def current_user(request: Request) -> User:
    """The user of a request; without login switched on, everybody on this computer is the administrator."""
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        return stock.DEFAULT_USER
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Refusal(401, "this needs a login: send a token of the OpenID realm as Authorization: Bearer TOKEN.")
    try:
        payload = _payload(token.strip())
    except jwt.ExpiredSignatureError:
        raise Refusal(401, "the login has expired: log in again.") from None
    except (jwt.PyJWTError, ValueError, KeyError, TypeError):
        raise Refusal(401, "the token is not one of the OpenID realm of this server: log in again.") from None
    roles: Any = payload
    for part in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(part) if isinstance(roles, dict) else None
    name = payload.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME) or payload.get("sub") or "unnamed"
    return User(username=str(name), roles=[str(r) for r in roles] if isinstance(roles, list) else [])


class Needs:
    """A dependency: the user, who must have this role or a higher one."""

    def __init__(self, role: str) -> None:
        order = ["USER", "ANNOTATOR", "REVIEWER", "ADMIN"]
        self.roles = {getattr(settings, f"MONAI_LABEL_AUTH_ROLE_{r}") for r in order[order.index(role) :]}
        self.role = getattr(settings, f"MONAI_LABEL_AUTH_ROLE_{role}")

    def __call__(self, user: User = Depends(current_user)) -> User:
        if settings.MONAI_LABEL_AUTH_ENABLE and not self.roles & set(user.roles):
            raise Refusal(403, f"this needs the role {self.role}: ask an administrator of the realm for it.")
        return user


as_user, as_annotator, as_admin = Needs("USER"), Needs("ANNOTATOR"), Needs("ADMIN")
