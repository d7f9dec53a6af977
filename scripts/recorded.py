"What the measuring scripts share: how figures were made, and those that a file has already."
import json, re, shlex, sys
from pathlib import Path

from triqdef.core import versions
from triqdef.files import plain, read_json


def command():
    "How this script was called; of a path outside the project, its last part."
    own = [re.sub(r'(^|=)(?:/|~|\.\./)\S*/', r'\1', a) for a in sys.argv[1:]]
    return shlex.join(['python', f'scripts/{Path(sys.argv[0]).name}', *own])

def begun(out, format, rows, device='cpu', **notes):
    "A file's content, or an empty list `rows`, with how it is made now; rows of other settings are refused."
    done = read_json(out, format) if Path(out).exists() else {'format': format, rows: []}
    notes = json.loads(json.dumps(plain(notes)))
    other = {k: (done[k], v) for k, v in notes.items() if k in done and done[k] != v}
    if done[rows] and other: raise SystemExit(f'{Path(out).name} has {rows} of other settings (there, asked): {other}; give another --out')
    return done | dict(command=command(), versions=versions(device), **notes)
