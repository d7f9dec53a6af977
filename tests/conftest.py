"""Shared by all tests: one thread, no display, repeatable hypothesis runs, the repository's root."""
import os

for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ.setdefault(name, '1')
os.environ.setdefault('MPLBACKEND', 'Agg')

from pathlib import Path

import forked, pytest
from hypothesis import settings

settings.register_profile('triqdef', deadline=None, max_examples=25, derandomize=True)
settings.load_profile('triqdef')


@pytest.fixture(scope='session')
def root():
    "The repository."
    return Path(__file__).resolve().parent.parent

@pytest.fixture(scope='session', autouse=True)
def torchlib():
    "Networks are written faster."
    back = forked.read_once()
    yield
    back()
