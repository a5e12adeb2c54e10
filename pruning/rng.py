"""Named random streams: what is drawn depends on the seed, the purpose and the place, never on what was drawn before.

So nothing of the random state has to be saved to continue a killed run to the same bits, and two purposes
(initialisation, order, augmentation, ...) can never share a stream by accident.
"""

import hashlib

import torch


def stream_seed(seed: int, purpose: str, *place: int) -> int:
    """Return the 63-bit seed of the stream (seed, purpose, place...); place is for example an epoch."""
    text = ":".join([str(seed), purpose, *map(str, place)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_torch(device: torch.device, seed: int) -> None:
    """Set torch's own state for `device`, of which layers such as dropout draw. It touches no other device."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Return a CPU generator at the start of its stream; the same on every device and machine."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, *place))
