"""nginx: what all its uses here have in common."""

from __future__ import annotations

import os
from pathlib import Path


def nginx_file(folder: Path, servers: str, *, file_limit: int) -> list[str]:
    """Write a configuration of one worker, no logs, kept connections; the command that serves it."""
    folder.mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    paths = "\n".join(
        f"    {name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(f"""
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {file_limit};
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections {file_limit}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
{paths}
{servers}
}}
""")
    return ["nginx", "-p", str(folder), "-c", str(file)]
