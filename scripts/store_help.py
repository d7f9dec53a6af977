"""Store what `triqdef COMMAND --help` says, and what shells complete, in the package: printing it then needs no torch.

    python scripts/store_help.py       # after a change of options; a test compares"""
import json, os

os.environ['COLUMNS'] = '80'

from triqdef.cli import parser
from triqdef.commands.completion import command_table, help_file
from triqdef.quant.checkpoint import pretrained_names


def text():
    "The table as JSON."
    return json.dumps(command_table(parser(), pretrained_names()), indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__': help_file().write_text(text(), encoding='utf-8')
