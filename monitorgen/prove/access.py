"""How a protected server is asked: credentials that stay in their files, TLS, and one GET with plain errors.

A secret is read when a request is made and goes nowhere but into that request: what is written or printed
names its file. Redirects are not followed, so that no credential reaches a host that the user did not name.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from monitorgen.catalog.transport import LIMIT, read_body
from monitorgen.errors import InputError, MonitorgenError

CREDENTIAL_OPTIONS = "--bearer-token-file, or --basic-auth-user with --basic-auth-password-file"
_USERINFO = re.compile(r"(//)[^\s]*@")
_REFUSED_BODY = 1 << 16  # bytes of an error page that are looked at


@dataclass(frozen=True, slots=True)
class Access:
    """What a server wants to see before it answers; secrets are named by their files.

    `tenant` goes into the header `X-Scope-OrgID` of questions to Mimir and its like; scrapes have none.
    Raises `InputError` for options that contradict each other.
    """

    bearer_token_file: Path | None = None
    basic_auth_user: str = ""
    basic_auth_password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    insecure: bool = False
    tenant: str = ""

    def __post_init__(self) -> None:
        if bool(self.basic_auth_user) != bool(self.basic_auth_password_file):
            raise InputError("--basic-auth-user and --basic-auth-password-file are given together")
        if self.bearer_token_file and self.basic_auth_user:
            raise InputError("a bearer token and basic auth exclude each other", hint="give one of them")
        if bool(self.cert_file) != bool(self.key_file):
            raise InputError("--cert-file and --key-file are given together")
        if self.insecure and self.ca_file:
            raise InputError("--insecure trusts every server, so --ca-file says nothing", hint="give one")

    @property
    def secret_file(self) -> Path | None:
        """The file that holds the token or password."""
        return self.bearer_token_file or self.basic_auth_password_file

    def check(self) -> None:
        """Raise `InputError` for a file that is missing, unreadable, empty or no certificate."""
        self.headers()
        self.tls_context()

    def headers(self) -> dict[str, str]:
        """The headers that carry the credentials. Raises `InputError` if their file cannot be used."""
        found = {"X-Scope-OrgID": self.tenant} if self.tenant else {}
        secret = self._secret()
        if self.bearer_token_file:
            found["Authorization"] = f"Bearer {secret}"
        elif self.basic_auth_user:
            pair = base64.b64encode(f"{self.basic_auth_user}:{secret}".encode()).decode()
            found["Authorization"] = f"Basic {pair}"
        return found

    def tls_context(self) -> ssl.SSLContext:
        """The TLS settings of a client. Raises `InputError` for files that are no certificates or keys."""
        context = _Named(ssl.PROTOCOL_TLS_CLIENT)
        context.server_name = self.server_name
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
            else:
                context.load_default_certs()
        except (OSError, ValueError) as error:
            raise _unusable(self.ca_file, "is no certificate of an authority", error) from error
        try:
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file, password="")
        except (OSError, ValueError) as error:
            raise _unusable(
                self.cert_file, f"and {self.key_file} are no certificate and key", error
            ) from error
        return context

    def redacted(self, text: str) -> str:
        """A text from elsewhere without our secret, should a server send it back."""
        try:
            secret = self._secret()
        except InputError:  # nothing could be sent, so nothing comes back
            return text
        if not secret:
            return text
        for form in (secret, self.headers()["Authorization"].partition(" ")[2]):
            text = text.replace(form, "***")
        return text

    def _secret(self) -> str:
        path = self.secret_file
        if path is None:
            return ""
        try:
            secret = path.read_text(encoding="utf-8").strip()  # as Prometheus does
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(path, "cannot be read", error) from error
        if not secret or not secret.isprintable():
            raise InputError(f"{path} holds no token or password", hint="one line of plain text is expected")
        return secret


NO_ACCESS = Access()


class _Named(ssl.SSLContext):
    """TLS settings that ask for, and check, a name of the user's choice instead of the address's."""

    server_name = ""

    def wrap_socket(self, sock: Any, *args: Any, server_hostname: Any = None, **others: Any) -> ssl.SSLSocket:
        """The socket under TLS; `http.client` gives the name as a keyword."""
        wanted = self.server_name or server_hostname
        return super().wrap_socket(sock, *args, server_hostname=wanted, **others)  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered with status 200; `seconds` until the whole body was there."""

    body: bytes
    headers: Mapping[str, str] = field(repr=False)
    seconds: float = 0.0


class NoPageError(MonitorgenError):
    """No page came: `status` is the HTTP status (0: none), `body` the start of what came instead."""

    def __init__(self, message: str, *, hint: str = "", status: int = 0, body: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.body = body


def get(
    url: str,
    access: Access = NO_ACCESS,
    *,
    timeout: float = 10.0,
    limit: int = LIMIT,
    headers: Mapping[str, str] | None = None,
    proxies: bool = False,
) -> Answer:
    """GET a page, as it is: no redirects, at most `limit` bytes, `timeout` seconds for the whole answer.

    `proxies` heeds the environment's proxies; Prometheus heeds none when it scrapes.
    Raises `NoPageError` if no page comes, `InputError` if it is too large or a file of `access` is
    unusable; neither shows a secret.
    """
    handlers: list[urllib.request.BaseHandler] = [_Stay()]
    if not proxies:
        handlers.append(urllib.request.ProxyHandler({}))
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=access.tls_context()))
    request = urllib.request.Request(url, headers={"User-Agent": "monitorgen", **(headers or {})})
    for name, value in access.headers().items():
        request.add_unredirected_header(name, value)
    began = time.monotonic()
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            body = read_body(answer, began + timeout, limit, shown(url))
            promised = answer.headers.get("Content-Length", "")
            if promised.isdigit() and len(body) < int(promised):
                raise NoPageError(f"{shown(url)} ends its page early: {len(body)} of {promised} bytes")
            return Answer(body, dict(answer.headers.items()), time.monotonic() - began)
    except urllib.error.HTTPError as error:
        with error:
            raise _by_status(url, error, access) from error
    except urllib.error.URLError as error:
        raise _by_cause(url, error.reason, timeout) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _by_cause(url, error, timeout) from error


def shown(url: str) -> str:
    """An address as it may be shown: without user, password and query."""
    return _USERINFO.sub(r"\1", url).partition("?")[0].partition("#")[0]


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the answer is an error that says where it leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _by_status(url: str, error: urllib.error.HTTPError, access: Access) -> NoPageError:
    code, place = error.code, shown(url)
    said = f"{code} {http.client.responses.get(code, '')}".rstrip()
    body = _start_of(error)
    if 300 <= code < 400:
        to = shown(urllib.parse.urljoin(url, error.headers.get("Location") or ""))
        if to == place:
            return NoPageError(
                f"{place} redirects to itself ({code})", status=code, hint="it never ends in a page"
            )
        hint = "give that address: redirects are not followed, so that credentials stay with the host named"
        return NoPageError(f"{place} redirects to {access.redacted(to)} ({code})", status=code, hint=hint)
    if code in (401, 403):
        if access.secret_file:
            return NoPageError(
                f"{place} refuses the credentials of {access.secret_file} ({said})", status=code
            )
        return NoPageError(
            f"{place} asks for credentials ({said})", hint=f"give {CREDENTIAL_OPTIONS}", status=code
        )
    hints = {404: "the path is usually /metrics", 503: "is the server still starting?"}
    return NoPageError(f"{place} answers {said}", hint=hints.get(code, ""), status=code, body=body)


def _start_of(answer: IO[bytes] | None) -> bytes:
    try:
        return answer.read(_REFUSED_BODY) if answer else b""
    except (OSError, http.client.HTTPException):
        return b""


def _by_cause(url: str, cause: object, timeout: float) -> NoPageError:
    """What a failed connection means for the person who gave the address."""
    place, host = shown(url), urllib.parse.urlsplit(url).hostname
    match cause:
        case TimeoutError():
            return NoPageError(
                f"{place} did not answer within {timeout:g} s", hint="is the server overloaded?"
            )
        case ConnectionRefusedError():
            return NoPageError(
                f"{place}: nothing listens there (connection refused)", hint="is the server up?"
            )
        case socket.gaierror():
            return NoPageError(f"{place}: the name {host} is not known", hint="is it spelled right?")
        case ssl.SSLCertVerificationError():
            name = cause.verify_code in (62, 64)  # the name, the address: see OpenSSL's x509_vfy.h
            hint = "--server-name NAME" if name else "--ca-file FILE says whom to trust"
            said = cause.verify_message.rstrip(".")
            return NoPageError(f"{place}: its certificate is refused: {said}", hint=hint)
        case ssl.SSLError():
            said = (cause.reason or str(cause)).replace("_", " ").lower()
            plain = "wrong version" in said or "record layer" in said
            hint = (
                "it seems to speak plain http: write http://" if plain else "see --cert-file and --key-file"
            )
            return NoPageError(f"{place}: no TLS connection comes about: {said}", hint=hint)
        case http.client.RemoteDisconnected() | ConnectionResetError() | http.client.BadStatusLine():
            return NoPageError(f"{place} does not answer in HTTP", hint="does it want https:// ?")
        case http.client.IncompleteRead():
            return NoPageError(f"{place} ends its page early")
    said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return NoPageError(f"{place} cannot be asked: {said}")


def _unusable(path: Path | None, what: str, error: Exception) -> InputError:
    said = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, ssl.SSLError):
        said = (error.reason or "not in PEM format").replace("_", " ").lower()
    return InputError(f"{path} {what}: {said}")
