"""Graceful shutdown on Ctrl-C and SIGTERM."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from rich.console import Console

from pld_grid.store import Store, stop_requests
from pld_grid.util.errors import StoreError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def graceful_shutdown(store: Store, run: str, grace_seconds: float, console: Console) -> Iterator[None]:
    """Turn the first signal into a stop request for the run's cohorts (see `store.stop_requests`).

    A second signal, or the end of the grace period, raises KeyboardInterrupt. Outside the main thread, signals keep
    their handlers.

    Args:
        store: where the stop request is written.
        run: id of the run.
        grace_seconds: how long running cohorts have to finish their epoch; 0 raises at the first signal.
        console: tells the user that the run is stopping.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main = threading.main_thread().ident
    assert main is not None
    # Signal the main thread itself: it may wait in a call that only its own signal interrupts.
    timer = threading.Timer(grace_seconds, signal.pthread_kill, (main, signal.SIGINT))
    timer.daemon = True
    requested = False

    def on_signal(*_: object) -> None:
        nonlocal requested
        if requested or grace_seconds <= 0:
            raise KeyboardInterrupt
        requested = True
        try:
            stop_requests.request(store, run)
        except StoreError:
            raise KeyboardInterrupt from None
        timer.start()
        console.print(
            f"stopping after the running epochs, within {grace_seconds:g} s; press Ctrl-C again to stop at once"
        )

    handlers = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if requested:
            with contextlib.suppress(StoreError):
                stop_requests.clear(store, run)
