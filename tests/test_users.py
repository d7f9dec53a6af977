"""What users of neighbouring tools report, tried here: one test a situation, in the files `test_users_*.py`, an area each.

A docstring says the situation in one line and, where it is public, the report that it resembles, as `project #number`.
`python tests/test_users.py` prints the list."""
import ast, re
from pathlib import Path

HERE = Path(__file__).parent
AREAS = dict(data='folders, pictures, labels, loaders in fastai', quant='conversion, norms, wrappers, checkpoints',
             attack='maps, attacks, evaluation', train='callbacks among others', cli='the command line, runs, settings',
             deploy='exported files')

def situations():
    "(area, name of the test, situation, reports) of every test."
    for area in AREAS:
        for f in ast.parse((HERE/f'test_users_{area}.py').read_text(encoding='utf-8')).body:
            if not isinstance(f, ast.FunctionDef) or not f.name.startswith('test_'): continue
            said = ast.get_docstring(f) or ''
            yield area, f.name, said, re.findall(r'[\w.-]+(?:/[\w.-]+)? #\d+', said)


def test_every_file_has_an_area(): assert {p.stem for p in HERE.glob('test_users_*.py')} == {f'test_users_{a}' for a in AREAS}

def test_every_test_says_its_situation():
    assert [n for _, n, said, _ in situations() if not said or '\n' in said] == []

def test_names_are_told_apart():
    names = [(a, n) for a, n, *_ in situations()]
    assert len(names) == len(set(names))

def test_as_many_as_the_readme_says(root):
    found = list(situations())
    said = re.search(r'(\d+) situations of users, (\d+) of them from public bug reports', (root/'README.md').read_text(encoding='utf-8'))
    assert said and len(found) >= int(said[1]) and len({r for *_, reports in found for r in reports}) >= int(said[2]) >= 36


if __name__ == '__main__':
    for area, name, said, reports in situations(): print(f"{area:7} {name}\n        {said}")
