"Trainings and commands that die, are stopped at a named moment or have fewer images, for a process of their own."
import os, signal, sys
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from fastai.callback.core import Callback

import triqdef.cli as cli
import triqdef.commands.study as study_command
import triqdef.commands.train as train_command
import triqdef.train.build as build
import triqdef.train.run as run


def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)

class Die(Callback):
    order = 70
    def __init__(self, where): self.where = where
    def after_batch(self):
        if self.where == 'in the first epoch' and self.training and self.epoch == 0 and self.iter == 1: die()
        if self.where == 'in the second epoch' and self.training and self.epoch == 1 and self.iter == 2: die()

def second_state_half_written():
    own, calls = torch.save, []
    def save(state, path):
        calls.append(1)
        if len(calls) < 2: return own(state, path)
        Path(path).write_bytes(b'half'); die()
    torch.save = save

def json_half_written():
    own = Path.write_text
    def write_text(self, text, *args, **kwargs): own(self, text[:20], *args, **kwargs); die()
    Path.write_text = write_text

def few(put=setattr):
    "Have at most 64 toys to train and as many to validate; `put` sets an attribute."
    own = build.toy_images
    put(build, 'toy_images', lambda n, **how: own(min(n, 64), **how))

def train(settings, folder, where=None):
    "`triqdef.train.run.train` of these settings and few toys, dead at `where`."
    few()
    if where == 'while writing the state': second_state_half_written()
    if where == 'while writing run.json': json_half_written()
    if where == 'while writing the network': run.save_checkpoint = die
    if where == 'while writing the history': run.pd.DataFrame.to_csv = die
    run.train(run.TrainSettings(**settings), folder, progress=False, cbs=[Die(where)])


class Interrupt(Callback):
    "Ctrl-C in the second epoch."
    order = 70
    def after_batch(self):
        if self.training and self.epoch == 1 and self.iter == 2: os.kill(os.getpid(), signal.SIGINT)

def interrupted(argv):
    "The `triqdef` program with these words and few toys, whose training gets a Ctrl-C."
    few()
    signal.signal(signal.SIGINT, signal.default_int_handler)       # a job in the background ignores it
    train_command.train = partial(run.train, cbs=[Interrupt()])
    return cli.main(argv)

def small(argv):
    "The `triqdef` program with these words and few toys."
    few()
    return cli.main(argv)

def afresh(argv, part):
    "The `triqdef` program with these words, its modules imported anew, with one more folder of methods."
    for name in [n for n in sys.modules if n.partition('.')[0] == 'triqdef']: del sys.modules[name]
    import_module('triqdef.train').__path__.append(part)
    return import_module('triqdef.cli').main(argv)

def talkative(argv):
    "The `triqdef` program with these words, which says more than a pipe holds."
    def talk(args):
        for i in range(99999): print(i)
    study_command._run = talk
    return cli.main(argv)
