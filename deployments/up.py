"""`bark-serve up`: a Ray cluster on this machine with the application on it, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from deployments.config import StoreSection
from deployments.ray_cluster import connect
from pipeline.errors import EngineFailed
from pipeline.models.locate import locate

EXAMPLES = """
Serve on this machine: start Ray, deploy the application, print its address when it answers.

Ctrl-C drains: what was admitted is finished, then everything stops.

Examples:

    bark-serve up

    bark-serve up --config serve_config.yaml --port 9000

    bark-serve up --address auto    (deploy on a cluster that runs already)
"""
DEFAULT_CONFIG = Path("serve_config.yaml")
_READY_POLL_S = 0.25
_DRAIN_S = 600.0


def up(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The file that says it all.")
    ] = DEFAULT_CONFIG,
    host: Annotated[str | None, typer.Option(help="In place of the file's http_options.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Likewise.")] = None,
    model: Annotated[str | None, typer.Option(help="In place of the file's model.name.")] = None,
    address: Annotated[
        str | None, typer.Option(help="A running cluster's; by default one is started.")
    ] = None,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="Of the cluster started.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="Likewise.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Likewise: for Prometheus; by default a free one."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the file.")] = False,
) -> None:
    from deployments.access import Access
    from deployments.provenance import Provenance
    from deployments.serve_file import check_serve_config, load_serve_file

    given = load_serve_file(config)
    http = given.setdefault("http_options", {})
    http |= {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    if model is not None:
        arguments = given["applications"][0].setdefault("args", {})
        arguments["model"] = {**(arguments.get("model") or {}), "name": model}
    if address is None:
        _make_absolute(given)
    schema, app_config = check_serve_config(given)
    Access(app_config.access).check_bind(schema.http_options.host)
    console = Console(stderr=True, highlight=False)
    if address is None:
        # what can be wrong on this machine is said before Ray starts
        locate(app_config.model.name, revision=app_config.model.revision)
        Provenance(app_config.provenance)
    if check:
        console.print(f"{config}: in order")
        return
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with console.status("starting Ray") as status:
        cluster = Cluster(address, num_cpus, num_gpus, metrics_port)
        try:
            cluster.deploy(schema)
            url = f"http://{_reachable(schema.http_options.host)}:{schema.http_options.port}"
            for waiting in cluster.until_ready(url, stop):
                status.update(waiting)
        except BaseException:
            cluster.close()
            raise
    if not stop.is_set():
        _greet(url, app_config.model.name, cluster.metrics_urls)
        stop.wait()
    console.print("draining: what was admitted is finished; Ctrl-C again to stop at once")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    cluster.close()


up.__doc__ = EXAMPLES


class Cluster:
    """Ray with Serve on it, started here or elsewhere; only what was started here is stopped."""

    def __init__(
        self,
        address: str | None,
        num_cpus: int | None,
        num_gpus: int | None,
        metrics_port: int | None = None,
    ) -> None:
        self._is_ours = connect(address, num_cpus, num_gpus, _metrics_export_port=metrics_port)

    @property
    def metrics_urls(self) -> list[str]:
        """Where Prometheus finds the metrics: every node has those of what runs on it."""
        import ray

        return [
            f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        ]

    def deploy(self, schema: Any) -> None:
        """Hand the file to Serve, as `serve run FILE` does."""
        from ray.serve._private import api

        client = api.serve_start(
            http_options=schema.http_options.model_dump(), proxy_location=schema.proxy_location
        )
        self._deployed_unix_s = time.time()
        client.deploy_apps(schema, _blocking=False)

    def until_ready(self, url: str, stop: threading.Event) -> Iterator[str]:
        """Yield what is being waited for, until the graph really answers or `stop` is set.

        Raises:
            EngineFailed: the application can not be deployed; says why.
        """
        from ray import serve

        while not stop.wait(_READY_POLL_S):
            app = serve.status().applications.get("bark")
            if app is None or app.last_deployed_time_s < self._deployed_unix_s:
                yield "waiting for Serve"
                continue
            if app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise EngineFailed(f"the application can not start: {app.message}")
            late = [
                f"{name} ({deployment.message or deployment.status.value.lower()})"
                for name, deployment in app.deployments.items()
                if deployment.status != "HEALTHY"
            ]
            if late:
                yield f"waiting for {', '.join(late)}"
            elif app.status != "RUNNING":
                yield f"waiting for the application ({app.status.value.lower()})"
            elif (missing := _not_ready(url)) is None:
                return
            else:
                yield f"waiting for {missing}"

    def close(self) -> None:
        """Let replicas finish what they have, then stop what was started here."""
        import ray
        from ray import serve

        # All deployments stop at once, and a request needs every stage: so the front goes first.
        with suppress(Exception):  # not deployed, or broken: then there is nothing to finish
            ingress = serve.get_deployment_handle("Ingress", app_name="bark")
            ingress.broadcast("drain").results(timeout_s=_DRAIN_S)
        if self._is_ours:
            serve.shutdown()  # type: ignore[no-untyped-call]
        else:
            serve.delete("bark")
        ray.shutdown()


def _not_ready(url: str) -> str | None:
    """Return what `/readyz` misses; None if nothing."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10):
            return None
    except urllib.error.HTTPError as error:
        try:
            return str(json.loads(error.read())["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"{url} (HTTP {error.code})"
    except OSError:
        return f"an answer at {url}"


def _make_absolute(given: dict[str, Any]) -> None:
    """Let a store's folders be meant from here, wherever the workers run."""
    args = given["applications"][0].setdefault("args", {})
    store = args.setdefault("store", {})
    for name in ("url", "voices_url"):
        url = store.get(name, getattr(StoreSection(), name))
        if url is not None and "://" not in str(url):
            store[name] = str(Path(str(url)).absolute())


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


def _greet(url: str, model: str, metrics_urls: list[str]) -> None:
    body = json.dumps({"model": model, "input": "Hello, I am a small Bark.", "voice": "default"})
    print(f"ready: {url}", flush=True)
    print(
        f"  curl {url}/v1/audio/speech -H 'Content-Type: application/json' \\\n"
        f"    -d '{body}' -o hello.mp3\n  {url}/docs",
        *(f"\n  {address} (for Prometheus)" for address in metrics_urls),
        sep="",
        flush=True,
    )
