"""The life of one replica, from its files to its end.

    Pulling      files linked into a view, Python environment made
    Starting     engine started on a free port, probed until it answers 200
    WarmingUp    warm-up requests answered 2xx, if the card has any
    Ready        engine watched: its end, its silence, its log's size
    Draining     SIGTERM to the engine's group, SIGKILL at the deadline
    Stopped      ended because it was asked to
    Failed       ended otherwise; the status says why and what to change

Every wait goes through `_pause`, which ends it for a stop, for the engine's end and at the state's deadline.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostler.processes import is_alive, reference
from hostler.runner import environment, exchange, launching, logfile, processes
from hostler.runner.diagnosis import diagnose, says_address_in_use
from hostler.runner.engine_process import EngineProcess
from hostler.runner.errors import EngineEnded, Failure, StopRequested
from hostler.runner.folder import ReplicaFolder
from hostler.runner.report import Report
from hostler.runner.stopping import StopDeadline
from hostler.runner.view import materialise
from hostler.runner.waiting import Signals, paced, sleep
from hostler.runner.warmup import warmup_body
from hostler.spec.launch import Assignment
from hostler.spec.replica import ReplicaStatus
from hostler.spec.states import ReplicaState

LAUNCH_ATTEMPTS = 3
FAILING_GRACE_S = 5.0
_LAUNCHING = "Launching"
_OWN_CODE = frozenset({"python", "command"})
"""Engines that run what the user wrote, which may write to the files it is given."""
_PROBE_TIMEOUT_S = 5.0
_PROGRESS_STEP = 0.02


class Replica:
    """Runs one assignment to its end. Starts at most one engine that lives; adopts one that a dead runner left."""

    def __init__(self, folder: ReplicaFolder, assignment: Assignment, *, signals: Signals) -> None:
        self._folder = folder
        self._assignment = assignment
        self._launch = assignment.launch
        self._signals = signals
        self._stop_deadline = StopDeadline(folder)
        self._last = folder.status()
        self._mark = f"{launching.MARK}={folder.path}"
        self._engine: EngineProcess | None = None
        self._probe_outcome = "nothing yet"
        self._report = Report(
            folder,
            replica_id=assignment.replica_id,
            hints=assignment.hints,
            runner=reference(os.getpid()),
            last=self._last,
        )

    @property
    def status(self) -> ReplicaStatus:
        """What was last reported."""
        return self._report.status

    def run(self) -> None:
        """Bring the replica up, or adopt it, and stay until it has ended. Does nothing for one that has."""
        if self.status.state.ended:
            return
        try:
            self._live()
        except StopRequested:
            self._drain()
        except EngineEnded as end:
            self.fail(self._explained(end))
        except Failure as failure:
            self.fail(failure)

    def fail(self, failure: Failure) -> None:
        """End what runs, by force if need be, and report `failure`."""
        lines = logfile.tail(self._folder.engine_log)
        grace_s = min(FAILING_GRACE_S, self._launch.drain_timeout_s)
        self._end_engine(time.monotonic() + grace_s, stops=self._signals.stops)
        self._report.enter(
            ReplicaState.FAILED,
            reason=failure.reason,
            message=failure.message,
            log_tail=lines,
            exit_code=failure.exit_code,
        )

    def _live(self) -> None:
        # Who orders a stop writes the order and then looks for a runner to wake. This one shows itself and then looks
        # for an order, so one of the two finds the other.
        self._report.update()
        if self._signals.stops or self._folder.stop_order() is not None:
            self._adopt(failing=False)
            raise StopRequested
        if self._last is None or not _engine_started(self._last):
            self._pull()
            self._start()
        else:
            self._adopt(failing=True)
        match self.status.state:
            case ReplicaState.DRAINING:
                raise StopRequested
            case ReplicaState.STARTING:
                self._until_ready()
                self._warm_up()
            case ReplicaState.WARMING_UP:
                self._warm_up()
            case _:
                pass
        self._watch()

    def _pause(self, timeout_s: float, *, descriptor: int | None = None, events: int = 0) -> bool:
        if self._signals.stops:
            raise StopRequested
        left_s = self._report.seconds_left
        if left_s is not None:
            if left_s <= 0:
                raise self._late()
            timeout_s = min(timeout_s, left_s)
        watched = {} if self._engine is None else self._engine.watched
        if not watched:
            timeout_s = min(timeout_s, 0.5)
        if descriptor is not None:
            watched[descriptor] = events
        ready = self._signals.wait(timeout_s, descriptors=watched)
        if self._signals.stops:
            raise StopRequested
        if self._engine is not None:
            self._engine.check()
        return descriptor in ready

    def _pull(self) -> None:
        self._report.enter(ReplicaState.PULLING, timeout_s=self._launch.pull_timeout_s)
        told = 0.0

        def progress(share: float) -> None:
            nonlocal told
            if share - told >= _PROGRESS_STEP:
                told = share
                self._report.update(progress=share)

        view = materialise(
            self._launch.files,
            version_digest=self._launch.version_digest,
            blobs=Path(self._assignment.blobs),
            views=Path(self._assignment.views),
            shared=self._launch.engine not in _OWN_CODE,
            pause=self._pause,
            progress=progress,
        )
        if self._launch.environment is not None:
            self._report.update(
                reason="MakingEnvironment", message="Installing the model's Python packages.", progress=None
            )
            self._python = environment.prepare(
                self._launch.environment,
                root=Path(self._assignment.environments),
                model_dir=view,
                pause=self._pause,
                run=self._run_tool,
            )
        else:
            self._python = Path(launching.own_python())
        self._view = view

    def _run_tool(self, argv: Sequence[str]) -> int:
        variables = launching.installer_environment(os.environ)
        name, value = self._mark.split("=", 1)
        tool = EngineProcess.start(
            argv,
            env={**environment.uv_variables(variables), name: value},
            folder=self._folder.path,
            log=self._folder.engine_log,
            mark=self._mark,
        )
        try:
            while not tool.ended():
                self._pause(0.5)
        except BaseException:
            tool.kill()
            raise
        return tool.exit_code or 0

    def _start(self) -> None:
        probe = self._launch.readiness
        for attempt in range(1, LAUNCH_ATTEMPTS + 1):
            log_start = _size(self._folder.engine_log)
            place: dict[str, Any] = {"host": launching.HOST, "port": launching.free_port(), "engine": None}
            # Written before there is an engine: a runner that dies right here leaves word that there may be one.
            if attempt == 1:
                self._report.enter(ReplicaState.STARTING, reason=_LAUNCHING, timeout_s=probe.timeout_s, **place)
            else:
                self._report.update(reason=_LAUNCHING, **place)
            self._launch_engine()
            try:
                self._until_ready()
            except EngineEnded:
                lines = logfile.tail(self._folder.engine_log, since=log_start)
                if attempt == LAUNCH_ATTEMPTS or not says_address_in_use(lines):
                    raise
                self._engine = None
            else:
                break
        self._warm_up()

    def _launch_engine(self) -> None:
        places = {
            "host": launching.HOST,
            "port": str(self.status.port),
            "model_dir": str(self._view),
            "python": str(self._python),
        }
        variables = launching.engine_environment(
            self._launch,
            replica_id=self._assignment.replica_id,
            folder=self._folder.path,
            places=places,
            environment=os.environ,
        )
        argv = [launching.fill(part, places) for part in self._launch.argv]
        argv[0] = launching.find_program(argv[0], path=variables.get("PATH"), folder=self._view)
        try:
            self._engine = EngineProcess.start(
                argv, env=variables, folder=self._view, log=self._folder.engine_log, mark=self._mark
            )
        except OSError as error:
            raise Failure(
                "ProgramNotExecutable", f"{argv[0]!r} could not be executed: {error.strerror}. Correct or reinstall it."
            ) from error
        self._report.update(reason="", engine=self._engine.ref)

    def _adopt(self, *, failing: bool) -> None:
        """Take over the engine that the status names. If it is gone, that is a failure, if `failing`."""
        last = self._last
        if last is None or not _engine_started(last):
            return
        if last.engine is not None and is_alive(last.engine):
            self._engine = EngineProcess(last.engine, mark=self._mark)
            return
        processes.sweep(self._mark, uncollected=0)
        if failing:
            raise Failure("EngineLost", "The engine ended while its runner was away; the log may say why.")

    def _until_ready(self) -> None:
        probe = self._launch.readiness
        left_s = self._report.seconds_left
        again = paced(self._pause, until=time.monotonic() + (probe.timeout_s if left_s is None else left_s))
        while again():
            logfile.cut(self._folder.engine_log)
            if self._probe(probe.path, timeout_s=_PROBE_TIMEOUT_S) == 200:
                return
        raise self._late()

    def _probe(self, path: str, *, timeout_s: float) -> int | None:
        """The status that the engine answers, 200 for a bare connection, None for no answer."""
        deadline = time.monotonic() + timeout_s
        try:
            if not path:
                exchange.connect(self._endpoint, deadline=deadline, pause=self._pause).close()
                return 200
            answer = exchange.request(self._endpoint, path, deadline=deadline, pause=self._pause)
        except OSError as error:
            self._probe_outcome = str(error.strerror or error)
            return None
        self._probe_outcome = f"status {answer.status}"
        return answer.status

    def _warm_up(self) -> None:
        launch = self._launch
        # A state that nothing is done in is not told of: each costs who waits for the replica some milliseconds.
        if launch.warmup and self.status.state is not ReplicaState.WARMING_UP:
            self._report.enter(ReplicaState.WARMING_UP, timeout_s=launch.warmup_timeout_s)
        for warmup in launch.warmup:
            try:
                answer = exchange.request(
                    self._endpoint,
                    warmup.path,
                    deadline=time.monotonic() + (self._report.seconds_left or 0),
                    pause=self._pause,
                    body=warmup_body(warmup, served_name=launch.served_name),
                )
            except OSError as error:
                raise Failure(
                    "WarmupFailed",
                    f"The warm-up request to {warmup.path} got no answer: {error.strerror or error}. "
                    "Correct `warmup` of the card, or see the log.",
                ) from error
            if not 200 <= answer.status < 300:
                text = answer.body[:300].decode(errors="replace").strip()
                raise Failure(
                    "WarmupFailed",
                    f"The warm-up request to {warmup.path} was answered with status {answer.status}: {text} "
                    "Correct `warmup` of the card.",
                )
        self._report.enter(ReplicaState.READY)

    def _watch(self) -> None:
        liveness = self._launch.liveness
        silent = 0
        while True:
            sleep(self._pause, liveness.period_s)
            logfile.cut(self._folder.engine_log)
            self._report.flush()
            answered = self._probe(self._launch.readiness.path, timeout_s=liveness.timeout_s) is not None
            silent = 0 if answered else silent + 1
            if silent >= liveness.failures:
                raise Failure(
                    "Unresponsive",
                    f"The engine did not answer {silent} probes in a row ({self._probe_outcome}) and was ended. "
                    "It may be overloaded or hang; its last lines are in the log.",
                )

    @property
    def _endpoint(self) -> exchange.Endpoint:
        status = self.status
        return exchange.Endpoint(status.host or launching.HOST, status.port or 0, self._launch.token)

    def _drain(self) -> None:
        # Counted before anybody can see the state and ask for more.
        stops = self._signals.stops
        now = time.monotonic()
        left_s = self._report.seconds_left if self.status.state is ReplicaState.DRAINING else None
        ordered = self._stop_deadline.read()
        if left_s is not None:
            deadline = now + left_s if ordered is None else min(now + left_s, ordered)
        else:
            deadline = now + self._launch.drain_timeout_s if ordered is None else ordered
        self._report.enter(
            ReplicaState.DRAINING,
            message="The engine finishes what it is working on.",
            timeout_s=max(0.0, deadline - now),
        )
        if self._end_engine(deadline, stops=stops):
            reason, message = "Killed", "The engine did not end in time after SIGTERM and was killed."
        else:
            reason, message = "Asked", "Stopped as asked."
        exit_code = None if self._engine is None else self._engine.exit_code
        self._report.enter(ReplicaState.STOPPED, reason=reason, message=message, exit_code=exit_code)

    def _end_engine(self, deadline: float, *, stops: int) -> bool:
        """SIGTERM, then SIGKILL at `deadline` (monotonic seconds), to all the engine started; True if it took SIGKILL.

        A further stop than the `stops` so far may bring the deadline forward: to its order's, or to this moment if
        it has none.
        """
        engine = self._engine
        if engine is None:
            return False
        engine.terminate()
        while not engine.ended() and (left_s := deadline - time.monotonic()) > 0:
            self._signals.wait(min(left_s, 0.5), descriptors=engine.watched)
            if self._signals.stops > stops:
                stops = self._signals.stops
                ordered = self._stop_deadline.read()
                deadline = min(deadline, time.monotonic() if ordered is None else ordered)
        forced = not engine.ended()
        engine.kill()
        give_up = time.monotonic() + FAILING_GRACE_S
        while not engine.ended() and time.monotonic() < give_up:
            self._signals.wait(0.1, descriptors=engine.watched)
        return forced

    def _explained(self, end: EngineEnded) -> Failure:
        if end.exit_code is None:
            return Failure("EngineLost", "The engine ended; how is not known, as another runner had started it.")
        diagnosis = diagnose(end.exit_code, logfile.tail(self._folder.engine_log))
        return Failure(diagnosis.reason, diagnosis.message, exit_code=end.exit_code)

    def _late(self) -> Failure:
        match self.status.state:
            case ReplicaState.PULLING:
                return Failure(
                    "PullTimeout",
                    f"The model's files or packages were not in place within {self._launch.pull_timeout_s:g} s.",
                )
            case ReplicaState.WARMING_UP:
                return Failure(
                    "WarmupTimeout",
                    f"The warm-up requests were not answered within {self._launch.warmup_timeout_s:g} s. "
                    "Ask for less in `warmup` of the card.",
                )
            case _:
                probe = self._launch.readiness
                asked = f"GET {probe.path} with 200" if probe.path else "on its port"
                return Failure(
                    "StartTimeout",
                    f"The engine did not answer {asked} within {probe.timeout_s:g} s (last: {self._probe_outcome}). "
                    "Raise start_timeout_seconds of the deployment or readiness.timeout_seconds of the card, "
                    "or see the log.",
                )


def _engine_started(status: ReplicaStatus) -> bool:
    return status.engine is not None or status.reason == _LAUNCHING


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
