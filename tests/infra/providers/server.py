"""Providers that know their schemas and nothing else, on Terraform's plugin protocol 6.

Enough for `validate`, and for `test` with `mock_provider`, where Terraform itself makes up what a
cloud would answer. Whoever asks for something real is told that there is no such method.

    server.py ADDRESS=SCHEMA…    schemas are serialised GetProviderSchema.Response, by `bindings.py`

Prints what TF_REATTACH_PROVIDERS must hold, and serves until its standard input ends: one process
for all of Terraform's runs, which would otherwise start a Python for each of dozens of steps.

With BARK_SCHEMA_TYPES (names, parted by commas) it knows these types alone: Terraform reads the
schema again in every run of a test, and AWS has 2,420 types.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as plugin


class SchemaOnly(plugin.ProviderServicer):
    """Answers what Terraform asks before anything is made."""

    def __init__(self, schema: bytes, types: set[str]) -> None:
        self._schema = pb.GetProviderSchema.Response.FromString(schema)
        self._schema.server_capabilities.get_provider_schema_optional = True
        if types:
            for known in (self._schema.resource_schemas, self._schema.data_source_schemas):
                for name in set(known) - types:
                    del known[name]

    def GetProviderSchema(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._schema

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ValidateDataResourceConfig.Response()


def serve(schemas: dict[str, Path], types: set[str]) -> None:
    """Serve each provider on a socket of its own."""
    with tempfile.TemporaryDirectory() as folder:
        attached, servers = {}, []  # a server that nobody holds is ended
        for number, (address, schema) in enumerate(schemas.items()):
            server = grpc.server(ThreadPoolExecutor(4))
            plugin.add_ProviderServicer_to_server(SchemaOnly(schema.read_bytes(), types), server)
            socket = f"{folder}/{number}.sock"
            server.add_insecure_port(f"unix://{socket}")
            server.start()
            servers.append(server)
            attached[address] = {
                "Protocol": "grpc",
                "ProtocolVersion": 6,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": {"Network": "unix", "String": socket},
            }
        print(json.dumps(attached), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    named = os.environ.get("BARK_SCHEMA_TYPES", "")
    serve(
        {address: Path(path) for address, path in given.items()},
        set(filter(None, named.split(","))),
    )
