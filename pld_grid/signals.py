"""Ctrl-C and SIGTERM: running cohorts get time to end their epoch, a second one does not wait."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from rich.console import Console

from pld_grid import stop
from pld_grid.errors import StoreError
from pld_grid.store import Store

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stoppable(store: Store, run: str, grace: float, console: Console) -> Iterator[None]:
    """In the main thread, turns the first signal into the wish that the run's cohorts stop (see `pld_grid.stop`).

    After `grace` seconds, or at a second signal, KeyboardInterrupt is raised. Elsewhere signals are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main = threading.main_thread().ident
    assert main is not None
    # To the main thread itself: it may be waiting in a call that only a signal of its own wakes.
    timer = threading.Timer(grace, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.daemon = True
    asked = False

    def hear(*_: object) -> None:
        nonlocal asked
        if asked or grace <= 0:
            raise KeyboardInterrupt
        asked = True
        try:
            stop.request(store, run)
        except StoreError:
            raise KeyboardInterrupt from None
        timer.start()
        console.print(f"stopping after the running epochs, within {grace:g} s; Ctrl-C again does not wait for them")

    before = {number: signal.signal(number, hear) for number in _SIGNALS}
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked:
            with contextlib.suppress(StoreError):
                stop.clear(store, run)
