"Trainings and commands that die or are stopped at a named moment, for a process of their own."
import os, signal
from functools import partial
from pathlib import Path

import torch
from fastai.callback.core import Callback

import triqdef.cli as cli
import triqdef.commands.study as study_command
import triqdef.commands.train as train_command
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

def train(settings, folder, where=None):
    "`triqdef.train.run.train` of these settings, dead at `where`."
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
    "The `triqdef` program with these words, whose training gets a Ctrl-C."
    signal.signal(signal.SIGINT, signal.default_int_handler)       # a job in the background ignores it
    train_command.train = partial(run.train, cbs=[Interrupt()])
    return cli.main(argv)

def talkative(argv):
    "The `triqdef` program with these words, which says more than a pipe holds."
    def talk(args):
        for i in range(99999): print(i)
    study_command._run = talk
    return cli.main(argv)
