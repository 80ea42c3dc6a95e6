"""A scaling policy from a file: a deployment's, or one that holds `autoscale` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import yaml
from pydantic import Field

from hostler.spec.autoscale import Autoscale
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.documents import validated
from hostler.spec.errors import InvalidRequest
from hostler.spec.fields import Declared
from hostler.spec.yaml_text import load_yaml


class PolicyFile(Declared):
    """What a file says about scaling."""

    autoscale: Autoscale
    replica_concurrency: int | None = Field(default=None, ge=1, le=100_000)


def read_policy(path: Path) -> PolicyFile:
    """The first document of `path` with an `autoscale` block. Errors name file, line, field and remedy."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InvalidRequest(
            f"policy: {path} cannot be read: {told}.",
            hint="Give a YAML file with an `autoscale:` block.",
            param="policy",
        ) from None
    for number, document in enumerate(load_yaml(text, str(path))):
        if isinstance(document, dict) and "autoscale" in document:
            return _policy(cast("dict[str, object]", document), text, path=path, number=number)
    raise InvalidRequest(
        f"policy: {path} has no `autoscale:` block.",
        hint="Put the fields under `autoscale:`, as in a deployment's file.",
        param="policy",
    )


def _policy(document: Mapping[str, object], text: str, *, path: Path, number: int) -> PolicyFile:
    try:
        if "kind" in document or "model" in document:
            spec = validated(DeploymentSpec, document, where=str(path))
            return PolicyFile(autoscale=spec.autoscale or Autoscale(), replica_concurrency=spec.replica_concurrency)
        return validated(PolicyFile, document, where=str(path))
    except InvalidRequest as error:
        line = _line_of(text, number, error.param or "autoscale")
        message = error.message.replace(f"{path}: ", f"{path}, line {line}: ", 1)
        raise InvalidRequest(message, hint=error.hint, param=error.param, code=error.code) from None


def _line_of(text: str, number: int, field: str) -> int:
    """The line of a dotted field in a document that could be read; the closest parent's if it is missing."""
    documents = list(yaml.compose_all(text, yaml.SafeLoader))
    # As `load_yaml` counts them: empty ones are left out.
    node = [one for one in documents if one.tag != "tag:yaml.org,2002:null"][number]
    line = node.start_mark.line
    for part in field.split("."):
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = cast("yaml.Node", node.value[int(part)])
            line = node.start_mark.line
    return line + 1
