"""The `hostler` command: the table of commands and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from hostler import __version__
from hostler.cli.lazy import Entry, LazyGroup
from hostler.settings import default_home
from hostler.spec.errors import HostlerError

_PLATFORM = "Platform"
_MODELS = "Models"
_DEPLOYMENTS = "Deployments"
_USE = "Use"
_ACCESS = "Access and engines"

COMMANDS: dict[str, Entry] = {
    "up": Entry("hostler.cli.platform:up", _PLATFORM, "Start the platform on this machine."),
    "down": Entry("hostler.cli.platform:down", _PLATFORM, "Stop the platform and everything it runs."),
    "reload": Entry("hostler.cli.platform:reload", _PLATFORM, "Replace the gateway workers without a failed request."),
    "status": Entry("hostler.cli.platform:status", _PLATFORM, "Show the platform and its deployments."),
    "backup": Entry("hostler.cli.archive:backup", _PLATFORM, "Write the platform to one file, while it runs."),
    "restore": Entry("hostler.cli.archive:restore", _PLATFORM, "Make a platform of such a file."),
    "monitoring": Entry("hostler.cli.monitoring:monitoring", _PLATFORM, "Alerts and a dashboard for its metrics."),
    "doctor": Entry("hostler.cli.doctor:doctor", _PLATFORM, "Check this machine and say what to change."),
    "demo": Entry("hostler.cli.demo:demo", _PLATFORM, "Deploy two example models, call them, measure them."),
    "model": Entry("hostler.cli.model:model", _MODELS, "Create, push, pull and list models."),
    "serve": Entry("hostler.cli.serve:serve", _DEPLOYMENTS, "Serve one file, folder or repository in one go."),
    "deploy": Entry("hostler.cli.deploy:deploy", _DEPLOYMENTS, "Deploy a model and wait until it is ready."),
    "apply": Entry("hostler.cli.apply:apply", _DEPLOYMENTS, "Make models and deployments as a file says."),
    "describe": Entry("hostler.cli.deployments:describe", _DEPLOYMENTS, "Show a deployment and why it is so."),
    "events": Entry("hostler.cli.deployments:events", _DEPLOYMENTS, "Show what happened."),
    "logs": Entry("hostler.cli.deployments:logs", _DEPLOYMENTS, "Show what the engines print."),
    "scale": Entry("hostler.cli.deployments:scale", _DEPLOYMENTS, "Set the number of replicas, or its bounds."),
    "stop": Entry("hostler.cli.deployments:stop", _DEPLOYMENTS, "Stop a deployment's replicas and keep it."),
    "start": Entry("hostler.cli.deployments:start", _DEPLOYMENTS, "Start a stopped or failed deployment again."),
    "delete": Entry("hostler.cli.deployments:delete", _DEPLOYMENTS, "Drain a deployment and forget it."),
    "diff": Entry("hostler.cli.rollouts:diff", _DEPLOYMENTS, "Show what a file would change, and how."),
    "promote": Entry("hostler.cli.rollouts:promote", _DEPLOYMENTS, "Let a rollout go on without further waiting."),
    "rollback": Entry("hostler.cli.rollouts:rollback", _DEPLOYMENTS, "Run the revision before again, or any."),
    "predict": Entry("hostler.cli.predict:predict", _USE, "Send one request to an endpoint."),
    "chat": Entry("hostler.cli.chat:chat", _USE, "Talk to a language model."),
    "bench": Entry("hostler.cli.bench:bench", _USE, "Load an endpoint and print the figures."),
    "simulate": Entry(
        "hostler.cli.simulate:simulate", _USE, "Replay traffic under scaling policies, without a platform."
    ),
    "usage": Entry("hostler.cli.usage:usage", _ACCESS, "Show what was used, by key, endpoint, project or day."),
    "key": Entry("hostler.cli.access:key", _ACCESS, "Create, list, limit and revoke API keys."),
    "secret": Entry("hostler.cli.access:secret", _ACCESS, "Set, list and delete secrets for engines."),
    "engine": Entry("hostler.cli.engine:engine", _ACCESS, "List, install, add and remove engines."),
    "schema": Entry("hostler.cli.schema:schema", _ACCESS, "Print the JSON Schemas of the YAML files."),
}

EPILOG = """\b
Exit codes:
  0  done
  1  failed
  2  wrong command, option or argument
  3  not found
  4  refused: a value, a key, the memory or a model is not right
  5  the platform or the endpoint is not available
  6  conflict: it exists, is in use, or a port is taken
  7  a deadline passed
  130  interrupted

\b
The commands read HOSTLER_URL, HOSTLER_HOME and HOSTLER_API_KEY; without a key they use the home's credentials file.
"""

root = LazyGroup(
    "hostler",
    table=COMMANDS,
    help="Deploy any model on your own machines and call it through one OpenAI-compatible front door.",
    epilog=EPILOG,
)
root = click.version_option(__version__, prog_name="hostler", message="%(prog)s %(version)s")(root)


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; answers its exit code. Errors are one or two lines on stderr, never a traceback."""
    try:
        answer = root.main(list(arguments), prog_name="hostler", standalone_mode=False)
    except click.UsageError as error:
        return _usage(error)
    except click.ClickException as error:
        return _told(error.format_message(), None, code=1)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except HostlerError as error:
        return _told(error.message, error.hint, code=error.exit_code)
    except Exception as error:  # noqa: BLE001 the outermost frame: a fault of ours is told in two lines
        return _unexpected(error)
    return answer if isinstance(answer, int) else 0


def _usage(error: click.UsageError) -> int:
    message = error.format_message().rstrip()
    context = error.ctx
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(message, err=True)
        return error.exit_code
    command = context.command_path if context is not None else "hostler"
    return _told(message, f"See `{command} --help`.", code=error.exit_code)


def _unexpected(error: Exception) -> int:
    if os.environ.get("HOSTLER_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    home = os.environ.get("HOSTLER_HOME") or default_home()
    return _told(
        f"this is a fault in Hostler: {type(error).__name__}: {error}",
        f"The platform's logs are in {home}/run; HOSTLER_LOG_LEVEL=debug shows where it happened.",
        code=1,
    )


def _told(message: str, hint: str | None, *, code: int) -> int:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {' '.join(message.split())}", err=True)
    if hint:
        click.echo(f"       {hint}", err=True)
    return code
