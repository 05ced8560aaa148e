"""completion: a script that makes a shell complete commands, options and their values.

It is made from the parsers themselves and holds plain lists, so that no Python starts at a press of the tab key.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import Any

from aiterlite.cli.command import Commands, Report, command
from aiterlite.cli.explain import OTHER_UNITS, known_units
from aiterlite.tables import TABLES
from aiterlite.target import names

_SHELLS = ("bash", "zsh", "fish")
_TAKE_OPERATORS = ("explain", "emulate", "bench")


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "completion",
        "print what makes a shell complete command lines",
        lambda args: _run(args, commands.choices),
    )
    parser.add_argument("shell", choices=_SHELLS, help="bash, zsh or fish")
    parser.epilog = (
        'bash: eval "$(aiterlite completion bash)"\n'
        'zsh:  eval "$(aiterlite completion zsh)", after compinit\n'
        "fish: aiterlite completion fish | source"
    )


def _run(args: argparse.Namespace, parsers: Mapping[str, argparse.ArgumentParser]) -> Report:
    data = {"shell": args.shell, "commands": gather(parsers)}
    script = _fish(data["commands"]) if args.shell == "fish" else _bash(data["commands"], zsh=args.shell == "zsh")
    return Report({**data, "script": script}, script)


def gather(parsers: Mapping[str, argparse.ArgumentParser]) -> dict[str, Any]:
    """Each command's help, its options with the values that they take, and its words."""
    units = sorted(set().union(OTHER_UNITS, *known_units().values()))
    values = {"--target": names(), "--ops": list(TABLES), "--unit-name": units}
    commands = {}
    for name, parser in parsers.items():
        options: dict[str, Any] = {}
        words: list[str] = []
        for action in parser._actions:
            option = action.option_strings[-1] if action.option_strings else ""
            known = [str(choice) for choice in action.choices or values.get(option, ())]
            if not action.option_strings:
                words += known
            for text in action.option_strings:
                takes = "nothing" if action.nargs == 0 else "a list" if known and "," in str(action.metavar) else "one"
                options[text] = {"help": action.help or "", "takes": takes, "values": known}
        words += [*(["build"] if name == "explain" else []), *(TABLES if name in _TAKE_OPERATORS else ())]
        commands[name] = {"help": parser.description or "", "options": options, "words": words, "units": []}
    commands["explain"]["units"] = units
    return commands


def _bash(commands: Mapping[str, Any], zsh: bool) -> str:
    cases, listed = [], set()
    # Where no values are known, no words are offered, and the shell's own completion of file names goes on.
    valued: dict[str, list[str]] = {}
    for name, facts in commands.items():
        words = " ".join([*facts["options"], *facts["words"]])
        cases.append(f"    {name}) words={shlex.quote(words)} ;;")
        for option, takes in facts["options"].items():
            if takes["takes"] != "nothing":
                valued.setdefault(" ".join(takes["values"]), []).append(f"{name},{option}")
            if takes["takes"] == "a list":
                listed.add(option)
    units = shlex.quote(" ".join(commands["explain"]["units"]))
    head = ["autoload -U +X bashcompinit && bashcompinit"] if zsh else []
    return "\n".join(
        [
            *head,
            "_aiterlite() {",
            "  local words= prefix= word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
            '  local named=${COMP_WORDS[1]} asked="${COMP_WORDS[1]} ${COMP_WORDS[2]}"',
            f"  if [ $COMP_CWORD -eq 1 ]; then words={shlex.quote(' '.join(['--help', '--version', *commands]))}",
            f'  elif [ $COMP_CWORD -eq 3 ] && [ "$asked" = "explain build" ]; then words={units}',
            '  else case "$named,$before" in',
            *(f"    {'|'.join(where)}) words={shlex.quote(values)} ;;" for values, where in valued.items()),
            '    *) case "$named" in',
            *cases,
            "    esac ;;",
            "  esac; fi",
            f'  case "$before" in {"|".join(sorted(listed))})',
            '    case "$word" in *,*) prefix=${word%,*},; word=${word##*,} ;; esac ;;',
            "  esac",
            '  COMPREPLY=($(compgen -P "$prefix" -W "$words" -- "$word"))',
            "}",
            "complete -o default -o bashdefault -F _aiterlite aiterlite",
        ]
    )


def _fish(commands: Mapping[str, Any]) -> str:
    lines = []
    for name, facts in commands.items():
        lines.append(f"complete -c aiterlite -n __fish_use_subcommand -f -a {name} -d {_quoted(facts['help'])}")
        within = f"complete -c aiterlite -n '__fish_seen_subcommand_from {name}'"
        if facts["words"]:
            lines.append(f"{within} -a {_quoted(' '.join(facts['words']))}")
        for option, takes in facts["options"].items():
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            value = " -r" if takes["takes"] != "nothing" else ""
            value += f" -f -a {_quoted(' '.join(takes['values']))}" if takes["values"] else ""
            lines.append(f"{within} {kind}{value} -d {_quoted(takes['help'])}")
    units = _quoted(" ".join(commands["explain"]["units"]))
    asked = "-n '__fish_seen_subcommand_from explain' -n '__fish_seen_subcommand_from build'"
    lines.append(f"complete -c aiterlite {asked} -a {units}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
