"""Rows through a service that runs already, at low priority: `bark-serve bulk --via-serve`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from ray import serve
from ray.exceptions import RayActorError

from deployments.builtin_errors import from_builtin
from deployments.bulk.actor import HOLDER, RowActor, find, insist, place_of
from deployments.bulk.rows import Work, seed_of
from deployments.config import APP_NAME, INGRESS, AppConfig
from deployments.store_access import StoreAccess
from deployments.wire import LOW
from pipeline.errors import EngineFailed, InvalidRequest, Overloaded

_MOST_DEATHS: Final = 5
_PAUSE_S: Final = 1.0


class ServedOp(RowActor):
    """Asks the service for each row, and keeps what it answers just as the service would."""

    name = "served"

    def __init__(self, config: AppConfig, model_digest: str, board: Any) -> None:
        del model_digest  # the service's own
        super().__init__(config, board)
        self._ingress: Any = serve.get_deployment_handle(INGRESS, APP_NAME)
        self._access = StoreAccess(config)
        self._place = place_of(config)
        self.start_telling("")

    async def work_on(self, works: list[Work]) -> None:
        await super().work_on(await self.admitted(works))
        await self.board.leave.remote([work.id for work in works])

    async def row(self, work: Work) -> None:
        if work.fields is None:
            raise InvalidRequest(work.problem)
        request = {**work.fields, "priority": LOW}
        if request.get("seed") is None:
            request["seed"] = seed_of(work.id)
        work.began_unix_s = time.time()
        known = await self._ask("identify", request)
        facts = await find(self._access, known["id"])
        if facts is None:
            made = await self._ask("make", request)
            facts = await insist(lambda: self._access.run(self._save, made))
        work.succeed(facts, self._place)

    def _save(self, made: Mapping[str, Any]) -> dict[str, Any]:
        facts = made["manifest"]
        self._access.generations.hold(facts["id"], HOLDER)
        return self._access.generations.save(
            facts["id"], made["audio"], "wav", made["tokens"], facts
        )

    async def _ask(self, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Call the service; again while it is full, or where a replica dies.

        Raises:
            BarkError: what it answers.
        """
        deaths = 0
        while True:
            try:
                found: dict[str, Any] = await getattr(self._ingress, method).remote(request)
                return found
            except RayActorError as error:
                deaths += 1
                if deaths > _MOST_DEATHS:
                    raise EngineFailed(f"the ingress died {deaths} times") from error
                await asyncio.sleep(_PAUSE_S)
            except Exception as error:
                ours = from_builtin(error)
                if isinstance(ours, Overloaded):
                    await asyncio.sleep(ours.retry_after_s)
                elif ours is not None:
                    raise ours from error
                else:
                    raise
