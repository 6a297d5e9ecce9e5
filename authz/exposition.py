"""`/metrics`: of one process, or of all processes of a gate.

Several processes keep their numbers in files of one folder under names of their own
(authz/metrics.py). Here they are read and added up at every look. A process that ended counts on
with its counters and histograms, as whoever takes its place goes on with its files; its gauges are
taken out, for they say how something is now.
"""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

TRIES: Final = 5
AGAIN_SECONDS: Final = 0.01
PRIVATE: Final = 0o700


class SharedNumbers(Collector):
    """The numbers of all processes that share a folder, added up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def clear(self) -> None:
        """Begin with none: once, before the first of the processes is started."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=PRIVATE)

    def died(self, name: str) -> None:
        """The process of this name has ended: its gauges count no more."""
        mark_process_dead(name, str(self._folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client adds them up.

        A file that a process is just making is empty for a moment, which is no reason to have no
        metrics at all.
        """
        for _ in range(TRIES - 1):
            try:
                return self._added_up()
            except (struct.error, OSError):
                time.sleep(AGAIN_SECONDS)
        return self._added_up()

    def _added_up(self) -> Iterable[Metric]:
        collector = MultiProcessCollector(None, str(self._folder))  # type: ignore[no-untyped-call]
        found: Iterable[Metric] = collector.collect()  # type: ignore[no-untyped-call]
        return found


@contextmanager
def exposing(address: tuple[str, int], registry: CollectorRegistry) -> Iterator[None]:
    """Serve `/metrics` of a registry at host and port. Raises OSError where nothing can listen."""
    host, port = address
    http, thread = start_http_server(port, host, registry)
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
