"""Who may call, and how much: API keys kept as hashes, limits for each.

A key is a random string that only its owner has; here lies its sha256, so a file that leaks opens
nothing. (A salt would add nothing: keys are not passwords, no dictionary holds them.)
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from deployments.config import AccessSection
from deployments.http_errors import TooManyRequests, Unauthorized
from pipeline.errors import InvalidRequest

_LINE = re.compile(r"([0-9a-f]{64})(?:\s+(\S.*))?")
_MINUTE_S = 60.0


@dataclass(slots=True, eq=False)
class Caller:
    """A key's owner, and what is counted for it.

    id: what belongs to it is kept under this; of the key itself, so that no other has it. name:
    for people.
    """

    id: str
    name: str
    num_running: int = 0
    began_s: deque[float] = field(default_factory=deque)


class Access:
    """Keys and limits of one ingress replica; each replica counts for itself.

    Raises:
        InvalidRequest: the file of keys can not be read or understood.
    """

    def __init__(self, config: AccessSection) -> None:
        self._config = config
        self._callers = {digest: Caller(digest[:16], name) for digest, name in _read_keys(config)}
        self._anyone = Caller("anonymous", "anonymous")

    @property
    def has_keys(self) -> bool:
        return bool(self._callers)

    def check_bind(self, host: str) -> None:
        """Refuse to serve others without keys, unless that was asked for.

        Raises:
            InvalidRequest: no keys, and an address that is not this machine's alone.
        """
        if self.has_keys or self._config.allow_anonymous or is_loopback(host):
            return
        raise InvalidRequest(
            f"refusing to listen on {host} without API keys: set access.keys_file (lines of "
            "`printf %s KEY | sha256sum`), or access.allow_anonymous: true if a gateway checks keys"
        )

    def caller(self, authorization: str | None) -> Caller:
        """Return who calls.

        Raises:
            Unauthorized: keys are asked for, and this is none.
        """
        if not self.has_keys:
            return self._anyone
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and key:
            given = hashlib.sha256(key.strip().encode()).hexdigest()
            for digest, caller in self._callers.items():
                if hmac.compare_digest(digest, given):
                    return caller
        raise Unauthorized("give a valid API key: `Authorization: Bearer KEY`")

    @contextmanager
    def counted(self, caller: Caller) -> Iterator[None]:
        """Count one request of a caller while it runs.

        Raises:
            TooManyRequests: the caller has as many as it may.
        """
        limit, now = self._config.max_per_minute, time.monotonic()
        while caller.began_s and now - caller.began_s[0] >= _MINUTE_S:
            caller.began_s.popleft()
        if limit is not None and len(caller.began_s) >= limit:
            wait_s = _MINUTE_S - (now - caller.began_s[0])
            raise TooManyRequests(f"more than {limit} requests a minute", max(1.0, wait_s))
        most = self._config.max_concurrent
        if most is not None and caller.num_running >= most:
            raise TooManyRequests(f"more than {most} requests at once")
        caller.began_s.append(now)
        caller.num_running += 1
        try:
            yield
        finally:
            caller.num_running -= 1


def is_loopback(host: str) -> bool:
    """Say whether an address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_keys(config: AccessSection) -> Iterator[tuple[str, str]]:
    texts = [os.environ.get(config.keys_variable, "")]
    if config.keys_file is not None:
        try:
            texts.append(config.keys_file.read_text())
        except OSError as error:
            raise InvalidRequest(f"can not read access.keys_file: {error}") from error
    for number, line in enumerate(line for text in texts for line in text.splitlines()):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped)
        if found is None:
            raise InvalidRequest("each line of the API keys is a sha256 in hex, then a name")
        yield found[1], found[2] or f"key {number + 1}"
