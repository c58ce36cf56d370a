"""Webhooks: the end of a job, told to an address of its caller, signed.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com), for which there are
libraries in every language. Addresses come from callers, so nothing is sent to places that only
this service can reach: the name is resolved here, every address it has must be public, and the
connection goes to the one that was checked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx

from deployments.config import WebhookSection
from pipeline.errors import InvalidRequest
from pipeline.job_records import Hook

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PREFIX = "whsec_"
_PORTS = (None, 443, 8443)
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.ip_network("::/96")
# Public by their numbers, and yet a cloud's own services, reached from inside it alone.
_CLOUDS = (ipaddress.ip_address("192.0.0.192"), ipaddress.ip_address("168.63.129.16"))


class Webhooks:
    """Sends what ended, to whoever asked for it.

    Raises:
        InvalidRequest: the secret is none.
    """

    def __init__(self, config: WebhookSection) -> None:
        self._config = config
        given = os.environ.get(config.secret_variable, "")
        try:
            self._secret = base64.b64decode(given.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            raise InvalidRequest(f"{config.secret_variable} must be {_PREFIX} and base64") from None

    def check(self, url: str) -> None:
        """Refuse an address before any work is done for it; its name is resolved when it is due.

        Raises:
            InvalidRequest: says what is wrong with it.
        """
        if not self._secret:
            raise InvalidRequest(
                f"webhooks are not set up here: {self._config.secret_variable} holds no secret"
            )
        try:
            parsed = httpx.URL(url)
            parsed.host.encode("idna")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InvalidRequest(f"webhook: {error}") from None
        if parsed.scheme not in ("https", "http") or not parsed.host or parsed.userinfo:
            raise InvalidRequest("webhook: give an address such as https://example.com/hook")
        if parsed.scheme == "http" and not self._config.allow_private:
            raise InvalidRequest("webhook: only https is allowed here")
        if parsed.port not in _PORTS and not self._config.allow_private:
            raise InvalidRequest("webhook: only ports 443 and 8443 are allowed here")
        try:
            address = ipaddress.ip_address(parsed.host)
        except ValueError:
            return
        if not self._may_reach(address):
            raise InvalidRequest("webhook: this address is not a public one")

    async def send(self, hook: Hook, event: str, job_id: str, data: Mapping[str, Any]) -> Hook:
        """Try once, and return how it went and when to try again."""
        attempts = hook.attempts + 1
        try:
            await self._post(hook.url, event, job_id, data)
        except Exception as error:  # whatever an address of a stranger brings: it is counted
            trouble = str(error) or type(error).__name__
            pause_s = self._config.first_pause_s * 2 ** (attempts - 1)
            return replace(
                hook,
                attempts=attempts,
                next_unix_s=time.time() + pause_s,
                is_done=attempts >= self._config.attempts,
                last_error=trouble[:200],
            )
        return replace(hook, attempts=attempts, is_done=True, last_error=None)

    async def _post(self, url: str, event: str, job_id: str, data: Mapping[str, Any]) -> None:
        self.check(url)
        parsed = httpx.URL(url)
        sent_unix_s = int(time.time())
        body = json.dumps({"type": event, "timestamp": sent_unix_s, "data": data}).encode()
        headers = {
            "Host": parsed.netloc.decode(),
            "Content-Type": "application/json",
            "webhook-id": job_id,
            "webhook-timestamp": str(sent_unix_s),
            "webhook-signature": sign(self._secret, job_id, sent_unix_s, body),
        }
        # a time for all of it: httpx's own begins anew with every piece that arrives
        async with asyncio.timeout(self._config.timeout_s):
            place = parsed.copy_with(host=await self._resolve(parsed))
            async with (
                httpx.AsyncClient(timeout=self._config.timeout_s, trust_env=False) as client,
                client.stream(
                    "POST",
                    place,
                    content=body,
                    headers=headers,
                    # the certificate must be that of the name, though the connection is not
                    extensions={"sni_hostname": parsed.host},
                ) as answer,
            ):
                # its status is all that is read; a redirect is not followed
                if not answer.is_success:
                    raise httpx.HTTPError(f"HTTP {answer.status_code}")

    async def _resolve(self, url: httpx.URL) -> str:
        """Return an address of the host; all that it has must be allowed."""
        loop = asyncio.get_running_loop()
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(item[4][0]) for item in found]
        if not addresses or not all(map(self._may_reach, addresses)):
            raise InvalidRequest("webhook: this name leads to an address that is not public")
        return str(addresses[0])

    def _may_reach(self, address: Address) -> bool:
        if self._config.allow_private:
            return True
        return all(_is_public(each) for each in (address, *_embedded(address)))


def _embedded(address: Address) -> Iterator[Address]:
    """Yield the IPv4 addresses that an IPv6 one stands for, behind a gateway."""
    if isinstance(address, ipaddress.IPv6Address):
        found = (address.ipv4_mapped, address.sixtofour, *(address.teredo or ()))
        yield from (each for each in found if each is not None)
        if any(address in network for network in (*_NAT64, _COMPATIBLE)):
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _is_public(address: Address) -> bool:
    inside = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
    return address.is_global and not inside and address not in _CLOUDS


def sign(secret: bytes, message_id: str, unix_s: int, body: bytes) -> str:
    """Return the header's value: version 1, HMAC-SHA256 of id, time and body."""
    signed = b"%s.%d.%s" % (message_id.encode(), unix_s, body)
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
