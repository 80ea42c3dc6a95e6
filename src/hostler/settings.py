"""The platform's settings: one frozen object, read from `HOSTLER_*` variables; a flag replaces its variable."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostler.spec.errors import InvalidRequest

PREFIX = "HOSTLER_"
MAX_SOCKET_FOLDER_BYTES = 90
_NOT_SETTINGS = frozenset({"HOSTLER_REPLICA_TOKEN", "HOSTLER_REPLICA_ID", "HOSTLER_REPLICA_DIR", "HOSTLER_FEED_TOKEN"})


def _setting(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Every setting, with its default. `HOSTLER_` and the upper-case name is its variable."""

    home: Path | None = _setting(None, "Folder that holds all state. Default: the user's data folder for Hostler.")
    host: str = _setting("127.0.0.1", "Address the front door and the API listen on.")
    port: int = _setting(8000, "Port of the front door.")
    api_port: int = _setting(8001, "Port of the control API and the console.")
    workers: int = _setting(1, "Gateway workers that share the front door's port.")
    controls: int = _setting(1, "Control planes: one acts, the others stand by to take over.")
    url: str | None = _setting(None, "Control API the commands talk to. Default: the platform on this machine.")
    api_key: str | None = _setting(None, "API key the commands use. Default: the one in the home's credentials file.")
    feed: str | None = _setting(
        None, "Where gateways reach control: a socket's path, or tcp://HOST:PORT for other hosts."
    )
    max_body_bytes: int = _setting(32 * 1024 * 1024, "Largest request body that must be read to be routed.")
    admin_port: int = _setting(
        8002, "Port of the first gateway worker's metrics, on loopback; worker N has the Nth after it. 0 is none."
    )
    tls_certificate: Path | None = _setting(None, "PEM file with the front door's certificate chain; makes it HTTPS.")
    tls_key: Path | None = _setting(None, "PEM file with the certificate's private key.")
    allowed_hosts: str = _setting("", "Host names the front door answers to, separated by commas. Empty: any.")
    max_connections_per_address: int = _setting(1000, "Connections one client address may have with a gateway worker.")
    access_log: str = _setting("", "File that gets a line of JSON for each request; `-` is stdout. Empty: none.")
    redis_url: str | None = _setting(None, "Redis that several workers or hosts share rate limits through.")
    redis_away: str = _setting(
        "closed", "What happens to limited requests while Redis is away: `closed` refuses them, `open` serves them."
    )
    journal_max_bytes: int = _setting(256 * 1024 * 1024, "Most bytes of usage that control has not taken yet, on disk.")
    journal_full: str = _setting(
        "serve", "What happens when the journal is full: `serve` without a record, or `refuse` requests."
    )
    usage_kept_days: int = _setting(90, "Days the ledger keeps a row for each request; sums by day are kept for ever.")
    start_timeout_seconds: float = _setting(30.0, "Seconds `hostler up` waits for its parts before it gives up.")
    stop_grace_seconds: float = _setting(10.0, "Seconds a process has between SIGTERM and SIGKILL at `hostler down`.")
    log_level: str = _setting("info", "Least level that is logged: debug, info, warning or error.")

    @property
    def paths(self) -> Home:
        """The layout of the home folder."""
        return Home(self.home if self.home is not None else default_home())

    @property
    def gateway_url(self) -> str:
        """Where clients reach the front door."""
        scheme = "http" if self.tls_certificate is None else "https"
        return f"{scheme}://{url_host(self.host)}:{self.port}"

    @property
    def api_url(self) -> str:
        """Where commands reach control."""
        return self.url or f"http://{url_host(self.host)}:{self.api_port}"


@dataclass(frozen=True, slots=True)
class Home:
    """The layout of the home folder (`HOSTLER_HOME`)."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "hostler.db"

    @property
    def models(self) -> Path:
        """Blobs and manifests of the platform."""
        return self.root / "models"

    @property
    def cards(self) -> Path:
        """Manifests of models created here and not pushed yet."""
        return self.root / "cards"

    @property
    def views(self) -> Path:
        """Versions as folders of links to blobs, for engines to open."""
        return self.root / "views"

    @property
    def replicas(self) -> Path:
        return self.root / "replicas"

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def environments(self) -> Path:
        """Cached Python environments of `python` models."""
        return self.root / "environments"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def run(self) -> Path:
        """Sockets, process files and the logs of the platform's own processes."""
        return self.root / "run"

    @property
    def snapshot(self) -> Path:
        """The gateways' last snapshot."""
        return self.run / "snapshot.msgpack"

    @property
    def sockets(self) -> Path:
        """`run`, or a short folder for this home where the kernel's limit on socket paths (107 bytes) needs one."""
        if len(os.fsencode(self.run.absolute())) <= MAX_SOCKET_FOLDER_BYTES:
            return self.run
        digest = hashlib.sha256(os.fsencode(self.root.absolute())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"hostler-{os.geteuid()}-{digest}"

    @property
    def feed_socket(self) -> Path:
        return self.sockets / "feed.sock"

    @property
    def feed_token(self) -> Path:
        return self.run / "feed.token"

    @property
    def hints_socket(self) -> Path:
        """Datagrams from runners: the id of a replica whose status changed."""
        return self.sockets / "hints.sock"

    @property
    def platform(self) -> Path:
        """Addresses of the platform that runs, for commands."""
        return self.run / "platform.json"

    @property
    def journal(self) -> Path:
        """The gateways' usage that control has not taken yet."""
        return self.root / "journal"

    @property
    def credentials(self) -> Path:
        """The first API key, mode 0600."""
        return self.root / "credentials"

    def create(self) -> None:
        """Make the folders, readable by their owner alone. Idempotent.

        Raises `InvalidRequest` if the home cannot be written, or its folder for sockets is somebody else's.
        """
        folders = (self.root, self.models, self.cards, self.views, self.replicas, self.engines, self.secrets, self.run)
        for path in (*folders, self.journal, self.environments, self.sockets):
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise InvalidRequest(
                    f"home: {path} cannot be made: {error.strerror}.",
                    hint="Name a folder you may write with --home.",
                    param="home",
                    code="home_unusable",
                ) from None
        for path in (self.root, self.sockets):
            found = path.stat() if path == self.root else path.lstat()
            if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
                raise InvalidRequest(
                    f"home: {path} belongs to another user, or others may write to it.",
                    hint=f"Make it yours alone with chmod 700 {path}, or use another --home.",
                    param="home",
                    code="home_unsafe",
                )


def default_home() -> Path:
    """The user's data folder for Hostler."""
    import platformdirs

    return Path(platformdirs.user_data_dir("hostler"))


def url_host(host: str) -> str:
    """A listening address as a client writes it: loopback for a wildcard, brackets for IPv6."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def load_settings(environment: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """Settings from `environment` (the process's own if None); `flags` that are not None replace them.

    A `HOSTLER_` variable nobody knows is an error with a suggestion, so that a misspelt one is not ignored.
    """
    environment = os.environ if environment is None else environment
    known = {PREFIX + spec.name.upper(): spec for spec in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS:
            continue
        spec = known.get(variable)
        if spec is None:
            close = difflib.get_close_matches(variable, known, n=1)
            raise InvalidRequest(
                f"{variable}: no such setting.",
                hint=f"Did you mean {close[0]}?" if close else "See docs/settings.md for all of them.",
                param=variable,
                code="unknown_setting",
            )
        values[spec.name] = _read(spec, variable, text)
    values.update({name: value for name, value in flags.items() if value is not None})
    settings = Settings(**values)
    _check(settings)
    return settings


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as variables, for child processes. The API key is left out: children read credentials."""
    variables: dict[str, str] = {}
    for spec in dataclasses.fields(Settings):
        value = getattr(settings, spec.name)
        if value is not None and spec.name not in ("api_key", "url"):
            variables[PREFIX + spec.name.upper()] = str(value)
    return variables


def _read(spec: dataclasses.Field[Any], variable: str, text: str) -> Any:
    types: dict[str, Any] = {"int": int, "float": float, "Path | None": Path}
    convert = types.get(str(spec.type), str)
    try:
        return convert(text)
    except ValueError:
        raise InvalidRequest(
            f"{variable}: {text!r} is not a number.",
            hint=f"The default is {spec.default}.",
            param=variable,
            code="invalid_setting",
        ) from None


def _check(settings: Settings) -> None:
    for name in ("port", "api_port"):
        value = getattr(settings, name)
        if not 1 <= value <= 65535:
            raise InvalidRequest(f"{name}: {value} is not a port.", hint="Use 1 to 65535.", param=name)
    if settings.port == settings.api_port:
        raise InvalidRequest(
            f"port and api_port are both {settings.port}.",
            hint="Give the API another with --api-port.",
            param="api_port",
        )
    if not 1 <= settings.workers <= 256:
        raise InvalidRequest(f"workers: {settings.workers} is out of range.", hint="Use 1 to 256.", param="workers")
    _check_front_door(settings)
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise InvalidRequest(
            f"log_level: {settings.log_level!r} is not a level.",
            hint="Use debug, info, warning or error.",
            param="log_level",
        )


def _check_front_door(settings: Settings) -> None:
    if not 1 <= settings.controls <= 5:
        raise InvalidRequest(f"controls: {settings.controls} is out of range.", hint="Use 1 to 5.", param="controls")
    if not 0 <= settings.admin_port <= 65535 - settings.workers:
        raise InvalidRequest(
            f"admin_port: {settings.admin_port} leaves no port for each worker.",
            hint="Use 0 for none, or a lower port.",
            param="admin_port",
        )
    for name in ("port", "api_port"):
        if settings.admin_port and 0 <= getattr(settings, name) - settings.admin_port < settings.workers:
            raise InvalidRequest(
                f"{name}: {getattr(settings, name)} is the admin port of a gateway worker.",
                hint="Give the first worker's metrics another with HOSTLER_ADMIN_PORT; 0 is none.",
                param=name,
            )
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_certificate"
        raise InvalidRequest(
            f"{missing} is missing: TLS needs a certificate and its key.",
            hint=f"Set HOSTLER_{missing.upper()} too, or neither.",
            param=missing,
        )
    for name in ("max_connections_per_address", "journal_max_bytes", "usage_kept_days"):
        value = getattr(settings, name)
        if value < 1:
            raise InvalidRequest(f"{name}: {value} is out of range.", hint="Use 1 or more.", param=name)
    for name, choices in (("redis_away", ("closed", "open")), ("journal_full", ("serve", "refuse"))):
        value = getattr(settings, name)
        if value not in choices:
            raise InvalidRequest(f"{name}: {value!r} is not a choice.", hint=f"Use {' or '.join(choices)}.", param=name)
