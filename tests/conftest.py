"""Shared by all tests: one thread, no display, repeatable hypothesis runs, the repository's root."""
import copy, functools, os

for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ.setdefault(name, '1')
os.environ.setdefault('MPLBACKEND', 'Agg')

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile('triqdef', deadline=None, max_examples=25, derandomize=True)
settings.load_profile('triqdef')


@pytest.fixture(scope='session')
def root():
    "The repository."
    return Path(__file__).resolve().parent.parent

@pytest.fixture(scope='session', autouse=True)
def torchlib():
    "torch reads its translations to ONNX anew for every file, which takes longer than to write a small network: once will do."
    try:
        from torch._export import utils
        from torch.onnx._internal.exporter._registration import ONNXRegistry
        listed = utils._collect_all_valid_cia_ops_for_namespace
    except (ImportError, AttributeError): yield; return      # another torch: slower
    own, read = vars(ONNXRegistry)['from_torchlib'], functools.cache(ONNXRegistry.from_torchlib)
    def copied(*args, **kwargs):
        new = copy.copy(read(*args, **kwargs))
        new.functions = {k: list(v) for k, v in new.functions.items()}
        return new
    ONNXRegistry.from_torchlib = staticmethod(copied)
    utils._collect_all_valid_cia_ops_for_namespace = functools.cache(listed)      # of torch's operators, too
    yield
    ONNXRegistry.from_torchlib, utils._collect_all_valid_cia_ops_for_namespace = own, listed
