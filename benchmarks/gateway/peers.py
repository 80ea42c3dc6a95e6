"""The proxies that are compared: what each is started with. None logs requests; all keep connections on both sides."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway.nginx import nginx_file
from benchmarks.gateway.traffic import KEY, PLAIN_MODEL, STREAM_MODEL

ROOT = Path(__file__).parents[2]
ENVOY = ROOT / ".venv-bench-envoy/bin/envoy"
LITELLM = ROOT / ".venv-bench-litellm/bin/litellm"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer runs: a folder that is not there yet, two ports and one to administer it, the upstreams."""

    folder: Path
    plain_port: int
    stream_port: int
    admin_port: int
    plain_upstream: int
    stream_upstream: int
    file_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a peer is started. One that routes by model serves both kinds of request on the port for plain ones."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    beside: tuple[list[str], ...] = ()
    """Commands of what it needs around it, which are no part of it."""
    one_port: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A proxy. `version` is None where it is not installed. A slow one is spared the loads it could only fail."""

    name: str
    version: Callable[[], str | None]
    launch: Callable[[Site], Launch]
    slow: bool = False


def printed_version(command: list[str], pattern: str) -> str | None:
    """The first group of `pattern` in what the command prints; None if the program is not there."""
    if shutil.which(command[0]) is None:
        return None
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(pattern, ended.stdout + ended.stderr)
    return found[1] if found else "unknown"


def _nginx(site: Site) -> Launch:
    servers = f"""
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream plain {{
        server 127.0.0.1:{site.plain_upstream};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    upstream streams {{
        server 127.0.0.1:{site.stream_upstream};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{site.plain_port} backlog=4096;
        location / {{ proxy_pass http://plain; }}
    }}
    server {{
        listen 127.0.0.1:{site.stream_port} backlog=4096;
        location / {{ proxy_pass http://streams; proxy_buffering off; }}
    }}"""
    return Launch(command=nginx_file(site.folder, servers, file_limit=site.file_limit))


def _haproxy(site: Site) -> Launch:
    site.folder.mkdir(parents=True)
    connections = (site.file_limit - 200) // 2
    pairs = (
        ("plain", site.plain_port, site.plain_upstream, ""),
        ("streams", site.stream_port, site.stream_upstream, "option http-no-delay"),
    )
    proxies = "\n".join(
        f"""
listen {name}
    bind 127.0.0.1:{port} backlog 4096
    {option}
    server upstream 127.0.0.1:{upstream}"""
        for name, port, upstream, option in pairs
    )
    file = site.folder / "haproxy.cfg"
    file.write_text(f"""
global
    nbthread 1
    maxconn {connections}
defaults
    mode http
    maxconn {connections}
    http-reuse always
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
{proxies}
""")
    return Launch(command=["haproxy", "-db", "-q", "-f", str(file)])


def _envoy(site: Site) -> Launch:
    site.folder.mkdir(parents=True)
    file = site.folder / "envoy.yaml"
    pairs = (
        ("plain", site.plain_port, site.plain_upstream),
        ("streams", site.stream_port, site.stream_upstream),
    )
    listeners = "".join(_envoy_listener(name, port) for name, port, _ in pairs)
    clusters = "".join(_envoy_cluster(name, upstream) for name, _, upstream in pairs)
    file.write_text(f"static_resources:\n  listeners:{listeners}\n  clusters:{clusters}\n")
    return Launch(
        command=[str(ENVOY), "-c", str(file), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    )


def _envoy_listener(name: str, port: int) -> str:
    return f"""
  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          codec_type: HTTP1
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: {name}, timeout: 0s}}}}]
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"""


def _envoy_cluster(name: str, port: int) -> str:
    most = "max_connections: 100000, max_pending_requests: 100000, max_requests: 100000"
    return f"""
  - name: {name}
    type: STATIC
    circuit_breakers: {{thresholds: [{{{most}}}]}}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"""


def _litellm(site: Site) -> Launch:
    site.folder.mkdir(parents=True)
    file = site.folder / "config.yaml"
    models = "".join(
        f"""
- model_name: {name}
  litellm_params: {{model: openai/{name}, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}"""
        for name, upstream in ((PLAIN_MODEL, site.plain_upstream), (STREAM_MODEL, site.stream_upstream))
    )
    file.write_text(f"model_list:{models}\ngeneral_settings: {{master_key: {KEY}}}\n")
    command = [str(LITELLM), "--config", str(file), "--host", "127.0.0.1", "--port", str(site.plain_port)]
    return Launch(
        command=[*command, "--num_workers", "1", "--telemetry", "False"],
        environment={"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"},
        one_port=True,
    )


def _litellm_version() -> str | None:
    python = LITELLM.with_name("python")
    code = "import importlib.metadata as m; print('litellm', m.version('litellm'))"
    return printed_version([str(python), "-c", code], r"litellm (\S+)") if LITELLM.exists() else None


NGINX = Peer(name="nginx", version=lambda: printed_version(["nginx", "-v"], r"nginx/(\S+)"), launch=_nginx)
PROXIES = (
    NGINX,
    Peer(name="HAProxy", version=lambda: printed_version(["haproxy", "-v"], r"version (\d[\d.]*)"), launch=_haproxy),
    Peer(
        name="Envoy",
        version=lambda: printed_version([str(ENVOY), "--version"], r"/(\d+\.\d+\.\d+)/"),
        launch=_envoy,
    ),
    Peer(name="LiteLLM", version=_litellm_version, launch=_litellm, slow=True),
)
