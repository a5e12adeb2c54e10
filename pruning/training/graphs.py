"""A training step as one CUDA graph: recorded once, launched at once from then on.

The kernels of a CIFAR network take less time than Python needs to launch them; a replay launches all of them together.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pruning.errors import UserError

WARM_UP = 3  # steps as usual, in which cuDNN and cuBLAS prepare themselves and the optimizer makes its buffers
PAYS = 200  # a training of fewer steps is over before recording has paid
WAITS = "called a synchronizing CUDA operation"  # in torch's words

StepFunction = Callable[[Tensor, Tensor], None]


class Graphs:
    """Makes `step` (images, labels) by replay: a graph for each size of batch, after a few steps as usual.

    Everything that the step reads and writes must stay where it is in memory. If something in it waits for the device
    it cannot be recorded: then all steps are made as usual, and `note` is told; or UserError if it `must` be.
    """

    def __init__(self, step: StepFunction, device: torch.device, note: Callable[[str], None], *, must: bool) -> None:
        self.step, self.note, self.must = step, note, must
        self.stream = torch.cuda.Stream(device)  # a graph cannot be recorded on the default stream
        self.pool = torch.cuda.graph_pool_handle()
        self.seen = Counter[int]()
        self.waits = False
        self.recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        size = len(labels)
        self.seen[size] += 1
        if self.waits or self.seen[size] < WARM_UP:
            self.aside(images, labels)
        elif self.seen[size] == WARM_UP:
            self.watch(images, labels)
        else:
            self.replay(images, labels)

    def aside(self, images: Tensor, labels: Tensor) -> None:
        """Make a step as usual, on the stream of the graphs: autograd remembers the stream of each parameter."""
        current = torch.cuda.current_stream(images.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.step(images, labels)
        current.wait_stream(self.stream)

    def watch(self, images: Tensor, labels: Tensor) -> None:
        """Make a step as usual and see whether anything in it waits, as a failed recording spoils the random state."""
        with warned() as said:
            self.aside(images, labels)
        self.waits = WAITS in said
        if self.waits and self.must:
            text = "env.cuda_graph=true: a step of this network waits for the device, and cannot be recorded"
            raise UserError(f"{text}; try env.cuda_graph=false")
        if self.waits:
            self.note("each step waits for the device, so it is not recorded as a CUDA graph: slower, to the same bits")

    def replay(self, images: Tensor, labels: Tensor) -> None:
        size = len(labels)
        if size not in self.recorded:
            self.recorded[size] = self.record(images, labels)
        graph, images_read, labels_read = self.recorded[size]
        images_read.copy_(images)
        labels_read.copy_(labels)
        graph.replay()

    def record(self, images: Tensor, labels: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """Return the graph of a step on copies of these; it is not made."""
        graph, images, labels = torch.cuda.CUDAGraph(), images.clone(), labels.clone()
        try:
            # other threads of this process may allocate meanwhile, such as the one that reads images ahead
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                self.step(images, labels)
        except RuntimeError as error:
            said = " ".join(str(error).split())[:160]
            text = f"a step of this network cannot be recorded as a CUDA graph ({said}); try env.cuda_graph=false"
            raise UserError(text) from error
        return graph, images, labels


@contextmanager
def warned() -> Iterator[set[str]]:
    """Within it torch warns of each operation that waits for the device; what was warned of is in the set then."""
    said: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield said
        finally:
            torch.cuda.set_sync_debug_mode("default")
            said.update(WAITS if WAITS in str(warning.message) else str(warning.message) for warning in caught)
