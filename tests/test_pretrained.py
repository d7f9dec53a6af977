"""The networks that ship: what their headers say is measured again, and loading them runs no code."""
import json

import pytest
import torch

from triqdef.data import sample_tensors
from triqdef.evaluate.success import predict
from triqdef.quant.checkpoint import pretrained, pretrained_names
from triqdef.quant.convert import bits_of


def said(net):
    "bits -> accuracy on the 10,000 test images, as the header has it."
    meta = net.description['meta']
    if 'clean' in meta: return {int(b): c['value'] for b, c in meta['clean'].items()}
    return {32: meta['test_accuracy']}


@pytest.mark.parametrize('name', pretrained_names())
def test_accuracy_is_what_the_header_says(name):
    net, t = pretrained(name), sample_tensors()
    x, y, n = t['x_test'][:500].float()/255, t['y_test'][:500], 500
    assert len(t['y_test']) == 1000 and set(y.bincount().tolist()) == {50} and sorted(said(net)) == sorted(bits_of(net))
    for bits, p in said(net).items():
        pred, _ = predict(net, [(x[i:i + 250], y[i:i + 250]) for i in range(0, n, 250)], bits)
        found = (pred == y).float().mean().item()
        assert abs(found - p) < 3*(p*(1 - p)/n)**.5, (name, bits, found, p)


@pytest.mark.parametrize('name', pretrained_names())
def test_loading_runs_no_code(name, monkeypatch):
    def refuse(*a, **k): raise AssertionError('a pickle was opened')
    for where in ('pickle.load', 'pickle.loads', 'torch.load'): monkeypatch.setattr(where, refuse)
    net = pretrained(name)
    json.dumps(net.description)
    assert all(torch.isfinite(p).all() for p in net.parameters())
