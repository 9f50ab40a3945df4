"""The parser of the arguments of `generate`."""

from blockformer.cli.parser import Parser

DESCRIPTION = """\
Generate text with a trained model. A decoder continues the prompt or answers messages; default: by sampling. An
encoder-decoder translates each line of the prompt; default: by beam search. An encoder fills in the blanks of the
prompt: each blank is one token (with a byte tokenizer: one byte), and its most probable candidates are listed."""
EXAMPLES = """\
examples:
  blockformer generate runs/writer --prompt 'Return the number of' --temperature 0.8 --top-p 0.95
  blockformer generate runs/writer --prompts questions.txt --greedy
  blockformer generate runs/writer --prompt 'Return the' --draft runs/small_writer
  blockformer generate runs/translator --prompt 'Tuesday, March 3' --beams 8 --samples 3
  blockformer generate runs/reader --prompt 'Return the numb__ of items'
  blockformer generate runs/chat --messages questions.jsonl --greedy"""


def parser() -> Parser:
    """The parser of the command's arguments."""
    parser = Parser(prog="blockformer generate", description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a checkpoint, or a run folder (its best checkpoint, else its last)")
    add(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="text to continue, translate or fill in; -: read standard input; may be repeated; default: empty",
    )
    add("--prompts", metavar="FILE", help="a text file, each line of which is a prompt; several are read side by side")
    add(
        "--messages",
        metavar="FILE",
        help="conversations to answer, such as JSON lines with `messages`, by the tokenizer's chat template; -: read "
        "JSON lines from standard input",
    )
    add("--column", metavar="NAME", help="column of the messages of a conversation; default: messages")
    add(
        "--tools-column",
        metavar="NAME",
        help="column of the tools of a conversation; default: tools, where there is one",
    )
    add("--max-new-tokens", type=int, metavar="N", help="largest number of new tokens; default: 256")
    add("--samples", type=int, metavar="N", help="number of texts; with beam search: the best N; default: 1")
    add("--greedy", action="store_const", const=True, help="always choose the most probable token")
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="sampling: divide the logits by T; below 1: less random; default: 1",
    )
    add("--top-k", type=int, metavar="K", help="sampling: only from the K most probable tokens; default: all")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="sampling: only from the fewest tokens whose probabilities sum to P; default: 1",
    )
    add("--seed", type=int, metavar="N", help="sampling: seed of the random numbers; default: 0")
    add("--beams", type=int, metavar="N", help="beam search: candidates kept at each token; default: 4")
    add(
        "--length-penalty",
        type=float,
        metavar="A",
        help="beam search: 0 favours short texts, 1 long ones; default: 0.6",
    )
    add("--blank", metavar="TEXT", help="filling in: the characters that mark a blank; default: _")
    add(
        "--draft",
        metavar="CKPT",
        help="greedy or sampling: a smaller model with the same tokenizer that drafts tokens, which are checked "
        "together; the text is as without it, for samples in distribution",
    )
    add("--draft-tokens", type=int, metavar="N", help="with --draft: tokens drafted at a time; default: 4")
    add(
        "--prompt-chunk",
        type=int,
        metavar="N",
        help="greedy or sampling: tokens of a prompt read at once, which bounds the memory; default: 2048",
    )
    add(
        "--compile",
        action="store_const",
        const=True,
        help="greedy or sampling: compile the steps, which takes a minute and pays off for many tokens",
    )
    add("--device", metavar="NAME", help="device, such as cpu or cuda:0; default: a GPU if there is one, else cpu")
    parser.add_argument("--plugin", metavar="MODULE", help="import a module that registers blocks; may be repeated")
    return parser
