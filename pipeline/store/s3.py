"""A store in an S3 bucket: conditional writes (`If-None-Match`, `If-Match`) decide races.

Every request is tried a few times, with bounds on each try; after a row of failures a circuit
breaker refuses at once, and lets one through now and then to see if the bucket is back.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
)
from circuitbreaker import CircuitBreaker, CircuitBreakerError

from pipeline.errors import InvalidRequest, StoreUnavailable
from pipeline.store.contract import Versioned, check_key
from pipeline.store.location import StoreLocation

_T = TypeVar("_T")
log = logging.getLogger(__name__)

# Larger objects go up in parts: a broken connection then costs one of them.
_PART_BYTES: Final = 16 << 20
_MAX_PARTS: Final = 10_000
_OPEN_AFTER: Final = 5  # failures in a row
_TRY_AGAIN_AFTER_S: Final = 5
_AHEAD_S: Final = 300.0  # a third of what AWS bears
_UNMET: Final = ("PreconditionFailed", "412", "NoSuchKey", "404")  # a condition, that is
_PAUSES_S: Final = (0.05, 0.2, 0.8)
_ADVICE: Final = {
    "NoSuchBucket": "the bucket does not exist: check its name and the endpoint",
    "AccessDenied": "these credentials may not do that here",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "InvalidAccessKeyId": "the access key is not known there",
    "ExpiredToken": "the credentials have run out",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}


class S3Store:
    """A bucket, or the part of it below a prefix."""

    def __init__(self, location: StoreLocation) -> None:
        bucket, _, prefix = location.url.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        if not bucket:
            raise InvalidRequest(f"{location.url} names no bucket: write s3://bucket/prefix")
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket, self._prefix = bucket, f"{check_key(prefix)}/" if prefix else ""
        self._client = _client(location)
        self._written: dict[str, str] = {}  # how the server is to encrypt it
        if location.encryption is not None:
            self._written["ServerSideEncryption"] = location.encryption
            if location.kms_key is not None:
                self._written["SSEKMSKeyId"] = location.kms_key
        self._breaker = CircuitBreaker(
            failure_threshold=_OPEN_AFTER,
            recovery_timeout=_TRY_AGAIN_AFTER_S,
            expected_exception=_is_away,
            name=self.url,
        )
        self._guarded = self._breaker.decorate(_ask)
        self._behind_s = 0.0  # this machine's clock, by the server's own
        self._client.meta.events.register("after-call.s3", self._compare_clocks)

    def get(self, key: str) -> bytes | None:
        found = self.get_versioned(key)
        return None if found is None else found.data

    def get_versioned(self, key: str) -> Versioned | None:
        def fetch() -> Versioned:
            answer = self._client.get_object(**self._at(key))
            return Versioned(answer["Body"].read(), answer["ETag"])

        with self._explained("read", key):
            return self._unless_missing(fetch)

    def size(self, key: str) -> int | None:
        with self._explained("read", key):
            answer = self._unless_missing(lambda: self._client.head_object(**self._at(key)))
        return None if answer is None else int(answer["ContentLength"])

    def read(self, key: str, start: int, stop: int) -> bytes | None:
        def fetch() -> bytes:
            answer = self._client.get_object(**self._at(key), Range=f"bytes={start}-{stop - 1}")
            return bytes(answer["Body"].read())

        with self._explained("read", key):
            return self._unless_missing(fetch)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._explained("write", key):
            return self._write(key, data, {"IfNoneMatch": "*"}) is not None

    def put(self, key: str, data: bytes) -> None:
        with self._explained("write", key):
            self._write(key, data, {})

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        with self._explained("write", key):
            return self._write(key, data, {"IfMatch": version})

    def delete(self, key: str, version: str | None = None) -> bool:
        if self.size(key) is None:
            return False
        condition = {} if version is None else {"IfMatch": version}
        with self._explained("delete", key):
            try:
                self._call(lambda: self._client.delete_object(**self._at(key), **condition))
            except ClientError as error:
                if _code(error) not in _UNMET:
                    raise
                return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)

        def pages() -> list[str]:
            paginator = self._client.get_paginator("list_objects_v2")
            found: list[str] = []
            for page in paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                found += [item["Key"] for item in page.get("Contents", ())]
            return found

        with self._explained("list", prefix):
            keys = self._call(pages)
        return sorted(key.removeprefix(self._prefix) for key in keys if not key.endswith("/"))

    def link(self, key: str, *, expires_s: int, media_type: str, file_name: str) -> str | None:
        shown = {
            "ResponseContentType": media_type,
            "ResponseContentDisposition": f'inline; filename="{file_name}"',
        }
        # Signed here, with this clock: what it is behind would be missing at the end, and what is
        # signed in the future is refused.
        if self._behind_s < -_AHEAD_S:
            log.warning("no links to %s: this clock is %.0f s ahead", self.url, -self._behind_s)
            return None
        expires_s += max(0, round(self._behind_s))
        with self._explained("link to", key):
            return str(
                self._client.generate_presigned_url(
                    "get_object", Params={**self._at(key), **shown}, ExpiresIn=expires_s
                )
            )

    # ── writing ──────────────────────────────────────────────────────────────────────────────────
    def _write(self, key: str, data: bytes, condition: dict[str, str]) -> str | None:
        """Return the new version; None where the condition does not hold."""
        write = self._put_whole if len(data) <= _PART_BYTES else self._put_in_parts
        try:
            return self._call(lambda: _undecided_again(lambda: write(key, data, condition)))
        except ClientError as error:
            if _code(error) not in _UNMET:
                raise
            # Where a try before this one was heard but not answered, it may have been ours.
            if error.response["ResponseMetadata"].get("RetryAttempts", 0):
                there = self.get_versioned(key)
                if there is not None and there.data == data:
                    return there.version
            return None

    def _put_whole(self, key: str, data: bytes, condition: dict[str, str]) -> str:
        answer = self._client.put_object(**self._at(key), Body=data, **condition, **self._written)
        return str(answer["ETag"])

    def _put_in_parts(self, key: str, data: bytes, condition: dict[str, str]) -> str:
        """Upload in parts; nothing is under the key before the last step, which is conditional."""
        at, client = self._at(key), self._client
        upload = {
            **at,
            "UploadId": client.create_multipart_upload(**at, **self._written)["UploadId"],
        }
        try:
            size, parts = max(_PART_BYTES, math.ceil(len(data) / _MAX_PARTS)), []
            for number, start in enumerate(range(0, len(data), size), start=1):
                answer = client.upload_part(
                    **upload, PartNumber=number, Body=data[start : start + size]
                )
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            done = client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}, **condition
            )
            return str(done["ETag"])
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                client.abort_multipart_upload(**upload)
            raise

    # ── asking ───────────────────────────────────────────────────────────────────────────────────
    def _call(self, ask: Callable[[], _T]) -> _T:
        found: _T = self._guarded(ask)
        return found

    def _compare_clocks(self, parsed: dict[str, Any], **_: Any) -> None:
        told = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        with suppress(TypeError, ValueError):
            self._behind_s = parsedate_to_datetime(told).timestamp() - _unix_s()

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _unless_missing(self, ask: Callable[[], _T]) -> _T | None:
        try:
            return self._call(ask)
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                return None
            raise

    @contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        place = f"{self.url}/{key}"
        try:
            yield
        except CircuitBreakerError as error:
            raise StoreUnavailable(
                f"can not {verb} {place}: the bucket did not answer lately; it is asked again "
                f"in {max(0.0, self._breaker.open_remaining):.0f} s"
            ) from error
        except NoCredentialsError as error:
            raise StoreUnavailable(
                f"can not {verb} {place}: there are no credentials; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        except ClientError as error:
            code = _code(error)
            advice = _ADVICE.get(code, error.response.get("Error", {}).get("Message", ""))
            raise StoreUnavailable(f"can not {verb} {place}: {advice} ({code})") from error
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(f"can not {verb} {place}: {error}") from error


def _client(location: StoreLocation) -> Any:
    style = {None: "auto", True: "path", False: "virtual"}[location.path_style]
    # A session of its own: the default one is shared, and neither thread-safe nor up to date.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=location.endpoint,
        region_name=location.region,
        config=Config(
            connect_timeout=location.connect_timeout_s,
            read_timeout=location.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": location.attempts},
            s3={"addressing_style": style},
            signature_version="s3v4",  # of links too, whose default is older
            max_pool_connections=32,
        ),
    )


def _unix_s() -> float:
    return time.time()


def _ask(ask: Callable[[], _T]) -> _T:
    return ask()


def _undecided_again(write: Callable[[], _T]) -> _T:
    """Write again while the server can not tell who was first: its answer is 409 then."""
    for pause_s in _PAUSES_S:
        try:
            return write()
        except ClientError as error:
            if _code(error) not in ("ConditionalRequestConflict", "OperationAborted"):
                raise
        time.sleep(pause_s)
    return write()


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_away(_: type[BaseException], error: BaseException) -> bool:
    """Say whether an error means that nobody is there, and not that somebody said no."""
    if isinstance(error, ClientError):
        return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0)) >= 500
    return isinstance(error, (ConnectionError, HTTPClientError, OSError))
