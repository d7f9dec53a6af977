"What the measuring scripts share: how figures were made, and those that a file has already."
import shlex, sys
from pathlib import Path

from triqdef.core import versions
from triqdef.files import read_json


def command():
    "How this script was called; of a path that begins at the root, its last part."
    own = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return shlex.join(['python', f'scripts/{Path(sys.argv[0]).name}', *own])

def begun(out, format, rows, device='cpu', **notes):
    "A file's content, or an empty list `rows`, with how it is made now."
    done = read_json(out, format) if Path(out).exists() else {'format': format, rows: []}
    return done | dict(command=command(), versions=versions(device), **notes)
