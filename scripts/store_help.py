"""Store what `triqdef COMMAND --help` says: `python scripts/store_help.py`, after a change of options; a test compares.

In the package, with what shells complete, so that printing it needs no torch; and in the page of each command, whose cell
`print(command_help(add_NAME))` names a function of the module that the page exports, without running the page."""
import importlib, json, os, re
from pathlib import Path

os.environ['COLUMNS'] = '80'

root = Path(__file__).resolve().parent.parent


def text():
    "The table of the package as JSON."
    from triqdef.cli import parser
    from triqdef.commands.completion import command_table
    from triqdef.quant.checkpoint import pretrained_names
    return json.dumps(command_table(parser(), pretrained_names()), indent=1, ensure_ascii=False) + '\n'

def shown(root=root):
    "(path, notebook, cell, module, function) of every cell that shows the help of a command."
    for p in sorted((root/'nbs').glob('9*.ipynb')):
        d = json.loads(p.read_text(encoding='utf-8'))
        source = '\n'.join(''.join(c['source']) for c in d['cells'])
        for c in d['cells']:
            if m := re.fullmatch(r'print\(command_help\((\w+)\)\)', ''.join(c['source'])):
                yield p, d, c, 'triqdef.' + re.search(r'#\| default_exp (\S+)', source)[1], m[1]

def help_of(module, name):
    "The help as the package has it now."
    from triqdef.commands.checks import command_help
    return command_help(getattr(importlib.import_module(module), name))

def write():
    from triqdef.commands.completion import help_file
    help_file().write_text(text(), encoding='utf-8')
    for p, d, c, module, name in shown():
        c['outputs'] = [dict(name='stdout', output_type='stream', text=(help_of(module, name) + '\n').splitlines(keepends=True))]
        p.write_text(json.dumps(d, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')


if __name__ == '__main__': write()
