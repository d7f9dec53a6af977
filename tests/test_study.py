"A study as its users run it: killed at any moment it ends with the same table, and the page of results is what the JSON says."
import json, os, random, signal, subprocess, sys, time

import pandas as pd
import pytest

from triqdef.results import collect, missing, store_study, stored_recipes, study_tables
from triqdef.study import load_recipe, study

RECIPE, ARMS = load_recipe('cifar10', 'toys'), ['patch-at', 'triqdef']

# A process that has everything imported and forks for each try, since starting anew takes seconds.
# One line of JSON in: folder and seconds to live; one line out: exit code.
NURSERY = """
import json, os, signal, sys, time
from triqdef.study import load_recipe, study
recipe = load_recipe('cifar10', 'toys')
for line in sys.stdin:
    folder, arms, seconds = json.loads(line)
    child = os.fork()
    if not child:
        study(recipe, folder, arms, progress=False)
        os._exit(0)
    time.sleep(seconds)
    try: os.kill(child, signal.SIGKILL)
    except ProcessLookupError: pass
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)
"""

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A study that nobody interrupted, and how long it took."
    folder, start = tmp_path_factory.mktemp('study')/'whole', time.monotonic()
    study(RECIPE, folder, ARMS, progress=False)
    return folder, time.monotonic() - start

def figures(folder):
    "What a cell must have again; fastai's train_loss is a moving average, begun anew in a new process."
    found = {k: {n: c.get(n) for n in ('settings', 'network_sha256', 'clean', 'rows', 'images', 'last')} for k, c in collect(folder).items()}
    return {k: dict(c, last=c['last'] and {n: v for n, v in c['last'].items() if n != 'train_loss'}) for k, c in found.items()}

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_killed_at_ten_random_moments(whole, tmp_path):
    "SIGKILL, ten times, each time the same call again: the cells, weights and tables of the study that nobody interrupted."
    (other, seconds), rng, folders, before = whole, random.Random(0), [tmp_path/'cut'], []
    p = subprocess.Popen([sys.executable, '-c', NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env=dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg', PYTHONWARNINGS='ignore'))
    for _ in range(40):
        p.stdin.write(json.dumps([str(folders[-1]), ARMS, rng.uniform(.05, .3*seconds)]) + '\n'); p.stdin.flush()
        if json.loads(p.stdout.readline()) == -signal.SIGKILL: before.append(len(list(folders[-1].rglob('cell.json'))))
        else: folders.append(tmp_path/f'cut{len(folders)}')      # it was done in time: begin another
        if len(before) == 10: break
    p.stdin.close(); assert p.wait(30) == 0 and len(before) == 10
    assert max(before) > 0, 'no kill left anything to go on from'
    for folder in folders:
        study(RECIPE, folder, ARMS, progress=False)
        assert figures(folder) == figures(other)
        a, b = (study_tables(collect(f), RECIPE) for f in (folder, other))
        for name in a: pd.testing.assert_frame_equal(*(t[name].drop(columns='minutes', errors='ignore') for t in (a, b)))
        left = sorted(str(f.relative_to(folder)) for f in folder.rglob('*') if f.name[0] == '.' or f.name == 'parts' or f.suffix == '.pt')
        assert not left, left
        assert sorted(f.relative_to(folder) for f in folder.rglob('*')) == sorted(f.relative_to(other) for f in other.rglob('*'))

def test_stored_study_is_the_same_bytes(whole, tmp_path):
    "From folders, from the file that was made of them, from both: one file, byte for byte."
    store_study(tmp_path/'a.json', collect(whole[0]), [RECIPE])
    store_study(tmp_path/'b.json', collect(tmp_path/'a.json', whole[0]), stored_recipes(tmp_path/'a.json'))
    assert (tmp_path/'a.json').read_bytes() == (tmp_path/'b.json').read_bytes()
    assert {u.arm for u in missing(collect(tmp_path/'b.json'), RECIPE)} == set(RECIPE.arms) - set(ARMS)

def test_results_page_is_what_the_json_says(root):
    "The page of results holds no figure of its own: run again, it shows the text that is stored in it."
    nb = json.loads((root/'nbs/explanations/cifar10.ipynb').read_text(encoding='utf-8'))
    space, shown = {}, []
    here = os.getcwd()
    try:
        os.chdir(root/'nbs/explanations')
        for c in (c for c in nb['cells'] if c['cell_type'] == 'code'):
            source = ''.join(c['source'])
            *body, last = source.splitlines()
            if not last.startswith('Markdown('): exec(source, space); continue
            exec('\n'.join(body), space)
            shown.append((eval(last, space).data, ''.join(c['outputs'][0]['data']['text/markdown'])))
    finally: os.chdir(here)
    assert len(shown) > 5
    for made, stored in shown: assert made == stored
