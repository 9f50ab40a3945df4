"""What is installed is what the repository holds."""

import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def run(program: str, folder: Path, packages: Path) -> str:
    """What a program prints that runs in a folder and finds our packages in another."""
    command, environment = [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": str(packages)}
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("blockformer-*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_finds_every_recipe_by_its_bare_name(unpacked: Path, tmp_path: Path) -> None:
    found = json.loads(
        run("import json, registry; print(json.dumps(registry.builtin_recipes(), default=str))", tmp_path, unpacked)
    )
    assert set(found) == {path.stem for path in (ROOT / "recipes").glob("**/*.yaml")} != set()
    assert all(Path(path).is_relative_to(unpacked) for path in found.values())


def test_a_wheel_takes_no_top_level_name_but_the_rooms(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir() if path.suffix != ".dist-info"}
    assert names == {"registry", "blocks", "blockformer"}


@pytest.mark.slow
def test_a_wheel_finds_every_family_by_its_name(unpacked: Path, tmp_path: Path) -> None:
    program = (
        "import json; from blockformer.huggingface.family import builtin_families as families;"
        "print(json.dumps(families(), default=str))"
    )
    found = json.loads(run(program, tmp_path, unpacked))
    assert (
        set(found)
        == {path.stem for path in (ROOT / "blockformer" / "huggingface" / "families").glob("*.yaml")}
        != set()
    )
    assert all(Path(path).is_relative_to(unpacked) for path in found.values())


@pytest.mark.parametrize("room", ["registry", "blocks", "blockformer"])
def test_a_wheel_holds_every_module_and_says_that_it_is_typed(unpacked: Path, room: str) -> None:
    modules = {path.relative_to(ROOT) for path in (ROOT / room).glob("**/*.py")}
    assert modules == {path.relative_to(unpacked) for path in (unpacked / room).glob("**/*.py")}
    assert (unpacked / room / "py.typed").is_file()


def test_the_lock_file_satisfies_every_requirement_and_pins_no_local_build() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = chain(*project["project"]["optional-dependencies"].values())
    wanted = chain(project["project"]["dependencies"], project["build-system"]["requires"], extras)
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    assert not [version for version in versions.values() if "+" in version]


@pytest.mark.slow
def test_contributing_shows_a_block_that_works(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    program = """
import blockformer as bf, torch
from blocks.base import Site
import unit
x = unit.UnitNorm(Site(dim=8))(torch.randn(3, 8))
torch.testing.assert_close(x.square().mean(-1), torch.ones(3))
print(bf.build("gpt2", {"decoder.depth": 2, "decoder.norm": "unit"}, device="meta").decoder.norm)
"""
    (tmp_path / "unit.py").write_text(example)
    assert "UnitNorm" in run(program, tmp_path, ROOT)
