"""Writes ``docs/reference`` from the code: settings, command, HTTP, metrics. With ``--check``, only looks.

What it writes depends on nothing but the code: not on the terminal, the environment or the machine.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.api import problems
from app.api.application import routes
from app.api.edge import REQUEST_ID_HEADER
from app.cli.main import command_tree
from app.metrics import Metrics
from app.settings import PREFIX, STAGES, Profile

REFERENCE: Final = Path(__file__).resolve().parents[1] / "docs" / "reference"
MADE: Final = "<!-- Made from the code by `make docs`: change it there. -->\n\n"
HELP_COLUMNS: Final = 100

SETTINGS_COME_FROM: Final = (
    f"A setting comes from `{PREFIX}NAME` in the environment, else from `name` in `cordon.toml` "
    f"(`{PREFIX}CONFIG` names another file), else from the default. Unknown names are refused. Lists are "
    "written `a,b` in the environment. Sizes are in bytes."
)
PROFILES_ARE: Final = (
    "Tables `[profile.NAME]` in `cordon.toml`. A key is bound to one by `cordon key create --profile NAME`; "
    "`default` always exists."
)

METRICS_ARE: Final = (
    "`GET /metrics` needs no token: keep it inside. Each gate tells of itself; the queue, the alarms and the "
    "custodians are those of all. No label carries a URL, a host, a hash, an account, a key or a bank. "
    "`cordon report alarms` says what to do about each kind of alarm, and `cordon doctor` what each control "
    "is. The worker has no port: what it finds it raises as alarms."
)


def settings() -> str:
    """Every setting with its default and meaning, a table a stage, and what a profile may hold."""
    lines = ["# Settings", "", SETTINGS_COME_FROM]
    for model in STAGES.values():
        lines += ["", f"## {(model.__doc__ or '').rstrip('.')}", "", *_fields(model, PREFIX)]
    lines += ["", "## Profiles", "", PROFILES_ARE, "", *_fields(Profile, "")]
    return "\n".join(lines) + "\n"


def _fields(model: type[BaseModel], prefix: str) -> list[str]:
    rows = [
        f"| `{prefix}{name.upper() if prefix else name}` | {_default(field)} | {_cell(field.description)} |"
        for name, field in model.model_fields.items()
    ]
    return ["| name | default | |", "| --- | --- | --- |", *rows]


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    if value is None or value in ((), frozenset()):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, frozenset):
        return f"`{','.join(str(item) for item in sorted(value))}`"
    return f"`{value}`"


def command_line() -> str:
    """The help of every command, as ``--help`` prints it."""
    sections = [
        f"{'#' * (1 + path.count(' '))} {path}\n\n```text\n{text}\n```\n"
        for path, text in _helps(command_tree(), None)
    ]
    return "\n".join(sections)


def _helps(command: Any, parent: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - typer's base class is private
    settings = command.context_settings | {"terminal_width": HELP_COLUMNS}
    context = command.context_class(command, info_name=command.name, parent=parent, **settings)
    yield context.command_path, command.get_help(context)
    for child in getattr(command, "commands", {}).values():
        yield from _helps(child, context)


def http(document: dict[str, Any]) -> str:
    """Routes, schemas and errors, from the OpenAPI document."""
    lines = [
        "# HTTP",
        "",
        document["info"]["description"],
        "",
        "[openapi.json](openapi.json) says the same.",
        "",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += [
                f"## {method.upper()} {path}",
                "",
                f"{operation['summary']}. {operation['description']}",
                "",
            ]
            lines += _parameters(operation)
            lines += _bodies(operation)
            lines += _answers(operation)
    lines += ["## Schemas", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += _schema(name, schema)
    lines += [
        "## Errors",
        "",
        f"`{problems.MEDIA_TYPE}`, shaped as `Problem` above.",
        "",
        "| code | status | |",
        "| --- | --- | --- |",
        *(f"| `{code}` | {status} | {title} |" for code, (status, title) in problems.STATUSES.items()),
    ]
    return "\n".join(lines) + "\n"


def _parameters(operation: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {_cell(one.get('description'))} |"
        for one in operation.get("parameters", [])
    ]
    return ["| parameter | in | type | |", "| --- | --- | --- | --- |", *rows, ""] if rows else []


def _bodies(operation: dict[str, Any]) -> list[str]:
    content = operation.get("requestBody", {}).get("content", {})
    rows = [f"| `{media_type}` | {_type(body.get('schema', {}))} |" for media_type, body in content.items()]
    examples = [
        f"```json\n{json.dumps(body['example'])}\n```\n"
        for body in content.values()
        if isinstance(body.get("example"), dict)
    ]
    return ["| body | |", "| --- | --- |", *rows, "", *examples] if rows else []


def _answers(operation: dict[str, Any]) -> list[str]:
    rows = []
    for status, answer in sorted(operation["responses"].items()):
        content = answer.get("content", {})
        codes = content.get(problems.MEDIA_TYPE, {}).get("examples", {})
        what = ", ".join(f"`{code}`" for code in codes) or ", ".join(
            f"`{media_type}` {_type(body.get('schema', {}))}".rstrip() for media_type, body in content.items()
        )
        headers = ", ".join(f"`{name}`" for name in answer["headers"] if name != REQUEST_ID_HEADER)
        rows.append(f"| {status} | {_cell(answer['description'])} | {what} | {headers} |")
    return ["| answer | | | headers |", "| --- | --- | --- | --- |", *rows, ""]


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", "", schema.get("description", ""), ""]
    if "enum" in schema:
        return [*lines, ", ".join(f"`{value}`" for value in schema["enum"]), ""]
    required = set(schema.get("required", []))
    rows = [
        f"| `{key}`{'' if key in required else ' (optional)'} | {_type(value)} "
        f"| {_cell(value.get('description'))} |"
        for key, value in schema.get("properties", {}).items()
    ]
    return [*lines, "| member | type | |", "| --- | --- | --- |", *rows, ""] if rows else lines


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}".removesuffix(" of ")
    if "properties" in schema:
        return ", ".join(f"`{key}`: {_type(value)}" for key, value in schema["properties"].items())
    lines = schema.get("contentSchema")
    form = f"lines of {_type(lines)}" if lines else schema.get("format", "")
    limits = (
        f"{schema.get('minLength', 0)} to {schema['maxLength']} characters" if "maxLength" in schema else ""
    )
    detail = ", ".join(part for part in (form, limits) if part)
    return f"{schema.get('type', '')}{f' ({detail})' if detail else ''}"


def metrics() -> str:
    """Every metric with its labels."""
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(map('`{}`'.format, each.labels))} | {_cell(each.text)} |"
        for each in Metrics().described
    ]
    return (
        "\n".join(
            [
                "# Metrics",
                "",
                METRICS_ARE,
                "",
                "| name | kind | labels | |",
                "| --- | --- | --- | --- |",
                *rows,
            ]
        )
        + "\n"
    )


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def pages() -> dict[str, str]:
    """The contents of each file of the reference."""
    document = routes().openapi()
    return {
        "settings.md": MADE + settings(),
        "cli.md": MADE + command_line(),
        "http.md": MADE + http(document),
        "metrics.md": MADE + metrics(),
        "openapi.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
    }


def main() -> None:
    """Write the files, or name those that are not current and fail."""
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        page = REFERENCE / name
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            sys.exit(f"docs/reference/{name} is not current: run 'make docs'")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
