"""Store the help of every command in the page that shows it: `python scripts/store_help.py`, without running the page.

Such a cell is `print(command_help(add_NAME))`; add_NAME is of the module that the page exports."""
import importlib, json, re
from pathlib import Path

root = Path(__file__).resolve().parent.parent


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


if __name__ == '__main__':
    for p, d, c, module, name in shown():
        c['outputs'] = [dict(name='stdout', output_type='stream', text=(help_of(module, name) + '\n').splitlines(keepends=True))]
        p.write_text(json.dumps(d, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')
