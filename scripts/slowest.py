"""Pass through what `nbdev-test --timing --cell-timing-min` prints, and end with the ten slowest notebooks and cells.

    nbdev-test --timing --cell-timing-min 2 | python scripts/slowest.py

The lines of single notebooks and cells are kept back: they are many, and come in the order of finishing."""
import re, sys


def slowest(lines, n=10, show=print):
    "Print every line that is no timing, then the `n` slowest notebooks and cells with their seconds."
    times = dict(notebook=[], cell=[])
    for line in lines:
        cell = re.fullmatch(r'(\S+\.ipynb):(\S+): ([\d.]+)s', line.strip())
        page = re.fullmatch(r'(\S+\.ipynb): (\d+) secs', line.strip())
        if cell: times['cell'].append((float(cell[3]), f'{cell[1]}, cell {cell[2]}'))
        elif page: times['notebook'].append((float(page[2]), page[1]))
        else: show(line.rstrip('\n'))
    for kind, found in times.items():
        if found: show(f'slowest {kind}s:')
        for seconds, name in sorted(found, reverse=True)[:n]: show(f'  {seconds:6.1f} s  {name}')


if __name__ == '__main__': slowest(sys.stdin, show=lambda line: print(line, flush=True))
