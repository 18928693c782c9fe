"""A real vLLM through a live proof: calm load first, in which no alert may fire, then all that provokes some.

The load runs in a thread of its own; the stages are polled meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from monitorgen.prove.load import LoadReport
from monitorgen.prove.traffic import PROVOKING, SCENARIOS, run_scenarios
from monitorgen.prove.vllm_server import VllmServer

Phase: TypeAlias = Literal["steady", "provoking", "over"]
STEADY = "steady"


class Drive:
    """Drives a server inside the `with` block; `poll` says in which phase it is.

    After the steady load it waits for `go_on`, so that what was seen until then can be taken down.
    `reports` are what the client saw, by scenario. `poll` raises what the load raised.
    """

    def __init__(
        self, server: VllmServer, names: Sequence[str] = PROVOKING, progress: Callable[[str], None] = print
    ) -> None:
        self.server, self.names = server, tuple(names)
        self.reports: dict[str, LoadReport] = {}
        self.began = self.calm_until = 0.0
        self._progress = progress
        self._stop, self._calm, self._go_on = (threading.Event() for _ in range(3))
        self._error: BaseException | None = None
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="drive", daemon=True)

    @property
    def provokes(self) -> frozenset[str]:
        """The alerts that its scenarios are known to provoke."""
        scenarios = [SCENARIOS[part] for name in self.names for part in name.split("+")]
        return frozenset(alert for scenario in scenarios for alert in scenario.provokes)

    @property
    def calm(self) -> bool:
        """Whether the steady load is over and nothing else has begun."""
        return self._calm.is_set() and not self._go_on.is_set()

    def poll(self) -> Phase:
        """Where it stands. Raises `MonitorgenError` if the server died or a scenario could not be run."""
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive() and self._calm.is_set():
            return "over"
        return "provoking" if self._go_on.is_set() else "steady"

    def go_on(self) -> None:
        """Begin to provoke."""
        self._go_on.set()

    def __enter__(self) -> Drive:
        self.began = time.time()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._go_on.set()
        self._thread.join(30.0)

    def _run(self) -> None:
        try:
            self._add(run_scenarios(self.server, [STEADY], stop=self._stop, progress=self._tell))
            self.calm_until = time.time()
            self._calm.set()
            self._go_on.wait()
            if not self._stop.is_set():
                self._add(run_scenarios(self.server, self.names, stop=self._stop, progress=self._tell))
        except BaseException as error:  # whatever it is, the main thread has to see it
            self._error = error
            self._calm.set()

    def _add(self, reports: Mapping[str, LoadReport]) -> None:
        self.reports.update(reports)

    def _tell(self, name: str, seconds: float) -> None:
        if name not in self._said:
            self._said.add(name)
            self._progress(f"vLLM under load: {name}")
