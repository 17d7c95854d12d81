"""Greenlets that a process cannot do without."""

from __future__ import annotations

from collections.abc import Callable

import gevent


def spawn(run: Callable[[], None]) -> gevent.Greenlet[[], None]:
    """A greenlet whose error is the process's end: half of it must not look alive."""

    def guarded() -> None:
        try:
            run()
        except Exception as error:
            gevent.get_hub().handle_system_error(type(error), error, error.__traceback__)

    return gevent.spawn(guarded)
