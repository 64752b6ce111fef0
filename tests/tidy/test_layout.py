"""Rules of the layout that no linter knows."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from langmesh.errors import CATALOGUE, ErrorCode

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for top in ("shared", "services") for path in (ROOT / top).rglob("*.py"))
PAGES = sorted(
    [*ROOT.glob("*.md"), *(p for t in ("docs", "services") for p in (ROOT / t).rglob("*.md"))]
)
PINS = dict(
    re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_subjects_are_written_in_one_module_only():
    writers = [name_of(path) for path in SOURCES if "mesh.v1." in path.read_text()]
    assert [name for name in writers if not name.endswith("wire/subjects.py")] == []


def test_no_module_is_longer_than_500_lines():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_every_module_says_what_it_is_for():
    silent = [name_of(path) for path in SOURCES if not path.read_text().startswith('"""')]
    assert silent == []


def test_every_service_is_described():
    services = {path.parent.name for path in SOURCES if path.name == "__main__.py"} - {"cli"}
    described = "\n".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    assert {s for s in services if f"services/{s}" not in described} == set()


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_meaning_a_remedy_and_a_place(code: ErrorCode):
    spec = CATALOGUE[code]
    assert spec.meaning.endswith(".")
    assert spec.remedy.endswith(".")
    uses = [path for path in SOURCES if re.search(rf"ErrorCode\.{code.name}\b", path.read_text())]
    documented = f"`{code}`" in (ROOT / "docs" / "protocol.md").read_text()
    assert len(uses) > 1 or documented


def test_the_lock_pins_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["demo"], *extras["test"]]
    for requirement in map(Requirement, asked):
        pinned = PINS.get(canonicalize_name(requirement.name))
        assert pinned, f"{requirement.name}: run `just lock`"
        assert requirement.specifier.contains(pinned, prereleases=True), f"{requirement}: {pinned}"


def test_the_lock_is_pinned_by_hash_and_names_no_place():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pinned = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert [entry for entry in pinned if "--hash=sha256:" not in entry] == []


def test_links_between_pages_lead_somewhere():
    broken = [
        f"{name_of(page)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists()
    ]
    assert broken == []
