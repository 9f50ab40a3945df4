"""`blockformer test-block`: checks of one block from the shell."""

import json
from pathlib import Path

import pytest

import blocks  # noqa: F401  (what is registered by it must not be undone with a test's own)
from blockformer.cli import check_progress
from blockformer.cli.main import main

BROKEN = '''
from torch import Tensor, nn
from blocks.base import FeedForward, Site
from registry import register

@register("{name}")
class {cls}(FeedForward):
    """A projection, applied twice and counted once."""

    outputs = ("out",)
    {attribute}

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.out(x))


class Plain(nn.Module):
    """No block at all."""
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory with one block that declares half of its FLOPs."""
    import blockformer.cli.components  # noqa: F401  (what is first imported while the registry is another is lost)
    from registry import registration

    monkeypatch.setattr(registration, "_ENTRIES", {slot: dict(named) for slot, named in registration._ENTRIES.items()})
    monkeypatch.setattr(registration, "_NAMES", dict(registration._NAMES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"costly_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(BROKEN.format(name=name, cls="Costly", attribute=""))
    return name


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["test-block", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_failure_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str], module: str) -> None:
    status, out, _ = run(capsys, f"{module}:Costly", "--quick")
    assert status == 1
    (line,) = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert line.startswith(f"FAILED: feedforward/{module}: flops_match_torch: ")
    assert " 1 failed" in out.splitlines()[-1]
    assert "Traceback" not in out


def test_a_traceback_shows_if_asked_for(capsys: pytest.CaptureFixture[str], module: str) -> None:
    status, out, _ = run(capsys, module, "--check", "flops_match_torch", "--traceback")
    assert status == 1
    assert "Traceback" in out
    assert "construction.py" in out


def test_an_expected_failure_must_fail(capsys: pytest.CaptureFixture[str], module: str) -> None:
    only = (f"{module}:Costly", "--check", "flops_match_torch", "--check", "accepts_empty_inputs")
    status, out, _ = run(capsys, *only, "--expect-failure", "flops_match_torch=it counts one product of two")
    assert status == 0
    assert f"failed as expected: feedforward/{module}: flops_match_torch: it counts one product of two" in out
    status, out, _ = run(capsys, *only, "--expect-failure", "accepts_empty_inputs=it does")
    assert status == 1
    assert "PASSED, but a failure is expected" in out


def test_a_class_says_itself_what_does_not_hold(capsys: pytest.CaptureFixture[str], module: str) -> None:
    said = 'expected_failures = {"flops_match_torch": "one is counted"}'
    Path(f"{module}.py").write_text(BROKEN.format(name=module, cls="Costly", attribute=said))
    status, out, _ = run(capsys, module, "--check", "flops_match_torch")
    assert status == 0
    assert "one is counted" in out


def test_the_report_holds_every_check(capsys: pytest.CaptureFixture[str], module: str) -> None:
    arguments = (module, "--check", "flops_match_torch", "--check", "accepts_empty_inputs", "--report")
    assert run(capsys, *arguments, "report.json")[0] == 1
    found = json.loads(Path("report.json").read_text())
    assert {check["check"]: check["status"] for check in found["checks"]} == {
        "flops_match_torch": "failed",
        "accepts_empty_inputs": "passed",
    }
    assert (found["passed"], found["failed"]) == (1, 1)
    run(capsys, *arguments, "report.md")
    text = Path("report.md").read_text()
    assert f"| feedforward/{module} | 1 | 1 | 0 | 0 |" in text
    assert f"| feedforward/{module}: flops_match_torch | FAILED |" in text


def test_options_are_tried_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "norm/rms", "--check", "returns_the_expected_shape")
    assert status == 0
    assert "norm/rms[eps=2.0]" in out
    status, out, _ = run(
        capsys, "mixer/attention", "--param", "window=3", "--check", "returns_the_expected_shape", "--quick"
    )
    assert [line.split()[0] for line in out.splitlines()] == [
        "mixer/attention/causal[window=3]",
        "mixer/attention/bidirectional[window=3]",
        "2",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["norm/rmss"], "no norm is called 'rmss'; did you mean 'rms'?"),
        (["nrom/rms"], "no slot is called 'nrom'; did you mean 'norm'?"),
        (["{module}:Costy"], "module '{module}' has no 'Costy'; it registers Costly"),
        (["{module}:Plain"], "{module}:Plain is not a registered block; write @register above the class"),
        (["no_such_module"], "plug-in 'no_such_module' cannot be loaded: ModuleNotFoundError"),
        (["norm/rms", "--param", "epps=1"], "norm 'rms' has no parameter 'epps'; did you mean 'eps'?"),
        (["norm/rms", "--param", "eps=-1"], "eps"),
        (["mixer/attention", "--param", "heads=3"], "dim=32 is not a multiple of heads=3"),
        (["rms"], "no module is called 'rms'; did you mean norm/rms?"),
        (["norm/rms", "--check", "gradients"], "did you mean 'gradients_reach_every_parameter' or 'gradients_match"),
        (["norm/rms", "--check", "accepts_empty_input"], "did you mean 'accepts_empty_inputs'"),
        (["norm/rms", "--expect-failure", "accepts_empty_inputs"], "must have the form CHECK=REASON"),
        (["norm/rms", "--quick", "--expect-failure", "accepts_sheep=no"], "no check is called 'accepts_sheep'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], module: str, arguments: list[str], message: str
) -> None:
    status, out, err = run(capsys, *(argument.format(module=module) for argument in arguments))
    assert status == 2
    assert out == ""
    assert message.format(module=module) in err
    assert err.count("\n") == 1


def test_lists_the_checks_that_apply(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "norm/rms", "--list-checks")
    assert status == 0
    assert "gradients_reach_every_parameter" in out.splitlines()
    assert "is_causal" not in out.splitlines()


def test_progress_is_printed_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_progress, "SECONDS", 0.0)
    status, out, err = run(capsys, "norm/rms", "--quick", "--check", "accepts_one_token")
    assert status == 0
    assert err == "1 done, last norm/rms: accepts_one_token\n"
    assert "done" not in out


def test_a_report_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["test-block", "norm/rms", "--report", "report.pdf"])
    assert left.value.code == 2
    assert "report.pdf" in capsys.readouterr().err


COMPONENT = '''
from blockformer.training.optimizers import Schedule
from registry import register


@register("{name}")
class Growing(Schedule):
    """A share that grows."""

    def __init__(self) -> None:
        pass

    def factor(self, step: int, warmup: int, total: int) -> float:
        return step / 100
'''


def test_components_that_are_no_modules_are_tested_too(capsys: pytest.CaptureFixture[str], module: str) -> None:
    status, out, _ = run(capsys, "schedule/cosine", "--param", "min_ratio=0.5")
    assert status == 0
    assert "schedule/cosine[min_ratio=0.5]" in out
    Path(f"{module}.py").write_text(COMPONENT.format(name=module))
    status, out, _ = run(capsys, module)
    assert status == 1
    (line,) = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert line.startswith(f"FAILED: schedule/{module}: factor_is_a_share_of_the_peak: factor(step=1000000, ")
    status, out, _ = run(capsys, "dataset/table")
    assert status == 0
    assert out.splitlines()[1] == (
        "  set the parameters that it needs by --param: dataset table needs files: set its option files"
    )
    status, out, _ = run(capsys, "objective/masked_lm", "--list-checks")
    assert status == 0
    assert {"loss_in_parts_is_the_whole_loss", "documents_every_parameter"} <= {*out.splitlines()}


def test_checks_that_fail_for_one_reason_are_counted(capsys: pytest.CaptureFixture[str], module: str) -> None:
    source = Path(f"{module}.py").read_text().replace("self.out(self.out(x))", "self.oot(x)")
    Path(f"{module}.py").write_text(source)
    status, out, _ = run(capsys, module, "--quick")
    assert status == 1
    failed = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 3
    assert "more checks with the same reason: AttributeError: 'Costly' object has no attribute 'oot'" in out


def test_a_block_that_does_not_call_its_base_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], module: str
) -> None:
    source = Path(f"{module}.py").read_text().replace("        super().__init__(site)\n", "")
    Path(f"{module}.py").write_text(source)
    status, out, told = run(capsys, module, "--quick")
    assert (status, out) == (2, "")
    assert told.count("\n") == 1
    assert f"{module}.Costly.__init__ has to begin with super().__init__(...)" in told
