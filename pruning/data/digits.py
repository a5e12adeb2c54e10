"""Scikit-learn's bundled handwritten digits as 3x32x32 images: real data that needs no download."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from pruning import rng
from pruning.data.values import Data, Info, Progress, Split
from pruning.errors import UserError

CLASSES = tuple("0123456789")
TEST_PER_CLASS = 36  # about 20 % of the 174 to 183 images of a class
PER_CLASS = (142, 146, 141, 147, 145, 146, 145, 143, 138, 144)  # for training
MEAN, STD = 0.3053, 0.3760  # of the training pixels, the same in each channel


def info(_cache: Path, _progress: Progress | None = None) -> Info:
    """Return what is known without the images."""
    return Info(len(CLASSES), None, (32, 32), PER_CLASS)


def load(_cache: Path, _progress: Progress | None = None) -> Data:
    """Return the 1,797 digits: 0..16 scaled to 0..255, each pixel 4x4, grey in three channels; 360 for the test."""
    # Not load_digits(): importing scikit-learn takes seconds, reading its file takes milliseconds.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UserError("digits needs scikit-learn, which holds the images; install it")
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.int64))
    small = table[:, :-1].mul(255 / 16).round().to(torch.uint8).view(-1, 8, 8, 1)
    images = small.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(3, 3)
    stream = rng.generator(0, "digits test split")
    train, test = Split(images, table[:, -1]).hold_out([TEST_PER_CLASS] * len(CLASSES), stream)
    return Data(train, None, test, CLASSES, (MEAN, MEAN, MEAN), (STD, STD, STD))
