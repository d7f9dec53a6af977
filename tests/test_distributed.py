"""Two processes on a CPU (gloo) against one on the joined batch: gradients, norms, seeds, figures, bytes, and runs that stop and go on.

`pair` is the two processes; what they found is compared by the tests below."""
import json, os, signal, socket, sys, time, traceback
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD
from torch.profiler import ProfilerActivity, profile

import dying
from forked import forked
from triqdef.core import fixed_seed
from triqdef.data import EpochOrder, ImageLoader, ImageTensors
from triqdef.quant.convert import at_bits, calibrate, to_multibit
from triqdef.quant.norm import MultiBitNorm
from triqdef.quant.quantizers import Quantizer
from triqdef.toys import ToyNet, toy_images
from triqdef.train.callback import JointQAT, TriQDef, accuracy_at
from triqdef.train.curriculum import BACT
from triqdef.train.distributed import RankLoader, communication, distributed, join_processes
from triqdef.train.run import TrainSettings, load_run, train

BITS, BATCH = (32, 5, 2), 16      # images of a step, over all processes
RUN = dict(data='toys', arch='toy_net', bits=(32, 2), bs=8, patch_size=4, attack_steps=2, device='cpu', method='triqdef', epochs=3)


class MeanNet(ToyNet):
    "A toy network without a maximum: at 2 bits that has ties, which rounding of the last digit breaks one way or the other."
    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(self.norm(x))))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))

def network(calibrated=True, **kwargs):
    with fixed_seed(0): net = to_multibit(MeanNet(), BITS, **kwargs)
    return (calibrate(net, [toy_images(64, seed=9)], method='lsq') if calibrated else net).double()

class Fixed:
    "Patches that are a function of the image, so that they do not depend on who makes them; notes what it could have drawn."
    def __init__(self): self.drawn = []
    def attack(self, net, x, y, bits):
        self.drawn.append(torch.rand(3).tolist())
        x_adv = x.clone()
        x_adv[..., 2:7, 3:8] = x.flip(-1)[..., 6:11, 5:10]
        return x_adv

class Note(Callback):
    "Keep the gradients of every update; fastai's moving average of the loss wants float32."
    order = 90
    def __init__(self): self.grads = []
    def after_loss(self): self.learn.loss = self.learn.loss.float()
    def before_step(self):
        net = getattr(self.model, 'module', self.model)
        self.grads.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})

def callback(**kwargs):
    return TriQDef(attack=Fixed(), lambda_fdp=.5, lambda_gpdp=.5, curriculum=BACT(BITS, warmup=0, max_active=2, ramp=0), **kwargs)

def learner(bs, wrap=lambda dl: dl, cb=None, net=None, cbs=(), valid=29):
    def loader(n, seed, bs, **kwargs):
        x, y = toy_images(n, seed=seed)
        return wrap(ImageLoader(ImageTensors(x.double(), y, range(4)), bs, seed=5, device='cpu', **kwargs))
    dls = DataLoaders(loader(56, 1, bs, shuffle=True, flip=True, pad=2, drop_last=True), loader(valid, 2, bs), device='cpu')
    cb = cb or callback()
    learn = Learner(dls, net or network(), loss_func=F.cross_entropy, opt_func=partial(SGD, mom=.9), metrics=accuracy_at(*BITS),
                    cbs=[EpochOrder(), cb, Note(), *cbs])
    learn.cb = cb
    return learn

def fit(learn, epochs=1, synced=False):
    with distributed(learn, synced), learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-2)
    return dict(grads=learn.note.grads, state=learn.model.state_dict(), record=list(learn.final_record), history=learn.cb.history,
                drawn=getattr(learn.cb.attack, 'drawn', None))


# what one of two processes does

class Profiled(Callback):
    "What torch saw the process group do in the third step; in the second DDP arranges its buckets anew, once."
    order = -100
    def before_batch(self):
        if self.training and self.iter == 2: self.prof = profile(activities=[ProfilerActivity.CPU], record_shapes=True); self.prof.start()
    def after_batch(self):
        if not self.training or self.iter != 2: return
        self.prof.stop()
        self.seen = {n: [e.input_shapes[0] for e in self.prof.events() if e.name == f'gloo:{n}'] for n in ('all_reduce', 'broadcast')}

class Break(Callback):
    def after_loss(self):
        if self.training and self.iter == 1: raise RuntimeError('broken')

class Die(Callback):
    order = 70
    def after_batch(self):
        if self.training and self.epoch == 1 and self.iter == 1: os.kill(os.getpid(), signal.SIGKILL)

def steps(found):
    "Fits of which the tests know the result."
    bs = BATCH//2
    found['synced'] = fit(learner(bs), 2, synced=True)
    found['again'] = fit(learner(bs), 2, synced=True)
    found['apart'] = fit(learner(bs))
    found['checkpointed'] = fit(learner(bs, cb=callback(checkpoint=['layer1', 'layer2'])), 2, synced=True)
    profiled = Profiled()
    found['profiled'] = fit(learner(bs, cbs=[profiled]), synced=True) | profiled.seen
    found['accumulated'] = fit(learner(bs, cbs=[GradientAccumulation(2*bs)]), synced=True)
    for weight, act in (('lsq', 'lsq'), ('minmax', 'minmax'), ('dorefa', 'pact')):
        net = network(calibrated=False, weight=weight, act=act)
        found[f'scratch {act}'] = fit(learner(bs, cb=JointQAT(curriculum=BACT(BITS, warmup=.6)), net=net), 2)
        found[f'ready {act}'] = [(q.kind, q.signed, *q.ready.values()) for q in net.modules() if isinstance(q, Quantizer)]

def restored(found):
    "What an error leaves."
    learn = learner(BATCH//2, cbs=[Break()])
    before, loaders = learn.model, list(learn.dls.loaders)
    try: fit(learn, synced=True)
    except RuntimeError as e: found['error'] = str(e)
    found['restored'] = (learn.model is before, learn.dls.loaders == loaders, not any(m.synced for m in before.modules() if isinstance(m, MultiBitNorm)),
                         'RankTrainer' not in {type(c).__name__ for c in learn.cbs}, hasattr(learn, 'progress'), before.bit_state.bits)

def runs(folder, found):
    "A run by two processes, one with other settings on its folder, and one that is killed."
    own, written = torch.save, []
    torch.save = lambda state, path: (written.append(1), own(state, path))
    run = train(TrainSettings(**RUN), folder/'whole', progress=False)
    found['written'], found['run'] = len(written), run.net.state_dict()
    torch.save = own
    try: train(TrainSettings(**RUN, lr=.5), folder/'whole', progress=False)
    except ValueError as e: found['refused'] = str(e)
    own(found, folder/f'{dist.get_rank()}.pt')
    train(TrainSettings(**RUN), folder/'killed', progress=False, cbs=[Die()])

def fits(folder):
    "What one of the two processes does, dead in the end."
    dying.few()
    join_processes('cpu')
    found = {}
    steps(found); restored(found); runs(Path(folder), found)

def one(folder, rank, port, work):
    "Become this process of the two, and end with what `work` gives."
    os.environ.update(environment(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)))
    log = os.open(f'{folder}/{rank}.log', os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2): os.dup2(log, stream)
    code = 1
    torch.set_num_threads(1)      # anew after a fork: see forked._answer
    try: code = work() or 0
    except BaseException: traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)

def pair(folder, port, argv=None, seconds=150):
    "Fork two processes, for the fits or for a command, and write their exit codes; nobody waits for ever."
    work = partial(dying.small, argv) if argv else partial(fits, folder)
    end, pids, codes = time.monotonic() + seconds, [], {}
    for rank in (0, 1):
        pids.append(os.fork())
        if not pids[-1]: one(folder, rank, port, work)
    while len(codes) < 2:
        for p in set(pids) - codes.keys():
            ended, status = os.waitpid(p, os.WNOHANG)
            if ended: codes[p] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end: os.kill(p, signal.SIGTERM)
        time.sleep(.01)
    Path(folder, 'codes.json').write_text(json.dumps([codes[p] for p in pids]))


# tests

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def environment(**more):
    return dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg', PYTHONWARNINGS='ignore', **({'GLOO_SOCKET_IFNAME': 'lo'} if sys.platform == 'linux' else {}), **more)

def both(folder, argv=None):
    "The exit codes of two processes, and what each said."
    if not hasattr(os, 'fork'): pytest.skip('needs fork')
    r = forked('test_distributed:pair', str(folder), free_port(), argv)
    assert r.returncode == 0, r.stderr[-2000:]
    return json.loads((folder/'codes.json').read_text()), [(folder/f'{r}.log').read_text() for r in (0, 1)]

pytestmark = pytest.mark.usefixtures('few_toys')      # as in the processes of `dying`

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "What each of two processes found; the folder has their runs."
    folder = tmp_path_factory.mktemp('two')
    codes, said = both(folder)
    assert codes == [-signal.SIGKILL]*2, (codes, [s[-2000:] for s in said])
    return folder, [torch.load(folder/f'{r}.pt', weights_only=False) for r in (0, 1)]

def apart(a, b):
    "The largest difference between two dictionaries of tensors with the same names."
    assert a.keys() == b.keys(), set(a) ^ set(b)
    return max((v.double() - b[k].double()).abs().max().item() for k, v in a.items())

def test_synced_equals_the_joined_batch(two, record_property):
    "Gradients, which of them there are, weights and running statistics of two epochs with FDP and GPDP: those of one process."
    one, (a, b) = fit(learner(BATCH), 2), [f['synced'] for f in two[1]]
    assert {len(h['bits']) for h in one['history']} == {2} and len({h['bits'] for h in one['history']}) > 1
    assert all(h['gpdp'] > 0 and h['fdp'] > 0 for h in one['history']) and len(one['grads']) == len(a['grads']) == 6
    worst = max(apart(g, h) for g, h in zip(a['grads'], one['grads']))
    record_property('largest gradient difference', worst); print('largest gradient difference', worst)
    assert worst < 1e-6 and max(v.abs().max() for v in one['grads'][0].values()) > .01
    assert apart(a['state'], one['state']) < 1e-6 and apart(a['state'], b['state']) == 0
    assert [h['bits'] for h in a['history']] == [h['bits'] for h in one['history']]
    for h, k in zip(a['history'], one['history']):
        for name in ('clean', 'adv', 'fdp', 'gpdp', 'total'): assert abs(h[name] - k[name]) < 1e-6
    assert a['record'][2:] == one['record'][2:]

def test_apart_is_the_mean_of_the_halves(two):
    "Norms that look at their own images: the first update is the mean of what each half gives alone."
    halves = [fit(learner(BATCH//2, wrap=lambda dl: RankLoader(dl, r, 2)))['grads'][0] for r in (0, 1)]
    for f in two[1]: assert apart(f['apart']['grads'][0], {n: (halves[0][n] + halves[1][n])/2 for n in halves[0]}) < 1e-6
    assert apart(two[1][0]['apart']['grads'][0], two[1][0]['synced']['grads'][0]) > 1e-4
    assert apart(two[1][0]['apart']['grads'][2], two[1][1]['apart']['grads'][2]) == 0

def test_accumulated(two):
    "Two batches to an update: the weights of one process that does the same with batches twice as large."
    one = fit(learner(BATCH, cbs=[GradientAccumulation(2*BATCH)]))
    weights = [{k: v for k, v in s.items() if k.endswith('weight')} for s in (network().state_dict(), one['state'])]
    limit = 1e-2*apart(*weights)       # a level that falls on the other side of its boundary moves a weight by far less
    assert apart(two[1][0]['accumulated']['state'], one['state']) < limit < 1e-3

def test_seeds(two):
    "The curriculum is one, patches are each process's own, the first process draws what one alone would, and all of it repeats."
    one, (a, b) = fit(learner(BATCH), 2), [f['synced'] for f in two[1]]
    assert a['history'] == b['history']
    assert a['drawn'] == one['drawn'] and all(p != q for p, q in zip(a['drawn'], b['drawn']))
    for f in two[1]: assert f['again']['drawn'] == f['synced']['drawn'] and apart(f['again']['state'], f['synced']['state']) == 0

def test_checkpointed_blocks_give_the_same(two):
    "The same gradients, and none for the bit-widths that are not active."
    for f in two[1]:
        a, b = f['synced']['grads'], f['checkpointed']['grads']
        assert [g.keys() for g in a] == [g.keys() for g in b]
        assert max(apart(p, q) for p, q in zip(a, b)) < 1e-10 and apart(f['synced']['state'], f['checkpointed']['state']) < 1e-10

@pytest.mark.parametrize('fit_', ['synced', 'apart'])
def test_accuracy_is_that_of_all_images(two, fit_):
    "29 validation images, which two processes cannot share evenly: every figure as one process has it."
    net, (x, y) = network(), toy_images(29, seed=2)
    net.load_state_dict(two[1][0][fit_]['state'])
    for b, said in zip(BITS, two[1][1][fit_]['record'][2:]):
        with at_bits(net, b), torch.no_grad(): assert said == (net.eval()(x.double()).argmax(1) == y).double().mean().item()

@pytest.mark.parametrize('act', ['lsq', 'minmax', 'pact'])
def test_first_data_is_the_first_process(two, act):
    "A network from scratch finds its steps while it trains and validates: the same ones in both processes."
    a, b = two[1]
    assert apart(a[f'scratch {act}']['grads'][-1], b[f'scratch {act}']['grads'][-1]) == 0
    parameters = [n for n, _ in network(False, weight='dorefa' if act == 'pact' else act, act=act).named_parameters()]
    assert all(torch.equal(a[f'scratch {act}']['state'][n], b[f'scratch {act}']['state'][n]) for n in parameters)
    assert a[f'ready {act}'] == b[f'ready {act}'] and all(all(ready) for kind, _, *ready in a[f'ready {act}'] if kind == 'act')

def test_counted_bytes(two):
    "`communication` against what torch's profiler saw of the process group in one step."
    for f in two[1]:
        seen, net = f['profiled'], network()
        table = communication(net, seen['history'][2]['bits'], 2, synced=True)
        numbers = {n: sum(torch.Size(s).numel() for s in seen[n]) for n in ('all_reduce', 'broadcast')}
        assert 8*numbers['all_reduce'] == table.bytes[['gradients', 'norms', 'terms']].sum()
        assert numbers['broadcast'] == sum(b.numel() for b in net.buffers())
        widths = {2*m.norms['32'].num_features + 1 for m in net.modules() if isinstance(m, MultiBitNorm)}
        assert sum(s[0] in widths for s in seen['all_reduce']) == table.calls['norms']

def test_an_error_restores(two):
    for f in two[1]: assert f['error'].endswith('broken') and f['restored'] == (True,)*5 + (32,)

def test_one_writes(two):
    "One checkpoint an epoch, by the first process; a refusal reaches both."
    folder, (a, b) = two
    assert (a['written'], b['written']) == (3, 0) and apart(a['run'], b['run']) == 0
    assert sorted(p.name for p in (folder/'whole').iterdir()) == ['history.csv', 'network.safetensors', 'run.json', 'terms.csv']
    assert 'other settings' in a['refused'] and 'the first process did' in b['refused']
    assert json.loads((folder/'whole'/'run.json').read_text())['processes'] == 2
    assert len(load_run(folder/'whole').terms) == 3*64//(2*8)

def test_two_killed_one_goes_on(two):
    "Both processes killed in the second epoch; one process ends the run, with its own number of steps in an epoch."
    folder = two[0]/'killed'
    assert {p.name for p in folder.iterdir()} - {'.lock'} == {'run.json', 'state.pt'}
    run = train(TrainSettings(**RUN), folder, progress=False)
    assert len(run.history) == 3 and len(run.terms) == 4 + 2*8
    assert run.terms.total[:4].tolist() == load_run(two[0]/'whole').terms.total[:4].tolist()

def test_one_stopped_two_go_on(two, tmp_path):
    "The command in two processes, on a run that one process began; the tutorial has the line that launches them."
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.epoch == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train(TrainSettings(**RUN), tmp_path/'run', progress=False, cbs=[Stop()])
    options = '--data toys --arch toy_net --bits 32 2 --bs 8 --patch-size 4 --attack-steps 2 --device cpu --epochs 3 --quiet'.split()
    codes, said = both(tmp_path, ['train', str(tmp_path/'run'), *options])
    assert codes == [0, 0], [s[-2000:] for s in said]
    assert ''.join(said).count('of the validation images right') == 1
    run = load_run(tmp_path/'run')
    assert len(run.history) == 3 and len(run.terms) == 8 + 2*4
