"""The wheel: what is in it, that it installs light, and that it leaves other distributions' modules alone."""

import base64
import csv
import hashlib
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"crewkeeper_bus": "bus", "crewkeeper_agents": "agents", "crewkeeper_supervisor": "supervisor"}
SHIPPED = {
    "crewkeeper_supervisor/examples/trip/": ROOT / "examples" / "trip",
    "crewkeeper_supervisor/scenarios/": ROOT / "scenarios",
}
LIMIT_S = 300.0

LIGHT = """
import sys

BLOCKED = {"click", "httpx2", "networkx", "rich", "standardwebhooks", "yaml"}
BLOCKED |= {"cel_expr_python", "genai_prices", "jsonschema_rs"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not part of the base installation", name=name)

sys.meta_path.insert(0, Absent())

import importlib, pkgutil
import crewkeeper_agents, crewkeeper_bus

for package in (crewkeeper_agents, crewkeeper_bus):
    for name in package.__all__:
        getattr(package, name)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")

assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
assert "crewkeeper_supervisor" not in sys.modules
print(crewkeeper_bus.__file__)
"""


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False, **options)


def succeed(*command: object, **options) -> str:
    done = run(*command, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def isolated(path: Path) -> dict[str, str]:
    """An environment in which only this folder comes before the installed packages."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(path)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built once."""
    folder = tmp_path_factory.mktemp("wheel")
    succeed(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (found,) = folder.glob("crewkeeper-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's content."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    succeed(*pip, "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def tree(folder: Path) -> set[str]:
    """Files that belong to the tree: neither what tools left there nor what an example wrote."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {
        file.as_posix()
        for file in files
        if file.parts[0] != "out" and not any(part == "__pycache__" or part.startswith(".") for part in file.parts)
    }


def test_the_wheel_holds_three_packages_whole_and_nothing_else(wheel: Path):
    names = content(wheel)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert len(tops) == len(PACKAGES) + 1
    for package, root in PACKAGES.items():
        shipped = {name for name in names if name.startswith(f"{package}/") and not name.startswith(tuple(SHIPPED))}
        assert shipped == {f"{package}/{name}" for name in tree(ROOT / root / package)}
        assert f"{package}/py.typed" in shipped


@pytest.mark.parametrize(("prefix", "folder"), SHIPPED.items())
def test_the_wheel_holds_what_people_run_and_copy_as_it_stands_in_the_tree(wheel: Path, prefix: str, folder: Path):
    shipped = {name.removeprefix(prefix) for name in content(wheel) if name.startswith(prefix)}
    assert shipped == tree(folder)
    with zipfile.ZipFile(wheel) as archive:
        for name in shipped:
            assert archive.read(prefix + name) == (folder / name).read_bytes()


def test_the_wheel_names_its_license_and_one_command(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        entries = archive.read(f"{info}/entry_points.txt").decode().split("\n")
        assert [line for line in entries if line] == [
            "[console_scripts]",
            "supervisor = crewkeeper_supervisor.cli.main:main",
        ]
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = archive.read(f"{info}/METADATA").decode()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    names = sorted(line.split()[1].partition("<")[0].partition(">")[0] for line in needed)
    assert names == ["anyio", "msgspec", "nats-py[nkeys]", "opentelemetry-api", "structlog"]


def test_the_installed_command_finds_its_example(installed: Path):
    code = "from crewkeeper_supervisor.cli.demo import example; print(example())"
    assert Path(succeed(sys.executable, "-c", code, env=isolated(installed)).strip()).is_relative_to(installed)
    text = succeed(sys.executable, "-m", "crewkeeper_supervisor.cli.main", "--help", env=isolated(installed))
    assert text.startswith("Usage: supervisor")


def test_the_agent_side_needs_the_base_dependencies_only(installed: Path):
    where = succeed(sys.executable, "-c", LIGHT, env=isolated(installed))
    assert Path(where.strip()).is_relative_to(installed), "another installation was tested"


# --- beside distributions whose modules are called `agents` and `supervisor` ---


class Venv:
    """A new virtual environment, and what its distributions own."""

    def __init__(self, folder: Path) -> None:
        succeed(sys.executable, "-m", "venv", "--without-pip", folder)
        self.python = folder / "bin" / "python"
        self.site = Path(succeed(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        self._pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python)

    def pip(self, *words: object) -> subprocess.CompletedProcess[str]:
        return run(*self._pip, *words)

    def records(self) -> dict[str, dict[Path, str]]:
        """By distribution: its files, and the hash each is said to have."""
        found: dict[str, dict[Path, str]] = {}
        for record in self.site.glob("*.dist-info/RECORD"):
            name = record.parent.name.partition("-")[0]
            with record.open(newline="") as rows:
                found[name] = {(self.site / path).resolve(): digest for path, digest, _ in csv.reader(rows)}
        return found

    def altered(self, distribution: str) -> list[Path]:
        """Files of a distribution that are gone or are not as it brought them."""
        return [file for file, digest in self.records()[distribution].items() if digest and _hash(file) != digest]


def _hash(file: Path) -> str:
    if not file.is_file():
        return ""
    digest = hashlib.sha256(file.read_bytes()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def test_it_installs_beside_openai_agents_and_supervisor(wheel: Path, tmp_path: Path):
    venv = Venv(tmp_path / "venv")
    others = ("openai-agents", "supervisor")
    done = venv.pip("install", "--quiet", "--no-deps", "--retries", "1", "--timeout", "15", *others)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        pytest.skip(f"the package index cannot be reached: {last[:200]}")
    theirs = venv.records()
    assert {"openai_agents", "supervisor"} <= set(theirs)
    for folder, owner in (("agents", "openai_agents"), ("supervisor", "supervisor")):
        assert venv.site / folder / "__init__.py" in {venv.site / file for file in theirs[owner]}

    done = venv.pip("install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    records = venv.records()
    owners = Counter(file for files in records.values() for file in files)
    assert {file: count for file, count in owners.items() if count > 1} == {}
    assert {name: files for name, files in records.items() if name != "crewkeeper"} == theirs
    for name in theirs:
        assert venv.altered(name) == []
    code = (
        "import importlib.util, supervisor, crewkeeper_bus, crewkeeper_supervisor\n"
        "print(supervisor.__file__, importlib.util.find_spec('agents').origin)"
    )
    found = succeed(venv.python, "-c", code).split()
    assert [Path(file).resolve() for file in found] == [
        (venv.site / name / "__init__.py").resolve() for name in ("supervisor", "agents")
    ]

    done = venv.pip("uninstall", "--yes", "crewkeeper")
    assert done.returncode == 0, done.stderr
    assert venv.records() == theirs
    for name in theirs:
        assert venv.altered(name) == []
    assert not [package for package in PACKAGES if (venv.site / package / "__init__.py").exists()]
    assert not (venv.python.parent / "supervisor").exists()
