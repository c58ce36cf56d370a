"""Logs of a replica: one JSON object a line, each with where it comes from.

Only this project's own loggers are touched; Ray's and Serve's stay as Serve's `logging_config`
says. No text of a request is logged, unless that is asked for.
"""

from __future__ import annotations

import logging
from typing import Final

from pythonjsonlogger.json import JsonFormatter

from deployments.config import LogSection

_OURS: Final = ("deployments", "pipeline")
_FIELDS: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_NAMES: Final = {"asctime": "time", "levelname": "level", "name": "logger"}


def set_up_logs(config: LogSection, deployment: str, replica: str) -> None:
    """Send this project's log lines to standard error, which Ray keeps in the worker's log."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(config, deployment, replica))
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(config.level)


def formatter(config: LogSection, deployment: str, replica: str) -> logging.Formatter:
    """Return what makes a line of a record; `extra=` fields become fields of the object."""
    if config.encoding == "text":
        return logging.Formatter(f"{deployment} {_FIELDS}")
    return JsonFormatter(
        _FIELDS,
        rename_fields=_NAMES,
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        static_fields={"deployment": deployment, "replica": replica},
        json_ensure_ascii=False,
    )
