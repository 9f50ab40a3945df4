"""Rewrite error messages of jsonargparse in terms of options."""

import re
from collections.abc import Sequence

from blockformer.training.components import Components
from blockformer.training.option_advice import advice

PLAINER = (
    (r'Parser key "([\w.]+)": ?', r"--\1: "),
    (r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", r"expected \1\2"),
    (r"\. Got value: ?$", r", not ''"),
    (r"\. Got value: (.*)$", r", not \1"),
)


def _union(text: str) -> str:
    """What values of a union are accepted, of jsonargparse's message that one is not."""
    types, _, errors = text.partition("Errors:")
    if literals := ", ".join(re.findall(r"typing\.Literal\[(.*?)\](?=[,\]])", types)):
        return f"not an accepted value; accepted are {literals}"
    found = re.search(r"Subtypes: \[(.*)\]", types)
    names, given = found[1] if found else "", re.search(r"Given value: ?(.*)$", errors)
    while (outer := re.sub(r"\[[^\[\]]*\]", "", names)) != names:  # of list[dict[str, int]] the list
        names = outer
    accepted = [name.replace("NoneType", "null") for name in re.findall(r"(?:<class ')?(\w+)(?:'>)?(?:, |$)", names)]
    if not accepted or not given:
        return "not an accepted value"
    return f"expected {' or '.join(accepted)}, not {given[1] or repr('')}"


def readable(message: str, options: Sequence[str], components: Components) -> str:
    """A message of jsonargparse on one line, in terms of options, with the most similar option that exists.

    Args:
        message: jsonargparse's.
        options: the options that there are.
        components: those of the run, whose options are among them.
    """
    text = " ".join(message.split())
    if found := re.search(r"(Parser key .*?:).*(Problem with given class_path.*?)(?: - |$)", text):
        text = f"{found[1]} {found[2]}"
    elif "Does not validate against any of the Union" in text:
        text = f"{text.partition(':')[0]}: {_union(text)}"
    if found := re.match(r"(?:Parser key \"|--)(\w+)\"?: .*Unable to load config ['\"](.*?)['\"]", text):
        group, value = found.groups()
        meant = f"--recipe {value}" if group == "model" else f"--{group}.OPTION {value}"
        return f"--{group} takes a configuration file, which {value} is not; did you mean {meant}?"
    for pattern, replacement in PLAINER:
        text = re.sub(pattern, replacement, text)
    if found := re.search(r"unrecognized arguments: (\S+)|does not accept option '(\S+)'", text, re.IGNORECASE):
        if found[1] and not found[1].startswith("-"):
            return (
                f"{found[1]} belongs to no option: each option takes one value; give that of a list several times, as "
                "--data.files A --data.files B, or a pattern in quotes"
            )
        option = found[1].partition("=")[0] if found[1] else f"--{found[2]}"
        if (problem := components.unknown(option.removeprefix("--"))) is not None:
            return problem
        others = {f"--{key}": readers for key, readers in components.elsewhere().items()}
        meant = advice(option, [*options, *others])
        of = f" of {others[meant]}" if meant in others and meant not in options else ""
        return f"there is no option {option}" + (f"; did you mean {meant}{of}?" if meant else "; see --help all")
    return text
