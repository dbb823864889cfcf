"""The texts of all errors in one table: ``python -m tests.error_texts`` prints it.

Each error of the project is an instance of a class below `MildError`, made with its text: what happened, with the value
and the limit, then a semicolon and the remedy. The texts are read from the source, with ``{…}`` in place of values.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("service/mild_core", "service/mild_service", "trainer_client/mild_client", "trainer_client/mild_trainer")
ROOT = "MildError"
_OS_ERROR = re.compile(r"\b(OSError|PermissionError|FileNotFoundError|FileExistsError|IsADirectoryError)\b")
_VALUE = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class ErrorText:
    """The text of one error.

    Attributes
    ----------
    place
        File and line that make the error.
    error
        Name of its class.
    text
        The text, with the expressions of its values in braces.
    catches_os_error
        Name of the error of the operating system that the text is about; its own text would hold an Errno.
    """

    place: str
    error: str
    text: str
    catches_os_error: str | None = None

    @property
    def values(self) -> list[str]:
        """The expressions of the values."""
        return [value[1:-1] for value in _VALUE.findall(self.text)]

    @property
    def parts(self) -> tuple[str, str]:
        """What happened, and the remedy; empty if the text has none."""
        problem, _, remedy = _VALUE.sub("…", self.text).partition("; ")
        return problem, remedy

    @property
    def is_passed_on(self) -> bool:
        """Whether the text, or its end, is that of another error or function, which has the remedy."""
        return self.text.endswith("}") and "; " not in _VALUE.sub("…", self.text)


def read_texts() -> list[ErrorText]:
    """Read the texts of all errors, by place."""
    modules = {
        path: ast.parse(path.read_text()) for package in PACKAGES for path in sorted(Path(package).rglob("*.py"))
    }
    classes = find_error_classes(modules)
    return [text for path, module in modules.items() for text in _read_module(path, module, classes)]


def find_error_classes(modules: Mapping[Path, ast.Module]) -> set[str]:
    """Return the names of all classes below `MildError`."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for module in modules.values()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
    }
    found, before = {ROOT}, 0
    while len(found) > before:
        before = len(found)
        found |= {name for name, parents in bases.items() if parents & found}
    return found


def _read_module(path: Path, module: ast.Module, classes: set[str]) -> Iterator[ErrorText]:
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        handlers = {
            call: handler.name
            for handler in ast.walk(function)
            if isinstance(handler, ast.ExceptHandler) and handler.type is not None and handler.name
            if _OS_ERROR.search(ast.unparse(handler.type))
            for call in ast.walk(handler)
        }
        for node in _walk_own(function):
            if isinstance(node, ast.Call) and (name := _get_name(node.func)) in classes:
                argument = next((word.value for word in node.keywords if word.arg == "detail"), None)
                argument = argument or (node.args[0] if node.args else None)
                if argument is not None:
                    yield ErrorText(f"{path}:{node.lineno}", name, _format(argument, names), handlers.get(node))


def _walk_own(function: ast.AST) -> Iterator[ast.AST]:
    """Walk a function without the functions in it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _walk_own(node)


def _get_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _format(node: ast.expr, names: Mapping[str, ast.expr]) -> str:
    """Return the text of an expression; of two choices both."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_format(part, names) for part in parts)
        case ast.FormattedValue(value=value, conversion=conversion):
            suffix = "!r" if conversion == ord("r") else ""
            return _format(value, {}) if isinstance(value, ast.IfExp) else f"{{{ast.unparse(value)}{suffix}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _format(left, names) + _format(right, names)
        case ast.IfExp(body=body, orelse=orelse):
            return max((_format(part, names) for part in (body, orelse)), key=len)
        case ast.Name(id=name) if name in names:
            return _format(names[name], {})
    return f"{{{ast.unparse(node)}}}".replace("\n", " ")


def main() -> None:
    """Print the table."""
    print("| error | what happened | remedy | place |\n|---|---|---|---|")
    for text in read_texts():
        problem, remedy = text.parts
        print(f"| {text.error} | {problem} | {remedy or ('(passed on)' if text.is_passed_on else '')} | {text.place} |")


if __name__ == "__main__":
    main()
