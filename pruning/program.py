"""Where main.py and conf/ are: beside this package in a checkout, in it when installed from a wheel."""

from pathlib import Path

_HERE = Path(__file__).parent
INSTALLED = (_HERE / "main.py").is_file()
MAIN = (_HERE if INSTALLED else _HERE.parent) / "main.py"
CONF = MAIN.parent / "conf"
COMMAND = "pruning-sweeps" if INSTALLED else "python main.py"  # what a person gives
