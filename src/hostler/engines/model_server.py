"""What the engines that run Hostler's own model server have in common."""

from __future__ import annotations

from hostler.engines.cards import files_of, probe_of, warmup_of
from hostler.engines.engine import LaunchRequest
from hostler.spec.launch import LaunchSpec, PythonEnvironment
from hostler.spec.version import ModelVersion

TOKEN_VARIABLE = "HOSTLER_REPLICA_TOKEN"  # noqa: S105 - the name of a variable


def model_server_launch(
    version: ModelVersion,
    request: LaunchRequest,
    *,
    kind: str,
    python: str,
    arguments: tuple[str, ...] = (),
    environment: PythonEnvironment | None = None,
) -> LaunchSpec:
    """How `kind` is served by the interpreter `python`."""
    argv = [python, "-P", "-m", "hostler.runner.model_server", "--name", request.served_name, "--kind", kind]
    argv += ["--dir", "{model_dir}", "--host", "{host}", "--port", "{port}", *arguments]
    if request.cpu is not None:
        argv += ["--threads", str(max(1, round(request.cpu)))]
    return LaunchSpec(
        engine=kind,
        served_name=request.served_name,
        argv=(*argv, *request.args),
        # The model's folder is shared by all replicas of a version: nothing is written into it.
        env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **request.env},
        files=files_of(version),
        version_digest=version.digest,
        readiness=probe_of(version, request, path="/ready"),
        warmup=warmup_of(version),
        environment=environment,
        token_env=TOKEN_VARIABLE,
        drain_timeout_s=request.drain_timeout_s,
    )
