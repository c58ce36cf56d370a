"""Where a store is, in words that a setting can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """A folder, or `s3://bucket/prefix`. The rest is for S3; credentials are boto3's own chain.

    endpoint: of a server that is not AWS; None is AWS_ENDPOINT_URL, or AWS.
    region: None is boto3's own.
    encryption: how the server encrypts what is written; None is the bucket's default.
    kms_key: the id of a key, for `aws:kms`.
    path_style: the bucket in the path, not in the host's name; None lets boto3 choose.
    connect_timeout_s, read_timeout_s: of one try, the second between two pieces of an answer;
    attempts: how often a request is tried. Together they must end before a job's lease does.
    """

    url: str = "bark-data"
    endpoint: str | None = None
    region: str | None = None
    encryption: Encryption | None = None
    kms_key: str | None = None
    path_style: bool | None = None
    connect_timeout_s: float = 2.0
    read_timeout_s: float = 5.0
    attempts: int = 3

    @property
    def is_bucket(self) -> bool:
        return self.url.startswith("s3://")
