"""The HTTP application over stages of this process: no Ray, real sound, real sockets."""

from __future__ import annotations

import threading
import time
from typing import Any

import uvicorn

from deployments.access import Access
from deployments.config import AppConfig
from deployments.generation_routes import Generations
from deployments.http_app import create_app
from deployments.service import Service
from deployments.store_access import StoreAccess
from deployments.webhooks import Webhooks
from pipeline.bark import Bark
from pipeline.voice_sources import voice_library
from pipeline.voices import VoiceLibrary


class LocalApp:
    """One ingress on a free port of loopback."""

    def __init__(
        self, bark: Bark, sections: dict[str, Any], voices: VoiceLibrary | None = None
    ) -> None:
        config = AppConfig.model_validate(sections)
        store = StoreAccess(config)
        if voices is None:
            voices = voice_library("nano", bark.checkpoint, store=store.presets)
        service = Service(config, bark.stages, voices, model_digest=bark.model_digest, store=store)
        self.generations = Generations(service, Webhooks(config.webhooks))

        async def is_ready() -> None:
            pass

        async def find_trace(name: str) -> Any:
            return service.recent.find(name)

        access = Access(config.access)
        app = create_app(service, self.generations, access, is_ready, find_trace)
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
