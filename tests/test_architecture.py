"""The rules of the code, held by reading it: who imports whom, what policies touch, how long things are, how named."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("policies", "gateway", "migrations")

# The rooms of `gateway` that a room may import, besides itself, `policies` and the plain modules of `gateway`.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "http": frozenset(),
    # The listener and the upstream client share `http`, and never import each other.
    "listener": frozenset({"http"}),
    "upstream": frozenset({"http"}),
    "meter": frozenset(),
    "ledger": frozenset({"migrations"}),
    "payments": frozenset(),
    "embedded": frozenset(),
    "notifications": frozenset(),
    "config": frozenset({"http"}),
    "proxy": frozenset({"http", "meter", "ledger", "upstream", "config"}),
    "api": frozenset({"http", "meter", "ledger", "upstream", "config", "payments"}),
    # Pages call the functions of the APIs, and read and change nothing by themselves.
    "web": frozenset({"api", "config", "http"}),
    "workers": frozenset({"meter", "ledger", "upstream", "config", "payments", "notifications"}),
    "backup": frozenset({"meter", "ledger", "workers"}),
    "importing": frozenset({"ledger"}),
    "migrations": frozenset({"ledger"}),
}
# The domains of the ledger. Each may import those before it; all are built on `db`, which imports none of them.
LEDGER_ORDER = (
    *("db", "importing", "audit", "catalogue", "credits", "usage"),
    *("subscriptions", "invoicing", "accounts", "payments", "reports"),
)
# The composition root and the command line construct, so only they may import from all rooms.
COMPOSERS = frozenset({"runtime", "cli", "__main__", "demo"})

NOT_PURE_MODULES = frozenset(
    {"asyncio", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading"}
    | {"io", "shutil", "tempfile", "time", "urllib.request", "http.client"}
)
NOT_PURE_CALLS = frozenset({"open", "print", "input", "now", "utcnow", "today", "uuid1", "uuid4"})

VAGUE_NAMES = frozenset(
    {"utils", "util", "helpers", "helper", "common", "misc", "service", "services", "manager", "managers"}
)

# Where a failure of any kind becomes a response or a log line instead of ending the process.
MAY_CATCH_EVERYTHING = frozenset({"gateway/workers/runner.py", "gateway/proxy/handler.py"})

MODULE_LINES, TEST_MODULE_LINES, SMALL_MODULE_LINES = 400, 600, 40
FUNCTION_LINES, FUNCTION_LINES_P50, FUNCTION_LINES_P90 = 60, 7, 17
FOLDER_MODULES, SMALL_MODULES_AT_MOST = 15, 14

# Modules below SMALL_MODULE_LINES, each with the reason why it is one.
SMALL_MODULES: dict[str, str] = {
    "gateway/__main__.py": "makes `python -m gateway` the command",
    "gateway/clock.py": "the one place that reads the clock",
    "gateway/demo/__main__.py": "makes `python -m gateway.demo` a command",
    "gateway/embedded/errors.py": "errors that every module of the room raises",
    "gateway/http/framing.py": "grammar that both ends share",
    "gateway/listener/error_response.py": "responses that every module of the room raises",
    "gateway/meter/client/errors.py": "errors that callers catch without importing the client",
    "gateway/meter/client/packing.py": "the wire format, apart from connections",
    "gateway/request_ids.py": "one generator for every room",
    "gateway/runtime/stores.py": "imports the embedded stores, which public workers do not need",
    "gateway/workers/usage/liveness.py": "runs in gateway processes, not in the worker",
    "policies/billing/overage.py": "one rule, which invoices and periods share",
    "policies/access/persons.py": "one rule, which tokens do not share",
    "policies/wording.py": "one rule of language for every policy",
}

LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
EVENT = re.compile(r"[a-z0-9_]+")

# Words of a private English that this code has left for the field's terms. Brackets keep the list from finding itself.
HOUSE_WORDS = re.compile(
    r"\b([d]esk|[t]ill|[h]erald|[t]ally|[d]epartures|[t]urning|[b]urning|[a]warding|[l]eaving|[p]arking|[t]idying"
    r"|[f]loods|[f]oreign_keys|[o]wn_invoices|[h]ow manieth)\b",
    re.IGNORECASE,
)
PROSE = (".py", ".lua", ".md", ".sql", ".html", ".yaml", ".yml", ".json", ".toml")
HISTORY = frozenset({"CHANGELOG.md"})


@dataclass(frozen=True)
class Module:
    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def room(self) -> str:
        """`policies`, `migrations`, or a part of `gateway`: `meter` for gateway/meter/client/client.py."""
        parts = Path(self.path).with_suffix("").parts
        return parts[1] if parts[0] == "gateway" else parts[0]

    @property
    def is_test(self) -> bool:
        return self.path.startswith("tests/")

    def at(self, node: ast.stmt | ast.expr | ast.excepthandler, complaint: str) -> str:
        return f"{self.path}:{node.lineno}: {complaint}"

    def imports(self) -> Iterator[tuple[ast.stmt, str]]:
        """Every import as a full dotted name, imported names included: `from gateway import meter` is gateway.meter."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                package = ".".join(Path(self.path).parts[: -node.level]) + "." if node.level else ""
                yield from ((node, f"{package}{node.module or ''}.{alias.name}") for alias in node.names)


Rule = Callable[[Module], Iterator[str]]


def imports_follow_the_arrows(module: Module) -> Iterator[str]:
    if module.is_test or module.room in COMPOSERS:
        return
    allowed = MAY_IMPORT.get(module.room, frozenset())
    for node, name in module.imports():
        target = room_of(name)
        if target is None or target in ({module.room, "policies"} | allowed):
            continue
        if module.room == "policies" or target in MAY_IMPORT or target in COMPOSERS:
            yield module.at(node, f"`{module.room}` may not import {name}")


def ledger_domains_follow_their_order(module: Module) -> Iterator[str]:
    own = ledger_domain(module.path.removesuffix(".py").replace("/", "."))
    if own is None:
        return
    for node, name in module.imports():
        target = ledger_domain(name)
        if target is not None and LEDGER_ORDER.index(target) > LEDGER_ORDER.index(own):
            yield module.at(node, f"ledger/{own} may not import {name}: ledger/{target} comes after it")


def policies_are_pure(module: Module) -> Iterator[str]:
    if module.room != "policies":
        return
    for node, name in module.imports():
        package = name.partition(".")[0]
        if package not in sys.stdlib_module_names | {"policies"}:
            yield module.at(node, f"policies use the standard library alone, not {package}")
        if any(f"{name}.".startswith(f"{banned}.") for banned in NOT_PURE_MODULES):
            yield module.at(node, f"policies take values and return values; {name} does I/O")
    for found in ast.walk(module.tree):
        if isinstance(found, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield module.at(found, "policies never wait")
        if isinstance(found, ast.Call) and called_name(found) in NOT_PURE_CALLS:
            yield module.at(found, f"policies are passed what they need; {called_name(found)}() reads the world")


def only_config_reads_the_environment(module: Module) -> Iterator[str]:
    if module.is_test or module.room == "config":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.environb", "os.getenv"}:
            yield module.at(node, "only gateway/config reads the environment")
    for statement, name in module.imports():
        if name in {"os.environ", "os.environb", "os.getenv"}:
            yield module.at(statement, "only gateway/config reads the environment")


def nothing_catches_everything(module: Module) -> Iterator[str]:
    if module.is_test or module.path in MAY_CATCH_EVERYTHING:
        return
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.ExceptHandler)
            and catches_everything(node)
            and not isinstance(node.body[-1], ast.Raise)
        ):
            yield module.at(node, "catch what can be handled, by name")


def modules_stay_short(module: Module) -> Iterator[str]:
    lines, ceiling = len(module.source.splitlines()), TEST_MODULE_LINES if module.is_test else MODULE_LINES
    if lines > ceiling:
        yield f"{module.path}:{ceiling}: {lines} lines, at most {ceiling}; split it by reason to change"


def functions_stay_short(module: Module) -> Iterator[str]:
    for function in functions(module):
        if (lines := lines_of(function)) > FUNCTION_LINES:
            yield module.at(function, f"{function.name} has {lines} lines, at most {FUNCTION_LINES}")


def names_say_something(module: Module) -> Iterator[str]:
    if vague := VAGUE_NAMES & set(Path(module.path).with_suffix("").parts):
        yield f"{module.path}:1: `{', '.join(vague)}` names no idea"


def log_events_are_words(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if module.is_test or not isinstance(node, ast.Call) or not is_log_call(node.func):
            continue
        event = node.args[0] if node.args else None
        if not isinstance(event, ast.Constant) or not EVENT.fullmatch(str(event.value)):
            yield module.at(node, f"a log event is one snake_case word with fields, not {ast.unparse(node)[:60]}")


RULES: dict[Rule, tuple[str, str]] = {  # each with a module that breaks it
    imports_follow_the_arrows: ("gateway/proxy/x.py", "from gateway.workers import runner"),
    ledger_domains_follow_their_order: ("gateway/ledger/credits/x.py", "from gateway.ledger.usage import history"),
    policies_are_pure: ("policies/x.py", "from datetime import datetime\nmoment = datetime.now()"),
    only_config_reads_the_environment: ("gateway/meter/x.py", "import os\nos.environ['A']"),
    nothing_catches_everything: ("gateway/meter/x.py", "try:\n    f()\nexcept Exception:\n    pass"),
    modules_stay_short: ("gateway/meter/x.py", "\n" * (MODULE_LINES + 1)),
    functions_stay_short: ("gateway/meter/x.py", "def f():\n" + "    g()\n" * FUNCTION_LINES),
    names_say_something: ("gateway/meter/utils.py", ""),
    log_events_are_words: ("gateway/meter/x.py", "_log.info('a request failed', error=error)"),
}

TreeRule = Callable[[list[Module]], Iterator[str]]


def functions_are_mostly_short(modules: list[Module]) -> Iterator[str]:
    longest = sorted((lines_of(each), module.at(each, each.name)) for module in modules for each in functions(module))
    for share, ceiling in ((0.5, FUNCTION_LINES_P50), (0.9, FUNCTION_LINES_P90)):
        lines, place = longest[int(len(longest) * share)]
        if lines > ceiling:
            yield f"{share:.0%} of the functions have up to {lines} lines, at most {ceiling}; the next is {place}"


def folders_stay_small(modules: list[Module]) -> Iterator[str]:
    paths = [Path(module.path) for module in modules if not module.path.startswith("migrations/versions/")]
    folders = Counter(str(path.parent) for path in paths if path.name != "__init__.py")
    yield from (f"{folder}: {count} modules" for folder, count in folders.items() if count > FOLDER_MODULES)


def small_modules_have_a_reason(modules: list[Module]) -> Iterator[str]:
    small = {module.path for module in modules if is_small(module)}
    yield from (f"{path}: too small to be a module without a reason" for path in sorted(small - SMALL_MODULES.keys()))
    if len(small) > SMALL_MODULES_AT_MOST:
        yield f"{len(small)} small modules, at most {SMALL_MODULES_AT_MOST}"


def classes_have_one_name_each(modules: list[Module]) -> Iterator[str]:
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for module in modules:
        package = "/".join(Path(module.path).parts[:2])
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                places[package, node.name].append(module.path)
    yield from (f"{name}: in {', '.join(paths)}" for (_, name), paths in places.items() if len(paths) > 1)


TREE_RULES: dict[TreeRule, list[Module]] = {  # each with a tree that breaks it
    functions_are_mostly_short: [Module("gateway/meter/x.py", "def f():\n" + "    g()\n" * FUNCTION_LINES_P90)],
    classes_have_one_name_each: [Module(f"gateway/meter/{name}.py", "class Head: ...") for name in "xy"],
    small_modules_have_a_reason: [Module("gateway/meter/x.py", "x = 1")],
    folders_stay_small: [Module(f"gateway/meter/x{number}.py", "") for number in range(FOLDER_MODULES + 1)],
}

BROKEN = [
    *((rule, path, source) for rule, (path, source) in RULES.items()),
    (imports_follow_the_arrows, "gateway/proxy/x.py", "from gateway import api"),
    (imports_follow_the_arrows, "gateway/proxy/x.py", "from ..api import keys"),
    (imports_follow_the_arrows, "gateway/listener/x.py", "from gateway.upstream.response_head import ResponseHead"),
    (imports_follow_the_arrows, "gateway/upstream/x.py", "from gateway.listener import request_head"),
    (imports_follow_the_arrows, "gateway/http/x.py", "from gateway.listener import limits"),
    (imports_follow_the_arrows, "gateway/meter/x.py", "import gateway.ledger.db.session"),
    (imports_follow_the_arrows, "gateway/clock.py", "from gateway.meter.meter import Meter"),
    (imports_follow_the_arrows, "gateway/api/x.py", "from gateway.runtime import build"),
    (imports_follow_the_arrows, "policies/x.py", "from gateway.clock import now"),
    (ledger_domains_follow_their_order, "gateway/ledger/db/x.py", "from gateway.ledger.audit import audit_log"),
    (ledger_domains_follow_their_order, "gateway/ledger/subscriptions/x.py", "from ..invoicing import invoices"),
    (policies_are_pure, "policies/x.py", "import redis"),
    (policies_are_pure, "policies/x.py", "from os import path"),
    (policies_are_pure, "policies/x.py", "async def f() -> None: ..."),
    (policies_are_pure, "policies/x.py", "open('x')"),
    (only_config_reads_the_environment, "gateway/app.py", "from os import environ"),
    (nothing_catches_everything, "gateway/meter/x.py", "try:\n    f()\nexcept:\n    pass"),
    (nothing_catches_everything, "gateway/meter/x.py", "try:\n    f()\nexcept (OSError, BaseException):\n    pass"),
]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    paths = sorted(path for folder in (*PRODUCT, "tests") for path in (ROOT / folder).rglob("*.py"))
    return [Module(str(path.relative_to(ROOT)), path.read_text()) for path in paths]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Rule, modules: list[Module]) -> None:
    complaints = [complaint for module in modules for complaint in rule(module)]
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("rule", TREE_RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: TreeRule, modules: list[Module]) -> None:
    complaints = list(rule([module for module in modules if not module.is_test]))
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(("rule", "tree"), TREE_RULES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_breach_of_the_tree_is_found(rule: TreeRule, tree: list[Module]) -> None:
    assert list(rule(tree))


def test_no_folder_has_more_modules_than_one_can_read(modules: list[Module]) -> None:
    assert list(folders_stay_small(modules)) == []


def test_no_page_uses_a_house_word() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    pages = [name for name in listed if name.endswith(PROSE) and name not in HISTORY and (ROOT / name).is_file()]
    assert len(pages) > 100
    assert [found for page in pages for found in house_words(page, (ROOT / page).read_text())] == []


def test_a_house_word_is_found_and_located() -> None:
    assert list(house_words("docs/x.md", "one\nthe " + "d" + "esk")) == ["docs/x.md:2: " + "d" + "esk"]


@pytest.mark.parametrize(("rule", "path", "source"), BROKEN)
def test_a_breach_is_found_and_located(rule: Rule, path: str, source: str) -> None:
    complaints = list(rule(Module(path, source)))
    assert complaints
    assert all(complaint.startswith(f"{path}:") for complaint in complaints)


def test_every_room_has_its_arrows() -> None:
    rooms = {path.parent.name for path in (ROOT / "gateway").glob("*/__init__.py")}
    assert rooms <= MAY_IMPORT.keys() | COMPOSERS


def test_every_domain_of_the_ledger_has_its_place() -> None:
    domains = {path.parent.name for path in (ROOT / "gateway/ledger").glob("*/__init__.py")}
    assert domains == set(LEDGER_ORDER)


def house_words(page: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        yield from (f"{page}:{number}: {found}" for found in HOUSE_WORDS.findall(line))


def is_small(module: Module) -> bool:
    is_exempt = module.path.endswith("__init__.py") or module.path.startswith("migrations/")
    return not is_exempt and len(module.source.splitlines()) < SMALL_MODULE_LINES


def is_log_call(function: ast.expr) -> bool:
    """Whether it is a method of a logger, such as `_log.info`."""
    return (
        isinstance(function, ast.Attribute)
        and function.attr in LOG_METHODS
        and ast.unparse(function.value).rpartition(".")[2].lstrip("_") in {"log", "logger"}
    )


def ledger_domain(name: str) -> str | None:
    """`credits` for gateway.ledger.credits.grants; None for what is in no domain."""
    parts = name.split(".")
    return parts[2] if parts[:2] == ["gateway", "ledger"] and len(parts) > 2 and parts[2] in LEDGER_ORDER else None


def room_of(name: str) -> str | None:
    """The room that a dotted name belongs to; None for what is not ours or is `gateway` itself."""
    package, _, rest = name.partition(".")
    if package == "gateway":
        return rest.partition(".")[0] or None
    return package if package in PRODUCT else None


def called_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def catches_everything(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(kind) in {"Exception", "BaseException"} for kind in caught)


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions, but not the steps of migrations: those are records of what was done."""
    if not module.path.startswith("migrations/versions/"):
        yield from (node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the last line, the docstring aside: explanations are free."""
    first = function.body[0]
    end = function.end_lineno or function.lineno
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if has_docstring else 0
    return end - function.lineno + 1 - docstring
