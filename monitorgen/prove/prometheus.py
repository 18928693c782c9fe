"""A Prometheus of our own, for the time of a proof.

It listens on the loopback interface only, keeps its data in a folder that the caller gives, and runs with
flags that 2.42, 2.53 and 3.5 share.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from monitorgen.errors import InputError, ToolMissing
from monitorgen.prove.processes import LOOPBACK, Child, ProcessError, child, free_port
from monitorgen.prove.prometheus_api import (
    AlertState,
    PrometheusClient,
    PrometheusError,
    RuleState,
    Sample,
    Series,
    TargetState,
    timestamp,
)
from monitorgen.prove.saved import DiskFullError, cannot_write

__all__ = [
    "AlertState", "Prometheus", "PrometheusClient", "PrometheusError", "RuleState", "Sample", "Series",
    "TargetState", "find_prometheus", "release", "timestamp",
]  # fmt: skip

BINARY_VARIABLE = "MONITORGEN_PROMETHEUS"
PORTS_TRIED = 3
VERSION_TIMEOUT = 60.0  # seconds; a busy machine may stand still for twenty
OWN_TIMEOUT = 30.0  # seconds for an answer of our own server, which only a stalled machine holds up
DYING = 5.0  # seconds in which a server that answers nobody any more has ended, its last words written
LEAST_ROOM = 1 << 16  # bytes; the log grows in steps smaller than that


class Prometheus(PrometheusClient):
    """A Prometheus of our own, alive inside the `with` block.

    `config` is the text of prometheus.yml; `files` (relative path -> text) are written beside it, so that its
    `rule_files` can name them. `tsdb` is a data folder that exists already; without it a new one is made.
    """

    def __init__(
        self,
        config: str,
        *,
        workdir: Path,
        files: Mapping[str, str] | None = None,
        binary: Path | None = None,
        tsdb: Path | None = None,
        flags: tuple[str, ...] = (),
        start_timeout: float = 90.0,
    ) -> None:
        super().__init__(f"http://{LOOPBACK}:1", timeout=OWN_TIMEOUT)  # the port is chosen when it starts
        self.binary = binary or find_prometheus()
        self.workdir = workdir.absolute()
        self.tsdb = (tsdb or workdir / "tsdb").absolute()
        self._files = {"prometheus.yml": config, **(files or {})}
        self._flags = flags
        self._timeout = start_timeout
        self._stack = contextlib.ExitStack()
        self._child: Child | None = None

    @property
    def config(self) -> Path:
        """The prometheus.yml that it reads."""
        return self.workdir / "prometheus.yml"

    @property
    def child(self) -> Child:
        """The running process; raises `PrometheusError` outside of the `with` block."""
        if self._child is None:
            raise PrometheusError("Prometheus is not running")
        return self._child

    def __enter__(self) -> Prometheus:
        release(self.binary)
        for name, text in self._files.items():
            self._write(self.workdir / name, text)
        for attempt in range(PORTS_TRIED):
            port = free_port()
            self.url = f"http://{LOOPBACK}:{port}"
            try:
                self._start(port)
                return self
            except ProcessError as error:  # another program may have taken the port in the meantime
                if "address already in use" not in error.message or attempt == PORTS_TRIED - 1:
                    raise
        raise AssertionError("the last attempt raises or returns")

    def _start(self, port: int) -> None:
        argv: list[str | Path] = [
            self.binary,
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.tsdb}",
            "--storage.tsdb.retention.time=10y",  # synthetic blocks may lie far back
            "--log.level=warn",
            f"--web.listen-address={LOOPBACK}:{port}",
            *self._flags,
        ]
        with contextlib.ExitStack() as stack:
            log = self.workdir / "prometheus.log"
            started = stack.enter_context(child(argv, name="prometheus", log=log, cwd=self.workdir))
            patience, self.timeout = self.timeout, 1.0  # who took our port may never answer
            try:
                started.wait_until(self.ready, timeout=self._timeout, what="getting ready")
            finally:
                self.timeout = patience
            self._child, self._stack = started, stack.pop_all()

    def ready(self) -> bool:
        """Whether our own server answers by now, and not another one that took its port."""
        with contextlib.suppress(PrometheusError):
            return super().ready() and self.api("status/flags")["config.file"] == str(self.config)
        return False

    def check(self) -> None:
        """Raise if the server has died, or cannot keep what it scrapes because the disk is full."""
        self.child.check()
        # On a full disk its log cannot grow either, and targets stay up though nothing is kept.
        full = shutil.disk_usage(self.workdir).free < LEAST_ROOM
        if full or any(words in self.child.tail(200) for words in ("no space left", "file too large")):
            raise DiskFullError(
                f"Prometheus cannot write its data: no space is left in {self.workdir}",
                hint="TMPDIR names another place",
            )

    def _write(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise cannot_write(path, error, hint="TMPDIR names another place") from error

    def _get(self, url: str) -> bytes:
        try:
            return super()._get(url)
        except PrometheusError as error:
            unheard = getattr(error.__cause__, "status", None) == 0
            if unheard and self._child is not None:  # if it is dying, its own words say why
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.process.wait(DYING)
                self._child.check()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child = None
        self._stack.close()


def find_prometheus() -> Path:
    """The Prometheus to run: the environment's choice, else the one on PATH. Raises `ToolMissing`."""
    hint = f"install Prometheus, or set {BINARY_VARIABLE} to its path"
    chosen = os.environ.get(BINARY_VARIABLE, "")
    found = shutil.which(chosen or "prometheus")
    if found is None:
        where = f"{chosen} (from {BINARY_VARIABLE}) cannot be run" if chosen else "prometheus is not on PATH"
        raise ToolMissing(where, hint=hint)
    return Path(found)


@functools.lru_cache(maxsize=16)
def release(binary: Path) -> tuple[int, ...]:
    """The version of a Prometheus program, such as (2, 53, 3). Raises `InputError` for another program."""
    try:
        done = subprocess.run(
            [binary, "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=VERSION_TIMEOUT,
            check=False,
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
    except subprocess.TimeoutExpired:
        said = f"nothing within {VERSION_TIMEOUT:g} s"
    except OSError as error:
        raise InputError(f"{binary} cannot be run: {error.strerror or error}") from error
    found = re.match(r"prometheus, version (\d+)\.(\d+)\.(\d+)", said)
    if not found:
        first = next(iter(said.split("\n")), "").strip()[:80]
        raise InputError(
            f"{binary} is not Prometheus: asked for its version it says {first!r}",
            hint=f"--prometheus-bin or {BINARY_VARIABLE} name the right one",
        )
    return tuple(map(int, found.groups()))
