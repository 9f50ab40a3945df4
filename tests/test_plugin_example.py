"""A package of blocks, installed beside Blockformer as a user would, is found, checked, tested and used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests/plugin_example"


class Installed:
    """An environment in which the package is installed: pip's target folder, and an empty one to work in."""

    def __init__(self, folder: Path) -> None:
        self.work, target, source = folder / "work", folder / "site", folder / "source"
        self.work.mkdir()
        shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
        self.tests = source / "tests"
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), str(ROOT)])}
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
        self.succeeds(*pip, "--target", str(target), str(source))
        shutil.rmtree(source / "fading")  # what is tested is what was installed

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.work, env=self.environment, capture_output=True, text=True, check=False, timeout=900
        )

    def succeeds(self, *arguments: str) -> str:
        answer = self.run(*arguments)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    def blockformer(self, *arguments: str) -> str:
        return self.succeeds("-m", "blockformer.cli.main", *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("plugin"))


@pytest.mark.slow
def test_its_blocks_are_found_by_their_entry_point(installed: Installed) -> None:
    assert "fading" in installed.blockformer("blocks", "mixer")
    assert "the least that is divided by" in installed.blockformer("blocks", "norm/peak")


@pytest.mark.slow
def test_a_recipe_can_name_them(installed: Installed) -> None:
    recipe = installed.work / "mine.yaml"
    recipe.write_text(
        "extends: tiny_decoder\ndecoder: {layer: {mixer: {type: fading, heads: 2}, residual: {norm: peak}}}\n"
    )
    assert "ok, decoder_only" in installed.blockformer("check", str(recipe))
    answer = installed.run("-m", "blockformer.cli.main", "check", str(recipe), "--set", "decoder.layer.mixer.heads=5")
    assert answer.returncode == 2
    assert "decoder.layer.mixer: dim=32 is not a multiple of heads=5" in answer.stderr


@pytest.mark.slow
def test_its_blocks_explain_themselves(installed: Installed) -> None:
    recipe = installed.work / "fading.yaml"
    recipe.write_text("extends: tiny_decoder\ndecoder: {layer: {mixer: {type: fading, heads: 2}}}\n")
    assert "steps of fading" in installed.blockformer("explain", str(recipe), "--text", "cat", "--out", "page.html")
    page = (installed.work / "page.html").read_text()
    assert "with a learned a between 0 and 1 for each head." in page
    assert '"name":"sums"' in page  # its state after each token


@pytest.mark.slow
def test_its_blocks_conform(installed: Installed) -> None:
    printed = installed.blockformer("test-block", "fading", "--report", "report.md")
    lines = printed.splitlines()
    assert {"mixer/fading/causal", "norm/peak"} <= {line.split()[0] for line in lines}
    assert "failed" not in lines[-1]
    assert "| mixer/fading/causal |" in (installed.work / "report.md").read_text()


@pytest.mark.slow
def test_its_own_tests_pass(installed: Installed) -> None:
    printed = installed.succeeds("-m", "pytest", "-q", "-p", "no:cacheprovider", str(installed.tests))
    assert "passed" in printed
    assert "failed" not in printed
