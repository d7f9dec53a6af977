"A study as its users keep it: the file of its figures is the same however it is made, and the page of results is what the JSON says."
import json, os

import pytest

import dying, forked
from triqdef.results import collect, missing, store_study, stored_recipes
from triqdef.study import load_recipe, study

RECIPE, ARMS = load_recipe('cifar10', 'toys'), ['patch-at', 'triqdef']

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A study of two arms, of few toys and without pictures."
    folder = tmp_path_factory.mktemp('study')/'whole'
    with pytest.MonkeyPatch.context() as m:
        dying.few(m.setattr); forked.undrawn(m.setattr)
        study(RECIPE, folder, ARMS, progress=False)
    return folder

def test_stored_study_is_the_same_bytes(whole, tmp_path):
    "From folders, from the file that was made of them, from both: one file, byte for byte."
    store_study(tmp_path/'a.json', collect(whole), [RECIPE])
    store_study(tmp_path/'b.json', collect(tmp_path/'a.json', whole), stored_recipes(tmp_path/'a.json'))
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

def test_arms_of_the_papers_setting(tmp_path):
    "The paper's own setting trains on toys: patches at 32 bits alone, then QAT without; MinMax quantizers."
    made = study(load_recipe('cifar10-paper', 'toys'), tmp_path, ['pbat-32-qat', 'dwq-minmax'], only='train', progress=False)
    late, plain = (c['settings']['train'] for c in made.values())
    assert late['own'] == dict(qat_epochs=1) and (plain['weight'], plain['act']) == ('minmax', 'minmax')
    bits = [r.split('"')[1] for r in (tmp_path/'pbat-32-qat/seed0/train/terms.csv').read_text().splitlines()[1:]]
    assert bits[:4] == ['(32,)']*4 and '(32, 2)' in bits[4:]

@pytest.mark.parametrize('name', ['cifar10', 'cifar10-curves', 'cifar10-paper'])
def test_every_recipe_ends(name, tmp_path):
    "Each recipe that ships runs to its end on toys: every cell that it asks for is made, none is asked for that cannot be."
    recipe = load_recipe(name, 'toys')
    arm = next(a for a in recipe.arms if a != recipe.control)
    with pytest.MonkeyPatch.context() as m:
        dying.few(m.setattr); forked.undrawn(m.setattr)
        made = study(recipe, tmp_path, [recipe.control, arm], progress=False)
    cells = collect(tmp_path)
    assert len(made) == len(cells) and {u.arm for u in missing(cells, recipe)} == set(recipe.arms) - {recipe.control, arm}
    assert ('alignment' in {c['kind'] for c in cells.values()}) == (recipe.evaluate['n_align'] > 0)
