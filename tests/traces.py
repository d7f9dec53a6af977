"One graph of torch's exporter for all files of one network at one bit-width: they differ in what is made of the graph."
import copy

import triqdef.deploy.onnx as deploy
from triqdef.deploy import tracing
from triqdef.files import fingerprint


def key_of(net, example, table):
    "What decides the graph: the network, the images, and who writes its operations."
    writers = [c.cell_contents for f in table.values() for c in f.__closure__ if callable(c.cell_contents)]
    return repr(net), fingerprint(net.state_dict()), tuple(example.shape), example.dtype, tuple(writers)

def once(setattr):
    "Let `export_onnx` trace equal networks once from now on; `setattr` is that of a `MonkeyPatch`."
    made = {}
    def traced(*args):
        key = key_of(*args)
        if key not in made: made[key] = tracing.traced(*args)
        return copy.deepcopy(made[key])
    setattr(deploy, 'traced', traced)

def afresh(setattr):
    "Let it trace every network."
    setattr(deploy, 'traced', tracing.traced)
