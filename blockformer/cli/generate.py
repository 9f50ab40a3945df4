"""`blockformer generate`: let a trained model write, translate or fill in blanks."""

import sys
from collections.abc import Sequence

from blockformer.cli.parser import Parser
from blockformer.errors import UserError

DESCRIPTION = """\
Write text with a trained model. A decoder continues the prompt, drawing tokens at random unless told otherwise. An
encoder-decoder translates each line of the prompt, by beam search unless told otherwise. An encoder fills in the blanks
of the prompt; a blank stands for one token (of a tokenizer of bytes: one byte), and its best candidates are listed."""
EXAMPLES = """\
examples:
  blockformer generate runs/writer --prompt 'Return the number of' --temperature 0.8 --top-p 0.95
  blockformer generate runs/translator --prompt 'Tuesday, March 3' --beams 8 --samples 3
  blockformer generate runs/reader --prompt 'Return the numb__ of items'"""


def main(arguments: Sequence[str]) -> int:
    """Write to stdout what the model makes of the prompt.

    Raises:
        UserError: there is no such checkpoint, or its model cannot do what is asked for.
    """
    options = _parser().parse_args(arguments)
    text = _text(options.prompt)
    from blockformer.cli.writing import choose_way  # torch only now, so that --help answers at once
    from blockformer.generation.text_model import TextModel

    model = TextModel.load(options.checkpoint, _device(options.device))
    way = choose_way(model.model.kind, options)
    try:
        way.run(model, text, options)
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0


def _text(prompt: str) -> str:
    """The prompt, read from stdin if it is `-`, without the line break at its end."""
    try:
        if prompt == "-":
            return sys.stdin.buffer.read().decode().removesuffix("\n")
        prompt.encode()  # arguments that are no UTF-8 arrive as half surrogate pairs
    except UnicodeError:
        raise UserError("the prompt is not valid UTF-8") from None
    return prompt


def _device(name: str | None) -> str:
    """The device asked for, or a GPU if there is one."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch says both
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return name


def _parser() -> Parser:
    parser = Parser(prog="blockformer generate", description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a checkpoint, or the folder of a run (its best checkpoint, else its last)")
    add("--prompt", default="", metavar="TEXT", help="what to start from; - reads it from standard input")
    add("--max-new-tokens", type=int, metavar="N", help="write at most so many tokens (256)")
    add("--samples", type=int, metavar="N", help="write so many texts; of a beam search the best ones (1)")
    add("--greedy", action="store_const", const=True, help="take the most probable token each time")
    add("--temperature", type=float, metavar="T", help="draw at random; below 1 bolder guesses are rarer (1)")
    add("--top-k", type=int, metavar="K", help="draw among the K most probable tokens (all)")
    add("--top-p", type=float, metavar="P", help="draw among the fewest tokens with probability P together (1)")
    add("--seed", type=int, metavar="N", help="decides what is drawn; the same seed draws the same (0)")
    add("--beams", type=int, metavar="N", help="search for the most probable text, keeping N at each token (4)")
    add("--length-penalty", type=float, metavar="A", help="of the search: 0 favours short texts, 1 long ones (0.6)")
    add("--blank", metavar="TEXT", help="how a blank is written (_)")
    add("--device", metavar="NAME", help="such as cpu or cuda:0 (a GPU if there is one)")
    parser.add_argument("--plugin", metavar="MODULE", help="import a module that registers blocks; may be repeated")
    return parser
