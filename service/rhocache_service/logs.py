"""Logs: a readable line on a terminal, a JSON object a line elsewhere, with the request's id."""

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict

from rhocache_schemas.text import printable, printable_lines, redact


def configure() -> None:
    """Let every logger of the process write to standard error, without secrets."""
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    last.append(structlog.processors.format_exc_info)
    if sys.stderr.isatty():
        plain = structlog.dev.plain_traceback
        last += [_printable, structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    else:
        last.append(structlog.processors.JSONRenderer())  # which escapes
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[*last, _redacted],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _redacted(_logger: Any, _method: str, line: Any) -> Any:
    return redact(line)


def _printable(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """What a request or a dataset says is not for a terminal to obey."""
    return {
        name: printable_lines(value) if name == "exception" else printable(str(value))
        for name, value in event.items()
    }
