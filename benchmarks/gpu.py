"""Speed and memory on a GPU, against a model written by hand and against transformers, in one run.

    python -m benchmarks.gpu [--limit 500] [--turns 7] [--out benchmarks/results/gpu.json] [--only TEXT] [--toy]

Measures attention alone with every backend, then training steps (forward, loss, backward) of GPT-2 124M, of a Llama
shape with 1.3 billion parameters and of a mixture of 8 experts, on 8,192 tokens in bfloat16 autocast. The contestants
of a case take turns. Results are written after every case, so that an end before the last one loses nothing. Without a
GPU, sizes are those of toys.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

from benchmarks.gpu_models import CASES, FULL, TOY, Case, Shape
from benchmarks.interleaved import Step, in_turns, machine
from blockformer.files import as_json, write_text
from blockformer.studies.training_step import peak_of
from blockformer.training.device_peak import peak_flops
from blocks.attention.backends import IMPLEMENTATIONS
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility
from blocks.base import DistanceBias

TOKENS, TOY_SCALE, DOCUMENTS = 8192, 64, 5
LENGTHS, NO_TIME = (2048, 8192), "no time left"
Result = dict[str, Any]


def documents(rows: int, length: int, device: torch.device) -> Tensor:
    """(rows, length) number of each token's document: a few documents of random lengths in each row."""
    draw = torch.Generator().manual_seed(0)
    ends = torch.randint(1, length, (rows, DOCUMENTS - 1), generator=draw).sort(dim=1).values
    return (torch.arange(length)[None, :, None] >= ends[:, None, :]).sum(-1).to(device)


def attention(length: int, shape: Shape, tokens: int, device: torch.device, turns: int) -> list[Result]:
    """Time, memory and largest difference from eager of every backend, by what is visible and what changes scores."""
    rows, width, found = tokens // length, shape.dim // shape.heads, list[Result]()
    draw = torch.Generator(device).manual_seed(0)

    def normal(heads: int) -> Tensor:
        x = torch.randn(rows, heads, length, width, device=device, generator=draw)
        return x.bfloat16().requires_grad_()

    q, k, v = normal(shape.heads), normal(shape.key_heads), normal(shape.key_heads)
    causal = Visibility(length, length, device, causal=True)
    in_documents = replace(causal, documents=documents(rows, length, device))
    window = replace(causal, window=max(1, length // 8))
    distances = torch.arange(1 - length, length, device=device)
    slopes = torch.arange(1, shape.heads + 1, device=device)[:, None] / length
    alibi = DistanceBias(-(slopes * distances.abs())[None])
    plain = Scoring(width**-0.5)
    cases = {
        "causal": (causal, plain),
        "documents": (in_documents, plain),
        "window": (window, plain),
        "ALiBi": (causal, plain._replace(bias=alibi)),
        "softcap": (causal, plain._replace(softcap=30.0)),
        "sinks": (causal, plain._replace(sinks=torch.zeros(shape.heads, device=device))),
    }
    for what, (visible, scoring) in cases.items():
        steps: dict[str, Step] = {}
        values: dict[str, list[Tensor]] = {}
        for name, attend in IMPLEMENTATIONS.items():
            if name == ("flex" if device.type == "cpu" else "blocked"):
                continue  # each is for the other device
            if name == "sdpa" and scoring.softcap is not None:
                continue

            def step(attend: Any = attend, visible: Visibility = visible, scoring: Scoring = scoring) -> None:
                q.grad = k.grad = v.grad = None
                attend(q, k, v, visible, scoring).sum().backward()
                _wait(device)

            step()
            values[name] = [one.grad.float() for one in (q, k, v) if one.grad is not None]
            steps[name] = step
        peaks = {name: peak_of(step, gpu=device.type == "cuda") for name, step in steps.items()}
        for name, times in in_turns(steps, turns=turns).items():
            pairs = zip(values[name], values["eager"], strict=True)
            difference = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
            one = {"backend": name, "mask": what, "length": length, "milliseconds": 1e3 * median(times)}
            found.append(one | {"peak_mib": peaks[name] / 2**20, "difference": difference})
            _say(f"attention {what} {length} {name}: {one['milliseconds']:.2f} ms, {found[-1]['peak_mib']:.0f} MiB")
    return found


def contestants(case: Case, shape: Shape, rows: int, device: torch.device) -> dict[str, tuple[Any, Callable[..., Any]]]:
    """Each contestant's model and its logits."""
    found: dict[str, tuple[Any, Callable[..., Any]]] = {}
    given = {"documents": documents(rows, case.length, device)} if case.documents else {}
    for backend in case.backends:
        if backend == "flex" and device.type == "cpu":
            continue
        model = shape.ours(case.length, device, backend)
        name = "ours" if backend == "auto" else f"ours, {backend}"
        found[name] = model, lambda tokens, model=model: model(tokens, **given)
    if "by hand" in case.others:
        model = shape.by_hand(device)
        found["by hand"] = model, model
    if "transformers" in case.others:
        found["transformers"] = shape.of_transformers(case.length, device)
    return found


def training(case: Case, shape: Shape, tokens: int, device: torch.device, turns: int) -> Result:
    """Tokens per second, MFU, peak memory and compilations of every contestant."""
    rows = max(1, tokens // case.length)
    texts = torch.randint(shape.vocab_size, (rows, case.length + 1), device=device)
    entrants = contestants(case, shape, rows, device)
    flops = 3 * entrants["ours"][0].flops_per_token(case.length)
    steps: dict[str, Step] = {}
    for name, (model, logits) in entrants.items():
        if case.compiled:
            model.compile(backend="inductor" if device.type == "cuda" else "aot_eager")  # on a CPU that takes minutes

        def step(model: Any = model, logits: Any = logits) -> None:
            model.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16):
                y = logits(texts[:, :-1])
            F.cross_entropy(y.flatten(0, 1).float(), texts[:, 1:].flatten()).backward()
            _wait(device)

        steps[name] = step
    found: dict[str, Result] = {}
    for name, step in steps.items():
        counters.clear()
        begun = time.perf_counter()
        step()
        found[name] = {"first_step_seconds": time.perf_counter() - begun}
        step()
        graphs = counters["stats"]["unique_graphs"]
        found[name]["peak_gib"] = peak_of(step, gpu=device.type == "cuda") / 2**30
        found[name] |= {"graphs": graphs, "recompiled": counters["stats"]["unique_graphs"] - graphs}
    peak = peak_flops(device, torch.bfloat16)
    for name, times in in_turns(steps, turns=turns, warm_up=1).items():
        rate = rows * case.length / median(times)
        found[name] |= {"milliseconds": 1e3 * median(times), "tokens_per_second": rate, "mfu": rate * flops / peak}
        _say(
            f"{case.name}: {name} {rate:,.0f} tokens/s, MFU {found[name]['mfu']:.3f}, {found[name]['peak_gib']:.1f} GiB"
        )
    sizes = {"parameters": entrants["ours"][0].size, "rows": rows, "length": case.length}
    return {"case": case.name, **sizes, "contestants": found}


def main() -> None:
    """Run all cases that the time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=500, help="seconds after which no further case begins")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--only", default="", help="cases whose name contains this; others stay in OUT as they are")
    parser.add_argument("--toy", action="store_true", help="tiny sizes; always so without a GPU")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    toy = options.toy or device.type == "cpu"
    shapes, tokens = (TOY, TOKENS // TOY_SCALE) if toy else (FULL, TOKENS)
    results: Result = {"machine": machine(), "versions": _versions(), "toy": toy, "tokens": tokens}
    results |= {"peak_flops": peak_flops(device, torch.bfloat16), "attention": [], "training": []}
    scale = TOY_SCALE if toy else 1
    lengths = [length // scale for length in LENGTHS]
    cases = [replace(case, length=case.length // scale) for case in CASES]
    names = [*map(_attention, lengths), *(case.name for case in cases)]
    if not any(options.only in name for name in names):
        parser.error(f"--only {options.only!r} is in the name of no case; there are {', '.join(names)}")
    results["left_out"] = dict.fromkeys(names, NO_TIME)
    results["seconds"] = 0.0
    begun, earlier = time.perf_counter(), _earlier(options.out, results) if options.only else None
    if earlier is not None:
        results = earlier

    def record(of: str, name: str, measure: Callable[..., Any], *given: Any) -> None:
        if options.only not in name:
            return
        try:
            if time.perf_counter() - begun > options.limit:
                raise TimeoutError(NO_TIME)
            measured = measure(*given, tokens, device, options.turns)
            measured = measured if isinstance(measured, list) else [measured]
            results[of] = [one for one in results[of] if _case(one) != name] + measured
            results["left_out"].pop(name, None)
        except Exception as error:  # such as too little memory: the other cases are measured all the same
            results["left_out"][name] = (str(error).splitlines() or [type(error).__name__])[0][:200]
            _say(f"{name}: {results['left_out'][name]}")
        results["seconds"] = time.perf_counter() - begun
        write_text(options.out, as_json(results, indent=1) + "\n")
        _forget(device)

    for length in lengths:
        record("attention", _attention(length), attention, length, shapes["llama"])
    for case in cases:
        record("training", case.name, training, case, shapes[case.model])
    _say(f"{results['machine']}; {results['seconds']:.0f} s; {options.out}")


def _earlier(path: Path, now: Result) -> Result | None:
    """Results of the same machine, versions and sizes; None: there are none.

    Raises:
        SystemExit: they are of others, and would be lost.
    """
    if not path.exists():
        return None
    found: Result = json.loads(path.read_text())
    for key in ("machine", "versions", "toy", "tokens"):
        if found[key] != now[key]:
            raise SystemExit(f"{path} is of {key} {found[key]}, not {now[key]}: give another --out")
    return found


def _case(result: Result) -> str:
    return result["case"] if "case" in result else _attention(result["length"])


def _attention(length: int) -> str:
    return f"attention {length}"


def _versions() -> dict[str, str]:
    import transformers

    cudnn: Any = torch.backends.cudnn
    found = {"torch": torch.__version__, "transformers": transformers.__version__, "cuda": str(torch.version.cuda)}
    return found | ({"cudnn": str(cudnn.version())} if torch.cuda.is_available() else {})


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _forget(device: torch.device) -> None:
    """Free the memory of a case, and what was compiled for it."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
