"""Whatever goes wrong is one line on stderr; the traceback is for those who set HYDRA_FULL_ERROR=1."""

import difflib
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from pruning.errors import Interrupted, UserError, printable

LEFT_OPEN = re.compile(r"Missing mandatory value: ([\w.]+)")  # OmegaConf's words
SWEPT = "Sweeping over Hydra's configuration is not supported"  # Hydra's words


@contextmanager
def one_line(full: str | None = os.environ.get("HYDRA_FULL_ERROR")) -> Iterator[None]:
    """Turn exceptions into a line and exit status 1 (128 + signal when interrupted); `full` lets them through.

    It may be nested: the default is read at import, before an outer call sets the variable.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises what it would otherwise print in many lines
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Interrupted:  # where it was raised, a message was printed
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if full:
            raise
        print(f"error: {printable(explain(error))}", file=sys.stderr)
        sys.exit(1)
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def explain(error: BaseException) -> str:
    """Return what is wrong and what to do, in one line."""
    chain = [error]
    while cause := (chain[-1].__cause__ or chain[-1].__context__):
        chain.append(cause)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, MissingConfigException) and link.options:
            group, _, wanted = str(link.missing_cfg_file).rpartition("/")
            options = [o for o in link.options if o != "default"]
            return f"{group}={wanted}: there is no such option; {group} must be one of {', '.join(options)}" + guess(
                wanted, options
            )
    if isinstance(chain[-1], OmegaConfBaseException) and chain[-1].full_key:
        return unknown_key(chain[-1])
    text = " ".join(str(error).split())
    if left := LEFT_OPEN.search(text):
        which = "a recipe that says it (one's own may have `defaults: [quick]`)"
        return f"{left[1]} must be set: give {left[1]}=..., or {which}"
    if SWEPT in text:
        return f"{text}; a launcher has one value of each setting for all cells: write a list as [a,b]"
    known = type(error).__module__.startswith(("hydra", "omegaconf"))
    return text if known else f"{type(error).__name__}: {text} (HYDRA_FULL_ERROR=1 shows where)"


def unknown_key(error: OmegaConfBaseException) -> str:
    """Return which keys there are, where OmegaConf only says that this one is none."""
    parent = error.parent_node
    keys = (
        [str(key) for key in parent if str(key) != "_target_"]
        if isinstance(parent, dict) or hasattr(parent, "keys")
        else []
    )
    if not keys or str(error.key) in keys:
        return " ".join(str(error).split())
    return f"{error.full_key}: there is no such key; allowed are {', '.join(keys)}" + guess(str(error.key), keys)


def guess(wanted: str, options: list[str]) -> str:
    """Return the option that was probably meant, as the end of a message."""
    close = difflib.get_close_matches(wanted, options, n=1)
    return f"; did you mean {close[0]}?" if close else ""
