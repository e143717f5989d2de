"""Reference pages from the code: errors, commands, keys of the federation file, the Python API."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import docstrings as doc
import typer

import choral
from choral import data
from choral.cli.app import app
from choral.cli.bench import UNBUILT as BENCHES
from choral.cli.unbuilt import UNBUILT
from choral.config import federation as fed
from choral.core import errors
from choral.core.exact import Encoding
from choral.core.failpoints import FAILPOINTS, LEDGER_FAILPOINTS
from choral.core.plan import Local
from choral.data.partitioners import PARTITIONERS
from choral.federation.policy import RoundPolicy, RunPolicy
from choral.selection import SELECTIONS
from choral.strategies import STRATEGIES
from choral.tasks import zoo

ADVICE = {
    "error": "Read the message.",
    "config": "Correct the setting that the message names.",
    "unknown_key": "Take the key that the hint names, or remove yours.",
    "unknown_name": "Take the name that the hint names, or one of those it lists.",
    "task_not_found": "Look at the folder and the module that the message names.",
    "plan": "Take the part out that does not fit, or choose another aggregation.",
    "not_built": "Leave it out; the hint says what does the work until then.",
    "missing_extra": "Install the extra that the hint names.",
    "certificate": "Look at the file that the message names; the hint says what puts it right.",
    "data": "Correct the file or the arrays that the message names.",
    "corrupt_row": "Correct the cell, or drop such rows with `simulation.missing: drop`.",
    "schema_mismatch": "Correct the columns, or the schema.",
    "empty_client": "Remove the client, or give it examples.",
    "update_rejected": "Look at the client's task: the round went on without it.",
    "wrong_shape": "Let the task return what `Update.between` builds.",
    "not_finite": "Take a smaller learning rate, or look for a division by zero.",
    "out_of_range": "Raise `encoding.range` or `encoding.weight_cap`, or standardise features.",
    "client_error": "Read the client's traceback, which is printed once.",
    "worker_lost": "Look whether memory ran out; give each worker fewer or smaller clients.",
    "run_failed": "Look at `failures` in the result.",
    "no_quorum": "Look at `failures`; lower `round.quorum`, or raise `round.deadline_s`.",
    "round_spent": "Start a new run. One with more clients than a round needs outlives this.",
    "store": "Look at the run's folder.",
    "run_exists": "Choose another `--out`, remove the folder, or add `--resume`.",
    "nothing_to_resume": "Start the run without `--resume`.",
    "resume_mismatch": "Give the configuration that the run was started with.",
    "fenced": "Let the other process go on.",
    "conflict": "Read the log again, decide again, append again; Choral does so by itself.",
    "store_unavailable": "Try again later; look at the database or the object store.",
    "tampered_ledger": "Stop, and find out who changed it; restore it from a copy.",
    "rolled_back_ledger": "Restore the newest copy: releases since then are not in this one.",
    "tampered_audit": "Stop, and find out who changed it; `choral audit verify` says what.",
    "rolled_back_audit": "Ask the coordinator's operator; the guide on the audit trail says how.",
    "corrupt_blob": "Restore the run's folder from a copy.",
    "transfer": "Send it again; where it comes back, look at what sends it.",
    "malformed": "Bring both sides to one version of Choral.",
    "too_large": "Send less, or raise the limit that the message names.",
    "wrong_digest": "Send it again from the first byte.",
    "truncated": "Go on from the offset that is held; Choral does so by itself.",
    "out_of_order": "Go on from the offset that is held; Choral does so by itself.",
    "corrupt_chunk": "Go on from the offset that is held; look at the network where it comes back.",
    "unavailable": "Try again later; look at the address, the network and the certificates.",
    "refused": "Ask whoever owns the policy.",
    "budget_exhausted": "Ask whoever owns the budget; the message says what is left.",
    "stale": "Nothing: ask for new work. A client does that by itself.",
    "version_mismatch": "Upgrade the older side.",
}
"""What a reader can do about an error, by its code."""


# --- errors ---------------------------------------------------------------------------------------


def error_tree() -> str:
    """Return the tree of errors, as its module draws it."""
    found = re.search(r"```\n(.*?)```", errors.__doc__ or "", re.DOTALL)
    drawn = found.group(1) if found else ""
    return f"```text\n{drawn}```\n"


CRASHES = Path(__file__).resolve().parents[1] / "tests" / "e2e" / "crashes.json"
"""What came of each case of the crash matrix; `tests/e2e/test_crashes.py` writes it."""


def crash_matrix() -> str:
    """Return what came of every failpoint under each aggregation on each store."""
    record = json.loads(CRASHES.read_text(encoding="utf-8"))
    columns = [(a, s) for a in ("plain", "secure") for s in ("sqlite", "postgresql")]
    heads = " | ".join(f"{a}, {'SQLite' if s == 'sqlite' else 'PostgreSQL'}" for a, s in columns)
    lines = [f"| killed at | {heads} |", "|---|---|---|---|---|"]
    for point in dict.fromkeys(case.rsplit("-", 2)[0] for case in record):
        found = [_outcome(record.get(f"{point}-{a}-{s}")) for a, s in columns]
        lines.append(f"| `{point}` | {' | '.join(found)} |")
    return "\n".join(lines)


def _outcome(case: dict[str, Any] | None) -> str:
    """Return what came of one case: whether a round was tried again, and when it served."""
    if case is None:
        return "not reached"
    tried = "same attempt" if case["attempts"] == case["rounds"] else "tried again"
    served = case["serving_s"]
    return tried if served is None else f"{tried}, {served:.1f} s"


def failpoints() -> str:
    """Return the table of failpoints."""
    every = FAILPOINTS | LEDGER_FAILPOINTS
    rows = [f"| `{name}` | {what} |" for name, what in every.items()]
    return "\n".join(["| failpoint | when it is reached |", "|---|---|", *rows])


def error_table() -> str:
    """Return every error with its code, exit code and advice."""
    rows = [
        "| error | code | exit code | what it means | what you can do |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| `{kind.__name__}` | `{kind.code}` | {kind.exit_code} | {doc.first_line(kind)} "
        f"| {ADVICE[kind.code]} |"
        for kind in _tree(errors.ChoralError)
    ]
    return "\n".join(rows) + "\n"


def _tree(kind: type[errors.ChoralError]) -> Iterable[type[errors.ChoralError]]:
    """Yield a class and those below it, of this project alone, in the order of the source."""
    if kind.__module__ == errors.__name__:
        yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


# --- commands -------------------------------------------------------------------------------------


def commands() -> str:
    """Return every command with its arguments and options, from the parser itself."""
    group: Any = typer.main.get_command(app)
    parts = []
    for name, command in _commands(group):
        kinds = get_type_hints(command.callback)
        usage = " ".join(_usage(p, kinds) for p in command.params)
        parts.append(f"## choral {name}\n\n{doc.sentence(command.help)}\n")
        parts.append(f"```text\nchoral {name} {usage}\n```\n")
        parts.append("| argument or option | default | environment | meaning |\n|---|---|---|---|")
        parts.append("\n".join(_option(p, kinds) for p in command.params) + "\n")
    return "\n".join(parts)


def _commands(group: Any, before: str = "") -> Iterable[tuple[str, Any]]:
    """Yield every command that is built, those of groups by both words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        elif before or name not in UNBUILT:
            yield f"{before}{name}", command


def unbuilt_commands() -> str:
    """Return the commands that answer with a refusal, and what to do instead."""
    rows = [
        f"| `choral {name}` | {doc.sentence(doc.upper(hint))} |" for name, hint in UNBUILT.items()
    ]
    rows += [f"| `choral bench {name}` | It comes with what it measures. |" for name in BENCHES]
    return "\n".join(["| command | until then |", "|---|---|", *rows]) + "\n"


def _usage(parameter: Any, kinds: Mapping[str, Any]) -> str:
    if parameter.param_type_name == "argument":
        return _argument_word(parameter)
    words = _option_words(parameter, kinds)
    return (words if parameter.required else f"[{words}]") + ("…" if parameter.multiple else "")


def _argument_word(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _option_words(parameter: Any, kinds: Mapping[str, Any]) -> str:
    """Return an option with the word for its value, which follows from the type in the code."""
    shown = ", ".join(parameter.opts)
    if parameter.is_flag:
        return shown
    kind = str(kinds[parameter.name])
    word = "N" if "int" in kind else "PATH" if "Path" in kind else "TEXT"
    return f"{shown} {parameter.metavar or word}"


def _option(parameter: Any, kinds: Mapping[str, Any]) -> str:
    if parameter.param_type_name == "argument":
        needed = "required" if parameter.required else ""
        word = _argument_word(parameter)
        return f"| `{word}` | {needed} | | {doc.sentence(parameter.help)} |"
    default = parameter.default
    is_plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    cells = (
        f"`{_option_words(parameter, kinds)}`",
        "required" if parameter.required else f"`{default}`" if is_plain else "",
        f"`{parameter.envvar}`" if parameter.envvar else "",
        doc.sentence(parameter.help),
    )
    return f"| {' | '.join(cells)} |"


# --- the federation file --------------------------------------------------------------------------

EFFECTIVE: Mapping[str, Any] = {
    "local": Local(),
    "round": RoundPolicy(clients=1),
    "encoding": Encoding(),
    "evaluation": SimpleNamespace(
        every=inspect.signature(RunPolicy).parameters["evaluate_every"].default
    ),
}
"""Section to the value whose fields apply where a file says nothing."""

BY_TEXT = ("goal", "quorum", "weight_cap")
"""Keys whose default depends on the run; their description says how."""


def federation_keys() -> str:
    """Return every key of a federation file, section by section."""
    parts = ["## Top level\n", _keys(fed.FederationFile, "")]
    for name, model in _sections(fed.FederationFile).items():
        parts.append(f"## {name}\n\n{doc.first_line(model)}\n")
        parts.append(_keys(model, name))
        for inner, below in _sections(model).items():
            parts.append(f"### {inner}\n\n{doc.first_line(below)}\n")
            parts.append(_keys(below, inner))
    return "\n".join(parts)


def _sections(model: type[fed.Section]) -> dict[str, type[fed.Section]]:
    found = {}
    for name, entry in model.model_fields.items():
        for kind in (entry.annotation, *getattr(entry.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, fed.Section):
                found[name] = kind
    return found


def _keys(model: type[fed.Section], section: str) -> str:
    sections = _sections(model)
    texts = doc.entries(model, "Attributes")
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, entry in model.model_fields.items():
        key = entry.alias or name
        text = texts.get(name, "Not read by a simulation.")
        if name in sections:
            rows.append(f"| [`{key}`](#{key}) | section | | {text} |")
            continue
        kind = _kind(str(entry.annotation))
        default = _default(section, name, entry.default)
        rows.append(f"| `{key}` | {kind} | {default} | {doc.cell(text)} |")
    return "\n".join(rows) + "\n"


def _kind(annotation: str) -> str:
    """Return a type in words."""
    words = {
        "int": "whole number",
        "float": "number",
        "str": "text",
        "bool": "true or false",
        "dict": "mapping",
        "Any": "anything",
    }
    text = re.sub(r"\[.*\]", "", annotation.replace("<class '", "").replace("'>", ""))
    names = [n.strip().removeprefix("typing.") for n in text.split("|")]
    shown = [words[n] for n in names if n in words]
    if "number" in shown and "whole number" in shown:
        shown.remove("whole number")
    return " or ".join(shown)


def _default(section: str, name: str, default: Any) -> str:
    if default is None and name not in BY_TEXT:
        default = getattr(EFFECTIVE.get(section), name, None)
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, int | float) else ""


def named_parts() -> str:
    """Return what may be named in a file, with the arguments of each name."""
    tables: dict[str, Mapping[str, Callable[..., Any]]] = {
        "strategy": STRATEGIES,
        "selection": SELECTIONS,
        "model": zoo.MODELS,
        "simulation.partition": PARTITIONERS,
    }
    parts = []
    for key, table in tables.items():
        rows = [f"### Names under `{key}`\n", "| name | arguments | what it is |", "|---|---|---|"]
        rows += [f"| `{n}` | {_arguments(m)} | {_noun(m)} |" for n, m in table.items()]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _noun(make: Callable[..., Any]) -> str:
    return doc.upper(doc.first_line(make).removeprefix("Return "))


def _arguments(make: Callable[..., Any]) -> str:
    parameters = inspect.signature(make).parameters.values()
    return ", ".join(
        f"`{p.name}`" if p.default is p.empty else f"`{p.name}: {_plain(p.default)}`"
        for p in parameters
        if p.name not in ("data", "seed", "test_fraction")
    )


def _plain(value: Any) -> str:
    """Return a default as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- Python ---------------------------------------------------------------------------------------


def python_api() -> str:
    """Return the public names of `choral` with signatures and docstrings."""
    modules = ("data", "selection", "strategies", "tasks", "__version__")
    names = [n for n in choral.__all__ if n not in modules]
    names.sort(key=lambda n: (n != "simulate", n[0].isupper(), n))
    return "\n".join(_documented(f"choral.{n}", getattr(choral, n)) for n in names)


def python_parts() -> str:
    """Return the protocols that you may implement, and the tasks that exist."""
    from choral.core.strategy import Aggregate, Strategy
    from choral.core.task import Task
    from choral.tasks.numpy import LinearTask
    from choral.tasks.sklearn import SklearnTask
    from choral.tasks.torch import TorchTask

    public = [LinearTask, TorchTask, SklearnTask, Task, Strategy, Aggregate]
    return "\n".join(_documented(f"{k.__module__}.{k.__name__}", k) for k in public)


def python_data() -> str:
    """Return the functions and classes of `choral.data`, one line each."""
    rows = ["| name | what it does |", "|---|---|"]
    for name in data.__all__:
        value = getattr(data, name)
        if callable(value):
            shown = _call(name, value) if _is_called(value) else name
            rows.append(f"| `{shown}` | {doc.first_line(value)} |")
    return "\n".join(rows) + "\n"


def _documented(path: str, value: Any) -> str:
    """Return one heading with signature, text, and the parts of a docstring."""
    parts = [f"### {path}\n"]
    if _is_called(value):
        parts.append(f"```text\n{_call(path.rpartition('.')[2], value, wrap=True)}\n```\n")
    parts.append(doc.body(value))
    for section, heading in (("Args", "Arguments"), ("Attributes", "Attributes"), ("Raises",) * 2):
        listed = [f"- `{name}`: {words}" for name, words in doc.entries(value, section).items()]
        parts += [f"{heading}:\n", *listed, ""] if listed else []
    for section in ("Returns", "Guarantees"):
        words = doc.paragraph(value, section)
        parts += [f"{section}: {words}\n"] if words else []
    members = list(_members(value)) if inspect.isclass(value) else []
    parts += ["Members:\n", *members, ""] if members else []
    return "\n".join(parts)


def _is_called(value: Any) -> bool:
    """Return whether users call it: not an enum, a protocol, or what Choral alone makes."""
    return not inspect.isclass(value) or not (
        getattr(value, "_is_protocol", False)
        or hasattr(value, "__members__")
        or value.__name__ in ("Plan", "Result")
    )


def _members(kind: type[Any]) -> Iterable[str]:
    """Yield a line for each public method or property that the class itself defines."""
    if hasattr(kind, "__members__"):
        yield from (f"- `{m.value}`" for m in kind)
        return
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        inner = getattr(member, "__func__", getattr(member, "func", member))
        if isinstance(member, property):
            yield f"- `.{name}`: {doc.first_line(member)}"
        elif (
            inspect.isfunction(inner)
            and inner is not member
            and not isinstance(member, staticmethod)
        ):
            yield f"- `.{name}`: {doc.first_line(inner)}"
        elif inspect.isfunction(inner):
            yield f"- `.{_call(name, inner)}`: {doc.first_line(inner)}"


def _call(name: str, value: Any, *, wrap: bool = False) -> str:
    """Return how something is called."""
    target = value.__init__ if inspect.isclass(value) and not _is_dataclass(value) else value
    shown: list[str] = []
    star = False
    for p in inspect.signature(target).parameters.values():
        if p.name in ("self", "gate", "_"):
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            star = True
            shown.append("*")
        prefix = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        shown.append(prefix + p.name + _default_of(p))
    one_line = f"{name}({', '.join(shown)})"
    if not wrap or len(one_line) <= 88:
        return one_line
    return f"{name}(\n" + "".join(f"    {s},\n" for s in shown) + ")"


def _default_of(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return ""
    if "factory" in repr(default) or " object at " in repr(default):
        return "=…"
    return f"={json.dumps(default) if isinstance(default, str) else repr(default)}"


def _is_dataclass(kind: type[Any]) -> bool:
    return dataclasses.is_dataclass(kind)
