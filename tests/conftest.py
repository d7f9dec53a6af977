"""Shared by all tests: one thread, no display, repeatable hypothesis runs, the repository's root."""
import gc, os

for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ.setdefault(name, '1')
os.environ.setdefault('MPLBACKEND', 'Agg')

from pathlib import Path

import forked, pytest
from hypothesis import settings

settings.register_profile('triqdef', deadline=None, max_examples=25, derandomize=True)
settings.load_profile('triqdef')

LONG = 'test_deploy test_kills test_program test_imagenet test_distributed test_architectures test_users_train'.split()

def pytest_collection_modifyitems(items):
    "The longest files come first, so that the workers end together."
    items.sort(key=lambda i: LONG.index(i.path.stem) if i.path.stem in LONG else len(LONG))

@pytest.fixture(scope='session')
def root():
    "The repository."
    return Path(__file__).resolve().parent.parent

@pytest.fixture(scope='session', autouse=True)
def once():
    "Fork the process that runs programs; networks are written faster; the collector passes over what was imported."
    end = forked.start()
    back = forked.read_once()
    gc.collect(); gc.freeze(); gc.set_threshold(20_000, 20, 100)
    yield
    gc.unfreeze()
    back(); end()

@pytest.fixture
def undrawn(monkeypatch):
    "Pictures are files of one pixel: for what is not about pictures."
    forked.undrawn(monkeypatch.setattr)

@pytest.fixture(scope='module')
def few_toys():
    "Fewer toys in this process than the program has."
    import dying
    with pytest.MonkeyPatch.context() as m:
        dying.few(m.setattr)
        yield
