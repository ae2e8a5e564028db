"""Rules of the house that a machine can check."""

import ast
import re
import shlex
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Who may import whom: data flows one way.
ALLOWED = {
    "common": set(),
    "presets": {"common"},
    "manifests": {"common"},
    "pipeline": {"common", "presets", "manifests"},
    "trainer": {"common", "presets", "manifests", "pipeline"},
    "generate": {"common", "presets", "manifests", "pipeline", "trainer"},
    "evaluation": {"common", "presets", "manifests", "pipeline", "trainer", "generate"},
    "micro": {"common", "presets", "manifests", "pipeline", "trainer", "generate", "evaluation"},
    "app": {"common", "presets", "manifests", "pipeline", "trainer", "generate", "micro"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", list(ALLOWED))
def test_imports_point_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imports(path)} & set(ALLOWED)
        assert ours <= ALLOWED[package] | {package}, path
        if package == "trainer":
            encoders = {n for n in imports(path) if n.startswith("pipeline.encoders")}
            assert encoders <= {"pipeline.encoders.checkpoints"}, f"{path}: the trainer knows nothing of encoders"
        if package != "app":
            assert not [n for n in imports(path) if n.split(".")[0] == "gradio"], f"{path}: only the page needs gradio"


def modules():
    """Name -> file of every module of ours."""
    files = {package: (ROOT / package).rglob("*.py") for package in ALLOWED}
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for found in files.values() for path in found}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def uses(path, known):
    """Modules of ours that a file imports, at its beginning or inside functions; not what only a type checker reads."""
    tree = ast.parse(path.read_text())
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unread = {id(inner) for block in blocks for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found = f"{node.module}.{alias.name}"
                yield from (name for name in (found if found in known else node.module,) if name in known)


def test_no_module_imports_itself_over_others():
    """Registries name modules in strings (``module:Name``): they are how something upstream is found, and no import."""
    known = modules()
    graph = {name: set(uses(path, known)) - {name} for name, path in known.items()}
    assert sum(map(len, graph.values())) > len(graph)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def length(function):
    """Lines of a function without its signature, its docstring and the functions in it."""
    if not (body := function.body[1:] if ast.get_docstring(function) else function.body):
        return 0
    inner = [node for node in ast.walk(function) if isinstance(node, ast.FunctionDef) and node is not function]
    inner = {line for node in inner for line in range(node.lineno, node.end_lineno + 1)}
    return len(set(range(body[0].lineno, function.end_lineno + 1)) - inner)


@pytest.mark.parametrize("package", list(ALLOWED))
def test_files_and_functions_are_short(package):
    for path in (ROOT / package).rglob("*.py"):
        source = path.read_text()
        assert source.count("\n") < 420, path
        functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        assert not [function.name for function in functions if length(function) >= 100], path


def test_looking_at_a_cache_loads_no_torch():
    """What ``make status`` does, presets and what is known of encoders included: it answers at once."""
    imports = "import sys, pipeline.report, pipeline.stages, pipeline.cache, pipeline.encoders, presets"
    script = f"{imports}; presets.load_preset('micro', ['encoders.cavp.width=9']); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "False\n"


def test_make_alone_lists_every_target():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "demo", "extract", "train", "generate", "test"} <= targets
    assert all(f"make {target} " in listed for target in targets)


VARIABLES = (
    "MANIFEST", "CACHE", "RUN", "OUT", "REFERENCE", "PRESET", "STAGE", "SHARDS", "FORMAT", "EXECUTOR",
)  # fmt: skip


@pytest.mark.parametrize("name", ["dir with spaces", "Clip [official]; (1) & 'more'", 'a"b#c?'])
def test_make_passes_names_on_as_they_are(name):
    names = {variable: f"{name} {variable}" for variable in VARIABLES}
    for target in ("extract", "status", "train", "generate", "app", "evaluate"):
        command = ["make", "-n", "-o", ".venv/.installed", target, *(f"{key}={value}" for key, value in names.items())]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        words = shlex.split(said.replace("\\\n", " "))
        wanted = re.findall(
            r"quoted,([A-Z]+)", re.search(rf"(?ms)^{target}:.*?\n\n", (ROOT / "Makefile").read_text())[0]
        )
        assert wanted
        assert {names[variable] for variable in wanted} <= set(words)


def test_readme_names_only_targets_and_options_that_exist():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", readme)) <= targets


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / link).exists(), link
